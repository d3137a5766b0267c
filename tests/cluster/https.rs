//! The HTTP port with TLS: what clients see, and certificates that are replaced while the node runs.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use maxine::app::Node;
use maxine::config::{BackendKind, NodeConfig};
use maxine_identity::ClientAuth;
use maxine_telemetry::{AlertKind, AlertState};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::dev::PATIENCE;

/// An authority and the files that it issues in a directory.
struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(dir: &Path) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { dir: dir.into(), issuer: Issuer::new(params, key), pem }
    }

    /// Writes a certificate for these names, and its key.
    fn issue(&self, name: &str, names: &[&str]) -> [PathBuf; 2] {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut certificate = CertificateParams::new(names).unwrap();
        certificate.serial_number = Some(serial_of(name));
        let certificate = certificate.signed_by(&key, &self.issuer).unwrap();
        let files =
            [self.dir.join(format!("{name}.pem")), self.dir.join(format!("{name}-key.pem"))];
        std::fs::write(&files[0], certificate.pem()).unwrap();
        std::fs::write(&files[1], key.serialize_pem()).unwrap();
        files
    }

    /// Writes a list of revoked certificates that was to be replaced years ago.
    fn revoke(&self, path: &Path, names: &[&str]) {
        let revoked = |name: &&str| RevokedCertParams {
            serial_number: serial_of(name),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2020, 1, 2),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: names.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        std::fs::write(path, list.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
    }

    fn write(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, &self.pem).unwrap();
        path
    }
}

/// The serial number of the certificate with this name of a file.
fn serial_of(name: &str) -> SerialNumber {
    SerialNumber::from(name.as_bytes().to_vec())
}

/// Runs a test that starts nodes in this process.
fn with_actors(test: impl Future<Output = ()>) {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    actix_rt::System::with_tokio_rt(runtime).block_on(test);
}

/// A node with these certificates, on its own data.
async fn node(dir: &Path, pairs: &[&[PathBuf; 2]], change: impl FnOnce(&mut NodeConfig)) -> Node {
    let mut config = NodeConfig::defaults();
    config.backend = BackendKind::Local;
    config.data_dir = dir.join("data");
    config.http.port = 0;
    config.http.tls_cert = pairs.iter().map(|pair| pair[0].clone()).collect();
    config.http.tls_key = pairs.iter().map(|pair| pair[1].clone()).collect();
    config.security.initial_password_file = dir.join("password");
    change(&mut config);
    Node::start(config).await.unwrap()
}

/// The first administrator's password, which the node writes once it leads.
async fn first_password(dir: &Path) -> String {
    let started = Instant::now();
    loop {
        match std::fs::read_to_string(dir.join("password")) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        assert!(started.elapsed() < PATIENCE, "no password");
    }
}

fn client(authority: &Authority) -> reqwest::Client {
    let root = reqwest::Certificate::from_pem(authority.pem.as_bytes()).unwrap();
    let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    builder.tls_certs_only([root]).build().unwrap()
}

/// A connection for `server_name`, with a client certificate if there is one.
async fn connect(
    authority: &Authority,
    node: SocketAddr,
    server_name: &'static str,
    own: Option<&[PathBuf; 2]>,
) -> std::io::Result<TlsStream<TcpStream>> {
    offer(&[], authority, node, server_name, own).await
}

/// A connection on which the client offers to speak `protocols`.
async fn offer(
    protocols: &[&[u8]],
    authority: &Authority,
    node: SocketAddr,
    server_name: &'static str,
    own: Option<&[PathBuf; 2]>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some([certificate, key]) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(certificate).unwrap()],
                PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let tcp = TcpStream::connect(node).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::try_from(server_name).unwrap(), tcp).await
}

/// Sends a request without content and returns the head of the answer.
async fn head_of(stream: &mut TlsStream<TcpStream>, path: &str) -> std::io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    let mut part = [0; 4_096];
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            len => answer.extend_from_slice(&part[..len]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A session that the user of this machine has is not used by a test.
const NO_SESSION: &str = "/nonexistent/session.json";

/// What the command line reports when it asks the node without a token.
async fn asked_by_command(port: u16, ca: &Path, own: Option<&[PathBuf; 2]>) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_maxine"));
    command.args(["services", "list", "--timeout-ms", "10000", "--ca-file"]).arg(ca);
    command.arg("--server").arg(format!("https://localhost:{port}"));
    command.env_remove("MAXINE_TOKEN").env("MAXINE_SESSION_FILE", NO_SESSION);
    if let Some([certificate, key]) = own {
        command.arg("--client-cert").arg(certificate).arg("--client-key").arg(key);
    }
    let output = command.output().await.unwrap();
    String::from_utf8(output.stderr).unwrap()
}

