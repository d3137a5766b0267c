//! Interim answers of an instance to a client, such as `103 Early Hints`.

use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use maxine_http1::Interim;

use super::headers;

/// Sends an instance's interim answers to the client of one request.
#[derive(Clone, Debug)]
pub struct InterimSink {
    interim: Interim,
    /// Removes the fields that an instance may not set, as in a final answer.
    filter: fn(&mut HeaderMap),
}

impl InterimSink {
    /// Sends interim answers to `interim`. The fields of each one pass through `filter`.
    #[must_use]
    pub fn new(interim: Interim, filter: fn(&mut HeaderMap)) -> Self {
        Self { interim, filter }
    }

    /// Sends an interim answer, or drops it if too many wait.
    pub(crate) fn send(&self, status: StatusCode, mut fields: HeaderMap) {
        headers::strip_hop_by_hop(&mut fields, false);
        headers::strip_maxines_own(&mut fields);
        // An interim answer has no content, so a length would be wrong (RFC 9110 section 8.6). A cookie must come with
        // the final answer, where its path is checked.
        fields.remove(header::CONTENT_LENGTH);
        fields.remove(header::SET_COOKIE);
        (self.filter)(&mut fields);
        self.interim.send(status, &fields);
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use bytes::BytesMut;
    use hyper::Response;
    use maxine_http1::{Connection, HeadLimits, RequestHead};
    use tokio::io::AsyncReadExt;

    use super::*;

    fn hint() -> HeaderMap {
        let fields = [
            ("link", "</a>"),
            ("connection", "x-own"),
            ("x-own", "1"),
            ("set-cookie", "a=1"),
            ("content-length", "100"),
            ("x-maxine-index", "5"),
            ("x-filtered", "1"),
        ];
        fields
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .into_iter()
            .collect()
    }

    fn filter(fields: &mut HeaderMap) {
        fields.remove("x-filtered");
    }

    #[tokio::test]
    async fn a_hint_loses_the_fields_that_an_instance_may_not_set() {
        let (near, mut far) = tokio::io::duplex(4_096);
        let (read, write) = tokio::io::split(near);
        let limits = HeadLimits { len_max: 100, fields_max: 10 };
        let head = RequestHead::read(b"GET / HTTP/1.1\r\n\r\n", limits).unwrap().unwrap().0;
        let client = Connection { read, write, bytes: BytesMut::new() };
        let asking = client.ask(head, |_, interim| async move {
            InterimSink::new(interim, filter).send(StatusCode::EARLY_HINTS, hint());
            Response::new(Body::empty())
        });
        let (response, asked) = asking.await.unwrap();
        drop(asked.send(response, false, 0).await);
        let mut seen = String::new();
        far.read_to_string(&mut seen).await.unwrap();
        let (first, rest) = seen.split_once("\r\n\r\n").unwrap();
        assert_eq!(first, "HTTP/1.1 103 Early Hints\r\nlink: </a>");
        assert!(rest.starts_with("HTTP/1.1 200 OK\r\n"), "{rest}");
    }
}
