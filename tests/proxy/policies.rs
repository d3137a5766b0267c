//! The effects of a service's policy.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use maxine_gateway::ForwardContext;
use maxine_state::Name;
use maxine_telemetry::AttemptOutcome;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::*;
use crate::streaming::until;

async fn shares(rig: &Rig, requests: usize, headers: &str) -> HashMap<String, usize> {
    let mut shares = HashMap::new();
    for _ in 0..requests {
        let answer = rig.get_with("/", headers).await;
        *shares.entry(body_of(&answer).to_owned()).or_default() += 1;
    }
    shares
}

async fn failing(status: u16) -> (Upstream, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let upstream = Upstream::http(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let mut response = Response::new(Body::from("failing"));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        }
    })
    .await;
    (upstream, seen)
}

#[tokio::test]
async fn with_nothing_configured_a_failure_is_not_retried() {
    let rig = Rig::new().await;
    let dead = Upstream::named("x").await.kill().await;
    rig.register("a", dead).await;
    let alive = Upstream::named("alive").await;
    rig.register("b", alive.address).await;
    let shares = shares(&rig, 4, "").await;
    assert_eq!(shares["alive"], 2, "{shares:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_one_of_three_under_load_costs_no_request_with_retries_on() {
    let rig = Arc::new(Rig::new().await);
    rig.policy(
        r#"{"traffic":{"retries":{"attempts":4,"budget_percent":100},"circuit_breaker":{}}}"#,
    )
    .await;
    let _ticking = rig.ticking(Duration::from_millis(100));
    let mut upstreams = Vec::new();
    for id in ["a", "b", "c"] {
        let upstream = Upstream::http(move |_| async move {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Response::new(Body::from(id))
        })
        .await;
        rig.register(id, upstream.address).await;
        upstreams.push(upstream);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (rig, stop, done) = (Arc::clone(&rig), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let answer = rig.get("/").await;
                    if status_of(&answer) != 200 || body_of(&answer).len() != 1 {
                        failures.push(answer);
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
                failures
            })
        })
        .collect();
    until(|| done.load(Ordering::SeqCst) > 200).await;
    upstreams.remove(1).kill().await;
    let then = done.load(Ordering::SeqCst);
    until(|| done.load(Ordering::SeqCst) > then + 500).await;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        assert_eq!(client.await.unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn statuses_are_retried_where_listed_and_the_last_answer_is_passed_on() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"retries":{"attempts":3,"statuses":[503],"backoff_base_ms":0}}}"#)
        .await;
    let (upstream, seen) = failing(503).await;
    rig.register("a", upstream.address).await;
    let answer = rig.get("/").await;
    assert_eq!((status_of(&answer), body_of(&answer)), (503, "failing"));
    assert_eq!(seen.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_post_is_not_repeated_once_sent_but_may_change_the_instance_before() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"retries":{"attempts":3}}}"#).await;
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let breaking = Upstream::raw(move |mut stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            read_head(&mut stream).await;
        }
    })
    .await;
    rig.register("a", breaking.address).await;
    let post = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody";
    assert_eq!(status_of(&rig.raw(post).await), 502);
    assert_eq!(seen.load(Ordering::SeqCst), 1, "sent once");
    breaking.kill().await;
    let alive = Upstream::http(|request: Request<Incoming>| async move {
        let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap();
        Response::new(Body::from(body.to_bytes()))
    })
    .await;
    rig.register("b", alive.address).await;
    for _ in 0..4 {
        let answer = rig.raw(post).await;
        assert_eq!(body_of(&answer), "body", "refused connections took nothing: {answer}");
    }
}

#[tokio::test]
async fn a_put_with_a_small_body_is_sent_again_whole() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"retries":{"attempts":3,"body_len_max":100}}}"#).await;
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let upstream = Upstream::raw(move |mut stream| {
        let nth = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            read_head(&mut stream).await;
            let mut body = [0; 8];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut body).await.unwrap();
            assert_eq!(&body, b"contents");
            if nth > 0 {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    rig.register("a", upstream.address).await;
    let put = "PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 8\r\n\r\ncontents";
    assert_eq!(body_of(&rig.raw(put).await), "ok");
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_retry_budget_keeps_a_storm_away() {
    let rig = Rig::new().await;
    rig.policy(
        r#"{"traffic":{"retries":{"attempts":10,"statuses":[500],"budget_percent":20,
            "budget_min_per_s":0,"backoff_base_ms":0}}}"#,
    )
    .await;
    let (upstream, seen) = failing(500).await;
    rig.register("a", upstream.address).await;
    for _ in 0..50 {
        rig.get("/").await;
    }
    let seen = seen.load(Ordering::SeqCst);
    assert!((55..=60).contains(&seen), "50 requests and a fifth of them again, not {seen}");
}

