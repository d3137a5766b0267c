//! What all ways to send a request to an instance share.

use std::error::Error as StdError;
use std::io;

use http::HeaderMap;
use reqwest::{Method, Url};

use crate::error::Error;
use crate::instances::Request;
use crate::resolver::{Chosen, Resolver};

/// The largest number of instances that one request is sent to.
pub(crate) const TRIES_MAX: u32 = 3;

/// Chooses an instance for a request.
///
/// # Errors
/// [`Error::NoInstance`] if no instance gets traffic.
pub(crate) fn choose(
    resolver: &Resolver,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<Chosen, Error> {
    let request = Request { headers: Some(headers), query, ..Request::default() };
    resolver.choose(&request).ok_or_else(|| Error::NoInstance(resolver.service().into()))
}

/// The URL at the instance with this address. It never leaves the path of the address.
///
/// # Errors
/// [`Error::Malformed`] if the address is no URL.
pub(crate) fn directed(address: &str, url: &Url) -> Result<Url, Error> {
    let mut to = Url::parse(address)
        .map_err(|error| Error::Malformed(format!("the address {address:?}: {error}")))?;
    let path = format!("{}{}", to.path().trim_end_matches('/'), url.path());
    to.set_path(&path);
    to.set_query(url.query());
    to.set_fragment(None);
    Ok(to)
}

/// Whether a request may be sent again after an error: either it changes nothing, or it was not sent.
pub(crate) fn may_repeat(method: &Method, error: &(dyn StdError + 'static)) -> bool {
    let is_safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    is_safe || is_refused_connection(error)
}

fn is_refused_connection(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io_error = error.downcast_ref::<io::Error>();
        if io_error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_request_never_leaves_the_path_of_the_instance() {
        for (path, expect) in [
            ("/x?y=1", "http://10.0.0.1:3000/base/x?y=1"),
            ("/a%2Fb", "http://10.0.0.1:3000/base/a%2Fb"),
            ("/../../x", "http://10.0.0.1:3000/base/x"),
            ("/%2e%2e/x", "http://10.0.0.1:3000/base/x"),
            ("/", "http://10.0.0.1:3000/base/"),
        ] {
            let url = Url::parse(&format!("http://orders{path}")).unwrap();
            let to = directed("http://10.0.0.1:3000/base/", &url).unwrap();
            assert_eq!(to.as_str(), expect);
        }
        assert!(directed("10.0.0.1", &Url::parse("http://orders/").unwrap()).is_err());
    }

    #[test]
    fn a_request_that_may_have_had_an_effect_is_not_repeated() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let wrapped = Error::Malformed("x".into());
        assert!(may_repeat(&Method::POST, &refused) && may_repeat(&Method::GET, &reset));
        assert!(!may_repeat(&Method::POST, &reset) && !may_repeat(&Method::DELETE, &wrapped));
    }
}
