use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, SerialNumber, date_time_ymd,
};

use super::*;
use crate::config::BackupSchedule;

#[test]
fn listeners_of_one_node_have_different_ports() {
    let mut config = NodeConfig::defaults();
    config.http.port = 8_600;
    config.dns.port = 8_600;
    config.http.host = "0.0.0.0".parse().unwrap();
    config.dns.host = "127.0.0.1".parse().unwrap();
    let expected =
        "http.host and http.port, dns.host and dns.port: both use port 8600 of the same address";
    assert_eq!(shared_ports(&config), [expected]);
    config.http.host = "127.0.0.2".parse().unwrap();
    assert_eq!(shared_ports(&config), [""; 0]);
}

#[test]
fn an_advertised_url_is_one_that_others_can_use() {
    for good in ["", "http://10.0.0.1:8080", "https://node-1.example", "http://[2001:db8::1]:80"] {
        assert_eq!(check_advertised(good), Ok(()), "{good}");
    }
    for bad in ["hello", "ftp://x", "http://0.0.0.0:80", "http://[::]:80", "http://a/x?y"] {
        assert!(check_advertised(bad).is_err(), "{bad}");
    }
}

/// The name that the certificate of node 3 of the cluster `shop` must have.
const NAME: &str = "node-3.shop.maxine";

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    /// Writes a CA, a certificate signed by it, the certificate's key, and an unrelated key and CA.
    fn new(expired: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        for (authority, certificate, key, list) in [
            ("ca.pem", "cert.pem", "key.pem", "revoked.pem"),
            ("other-ca.pem", "other.pem", "other-key.pem", "other-revoked.pem"),
        ] {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let ca_key = KeyPair::generate().unwrap();
            write(authority, &params.self_signed(&ca_key).unwrap().pem());
            let issuer = Issuer::new(params, ca_key);
            let mut params = CertificateParams::new(vec![NAME.into()]).unwrap();
            if expired {
                params.not_after = date_time_ymd(2020, 1, 2);
            }
            let own = KeyPair::generate().unwrap();
            write(certificate, &params.signed_by(&own, &issuer).unwrap().pem());
            write(key, &own.serialize_pem());
            let revoked = CertificateRevocationListParams {
                this_update: date_time_ymd(2020, 1, 1),
                next_update: date_time_ymd(2020, 1, 2),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: Vec::new(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            write(list, &revoked.signed_by(&issuer).unwrap().pem().unwrap());
        }
        write("text.pem", "somebody's notes");
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn raft(&self, authority: &str, certificate: &str, key: &str) -> Vec<String> {
        let mut config = NodeConfig::defaults();
        config.backend = BackendKind::Raft;
        config.node_id = 3;
        config.raft.cluster_id = "shop".into();
        config.raft.tls_ca = self.path(authority);
        config.raft.tls_cert = self.path(certificate);
        config.raft.tls_key = self.path(key);
        preflight(&config)
    }
}

#[test]
fn log_files_elsewhere_need_a_directory_that_can_be_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let problems = |log_dir: &Path, audit_file: &Path| {
        let mut config = NodeConfig::defaults();
        config.data_dir = dir.path().join("data");
        config.telemetry.log_dir = log_dir.into();
        config.telemetry.audit_file = audit_file.into();
        preflight(&config)
    };
    let (logs, audit) = (dir.path().join("logs"), dir.path().join("audit/y"));
    assert_eq!(problems(&logs, &audit), Vec::<String>::new(), "both can be made");
    let null = Path::new("/dev/null");
    assert_eq!(
        problems(null, &null.join("y")),
        [
            "telemetry.log_dir: /dev/null: /dev/null: it is not a directory",
            "telemetry.audit_file: /dev/null/y: /dev/null: it is not a directory",
        ]
    );
    let directory = problems(&logs, dir.path());
    assert!(directory[0].ends_with(": it is a directory"), "{directory:?}");
}

#[test]
fn files_that_fit_together_are_good() {
    assert_eq!(Files::new(false).raft("ca.pem", "cert.pem", "key.pem"), Vec::<String>::new());
}

/// Every peer would refuse the certificate of another node, or of another cluster.
#[test]
fn a_certificate_with_another_name_is_refused_as_at_a_start() {
    let files = Files::new(false);
    let mut config = NodeConfig::defaults();
    config.backend = BackendKind::Raft;
    config.raft.tls_ca = files.path("ca.pem");
    config.raft.tls_cert = files.path("cert.pem");
    config.raft.tls_key = files.path("key.pem");
    for (node_id, cluster_id, good) in [(3, "shop", true), (2, "shop", false), (3, "depot", false)]
    {
        config.node_id = node_id;
        config.raft.cluster_id = cluster_id.into();
        let found = preflight(&config);
        assert_eq!(found.is_empty(), good, "{found:?}");
        let name = format!("it lacks the DNS name node-{node_id}.{cluster_id}.maxine");
        assert!(
            good || found[0].starts_with("raft.tls_cert") && found[0].ends_with(&name),
            "{found:?}"
        );
    }
}

#[test]
fn each_file_that_cannot_be_used_is_named_with_its_setting_and_the_reason() {
    let files = Files::new(false);
    for (authority, certificate, key, setting, reason) in [
        ("none.pem", "cert.pem", "key.pem", "raft.tls_ca", "there is no such file"),
        ("text.pem", "cert.pem", "key.pem", "raft.tls_ca", "no certificate in PEM"),
        ("ca.pem", "none.pem", "key.pem", "raft.tls_cert", "there is no such file"),
        ("ca.pem", "key.pem", "key.pem", "raft.tls_cert", "no certificate in PEM"),
        ("ca.pem", "cert.pem", "none.pem", "raft.tls_key", "there is no such file"),
        ("ca.pem", "cert.pem", "cert.pem", "raft.tls_key", "no private key in PEM"),
        ("ca.pem", "cert.pem", "other-key.pem", "raft.tls_key", "not the key of the certificate"),
        ("other-ca.pem", "cert.pem", "key.pem", "raft.tls_cert", "did not sign it"),
    ] {
        let found = files.raft(authority, certificate, key);
        assert_eq!(found.len(), 1, "{found:?}");
        let problem = &found[0];
        assert!(problem.starts_with(setting) && problem.contains(reason), "{problem}");
    }
    assert_eq!(files.raft("none.pem", "none.pem", "none.pem").len(), 3, "all at once");
}

/// An expired certificate does not prevent a start, because reads can still be answered. A certificate that
/// does not fit the authority is reported nevertheless.
#[test]
fn an_expired_certificate_does_not_keep_a_node_from_starting() {
    let files = Files::new(true);
    assert_eq!(files.raft("ca.pem", "cert.pem", "key.pem"), Vec::<String>::new());
    assert_eq!(files.raft("other-ca.pem", "cert.pem", "key.pem").len(), 1);
}

/// A list that is out of date is a warning of the running node, and no reason not to start.
#[test]
fn a_list_of_revoked_certificates_that_cannot_be_used_is_named_with_its_setting() {
    let files = Files::new(false);
    let mut config = NodeConfig::defaults();
    config.http.tls_cert = vec![files.path("cert.pem")];
    config.http.tls_key = vec![files.path("key.pem")];
    config.http.tls_client_auth = maxine_identity::ClientAuth::Required;
    config.http.tls_client_ca = files.path("ca.pem");
    config.backend = BackendKind::Raft;
    config.node_id = 3;
    config.raft.cluster_id = "shop".into();
    config.raft.tls_ca = files.path("ca.pem");
    config.raft.tls_cert = files.path("cert.pem");
    config.raft.tls_key = files.path("key.pem");
    for (list, expected) in [
        ("revoked.pem", ""),
        ("other-revoked.pem", "none of the authorities signed"),
        ("text.pem", "it holds no revocation list in PEM"),
        ("none.pem", "none.pem"),
    ] {
        let lists = vec![files.path(list)];
        config.http.tls_client_crl.clone_from(&lists);
        config.raft.tls_crl = lists;
        let problems = preflight(&config);
        if expected.is_empty() {
            assert_eq!(problems, Vec::<String>::new());
            continue;
        }
        for setting in ["http.tls_client_crl: ", "raft.tls_crl: "] {
            let of_it = problems.iter().find(|text| text.starts_with(setting));
            assert!(of_it.is_some_and(|text| text.contains(expected)), "{list}: {problems:?}");
        }
        assert_eq!(problems.len(), 2, "{list}: {problems:?}");
    }
}

#[test]
fn the_files_of_redis_and_of_upstreams_are_looked_at() {
    let files = Files::new(false);
    let mut config = NodeConfig::defaults();
    config.security.upstream_ca = files.path("text.pem");
    config.backend = BackendKind::Redis;
    config.state.redis_url_file = files.path("none");
    config.state.redis_tls_ca = files.path("none.pem");
    config.state.redis_tls_cert = files.path("cert.pem");
    config.state.redis_tls_key = files.path("other-key.pem");
    let problems = preflight(&config).join("\n");
    for setting in [
        "security.upstream_ca",
        "state.redis_url_file",
        "state.redis_tls_ca",
        "state.redis_tls_key",
    ] {
        assert!(problems.contains(setting), "{setting} in {problems}");
    }
    config.state.redis_url_file = PathBuf::new();
    config.state.redis_url = "http://:hunter2@10.0.0.1".into();
    let problems = preflight(&config).join("\n");
    assert!(problems.contains("redis://") && !problems.contains("hunter2"), "{problems}");
}

/// Regression: a sparse file of 6 GB, or a link to a device without an end, used all memory of the machine.
#[test]
fn a_file_that_a_setting_names_is_read_within_a_limit() {
    let files = Files::new(false);
    let endless = files.path("endless");
    std::os::unix::fs::symlink("/dev/zero", &endless).unwrap();
    let mut config = NodeConfig::defaults();
    config.data_dir = files.path("data");
    config.backend = BackendKind::Raft;
    config.node_id = 3;
    config.raft.cluster_id = "shop".into();
    config.raft.tls_ca.clone_from(&endless);
    config.raft.tls_cert.clone_from(&endless);
    config.raft.tls_key.clone_from(&endless);
    config.security.identities_file = endless.clone();
    config.security.upstream_ca.clone_from(&endless);
    config.telemetry.otlp.endpoint = "https://127.0.0.1:4317".into();
    config.telemetry.otlp.headers_file = Some(endless.clone());
    config.telemetry.otlp.ca_file = Some(endless.clone());
    config.audit.http_url = "https://127.0.0.1:9000".into();
    config.audit.http_key_file = Some(endless.clone());
    let found = preflight(&config);
    for (setting, limit) in [
        ("raft.tls_ca", 16),
        ("raft.tls_cert", 1),
        ("raft.tls_key", 1),
        ("security.identities_file", 1),
        ("security.upstream_ca", 16),
        ("telemetry.otlp_headers_file", 1),
        ("telemetry.otlp_ca", 16),
        ("audit.http_key_file", 1),
    ] {
        let expected = format!("{setting}: {}: it is longer than {limit} MiB", endless.display());
        let is_there = found.iter().any(|line| line.contains(&expected));
        assert!(is_there, "{expected}: {found:?}");
    }
    config.backend = BackendKind::Redis;
    config.state.redis_url_file.clone_from(&endless);
    config.http.tls_cert = vec![files.path("cert.pem")];
    config.http.tls_key = vec![files.path("key.pem")];
    config.http.tls_client_auth = maxine_identity::ClientAuth::Required;
    config.http.tls_client_ca = files.path("ca.pem");
    config.http.tls_client_crl = vec![endless];
    let found = preflight(&config).join("\n");
    for setting in ["state.redis_url_file: ", "http.tls_client_crl: "] {
        assert!(
            found.lines().any(|line| line.starts_with(setting) && line.contains(" MiB")),
            "{found}"
        );
    }
}

/// A node that cannot forward its audit records is found before its start.
#[test]
fn a_sink_of_audit_records_that_cannot_work_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = NodeConfig::defaults();
    config.data_dir = dir.path().join("data");
    config.audit.file = Some("audit.jsonl".into());
    assert_eq!(preflight(&config), Vec::<String>::new());
    config.audit.file = Some(dir.path().into());
    config.audit.http_url = "ftp://siem.example".into();
    config.audit.syslog_address = "127.0.0.1:6514".into();
    let found = preflight(&config);
    for setting in ["audit.file: ", "audit.http_url: ", "audit.http_key_file ", "audit.syslog_ca "]
    {
        assert!(found.iter().any(|line| line.starts_with(setting)), "{setting}: {found:?}");
    }
    assert_eq!(found.len(), 4, "{found:?}");
}

