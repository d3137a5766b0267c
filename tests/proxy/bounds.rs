//! What a policy prevents: that a request is sent twice that must be sent once, that a client waits without
//! end, and that a client changes between instances.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use hyper::Response;
use maxine_gateway::ForwardContext;
use maxine_state::Name;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::*;
use crate::streaming::until;

#[tokio::test]
async fn nothing_is_retried_once_a_byte_of_the_answer_was_passed_on() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"retries":{"attempts":5,"budget_percent":100}}}"#).await;
    let upstream = Upstream::raw(|mut stream| async move {
        if read_head(&mut stream).await.is_some() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    let answer = rig.get("/").await;
    assert_eq!(status_of(&answer), 200, "{answer}");
    assert_eq!(body_of(&answer), "abc", "cut off, not begun again: {answer}");
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_body_too_long_to_keep_is_sent_once() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"retries":{"body_len_max":4,"budget_percent":100}}}"#).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let upstream = {
        let asked = Arc::clone(&asked);
        Upstream::raw(move |mut stream| {
            let asked = Arc::clone(&asked);
            async move {
                if read_head(&mut stream).await.is_some() {
                    asked.fetch_add(1, Ordering::SeqCst);
                    stream.set_zero_linger().unwrap();
                }
            }
        })
        .await
    };
    rig.register("a", upstream.address).await;
    let put = |body: &str| {
        let len = body.len();
        format!(
            "PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}"
        )
    };
    assert_eq!(status_of(&rig.raw(put("too long")).await), 502);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(status_of(&rig.raw(put("kept")).await), 502);
    assert_eq!(asked.load(Ordering::SeqCst), 4, "three attempts for the one that is kept");
}

#[tokio::test]
async fn the_total_time_bounds_all_attempts_together() {
    let rig = Rig::new().await;
    rig.policy(
        r#"{"traffic":{"timeouts":{"total_ms":400},"retries":{"attempts":10,"per_try_timeout_ms":150,
            "budget_percent":100}}}"#,
    )
    .await;
    let upstream = Upstream::raw(|mut stream| async move {
        let _ = read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    rig.register("a", upstream.address).await;
    let answer = rig.get("/").await;
    assert_eq!(status_of(&answer), 504, "{answer}");
    assert!(answer.contains("x-maxine-error: total_timeout"), "{answer}");
    assert!(upstream.connections() < 5, "{} attempts", upstream.connections());
}

#[tokio::test]
async fn a_tunnel_that_stands_still_is_closed() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"timeouts":{"idle_ms":200}}}"#).await;
    let upstream = Upstream::raw(|mut stream| async move {
        let _ = read_head(&mut stream).await;
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    rig.register("a", upstream.address).await;
    let mut client = TcpStream::connect(rig.front).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    assert!(read_head(&mut client).await.unwrap().starts_with("HTTP/1.1 101"));
    assert_eq!(read_quiet(&mut client, Duration::from_secs(10)).await, "", "closed, not silent");
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 0).await;
}

#[tokio::test]
async fn a_header_keeps_its_clients_with_one_instance() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"sticky":{"header":{"name":"x-user"}}}}"#).await;
    let mut upstreams = Vec::new();
    for name in ["a", "b", "c"] {
        let upstream = Upstream::named(name).await;
        rig.register(name, upstream.address).await;
        upstreams.push(upstream);
    }
    let mut used = HashSet::new();
    for user in 0..20 {
        let header = format!("x-user: user-{user}\r\n");
        let first = body_of(&rig.get_with("/", &header).await).to_owned();
        for _ in 0..3 {
            assert_eq!(body_of(&rig.get_with("/", &header).await), first, "{user}");
        }
        used.insert(first);
    }
    assert_eq!(used.len(), 3, "twenty users are spread over all");
}

