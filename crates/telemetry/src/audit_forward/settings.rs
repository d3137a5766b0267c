//! Settings of the forwarding of audit records, and the check of what they name.

use std::path::{Path, PathBuf};

use http::Uri;
use rustls::pki_types::ServerName;

use crate::otlp::read_authorities;

/// Minimum length of the key that signs deliveries over HTTP, in bytes.
const KEY_LEN_MIN: usize = 32;
/// Maximum length of the file with that key, in bytes.
const KEY_LEN_MAX: usize = 4_096;

/// What follows while a sink fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditSinkMode {
    /// An alert.
    #[default]
    Alerting,
    /// An alert, and after a time this node refuses changes by callers.
    Blocking,
}

/// How records reach a syslog receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyslogProtocol {
    /// RFC 5425: over TLS.
    #[default]
    Tls,
    /// RFC 6587, with octet counting: over TCP without TLS.
    Tcp,
}

/// Settings of the forwarding of audit records. A sink without a place is not used.
#[derive(Clone, Debug, Default)]
pub struct AuditForwardSettings {
    /// The directory in which the position of each sink is stored.
    pub directory: PathBuf,
    /// The file; `None` for no file.
    pub file: Option<PathBuf>,
    /// Length at which the file is closed and a new one begun, in bytes.
    pub file_len_max: u64,
    /// Number of files that are kept.
    pub files_max: usize,
    /// What follows while the file cannot be written.
    pub file_mode: AuditSinkMode,
    /// `HOST:PORT` of the syslog receiver; empty for none.
    pub syslog_address: String,
    /// The protocol of the syslog receiver.
    pub syslog_protocol: SyslogProtocol,
    /// The authorities that signed the certificate of the syslog receiver. Required for TLS.
    pub syslog_ca: Option<PathBuf>,
    /// What follows while the syslog receiver takes no records.
    pub syslog_mode: AuditSinkMode,
    /// The URL for deliveries over HTTP; empty for none.
    pub http_url: String,
    /// The file with the key that signs these deliveries. Required with a URL.
    pub http_key_file: Option<PathBuf>,
    /// The authorities that signed the certificate of the HTTP receiver; `None` for those of the machine.
    pub http_ca: Option<PathBuf>,
    /// What follows while the HTTP receiver takes no records.
    pub http_mode: AuditSinkMode,
    /// Maximum number of records that are sent together.
    pub batch_max: usize,
    /// Time limit of one delivery, in milliseconds.
    pub timeout_ms: u64,
    /// How long a blocking sink may fail before changes are refused, in milliseconds.
    pub block_after_ms: u64,
    /// Time between two anchors, in milliseconds; 0 sends none.
    pub anchor_interval_ms: u64,
}

impl AuditForwardSettings {
    /// Whether any sink is set.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.file.is_some() || !self.syslog_address.is_empty() || !self.http_url.is_empty()
    }

    /// Checks everything that the settings name. Returns what is wrong, each with the name of the setting. Blocks.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !self.syslog_address.is_empty() {
            if let Err(why) = server_name(&self.syslog_address) {
                found.push(format!("audit.syslog_address: {why}"));
            }
            match (&self.syslog_ca, self.syslog_protocol) {
                (Some(path), _) => found.extend(authorities_problem("audit.syslog_ca", path)),
                (None, SyslogProtocol::Tls) => {
                    found.push("audit.syslog_ca must be set with audit.syslog_protocol tls".into());
                }
                (None, SyslogProtocol::Tcp) => {}
            }
        }
        if !self.http_url.is_empty() {
            if let Err(why) = check_url(&self.http_url) {
                found.push(format!("audit.http_url: {why}"));
            }
            match &self.http_key_file {
                None => found.push("audit.http_key_file must be set with audit.http_url".into()),
                Some(path) => {
                    if let Err(why) = read_key(path) {
                        found.push(format!("audit.http_key_file: {}: {why}", path.display()));
                    }
                }
            }
            if let Some(path) = &self.http_ca {
                found.extend(authorities_problem("audit.http_ca", path));
            }
        }
        found
    }

    /// Blocking modes of sinks that are not set. Whoever sets one expects that no change is made without its audit record.
    #[must_use]
    pub fn modes_without_sink(&self) -> Vec<String> {
        let sinks = [
            ("audit.file_mode", self.file_mode, "audit.file", self.file.is_none()),
            (
                "audit.syslog_mode",
                self.syslog_mode,
                "audit.syslog_address",
                self.syslog_address.is_empty(),
            ),
            ("audit.http_mode", self.http_mode, "audit.http_url", self.http_url.is_empty()),
        ];
        let wrong = sinks
            .into_iter()
            .filter(|(_, mode, _, is_missing)| *mode == AuditSinkMode::Blocking && *is_missing);
        wrong
            .map(|(mode, _, sink, _)| format!("{mode} is blocking, and {sink} is not set"))
            .collect()
    }
}

