use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::json;

use super::super::client::Problem;
use super::super::finding::Finding;
use super::*;

const NOW_MS: u64 = 1_800_000_000_000;

/// The levels of a check, in the order in which they were found.
fn levels(findings: &Findings, check: &str) -> Vec<Level> {
    findings.0.iter().filter(|finding| finding.check == check).map(|found| found.level).collect()
}

/// The findings about the settings that `change` makes from the defaults.
fn of_settings(change: impl FnOnce(&mut NodeConfig)) -> Findings {
    let dir = tempfile::tempdir().unwrap();
    let mut config = NodeConfig::defaults();
    config.data_dir = dir.path().to_owned();
    change(&mut config);
    let mut findings = Findings::default();
    check_settings(&config, "node.toml", NOW_MS, &mut findings);
    for finding in &findings.0 {
        let is_mended = matches!(finding.level, Level::Good | Level::Unknown);
        assert!(is_mended || !finding.fix.is_empty(), "{finding:?}");
    }
    findings
}

#[test]
fn a_node_that_forwards_no_audit_records_is_found() {
    assert_eq!(levels(&of_settings(|_| ()), "audit"), [Level::Warning]);
    let to_file = of_settings(|config| config.audit.file = Some("/var/log/audit.jsonl".into()));
    assert_eq!(levels(&to_file, "audit"), [Level::Warning]);
    let forwards = of_settings(|config| config.audit.syslog_address = "logs.example:6514".into());
    assert_eq!(levels(&forwards, "audit"), [Level::Good]);
    // Regression: doctor said that records were forwarded while the only sink failed.
    let found = forwards.0.iter().find(|finding| finding.check == "audit").unwrap();
    let expected = "a sink is set (syslog); whether records reach it is not checked here";
    assert_eq!(found.found, expected);
}

#[test]
fn alerts_about_the_forwarding_of_audit_records_are_findings() {
    let of = |kind: AlertKind, state: &str| {
        let alert = json!({
            "type": kind.name(), "state": state, "severity": kind.severity().as_str(), "time_ms": 1,
            "object": "n1 syslog", "message": "no answer",
        });
        let body = json!({"items": [alert]});
        let answer = Ok(Answer { headers: reqwest::header::HeaderMap::new(), body });
        let mut findings = Findings::default();
        check_audit_alerts("http://n:1", &answer, &mut findings);
        let fix = findings.0[0].fix.clone();
        assert!(fix.is_empty() || fix.contains("audit-forwarding.md"), "{fix}");
        levels(&findings, "audit")
    };
    assert_eq!(of(AlertKind::AuditForwardFailing, "active"), [Level::Warning]);
    assert_eq!(of(AlertKind::AuditForwardFailing, "resolved"), [Level::Good]);
    assert_eq!(of(AlertKind::AuditForwardGap, "event"), [Level::Problem]);
    assert_eq!(of(AlertKind::NoLeader, "active"), [Level::Good]);
}

fn is_open(config: &mut NodeConfig) {
    config.http.host = "0.0.0.0".parse().unwrap();
}

#[test]
fn plain_http_and_open_access_are_found_where_others_reach_the_port() {
    let here = of_settings(|config| config.security.allow_plain_http = false);
    assert_eq!(levels(&here, "passwords"), [Level::Good]);
    assert!(levels(&here, "https").is_empty() && levels(&here, "access").is_empty());
    assert_eq!(levels(&here, "client certificates"), [Level::Good]);
    let unneeded = of_settings(|config| config.security.allow_plain_http = true);
    assert_eq!(levels(&unneeded, "passwords"), [Level::Warning]);
    let behind_proxy = of_settings(|config| {
        config.security.allow_plain_http = true;
        config.security.trusted_proxies = vec!["192.0.2.1/32".parse().unwrap()];
    });
    assert!(behind_proxy.0.iter().any(|found| found.found.contains("that a proxy took")));
    let open = of_settings(|config| {
        is_open(config);
        config.security.allow_plain_http = true;
        config.security.registration_access = Access::Open;
        config.security.discovery_access = Access::Token;
    });
    assert_eq!(levels(&open, "passwords"), [Level::Problem]);
    assert_eq!(levels(&open, "https"), [Level::Warning]);
    assert_eq!(levels(&open, "access"), [Level::Warning]);
    assert_eq!(levels(&open, "client certificates"), [Level::Warning]);
}

