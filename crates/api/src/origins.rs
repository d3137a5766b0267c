//! The origins of this cluster's members, as browsers write them: `scheme://host:port`.
//!
//! If its node is unreachable, the dashboard continues at another member. For that, the page's policy must permit
//! connections to the members, and each member must permit pages of the others to read its answers. Both lists come
//! from here. Such a request has a bearer token and never a cookie, so a member's origin gets no additional rights.
//! This module does not decide who may do what.

use axum::http::Uri;

use maxine_store::ControlStore;

/// Maximum number of members in these lists. A cluster has fewer.
const MEMBERS_MAX: usize = 32;

/// The origins of all members with an address; empty if the backend has no members.
pub(super) fn of_members(store: &dyn ControlStore) -> Vec<String> {
    let Some(cluster) = store.cluster() else { return Vec::new() };
    let members = cluster.status().members;
    members.iter().filter_map(|member| of_address(&member.http_addr)).take(MEMBERS_MAX).collect()
}

/// The origin of a URL or `host:port` as a browser writes it; `None` for any other text.
fn of_address(address: &str) -> Option<String> {
    let text = if address.contains("://") { address.into() } else { format!("http://{address}") };
    let uri: Uri = text.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
    let authority = uri.authority()?;
    let host = authority.host().to_ascii_lowercase();
    // The value becomes part of a header, so the host must consist of the characters of a name or an address.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if host.is_empty() || authority.as_str().contains('@') || !host.chars().all(plain) {
        return None;
    }
    let usual = if scheme == "http" { 80 } else { 443 };
    Some(match authority.port_u16() {
        Some(port) if port != usual => format!("{scheme}://{host}:{port}"),
        _ => format!("{scheme}://{host}"),
    })
}

#[cfg(test)]
mod tests {
    use super::of_address;

    #[test]
    fn addresses_become_origins_as_browsers_send_them() {
        let cases = [
            ("http://127.0.0.1:8081", Some("http://127.0.0.1:8081")),
            ("https://Node-1.example:443/", Some("https://node-1.example")),
            ("http://node:80", Some("http://node")),
            ("node:8080", Some("http://node:8080")),
            ("http://[::1]:8080/x?y", Some("http://[::1]:8080")),
            ("", None),
            ("ftp://node:1", None),
            ("http://a b", None),
            ("http://a;script-src *", None),
            ("http://user@node:1", None),
            ("http://*:1", None),
        ];
        for (address, origin) in cases {
            assert_eq!(of_address(address).as_deref(), origin, "{address}");
        }
    }
}