#[tokio::test]
async fn a_per_try_timeout_moves_on_to_another_instance() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"retries":{"attempts":2,"per_try_timeout_ms":100}}}"#).await;
    let stuck = Upstream::raw(|mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let alive = Upstream::named("alive").await;
    rig.register("a", stuck.address).await;
    rig.register("b", alive.address).await;
    for _ in 0..4 {
        assert_eq!(body_of(&rig.get("/").await), "alive");
    }
}

#[tokio::test]
async fn a_hedge_overtakes_a_slow_instance() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"hedging":{"after_ms":50,"budget_percent":100}}}"#).await;
    let slow = Upstream::http(|_| async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Response::new(Body::from("slow"))
    })
    .await;
    let fast = Upstream::named("fast").await;
    rig.register("a", slow.address).await;
    rig.register("b", fast.address).await;
    let started = Instant::now();
    for _ in 0..4 {
        assert_eq!(body_of(&rig.get("/").await), "fast");
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 0).await;
    // At least one of two requests goes to the slow instance first. Its trail has both instances.
    let mut trails = Vec::new();
    for _ in 0..2 {
        let context = ForwardContext {
            service: service(),
            raw_path: "/".into(),
            raw_query: None,
            prefix: None,
            client: maxine_gateway::ClientAddr::direct(maxine_gateway::Peer::plain(
                [127, 0, 0, 1].into(),
            )),
            caller_class: maxine_admission::CallerClass::Stranger,
            body_len_max: None,
            trace: Vec::new(),
            span: None,
            keep_trailer: false,
            interim: None,
        };
        let forwarded = rig.forwarder.forward(context, Request::new(Body::empty())).await;
        let trail = forwarded.trail.as_slice().iter();
        let summary = |attempt: &maxine_telemetry::AttemptRecord| {
            (attempt.instance.registration.id.to_string(), attempt.outcome)
        };
        trails.push(trail.map(summary).collect::<Vec<_>>());
    }
    let fast = ("b".to_owned(), AttemptOutcome::Answered(StatusCode::OK));
    assert!(
        trails.contains(&vec![fast, ("a".to_owned(), AttemptOutcome::LostHedge)]),
        "{trails:?}"
    );
}

#[tokio::test]
async fn a_breaker_opens_tries_and_closes() {
    let rig = Rig::new().await;
    rig.policy(
        r#"{"traffic":{"circuit_breaker":{"consecutive_failures":3,"open_ms":300,"trial_requests":1}}}"#,
    )
    .await;
    let _ticking = rig.ticking(Duration::from_millis(20));
    let healthy = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&healthy);
    let upstream = Upstream::http(move |_| {
        let status = if flag.load(Ordering::SeqCst) { 200 } else { 500 };
        async move { Response::builder().status(status).body(Body::from("x")).unwrap() }
    })
    .await;
    rig.register("a", upstream.address).await;
    for _ in 0..3 {
        assert_eq!(status_of(&rig.get("/").await), 500);
    }
    let breaker = || rig.forwarder.upstreams(service().as_ref())[0].breaker;
    until(|| breaker() == "open").await;
    let refused = rig.get("/").await;
    assert_eq!(status_of(&refused), 503);
    assert!(refused.contains("x-maxine-error: circuit_open"), "{refused}");
    let (_, held_back) = rig.forwarder.upstream_status(&rig.key("a")).unwrap();
    assert_eq!(held_back, Some("its circuit breaker is open"));
    healthy.store(true, Ordering::SeqCst);
    until(|| breaker() == "half_open").await;
    assert_eq!(status_of(&rig.get("/").await), 200);
    until(|| breaker() == "closed").await;
}

#[tokio::test]
async fn an_outlier_is_ejected_but_never_more_than_the_share() {
    let rig = Rig::new().await;
    rig.policy(
        r#"{"traffic":{"outlier_ejection":{"interval_ms":100,"requests_min":5,
            "ejected_percent_max":34,"ejection_ms":60000}}}"#,
    )
    .await;
    let (bad, _) = failing(500).await;
    let (worse, _) = failing(503).await;
    let good = Upstream::named("good").await;
    rig.register("a", bad.address).await;
    rig.register("b", worse.address).await;
    rig.register("c", good.address).await;
    shares(&rig, 30, "").await;
    let ejected = || {
        let all = rig.forwarder.upstreams(service().as_ref());
        all.into_iter().filter(|u| u.ejected).map(|u| u.instance).collect::<Vec<_>>()
    };
    until(|| {
        rig.forwarder.tick();
        !ejected().is_empty()
    })
    .await;
    assert_eq!(ejected(), ["a"], "one of three is 34 %");
    let shares = shares(&rig, 20, "").await;
    assert!(shares["good"] >= 6, "{shares:?}");
}

