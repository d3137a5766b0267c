//! The names by which browsers may call this node.
//!
//! A page of another site can make its own name resolve to this node's address (DNS rebinding). The browser then treats
//! the node as that site. So requests for the dashboard, and requests that its cookie authorizes, must use an address
//! or a known name of the node. This check does not apply to clients with a token, to discovery and to registration.

use axum::body::Body;
use axum::http::{self, Response, StatusCode, header};
use axum::response::IntoResponse;

use super::compat_error::CompatError;
use super::{AppState, origins};

/// Whether a request uses one of the node's own names. A request without a name is accepted, because it does not come
/// from a browser.
pub(super) fn is_own<B>(state: &AppState, request: &http::Request<B>) -> bool {
    let Some(host) = host_of(request) else { return true };
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let Some(name) = name_of(host) else { return false };
    if is_address_or_localhost(&name) || state.settings().allowed_hosts.contains(&name) {
        return true;
    }
    let members = origins::of_members(state.store().as_ref());
    members.iter().filter_map(|origin| name_of(origin.split_once("://")?.1)).any(|own| own == name)
}

/// Answers 421 to a request that uses a name which is not this node's; `None` for any other request.
pub(super) fn refusal<B>(state: &AppState, request: &http::Request<B>) -> Option<Response<Body>> {
    if is_own(state, request) {
        return None;
    }
    let text = "this node is not known by that name: use its address, or add the name to \
                http.allowed_hosts (MAXINE_HTTP_ALLOWED_HOSTS)";
    Some(CompatError::new(StatusCode::MISDIRECTED_REQUEST, text).into_response())
}

fn host_of<B>(request: &http::Request<B>) -> Option<&[u8]> {
    // HTTP/2 has the name in the target instead of a header field.
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    authority.or_else(|| request.headers().get(header::HOST).map(|value| value.as_bytes()))
}

/// The name in `HOST` or `HOST:PORT`, in lower case and without brackets and a final dot. `None` for any other text.
#[must_use]
pub fn name_of(host: &str) -> Option<String> {
    let name = match host.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']')?;
            is_port(port).then_some(ip)?
        }
        None => {
            let at = host.find(':').unwrap_or(host.len());
            is_port(&host[at..]).then_some(&host[..at])?
        }
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    (!name.is_empty()).then(|| name.to_ascii_lowercase())
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || text.strip_prefix(':').is_some_and(|p| p.is_empty() || p.parse::<u16>().is_ok())
}

fn is_address_or_localhost(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_without_its_port() {
        for (host, name) in [
            ("Node-1.Example:8080", Some("node-1.example")),
            ("node.", Some("node")),
            ("10.0.0.1:80", Some("10.0.0.1")),
            ("[2a00::1]:8080", Some("2a00::1")),
            ("[::1]", Some("::1")),
            ("localhost:", Some("localhost")),
            ("", None),
            (":80", None),
            ("a:b", None),
            ("[::1", None),
            ("[::1]x", None),
            ("user@node", Some("user@node")),
        ] {
            assert_eq!(name_of(host).as_deref(), name, "{host}");
        }
        assert!(is_address_or_localhost("2a00::1") && is_address_or_localhost("a.localhost"));
        assert!(!is_address_or_localhost("localhost.evil.example"));
    }
}
