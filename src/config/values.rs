//! Converts text to values. Errors contain the range.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{Access, BackendKind, MemberSetting, OwnLogFormat};
use maxine_dns::Domain;
use maxine_identity::{ClientAuth, TlsVersion};
use maxine_raft::EngineKind;
use maxine_telemetry::audit_forward::{AuditSinkMode, SyslogProtocol};
use maxine_telemetry::{OtlpProtocol, check_log_filter};

/// Reads a TOML file. Returns dotted names and their values as text.
pub(super) fn read_file(path: &Path) -> Result<Vec<(String, String)>, String> {
    let text = maxine_files::read_text(path)
        .map_err(|error| format!("{}: {}", path.display(), maxine_wording::io(&error)))?;
    let table: toml::Table =
        text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
    let mut values = Vec::new();
    flatten("", &toml::Value::Table(table), &mut values);
    Ok(values)
}

fn flatten(name: &str, value: &toml::Value, out: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&name, value, out);
            }
        }
        toml::Value::Array(items) => {
            let text = |item: &toml::Value| item.as_str().map_or(item.to_string(), Into::into);
            let joined = items.iter().map(text).collect::<Vec<String>>().join(",");
            out.push((name.into(), joined));
        }
        toml::Value::String(text) => out.push((name.into(), text.clone())),
        other => out.push((name.into(), other.to_string())),
    }
}

pub(super) fn number<T>(text: &str, min: u64, max: u64) -> Result<T, String>
where
    T: TryFrom<u64>,
{
    let problem = || format!("must be a whole number from {min} to {max}");
    let value: u64 = text.parse().map_err(|_| problem())?;
    if !(min..=max).contains(&value) {
        return Err(problem());
    }
    T::try_from(value).map_err(|_| problem())
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "on" | "yes" => Ok(true),
        "false" | "0" | "off" | "no" => Ok(false),
        _ => Err("must be true or false".into()),
    }
}

pub(super) fn parsed<T: FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("must be {what}"))
}

/// Whether one of the URLs in `text` has a password before its host.
#[must_use]
pub fn has_password(text: &str) -> bool {
    text.split(',').any(|url| {
        let Some((_, rest)) = url.split_once("://") else { return false };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        user.and_then(|user| user.split_once(':')).is_some_and(|(_, word)| !word.is_empty())
    })
}

/// What in the URL of a setting can be a secret, if anything. Other users of the machine can read arguments. The path of a
/// webhook is often all that authorizes a caller.
pub(super) fn secret_part(key: &str, text: &str) -> Option<&'static str> {
    const WEBHOOKS: [&str; 2] = ["telemetry.alert_webhook_url", "audit.http_url"];
    if has_password(text) {
        return Some("a password");
    }
    text.split(',').find_map(|url| {
        let (scheme, rest) = url.trim().split_once("://")?;
        if !["http", "https"].contains(&&*scheme.to_ascii_lowercase()) {
            return None;
        }
        let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Some("a user");
        }
        if after.contains('?') {
            return Some("a query");
        }
        (WEBHOOKS.contains(&key) && !matches!(after, "" | "/")).then_some("a path")
    })
}

/// A hint about brackets if `text` looks like an IPv6 address without them; otherwise an empty text.
fn brackets(text: &str) -> &'static str {
    if maxine_wording::lacks_brackets(text) {
        "; an IPv6 address must be in brackets, such as [::1]:7700"
    } else {
        ""
    }
}

/// Parses `HOST:PORT`. The host is a name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    let split = text.rsplit_once(':').filter(|(host, port)| {
        let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_is_good = match in_brackets {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '[', ']', '/', '@']),
        };
        host_is_good && port.parse::<u16>().is_ok()
    });
    match split {
        Some(_) => Ok(text.into()),
        None => Err(format!("must be HOST:PORT{}", brackets(text))),
    }
}

/// Parses `ADDRESS:PORT`, for listening.
pub(super) fn socket_address(text: &str) -> Result<std::net::SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("must be ADDRESS:PORT with an IP address of this machine{}", brackets(text))
    })
}

pub(super) fn path(text: &str) -> PathBuf {
    PathBuf::from(text)
}