/// Regression: a node changed the file to which a link in place of its own file led.
#[test]
fn a_link_in_place_of_a_file_that_a_node_writes_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (link, victim) = (dir.path().join("link"), dir.path().join("victim"));
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, &link).unwrap();
    let mut config = NodeConfig::defaults();
    config.data_dir = dir.path().join("data");
    config.audit.file = Some(link.clone());
    config.telemetry.log_file.clone_from(&link);
    config.telemetry.audit_file = link;
    let found = preflight(&config);
    for setting in ["audit.file: ", "telemetry.log_file: ", "telemetry.audit_file: "] {
        let is_it = |line: &String| line.starts_with(setting) && line.contains("symbolic link");
        assert!(found.iter().any(is_it), "{setting}: {found:?}");
    }
    assert_eq!(found.len(), 3, "{found:?}");
}

/// A place where no folder can be is a wrong setting, even for backups.
#[test]
fn a_folder_of_backups_that_is_a_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = NodeConfig::defaults();
    config.data_dir = dir.path().join("data");
    config.backup.schedule = Some(BackupSchedule::EveryHours(1));
    config.backup.directory = dir.path().join("backups");
    assert_eq!(preflight(&config), Vec::<String>::new());
    fs::write(dir.path().join("backups"), "").unwrap();
    let found = preflight(&config);
    assert!(found.len() == 1 && found[0].starts_with("backup.directory: "), "{found:?}");
}

/// What would prevent a start is found before the start.
#[test]
fn an_address_of_another_machine_and_a_useless_directory_and_webhook_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = NodeConfig::defaults();
    config.data_dir = dir.path().join("new").join("data");
    assert_eq!(preflight(&config), Vec::<String>::new());
    // No machine has this address, which is for documentation (RFC 5737).
    config.http.host = "192.0.2.1".parse().unwrap();
    config.telemetry.alert_webhook_url = "ftp://x".into();
    fs::write(dir.path().join("file"), "").unwrap();
    config.data_dir = dir.path().join("file").join("data");
    let found = preflight(&config);
    for setting in ["http.host: 192.0.2.1", "node.data_dir", "telemetry.alert_webhook_url"] {
        assert!(found.iter().any(|line| line.starts_with(setting)), "{setting}: {found:?}");
    }
    assert_eq!(found.len(), 3, "{found:?}");
    config = NodeConfig::defaults();
    config.data_dir = "/proc/foo".into();
    assert_eq!(preflight(&config).len(), 1, "{:?}", preflight(&config));
}
