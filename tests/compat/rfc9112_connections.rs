//! Requirements of RFC 9112 for the connections of a gateway: their versions, how long they persist, and
//! where messages end. `docs/reference/proxy-conformance.md` names these tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::peers::*;

/// Clients with HTTP/1.0 get no chunks and no interim answers. Their connection stays open only if they ask
/// for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http10_gets_what_http10_knows() {
    let rig = Rig::http1(|head| {
        if head.starts_with("GET /chunked") {
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n2\r\nok\r\n0\r\nx: 1\r\n\r\n".to_vec()
        } else {
            ok()
        }
    })
    .await;
    let got = rig
        .raw(format!(
            "GET {PROXIED}/chunked HTTP/1.0\r\nConnection: keep-alive\r\nTE: trailers\r\n\r\n"
        ))
        .await;
    assert!(got.starts_with("HTTP/1.0 200") && body_of(&got) == "ok", "{got}");
    assert!(values(&got, "transfer-encoding").is_empty(), "{got}");
    // The length is known: the connection is kept if the client asked for it, and closed otherwise.
    let plain = rig.raw(format!("GET {PROXIED}/x HTTP/1.0\r\n\r\n{INNER}")).await;
    assert_eq!(plain.matches("HTTP/1.").count(), 1, "{plain}");
    assert!(!values(&plain, "connection").contains(&"keep-alive"), "{plain}");
    let two = format!(
        "GET {PROXIED}/x HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\nGET {PROXIED}/x HTTP/1.0\r\n\r\n"
    );
    let kept = rig.raw(two).await;
    assert_eq!(kept.matches("HTTP/1.0 200").count(), 2, "{kept}");
    assert!(kept.to_ascii_lowercase().contains("connection: keep-alive"), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_persists_until_either_side_says_close() {
    let rig = Rig::http1(|head| {
        let turn = head.split(['/', ' ']).nth(2).unwrap();
        answer("200 OK", if turn == "close" { "Connection: close\r\n" } else { "" }, turn)
    })
    .await;
    let get =
        |path: &str, field: &str| format!("GET {PROXIED}{path} HTTP/1.1\r\nHost: h\r\n{field}\r\n");
    // Pipelined requests are answered in order, up to the one that asks to close the connection. Later ones
    // are not answered.
    let all = [
        get("/one", ""),
        get("/two", "Connection: keep-alive\r\n"),
        get("/close", ""),
        get("/three", "Connection: x, CLOSE\r\n"),
        get("/never", ""),
    ]
    .concat();
    let got = rig.raw(all).await;
    let bodies: Vec<&str> = got.split("HTTP/1.1 200 OK\r\n").skip(1).map(body_of).collect();
    assert_eq!(bodies, ["one", "two", "close", "three"], "{got}");
    let last = got.rsplit("HTTP/1.1 200 OK\r\n").next().unwrap();
    assert!(last.contains("\r\nconnection: close\r\n"), "it is announced: {last}");
    assert_eq!(got.to_ascii_lowercase().matches("connection: close").count(), 1, "{got}");
    assert_eq!(rig.seen().len(), 4, "nothing behind the end is done");
}

/// `close` from the instance ends only its own connection. HTTP/1.0 without `keep-alive` means the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_instances_connection_is_not_used_after_it_said_close() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let rig = Rig::with(Seen::default(), move |mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            // The instance keeps the connection open, and would answer.
            loop {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.ok()?);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let first = match head.split(['/', ' ']).nth(2)? {
                    "close" => "HTTP/1.1 200 OK\r\nConnection: close\r\n",
                    "listed" => "HTTP/1.1 200 OK\r\nConnection: x, Close\r\n",
                    "old" => "HTTP/1.0 200 OK\r\n",
                    "old-kept" => "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n",
                    _ => "HTTP/1.1 200 OK\r\n",
                };
                stream
                    .write_all(format!("{first}Content-Length: 2\r\n\r\nok").as_bytes())
                    .await
                    .ok()?;
            }
        }
    })
    .await;
    for (path, new) in
        [("/close", true), ("/listed", true), ("/old", true), ("/x", false), ("/old-kept", false)]
    {
        let before = connections.load(Ordering::SeqCst);
        for _ in 0..4 {
            assert_eq!(status_of(&rig.get(path, "").await), 200, "{path}");
        }
        let made = connections.load(Ordering::SeqCst) - before;
        assert!(if new { made >= 3 } else { made <= 1 }, "{path}: {made} connections");
    }
}

