//! Requirements of RFC 9112 for a gateway: parsing, framing and connections of HTTP/1.1, in both directions.
//! `docs/reference/proxy-conformance.md` names these tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::peers::*;

/// A request with these lines after the first one.
fn post(lines: &str) -> String {
    format!("POST {PROXIED}/x HTTP/1.1\r\n{lines}")
}

/// Checks that there is exactly one answer, with one of these statuses, and that nothing reached the
/// instance.
async fn refused(rig: &Rig, request: impl AsRef<[u8]>, statuses: &[u16]) {
    let shown: String = String::from_utf8_lossy(request.as_ref()).chars().take(120).collect();
    let got = rig.raw(request).await;
    assert!(statuses.contains(&status_of(&got)), "{shown:?}: {got:?}");
    assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{shown:?}: {got}");
    let seen = rig.seen();
    assert!(seen.is_empty(), "{shown:?} reached the instance: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_head_is_refused_and_its_connection_closed() {
    let rig = Rig::http1(|_| ok()).await;
    let get = format!("GET {PROXIED}/x HTTP/1.1\r\n");
    for head in [
        // Request lines.
        format!("GET  {PROXIED}/x HTTP/1.1\r\nHost: h\r\n\r\n"),
        format!("GET {PROXIED}/x\tHTTP/1.1\r\nHost: h\r\n\r\n"),
        format!("GET {PROXIED}/a b HTTP/1.1\r\nHost: h\r\n\r\n"),
        format!("GET {PROXIED}/x HTTP/1.1 \r\nHost: h\r\n\r\n"),
        format!("GET {PROXIED}/x HTTP/1.\r\nHost: h\r\n\r\n"),
        format!("GET {PROXIED}/x http/1.1\r\nHost: h\r\n\r\n"),
        format!("GET {PROXIED}/x HTTP/2.0\r\nHost: h\r\n\r\n"),
        format!("GET {PROXIED}/x\r\n\r\n"),
        format!("G(T {PROXIED}/x HTTP/1.1\r\nHost: h\r\n\r\n"),
        format!("GET {PROXIED}/a\u{1}b HTTP/1.1\r\nHost: h\r\n\r\n"),
        // Whitespace before the first field, in a name, before the colon; folded lines.
        format!("{get} X: 1\r\nHost: h\r\n\r\n"),
        format!("{get}Host: h\r\nX : 1\r\n\r\n"),
        format!("{get}Host: h\r\nX\t: 1\r\n\r\n"),
        format!("{get}Host: h\r\nX Y: 1\r\n\r\n"),
        format!("{get}Host: h\r\nX: 1\r\n 2\r\n\r\n"),
        format!("{get}Host: h\r\nX: 1\r\n\t2\r\n\r\n"),
        // Lines without a name or a colon, bytes that no field has, a bare CR.
        format!("{get}Host: h\r\n: 1\r\n\r\n"),
        format!("{get}Host: h\r\nX\r\n\r\n"),
        format!("{get}Host: h\r\nX(: 1\r\n\r\n"),
        format!("{get}Host: h\r\nX: a\0b\r\n\r\n"),
        format!("{get}Host: h\r\nX: a\rb\r\n\r\n"),
        format!("{get}Host: h\r\nX: a\u{1}b\r\n\r\n"),
        format!("{get}Host: h\r\nX: a\u{7f}b\r\n\r\n"),
    ] {
        refused(&rig, format!("{head}{INNER}"), &[400]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_recipient_has_to_put_up_with_is_taken() {
    let rig = Rig::http1(|_| ok()).await;
    let get = format!("GET {PROXIED}/x HTTP/1.1\r\nConnection: close\r\n");
    for (head, field) in [
        // Empty lines before the first one.
        (format!("\r\n\r\n{get}Host: h\r\nX: 1\r\n\r\n"), "x: 1"),
        // Whitespace around a value, none at all, an empty value, names in any case.
        (format!("{get}hOsT:h\r\nx: \t 1 \t \r\n\r\n"), "x: 1"),
        (format!("{get}Host: h\r\nX:1\r\n\r\n"), "x: 1"),
        (format!("{get}Host: h\r\nX:\r\n\r\n"), "x: "),
        (format!("{get}Host: h\r\nX: a\tb\r\n\r\n"), "x: a\tb"),
        // Bytes above 0x7f have no meaning, and are forwarded.
        (format!("{get}Host: h\r\nX: \u{e9}\r\n\r\n"), "x: \u{e9}"),
        // Lines may end without CR.
        (format!("GET {PROXIED}/x HTTP/1.1\nConnection: close\nHost: h\nX: 1\n\n"), "x: 1"),
    ] {
        let got = rig.raw(&head).await;
        assert_eq!(status_of(&got), 200, "{head:?}: {got}");
        let seen = rig.seen().remove(0);
        assert!(seen.contains(&format!("\r\n{field}\r\n")), "{head:?}: {seen:?}");
    }
    // Only the path of an absolute target is used. `*` belongs to no instance.
    let got = rig
        .raw(format!("GET http://h{PROXIED}/y?z HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
        .await;
    assert_eq!(status_of(&got), 200, "{got}");
    assert!(rig.seen().remove(0).starts_with("GET /y?z HTTP/1.1\r\n"));
    let got = rig.raw("OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status_of(&got), 204, "{got}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_or_a_head_that_is_too_long_says_so() {
    let rig = Rig::http1(|_| ok()).await;
    let target = |len: usize| {
        format!(
            "GET {PROXIED}/{} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
            "a".repeat(len)
        )
    };
    assert_eq!(status_of(&rig.raw(target(8_000)).await), 200);
    rig.seen();
    refused(&rig, target(33_000), &[414]).await;
    refused(&rig, target(60_000), &[414]).await;
    refused(&rig, target(200_000), &[414]).await;
    let field = |len: usize| {
        format!("GET {PROXIED}/x HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "a".repeat(len))
    };
    refused(&rig, field(70_000), &[431]).await;
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    refused(&rig, format!("GET {PROXIED}/x HTTP/1.1\r\nHost: h\r\n{many}\r\n"), &[431]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_framing_that_is_no_one_is_refused() {
    let rig = Rig::http1(|_| ok()).await;
    for (fields, statuses) in [
        // Invalid lengths, or lengths that differ.
        ("Content-Length: 3, 4\r\n", &[400][..]),
        ("Content-Length: 3\r\nContent-Length: 4\r\n", &[400]),
        ("Content-Length: -3\r\n", &[400]),
        ("Content-Length: +3\r\n", &[400]),
        ("Content-Length: 0x3\r\n", &[400]),
        ("Content-Length: 3.0\r\n", &[400]),
        ("Content-Length: 3 3\r\n", &[400]),
        ("Content-Length: \"3\"\r\n", &[400]),
        ("Content-Length:\r\n", &[400]),
        ("Content-Length: three\r\n", &[400]),
        ("Content-Length: 18446744073709551616\r\n", &[400]),
        ("Content-Length: 99999999999999999999999999\r\n", &[400]),
        ("Content-Length: 18446744073709551615\r\n", &[413, 431]),
        ("Content-Length: 9223372036854775807\r\n", &[413]),
        // Codings that are not understood, or not last, or not alone.
        ("Transfer-Encoding: gzip\r\n", &[400]),
        ("Transfer-Encoding: chunked, gzip\r\n", &[400]),
        ("Transfer-Encoding: gzip, chunked\r\n", &[501]),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", &[501]),
        ("Transfer-Encoding: chunked, chunked\r\n", &[400, 501]),
        ("Transfer-Encoding: identity\r\n", &[400]),
        ("Transfer-Encoding: identity, chunked\r\n", &[400, 501]),
        ("Transfer-Encoding: \"chunked\"\r\n", &[400]),
        ("Transfer-Encoding: chunked;q=1\r\n", &[400]),
        ("Transfer-Encoding: xchunked\r\n", &[400]),
        ("Transfer-Encoding:\r\n", &[400]),
    ] {
        refused(
            &rig,
            post(&format!("Host: h\r\n{fields}\r\n3\r\nabc\r\n0\r\n\r\n{INNER}")),
            statuses,
        )
        .await;
    }
    // HTTP/1.0 has no transfer codings.
    let old = format!(
        "POST {PROXIED}/x HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{INNER}"
    );
    assert_eq!(status_of(&rig.raw(old).await), 400);
    assert!(rig.seen().is_empty());
    // The same length twice counts as one. Upper and lower case of a coding's name are equal.
    for (fields, body) in [
        ("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
        ("Content-Length: 03\r\n", "abc"),
        ("Transfer-Encoding: Chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
    ] {
        let got =
            rig.raw(post(&format!("Host: h\r\nConnection: close\r\n{fields}\r\n{body}"))).await;
        let seen = rig.seen().remove(0);
        assert!(status_of(&got) == 200 && body_of(&seen).contains("abc"), "{fields}: {got} {seen}");
        assert!(values(&seen, "content-length").len() <= 1, "{seen}");
    }
}

/// A request has both framings, so that two parsers could find two different ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_chunks_is_refused_and_the_connection_closed() {
    let rig = Rig::http1(|_| ok()).await;
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
    ] {
        let request = post(&format!("Host: h\r\n{fields}\r\n\r\n3\r\nabc\r\n0\r\n\r\n{INNER}"));
        refused(&rig, &request, &[400]).await;
        let got = rig.raw(&request).await;
        assert_eq!(values(&got, "connection"), ["close"], "{got}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_decoded_strictly_and_their_extensions_go_nowhere() {
    let rig = Rig::http1(|_| ok()).await;
    let chunked = |chunks: &str| {
        post(&format!("Host: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"))
    };
    for chunks in [
        "3;a=b\r\nabc\r\n0;c\r\n\r\n",
        "3;a=\"b\"\r\nabc\r\n0\r\n\r\n",
        "0003\r\nabc\r\n000\r\n\r\n",
        "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
    ] {
        let got = rig.raw(chunked(chunks)).await;
        let seen = rig.seen().remove(0);
        assert_eq!(status_of(&got), 200, "{chunks:?}: {got}");
        assert!(!body_of(&seen).contains([';', '"']), "{chunks:?}: {seen}");
    }
    for chunks in [
        "zz\r\nabc\r\n0\r\n\r\n".to_owned(),
        "-3\r\nabc\r\n0\r\n\r\n".into(),
        "0x3\r\nabc\r\n0\r\n\r\n".into(),
        "\r\nabc\r\n0\r\n\r\n".into(),
        "3\r\nabcd\r\n0\r\n\r\n".into(),
        "3\r\nabc0\r\n\r\n".into(),
        "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n".into(),
        "3\nabc\n0\n\n".into(),
        format!("3;{}\r\nabc\r\n0\r\n\r\n", "a".repeat(20_000)),
        format!("3\r\nabc\r\n0\r\n{}\r\n", "x: 1\r\n".repeat(20_000)),
    ] {
        let got = rig.raw(chunked(&format!("{chunks}{INNER}"))).await;
        let shown: String = chunks.chars().take(40).collect();
        assert!(
            status_of(&got) == 400 && got.matches("HTTP/1.1 ").count() == 1,
            "{shown:?}: {got}"
        );
        let whole = rig.seen().into_iter().any(|seen| seen.ends_with("0\r\n\r\n"));
        assert!(!whole, "{shown:?} reached the instance as a whole request");
    }
}

/// A client disconnects within its body. The instance never considers the request complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_breaks_off_is_never_whole() {
    let ended = Arc::new(tokio::sync::Notify::new());
    let tell = Arc::clone(&ended);
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    let rig = Rig::with(seen, move |mut stream| {
        let (tell, kept) = (Arc::clone(&tell), Arc::clone(&kept));
        async move {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes).await;
            kept.lock().unwrap().push(String::from_utf8_lossy(&bytes).into_owned());
            tell.notify_one();
            None
        }
    })
    .await;
    for (fields, part) in [
        ("Transfer-Encoding: chunked", "3\r\nabc\r\n".to_owned()),
        ("Content-Length: 100000", "x".repeat(50_000)),
    ] {
        let mut client = TcpStream::connect(rig.server.addr).await.unwrap();
        let head = post(&format!("Host: h\r\n{fields}\r\n\r\n{part}"));
        client.write_all(head.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        tokio::time::timeout(PATIENCE, ended.notified()).await.unwrap();
        let seen = rig.seen().remove(0);
        assert!(!seen.ends_with("0\r\n\r\n") && body_of(&seen).len() < 100_000, "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_answer_becomes_502_and_its_connection_is_closed() {
    let folded = "X: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok";
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let shapes: Vec<String> = [
        folded,
        "X : 1\r\nContent-Length: 2\r\n\r\nok",
        "Content-Length : 2\r\n\r\nok",
        " X: 1\r\nContent-Length: 2\r\n\r\nok",
        "X: a\0b\r\nContent-Length: 2\r\n\r\nok",
        "X: a\rb\r\nContent-Length: 2\r\n\r\nok",
        ": 1\r\nContent-Length: 2\r\n\r\nok",
        "Content-Length: 2, 3\r\n\r\nok",
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "Content-Length: +2\r\n\r\nok",
        "Content-Length: 18446744073709551616\r\n\r\nok",
        "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip\r\n\r\nok",
        "Transfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "Transfer-Encoding: identity\r\n\r\nok",
    ]
    .map(|rest| format!("HTTP/1.1 200 OK\r\n{rest}"))
    .into_iter()
    .chain([
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned(),
        "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok".into(),
        "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into(),
        "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok".into(),
    ])
    .collect();
    let by_number = shapes.clone();
    let rig = Rig::with(Seen::default(), move |mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        let shapes = by_number.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.ok()?);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let number: usize = head.split(['/', ' ']).nth(2)?.parse().ok()?;
            stream.write_all(shapes[number].as_bytes()).await.ok()?;
            // The connection stays open. If it were used again, this read would return a byte.
            let rest = stream.read_u8().await;
            assert!(rest.is_err(), "the connection was used again");
            None
        }
    })
    .await;
    for (number, shape) in shapes.iter().enumerate() {
        let got = rig.get(&format!("/{number}"), "").await;
        assert_eq!(status_of(&got), 502, "{shape:?}: {got}");
        assert!(got.contains("x-maxine-error: bad_response"), "{shape:?}: {got}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), shapes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answers_length_is_said_once_and_never_beside_chunks() {
    let rig = Rig::http1(|head| {
        let rest = match head.split(['/', ' ']).nth(2).unwrap() {
            "list" => "Content-Length: 2, 2\r\n\r\nok",
            "twice" => "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
            _ => "Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        };
        format!("HTTP/1.1 200 OK\r\n{rest}").into_bytes()
    })
    .await;
    for path in ["/list", "/twice"] {
        let got = rig.get(path, "").await;
        assert_eq!(
            (values(&got, "content-length"), body_of(&got)),
            (vec!["2"], "ok"),
            "{path}: {got}"
        );
    }
    let got = rig.get("/both", "").await;
    assert!(values(&got, "content-length").is_empty(), "{got}");
    assert_eq!(
        (values(&got, "transfer-encoding"), body_of(&got)),
        (vec!["chunked"], "2\r\nok\r\n0\r\n\r\n")
    );
}
