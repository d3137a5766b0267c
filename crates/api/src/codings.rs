//! The codings of answers: which ones a client accepts, and the compression of long lists.

use std::io::Write;

use axum::Json;
use axum::body::Body;
use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderMap, Response};
use axum::response::IntoResponse;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

/// Length from which a list is compressed, in bytes. A shorter one fits into one packet.
const PACKED_LEN_MIN: usize = 1_024;

/// Whether the client accepts answers in this coding (RFC 9110, section 12.5.3).
pub(super) fn accepts(headers: &HeaderMap, coding: &str) -> bool {
    let mut others = false;
    for field in headers.get_all(header::ACCEPT_ENCODING) {
        for item in field.to_str().unwrap_or_default().split(',') {
            let mut parts = item.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q="));
            let wanted = weight.is_none_or(|q| q.parse::<f32>().is_ok_and(|q| q > 0.0));
            if name.eq_ignore_ascii_case(coding) {
                return wanted;
            }
            others |= name == "*" && wanted;
        }
    }
    others
}

/// A list as JSON. If `gzip`, and if it is long, it is compressed at once, in the least thorough way.
pub(super) fn json(list: &impl Serialize, gzip: bool) -> Response<Body> {
    let json = if gzip { serde_json::to_vec(list).ok() } else { None };
    let mut response = match json.and_then(|json| packed(&json)) {
        None => Json(list).into_response(),
        Some(packed) => {
            let mut response = Response::new(Body::from(packed));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        }
    };
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

fn packed(json: &[u8]) -> Option<Vec<u8>> {
    if json.len() < PACKED_LEN_MIN {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(json).ok()?;
    encoder.finish().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn a_compressed_form_is_sent_only_to_who_accepts_it() {
        let accepts = |field: &'static str, coding| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(field));
            accepts(&headers, coding)
        };
        assert!(accepts("gzip, deflate, br, zstd", "br"));
        assert!(accepts("GZIP", "gzip"));
        assert!(accepts("br;q=0.5", "br"));
        assert!(accepts("*", "gzip"));
        assert!(!accepts("br;q=0, *", "br"));
        assert!(!accepts("gzip; q=0.000", "gzip"));
        assert!(!accepts("brotli", "br"));
        assert!(!accepts("identity", "gzip"));
        assert!(!accepts("*;q=0", "gzip"));
        assert!(!super::accepts(&HeaderMap::new(), "br"));
    }

    async fn answered(list: &impl Serialize, gzip: bool) -> (bool, Vec<u8>) {
        let response = json(list, gzip);
        let headers = response.headers();
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        assert_eq!(headers[header::VARY], "Accept-Encoding");
        let is_packed = headers.get(header::CONTENT_ENCODING).is_some_and(|name| name == "gzip");
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (is_packed, body.to_vec())
    }

    #[tokio::test]
    async fn a_long_list_is_compressed_if_the_client_accepts_that() {
        let list: Vec<String> = (0..200).map(|n| format!("instance-{n}")).collect();
        let plain = serde_json::to_vec(&list).unwrap();
        assert!(plain.len() >= PACKED_LEN_MIN);
        assert_eq!(answered(&list, false).await, (false, plain.clone()));
        let (is_packed, body) = answered(&list, true).await;
        assert!(is_packed && body.len() < plain.len() / 2, "{} bytes", body.len());
        let mut unpacked = Vec::new();
        GzDecoder::new(&body[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, plain);
        // Of a short one, compression saves nothing.
        let short = ["instance-1"];
        assert_eq!(answered(&short, true).await, (false, serde_json::to_vec(&short).unwrap()));
    }
}
