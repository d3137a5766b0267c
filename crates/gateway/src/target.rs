//! The target of a request: the parts of the instance's address, and a path that never leaves its base path.
//!
//! Paths are forwarded unchanged, with their escapes. Only dot segments are resolved. A path is refused if a server
//! could find another dot segment in it, because of an escaped slash, a backslash or a path parameter beside the dots.

use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Uri, header::HeaderValue};

use maxine_state::{Address, RewritePolicy};

/// Why a path cannot be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A `%` that is not followed by two hex digits.
    #[error("the path has a malformed percent escape")]
    MalformedEscape,
    /// The path would leave the base path.
    #[error("the path has a segment that could leave the service's base path")]
    Escaping,
    /// The path has characters that are not allowed.
    #[error("the path has characters that are not allowed in a URL")]
    Invalid,
}

/// The path and query of a request behind the service's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTarget {
    /// Empty, or begins with a slash. Dot segments are resolved.
    path: String,
    /// The query, without the question mark.
    query: Option<String>,
}

impl RequestTarget {
    /// Parses the path behind the service's name (empty, `/` or `/x`, with its escapes) and the query without its
    /// question mark.
    pub fn new(raw_path: &str, raw_query: Option<&str>) -> Result<Self, PathError> {
        let path = resolve(raw_path)?;
        if let Some(query) = raw_query {
            let valid = query.bytes().all(|b| b > b' ' && b != 0x7f && b != b'#');
            if !valid {
                return Err(PathError::Invalid);
            }
        }
        Ok(Self { path, query: raw_query.map(String::from) })
    }

    /// The path: empty, or with a leading slash. Dot segments are resolved.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query, without the question mark.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// Replaces the path `/` with an empty one, which means the instance's base path.
    pub(crate) fn drop_lone_slash(&mut self) {
        if self.path == "/" {
            self.path.clear();
        }
    }

    /// Applies a rewrite rule.
    pub(crate) fn rewrite(&mut self, rule: &RewritePolicy) {
        let strip = rule.strip_prefix.as_str();
        let stripped = match self.path.strip_prefix(strip) {
            Some(rest) if !strip.is_empty() && (rest.is_empty() || rest.starts_with('/')) => rest,
            _ => self.path.as_str(),
        };
        self.path = format!("{}{stripped}", rule.add_prefix);
    }
}

/// Whether a path behind the service's name is forwarded unchanged, without anything to resolve, refuse or escape.
pub(crate) fn is_plain_path(raw: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,:=@/".contains(&byte);
    (raw.is_empty() || raw.starts_with('/')) && raw.bytes().all(is_plain) && !raw.contains("/.")
}

/// Checks the escapes and resolves `.` and `..`, which never go above the root.
fn resolve(raw: &str) -> Result<String, PathError> {
    if raw.is_empty() || raw == "/" {
        return Ok(raw.to_owned());
    }
    check_escapes(raw)?;
    let rooted = raw.strip_prefix('/').unwrap_or(raw);
    // Most paths have nothing to resolve.
    if !rooted.contains("..") && !rooted.contains("./") && !has_risky_bytes(rooted) {
        let suspicious = rooted == "." || rooted.ends_with("/.");
        if !suspicious {
            return Ok(format!("/{rooted}"));
        }
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in rooted.split('/') {
        let plain = decode_dots(segment);
        ends_open = false;
        match plain.as_str() {
            "." => ends_open = true,
            ".." => {
                kept.pop();
                ends_open = true;
            }
            _ if hides_dots(segment) => return Err(PathError::Escaping),
            _ => kept.push(segment),
        }
    }
    let mut path = String::with_capacity(raw.len() + 1);
    for segment in &kept {
        path.push('/');
        path.push_str(segment);
    }
    if ends_open {
        path.push('/');
    }
    Ok(path)
}

fn has_risky_bytes(path: &str) -> bool {
    path.bytes().any(|b| matches!(b, b'%' | b'\\' | b';'))
}

fn check_escapes(path: &str) -> Result<(), PathError> {
    let bytes = path.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'%' => {
                let digits = bytes.get(at + 1..at + 3).ok_or(PathError::MalformedEscape)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(PathError::MalformedEscape);
                }
            }
            0..=b' ' | 0x7f | b'?' | b'#' => return Err(PathError::Invalid),
            _ => {}
        }
    }
    Ok(())
}

/// The segment, with its escaped dots decoded.
fn decode_dots(segment: &str) -> String {
    segment.replace("%2e", ".").replace("%2E", ".")
}

/// Whether a server could find a dot segment in this segment, if it decodes slashes, treats a backslash as a slash, or
/// cuts off path parameters.
fn hides_dots(segment: &str) -> bool {
    let lower = decode_dots(segment).to_ascii_lowercase();
    let slashed = lower.replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
    let parted = slashed.replace("%3b", ";").replace("%00", ";");
    parted.split('/').any(|part| matches!(part.split(';').next(), Some(".." | ".")))
        && parted.contains("..")
}

/// The parts of an instance's address.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamAddress {
    /// Whether the instance is called over TLS.
    pub(crate) https: bool,
    /// The host's name or address, without brackets.
    pub(crate) host: String,
    /// The port. If the address has none, the default port of the scheme.
    pub(crate) port: u16,
    /// Host and port, as the address has them.
    pub(crate) authority: Authority,
    /// The value of the `Host` field.
    pub(crate) host_header: HeaderValue,
    /// Base path: empty, or with a leading slash and without a trailing one.
    base_path: String,
}

