//! Tokens by client credentials: of a provider that fails in a chosen way, and of a real provider, for a cluster that
//! accepts its tokens, if `MAXINE_TEST_ISSUER` names one.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits in real time"
)]

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use maxine_client::{Client, ClientCredentials, ClientCredentialsOptions, Error, Options};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use support::{Reply, Server, reply};
use tokio::time::Instant;

const SECRET: &str = "s3cret: with % signs +";
/// `orders: a+b` and the secret, each as a form has it, for HTTP Basic.
const PAIR: &str = "b3JkZXJzJTNBK2ElMkJiOnMzY3JldCUzQSt3aXRoKyUyNStzaWducyslMkI=";

fn granted(token: &str, seconds: u32) -> Reply {
    reply(200, &json!({"access_token": token, "token_type": "bearer", "expires_in": seconds}))
}

struct Settings {
    options: ClientCredentialsOptions,
    /// Has the file with the secret.
    directory: tempfile::TempDir,
}

fn settings(token_url: &str) -> Settings {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let options = ClientCredentialsOptions {
        client_id: "orders: a+b".into(),
        token_url: Some(token_url.into()),
        client_secret_file: Some(file),
        ..ClientCredentialsOptions::default()
    };
    Settings { options, directory }
}

fn source(settings: &Settings) -> ClientCredentials {
    ClientCredentials::new(settings.options.clone()).unwrap()
}

async fn token(source: &ClientCredentials, seconds: f64) -> Result<String, Error> {
    source.token(Instant::now() + Duration::from_secs_f64(seconds)).await
}

async fn why(settings: &Settings, seconds: f64) -> String {
    token(&source(settings), seconds).await.unwrap_err().to_string()
}

#[tokio::test]
async fn one_fetch_serves_all_callers_with_the_form_of_rfc_6749() {
    let server = Server::start(|_, _| granted("one", 600)).await;
    let mut settings = settings(&format!("{}/token", server.url));
    settings.options.scope = Some("a b".into());
    settings.options.audience = Some("maxine".into());
    settings.options.resource = Some("https://maxine.test/".into());
    let source = source(&settings);
    let tokens = (0..20).map(|_| token(&source, 10.0));
    for token in futures::future::join_all(tokens).await {
        assert_eq!(token.unwrap(), "one");
    }
    let seen = server.seen();
    assert_eq!(server.lines(), [format!("POST /token Basic {PAIR}")]);
    assert_eq!(seen[0].header("content-type"), "application/x-www-form-urlencoded");
    let form = "grant_type=client_credentials&scope=a+b&audience=maxine&resource=https%3A%2F%2Fmaxine.test%2F";
    assert_eq!(seen[0].body, form);
}

