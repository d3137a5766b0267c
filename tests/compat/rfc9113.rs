//! Requirements of RFC 9113 for a gateway as an HTTP/2 server. `docs/reference/proxy-conformance.md` names
//! these tests.

use std::sync::Arc;

use super::peers::*;
use super::support::Server;

const HEALTH: &str = "/api/actuator/health";

fn proxied(path: &str) -> String {
    format!("{PROXIED}{path}")
}

/// A request in one frame on stream 1, which also ends it.
fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END | END_HEADERS, 1, block(fields))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_request_is_an_error_of_its_stream_and_reaches_no_instance() {
    let rig = Rig::http1(|_| ok()).await;
    let path = proxied("/x");
    let path = path.as_str();
    let pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", path)];
    let with = |more: &[(&'static str, &'static str)]| request(&[&pseudo[..], more].concat());
    let without = |name: &str| {
        let rest: Vec<_> = pseudo.iter().copied().filter(|(field, _)| *field != name).collect();
        request(&rest)
    };
    let instead = |name: &'static str, value: &'static str| {
        let changed = pseudo.map(|field| if field.0 == name { (name, value) } else { field });
        request(&changed)
    };
    let body = |fields: &[(&'static str, &'static str)], len: usize| {
        let head = frame(HEADERS, END_HEADERS, 1, block(&[&pseudo[..], fields].concat()));
        [head, frame(DATA, END, 1, vec![b'x'; len])].concat()
    };
    let trailers = |fields: &[(&str, &str)], flags: u8| {
        let head = frame(HEADERS, END_HEADERS, 1, block(&pseudo));
        [head, frame(DATA, 0, 1, b"x"), frame(HEADERS, flags, 1, block(fields))].concat()
    };
    let mut wrong = Vec::new();
    for (what, bytes) in [
        ("a name in capitals", with(&[("X-Own", "1")])),
        ("a space in a name", with(&[("x own", "1")])),
        ("a colon in a name", with(&[("x:own", "1")])),
        ("an empty name", with(&[("", "1")])),
        ("NUL in a value", with(&[("x", "a\0b")])),
        ("CR in a value", with(&[("x", "a\rb")])),
        ("LF in a value", with(&[("x", "a\nb")])),
        ("a space in front of a value", with(&[("x", " a")])),
        ("a tab behind a value", with(&[("x", "a\t")])),
        ("connection", with(&[("connection", "close")])),
        ("keep-alive", with(&[("keep-alive", "timeout=5")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te other than trailers", with(&[("te", "gzip")])),
        ("an unknown pseudo field", with(&[(":own", "1")])),
        ("one of answers", with(&[(":status", "200")])),
        ("a pseudo field twice", with(&[(":path", "/y")])),
        ("one behind a field", request(&[&pseudo[..3], &[("x", "1"), (":path", path)]].concat())),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("an empty path", instead(":path", "")),
        ("a path without a slash", instead(":path", "x")),
        ("userinfo in the authority", instead(":authority", "u:p@h")),
        ("a host that differs", with(&[("host", "other.example")])),
        ("two lengths", body(&[("content-length", "3"), ("content-length", "4")], 3)),
        ("a length that is none", body(&[("content-length", "3x")], 3)),
        ("a length that is too long", body(&[("content-length", "4")], 3)),
        ("a length that is too short", body(&[("content-length", "2")], 3)),
        ("a length without content", with(&[("content-length", "2")])),
        ("trailers without an end", trailers(&[("x", "1")], END_HEADERS)),
    ] {
        let mut wire = Wire::client(&rig.server).await;
        wire.send(bytes).await;
        match wire.outcome(1).await {
            Outcome::Reset(PROTOCOL_ERROR) | Outcome::Status(400) => {
                // The connection continues.
                wire.send(get(3, HEALTH)).await;
                let next = wire.outcome(3).await;
                if next != Outcome::Status(200) {
                    wrong.push(format!("{what}: then {next:?}"));
                }
            }
            // A server may treat an error of a stream as an error of the connection (section 5.4.1).
            Outcome::GoAway(PROTOCOL_ERROR) => {}
            other => wrong.push(format!("{what}: {other:?}")),
        }
        let whole = rig.seen();
        if !whole.is_empty() {
            wrong.push(format!("{what} reached the instance: {whole:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_http2_clients_may_send_is_taken() {
    let rig = Rig::http1(|_| ok()).await;
    let path = proxied("/x");
    let block = get_block(
        &path,
        &[("te", "trailers"), ("x", "a b"), ("host", "h"), ("cookie", "a=1"), ("cookie", "b=2")],
    );
    let (first, second) = block.split_at(block.len() / 2);
    let padded = [&[3][..], &block, &[0; 3]].concat();
    let prioritized = [&[0, 0, 0, 0, 7][..], &block].concat();
    let mut wire = Wire::client(&rig.server).await;
    for (stream, bytes) in [
        (1, frame(HEADERS, END | END_HEADERS, 1, &block)),
        // The same request in two frames, with padding, and with a priority, which is deprecated and ignored.
        (3, [frame(HEADERS, END, 3, first), frame(CONTINUATION, END_HEADERS, 3, second)].concat()),
        (5, frame(HEADERS, END | END_HEADERS | 8, 5, padded)),
        (7, frame(HEADERS, END | END_HEADERS | 0x20, 7, prioritized)),
        (
            9,
            [frame(PRIORITY, 0, 9, [0, 0, 0, 1, 7]), frame(HEADERS, END | END_HEADERS, 9, &block)]
                .concat(),
        ),
        // Unknown frames, flags and settings, and the reserved bit of a stream's number.
        (
            11,
            [
                frame(0xbb, 0xff, 0, b"x"),
                frame(0xbb, 0xff, 11, b"x"),
                frame(HEADERS, END | END_HEADERS | 0xc0, 11, &block),
            ]
            .concat(),
        ),
        (
            13,
            [
                frame(SETTINGS, 0, 0, [0xba, 0xba, 0, 0, 0, 7]),
                frame(HEADERS, END | END_HEADERS, 13, &block),
            ]
            .concat(),
        ),
        (15, frame(HEADERS, END | END_HEADERS, 15 | 1 << 31, &block)),
        // Streams are numbered upwards, with gaps.
        (101, frame(HEADERS, END | END_HEADERS, 101, &block)),
    ] {
        wire.send(bytes).await;
        assert_eq!(wire.outcome(stream).await, Outcome::Status(200), "stream {stream}");
        let seen = rig.seen().remove(0);
        assert_eq!(
            (values(&seen, "x"), values(&seen, "cookie")),
            (vec!["a b"], vec!["a=1; b=2"]),
            "{seen}"
        );
    }
    // A pseudo field after the body is dropped. The library accepts the request without it.
    let post = [(":method", "POST"), (":scheme", "http"), (":authority", "h"), (":path", &path)];
    let head = frame(HEADERS, END_HEADERS, 103, super::peers::block(&post));
    let trailers = super::peers::block(&[(":path", "/other"), ("x-sum", "1")]);
    let trailers = frame(HEADERS, END | END_HEADERS, 103, trailers);
    wire.send([head, frame(DATA, 0, 103, b"a"), trailers].concat()).await;
    assert_eq!(wire.outcome(103).await, Outcome::Status(200));
    let seen = rig.seen().remove(0);
    assert!(seen.starts_with("POST /x HTTP/1.1\r\n") && !seen.contains("other"), "{seen}");
    // If `:authority` is missing, `host` is used.
    let bare = super::peers::block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", &path),
        ("host", "own.example"),
    ]);
    wire.send(frame(HEADERS, END | END_HEADERS, 105, bare)).await;
    assert_eq!(wire.outcome(105).await, Outcome::Status(200));
    assert_eq!(values(&rig.seen().remove(0), "x-forwarded-host"), ["own.example"]);
    // A ping is answered with the same content, and before anything that waits.
    wire.send(frame(PING, 0, 0, b"12345678")).await;
    let pong = wire.next(PING).await.unwrap();
    assert_eq!((pong.flags, &pong.payload[..]), (END, &b"12345678"[..]));
    // CONNECT is refused, with and without a protocol.
    let connect = super::peers::block(&[(":method", "CONNECT"), (":authority", "h:80")]);
    wire.send(frame(HEADERS, END_HEADERS, 107, connect)).await;
    let outcome = wire.outcome(107).await;
    assert!(matches!(outcome, Outcome::Status(400..=599) | Outcome::Reset(_)), "{outcome:?}");
    let websocket = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "h"),
        (":path", &path),
    ];
    wire.send(frame(HEADERS, END_HEADERS, 109, super::peers::block(&websocket))).await;
    let outcome = wire.outcome(109).await;
    assert!(matches!(outcome, Outcome::Status(400..=599) | Outcome::Reset(_)), "{outcome:?}");
    assert!(rig.seen().is_empty());
}

/// A violation of the framing ends the connection, with the code that RFC 9113 names.
#[tokio::test(flavor = "multi_thread")]
async fn a_breach_of_the_framing_ends_the_connection_with_its_code() {
    let rig = Rig::http1(|_| ok()).await;
    let block = get_block(HEALTH, &[]);
    let open = || frame(HEADERS, END_HEADERS, 1, &block);
    let setting =
        |id: u8, value: u32| frame(SETTINGS, 0, 0, [&[0, id][..], &value.to_be_bytes()].concat());
    let window = |stream: u32, by: u32| frame(WINDOW_UPDATE, 0, stream, by.to_be_bytes());
    let go_away = Outcome::GoAway;
    // The RFC names these codes; the library uses PROTOCOL_ERROR.
    let generic = |_exact: u32| Outcome::GoAway(PROTOCOL_ERROR);
    let mut wrong = Vec::new();
    for (what, bytes, expected) in [
        ("DATA on stream 0", frame(DATA, 0, 0, b"x"), go_away(PROTOCOL_ERROR)),
        ("DATA on an idle stream", frame(DATA, 0, 1, b"x"), go_away(PROTOCOL_ERROR)),
        (
            "DATA with too much padding",
            [open(), frame(DATA, 8, 1, [9, 0])].concat(),
            go_away(PROTOCOL_ERROR),
        ),
        (
            "HEADERS on stream 0",
            frame(HEADERS, END | END_HEADERS, 0, &block),
            go_away(PROTOCOL_ERROR),
        ),
        (
            "HEADERS on an even stream",
            frame(HEADERS, END | END_HEADERS, 2, &block),
            go_away(PROTOCOL_ERROR),
        ),
        (
            "a stream's number that was left out",
            [get(5, HEALTH), get(3, HEALTH)].concat(),
            go_away(PROTOCOL_ERROR),
        ),
        (
            "CONTINUATION of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &block),
            go_away(PROTOCOL_ERROR),
        ),
        (
            "another frame within a field block",
            [frame(HEADERS, END, 1, &block[..3]), frame(PING, 0, 0, [0; 8])].concat(),
            go_away(PROTOCOL_ERROR),
        ),
        (
            "a field block that is none",
            frame(HEADERS, END | END_HEADERS, 1, [0xff; 8]),
            generic(COMPRESSION_ERROR),
        ),
        (
            "a table that is too large",
            frame(HEADERS, END | END_HEADERS, 1, [&[0x3f, 0xff, 0xff, 0x7f][..], &block].concat()),
            generic(COMPRESSION_ERROR),
        ),
        ("PRIORITY on stream 0", frame(PRIORITY, 0, 0, [0; 5]), go_away(PROTOCOL_ERROR)),
        ("RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, [0; 4]), go_away(PROTOCOL_ERROR)),
        ("RST_STREAM of an idle stream", frame(RST_STREAM, 0, 1, [0; 4]), go_away(PROTOCOL_ERROR)),
        (
            "RST_STREAM of another length",
            [open(), frame(RST_STREAM, 0, 1, [0; 3])].concat(),
            generic(FRAME_SIZE_ERROR),
        ),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, []), go_away(PROTOCOL_ERROR)),
        ("SETTINGS of another length", frame(SETTINGS, 0, 0, [0; 5]), generic(FRAME_SIZE_ERROR)),
        (
            "an acknowledgement with content",
            frame(SETTINGS, END, 0, [0; 6]),
            generic(FRAME_SIZE_ERROR),
        ),
        ("ENABLE_PUSH of 2", setting(2, 2), go_away(PROTOCOL_ERROR)),
        ("a window of 2^31", setting(4, 1 << 31), generic(FLOW_CONTROL_ERROR)),
        ("a frame size below 2^14", setting(5, 100), go_away(PROTOCOL_ERROR)),
        ("a frame size of 2^24", setting(5, 1 << 24), go_away(PROTOCOL_ERROR)),
        (
            "PUSH_PROMISE of a client",
            [open(), frame(PUSH_PROMISE, END_HEADERS, 1, [&[0, 0, 0, 2][..], &block].concat())]
                .concat(),
            go_away(PROTOCOL_ERROR),
        ),
        ("PING on a stream", frame(PING, 0, 1, [0; 8]), go_away(PROTOCOL_ERROR)),
        ("PING of another length", frame(PING, 0, 0, [0; 7]), generic(FRAME_SIZE_ERROR)),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, [0; 8]), go_away(PROTOCOL_ERROR)),
        ("WINDOW_UPDATE of 0", window(0, 0), go_away(PROTOCOL_ERROR)),
        (
            "WINDOW_UPDATE of 0 on a stream",
            [open(), window(1, 0)].concat(),
            go_away(PROTOCOL_ERROR),
        ),
        ("WINDOW_UPDATE on an idle stream", window(1, 1), go_away(PROTOCOL_ERROR)),
        (
            "WINDOW_UPDATE of another length",
            frame(WINDOW_UPDATE, 0, 0, [0; 3]),
            generic(FRAME_SIZE_ERROR),
        ),
        ("a window above 2^31 - 1", window(0, (1 << 31) - 1), go_away(FLOW_CONTROL_ERROR)),
        ("a frame above the limit", frame(DATA, 0, 1, vec![0; 1 << 15]), go_away(FRAME_SIZE_ERROR)),
    ] {
        let mut wire = Wire::client(&rig.server).await;
        wire.send(bytes).await;
        let outcome = wire.outcome(99).await;
        if outcome != expected {
            wrong.push(format!("{what}: {outcome:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(rig.server.get(HEALTH).send().await.unwrap().status(), 200);
}

/// An incomplete preface is neither HTTP/2 nor a request of HTTP/1.1.
#[tokio::test(flavor = "multi_thread")]
async fn a_preface_that_breaks_off_ends_the_connection() {
    let rig = Rig::http1(|_| ok()).await;
    for rest in ["XX\r\n\r\n", "SM\r\nX\r\n", "SM\n\n"] {
        let got = rig.raw(format!("PRI * HTTP/2.0\r\n\r\n{rest}{HEALTH}")).await;
        assert!(!got.contains(" 200 "), "{rest:?}: {got}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_announced_and_those_of_the_client_acknowledged_and_kept_to() {
    let rig = Rig::http1(|head| {
        let len = if head.starts_with("GET /long") { 40_000 } else { 2 };
        answer("200 OK", "", &"x".repeat(len))
    })
    .await;
    let mut wire = Wire(tokio::net::TcpStream::connect(rig.server.addr).await.unwrap());
    // The window of a stream has 10 bytes.
    wire.send([PREFACE, &frame(SETTINGS, 0, 0, [0, 4, 0, 0, 0, 10])].concat()).await;
    let first = wire.read().await.unwrap();
    assert_eq!((first.kind, first.flags, first.stream), (SETTINGS, 0, 0), "the first frame");
    let acknowledged = wire.next(SETTINGS).await.unwrap();
    assert_eq!((acknowledged.flags, acknowledged.payload.len()), (END, 0));
    wire.send(get(1, &proxied("/long"))).await;
    let data = wire.next(DATA).await.unwrap();
    assert_eq!(data.payload.len(), 10, "not a byte more than the window");
    // No more content is sent until the window grows. Control frames are still answered.
    wire.send(frame(PING, 0, 0, [7; 8])).await;
    assert_eq!(wire.read().await.unwrap().kind, PING);
    wire.send(frame(WINDOW_UPDATE, 0, 1, 5_u32.to_be_bytes())).await;
    assert_eq!(wire.next(DATA).await.unwrap().payload.len(), 5);
    // A window becomes negative if it shrinks below what was sent: 15 bytes were sent, 10 + 5 were granted,
    // and the initial window is 3 now.
    wire.send(frame(SETTINGS, 0, 0, [0, 4, 0, 0, 0, 3])).await;
    wire.send(frame(WINDOW_UPDATE, 0, 1, 9_u32.to_be_bytes())).await;
    let data = wire.next(DATA).await.unwrap();
    assert_eq!(data.payload.len(), 2);
    // The client resets the answer's stream, and the connection continues.
    wire.send(frame(RST_STREAM, 0, 1, 8_u32.to_be_bytes())).await;
    wire.send(get(3, HEALTH)).await;
    assert_eq!(wire.outcome(3).await, Outcome::Status(200));
    // Frames are at most 2^14 bytes long, unless the client accepts longer ones.
    let mut wire = Wire::client(&rig.server).await;
    wire.send(get(1, &proxied("/long"))).await;
    let mut len = 0;
    while len < 40_000 {
        let data = wire.next(DATA).await.unwrap();
        assert!(data.payload.len() <= 1 << 14);
        len += data.payload.len();
    }
}

/// The client sends more content than its window allows, and opens more streams than the server announced.
#[tokio::test(flavor = "multi_thread")]
async fn more_than_was_granted_is_refused() {
    let rig = Rig::with(Seen::default(), |stream| async move {
        // The instance never reads, so the client's window does not grow.
        std::future::pending::<()>().await;
        drop(stream);
        None
    })
    .await;
    let mut wire = Wire::client(&rig.server).await;
    let path = proxied("/x");
    let post = |stream: u32| {
        let fields =
            [(":method", "POST"), (":scheme", "http"), (":authority", "h"), (":path", &path[..])];
        frame(HEADERS, END_HEADERS, stream, block(&fields))
    };
    wire.send(post(1)).await;
    let mut outcome = None;
    // This is far more than any window. The writes may fail once the connection is closed.
    for _ in 0..4_096 {
        wire.send(frame(DATA, 0, 1, [0; 1 << 14])).await;
    }
    while outcome.is_none() {
        outcome = match wire.outcome(1).await {
            Outcome::Reset(code) | Outcome::GoAway(code) => Some(code),
            Outcome::Closed => Some(FLOW_CONTROL_ERROR),
            Outcome::Status(_) => None,
        };
    }
    assert_eq!(outcome, Some(FLOW_CONTROL_ERROR));
    let mut wire = Wire::client(&rig.server).await;
    while wire.next(SETTINGS).await.unwrap().flags != END {}
    for n in 0..257 {
        wire.send(post(1 + 2 * n)).await;
    }
    assert_eq!(wire.outcome(1 + 2 * 256).await, Outcome::Reset(REFUSED_STREAM));
}

/// Requests that cost the node more than the client end with ENHANCE_YOUR_CALM, or use only bounded
/// resources.
#[tokio::test(flavor = "multi_thread")]
async fn floods_end_the_connection_or_stay_bounded() {
    let rig = Rig::http1(|_| ok()).await;
    let path = proxied("/x");
    // Rapid reset: the client cancels each request at once.
    let mut wire = Wire::client(&rig.server).await;
    let mut bytes = Vec::new();
    for n in 0..3_000 {
        bytes.extend(get(1 + 2 * n, &path));
        bytes.extend(frame(RST_STREAM, 0, 1 + 2 * n, 8_u32.to_be_bytes()));
    }
    wire.send(bytes).await;
    assert_eq!(ended(&mut wire).await, Outcome::GoAway(ENHANCE_YOUR_CALM), "rapid reset");
    // The same, but the client makes the server reset the streams, because it sends content after their end.
    let mut wire = Wire::client(&rig.server).await;
    let mut bytes = Vec::new();
    for n in 0..3_000 {
        bytes.extend(get(1 + 2 * n, &path));
        bytes.extend(frame(DATA, 0, 1 + 2 * n, b"x"));
    }
    wire.send(bytes).await;
    let outcome = ended(&mut wire).await;
    let is_ended = matches!(outcome, Outcome::GoAway(code) if code != NO_ERROR);
    assert!(is_ended, "made you reset: {outcome:?}");
    // A field block without an end.
    let mut wire = Wire::client(&rig.server).await;
    let mut bytes = frame(HEADERS, END, 1, get_block(&path, &[]));
    for _ in 0..1_000 {
        bytes.extend(frame(CONTINUATION, 0, 1, block(&[("x", &"a".repeat(1_000))])));
    }
    wire.send(bytes).await;
    let outcome = ended(&mut wire).await;
    assert!(
        matches!(outcome, Outcome::GoAway(ENHANCE_YOUR_CALM | COMPRESSION_ERROR | PROTOCOL_ERROR)),
        "continuation: {outcome:?}"
    );
    // A list of fields over the limit is refused with that reason, and the connection continues.
    let mut wire = Wire::client(&rig.server).await;
    let long = "a".repeat(8_000);
    let fields: Vec<(&str, &str)> = vec![("x", &long); 9];
    let bytes = get_block(&path, &fields);
    let mut parts = bytes.chunks(1 << 14).peekable();
    wire.send(frame(HEADERS, END, 1, parts.next().unwrap())).await;
    while let Some(part) = parts.next() {
        wire.send(frame(
            CONTINUATION,
            if parts.peek().is_none() { END_HEADERS } else { 0 },
            1,
            part,
        ))
        .await;
    }
    assert_eq!(wire.outcome(1).await, Outcome::Status(431));
    wire.send(get(3, HEALTH)).await;
    assert_eq!(wire.outcome(3).await, Outcome::Status(200));
    // If the client does not read the acknowledgements of pings and settings, they are not collected in
    // memory.
    let mut wire = Wire::client(&rig.server).await;
    for kind in [PING, SETTINGS] {
        let payload: &[u8] = if kind == PING { &[0; 8] } else { &[] };
        for _ in 0..1_000 {
            wire.send(frame(kind, 0, 0, payload)).await;
        }
    }
    wire.send(get(1, HEALTH)).await;
    assert_eq!(wire.outcome(1).await, Outcome::Status(200));
    assert!(rig.server.get(HEALTH).send().await.unwrap().status() == 200);
}

/// How a connection ends, whatever is answered before.
async fn ended(wire: &mut Wire) -> Outcome {
    wire.outcome(u32::MAX).await
}

/// An answer arrives before the end of the request, and the client sends frames for a stream that has ended.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_ends_the_request_and_late_frames_of_it_are_put_up_with() {
    let rig = Rig::http1(|_| ok()).await;
    let mut wire = Wire::client(&rig.server).await;
    let fields =
        [(":method", "POST"), (":scheme", "http"), (":authority", "h"), (":path", "/nowhere")];
    wire.send(frame(HEADERS, END_HEADERS, 1, block(&fields))).await;
    assert_eq!(wire.outcome(1).await, Outcome::Status(404));
    let reset = wire.next(RST_STREAM).await.unwrap();
    assert_eq!((reset.stream, reset.code(0)), (1, NO_ERROR), "the rest is waited for no longer");
    wire.send(frame(DATA, END, 1, b"late")).await;
    wire.send(frame(WINDOW_UPDATE, 0, 1, 1_u32.to_be_bytes())).await;
    wire.send(get(3, HEALTH)).await;
    assert_eq!(wire.outcome(3).await, Outcome::Status(200));
    // Frames after the regular end of a stream are an error of that stream or of the connection.
    wire.send(frame(DATA, 0, 3, b"late")).await;
    let outcome = wire.outcome(3).await;
    assert!(
        matches!(outcome, Outcome::Reset(STREAM_CLOSED) | Outcome::GoAway(STREAM_CLOSED)),
        "{outcome:?}"
    );
}

/// Otherwise some clients report an error of the stream instead of the status.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_request_with_a_short_body_ends_its_stream_without_a_reset() {
    let server = Server::start().await;
    let mut wire = Wire::client(&server).await;
    for (stream, method, path, status) in [
        (1, "POST", "/nowhere", 404),
        (3, "PUT", "/api/v1/kv/a", 401),
        (5, "PUT", "/api/v1/services/default/web/policy", 401),
    ] {
        let fields =
            [(":method", method), (":scheme", "http"), (":authority", "h"), (":path", path)];
        wire.send(frame(HEADERS, END_HEADERS, stream, block(&fields))).await;
        // The ping is answered once the node has accepted the request before it.
        wire.send(frame(PING, 0, 0, [1; 8])).await;
        wire.next(PING).await.unwrap();
        wire.send(frame(DATA, END, stream, vec![b'x'; 1_024])).await;
        assert_eq!(wire.outcome(stream).await, Outcome::Status(status), "{path}");
        // Frames after the last one of the answer are sent before the next ping is answered.
        while wire.next(DATA).await.unwrap().flags & END == 0 {}
        wire.send(frame(PING, 0, 0, [2; 8])).await;
        loop {
            let next = wire.read().await.unwrap();
            assert_ne!(next.kind, RST_STREAM, "{path}");
            if next.kind == PING && next.flags & END != 0 {
                break;
            }
        }
    }
}

/// A field of an instance's answer that belongs to one connection never reaches an HTTP/2 client.
#[tokio::test(flavor = "multi_thread")]
async fn answers_over_http2_have_only_what_http2_may_have() {
    let rig = Rig::http1(|_| {
        let fields = "Connection: keep-alive, X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\n\
                      Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nX-Name: 1\r\n";
        answer("299 A Reason", fields, "ok")
    })
    .await;
    let stream = tokio::net::TcpStream::connect(rig.server.addr).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request =
        hyper::Request::get(format!("http://h{PROXIED}/x")).body(axum::body::Body::empty());
    let answer = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-name"]),
        (299, &"1".parse().unwrap())
    );
    for name in [
        "connection",
        "x-own",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "transfer-encoding",
        "te",
    ] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    assert_eq!(answer.headers().get_all("date").iter().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_says_so_and_finishes_what_it_has() {
    let go_on = Arc::new(tokio::sync::Notify::new());
    let waits = Arc::clone(&go_on);
    let rig = Rig::with(Seen::default(), move |mut stream| {
        let waits = Arc::clone(&waits);
        async move {
            tokio::io::AsyncReadExt::read_u8(&mut stream).await.ok()?;
            waits.notified().await;
            tokio::io::AsyncWriteExt::write_all(&mut stream, &ok()).await.ok()?;
            std::future::pending().await
        }
    })
    .await;
    let mut wire = Wire::client(&rig.server).await;
    wire.send(get(1, &proxied("/x"))).await;
    // The ping is answered once the node has accepted the request before it.
    wire.send(frame(PING, 0, 0, [1; 8])).await;
    wire.next(PING).await.unwrap();
    rig.server.stop();
    let leaving = wire.next(GOAWAY).await.unwrap();
    assert_eq!(leaving.code(4), NO_ERROR);
    go_on.notify_one();
    assert_eq!(wire.outcome(1).await, Outcome::Status(200));
    while wire.read().await.is_some() {}
}

/// As over HTTP/1, a connection without a request is closed after a while, even if its client answers pings.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_and_the_client_is_told_first() {
    let server = Server::start_with(|options| options.limits.header_timeout_ms = 300).await;
    let mut wire = Wire::client(&server).await;
    let fields = [(":method", "HEAD"), (":scheme", "http"), (":authority", "h")];
    let head = [&fields[..], &[(":path", HEALTH)]].concat();
    wire.send(request(&head)).await;
    assert_eq!(wire.outcome(1).await, Outcome::Status(200));
    // A change of a watch that began on the same connection may come at any time.
    wire.send(get(3, "/api/v1/watch?service=s")).await;
    assert_eq!(wire.outcome(3).await, Outcome::Status(200));
    for _ in 0..4 {
        // The server sends a ping each time that an idle connection would have been closed.
        while wire.next(PING).await.expect("it is not idle").flags & END != 0 {}
    }
    wire.send(frame(RST_STREAM, 0, 3, 8_u32.to_be_bytes())).await;
    let leaving = wire.next(GOAWAY).await.expect("the client is told");
    assert_eq!(leaving.code(4), NO_ERROR);
    while wire.read().await.is_some() {}
}