pub(super) fn paths(text: &str) -> Vec<PathBuf> {
    text.split(',').map(str::trim).filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

pub(super) fn client_auth(value: &str) -> Result<ClientAuth, String> {
    match value {
        "none" => Ok(ClientAuth::None),
        "optional" => Ok(ClientAuth::Optional),
        "required" => Ok(ClientAuth::Required),
        _ => Err("must be none, optional or required".into()),
    }
}

pub(super) fn tls_version(value: &str) -> Result<TlsVersion, String> {
    match value {
        "1.2" => Ok(TlsVersion::V1_2),
        "1.3" => Ok(TlsVersion::V1_3),
        _ => Err("must be 1.2 or 1.3".into()),
    }
}

pub(super) fn text(value: &str, len_max: usize) -> Result<String, String> {
    if value.len() > len_max || value.chars().any(char::is_control) {
        return Err(format!("must be at most {len_max} bytes without control characters"));
    }
    Ok(value.into())
}

/// Parses the filter of the log in the same way as the start of a node.
pub(super) fn log_filter(value: &str) -> Result<String, String> {
    let value = text(value, 1_024)?;
    check_log_filter(&value)
        .map_err(|why| format!("must be a filter such as info,openraft=error: {why}"))?;
    match tracing_subscriber::EnvFilter::try_new(&value) {
        Ok(_) => Ok(value),
        Err(error) => Err(format!("must be a filter such as info,openraft=error ({error})")),
    }
}

pub(super) fn log_format(value: &str) -> Result<OwnLogFormat, String> {
    match value {
        "text" => Ok(OwnLogFormat::Text),
        "json" => Ok(OwnLogFormat::Json),
        "journald" => Ok(OwnLogFormat::Journald),
        _ => Err("must be text, json or journald".into()),
    }
}

/// Parses an origin as browsers send it: a scheme and a host, with a port if it is not the scheme's default.
/// `*` and an empty text are also accepted.
pub(super) fn origin(value: &str) -> Result<String, String> {
    let value = text(value, 255)?;
    let is_origin = || {
        let (scheme, authority) = value.split_once("://")?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c));
        let authority: axum::http::uri::Authority = authority.parse().ok()?;
        let is_host = !authority.host().is_empty()
            && !authority.as_str().contains('@')
            && !authority.as_str().chars().any(|c| c.is_ascii_uppercase());
        (is_scheme && is_host).then_some(())
    };
    if value.is_empty() || value == "*" || is_origin().is_some() {
        return Ok(value);
    }
    Err("must be an origin as browsers send it, such as https://app.example.com (in lower case, without a path), or *".into())
}

pub(super) fn backend(value: &str) -> Result<BackendKind, String> {
    let named = BackendKind::ALL.into_iter().find(|kind| kind.as_str() == value);
    let names = || BackendKind::ALL.map(BackendKind::as_str).join(", ");
    named.ok_or_else(|| format!("must be one of {}", names()))
}

pub(super) fn engine(value: &str) -> Result<Option<EngineKind>, String> {
    match value {
        "auto" => Ok(None),
        name => name.parse().map(Some).map_err(|_| "must be one of auto, wal, redb, sled".into()),
    }
}

pub(super) fn access(value: &str) -> Result<Access, String> {
    match value {
        "open" => Ok(Access::Open),
        "token" => Ok(Access::Token),
        _ => Err("must be open or token".into()),
    }
}

pub(super) fn networks(value: &str) -> Result<Vec<ipnet::IpNet>, String> {
    let each = |text: &str| {
        text.parse::<ipnet::IpNet>()
            .or_else(|_| text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from))
            .map_err(|_| {
                format!(
                    "must be networks such as 10.0.0.0/8, separated by commas; {text} is not valid"
                )
            })
    };
    value.split(',').map(str::trim).filter(|text| !text.is_empty()).map(each).collect()
}

/// Parses host names, separated by commas, in lower case.
pub(super) fn hosts(value: &str) -> Result<Vec<String>, String> {
    let each = |text: &str| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if text.len() <= 253 && text.chars().all(is_plain) {
            return Ok(text.trim_end_matches('.').to_ascii_lowercase());
        }
        Err(format!("must be host names without ports, separated by commas; {text} is not valid"))
    };
    value.split(',').map(str::trim).filter(|text| !text.is_empty()).map(each).collect()
}