#[test]
fn trusted_proxies_that_cover_clients_are_found() {
    let of = |networks: &[&str]| {
        let found = of_settings(|config| {
            let parsed = networks.iter().map(|network| network.parse().unwrap());
            config.security.trusted_proxies = parsed.collect();
        });
        levels(&found, "proxies")
    };
    assert_eq!(of(&[]), [Level::Good]);
    assert_eq!(of(&["10.1.0.0/16", "2001:db8:1::/48"]), [Level::Good]);
    assert_eq!(of(&["10.0.0.0/8"]), [Level::Warning]);
    assert_eq!(of(&["0.0.0.0/0", "::/0"]), [Level::Problem, Level::Problem]);
}

#[test]
fn peers_without_tls_and_without_a_way_to_refuse_a_stolen_key_are_found() {
    let of = |listen: &str, with_tls: bool, denied: &str| {
        let found = of_settings(|config| {
            config.backend = BackendKind::Raft;
            config.raft.listen = listen.parse().unwrap();
            if with_tls {
                config.raft.tls_ca = "/nonexistent/ca.pem".into();
            }
            config.raft.tls_denied = denied.into();
        });
        (levels(&found, "peers"), levels(&found, "revocation"))
    };
    assert_eq!(of("10.0.0.1:7700", false, ""), (vec![Level::Problem], Vec::new()));
    assert_eq!(of("127.0.0.1:7700", false, ""), (vec![Level::Warning], Vec::new()));
    assert_eq!(of("10.0.0.1:7700", true, ""), (vec![Level::Good], vec![Level::Warning]));
    assert_eq!(of("10.0.0.1:7700", true, "/etc/denied"), (vec![Level::Good], Vec::new()));
}

#[test]
fn redis_without_tls_or_a_password_is_found_and_no_password_is_shown() {
    let of = |url: &str| {
        let found = of_settings(|config| {
            config.backend = BackendKind::Redis;
            config.state.redis_url = url.into();
        });
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
        let about_readers = |finding: &Finding| finding.found.contains("password hashes");
        assert!(found.0.iter().any(about_readers), "{found:?}");
        levels(&found, "redis")
    };
    assert_eq!(of("rediss://:hunter2@redis:6379"), [Level::Good, Level::Warning]);
    assert_eq!(of("redis://:hunter2@127.0.0.1:6379"), [Level::Good, Level::Warning]);
    assert_eq!(of("redis://:hunter2@redis:6379"), [Level::Problem, Level::Warning]);
    assert_eq!(of("rediss://redis:6379"), [Level::Good, Level::Problem, Level::Warning]);
}

#[test]
fn a_certificate_with_a_long_life_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("certificate.pem");
    let of = |days: u64| {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2027, 1, 1);
        params.not_after = params.not_before + Duration::from_secs(days * 24 * 3_600);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        std::fs::write(&path, certificate.pem()).unwrap();
        let found = of_settings(|config| config.http.tls_cert = vec![path.clone()]);
        let long = |finding: &&Finding| finding.found.contains("days: a");
        found.0.iter().filter(long).count()
    };
    assert_eq!(of(LIFE_DAYS_MAX), 0);
    assert_eq!(of(LIFE_DAYS_MAX + 1), 1);
}