#[tokio::test]
async fn a_token_is_replaced_before_it_expires_while_the_old_one_is_used() {
    let server = Server::start(|number, _| granted(&format!("token-{number}"), 2)).await;
    let settings = settings(&server.url);
    let source = source(&settings);
    let begun = Instant::now();
    loop {
        let token = token(&source, 10.0).await.unwrap();
        if token == "token-2" {
            break;
        }
        assert!(token == "token-1" && begun.elapsed() < Duration::from_secs(2), "{token}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_provider_that_fails_is_asked_again_after_a_pause() {
    let server = Server::start(|number, _| match number {
        1 | 2 => reply(503, &json!({})),
        _ => granted("late", 600),
    })
    .await;
    let begun = Instant::now();
    assert_eq!(token(&source(&settings(&server.url)), 10.0).await.unwrap(), "late");
    // The pauses are at least 250 and 500 ms.
    assert!(begun.elapsed() > Duration::from_millis(700), "{:?}", begun.elapsed());

    let down = Server::start(|_, _| reply(503, &json!({})).header("retry-after", "30")).await;
    let error = why(&settings(&down.url), 0.3).await;
    assert!(error.contains("answers 503"), "{error}");

    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let error = why(&settings(&url), 0.3).await;
    assert_eq!(error, "no token: the provider has not answered in time");
}

#[tokio::test]
async fn a_refusal_ends_the_call_at_once_and_its_error_does_not_tell_the_secret() {
    let words = format!("no client with {SECRET} and {PAIR}");
    let answer = json!({"error": "invalid_client", "error_description": words});
    let server = Server::start(move |_, _| reply(401, &answer)).await;
    let settings = settings(&server.url);
    let source = source(&settings);
    for _ in 0..3 {
        let error = token(&source, 10.0).await.unwrap_err().to_string();
        let words = "answers 401: invalid_client: no client with *** and ***";
        assert_eq!(error, format!("no token: {}/ {words}", server.url));
    }
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn without_a_token_no_node_is_asked() {
    let node = Server::start(|_, _| reply(200, &json!({}))).await;
    let server = Server::start(|_, _| reply(400, &json!({"error": "invalid_scope"}))).await;
    let settings = settings(&server.url);
    let credentials = Some(source(&settings));
    let client = Client::new([&node.url], Options { credentials, ..Options::default() }).unwrap();
    let result = client.request::<Value>(Method::GET, "/x", None).await;
    assert!(
        matches!(&result, Err(Error::Token(why)) if why.ends_with("invalid_scope")),
        "{result:?}"
    );
    assert!(node.seen().is_empty());
}

#[tokio::test]
async fn a_new_token_that_a_node_refuses_is_not_replaced() {
    let server = Server::start(|number, _| granted(&format!("token-{number}"), 600)).await;
    let node = Server::start(|_, _| reply(401, &json!({"detail": "no"}))).await;
    let settings = settings(&server.url);
    let credentials = Some(source(&settings));
    let client = Client::new([&node.url], Options { credentials, ..Options::default() }).unwrap();
    let error = client.request::<Value>(Method::GET, "/x", None).await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::UNAUTHORIZED));
    assert_eq!(node.lines(), ["GET /x Bearer token-1"]);
}

/// A provider whose document has these fields, and its own URL as the issuer if there is none.
async fn provider(fields: Value) -> Server {
    Server::start(move |_, request| {
        if request.target == "/token" {
            return granted("posted", 600);
        }
        let mut document = fields.clone();
        let own = format!("http://{}", request.header("host"));
        if document["issuer"].is_null() {
            document["issuer"] = own.clone().into();
        }
        if document["token_endpoint"].is_null() {
            document["token_endpoint"] = format!("{own}/token").into();
        }
        reply(200, &document)
    })
    .await
}

fn settings_of(server: &Server) -> Settings {
    let mut settings = settings("");
    settings.options.token_url = None;
    settings.options.issuer = Some(server.url.clone());
    settings
}

#[tokio::test]
async fn the_issuer_names_the_endpoint_and_the_method_and_only_itself() {
    let methods = json!(["client_secret_post"]);
    let server = provider(json!({"token_endpoint_auth_methods_supported": methods})).await;
    assert_eq!(token(&source(&settings_of(&server)), 10.0).await.unwrap(), "posted");
    assert_eq!(server.lines(), ["GET /.well-known/openid-configuration", "POST /token"]);
    let body = &server.seen()[1].body;
    assert!(body.ends_with("&client_secret=s3cret%3A+with+%25+signs+%2B"), "{body}");
    let server = provider(json!({"token_endpoint": "http://10.0.0.1/token"})).await;
    let error = why(&settings_of(&server), 10.0).await;
    assert!(error.ends_with("the token_endpoint must be an https URL"), "{error}");
    let server = provider(json!({"issuer": "https://another.test"})).await;
    let error = why(&settings_of(&server), 10.0).await;
    assert!(error.ends_with("the issuer in the answer is another one"), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_not_safe_is_refused() {
    for (access_token, token_type, expect) in [
        ("a b", "bearer", "the answer has no access_token"),
        ("a\nb", "bearer", "the answer has no access_token"),
        ("", "bearer", "the answer has no access_token"),
        ("a", "mac", "the token_type is not Bearer"),
    ] {
        let answer = json!({"access_token": access_token, "token_type": token_type});
        let server = Server::start(move |_, _| reply(200, &answer)).await;
        let error = why(&settings(&server.url), 10.0).await;
        assert!(error.ends_with(expect), "{error}");
    }
    let elsewhere = Server::start(|_, _| granted("stolen", 600)).await;
    let to = elsewhere.url.clone();
    let redirecting =
        Server::start(move |_, _| reply(307, &json!({})).header("location", &to)).await;
    let error = why(&settings(&redirecting.url), 10.0).await;
    assert!(error.contains("answers 307"), "{error}");
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn settings_that_are_not_safe_are_refused() {
    let good = settings("https://h/token");
    let changes: [fn(&mut ClientCredentialsOptions); 7] = [
        |o| o.token_url = Some("http://10.0.0.1/token".into()),
        |o| o.token_url = None,
        |o| o.issuer = Some("https://h".into()),
        |o| o.client_secret_env = Some("E".into()),
        |o| o.client_secret_file = None,
        |o| o.client_id = String::new(),
        |o| o.ca_file = Some(PathBuf::from("/nowhere")),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut options = good.options.clone();
        change(&mut options);
        let result = ClientCredentials::new(options);
        assert!(matches!(result, Err(Error::Settings(_))), "{number}");
    }
    let options =
        Options { token: Some("t".into()), credentials: Some(source(&good)), ..Options::default() };
    assert!(matches!(Client::new(["http://h"], options), Err(Error::Settings(_))));
    let absent = settings("https://127.0.0.1:1");
    std::fs::remove_file(absent.directory.path().join("secret")).unwrap();
    let error = why(&absent, 10.0).await;
    assert!(error.starts_with("no token: the client secret cannot be read"), "{error}");
}

/// A client whose tokens are of a real provider, if there is one.
struct Real {
    client: Client,
    credentials: ClientCredentials,
    /// The secret is read for each fetch.
    _settings: Settings,
}

fn real(client_id: &str) -> Option<Real> {
    let (Ok(issuer), Ok(nodes)) =
        (std::env::var("MAXINE_TEST_ISSUER"), std::env::var("MAXINE_SERVER"))
    else {
        eprintln!("NOT RUN: MAXINE_TEST_ISSUER and MAXINE_SERVER name no provider and no cluster");
        return None;
    };
    let mut settings = settings("");
    settings.options.client_id = client_id.into();
    settings.options.token_url = None;
    settings.options.issuer = Some(issuer);
    settings.options.resource = Some("https://maxine.test/".into());
    settings.options.scope = Some("register".into());
    let credentials = source(&settings);
    let options = Options { credentials: Some(credentials.clone()), ..Options::default() };
    let client = Client::new(nodes.split(','), options).unwrap();
    Some(Real { client, credentials, _settings: settings })
}

async fn me(client: &Client) -> Result<Value, Error> {
    client.request(Method::GET, "/api/v1/me", None).await
}

#[tokio::test]
async fn the_nodes_accept_the_token_of_a_real_provider() {
    let Some(orders) = real("orders: a+b") else { return };
    let who = me(&orders.client).await.unwrap();
    assert_eq!(who["user"], "jwt:corp/orders: a+b");
    assert!(who["role"] == "operator" && who["via"] == "jwt", "{who}");
    let stranger = real("stranger").unwrap();
    assert_eq!(me(&stranger.client).await.unwrap_err().status(), Some(StatusCode::FORBIDDEN));
    let nobody = real("nobody").unwrap();
    let error = me(&nobody.client).await.unwrap_err().to_string();
    assert!(error.contains("answers 401: invalid_client"), "{error}");
}

#[tokio::test]
async fn calls_continue_beyond_the_life_of_a_token() {
    let Some(brief) = real("brief") else { return };
    let (begun, mut used) = (Instant::now(), BTreeSet::new());
    while used.len() < 3 {
        let who = me(&brief.client).await.unwrap();
        assert!(who["role"] == "viewer" && begun.elapsed() < Duration::from_secs(30), "{who}");
        used.insert(token(&brief.credentials, 10.0).await.unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