/// Parses a share of a whole.
pub(super) fn ratio(value: &str) -> Result<f64, String> {
    let ratio = value.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "must be a number from 0 to 1, such as 0.01".into())
}

pub(super) fn otlp_protocol(value: &str) -> Result<OtlpProtocol, String> {
    match value {
        "grpc" => Ok(OtlpProtocol::Grpc),
        "http" => Ok(OtlpProtocol::Http),
        _ => Err("must be grpc or http".into()),
    }
}

pub(super) fn sink_mode(value: &str) -> Result<AuditSinkMode, String> {
    match value {
        "alerting" => Ok(AuditSinkMode::Alerting),
        "blocking" => Ok(AuditSinkMode::Blocking),
        _ => Err("must be alerting or blocking".into()),
    }
}

pub(super) fn syslog_protocol(value: &str) -> Result<SyslogProtocol, String> {
    match value {
        "tls" => Ok(SyslogProtocol::Tls),
        "tcp" => Ok(SyslogProtocol::Tcp),
        _ => Err("must be tls or tcp".into()),
    }
}

/// Parses `NAME=VALUE`, separated by commas.
pub(super) fn attributes(value: &str) -> Result<Vec<(String, String)>, String> {
    let value = text(value, 4_096)?;
    let each = |item: &str| {
        let (name, value) =
            item.split_once('=').map(|(name, value)| (name.trim(), value.trim()))?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            each(item).ok_or_else(|| {
                format!("must be NAME=VALUE, separated by commas; {item} is not valid")
            })
        })
        .collect()
}

/// Parses a domain of the name server.
pub(super) fn domain(value: &str) -> Result<Domain, String> {
    Domain::parse(value).map_err(|error| error.to_string())
}

/// Parses domains of the name server, separated by commas.
pub(super) fn domains(value: &str) -> Result<Vec<Domain>, String> {
    value.split(',').map(str::trim).filter(|text| !text.is_empty()).map(domain).collect()
}

/// Parses the datacenter in names of Consul, in lower case.
pub(super) fn datacenter(value: &str) -> Result<String, String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if value.is_empty() || value.len() > 63 || !value.bytes().all(is_plain) {
        return Err("must be 1 to 63 letters, digits and -".into());
    }
    Ok(value.to_ascii_lowercase())
}

/// Parses a name, as the registry accepts it.
pub(super) fn name(value: &str) -> Result<String, String> {
    maxine_state::limits::check_name("it", value).map_err(|error| error.to_string())?;
    Ok(value.into())
}

/// Parses `ID@HOST:PORT@URL`, separated by commas.
pub(super) fn members(value: &str) -> Result<Vec<MemberSetting>, String> {
    const FORM: &str = "must be members as ID@PEER_HOST:PORT@HTTP_URL, separated by commas";
    let mut members: Vec<MemberSetting> = Vec::new();
    for item in value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let mut parts = item.splitn(3, '@');
        let (Some(id), Some(peer_addr), Some(http_addr)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("{FORM}; {item} is not valid"));
        };
        let id: u64 = number(id, 1, u64::from(u32::MAX))
            .map_err(|_| format!("{FORM}; {item} has a bad ID"))?;
        if let Err(problem) = host_and_port(peer_addr) {
            return Err(format!("{FORM}; in {item} the peer address {problem}"));
        }
        if !http_addr.starts_with("http://") && !http_addr.starts_with("https://")
            || maxine_wording::lacks_brackets(
                http_addr.split_once("://").map_or("", |(_, rest)| rest),
            )
        {
            let problem = maxine_wording::not_a_url(http_addr);
            return Err(format!("{FORM}; in {item} the HTTP URL {problem}"));
        }
        if members.iter().any(|member| member.id == id) {
            return Err(format!("names the ID {id} twice"));
        }
        members.push(MemberSetting {
            id,
            peer_addr: peer_addr.into(),
            http_addr: http_addr.into(),
        });
    }
    Ok(members)
}