#[tokio::test]
async fn connections_and_waiting_requests_are_limited_per_instance() {
    let rig = Arc::new(Rig::new().await);
    rig.policy(r#"{"traffic":{"connections":{"connections_max":2,"pending_max":1}}}"#).await;
    let upstream = Upstream::http(|_| async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        Response::new(Body::from("ok"))
    })
    .await;
    rig.register("a", upstream.address).await;
    let calls = (0..5).map(|_| rig.get("/"));
    let answers = futures::future::join_all(calls).await;
    let refused: Vec<_> = answers.iter().filter(|a| status_of(a) == 503).collect();
    assert_eq!(refused.len(), 2, "two run, one waits: {answers:?}");
    assert!(refused[0].contains("x-maxine-error: overloaded"), "{}", refused[0]);
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn the_rate_limit_answers_429_with_a_time_to_wait() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"rate_limit":{"requests_per_s":1,"burst":3,"scope":"client"}}}"#)
        .await;
    let upstream = Upstream::named("ok").await;
    rig.register("a", upstream.address).await;
    for _ in 0..3 {
        assert_eq!(status_of(&rig.get("/").await), 200);
    }
    let refused = rig.get("/").await;
    assert_eq!(status_of(&refused), 429);
    assert!(refused.contains("retry-after: 1"), "{refused}");
}

#[tokio::test]
async fn headers_and_paths_are_rewritten() {
    let rig = Rig::new().await;
    rig.policy(
        r#"{"traffic":{"request_headers":{"remove":["x-gone"],"set":[["x-set","new"]],
            "add":[["x-add","2"]]},"response_headers":{"remove":["server"],"set":[["x-by","maxine"]]},
            "rewrite":{"strip_prefix":"/api","add_prefix":"/v2"}}}"#,
    )
    .await;
    let upstream = Upstream::raw(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.starts_with("GET /v2/x HTTP/1.1"), "{head}");
        assert!(!head.contains("x-gone") && head.contains("x-set: new"), "{head}");
        assert!(head.contains("x-add: 1") && head.contains("x-add: 2"), "{head}");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nServer: secret\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
    })
    .await;
    rig.register("a", upstream.address).await;
    let answer = rig.get_with("/api/x", "X-Gone: 1\r\nX-Set: old\r\nX-Add: 1\r\n").await;
    assert!(answer.contains("x-by: maxine") && !answer.contains("secret"), "{answer}");
}

#[tokio::test]
async fn traffic_is_split_by_version() {
    let rig = Rig::new().await;
    rig.policy(
        r#"{"traffic":{"split":[{"version":"v1","weight":90},{"version":"v2","weight":10}]}}"#,
    )
    .await;
    let mut kept = Vec::new();
    for (id, version) in [("a", "v1"), ("b", "v1"), ("c", "v2")] {
        let upstream = Upstream::named(version).await;
        let url = format!("http://{}", upstream.address);
        rig.register_with(id, &url, |r| r.version = Some(Name::trusted(version))).await;
        kept.push(upstream);
    }
    let shares = shares(&rig, 300, "").await;
    let canary = shares.get("v2").copied().unwrap_or(0);
    assert!((10..=60).contains(&canary), "30 of 300 expected, got {canary}");
}

#[tokio::test]
async fn a_mirror_gets_copies_and_its_failures_show_nowhere() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"mirror":{"service":"shadow","percent":100}}}"#).await;
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let shadow = Upstream::http(move |request: Request<Incoming>| {
        let counted = Arc::clone(&counted);
        async move {
            let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap();
            assert_eq!(body.to_bytes(), "body");
            counted.fetch_add(1, Ordering::SeqCst);
            Response::builder().status(500).body(Body::empty()).unwrap()
        }
    })
    .await;
    let main = Upstream::named("main").await;
    rig.register("a", main.address).await;
    rig.register_as(named("shadow"), "s", &format!("http://{}", shadow.address), |_| {}).await;
    let post = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody";
    for _ in 0..5 {
        assert_eq!(body_of(&rig.raw(post).await), "main");
    }
    until(|| seen.load(Ordering::SeqCst) == 5).await;
}

