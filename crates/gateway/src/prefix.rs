//! Converts paths in an instance's answers to the paths that its clients use through the proxy.
//!
//! These are pure functions. A policy enables them ([`maxine_state::PrefixPolicy`]).

use hyper::header::{self, HeaderMap, HeaderValue};

use super::target::UpstreamAddress;
use maxine_state::{PrefixPolicy, RewritePolicy};

/// Converts paths of one instance to paths for its clients.
pub(crate) struct PrefixMap<'a> {
    /// The path under which clients reach the service, without a trailing slash.
    pub(crate) prefix: &'a str,
    pub(crate) upstream: &'a UpstreamAddress,
    /// The rule that rewrote the path of the request.
    pub(crate) rewrite: Option<&'a RewritePolicy>,
    /// The host in the client's request.
    pub(crate) asked_host: Option<&'a HeaderValue>,
}

impl PrefixMap<'_> {
    /// Converts the header fields that the policy selects.
    pub(crate) fn apply(&self, policy: PrefixPolicy, headers: &mut HeaderMap) {
        if policy.locations {
            for name in [header::LOCATION, header::CONTENT_LOCATION] {
                let new = headers.get(&name).and_then(|value| self.location(value.to_str().ok()?));
                if let Some(new) = new.and_then(|new| HeaderValue::try_from(new).ok()) {
                    headers.insert(name, new);
                }
            }
        }
        if policy.cookie_paths && headers.contains_key(header::SET_COOKIE) {
            let cookies: Vec<HeaderValue> = headers
                .get_all(header::SET_COOKIE)
                .iter()
                .map(|value| self.cookie(value))
                .collect();
            headers.remove(header::SET_COOKIE);
            for cookie in cookies {
                headers.append(header::SET_COOKIE, cookie);
            }
        }
    }

    /// A URL of the instance, as the client would request it. `None` if it is not changed, because it is relative, has
    /// another host, or is not reached through the proxy.
    fn location(&self, url: &str) -> Option<String> {
        let rest = match url.split_once("//") {
            Some(("http:" | "https:" | "", rest)) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (authority, rest) = rest.split_at(end);
                if !self.is_own(authority) {
                    return None;
                }
                rest
            }
            _ if url.starts_with('/') => url,
            _ => return None,
        };
        let end = rest.find(['?', '#']).unwrap_or(rest.len());
        let (path, tail) = rest.split_at(end);
        if below(path, self.prefix).is_some() && !self.prefix.is_empty() {
            return None;
        }
        self.path(path).map(|path| path + tail)
    }

    fn is_own(&self, authority: &str) -> bool {
        let own = self.upstream.authority.as_str();
        let asked = self.asked_host.and_then(|host| host.to_str().ok());
        authority.eq_ignore_ascii_case(own)
            || asked.is_some_and(|asked| authority.eq_ignore_ascii_case(asked))
    }

    /// A path of the instance, as the client would request it. `None` if the proxy does not reach it.
    fn path(&self, path: &str) -> Option<String> {
        let mut rest = below(path, self.upstream.base_path())?;
        let mut stripped = "";
        if let Some(rule) = self.rewrite {
            rest = below(rest, &rule.add_prefix)?;
            stripped = &rule.strip_prefix;
        }
        Some(format!("{}{stripped}{rest}", self.prefix))
    }

    /// A `Set-Cookie` whose path is converted.
    fn cookie(&self, cookie: &HeaderValue) -> HeaderValue {
        let Ok(text) = cookie.to_str() else { return cookie.clone() };
        // The first part is the cookie itself, and the others are its attributes.
        let parts = text.split(';').enumerate().map(|(at, part)| {
            let is_path = |name: &str| at > 0 && name.trim().eq_ignore_ascii_case("path");
            let path = part.split_once('=').filter(|(name, _)| is_path(name));
            let Some((name, path)) = path else { return part.to_owned() };
            let path = path.trim();
            // The proxy reaches only a part of the paths for which such a cookie is meant. It becomes a cookie for all
            // paths of the service.
            let wider = below(self.upstream.base_path(), path.trim_end_matches('/')).is_some();
            match self.path(path) {
                Some(new) => format!("{name}={new}"),
                None if wider => format!("{name}={}/", self.prefix),
                None => part.to_owned(),
            }
        });
        HeaderValue::try_from(parts.collect::<Vec<_>>().join(";"))
            .unwrap_or_else(|_| cookie.clone())
    }
}

