//! `maxine cluster status`.

use crate::cli::client::shapes::{NoTraffic, Totals};
use crate::cli::client::{Answer, ConnectArgs, Request, shapes};
use crate::cli::each_node::{ask_all, named};
use crate::cli::exit::CliError;
use crate::cli::output::{Output, human_ms, or_dash};
use maxine_store::NodeRole;

/// How long a node that knows a leader is waited for, if the first answer is from a node that knows none, in
/// milliseconds.
const BETTER_ANSWER_MS: u64 = 2_000;
/// Shown in place of information that only a node with a state has.
const NO_STATE: &str = "not known: this node has no state yet";

pub(super) async fn show(connect: &ConnectArgs, out: &mut Output) -> Result<(), CliError> {
    let (answer, without_leader) = status(connect).await?;
    if out.is_json() {
        return out.json(&answer.body);
    }
    let cluster: shapes::Cluster = answer.read()?;
    if let Some(node) = without_leader {
        out.line(format!(
            "{node} knows no leader. {} knows one, so this is the status that {} shows\n",
            cluster.node, cluster.node
        ))?;
    }
    let mut rows = vec![
        vec![
            "node".to_owned(),
            format!("{} ({}, up {})", cluster.node, cluster.version, human_ms(cluster.uptime_ms)),
        ],
        vec!["backend".into(), cluster.backend.to_string()],
        vec!["state version".into(), state_version(cluster.state_version)],
        vec!["leader".into(), leader(&cluster)],
        vec![
            "index".into(),
            match (cluster.index, cluster.staleness_ms) {
                (Some(index), Some(age_ms)) => format!("{index}, at most {} old", human_ms(age_ms)),
                (Some(index), None) => format!("{index}, its age is not known"),
                (None, _) => NO_STATE.into(),
            },
        ],
    ];
    rows.push(vec!["registry".into(), registry(&cluster)]);
    if let Some(raft) = &cluster.raft {
        let tolerated = tolerance(cluster.leadership.leader.is_some(), raft);
        rows.push(vec!["log".into(), log_entries(raft)]);
        rows.push(vec!["cluster".into(), format!("{}, {tolerated}", raft.cluster_id)]);
    }
    out.table(&["", ""], rows)?;
    if let Some(raft) = cluster.raft {
        out.line("")?;
        let reached: Vec<_> = raft.members.iter().map(|member| reached(&raft, member)).collect();
        let rows = raft.members.into_iter().zip(reached).map(member_row).collect();
        out.table(
            &[
                "id",
                "name",
                "role",
                "reachable",
                "log entries",
                "last heard",
                "state version",
                "peers",
                "http",
            ],
            rows,
        )?;
    }
    if let Some(nodes) = cluster.nodes {
        out.line("")?;
        let is_own = |node: &shapes::StoreNode| node.name == cluster.node;
        let silent_ms = maxine_store::StoreNode::SILENT_MS;
        let refused = nodes.iter().any(|node| is_own(node) && node.last_seen_ms > silent_ms);
        let row = |node: shapes::StoreNode| {
            vec![node.name, human_ms(node.last_seen_ms), node.state_version.to_string()]
        };
        out.table(&["name", "last report", "state version"], nodes.into_iter().map(row).collect())?;
        if refused {
            out.line(format!(
                "{} answers, but its own reports do not arrive at the store. So it is not known from these reports which nodes run",
                cluster.node
            ))?;
        }
    }
    cluster.warnings.iter().try_for_each(|warning| out.line(format!("warning: {warning}")))
}

/// The status that one of the named nodes gives, and the node that was asked first if that knows no leader and the other
/// one does. A node that is cut off says little about the cluster.
async fn status(connect: &ConnectArgs) -> Result<(Answer, Option<String>), CliError> {
    let request = Request::get(&["cluster", "status"]);
    let has_leader = |answer: &Answer| !answer.body["leadership"]["leader"].is_null();
    let client = connect.client()?;
    let answer = client.send(&request).await?;
    if has_leader(&answer) {
        return Ok((answer, None));
    }
    let named = named(connect)?;
    let limit_ms = client.left_ms().min(BETTER_ANSWER_MS);
    let answers = ask_all(&named, &request.within(limit_ms)).await;
    let mut led = answers.into_iter().filter_map(|(_, other)| other.ok().filter(has_leader));
    Ok(match led.next() {
        Some(other) => {
            let node = answer.body["node"].as_str().unwrap_or_default().to_owned();
            (other, Some(node))
        }
        None => (answer, None),
    })
}