#[test]
fn the_break_glass_file_is_looked_at() {
    let found = of_settings(|config| {
        let file = break_glass_file(&config.data_dir);
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::set_permissions(&config.data_dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    });
    assert_eq!(levels(&found, "file modes"), [Level::Good, Level::Warning]);
}

#[test]
fn what_only_the_settings_show_is_unknown_without_them() {
    let of = |backend: Option<&str>| {
        let mut findings = Findings::default();
        settings_unknown(backend, &mut findings);
        let is_unknown = |found: &Finding| found.level == Level::Unknown && !found.fix.is_empty();
        assert!(findings.0.iter().all(is_unknown), "{findings:?}");
        (findings.0.len(), levels(&findings, "peers").len(), levels(&findings, "redis").len())
    };
    let all = OF_SETTINGS.len();
    assert_eq!(of(None), (all, 1, 1));
    assert_eq!(of(Some("raft")), (all - 1, 1, 0));
    assert_eq!(of(Some("redis")), (all - 1, 0, 1));
    assert_eq!(of(Some("local")), (all - 2, 0, 0));
}

#[test]
fn registration_is_judged_by_what_the_node_says() {
    let of = |status: Value, is_here: bool| {
        let mut findings = Findings::default();
        check_registration("http://n:1", is_here, &status, &mut findings);
        levels(&findings, "access")
    };
    let open = json!({"warnings": ["registration is open: anyone who reaches this port ..."]});
    assert_eq!(of(open.clone(), true), [Level::Good]);
    assert_eq!(of(open, false), [Level::Warning]);
    assert_eq!(of(json!({"warnings": []}), false), [Level::Good]);
    assert_eq!(of(json!({}), false), [Level::Unknown]);
    assert_eq!(of(json!({"excluded": "removed", "warnings": []}), false), [Level::Unknown]);
}

#[test]
fn endless_tokens_and_old_keys_are_found_and_the_use_of_tokens_is_unknown() {
    let tokens = |expiries: &[Option<u64>]| {
        let each = expiries.iter().map(|expiry| json!({"id": "t", "expires_at_ms": expiry}));
        let mut findings = Findings::default();
        check_tokens(&each.collect::<Vec<_>>(), &mut findings);
        levels(&findings, "tokens")
    };
    assert_eq!(tokens(&[]), [Level::Good]);
    assert_eq!(tokens(&[Some(1)]), [Level::Good, Level::Unknown]);
    assert_eq!(tokens(&[None, Some(1)]), [Level::Warning, Level::Unknown]);
    let keys = |signs: bool, days: u64| {
        let key = json!({"signs": signs, "created_at_ms": NOW_MS - days * DAY_MS});
        let mut findings = Findings::default();
        check_keys(&[key], NOW_MS, &mut findings);
        levels(&findings, "signing keys")
    };
    assert_eq!(keys(true, KEY_DAYS_MAX), [Level::Good]);
    assert_eq!(keys(true, KEY_DAYS_MAX + 1), [Level::Warning]);
    assert_eq!(keys(false, 1), [Level::Unknown]);
}

#[test]
fn an_administrator_without_a_sign_in_is_found_and_a_list_that_was_not_read_is_unknown() {
    let answer = |body: Value| Ok(Answer { headers: reqwest::header::HeaderMap::new(), body });
    let users = [json!({"name": "ada", "role": "admin"}), json!({"name": "bo", "role": "viewer"})];
    let of = |sign_ins: Result<Answer, CliError>| {
        let mut findings = Findings::default();
        check_administrators(&users, &sign_ins, &mut findings);
        levels(&findings, "administrators")
    };
    let by = |user: &str| json!([{"user": user, "time_ms": 1}]);
    assert_eq!(of(answer(json!({"items": by("ada")}))), [Level::Good]);
    assert_eq!(of(answer(json!({"items": by("bo")}))), [Level::Warning]);
    let cut = json!({"items": by("bo"), "next_cursor": "x"});
    assert_eq!(of(answer(cut)), [Level::Unknown]);
    let refused = || {
        let body = json!({"type": "/problems/forbidden", "title": "no"});
        CliError::Problem(Box::new(Problem::read(403, body, None)))
    };
    assert_eq!(of(Err(refused())), [Level::Unknown]);
    let mut findings = Findings::default();
    assert!(items(&Err(refused()), "tokens", &mut findings).is_none());
    assert_eq!(findings.0[0].fix, ADMIN);
}

#[test]
fn alerts_about_certificates_are_findings() {
    let of = |kind: AlertKind, state: &str, severity: &str| {
        let alert = json!({
            "type": kind.name(), "state": state, "severity": severity, "object": "n1 a.pem",
            "message": "it ends",
        });
        let body = json!({"items": [alert]});
        let answer = Ok(Answer { headers: reqwest::header::HeaderMap::new(), body });
        let mut findings = Findings::default();
        check_tls_alerts("http://n:1", &answer, &mut findings);
        levels(&findings, "certificates")
    };
    assert_eq!(of(AlertKind::CertificateEnds, "active", "warning"), [Level::Warning]);
    assert_eq!(of(AlertKind::TlsFilesRefused, "active", "critical"), [Level::Problem]);
    assert_eq!(of(AlertKind::TlsFilesRefused, "resolved", "critical"), [Level::Good]);
    assert_eq!(of(AlertKind::NoLeader, "active", "critical"), [Level::Good]);
}

/// Regression: doctor recommended `chmod go=` for a key of root that the node reads by its group, as 'maxine init'
/// installs it. The node could not start after that.
#[test]
fn the_advice_about_a_key_never_takes_it_from_the_node() {
    const NODE: u32 = 990;
    let change = |mode: u32, owner: u32| file_verdict(mode, owner, Some(NODE)).1;
    assert_eq!(file_verdict(0o640, ROOT, Some(NODE)).0, "root owns it, and its group may read it");
    assert_eq!((change(0o640, ROOT), change(0o440, ROOT), change(0o600, ROOT)), ("", "", ""));
    assert_eq!((change(0o600, NODE), change(0o640, NODE)), ("", "chmod go="));
    assert_eq!((change(0o644, ROOT), change(0o660, ROOT)), ("chmod o=", "chmod g-wx"));
    assert_eq!(change(0o666, ROOT), "chmod g-wx,o=");
    // The node reads it as a member of its group, if at all.
    assert_eq!((change(0o640, 1_000), change(0o644, 1_000)), ("chown root", "chmod o="));
    assert_eq!(file_verdict(0o640, 1_000, None).1, "chown root");
    assert_eq!(file_verdict(0o604, ROOT, Some(ROOT)).1, "chmod o=");

    let of_directory = |mode: u32, owner: u32| directory_verdict(mode, owner, Some(NODE)).1;
    assert_eq!((of_directory(0o700, NODE), of_directory(0o750, NODE)), ("", "chmod go="));
    assert_eq!((of_directory(0o770, ROOT), of_directory(0o775, ROOT)), ("", "chmod o="));
    assert_eq!(of_directory(0o750, 1_000), "chown root");
}

/// Regression: doctor called a data directory of the user nobody good, because only that user has access.
#[test]
fn a_data_directory_or_a_key_of_another_user_is_a_problem() {
    const NODE: u32 = 990;
    for (owner, own, is_foreign) in [
        (NODE, NODE, false),
        (1_000, NODE, true),
        // A volume of Kubernetes, and root who looks at the directory of a node with its own user.
        (ROOT, NODE, false),
        (NODE, ROOT, false),
        (NOBODY, ROOT, true),
        (NOBODY, NOBODY, false),
    ] {
        let found = foreign_directory(owner, own);
        assert_eq!(found.is_some(), is_foreign, "{owner} {own}: {found:?}");
        assert!(found.is_none_or(|(_, fix)| fix == format!("chown -R {own}")));
    }
    for (mode, owner, node_user, fix) in [
        (0o600, NODE, Some(NODE), None),
        (0o600, 1_000, Some(NODE), Some("chown 990")),
        (0o400, 1_000, Some(ROOT), Some("chown 0")),
        // Files of Secrets belong to root.
        (0o400, ROOT, Some(NODE), None),
        (0o640, 1_000, Some(NODE), None),
        (0o600, 1_000, None, None),
    ] {
        let found = foreign_file(mode, owner, node_user);
        assert_eq!(found.as_ref().map(|(_, fix)| fix.as_str()), fix, "{mode:o} {owner}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.pem");
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    // Files of root are good for every node.
    if std::fs::metadata(&file).unwrap().uid() == ROOT {
        std::os::unix::fs::chown(&file, Some(1_000), None).unwrap();
    }
    let mut findings = Findings::default();
    check_mode(&file, Some(NODE), &mut findings);
    assert_eq!(levels(&findings, "file modes"), [Level::Problem]);
}

#[test]
fn a_file_that_others_can_read_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.pem");
    std::fs::write(&file, "").unwrap();
    for (mode, level) in [(0o600, Level::Good), (0o646, Level::Warning), (0o604, Level::Warning)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut findings = Findings::default();
        let own = Some(nix::unistd::geteuid().as_raw());
        check_mode(&file, own, &mut findings);
        check_mode(&dir.path().join("none"), own, &mut findings);
        assert_eq!(levels(&findings, "file modes"), [level, Level::Unknown]);
        assert_eq!(findings.0[0].fix.starts_with("chmod "), level == Level::Warning);
    }
}