#[tokio::test]
async fn a_zone_that_is_crowded_spills_over() {
    let rig =
        Arc::new(Rig::with(RigOptions { zone: Some("east".into()), ..Default::default() }).await);
    rig.policy(r#"{"traffic":{"zone":{"local_instances_min":1,"spill_in_flight":2}}}"#).await;
    let (here, there) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut upstreams = Vec::new();
    for (id, zone, count) in [("a", "east", &here), ("b", "west", &there)] {
        let count = Arc::clone(count);
        let upstream = Upstream::http(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Response::new(Body::from("ok"))
            }
        })
        .await;
        let zone = maxine_state::Name::trusted(zone);
        rig.register_with(id, &format!("http://{}", upstream.address), |r| r.zone = Some(zone))
            .await;
        upstreams.push(upstream);
    }
    // Two requests, one after another, go to this instance.
    for _ in 0..2 {
        assert_eq!(status_of(&rig.get("/").await), 200);
    }
    assert_eq!(there.load(Ordering::SeqCst), 0);
    let many = (0..12).map(|_| {
        let rig = Arc::clone(&rig);
        async move { status_of(&rig.get("/").await) }
    });
    assert!(futures::future::join_all(many).await.into_iter().all(|status| status == 200));
    assert!(there.load(Ordering::SeqCst) > 0, "the crowd went elsewhere, too");
    assert!(here.load(Ordering::SeqCst) > 2);
}

#[tokio::test]
async fn a_clients_own_rate_is_counted_apart() {
    let rig = Rig::with(RigOptions { trusted: vec!["127.0.0.0/8"], ..Default::default() }).await;
    rig.policy(r#"{"traffic":{"rate_limit":{"requests_per_s":1,"burst":2,"scope":"client"}}}"#)
        .await;
    let upstream = Upstream::named("a").await;
    rig.register("a", upstream.address).await;
    let header = |client: &str| format!("X-Forwarded-For: {client}\r\n");
    let mut refused = false;
    // Even on a slow machine, 200 requests are faster than one per second.
    for _ in 0..200 {
        refused = status_of(&rig.get_with("/", &header("9.9.9.1")).await) == 429;
        if refused {
            break;
        }
    }
    assert!(refused);
    assert_eq!(status_of(&rig.get_with("/", &header("9.9.9.2")).await), 200, "someone else");
}

/// The head of a request whose body is streamed, and the beginning of the body.
const UPLOAD: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nbegun";

/// An instance that reads complete requests and answers them.
async fn taker() -> Upstream {
    Upstream::http(|request: hyper::Request<hyper::body::Incoming>| async move {
        let _ = http_body_util::BodyExt::collect(request.into_body()).await;
        Response::new(Body::from("ok"))
    })
    .await
}

#[tokio::test]
async fn one_client_does_not_take_all_connections_to_an_instance() {
    let rig = Rig::new().await;
    rig.policy(
        r#"{"traffic":{"connections":{"connections_max":8,"pending_max":8},
            "timeouts":{"connect_ms":500}}}"#,
    )
    .await;
    let upstream = taker().await;
    rig.register("a", upstream.address).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let mut uploads = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let mut upload = rig.connect_from([127, 0, 0, 9]).await;
        upload.write_all(UPLOAD).await.unwrap();
        let refused = Arc::clone(&refused);
        uploads.spawn(async move {
            let answer = read_head(&mut upload).await.unwrap();
            assert!(answer.contains("x-maxine-error: overloaded"), "{answer}");
            refused.fetch_add(1, Ordering::SeqCst);
        });
    }
    let in_flight = || rig.forwarder.in_flight(&rig.key("a"));
    // All have arrived. Those that found no connection wait, or were refused.
    until(|| in_flight() + refused.load(Ordering::SeqCst) as u64 == 12).await;
    for _ in 0..3 {
        let answer = rig.get("/").await;
        assert_eq!(status_of(&answer), 200, "another client is served: {answer}");
    }
    until(|| refused.load(Ordering::SeqCst) == 6).await;
    assert_eq!(in_flight(), 6, "three quarters");
    uploads.shutdown().await;
    until(|| in_flight() == 0).await;
}

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_is_cut_off() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"timeouts":{"idle_ms":400,"response_ms":100}}}"#).await;
    let upstream = taker().await;
    rig.register("a", upstream.address).await;
    let (mut answers, mut upload) = TcpStream::connect(rig.front).await.unwrap().into_split();
    upload.write_all(UPLOAD).await.unwrap();
    let mut answer = vec![0; 1_024];
    let mut sent = 0;
    // Each byte arrives long before the idle limit.
    let len = loop {
        tokio::select! {
            len = tokio::io::AsyncReadExt::read(&mut answers, &mut answer) => break len.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(40)) => {
                sent += 1;
                assert!(sent < 500, "the trickle holds the connection without end");
                let _ = upload.write_all(b"x").await;
            }
        }
    };
    let answer = String::from_utf8_lossy(&answer[..len]);
    assert_eq!(status_of(&answer), 408, "{answer}");
    assert!(answer.contains("x-maxine-error: client_timeout"), "{answer}");
    let status = rig.forwarder.upstreams(service().as_ref()).remove(0);
    assert_eq!(status.bad_total, 0, "the instance is not blamed");
}