/// The leader and its term. Only Raft has elections with terms; in the other modes the number is the fencing
/// token of the leader's lease.
fn leader(cluster: &shapes::Cluster) -> String {
    let shapes::Leadership { leader, is_leader, term } = &cluster.leadership;
    let leader = match (leader, is_leader) {
        (Some(leader), true) => format!("{leader} (this node)"),
        (Some(leader), false) => leader.clone(),
        (None, _) => "not known".into(),
    };
    let number = if cluster.raft.is_some() { "term" } else { "fencing token" };
    match term {
        Some(term) => format!("{leader}, {number} {term}"),
        None => format!("{leader}, {number} not known"),
    }
}

/// The version of the state, and whether an upgrade can be finished.
fn state_version(versions: Option<shapes::StateVersions>) -> String {
    let Some(shapes::StateVersions { current, understood }) = versions else {
        return "not known".into();
    };
    match current {
        None => format!("{NO_STATE}; it understands {understood}"),
        Some(current) if current < understood => format!(
            "{current}; this node understands {understood}: finish the upgrade with 'maxine cluster upgrade finish'"
        ),
        Some(current) => current.to_string(),
    }
}

/// The positions in the log. Entries are numbered from 0, so "no entry" is written in words.
fn log_entries(raft: &shapes::Raft) -> String {
    let upto = |done: &str, last: Option<u64>| match last {
        Some(last) => format!("entries {done} up to {last}"),
        None => format!("no entry {done}"),
    };
    format!(
        "{}, {}, {}; {} on disk{}",
        upto("committed", raft.committed_index),
        upto("applied", raft.applied_index),
        raft.snapshot_index.map_or("no snapshot".into(), |last| format!("snapshot at {last}")),
        maxine_wording::size(raft.log_disk_bytes),
        if raft.disk_stalled { ", DISK STALLED" } else { "" },
    )
}

/// Whether a member was heard lately, and whether it acknowledges the leader's entries.
fn reached(raft: &shapes::Raft, member: &shapes::Member) -> &'static str {
    let must_acknowledge = raft.members.iter().any(|member| member.leader)
        && !member.leader
        && member.id != raft.node_id;
    match (member.reachable, member.acknowledges) {
        (None, _) => "not known",
        (Some(false), _) => "NO",
        (Some(true), Some(false)) => "yes, BUT HAS ACKNOWLEDGED NOTHING FOR 5 s OR LONGER",
        (Some(true), None) if must_acknowledge => "yes, has not acknowledged anything yet",
        (Some(true), _) => "yes",
    }
}

/// The last log entry that a member has. One of a member that is not reached is from when it was last heard.
fn log_entry(member: &shapes::Member) -> Option<String> {
    let index = member.matched_index?;
    Some(match (member.reachable, member.last_contact_ms) {
        (Some(false), Some(age_ms)) => format!("{index}, {} ago", human_ms(age_ms)),
        (Some(false), None) => format!("{index}, once"),
        _ => index.to_string(),
    })
}

fn member_row((member, reached): (shapes::Member, &str)) -> Vec<String> {
    let entry = log_entry(&member);
    let role = match (member.leader, member.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    };
    vec![
        member.id.to_string(),
        member.name,
        role.into(),
        reached.into(),
        or_dash(entry),
        or_dash(member.last_contact_ms.map(human_ms)),
        or_dash(member.state_version),
        member.peer_addr,
        member.http_addr,
    ]
}

/// The counts of what is registered, or the reason that the node does not show them.
fn registry(cluster: &shapes::Cluster) -> String {
    match (&cluster.totals, &cluster.excluded) {
        (Some(totals), _) => counts(totals),
        (None, Some(why)) => format!("not shown: {why}"),
        (None, None) => NO_STATE.into(),
    }
}

fn counts(totals: &Totals) -> String {
    let Totals { namespaces, services, instances, routable, unhealthy, evicted, no_traffic } =
        totals;
    let things = [(namespaces, "namespace"), (services, "service"), (instances, "instance")];
    let things = things.map(|(number, noun)| maxine_wording::count(number, noun)).join(", ");
    let NoTraffic { drained, no_share, .. } = no_traffic;
    let mut parts = format!(
        "{routable} routable, {} unhealthy, {} evicted, {drained} drained",
        no_traffic.unhealthy, no_traffic.evicted
    );
    if *no_share > 0 {
        parts.push_str(&format!(", {no_share} without a share"));
    }
    // A drained instance, or one that is used in panic mode, may also be unhealthy or evicted.
    if *unhealthy > no_traffic.unhealthy || *evicted > no_traffic.evicted {
        parts.push_str(&format!(
            "; with those drained or used in panic mode {unhealthy} unhealthy and {evicted} evicted"
        ));
    }
    format!("{things}: {parts}")
}

