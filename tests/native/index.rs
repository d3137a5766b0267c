//! The index in an answer is that of the state that decided it, also for refusals.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::Server;

/// Sends a request. Returns the status and the index.
async fn answered(request: RequestBuilder) -> (u16, u64) {
    let answer = request.send().await.unwrap();
    let index = answer.headers().get("x-maxine-index").expect("every answer has one");
    (answer.status().as_u16(), index.to_str().unwrap().parse().unwrap())
}

async fn written(request: RequestBuilder) -> u64 {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let body: Value = answer.json().await.unwrap();
    body["index"].as_u64().unwrap()
}

fn register(server: &Server) -> RequestBuilder {
    let path = "/services/default/orders/instances/a";
    server.open(Method::PUT, path).json(&json!({"address": "http://h:1"}))
}

fn deregister(server: &Server) -> RequestBuilder {
    server.open(Method::DELETE, "/services/default/orders/instances/a")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_after_a_wait_has_the_index_that_was_waited_for() {
    let server = Server::start().await;
    for path in ["/services/default/orders", "/resolve/default/orders"] {
        let wanted = server.view.index() + 20;
        let asking = server.admin(Method::GET, &format!("{path}?min_index={wanted}"));
        let asking = tokio::spawn(answered(asking));
        written(register(&server)).await;
        written(deregister(&server)).await;
        // Makes other changes until the required index is reached.
        for nth in 0.. {
            let other = server.register("other", &format!("{nth}"), "http://h:1").await;
            if other["index"].as_u64() >= Some(wanted) {
                break;
            }
        }
        let (status, index) = asking.await.unwrap();
        assert_eq!(status, 404, "{path}");
        assert!(index >= wanted, "{path}: {index} of {wanted}");
        written(server.admin(Method::DELETE, "/services/default/other")).await;
    }
    // The index was not reached in time, so the answer has the index that this node has reached.
    let late = server.admin(Method::GET, "/services?min_index=99999999");
    assert_eq!(answered(late).await, (503, server.view.index()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_an_index() {
    let server = Server::start().await;
    let index = written(register(&server)).await;
    let cases = [
        (server.open(Method::GET, "/users"), 401),
        (server.admin(Method::GET, "/nowhere"), 404),
        (server.admin(Method::PATCH, "/services"), 405),
        (server.admin(Method::GET, "/services?limit=0"), 422),
        (server.admin(Method::DELETE, "/services/default/none"), 404),
        (server.open(Method::POST, "/services/default/orders/instances/b/heartbeat"), 404),
        (server.admin(Method::DELETE, "/tokens/none"), 404),
    ];
    for (nth, (request, status)) in cases.into_iter().enumerate() {
        let answer = answered(request).await;
        assert!(answer.0 == status && answer.1 >= index, "case {nth}: {answer:?}");
    }
}

/// A service is created and deleted without a pause; each read returns an index and whether the service
/// existed, and that is compared with the answers to the writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_name_the_state_that_gave_them_while_it_changes() {
    const ROUNDS: usize = 150;
    let server = Arc::new(Server::start().await);
    // For each round, the index at which the instance was registered and the one at which it was removed.
    let rounds: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
    let over = Arc::new(AtomicBool::new(false));
    let writing = {
        let (server, rounds, over) = (Arc::clone(&server), Arc::clone(&rounds), Arc::clone(&over));
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let came = written(register(&server)).await;
                let went = written(deregister(&server)).await;
                rounds.lock().push((came, went));
            }
            over.store(true, Ordering::Relaxed);
        })
    };
    let paths = [
        "/services/default/orders/instances/a",
        "/services/default/orders",
        "/resolve/default/orders",
    ];
    let asking = paths.map(|path| {
        let (server, over) = (Arc::clone(&server), Arc::clone(&over));
        tokio::spawn(async move {
            let mut answers = Vec::new();
            while !over.load(Ordering::Relaxed) {
                answers.push(answered(server.admin(Method::GET, path)).await);
            }
            answers
        })
    });
    writing.await.unwrap();
    let rounds = rounds.lock().clone();
    for (path, asking) in paths.iter().zip(asking) {
        let answers = asking.await.unwrap();
        for status in [200, 404] {
            assert!(answers.iter().any(|answer| answer.0 == status), "{path}: never {status}");
        }
        for (status, index) in answers {
            let there = rounds.iter().any(|(came, went)| (*came..*went).contains(&index));
            // Without an instance the service does not exist either.
            assert_eq!(status == 200, there, "{path}: {status} at {index}");
        }
    }
}