/// A node has a limited number of connections to instances. However many clients use their whole share, one
/// more client gets a connection, and a caller with a credential gets one of the reserved connections.
#[tokio::test]
async fn clients_that_hold_all_connections_to_instances_keep_no_other_client_out() {
    let rig = Rig::with(RigOptions {
        connections_max: Some(32),
        request_kept: Some(Duration::from_secs(600)),
        trusted: vec!["127.0.0.1/32"],
        ..RigOptions::default()
    })
    .await;
    let silent = Upstream::raw(|mut stream| async move {
        let _ = read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    rig.register("a", silent.address).await;
    let ask = |client: u8, field: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.{client}\r\n{field}Connection: close\r\n\r\n"
        )
    };
    let known = format!("{KNOWN}: yes\r\n");
    let mut held = Vec::new();
    // 28 are for callers without a credential: a quarter for the first client, and for each further one a
    // quarter of the rest.
    for (client, share) in [(1, 7), (2, 6), (3, 4), (4, 3), (5, 2), (6, 2), (7, 1), (8, 1)] {
        for _ in 0..share {
            let mut stream = TcpStream::connect(rig.front).await.unwrap();
            stream.write_all(ask(client, "").as_bytes()).await.unwrap();
            held.push(stream);
            until(|| silent.connections() == held.len()).await;
        }
        let refused = rig.raw(ask(client, "")).await;
        assert_eq!(status_of(&refused), 503, "client {client}: {refused}");
        assert!(refused.contains("x-maxine-error: connections_busy"), "{refused}");
        assert!(refused.contains("retry-after: 1"), "{refused}");
    }
    let mut later = TcpStream::connect(rig.front).await.unwrap();
    later.write_all(ask(9, "").as_bytes()).await.unwrap();
    until(|| silent.connections() == 27).await;
    let mut last = TcpStream::connect(rig.front).await.unwrap();
    last.write_all(ask(10, "").as_bytes()).await.unwrap();
    until(|| silent.connections() == 28).await;
    assert_eq!(status_of(&rig.raw(ask(11, "")).await), 503, "strangers have all that they may");
    let mut credential = TcpStream::connect(rig.front).await.unwrap();
    credential.write_all(ask(1, &known).as_bytes()).await.unwrap();
    let refused = read_head(&mut credential).await.unwrap();
    assert_eq!(
        status_of(&refused),
        503,
        "a client's share counts with a credential too: {refused}"
    );
    let mut credential = TcpStream::connect(rig.front).await.unwrap();
    credential.write_all(ask(11, &known).as_bytes()).await.unwrap();
    until(|| silent.connections() == 29).await;
    drop(held);
    until(|| rig.forwarder.in_flight(&service().instance(Name::trusted("a"))) == 3).await;
    let mut again = TcpStream::connect(rig.front).await.unwrap();
    again.write_all(ask(1, "").as_bytes()).await.unwrap();
    until(|| silent.connections() == 30).await;
}