/// How many more nodes may fail, as far as that is known.
fn tolerance(has_leader: bool, raft: &shapes::Raft) -> String {
    if raft.role == Some(NodeRole::Removed) {
        return format!(
            "node {} was REMOVED from the cluster; the members below are the last ones that it knew",
            raft.node_id
        );
    }
    let voters = raft.members.iter().filter(|member| member.voter).count();
    if voters == 0 {
        return "its members are not known: this node has no state yet".into();
    }
    let (Some(reachable), Some(tolerated)) = (raft.reachable_voters, raft.failures_tolerated)
    else {
        return "this node no longer belongs to the cluster; the members below are the last ones that it knew"
            .into();
    };
    if reachable < raft.majority && raft.voter_sets.len() > 1 {
        return format!(
            "NO MAJORITY of the old or of the new voters: {} needed, {reachable} reachable",
            raft.majority
        );
    }
    if reachable < raft.majority {
        return format!("NO MAJORITY: {} of {voters} needed, {reachable} reachable", raft.majority);
    }
    match tolerated {
        _ if raft.voter_sets.len() > 1 => {
            format!("a change of the voters is not finished, {}", may_fail(tolerated))
        }
        _ if !has_leader => "this node knows no leader".to_owned(),
        tolerated if voters.is_multiple_of(2) => format!(
            "{}; {voters} voters tolerate no more failures than {}: use an odd number",
            may_fail(tolerated),
            voters - 1
        ),
        tolerated => may_fail(tolerated),
    }
}