/// Bytes that an instance sends without a request never count as an answer, and the connection is not used
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_nobody_asked_for_are_no_answer() {
    let rig = Rig::http1(|head| {
        let stray = if head.starts_with("GET /stray") {
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"
        } else {
            ""
        };
        [&answer("200 OK", "", "own")[..], stray.as_bytes()].concat()
    })
    .await;
    for _ in 0..20 {
        for path in ["/stray", "/x"] {
            let got = rig.get(path, "").await;
            assert_eq!((status_of(&got), body_of(&got)), (200, "own"), "{path}: {got}");
        }
    }
}

/// An answer ends as its framing says or, without a framing, with the connection. If it ends too early, the
/// client sees that.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_never_looks_whole() {
    let rig = Rig::http1(|head| {
        let rest = match head.split(['/', ' ']).nth(2).unwrap() {
            "length" => "Content-Length: 9\r\n\r\nhalf",
            "chunked" => "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            _ => "\r\nall",
        };
        [b"HTTP/1.1 200 OK\r\n", rest.as_bytes(), CLOSE].concat()
    })
    .await;
    let got = rig.get("/length", "").await;
    assert!(values(&got, "content-length") == ["9"] && body_of(&got) == "half", "{got}");
    let got = rig.get("/chunked", "").await;
    assert!(got.contains("half") && !got.ends_with("0\r\n\r\n"), "{got}");
    let got = rig.get("/until-the-end", "").await;
    assert_eq!(body_of(&got), "3\r\nall\r\n0\r\n\r\n", "{got}");
}

/// A used connection ends after a request was sent on it. Which requests are sent again is as documented.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_crosses_the_end_of_its_connection_goes_out_again_only_if_it_may() {
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    let rig = Rig::with(seen, move |mut stream| {
        let kept = Arc::clone(&kept);
        async move {
            let mut is_used = false;
            loop {
                let request = read_request(&mut stream).await?;
                let which = if is_used { "used" } else { "new" };
                kept.lock().unwrap().push(format!("{which} {request}"));
                let rest: &[u8] = match request.split(['/', ' ']).nth(2)? {
                    _ if !is_used => &ok(),
                    "half" => b"HTTP/1.1 200 OK\r\nContent-Le",
                    "malformed" => b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
                    _ => b"",
                };
                stream.write_all(rest).await.ok()?;
                if is_used {
                    return None;
                }
                is_used = true;
            }
        }
    })
    .await;
    for (method, path, len, status, sent) in [
        ("GET", "/x", 0, 200, 2),
        ("HEAD", "/x", 0, 200, 2),
        ("DELETE", "/x", 0, 200, 2),
        ("PUT", "/x", 16 * 1_024, 200, 2),
        ("GET", "/half", 0, 200, 2),
        // After a malformed answer the request is not sent again.
        ("GET", "/malformed", 0, 502, 1),
        // The body is too long to keep, or the request may have been processed.
        ("PUT", "/x", 16 * 1_024 + 1, 502, 1),
        ("POST", "/x", 5, 502, 1),
        ("POST", "/x", 0, 502, 1),
        ("PATCH", "/x", 5, 502, 1),
    ] {
        let fields = format!("Content-Length: {len}\r\n\r\n{}", "x".repeat(len));
        let what = format!("{method} {path} {len}");
        // It is repeated until the request uses the connection on which another one was sent before.
        let mut turns = 0..100;
        let (got, seen) = loop {
            assert!(turns.next().is_some(), "{what}: no connection was used twice");
            assert_eq!(status_of(&rig.get("/warm", "").await), 200);
            rig.seen();
            let got = rig.ask(&format!("{method} {PROXIED}{path} HTTP/1.1"), &fields).await;
            let seen = rig.seen();
            if seen[0].starts_with("used ") {
                break (got, seen);
            }
        };
        assert_eq!((status_of(&got), seen.len()), (status, sent), "{what}: {got}");
        assert!(status == 200 || got.contains("x-maxine-error: "), "{what}: {got}");
    }
}