/// Many clients with two slow requests each hold all connections to instances, or all slots of one instance. A further
/// client is answered nevertheless, and the instance is not blamed for requests that end early.
#[tokio::test]
async fn slow_requests_of_many_clients_keep_no_other_client_out() {
    for (connections_max, slots, clients) in [(48, 1_000, 24), (4_096, 24, 12)] {
        let rig = Rig::with(RigOptions {
            connections_max: Some(connections_max),
            request_kept: Some(Duration::from_millis(100)),
            trusted: vec!["127.0.0.1/32"],
            ..RigOptions::default()
        })
        .await;
        let instance = Upstream::raw(|mut stream| async move {
            let head = read_head(&mut stream).await.unwrap_or_default();
            if head.contains("x-slow") {
                std::future::pending::<()>().await;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        })
        .await;
        rig.policy(&format!(r#"{{"traffic":{{"connections":{{"connections_max":{slots}}}}}}}"#))
            .await;
        rig.register("a", instance.address).await;
        let ask = |client: String, field: &str| {
            format!(
                "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n{field}Connection: close\r\n\r\n"
            )
        };
        let mut held = Vec::new();
        for n in 0..2 * clients {
            let mut stream = TcpStream::connect(rig.front).await.unwrap();
            let client = format!("203.0.113.{}", n / 2);
            stream.write_all(ask(client, "x-slow: 1\r\n").as_bytes()).await.unwrap();
            held.push(stream);
        }
        let full = slots.min(connections_max / 8 * 7);
        until(|| instance.connections() * 10 >= full * 9).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        for n in 1..=3 {
            let answer = rig.raw(ask(format!("198.51.100.{n}"), "")).await;
            assert_eq!(status_of(&answer), 200, "{slots} slots, client {n}: {answer}");
        }
        let status = rig.forwarder.upstreams(service().as_ref()).remove(0);
        assert_eq!((status.bad_total, status.ejected), (0, false), "the instance is not blamed");
        let mut ended = 0;
        for stream in &mut held {
            let answer = read_quiet(stream, Duration::from_millis(50)).await;
            ended += usize::from(answer.contains("x-maxine-error: displaced"));
        }
        assert!((1..=3).contains(&ended), "{slots} slots: {ended} requests ended early");
    }
}

/// A connection that no request uses counts for no client, and is closed when another connection needs its
/// place.
#[tokio::test]
async fn idle_connections_to_instances_are_given_up_first() {
    let rig =
        Arc::new(Rig::with(RigOptions { connections_max: Some(4), ..RigOptions::default() }).await);
    let mut busy = Vec::new();
    for id in ["a", "b", "c"] {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let upstream = {
            let gate = Arc::clone(&gate);
            Upstream::http(move |request: hyper::Request<hyper::body::Incoming>| {
                let gate = Arc::clone(&gate);
                async move {
                    if request.uri().path() == "/held" {
                        drop(gate.acquire().await);
                    }
                    Response::new(Body::from("ok"))
                }
            })
            .await
        };
        rig.register_as(named(id), "one", &format!("http://{}", upstream.address), |_| {}).await;
        busy.push((gate, upstream));
    }
    let get = |name: &'static str, path: &'static str| {
        let rig = Arc::clone(&rig);
        async move {
            let context = ForwardContext {
                service: named(name),
                raw_path: path.to_owned(),
                raw_query: None,
                prefix: None,
                client: maxine_gateway::ClientAddr::direct(maxine_gateway::Peer::plain(
                    [10, 0, 0, 1].into(),
                )),
                caller_class: maxine_admission::CallerClass::Known,
                trace: Vec::new(),
                span: None,
                body_len_max: None,
                keep_trailer: true,
                interim: None,
            };
            let answer = rig.forwarder.forward(context, hyper::Request::new(Body::empty())).await;
            let status = answer.response.status().as_u16();
            let body = http_body_util::BodyExt::collect(answer.response.into_body()).await;
            (status, body.unwrap().to_bytes())
        }
    };
    let idle = |name: &str| rig.forwarder.upstreams(named(name).as_ref())[0].idle_connections;
    // Each of three services has an idle connection of the same client, whose share is one connection.
    for name in ["a", "b", "c"] {
        assert_eq!(get(name, "/").await.0, 200);
        until(|| idle(name) == 1).await;
    }
    let held = tokio::spawn(get("a", "/held"));
    until(|| rig.forwarder.in_flight(&named("a").instance(Name::trusted("one"))) == 1).await;
    assert_eq!(get("b", "/").await.0, 503, "the client uses its share");
    busy[0].0.add_permits(1);
    assert_eq!(held.await.unwrap().0, 200);
    until(|| idle("a") == 1).await;
    // There is room for a fourth connection. A fifth needs the place of an idle one.
    for name in ["d", "e"] {
        let upstream = Upstream::named("new").await;
        rig.register_as(named(name), "one", &format!("http://{}", upstream.address), |_| {}).await;
        assert_eq!(get(name, "/").await.0, 200, "{name}");
        busy.push((Arc::new(tokio::sync::Semaphore::new(0)), upstream));
    }
    let left = || ["a", "b", "c", "d", "e"].iter().map(|name| idle(name)).sum::<usize>();
    until(|| left() == 4).await;
}

/// Clients that keep all bytes for bodies with requests that do not end do not keep out another client.
#[tokio::test]
async fn bodies_of_many_clients_that_do_not_end_keep_no_other_client_out() {
    let rig = Rig::with(RigOptions {
        kept_bodies_max: Some(100_000),
        request_kept: Some(Duration::from_millis(100)),
        trusted: vec!["127.0.0.1/32"],
        ..RigOptions::default()
    })
    .await;
    let upstream = Upstream::http(|_| async { Response::new(Body::empty()) }).await;
    rig.register("a", upstream.address).await;
    let begin = async |client: String| {
        let head = format!(
            "PUT / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\nContent-Length: 8000\r\n\r\n"
        );
        let mut stream = TcpStream::connect(rig.front).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[7; 7_000]).await.unwrap();
        stream
    };
    let mut held = Vec::new();
    for n in 0..13 {
        held.push(begin(format!("203.0.113.{}", n / 2)).await);
        until(|| rig.forwarder.kept_bodies_len() >= 7_000 * held.len()).await;
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    let mut other = begin("198.51.100.1".into()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    other.write_all(&[7; 1_000]).await.unwrap();
    let answer = read_head(&mut other).await.unwrap();
    assert_eq!(status_of(&answer), 200, "{answer}");
    drop(held);
    until(|| rig.forwarder.kept_bodies_len() == 0).await;
}

/// Bodies that are kept until they are complete are counted while they wait, each piece with its overhead.
#[tokio::test]
async fn bodies_that_wait_for_their_end_are_bounded() {
    let rig =
        Rig::with(RigOptions { kept_bodies_max: Some(40_000), ..RigOptions::default() }).await;
    let upstream = Upstream::http(|_| async { Response::new(Body::empty()) }).await;
    rig.register("a", upstream.address).await;
    let begin = |len: usize| format!("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n");
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(rig.front).await.unwrap();
        stream.write_all(begin(16_000).as_bytes()).await.unwrap();
        stream.write_all(&[7; 15_000]).await.unwrap();
        held.push(stream);
    }
    until(|| rig.forwarder.kept_bodies_len() >= 30_000).await;
    let mut third = TcpStream::connect(rig.front).await.unwrap();
    third.write_all(begin(16_000).as_bytes()).await.unwrap();
    third.write_all(&[7; 15_000]).await.unwrap();
    let mut head = vec![0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut third, &mut head).await.unwrap();
    assert_eq!(head, b"HTTP/1.1 503");
    // A body that has arrived completely does not wait, and is not counted.
    let whole = format!("{}x", begin(1).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    assert_eq!(status_of(&rig.raw(whole).await), 200);
    drop(held);
    until(|| rig.forwarder.kept_bodies_len() == 0).await;
}