impl UpstreamAddress {
    /// Parses an address. `None` if it is not valid, which registration refuses.
    pub(crate) fn parse(address: &Address) -> Option<Self> {
        let uri: Uri = address.as_str().parse().ok()?;
        let authority = uri.authority()?.clone();
        let https = uri.scheme_str() == Some("https");
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        let host_header = HeaderValue::from_str(authority.as_str()).ok()?;
        let base_path = uri.path().trim_end_matches('/').to_owned();
        Some(Self { https, host, port, authority, host_header, base_path })
    }

    /// The base path of the instance: empty, or with a leading slash and without a trailing one.
    pub(crate) fn base_path(&self) -> &str {
        &self.base_path
    }

    /// Writes the path and query of a request to this instance. `path` is empty or has a leading slash; `query` has no
    /// question mark.
    pub(crate) fn push_target(&self, out: &mut Vec<u8>, path: &str, query: Option<&str>) {
        out.extend_from_slice(self.base_path.as_bytes());
        out.extend_from_slice(path.as_bytes());
        if self.base_path.is_empty() && path.is_empty() {
            out.push(b'/');
        }
        if let Some(query) = query {
            out.push(b'?');
            out.extend_from_slice(query.as_bytes());
        }
    }

    /// The path and query of a request to this instance.
    pub(crate) fn path_and_query(&self, target: &RequestTarget) -> Result<PathAndQuery, PathError> {
        let query_len = target.query.as_ref().map_or(0, |q| q.len() + 1);
        let len = self.base_path.len() + target.path.len() + query_len + 1;
        let mut text = Vec::with_capacity(len);
        self.push_target(&mut text, &target.path, target.query.as_deref());
        PathAndQuery::from_maybe_shared(bytes::Bytes::from(text)).map_err(|_| PathError::Invalid)
    }

    /// The whole URL, for HTTP/2.
    pub(crate) fn absolute(&self, path: PathAndQuery) -> Result<Uri, PathError> {
        let scheme = if self.https { Scheme::HTTPS } else { Scheme::HTTP };
        Uri::builder()
            .scheme(scheme)
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .map_err(|_| PathError::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sent(address: &str, path: &str, query: Option<&str>) -> String {
        let upstream = UpstreamAddress::parse(&Address::parse(address).unwrap()).unwrap();
        let target = RequestTarget::new(path, query).unwrap();
        upstream.path_and_query(&target).unwrap().to_string()
    }

    #[test]
    fn paths_are_joined_and_kept_as_they_are() {
        assert_eq!(sent("http://h:81/base", "", None), "/base");
        assert_eq!(sent("http://h:81/base", "/", None), "/base/");
        assert_eq!(sent("http://h", "/", None), "/");
        assert_eq!(sent("http://h", "", None), "/");
        assert_eq!(sent("http://h", "", Some("a=1")), "/?a=1");
        assert_eq!(sent("http://h/base", "/x", Some("a=1&a=2&b")), "/base/x?a=1&a=2&b");
        assert_eq!(sent("http://h/base", "//x", None), "/base//x");
        assert_eq!(sent("http://h", "/a%2Fb%20c", None), "/a%2Fb%20c");
        assert_eq!(sent("http://h", "/a.b/..c/d..", None), "/a.b/..c/d..");
    }

    #[test]
    fn dot_segments_are_resolved_below_the_base() {
        for (path, expected) in [
            ("/../x", "/base/x"),
            ("/a/../../../x", "/base/x"),
            ("/%2e%2e/x", "/base/x"),
            ("/.%2E/.%2e/x", "/base/x"),
            ("/a/./b", "/base/a/b"),
            ("/..", "/base/"),
            ("/a/..", "/base/"),
        ] {
            assert_eq!(sent("http://h/base", path, None), expected, "{path}");
        }
    }

    #[test]
    fn disguised_dot_segments_and_broken_escapes_are_refused() {
        for path in [
            "/..%2fx",
            "/%2e%2e%2Fx",
            "/a%2f..%2f..",
            "/..\\x",
            "/..%5cx",
            "/a\\..\\b",
            "/..;/x",
            "/..;a=b/x",
            "/%2e%2e;/x",
            "/..%3b/x",
        ] {
            assert_eq!(RequestTarget::new(path, None), Err(PathError::Escaping), "{path}");
        }
        for path in ["/%", "/%1", "/%zz", "/a%2"] {
            assert_eq!(RequestTarget::new(path, None), Err(PathError::MalformedEscape), "{path}");
        }
        assert_eq!(RequestTarget::new("/a b", None), Err(PathError::Invalid));
    }

    #[test]
    fn prefixes_are_rewritten_at_segment_boundaries() {
        let rule = RewritePolicy { strip_prefix: "/api".into(), add_prefix: "/v2".into() };
        for (path, expected) in
            [("/api/x", "/v2/x"), ("/api", "/v2"), ("/apix", "/v2/apix"), ("/x", "/v2/x")]
        {
            let mut target = RequestTarget::new(path, None).unwrap();
            target.rewrite(&rule);
            assert_eq!(target.path(), expected);
        }
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_base(path in "(/|\\.|%2e|%2E|%2f|%5c|;|a|\\\\){0,24}") {
            if let Ok(target) = RequestTarget::new(&path, None) {
                let decoded = target.path().to_ascii_lowercase().replace("%2e", ".")
                    .replace("%2f", "/").replace("%5c", "/").replace('\\', "/");
                let mut depth = 0_i32;
                for segment in decoded.split('/').skip(1) {
                    depth += match segment.split(';').next() { Some("..") => -1, _ => 1 };
                    prop_assert!(depth >= 0, "{} -> {}", path, target.path());
                }
            }
        }
    }
}