/// The certificate that a new connection gets.
async fn presented(authority: &Authority, node: SocketAddr, name: &'static str) -> Vec<u8> {
    let stream = connect(authority, node, name, None).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(path: &Path) -> Vec<u8> {
    CertificateDer::from_pem_file(path).unwrap().to_vec()
}

/// An instance that answers every request with the head that it got, and 300 KiB.
fn echo() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                    if head.ends_with(b"\r\n\r\n") {
                        let mut content = std::mem::take(&mut head);
                        content.resize(300 * 1_024, b'.');
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", content.len());
                        if stream.write_all(answer.as_bytes()).is_err()
                            || stream.write_all(&content).is_err()
                        {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

#[test]
fn the_port_takes_https_only_and_answers_as_over_plain_http() {
    with_actors(https_only());
}

async fn https_only() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let pair = authority.issue("node", &["127.0.0.1", "localhost"]);
    let node = node(dir.path(), &[&pair], |config| config.http.hsts_max_age_s = 60).await;
    let (address, client) = (node.http_addr(), client(&authority));
    let base = format!("https://{address}");
    let body = json!({"address": format!("http://{}", echo()), "ttl_ms": 600_000});
    let url = format!("{base}/api/v1/services/default/shop/instances/a");
    let registered = client.put(url).json(&body).send().await.unwrap();
    assert_eq!(registered.status(), 200, "{}", registered.text().await.unwrap());

    // Over HTTP/2, and over HTTP/1.1 by the fast path and by the general one.
    let discover = "/api/maxine/serviceops/discover?serviceName=shop";
    let stream =
        offer(&[b"h2", b"http/1.1"], &authority, address, "localhost", None).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut http2, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request =
        axum::http::Request::get(format!("https://localhost{discover}")).body(()).unwrap();
    let (answer, _) = http2.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 302);
    drop(http2);
    connection.await.unwrap().unwrap();
    let mut stream = connect(&authority, address, "localhost", None).await.unwrap();
    for _ in 0..3 {
        let head = head_of(&mut stream, discover).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 302 Found\r\n"), "{head}");
    }
    let proxied = format!("{base}/api/maxine/serviceops/proxy/shop/x");
    for request in [client.get(&proxied), client.post(&proxied).body("")] {
        let answer = request.send().await.unwrap();
        assert!(!answer.headers().contains_key("strict-transport-security"));
        let text = answer.text().await.unwrap();
        assert_eq!(text.len(), 300 * 1_024);
        let lower = text.to_ascii_lowercase();
        assert!(lower.contains("\r\nx-forwarded-proto: https\r\n"), "{}", &text[..800]);
        assert!(lower.contains(";proto=https"), "{}", &text[..800]);
    }
    let ready = client.get(format!("{base}/api/v1/ready")).send().await.unwrap();
    assert_eq!(ready.headers()["strict-transport-security"], "max-age=60");

    // The session's cookie is bound to this host and to HTTPS.
    let user = json!({"user": "admin", "password": first_password(dir.path()).await});
    let signed_in = client.post(format!("{base}/api/v1/session")).json(&user).send().await.unwrap();
    assert_eq!(signed_in.status(), 200);
    let cookie = signed_in.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.starts_with("__Host-maxine_session="), "{cookie}");
    assert!(cookie.contains("Path=/;") && cookie.ends_with("; Secure"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    let users = client.get(format!("{base}/api/v1/users")).header("cookie", pair);
    assert_eq!(users.send().await.unwrap().status(), 200);

    // A client that does not use TLS is told.
    let mut plain = std::net::TcpStream::connect(address).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.contains("this port takes HTTPS only"), "{answer}");
    let mut broken = std::net::TcpStream::connect(address).unwrap();
    broken.set_read_timeout(Some(PATIENCE)).unwrap();
    broken.write_all(&[22, 3, 1, 0, 4, 255, 255, 255, 255]).unwrap();
    let _alert = broken.read_to_end(&mut Vec::new());
    // The node counts a failure after it has told the client.
    let started = Instant::now();
    loop {
        let metrics = client.get(format!("{base}/api/actuator/prometheus")).header("cookie", pair);
        let metrics = metrics.send().await.unwrap().text().await.unwrap();
        let is_shown = |reason: &str, count: u8| {
            metrics.contains(&format!("maxine_tls_failures_total{{reason=\"{reason}\"}} {count}\n"))
        };
        // The client without TLS is on this machine.
        if is_shown("handshake", 1) && is_shown("not_tls", 0) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{metrics}");
    }
    node.stop().await;
}

#[test]
fn a_changed_certificate_is_taken_without_a_restart_and_a_bad_one_is_reported() {
    with_actors(changed_certificate());
}

async fn changed_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let first = authority.issue("first", &["localhost"]);
    let second = authority.issue("second", &["shop.example", "*.pay.example"]);
    let node = node(dir.path(), &[&first, &second], |_| {}).await;
    let address = node.http_addr();
    assert_eq!(presented(&authority, address, "localhost").await, der(&first[0]));
    assert_eq!(presented(&authority, address, "shop.example").await, der(&second[0]));
    assert_eq!(presented(&authority, address, "a.pay.example").await, der(&second[0]));
    let mut open = connect(&authority, address, "localhost", None).await.unwrap();
    head_of(&mut open, "/api/actuator/health").await.unwrap();

    let later = authority.issue("later", &["localhost"]);
    for at in 0..2 {
        std::fs::copy(&later[at], &first[at]).unwrap();
    }
    let started = Instant::now();
    while presented(&authority, address, "localhost").await != der(&later[0]) {
        assert!(started.elapsed() < PATIENCE, "the new certificate is not taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    head_of(&mut open, "/api/actuator/health").await.expect("an open connection stays");

    let refused = |node: &Node| {
        let alerts = node.telemetry().alerts().newest_first().into_iter();
        alerts
            .filter(|alert| alert.kind == AlertKind::TlsFilesRefused)
            .map(|alert| (alert.state == AlertState::Active, alert.message.clone()))
            .next()
    };
    std::fs::copy(&second[1], &first[1]).unwrap();
    let started = Instant::now();
    let why = loop {
        if let Some((true, why)) = refused(&node) {
            break why;
        }
        assert!(started.elapsed() < PATIENCE, "no alert");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(why.contains("it is not the key of the certificate in"), "{why}");
    assert_eq!(presented(&authority, address, "localhost").await, der(&later[0]));
    std::fs::copy(&later[1], &first[1]).unwrap();
    let started = Instant::now();
    while refused(&node).is_some_and(|(is_active, _)| is_active) {
        assert!(started.elapsed() < PATIENCE, "the alert does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.stop().await;
}

/// The first message of a handshake.
fn client_hello(authority: &Authority) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut hello).unwrap();
    }
    hello
}

/// Begins a handshake from another address of this machine, and returns the connection when the node has answered.
async fn begin_handshake(node: SocketAddr, last: u8, hello: &[u8]) -> std::io::Result<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(([127, 0, 1, last], 0).into())?;
    let mut stream = socket.connect(node).await?;
    stream.write_all(hello).await?;
    stream.read_u8().await?;
    Ok(stream)
}

#[test]
fn handshakes_that_others_never_finish_do_not_delay_a_new_client() {
    with_actors(unfinished_handshakes());
}

async fn unfinished_handshakes() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let pair = authority.issue("node", &["localhost"]);
    let node = node(dir.path(), &[&pair], |config| {
        // Otherwise loopback addresses count as operators.
        config.security.trusted_proxies = vec!["192.0.2.1/32".parse().unwrap()];
    })
    .await;
    let (address, hello) = (node.http_addr(), client_hello(&authority));
    let mut silent = Vec::new();
    for last in (1..=48).cycle().take(60) {
        silent.push(begin_handshake(address, last, &hello).await.unwrap());
    }
    for addresses in [1, 48] {
        let (stop, hello) = (tokio_util::sync::CancellationToken::new(), hello.clone());
        let (_guard, stopped) = (stop.clone().drop_guard(), stop.clone());
        let flood = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let again = |last: u8| {
                let (hello, stopped) = (&hello, &stopped);
                async move {
                    while !stopped.is_cancelled() {
                        let _unfinished = begin_handshake(address, last, hello).await;
                    }
                }
            };
            let loops = (1..=addresses).cycle().take(300).map(again);
            let flood = stopped.run_until_cancelled(futures::future::join_all(loops));
            let _stopped = runtime.unwrap().block_on(flood);
        });
        let mut took = Vec::new();
        for _ in 0..9 {
            let began = Instant::now();
            let mut stream = connect(&authority, address, "localhost", None).await.unwrap();
            head_of(&mut stream, "/api/actuator/health").await.unwrap();
            took.push(began.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stop.cancel();
        flood.join().unwrap();
        took.sort();
        // The operating system would send the first packet again after a second.
        assert!(took[4] < Duration::from_millis(900), "{addresses} addresses: {took:?}");
    }
    drop(silent);
    node.stop().await;
}

