//! Runs `docs/guides/api-tour.md` as it is written.

use crate::page;
use crate::support::Server;

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_runs_as_it_is_written() {
    let server = Server::start().await;
    let env = [
        ("MAXINE", format!("http://{}", server.addr)),
        ("MAXINE_USER", server.password.0.clone()),
        ("MAXINE_PASSWORD", server.password.1.clone()),
    ];
    let tour = include_str!("../../docs/guides/api-tour.md");
    let commands = tokio::task::spawn_blocking(move || page::run(tour, &env)).await.unwrap();
    assert!(commands > 10, "{commands}");
}
