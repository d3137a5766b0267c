//! The environment variables of the Node.js Maxine: what each sets in each mode.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;

const MODES: [&str; 4] = ["local", "shared-file", "redis", "raft"];

fn load(mode: &str, name: &str, value: &str) -> NodeConfig {
    let mut environment = BTreeMap::from(
        [
            ("MAXINE_REGISTRY_STATE_MODE", mode),
            ("MAXINE_REGISTRY_REDIS_URL", "redis://10.0.0.9"),
            ("MAXINE_NODE_ID", "1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    environment.insert(name.into(), value.into());
    NodeConfig::load(None, &environment, &BTreeMap::new()).expect("good settings")
}

/// A name, a value, and what must hold in a mode.
type Row = (&'static str, &'static str, fn(&NodeConfig, &str) -> bool);

/// Every name that goes through the table of settings. Accounts and signing keys are read from the
/// environment alone: `tests/cli.rs` and `tests/compat` start nodes with them.
const TABLE: &[Row] = &[
    ("PORT", "9090", |c, _| c.http_listen().port() == 9090),
    ("MAXINE_INSTANCE_ID", "mx-1", |c, mode| match mode {
        "redis" => redis(c).unwrap().instance_id == "mx-1",
        "shared-file" => shared_file(c).instance_id == "mx-1",
        "local" => local(c).instance_id == "mx-1",
        _ => c.name() == "mx-1",
    }),
    ("MAXINE_REGISTRY_STATE_FILE", "d/state.json", |c, mode| {
        let beside = Path::new("d/state.json.log");
        match mode {
            "local" => local(c).path == beside,
            "shared-file" => shared_file(c).path == beside,
            _ => true,
        }
    }),
    ("MAXINE_REGISTRY_PERSISTENCE", "false", |c, mode| mode != "local" || !local(c).persistence),
    ("MAXINE_REGISTRY_STATE_LOCK_TIMEOUT_MS", "7000", |c, mode| {
        mode != "shared-file" || shared_file(c).lock_timeout_ms == 7_000
    }),
    ("MAXINE_REGISTRY_STATE_LOCK_RETRY_MS", "250", |c, mode| {
        mode != "shared-file" || shared_file(c).lock_retry_ms == 250
    }),
    ("MAXINE_REGISTRY_REDIS_URL", "rediss://u:p@10.0.0.1:6380/2", |c, mode| {
        mode != "redis" || redis(c).unwrap().url == "rediss://u:p@10.0.0.1:6380/2"
    }),
    ("MAXINE_REGISTRY_REDIS_KEY_PREFIX", "mine", |c, mode| {
        mode != "redis" || redis(c).unwrap().key_prefix == "mine"
    }),
    ("MAXINE_REGISTRY_REDIS_CONNECT_TIMEOUT_MS", "1234", |c, mode| {
        mode != "redis" || redis(c).unwrap().connect_timeout_ms == 1_234
    }),
    ("MAXINE_LEADER_ELECTION_ENABLED", "false", |c, mode| match mode {
        "redis" => !redis(c).unwrap().election_enabled,
        "shared-file" => !shared_file(c).election_enabled,
        _ => true,
    }),
    ("MAXINE_LEADER_ELECTION_LEASE_MS", "20000", |c, mode| match mode {
        "redis" => redis(c).unwrap().lease_ms == 20_000,
        "shared-file" => shared_file(c).lease_ms == 20_000,
        _ => true,
    }),
    ("MAXINE_LEADER_ELECTION_RENEW_MS", "7500", |c, mode| match mode {
        // Half of the lease, as the Node.js Maxine allowed.
        "redis" => redis(c).is_ok_and(|redis| redis.renew_ms == 7_500 && redis.check().is_ok()),
        "shared-file" => {
            let config = shared_file(c);
            config.renew_ms == 7_500 && config.check().is_ok()
        }
        _ => true,
    }),
    ("MAXINE_ACTIVE_HEALTH_CHECKS_ENABLED", "true", |c, _| health(c).enabled),
    ("MAXINE_ACTIVE_HEALTH_CHECK_INTERVAL_MS", "900", |c, _| health(c).interval_ms == 900),
    ("MAXINE_ACTIVE_HEALTH_CHECK_TIMEOUT_MS", "800", |c, _| health(c).timeout_ms == 800),
    ("MAXINE_ACTIVE_HEALTH_CHECK_FAILURE_THRESHOLD", "5", |c, _| health(c).fall == 5),
    ("MAXINE_ACTIVE_HEALTH_CHECK_PATH", "/up", |c, _| health(c).path == "/up"),
    ("MAXINE_ALERT_WEBHOOK_URL", "http://10.0.0.2/hook", |c, _| {
        telemetry(c).webhook.is_some_and(|hook| hook.url == "http://10.0.0.2/hook")
    }),
    ("MAXINE_ALERT_WEBHOOK_TIMEOUT_MS", "1500", |c, _| {
        c.telemetry.alert_webhook_timeout_ms == 1_500
    }),
    ("MAXINE_TRACE_HEADER_NAME", "x-my-trace", |c, _| {
        api(c, c.http_listen()).trace_header_name == "x-my-trace"
    }),
    ("MAXINE_RECENT_TRACE_LIMIT", "7", |c, _| telemetry(c).traces_max == 7),
    ("MAXINE_RECENT_AUDIT_LIMIT", "8", |c, _| telemetry(c).audit_max == 8),
    ("MAXINE_RECENT_ALERT_LIMIT", "9", |c, _| telemetry(c).alerts_max == 9),
    ("MAXINE_AUDIT_LOG_FILE", "/var/log/audit.log", |c, _| {
        telemetry(c).request_log.audit_file.as_deref() == Some(Path::new("/var/log/audit.log"))
    }),
    ("MAXINE_PERFORMANCE_REPORT_URL", "http://10.0.0.3/r", |c, _| {
        api(c, c.http_listen()).performance_report_url.as_deref() == Some("http://10.0.0.3/r")
    }),
];

#[test]
fn the_environment_of_the_nodejs_maxine_keeps_its_meaning_in_each_mode() {
    for mode in MODES {
        for (name, value, holds) in TABLE {
            let config = load(mode, name, value);
            assert!(holds(&config, mode), "{name}={value} in {mode} mode");
        }
    }
}

#[test]
fn the_defaults_are_those_of_the_nodejs_maxine() {
    let config = load("redis", "MAXINE_NODE_ID", "1");
    let redis = redis(&config).unwrap();
    assert_eq!(redis.key_prefix, "maxine:registry");
    assert_eq!((redis.connect_timeout_ms, redis.lease_ms, redis.renew_ms), (5_000, 15_000, 5_000));
    assert!(redis.election_enabled && redis.check().is_ok());
    let file = shared_file(&config);
    assert_eq!((file.lock_timeout_ms, file.lock_retry_ms), (5_000, 100));
    assert_eq!(file.path, Path::new("data/registry-state.json.log"));
    assert!(local(&config).persistence && file.check().is_ok());
    let health = health(&config);
    assert_eq!((health.enabled, health.interval_ms, health.timeout_ms), (false, 15_000, 3_000));
    assert_eq!(health.fall, 3);
    let telemetry = telemetry(&config);
    assert_eq!((telemetry.traces_max, telemetry.audit_max, telemetry.alerts_max), (200, 200, 100));
    assert_eq!(NodeConfig::defaults().backend, BackendKind::Local);
    assert_eq!(NodeConfig::defaults().http.port, 8080);
}

#[test]
fn how_redis_is_reached_follows_from_the_settings() {
    let one = redis(&load("redis", "MAXINE_REGISTRY_REDIS_URL", "redis://a")).unwrap();
    assert_eq!((one.url.as_str(), one.topology), ("redis://a", Topology::Single));
    let many = redis(&load("redis", "MAXINE_REGISTRY_REDIS_URL", "redis://a, redis://b")).unwrap();
    assert_eq!(many.topology, Topology::Cluster { nodes: vec!["redis://b".into()] });
    let mut config = load("redis", "MAXINE_REGISTRY_REDIS_URL", "redis://u:p@a:1/3,redis://b:2");
    config.state.redis_sentinel_master = "main".into();
    let sentinels = |names: &[&str]| Topology::Sentinel {
        sentinels: names.iter().map(|name| (*name).to_owned()).collect(),
        master_name: "main".into(),
    };
    let named = redis(&config).unwrap();
    assert_eq!(named.topology, sentinels(&["redis://u:p@a:1/3", "redis://b:2"]));
    config.state.redis_url = "redis://u:p@ignored/3".into();
    config.state.redis_sentinels = "redis://s1:1, redis://:q@s2:2".into();
    let apart = redis(&config).unwrap();
    assert_eq!(apart.url, "redis://u:p@ignored/3");
    assert_eq!(apart.topology, sentinels(&["redis://s1:1", "redis://:q@s2:2"]));
    config.state.redis_tls_ca = "ca.pem".into();
    config.state.redis_tls_cert = "cert.pem".into();
    config.state.redis_tls_key = "key.pem".into();
    config.state.redis_command_timeout_ms = 700;
    config.state.redis_wait_replicas = 2;
    config.state.redis_wait_timeout_ms = 300;
    let secured = redis(&config).unwrap();
    assert_eq!(secured.tls_ca_file.as_deref(), Some(Path::new("ca.pem")));
    assert_eq!(secured.tls_client_files, Some(("cert.pem".into(), "key.pem".into())));
    assert_eq!((secured.command_timeout_ms, secured.wait_replicas), (700, 2));
    assert_eq!(secured.wait_timeout_ms, 300);
}

#[test]
fn the_node_that_showed_the_first_password_is_known() {
    use maxine_state::{Actor, Command, Name, Proposal, RequestId};
    let mut state = ControlState::default();
    let mut requests = 0;
    let mut apply = |state: &mut ControlState, actor: Actor, command: Command| {
        requests += 1;
        let request_id = RequestId(requests);
        let proposal = Proposal { request_id, proposed_at_ms: 1, fence: None, actor, command };
        state.apply(&proposal, &mut Vec::new());
    };
    let lead = |name| Command::GrantLeadership { holder: Name::trusted(name) };
    let put = |managed| Command::PutUser {
        name: Name::trusted("admin"),
        role: Role::Admin,
        password_hash: "x".into(),
        managed,
        create_only: false,
        expected_version: None,
    };
    let system = || Actor::system("test");
    assert_eq!(first_password_made_by(&state, "admin"), None);
    apply(&mut state, system(), lead("node-1"));
    apply(&mut state, system(), lead("node-2"));
    apply(&mut state, Actor::system("bootstrap"), put(false));
    apply(&mut state, system(), lead("node-3"));
    assert_eq!(first_password_made_by(&state, "admin").as_deref(), Some("node-2"));
    assert_eq!(first_password_made_by(&state, "ada"), None);
    // The password of an account from the environment was never shown to anybody.
    apply(&mut state, Actor::system("bootstrap"), put(true));
    assert_eq!(first_password_made_by(&state, "admin"), None);
}

#[test]
fn a_name_that_no_account_can_have_is_refused_before_the_node_starts() {
    for mode in MODES {
        assert!(security(&load(mode, "MAXINE_INITIAL_ADMIN_USERNAME", "ada")).is_ok());
        let refused = security(&load(mode, "MAXINE_INITIAL_ADMIN_USERNAME", "a:b")).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("security.admin_username") && text.contains("colon"), "{text}");
    }
}

/// The file may be in a folder to which others can write.
#[test]
fn the_one_time_password_goes_into_no_file_of_somebody_else() {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("password");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut opened_before = std::fs::File::open(&path).unwrap();
    writeln!(new_private_file(&path).unwrap(), "word").unwrap();
    let mut seen = String::new();
    opened_before.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "", "whoever made the file reads the password");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "word\n");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for refused in [link.as_path(), dir.path()] {
        let error = new_private_file(refused).unwrap_err();
        assert!(error.to_string().contains("is not a file"), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "word\n");
}