fn may_fail(tolerated: u64) -> String {
    match tolerated {
        0 => "if one more voter fails, writes stop".into(),
        n => format!("{n} more of the voters may fail"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_without_a_snapshot_is_said_to_have_none() {
        let raft = |snapshot: Option<u64>, applied: Option<u64>| {
            serde_json::from_value::<shapes::Raft>(serde_json::json!({
                "committed_index": 7, "applied_index": applied, "snapshot_index": snapshot, "log_disk_bytes": 2_048,
            }))
            .unwrap()
        };
        assert_eq!(
            log_entries(&raft(None, None)),
            "entries committed up to 7, no entry applied, no snapshot; 2 KiB on disk"
        );
        assert_eq!(
            log_entries(&raft(Some(0), Some(5))),
            "entries committed up to 7, entries applied up to 5, snapshot at 0; 2 KiB on disk"
        );
    }

    #[test]
    fn the_version_of_a_node_without_a_state_is_unknown() {
        let of = |current| state_version(Some(shapes::StateVersions { current, understood: 2 }));
        assert_eq!(of(None), "not known: this node has no state yet; it understands 2");
        assert_eq!(of(Some(2)), "2");
        assert!(of(Some(1)).starts_with("1; this node understands 2: finish the upgrade"));
        assert_eq!(state_version(None), "not known");
    }

    #[test]
    fn a_term_that_is_not_known_is_said_to_be_unknown() {
        let of = |leadership: serde_json::Value| {
            let body =
                serde_json::json!({"node": "n", "backend": "redis", "leadership": leadership});
            leader(&serde_json::from_value(body).unwrap())
        };
        let none = serde_json::json!({"leader": null, "is_leader": false, "term": null});
        assert_eq!(of(none), "not known, fencing token not known");
        let known = serde_json::json!({"leader": "n", "is_leader": true, "term": 3});
        assert_eq!(of(known), "n (this node), fencing token 3");
    }

    #[test]
    fn a_member_that_has_just_returned_is_not_said_to_acknowledge_nothing() {
        let of = |leader: bool, reachable: Option<bool>, acknowledges: Option<bool>| {
            let raft = serde_json::json!({"node_id": 1, "members": [
                {"id": 1, "name": "a", "voter": true, "leader": leader, "reachable": true},
                {"id": 2, "name": "b", "voter": true, "reachable": reachable, "acknowledges": acknowledges},
            ]});
            let raft: shapes::Raft = serde_json::from_value(raft).unwrap();
            [reached(&raft, &raft.members[0]), reached(&raft, &raft.members[1])]
        };
        assert_eq!(
            of(true, Some(true), None),
            ["yes", "yes, has not acknowledged anything yet"],
            "the leader acknowledges nothing to itself"
        );
        assert_eq!(of(true, Some(true), Some(true))[1], "yes");
        let mute = "yes, BUT HAS ACKNOWLEDGED NOTHING FOR 5 s OR LONGER";
        assert_eq!(of(true, Some(true), Some(false))[1], mute);
        assert_eq!(of(true, Some(false), Some(false))[1], "NO");
        assert_eq!(of(true, None, None)[1], "not known");
        assert_eq!(of(false, Some(true), None)[1], "yes", "nobody leads");
    }

    /// A removed node keeps its state and no longer serves it. The text "no state yet" would make people
    /// wait.
    #[test]
    fn a_node_that_left_the_cluster_says_why_it_shows_no_registry() {
        let of = |excluded: Option<&str>| {
            let body = serde_json::json!({
                "node": "n", "backend": "raft", "index": 16, "totals": null, "excluded": excluded,
            });
            registry(&serde_json::from_value(body).unwrap())
        };
        assert_eq!(of(Some("it was removed")), "not shown: it was removed");
        assert_eq!(of(None), NO_STATE);
    }

    #[test]
    fn the_counts_of_instances_add_up_and_name_the_evicted() {
        let said = |routable: u64, evicted: u64, part: u64| {
            let totals = serde_json::json!({
                "namespaces": 1, "services": 2, "instances": 11, "routable": routable,
                "unhealthy": 2, "evicted": evicted, "draining": 2,
                "no_traffic": {"drained": 2, "evicted": part, "unhealthy": 2, "no_share": 0},
            });
            counts(&serde_json::from_value(totals).unwrap())
        };
        assert_eq!(
            said(6, 1, 1),
            "1 namespace, 2 services, 11 instances: 6 routable, 2 unhealthy, 1 evicted, 2 drained"
        );
        assert!(said(6, 3, 1).ends_with(
            "2 drained; with those drained or used in panic mode 2 unhealthy and 3 evicted"
        ));
    }

    #[test]
    fn a_lost_majority_is_never_called_a_node_to_spare() {
        let raft = |reachable, tolerated| {
            let voter = |id: u64| serde_json::json!({"id": id, "name": "n", "voter": true});
            let members: Vec<_> = (1..=3).map(voter).collect();
            serde_json::from_value::<shapes::Raft>(serde_json::json!({
                "majority": 2, "reachable_voters": reachable, "failures_tolerated": tolerated, "members": members,
            }))
            .unwrap()
        };
        assert_eq!(tolerance(false, &raft(1, 0)), "NO MAJORITY: 2 of 3 needed, 1 reachable");
        assert_eq!(tolerance(true, &raft(1, 0)), "NO MAJORITY: 2 of 3 needed, 1 reachable");
        assert_eq!(tolerance(false, &raft(3, 1)), "this node knows no leader");
        assert_eq!(tolerance(true, &raft(2, 0)), "if one more voter fails, writes stop");
        let out = serde_json::json!({
            "majority": 2, "reachable_voters": null, "failures_tolerated": null,
            "members": [{"id": 1, "name": "n", "voter": true}],
        });
        let out = serde_json::from_value::<shapes::Raft>(out).unwrap();
        assert!(tolerance(true, &out).starts_with("this node no longer belongs to the cluster"));
        let none = serde_json::json!({"majority": 1, "reachable_voters": 0, "failures_tolerated": 0, "members": []});
        let none = serde_json::from_value::<shapes::Raft>(none).unwrap();
        assert!(tolerance(false, &none).starts_with("its members are not known"));
        assert_eq!(tolerance(true, &raft(3, 1)), "1 more of the voters may fail");
        let voter = |id: u64| serde_json::json!({"id": id, "name": "n", "voter": true});
        let even = serde_json::json!({
            "majority": 3, "reachable_voters": 4, "failures_tolerated": 1,
            "members": (1..=4).map(voter).collect::<Vec<_>>(),
        });
        let even = tolerance(true, &serde_json::from_value::<shapes::Raft>(even).unwrap());
        let odd = "1 more of the voters may fail; 4 voters tolerate no more failures than 3: use an odd number";
        assert_eq!(even, odd);
    }

    /// Regression: a former leader that was cut off showed the positions of the others as if they were current.
    #[test]
    fn the_position_of_a_member_that_is_not_reached_has_its_age() {
        let of = |reachable: Option<bool>, heard_ms: Option<u64>| {
            let member = serde_json::json!({
                "id": 2, "name": "b", "voter": true, "reachable": reachable,
                "matched_index": 1_514, "last_contact_ms": heard_ms,
            });
            log_entry(&serde_json::from_value::<shapes::Member>(member).unwrap()).unwrap()
        };
        assert_eq!(of(Some(true), Some(10)), "1514");
        assert_eq!(of(Some(false), Some(10_000)), format!("1514, {} ago", human_ms(10_000)));
        assert_eq!(of(Some(false), None), "1514, once");
    }
}
