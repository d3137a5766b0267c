//! Requirements of RFC 9113 for a gateway as a client of instances with HTTP/2.
//! `docs/reference/proxy-conformance.md` names these tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::peers::*;
use super::support::node;

/// Number of connections, and number of requests on them.
type Counts = Arc<[AtomicUsize; 2]>;

/// Starts an instance with HTTP/2 and returns its port. `answer` makes the frames for each request from the
/// number of its connection and its stream.
async fn listen_http2(
    counts: Counts,
    answer: impl Fn(usize, u32) -> Vec<u8> + Send + Sync + 'static,
) -> u16 {
    let answer = Arc::new(answer);
    listen(move |stream| {
        let (answer, counts) = (Arc::clone(&answer), Arc::clone(&counts));
        let number = counts[0].fetch_add(1, Ordering::SeqCst);
        async move {
            let mut wire = Wire::server(stream).await?;
            while let Some(frame) = wire.read().await {
                if frame.kind == HEADERS {
                    counts[1].fetch_add(1, Ordering::SeqCst);
                    wire.send(answer(number, frame.stream)).await;
                }
            }
            Some(())
        }
    })
    .await
}

/// A node with such an instance.
async fn instance(answer: impl Fn(usize, u32) -> Vec<u8> + Send + Sync + 'static) -> (Rig, Counts) {
    let counts = Counts::default();
    let rig = Rig::at(listen_http2(Arc::clone(&counts), answer).await).await;
    (rig.over_http2().await, counts)
}

fn count(counts: &Counts) -> (usize, usize) {
    (counts[0].load(Ordering::SeqCst), counts[1].load(Ordering::SeqCst))
}

/// An answer of an instance.
fn good(stream: u32) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, stream, block(&[(":status", "200")]));
    [head, frame(DATA, END, stream, b"ok")].concat()
}

fn refuse(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, REFUSED_STREAM.to_be_bytes())
}

/// A GOAWAY that refuses every stream above `last`.
fn leave(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, [last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// A request that the instance refused, or that is above the last stream of a GOAWAY, was not processed
/// (section 8.7). It is sent once more on another connection, whatever its method is.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_an_instance_did_not_process_goes_out_once_more() {
    for (what, refusal) in [
        ("REFUSED_STREAM", refuse as fn(u32) -> Vec<u8>),
        ("GOAWAY", |_| leave(0, NO_ERROR)),
        ("GOAWAY with an error", |_| leave(0, ENHANCE_YOUR_CALM)),
    ] {
        let (rig, counts) = instance(
            move |number, stream| if number == 0 { refusal(stream) } else { good(stream) },
        )
        .await;
        let got =
            rig.ask(&format!("POST {PROXIED}/x HTTP/1.1"), "Content-Length: 5\r\n\r\norder").await;
        assert!(status_of(&got) == 200 && body_of(&got).contains("ok"), "{what}: {got}");
        assert_eq!(count(&counts), (2, 2), "{what}");
        // The new connection is kept.
        assert_eq!(status_of(&rig.get("/x", "").await), 200, "{what}");
        assert_eq!(count(&counts), (2, 3), "{what}");
    }
    // If it is refused twice, the client gets that error, with the note that a retry is safe.
    let (rig, counts) = instance(|_, stream| refuse(stream)).await;
    let got = rig.get("/x", "").await;
    assert_eq!(status_of(&got), 503, "{got}");
    assert!(
        got.contains("x-maxine-error: upstream_refused") && got.contains("retry-after: "),
        "{got}"
    );
    assert_eq!(count(&counts), (2, 2), "once more, and no more");
    // With a retry policy, another instance gets the request, even a `POST`.
    rig.server
        .register(node("s", "m", listen_http2(Counts::default(), |_, stream| good(stream)).await))
        .await;
    rig.policy(&json!({"traffic": {"protocol": "http2", "retries": {"attempts": 2}}})).await;
    for _ in 0..4 {
        let got =
            rig.ask(&format!("POST {PROXIED}/x HTTP/1.1"), "Content-Length: 5\r\n\r\norder").await;
        assert_eq!(status_of(&got), 200, "{got}");
    }
}

/// A server of HTTP/2 that refuses the requests of its first connection. Later it answers with what it received.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_goes_out_again_whole_and_to_the_instances_own_authority() {
    let connections = Arc::new(AtomicUsize::new(0));
    let made = Arc::clone(&connections);
    let port = listen(move |stream| {
        let number = made.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut connection = h2::server::handshake(stream).await.ok()?;
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if number == 0 {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                    continue;
                }
                tokio::spawn(async move {
                    let (parts, mut body) = request.into_parts();
                    let mut seen = format!("{} {} ", parts.method, parts.uri).into_bytes();
                    while let Some(Ok(data)) = body.data().await {
                        seen.extend_from_slice(&data);
                    }
                    assert!(!parts.headers.contains_key("host"));
                    let mut stream =
                        respond.send_response(hyper::Response::new(()), false).unwrap();
                    stream.send_data(seen.into(), true).unwrap();
                });
            }
            Some(())
        }
    })
    .await;
    let rig = Rig::at(port).await.over_http2().await;
    let got =
        rig.ask(&format!("POST {PROXIED}/x?y HTTP/1.1"), "Content-Length: 5\r\n\r\norder").await;
    assert!(got.contains(&format!("POST http://127.0.0.1:{port}/x?y order")), "{got}");
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