#[test]
fn clients_need_a_certificate_where_the_settings_say_so() {
    with_actors(client_certificates());
}

async fn client_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let pair = authority.issue("node", &["localhost"]);
    let own = authority.issue("own", &["client"]);
    let foreign = Authority::new(dir.path()).issue("foreign", &["client"]);
    let ca = authority.write("ca.pem");
    for (auth, without) in [(ClientAuth::Required, false), (ClientAuth::Optional, true)] {
        let data = dir.path().join(format!("{auth:?}"));
        let node = node(&data, &[&pair], |config| {
            config.http.tls_client_auth = auth;
            config.http.tls_client_ca.clone_from(&ca);
        })
        .await;
        for (certificate, accepted) in
            [(None, without), (Some(&own), true), (Some(&foreign), false)]
        {
            let asked = async {
                let stream = connect(&authority, node.http_addr(), "localhost", certificate).await;
                // With TLS 1.3 the client learns of a refusal when it reads.
                head_of(&mut stream?, "/api/actuator/health").await
            };
            assert_eq!(asked.await.is_ok(), accepted, "{auth:?}: {certificate:?}");
            let port = node.http_addr().port();
            let reported = asked_by_command(port, &ca, certificate).await;
            let is_answered = reported.contains("the request carries no token");
            assert_eq!(is_answered, accepted, "{auth:?}: {certificate:?}: {reported}");
        }
        node.stop().await;
    }
}

