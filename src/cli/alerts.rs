//! `maxine alerts`: the alerts and silences of every node of the cluster.
//!
//! Each node has its own alerts and silences, so all nodes are asked at once. A condition that several nodes
//! report is shown once, with the names of these nodes.

use std::collections::BTreeSet;

use futures::future::{join, join_all};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{ConnectArgs, Request, shapes, unreadable};
use super::each_node::{Node, Silent};
use super::each_node::{answered, ask_all, nodes, on_each, show_silent, show_unchanged};
use super::exit::CliError;
use super::journal::cell;
use super::output::{Output, timestamp};
use maxine_telemetry::AlertState;

/// Alerts of two nodes on one object are one if they began or ended within this time, in milliseconds.
const SAME_WITHIN_MS: u64 = 60_000;

/// Arguments of `maxine alerts`.
#[derive(Debug, clap::Args)]
pub struct AlertsArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    action: Option<AlertsAction>,
}

#[derive(Debug, clap::Subcommand)]
enum AlertsAction {
    /// List the latest alerts of every node (the default)
    List,
    /// Acknowledge an alert: record that somebody works on it
    Ack {
        /// Id of the alert, NODE:NUMBER: the column ID of the list; with --output json its fields node and id
        id: String,
    },
    /// Stop sending alerts of one type to the webhook, for a time
    Silence {
        /// Type of the alert
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Duration, in milliseconds
        #[arg(long, default_value_t = 3_600_000)]
        duration_ms: u64,
        /// Reason, shown with the silence
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// List the silences of every node
    Silences,
    /// Send alerts of one type to the webhook again
    Unsilence {
        /// Type of the alert
        #[arg(value_name = "TYPE")]
        kind: String,
    },
}

impl AlertsArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// Runs `maxine alerts`.
///
/// # Errors
/// See [`CliError`].
pub async fn run(args: AlertsArgs, out: &mut Output) -> Result<(), CliError> {
    let action = args.action.unwrap_or(AlertsAction::List);
    // These look at what there is, and then change it.
    let looks = matches!(action, AlertsAction::Ack { .. } | AlertsAction::Unsilence { .. });
    let nodes = nodes(&args.connect, if looks { 2 } else { 1 }).await?;
    match action {
        AlertsAction::List => list(&nodes, out).await,
        AlertsAction::Ack { id } => acknowledge(&nodes, &id, out).await,
        AlertsAction::Silence { kind, duration_ms, reason } => {
            let body = json!({"duration_ms": duration_ms, "reason": reason});
            let request = Request::keyed(Method::PUT, &["alerts", "silences", &kind]).json(body);
            let (answer, silent) = on_each(&nodes, &request).await?;
            let end = answer["until_ms"].as_u64().map(timestamp);
            let end = end.map_or_else(|| "the end is not known".into(), |at| format!("until {at}"));
            out.done(
                &answer,
                format!(
                    "alerts of type {kind} are not sent to a webhook ({end}); they are still listed"
                ),
            )?;
            show_unchanged(nodes.len(), &silent, out)
        }
        AlertsAction::Unsilence { kind } => {
            let (silences, _) = silences(&nodes).await?;
            let changed = silences.iter().any(|(_, silence)| silence.kind == kind);
            let request = Request::keyed(Method::DELETE, &["alerts", "silences", &kind]);
            let (_, silent) = on_each(&nodes, &request).await?;
            let done = json!({"type": kind, "silenced": false, "changed": changed});
            let now = if changed { "are no longer silenced" } else { "were not silenced" };
            out.done(&done, format!("alerts of type {kind} {now}"))?;
            show_unchanged(nodes.len(), &silent, out)
        }
        AlertsAction::Silences => list_silences(&nodes, out).await,
    }
}

/// The alerts of each node, with the node, in the order of the list; and the nodes that did not answer.
async fn gather(nodes: &[Node]) -> Result<(Vec<(&Node, Value)>, Vec<Silent>), CliError> {
    let (mut gathered, mut silent): (Option<Vec<(&Node, Value)>>, _) = (None, Vec::new());
    let mut known = BTreeSet::new();
    let request = Request::get(&["alerts"]).query("limit", Some(1_000));
    for (node, answer) in ask_all(nodes, &request).await {
        match answer {
            Ok(answer) => {
                let all = gathered.get_or_insert_default();
                let items = answer.body["items"].as_array().cloned().unwrap_or_default();
                // One node may have been named by two addresses.
                all.extend(
                    items.into_iter().map(|item| (node, item)).filter(|(_, item)| {
                        known.insert((cell(&item["node"]), item["id"].as_u64()))
                    }),
                );
            }
            Err(error) => silent.push(Silent { url: node.url.clone(), error }),
        }
    }
    let (mut gathered, silent) = answered(gathered, silent)?;
    // Active conditions come first. Each group is ordered from the newest to the oldest.
    gathered.sort_by_key(|(_, item)| {
        (state(item) != Some(AlertState::Active), std::cmp::Reverse(begun_ms(item)))
    });
    Ok((gathered, silent))
}

/// A silence of a node.
#[derive(Debug, Deserialize)]
struct Silence {
    #[serde(rename = "type")]
    kind: String,
    until_ms: u64,
    reason: String,
    by: String,
}

/// The silences of each node, with the node; and the nodes that did not answer.
async fn silences(nodes: &[Node]) -> Result<(Vec<(&Node, Silence)>, Vec<Silent>), CliError> {
    let (mut gathered, mut silent): (Option<Vec<(&Node, Silence)>>, _) = (None, Vec::new());
    for (node, answer) in ask_all(nodes, &Request::get(&["alerts", "silences"])).await {
        match answer {
            Ok(answer) => {
                let page: shapes::Page = answer.read()?;
                let all = gathered.get_or_insert_default();
                for item in page.items {
                    all.push((node, serde_json::from_value(item).map_err(|e| unreadable(&e))?));
                }
            }
            Err(error) => silent.push(Silent { url: node.url.clone(), error }),
        }
    }
    answered(gathered, silent)
}

async fn list_silences(nodes: &[Node], out: &mut Output) -> Result<(), CliError> {
    let (silences, silent) = silences(nodes).await?;
    if out.is_json() {
        for (node, Silence { kind, until_ms, reason, by }) in &silences {
            let server = &node.url;
            out.json(&json!({"server": server, "type": kind, "until_ms": until_ms, "reason": reason, "by": by}))?;
        }
    } else if silences.is_empty() {
        out.line("no alerts are silenced")?;
    } else {
        let row = |(node, silence): (&Node, Silence)| {
            let Silence { kind, until_ms, reason, by } = silence;
            vec![kind, timestamp(until_ms), by, reason, node.url.clone()]
        };
        let rows = silences.into_iter().map(row).collect();
        out.table(&["type", "until", "by", "reason", "node"], rows)?;
    }
    show_silent(&silent, out)
}

/// The state of an alert; `None` for one that this program does not know.
fn state(item: &Value) -> Option<AlertState> {
    AlertState::deserialize(&item["state"]).ok()
}

/// When an alert was raised, in milliseconds since 1970.
pub(super) fn begun_ms(item: &Value) -> u64 {
    item["time_ms"].as_u64().unwrap_or(0)
}

/// When a condition ended, in milliseconds since 1970; the greatest number while it is active.
fn ended_ms(item: &Value) -> u64 {
    item["resolved_ms"].as_u64().unwrap_or(u64::MAX)
}

/// Whether two nodes report the same: one condition of one object that began or ended at about the same time,
/// or that is active on both. A node that was restarted meanwhile reports a later beginning. A condition that
/// ended before the other one began is a different one.
fn is_same(a: &Value, b: &Value) -> bool {
    state(a) != Some(AlertState::Event)
        && ["type", "object", "state"].iter().all(|field| a[field] == b[field])
        && a["node"] != b["node"]
        && (begun_ms(a).abs_diff(begun_ms(b)) < SAME_WITHIN_MS
            || ended_ms(a).abs_diff(ended_ms(b)) < SAME_WITHIN_MS)
        && begun_ms(a) <= ended_ms(b)
        && begun_ms(b) <= ended_ms(a)
}

/// The alerts that are one row for the user: the positions of those that several nodes raised for one reason.
/// A row has at most one alert of each node, because a second one is the same condition at another time.
pub(super) fn groups(items: &[&Value]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (position, item) in items.iter().enumerate() {
        let fits =
            |group: &&mut Vec<usize>| group.iter().all(|member| is_same(items[*member], item));
        let distance_ms =
            |group: &&mut Vec<usize>| begun_ms(items[group[0]]).abs_diff(begun_ms(item));
        match groups.iter_mut().filter(fits).min_by_key(distance_ms) {
            Some(group) => group.push(position),
            None => groups.push(vec![position]),
        }
    }
    groups
}

/// What `item` says, for a row of these alerts. If another node of the row says something else, the text names the
/// node, because what a node says about itself is not true of the others.
pub(super) fn message_of(item: &Value, row: &[&Value]) -> String {
    let message = cell(&item["message"]);
    let is_of_all = row.iter().all(|other| other["message"] == item["message"]);
    if is_of_all { message } else { format!("{}: {message}", cell(&item["node"])) }
}

async fn list(nodes: &[Node], out: &mut Output) -> Result<(), CliError> {
    let (alerts, silences) = join(gather(nodes), silences(nodes)).await;
    let (items, silent) = alerts?;
    let items: Vec<&Value> = items.iter().map(|(_, item)| item).collect();
    if out.is_json() {
        items.iter().try_for_each(|item| out.json(item))?;
        return show_silent(&silent, out);
    }
    if items.is_empty() {
        out.line(if silent.is_empty() {
            "no alerts"
        } else {
            "no alerts on the nodes that answered"
        })?;
    } else {
        out.table(
            &[
                "when",
                "state",
                "severity",
                "type",
                "object",
                "seen by",
                "message",
                "acknowledged by",
                "id",
            ],
            rows(&items),
        )?;
    }
    let (silences, _) = silences?;
    let kinds: BTreeSet<&str> = silences.iter().map(|(_, silence)| &*silence.kind).collect();
    if !kinds.is_empty() {
        let kinds: Vec<&str> = kinds.into_iter().collect();
        out.line(format!(
            "(silenced, so not sent to a webhook: {}; 'maxine alerts silences' says until when)",
            kinds.join(", ")
        ))?;
    }
    show_silent(&silent, out)
}

fn rows(items: &[&Value]) -> Vec<Vec<String>> {
    let row = |group: Vec<usize>| {
        // A node that was restarted knows less of how it began.
        let first = group.iter().copied().min_by_key(|member| begun_ms(items[*member]));
        let item = items[first.unwrap_or(group[0])];
        let nodes: Vec<String> = group.iter().map(|member| cell(&items[*member]["node"])).collect();
        // It is over when it is over on the last node that has seen it.
        let ends = group.iter().map(|member| items[*member]["resolved_ms"].as_u64());
        let resolved_ms =
            ends.collect::<Option<Vec<u64>>>().and_then(|ends| ends.into_iter().max());
        let state = match resolved_ms {
            Some(at_ms) if at_ms < begun_ms(item) => {
                format!("resolved {} (the clock was set back meanwhile)", timestamp(at_ms))
            }
            Some(at_ms) => format!("resolved {}", timestamp(at_ms)),
            None => cell(&item["state"]),
        };
        let [severity, kind, object, by] =
            ["severity", "type", "object", "acknowledged_by"].map(|field| cell(&item[field]));
        let members: Vec<&Value> = group.iter().map(|member| items[*member]).collect();
        let message = message_of(item, &members);
        // Messages are in the present tense. That of a condition which has ended is not true any more.
        let message =
            if resolved_ms.is_some() { format!("was reported: {message}") } else { message };
        let id = format!("{}:{}", cell(&item["node"]), item["id"]);
        vec![
            timestamp(begun_ms(item)),
            state,
            severity,
            kind,
            object,
            nodes.join(", "),
            message,
            by,
            id,
        ]
    };
    groups(items).into_iter().map(row).collect()
}

async fn acknowledge(nodes: &[Node], id: &str, out: &mut Output) -> Result<(), CliError> {
    let (items, silent) = gather(nodes).await?;
    let is_meant = |item: &Value| format!("{}:{}", cell(&item["node"]), item["id"]) == id;
    let alerts: Vec<&Value> = items.iter().map(|(_, item)| item).collect();
    let is_of_it = |group: &Vec<usize>| group.iter().any(|member| is_meant(alerts[*member]));
    let Some(group) = groups(&alerts).into_iter().find(is_of_it) else {
        show_silent(&silent, out)?;
        return Err(CliError::NotFound(format!("no node has an alert {id}; ids are NODE:NUMBER")));
    };
    let each = group.into_iter().map(|member| &items[member]).map(|(node, item)| {
        let number = item["id"].to_string();
        let request = Request::keyed(Method::POST, &["alerts", &number, "ack"]);
        async move { node.client.send(&request).await }
    });
    let mut shown = None;
    for answer in join_all(each).await {
        shown = Some(answer?.body);
    }
    out.done(&shown.unwrap_or_default(), format!("alert {id} is acknowledged"))?;
    show_unchanged(nodes.len(), &silent, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(node: &str, id: u64, time_ms: u64, resolved_ms: Option<u64>) -> Value {
        json!({
            "id": id, "node": node, "time_ms": time_ms, "resolved_ms": resolved_ms,
            "state": if resolved_ms.is_some() { "resolved" } else { "active" },
            "severity": "critical", "type": "cluster.member_unreachable", "object": "node-3",
            "message": "not heard", "acknowledged_by": null,
        })
    }

    fn rows_of(alerts: &[Value]) -> Vec<Vec<String>> {
        rows(&alerts.iter().collect::<Vec<_>>())
    }

    const BEGAN_MS: u64 = 1_795_440_992_705;

    #[test]
    fn what_several_nodes_see_is_one_row_with_when_it_began_and_ended() {
        let rows = rows_of(&[
            alert("node-1", 4, BEGAN_MS, None),
            alert("node-2", 9, BEGAN_MS + 1_000, None),
            alert("node-1", 1, BEGAN_MS - 3_600_000, Some(BEGAN_MS - 3_000_000)),
        ]);
        assert_eq!(rows.len(), 2);
        let [when, state] = [&rows[0][0], &rows[0][1]];
        assert_eq!((when.as_str(), state.as_str()), ("2026-11-23T13:36:32.705Z", "active"));
        assert_eq!((rows[0][5].as_str(), rows[0][8].as_str()), ("node-1, node-2", "node-1:4"));
        assert_eq!(rows[1][1], "resolved 2026-11-23T12:46:32.705Z");
        let said = [rows[0][6].as_str(), rows[1][6].as_str()];
        assert_eq!(
            said,
            ["not heard", "was reported: not heard"],
            "only what is still so is said as such"
        );
    }

    /// Regression: with Redis hung, "this node has no state yet" of one node was shown as the message of all three.
    #[test]
    fn a_message_that_only_one_node_gave_names_that_node() {
        let mut other = alert("r3", 9, BEGAN_MS - 1_000, None);
        other["message"] = json!("this node has no state yet");
        let rows = rows_of(&[alert("r1", 4, BEGAN_MS, None), other]);
        assert_eq!((rows.len(), rows[0][5].as_str()), (1, "r1, r3"));
        assert_eq!(rows[0][6], "r3: this node has no state yet");
    }

    /// A node that was restarted reports the condition with the time of its restart as the beginning.
    #[test]
    fn a_condition_that_a_restarted_node_sees_again_is_one_row_from_its_first_beginning() {
        let later_ms = BEGAN_MS + 600_000;
        let rows =
            rows_of(&[alert("node-2", 1, later_ms, None), alert("node-1", 4, BEGAN_MS, None)]);
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(
            (rows[0][0].as_str(), rows[0][5].as_str()),
            ("2026-11-23T13:36:32.705Z", "node-2, node-1")
        );
        let ended = Some(later_ms + 5_000);
        let rows =
            rows_of(&[alert("node-2", 1, later_ms, ended), alert("node-1", 4, BEGAN_MS, ended)]);
        assert_eq!(rows.len(), 1, "it ends on both: {rows:?}");
    }

    #[test]
    fn an_alert_that_ended_before_it_began_says_that_the_clock_was_set_back() {
        let rows = rows_of(&[alert("node-1", 4, BEGAN_MS + 3_600_000, Some(BEGAN_MS))]);
        assert_eq!(
            rows[0][1],
            "resolved 2026-11-23T13:36:32.705Z (the clock was set back meanwhile)"
        );
    }

    /// A node that raises one alert twice within a minute reports two interruptions.
    #[test]
    fn a_row_names_each_node_once_and_an_earlier_alert_of_it_has_its_own() {
        let resolved = |node: &str, id: u64, after_ms: u64| {
            alert(node, id, BEGAN_MS + after_ms, Some(BEGAN_MS + after_ms + 5_000))
        };
        let rows = rows_of(&[
            resolved("rn1", 7, 40_500),
            resolved("rn2", 8, 40_200),
            resolved("rn3", 7, 40_100),
            resolved("rn2", 6, 300),
            resolved("rn3", 6, 100),
        ]);
        let shown: Vec<(&str, &str)> =
            rows.iter().map(|row| (row[5].as_str(), row[8].as_str())).collect();
        assert_eq!(shown, [("rn1, rn2, rn3", "rn3:7"), ("rn2, rn3", "rn3:6")]);
    }

    /// If one leader after another raises the same alert, each of these alerts is a row of its own.
    #[test]
    fn alerts_of_different_nodes_that_follow_each_other_are_different_rows() {
        let episode = |node: &str, id: u64, from_ms: u64, to_ms: u64| {
            alert(node, id, BEGAN_MS + from_ms, Some(BEGAN_MS + to_ms))
        };
        let rows = rows_of(&[
            episode("node-1", 3, 16_000, 23_000),
            episode("node-3", 5, 9_000, 15_900),
            episode("node-2", 9, 8_900, 15_000),
            episode("node-2", 8, 0, 8_800),
        ]);
        let shown: Vec<(&str, &str)> =
            rows.iter().map(|row| (row[5].as_str(), row[8].as_str())).collect();
        assert_eq!(
            shown,
            [("node-1", "node-1:3"), ("node-3, node-2", "node-2:9"), ("node-2", "node-2:8")]
        );
    }

    /// Exit code 4 says that nothing was changed, which is wrong once one node has made the change.
    #[test]
    fn a_change_that_some_nodes_made_is_not_said_to_be_none() {
        let silent = || {
            let tried = vec![("http://c/".to_owned(), "Connection refused".to_owned())];
            let error = CliError::Unavailable { answered: false, tried };
            [Silent { url: "http://c".into(), error }]
        };
        let mut out = Output::stdout(crate::cli::output::Format::Json);
        let changed = show_unchanged(3, &silent(), &mut out).unwrap_err();
        assert_eq!(changed.exit_code(), crate::cli::exit::OUTCOME_UNKNOWN);
        assert!(changed.to_string().contains("on 2 of 3 nodes"), "{changed}");
        let read = show_silent(&silent(), &mut out).unwrap_err();
        assert_eq!(read.exit_code(), crate::cli::exit::UNAVAILABLE);
        // The error names each node once with its reason. Nothing else does.
        let expected = "the list is not complete: 1 node gave none\n  http://c: Connection refused";
        assert_eq!(read.to_string(), expected);
        show_unchanged(3, &[], &mut out).unwrap();
    }
}