#[tokio::test]
async fn a_cookie_keeps_the_client_with_its_instance() {
    let rig = Rig::new().await;
    rig.policy(r#"{"traffic":{"sticky":{"cookie":{"name":"route","max_age_s":60}}}}"#).await;
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    rig.register("a", a.address).await;
    rig.register("b", b.address).await;
    let first = rig.get("/").await;
    let cookie = first.split("set-cookie: ").nth(1).unwrap().split(';').next().unwrap().to_owned();
    // The name has the hash of the service, because all services share one origin. The value has the hash of
    // the instance.
    assert_eq!(cookie.len(), "route-".len() + 8 + "=".len() + 16, "hashes, no names: {cookie}");
    let owner = body_of(&first).to_owned();
    let header = format!("Cookie: x=1; {cookie}\r\n");
    let kept = shares(&rig, 6, &header).await;
    assert_eq!(kept.get(&owner), Some(&6), "{kept:?}");
    // Its instance goes away: another one answers, and the cookie changes to that one.
    let gone = if owner == "a" { a } else { b };
    drop(gone);
    let command = maxine_state::Command::SetDrain { key: rig.key(&owner), reason: Some("".into()) };
    rig.propose(command).await;
    let moved = rig.get_with("/", &header).await;
    assert_ne!(body_of(&moved), owner);
    assert!(moved.contains("set-cookie: route-"), "{moved}");
}

#[tokio::test]
async fn instances_of_the_nodes_zone_are_preferred_until_they_are_too_few() {
    let rig = Rig::with(RigOptions { zone: Some("east".into()), ..Default::default() }).await;
    rig.policy(r#"{"traffic":{"zone":{"local_instances_min":1}}}"#).await;
    let mut kept = Vec::new();
    for (id, zone) in [("a", "east"), ("b", "west"), ("c", "west")] {
        let upstream = Upstream::named(zone).await;
        let url = format!("http://{}", upstream.address);
        rig.register_with(id, &url, |r| r.zone = Some(Name::trusted(zone))).await;
        kept.push(upstream);
    }
    assert_eq!(shares(&rig, 8, "").await["east"], 8);
    let command = maxine_state::Command::SetDrain { key: rig.key("a"), reason: Some("".into()) };
    rig.propose(command).await;
    assert_eq!(shares(&rig, 8, "").await["west"], 8);
}

#[tokio::test]
async fn equal_servers_get_equal_shares_of_least_request() {
    let rig = Rig::new().await;
    rig.policy(r#"{"selection":{"strategy":"least_request"}}"#).await;
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    rig.register("a", a.address).await;
    rig.register("b", b.address).await;
    let equal = shares(&rig, 200, "").await;
    assert!(equal["a"] > 50 && equal["b"] > 50, "{equal:?}");
    // How fast each instance answers depends on the machine. A slow answer excludes no instance.
    rig.policy(r#"{"selection":{"strategy":"least_request"},"traffic":{"latency_aware":true}}"#)
        .await;
    let by_latency = shares(&rig, 400, "").await;
    assert!(by_latency.len() == 2, "{by_latency:?}");
}

#[tokio::test]
async fn a_draining_instance_finishes_what_it_has_and_tells_how_much_is_left() {
    let rig = Arc::new(Rig::new().await);
    let slow = Upstream::http(|_| async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Response::new(Body::from("finished"))
    })
    .await;
    rig.register("a", slow.address).await;
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { rig.get("/").await })
        })
        .collect();
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 3).await;
    let command =
        maxine_state::Command::SetDrain { key: rig.key("a"), reason: Some("deploy".into()) };
    rig.propose(command).await;
    assert_eq!(status_of(&rig.get("/").await), 503, "no new request");
    assert_eq!(rig.forwarder.in_flight(&rig.key("a")), 3, "still counted");
    for call in calls {
        assert_eq!(body_of(&call.await.unwrap()), "finished");
    }
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 0).await;
}

#[tokio::test]
async fn trusted_proxies_say_who_the_client_is() {
    let rig = Rig::with(RigOptions { trusted: vec!["127.0.0.0/8"], ..Default::default() }).await;
    let upstream = Upstream::raw(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.contains("x-forwarded-for: 9.9.9.9, 127.0.0.1"), "{head}");
        assert!(head.contains("x-forwarded-proto: https"), "{head}");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    rig.register("a", upstream.address).await;
    let headers = "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n";
    assert_eq!(status_of(&rig.get_with("/", headers).await), 200);
}

#[tokio::test]
async fn shutdown_lets_requests_finish_and_refuses_new_ones() {
    let rig = Arc::new(Rig::new().await);
    let slow = Upstream::http(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Response::new(Body::from("finished"))
    })
    .await;
    rig.register("a", slow.address).await;
    let mut client = TcpStream::connect(rig.front).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    until(|| rig.forwarder.in_flight(&rig.key("a")) == 1).await;
    let forwarder = rig.forwarder.clone();
    let stopping = tokio::spawn(async move { forwarder.shutdown(Duration::from_secs(5)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let refused = rig.get("/").await;
    assert!(refused.contains("x-maxine-error: stopping"), "{refused}");
    let answer = read_quiet(&mut client, Duration::from_secs(2)).await;
    assert_eq!(body_of(&answer), "finished");
    stopping.await.unwrap();
}