/// The part of a path after `base`; `None` if the path is not `base` or below it.
fn below<'a>(path: &'a str, base: &str) -> Option<&'a str> {
    path.strip_prefix(base).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::Address;

    const PREFIX: &str = "/api/maxine/serviceops/proxy/shop";

    fn mapped(address: &str, rewrite: Option<&RewritePolicy>, field: (&str, &str)) -> String {
        let upstream = UpstreamAddress::parse(&Address::parse(address).unwrap()).unwrap();
        let asked = HeaderValue::from_static("front.example:8080");
        let map =
            PrefixMap { prefix: PREFIX, upstream: &upstream, rewrite, asked_host: Some(&asked) };
        let mut headers = HeaderMap::new();
        let name: header::HeaderName = field.0.parse().unwrap();
        headers.insert(&name, field.1.parse().unwrap());
        map.apply(PrefixPolicy::default(), &mut headers);
        headers[&name].to_str().unwrap().to_owned()
    }

    #[test]
    fn locations_lead_through_the_proxy_again() {
        let at = |address: &str, url: &str| mapped(address, None, ("location", url));
        for (address, url, expected) in [
            ("http://h:81", "/login?next=/x#top", format!("{PREFIX}/login?next=/x#top")),
            ("http://h:81", "http://H:81/login", format!("{PREFIX}/login")),
            ("http://h:81", "//h:81/login", format!("{PREFIX}/login")),
            ("http://h:81", "http://front.example:8080/login", format!("{PREFIX}/login")),
            ("http://h:81", "http://h:81", PREFIX.to_owned()),
            ("http://h:81/app", "/app/login", format!("{PREFIX}/login")),
            ("http://h:81/app", "/app", PREFIX.to_owned()),
            // A path that does not lead to the service is not changed.
            ("http://h:81/app", "/apple", "/apple".to_owned()),
            ("http://h:81", "login", "login".to_owned()),
            ("http://h:81", "https://accounts.example/x", "https://accounts.example/x".to_owned()),
            ("http://h:81", "mailto:a@b", "mailto:a@b".to_owned()),
            // An instance that reads X-Forwarded-Prefix has converted the location already.
            ("http://h:81", &format!("{PREFIX}/login"), format!("{PREFIX}/login")),
        ] {
            assert_eq!(at(address, url), expected, "{address} {url}");
        }
        let rule = RewritePolicy { strip_prefix: "/v1".into(), add_prefix: "/api".into() };
        let rewritten = |url| mapped("http://h/app", Some(&rule), ("content-location", url));
        assert_eq!(rewritten("/app/api/x"), format!("{PREFIX}/v1/x"));
        assert_eq!(rewritten("/app/x"), "/app/x");
    }

    #[test]
    fn cookies_get_the_paths_that_clients_request() {
        let at = |address: &str, cookie: &str| mapped(address, None, ("set-cookie", cookie));
        for (address, cookie, expected) in [
            ("http://h", "a=1; Path=/; HttpOnly", format!("a=1; Path={PREFIX}/; HttpOnly")),
            ("http://h/app", "a=1; path=/app/x", format!("a=1; path={PREFIX}/x")),
            ("http://h/app", "a=1; Path=/", format!("a=1; Path={PREFIX}/")),
            ("http://h/app", "a=1; Path=/other", "a=1; Path=/other".to_owned()),
            ("http://h", "path=1; Secure", "path=1; Secure".to_owned()),
        ] {
            assert_eq!(at(address, cookie), expected, "{address} {cookie}");
        }
    }
}