fn authorities_problem(setting: &str, path: &Path) -> Option<String> {
    let why = read_authorities(path).err()?;
    Some(format!("{setting}: {}: {why}", path.display()))
}

fn check_url(url: &str) -> Result<(), String> {
    let parsed = url.parse::<Uri>().ok();
    let is_http = |url: &Uri| matches!(url.scheme_str(), Some("http" | "https"));
    let parsed = parsed.filter(|url| is_http(url) && url.host().is_some_and(|h| !h.is_empty()));
    let Some(parsed) = parsed else { return Err("expected a URL of http or https".into()) };
    match parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        true => Err("it must have no user and no password: deliveries are signed".into()),
        false => Ok(()),
    }
}

/// The name in the certificate of the receiver at `HOST:PORT`.
pub(super) fn server_name(address: &str) -> Result<ServerName<'static>, String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_matches(['[', ']']).to_owned();
    ServerName::try_from(host).map_err(|_| "its host is neither a name nor an address".into())
}

/// Reads the key that signs deliveries. Line ends at its end do not belong to it. Blocks.
pub(super) fn read_key(path: &Path) -> Result<Vec<u8>, String> {
    let mut key = maxine_files::read(path).map_err(|error| maxine_wording::io(&error))?;
    while key.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        key.pop();
    }
    match key.len() {
        len if len < KEY_LEN_MIN => {
            Err(format!("the key has {len} bytes, and at least {KEY_LEN_MIN} are required"))
        }
        len if len > KEY_LEN_MAX => {
            Err(format!("the key has {len} bytes, and at most {KEY_LEN_MAX} are allowed"))
        }
        _ => Ok(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_a_password_and_one_of_another_scheme_are_refused() {
        for good in ["http://127.0.0.1:9000/audit", "https://siem.example/in?x=1"] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in ["", "siem.example", "ftp://h/x", "http://", "/audit"] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
        let why = check_url("https://me:hunter2@h/x").unwrap_err();
        assert!(!why.contains("hunter2"), "{why}");
    }

    #[test]
    fn the_name_in_the_certificate_is_the_host_without_port_and_brackets() {
        for (address, name) in [
            ("siem.example:6514", "siem.example"),
            ("[::1]:6514", "::1"),
            ("10.0.0.1:1", "10.0.0.1"),
        ] {
            assert_eq!(server_name(address).unwrap().to_str(), name);
        }
        assert!(server_name("a b:1").is_err());
    }

    /// Nothing is sent to a receiver that could not check it, and nothing is signed with a key that can be guessed.
    #[test]
    fn a_sink_that_lacks_its_key_or_its_authority_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (short, good) = (dir.path().join("short"), dir.path().join("good"));
        std::fs::write(&short, "secret\n").unwrap();
        std::fs::write(&good, format!("{}\r\n", "k".repeat(32))).unwrap();
        assert_eq!(read_key(&good).unwrap(), vec![b'k'; 32]);
        let mut settings = AuditForwardSettings {
            syslog_address: "127.0.0.1:6514".into(),
            http_url: "http://127.0.0.1:1/".into(),
            ..AuditForwardSettings::default()
        };
        let found = settings.problems();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("audit.syslog_ca "), "{found:?}");
        assert!(found[1].starts_with("audit.http_key_file "), "{found:?}");
        settings.syslog_protocol = SyslogProtocol::Tcp;
        settings.http_key_file = Some(short);
        let found = settings.problems();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("6 bytes") && !found[0].contains("secret"), "{found:?}");
        settings.http_key_file = Some(good);
        assert_eq!(settings.problems(), Vec::<String>::new());
    }

    /// Regression: whoever mistyped the name of a sink had a node that changed things without an audit record.
    #[test]
    fn a_blocking_mode_of_a_sink_that_is_not_set_is_found() {
        let mut settings = AuditForwardSettings {
            file_mode: AuditSinkMode::Blocking,
            syslog_mode: AuditSinkMode::Blocking,
            http_mode: AuditSinkMode::Blocking,
            ..AuditForwardSettings::default()
        };
        let expected = [
            "audit.file_mode is blocking, and audit.file is not set",
            "audit.syslog_mode is blocking, and audit.syslog_address is not set",
            "audit.http_mode is blocking, and audit.http_url is not set",
        ];
        assert_eq!(settings.modes_without_sink(), expected);
        settings.file = Some("audit.jsonl".into());
        assert_eq!(settings.modes_without_sink(), expected[1..]);
    }
}