/// If the instance accepted the stream, it may have processed the request, so a `POST` is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_an_instance_may_have_processed_does_not() {
    for (what, end) in [
        (
            "an error of the stream",
            (|stream| frame(RST_STREAM, 0, stream, 2_u32.to_be_bytes())) as fn(u32) -> Vec<u8>,
        ),
        ("a cancellation", |stream| frame(RST_STREAM, 0, stream, 8_u32.to_be_bytes())),
        ("a stream below the last one, and the end", |stream| {
            [leave(stream, NO_ERROR), frame(SETTINGS, 0, 1, [])].concat()
        }),
        ("a breach", |stream| frame(DATA, 0, stream + 2, b"x")),
    ] {
        let (rig, counts) = instance(move |_, stream| end(stream)).await;
        let got =
            rig.ask(&format!("POST {PROXIED}/x HTTP/1.1"), "Content-Length: 5\r\n\r\norder").await;
        assert_eq!(status_of(&got), 502, "{what}: {got}");
        assert_eq!(count(&counts).1, 1, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_answer_over_http2_becomes_502() {
    const SHAPES: [&[(&str, &str)]; 9] = [
        &[(":status", "200"), ("X-Own", "1")],
        &[(":status", "200"), ("x own", "1")],
        &[(":status", "200"), ("x", "a\0b")],
        &[(":status", "200"), ("connection", "close")],
        &[(":status", "200"), ("transfer-encoding", "chunked")],
        &[(":status", "200"), (":status", "201")],
        &[("x", "1"), (":status", "200")],
        &[(":status", "abc")],
        &[("x", "1")],
    ];
    let turn = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&turn);
    let (rig, _) = instance(move |_, stream| {
        let fields = SHAPES[now.load(Ordering::SeqCst) % SHAPES.len()];
        frame(HEADERS, END | END_HEADERS, stream, block(fields))
    })
    .await;
    for (n, shape) in SHAPES.iter().enumerate() {
        turn.store(n, Ordering::SeqCst);
        let got = rig.get("/x", "").await;
        assert_eq!(status_of(&got), 502, "{shape:?}: {got}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_http2_is_asked_within_its_limits() {
    // Server push is not allowed: a promise ends the connection to the instance, and not that of the client.
    let (rig, _) = instance(|number, stream| {
        let promise = [&[0, 0, 0, 2][..], &get_block("/pushed", &[])].concat();
        if number == 0 { frame(PUSH_PROMISE, END_HEADERS, stream, promise) } else { good(stream) }
    })
    .await;
    assert_eq!(
        status_of(
            &rig.raw(format!("POST {PROXIED}/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
                .await
        ),
        502
    );
    assert_eq!(status_of(&rig.get("/x", "").await), 200);
    // A length that differs from that of the content, content that breaks off, and a reset with NO_ERROR
    // after the whole content.
    let (rig, _) = instance(|_, stream| {
        let head = frame(
            HEADERS,
            END_HEADERS,
            stream,
            block(&[(":status", "200"), ("content-length", "9")]),
        );
        [head, frame(DATA, END, stream, b"half")].concat()
    })
    .await;
    let got = rig.get("/x", "").await;
    assert!(status_of(&got) == 502 || body_of(&got).len() < 9, "{got}");
    let (rig, ..) =
        instance(|_, stream| [good(stream), frame(RST_STREAM, 0, stream, [0; 4])].concat()).await;
    let got = rig.get("/x", "").await;
    assert!(status_of(&got) == 200 && got.contains("ok"), "{got}");
    // Its settings allow one request at a time.
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let port = listen(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let mut preface = [0; PREFACE.len()];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut preface).await.ok()?;
            let mut wire = Wire(stream);
            wire.send(frame(SETTINGS, 0, 0, [0, 3, 0, 0, 0, 1])).await;
            let mut open = Vec::new();
            while let Some(frame) = wire.read().await {
                match frame.kind {
                    HEADERS => {
                        open.push(frame.stream);
                        seen.fetch_max(open.len(), Ordering::SeqCst);
                        // Frames that arrive before the answer to the ping were sent while the stream was
                        // open.
                        wire.send(self::frame(PING, 0, 0, [0; 8])).await;
                    }
                    PING if frame.flags & END != 0 => {
                        for stream in open.drain(..) {
                            wire.send(good(stream)).await;
                        }
                    }
                    _ => {}
                }
            }
            Some(())
        }
    })
    .await;
    let rig = Rig::at(port).await.over_http2().await;
    assert_eq!(status_of(&rig.get("/x", "").await), 200, "the settings have come");
    let got = futures::future::join_all((0..8).map(|_| rig.get("/x", ""))).await;
    assert!(got.iter().all(|got| status_of(got) == 200), "{got:?}");
    assert_eq!(most.load(Ordering::SeqCst), 1);
}