#[test]
fn a_revoked_client_certificate_is_refused_and_a_bad_list_is_reported() {
    with_actors(revoked_client());
}

async fn revoked_client() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let pair = authority.issue("node", &["localhost"]);
    let [own, other] = ["own", "other"].map(|name| authority.issue(name, &["client"]));
    let (ca, list) = (authority.write("ca.pem"), dir.path().join("revoked.pem"));
    authority.revoke(&list, &[]);
    let node = node(dir.path(), &[&pair], |config| {
        config.http.tls_client_auth = ClientAuth::Required;
        config.http.tls_client_ca = ca;
        config.http.tls_client_crl = vec![list.clone()];
    })
    .await;
    let is_accepted = async |certificate: &[PathBuf; 2]| {
        let stream = connect(&authority, node.http_addr(), "localhost", Some(certificate)).await;
        let Ok(mut stream) = stream else { return false };
        // With TLS 1.3 the client learns of a refusal when it reads.
        head_of(&mut stream, "/api/actuator/health").await.is_ok()
    };
    assert!(is_accepted(&own).await && is_accepted(&other).await);
    authority.revoke(&list, &["own"]);
    let started = Instant::now();
    while is_accepted(&own).await {
        assert!(started.elapsed() < PATIENCE, "the list is not taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(is_accepted(&other).await);

    // A list of a stranger is refused, and the former one stays. It is out of date, and so is the one of the stranger.
    Authority::new(dir.path()).revoke(&list, &[]);
    let active = |kind: AlertKind| {
        let alerts = node.telemetry().alerts().newest_first().into_iter();
        let mut alerts = alerts.filter(|alert| alert.kind == kind);
        alerts.find(|alert| alert.state == AlertState::Active).map(|alert| alert.message.clone())
    };
    for (kind, expected) in [
        (AlertKind::TlsFilesRefused, "none of the authorities signed"),
        (AlertKind::CertificateEnds, "list of revoked certificates is out of date"),
    ] {
        let started = Instant::now();
        loop {
            match active(kind) {
                Some(message) if message.contains(expected) => break,
                other => assert!(started.elapsed() < PATIENCE, "no alert: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    assert!(!is_accepted(&own).await && is_accepted(&other).await);
    node.stop().await;
}

#[test]
fn a_password_over_plain_http_from_another_machine_is_refused() {
    with_actors(plain_password());
}

async fn plain_password() {
    for allowed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path(), &[], |config| {
            config.security.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
            config.security.allow_plain_http = allowed;
        })
        .await;
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let base = format!("http://{}", node.http_addr());
        let password = first_password(dir.path()).await;
        let native = ("/api/v1/session", json!({"user": "admin", "password": password}));
        let compatible = ("/api/maxine/signin", json!({"userName": "admin", "password": password}));
        for (path, body) in [native, compatible] {
            for (fields, expected) in [
                (&[][..], 200),
                (&[("x-forwarded-for", "203.0.113.9")], if allowed { 200 } else { 403 }),
                (&[("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")], 200),
                (&[("forwarded", "for=203.0.113.9;proto=https")], 200),
            ] {
                let mut request = http.post(format!("{base}{path}")).json(&body);
                for (name, value) in fields {
                    request = request.header(*name, *value);
                }
                let answer = request.send().await.unwrap();
                let status = answer.status().as_u16();
                let text: Value = answer.json().await.unwrap();
                assert_eq!(status, expected, "{path} {fields:?}: {text}");
                if status == 403 {
                    assert!(text.to_string().contains("over plain HTTP"), "{text}");
                }
            }
        }
        node.stop().await;
    }
}
