//! The name server of a real node, asked with `dig`.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking, and has no users"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use maxine::app::Node;
use maxine::config::NodeConfig;
use maxine_dns::Domain;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

/// A node of local mode with a name server.
struct Server {
    node: Node,
    port: u16,
    client: reqwest::Client,
    token: String,
    _dir: tempfile::TempDir,
}

impl Server {
    async fn start(change: impl FnOnce(&mut NodeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = NodeConfig::defaults();
        config.data_dir = dir.path().into();
        config.http.port = 0;
        config.security.initial_password_file = dir.path().join("password");
        config.dns.alt_domains = vec![Domain::parse("consul").unwrap()];
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        config.dns.port = free.local_addr().unwrap().port();
        change(&mut config);
        let port = config.dns.port;
        drop(free);
        let node = Node::start(config).await.unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut server = Self { node, port, client, token: String::new(), _dir: dir };
        let file = server._dir.path().join("password");
        let started = Instant::now();
        while !std::fs::read_to_string(&file).is_ok_and(|word| word.ends_with('\n')) {
            assert!(started.elapsed() < PATIENCE, "no password");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let password = std::fs::read_to_string(&file).unwrap();
        let body = json!({"user": "admin", "password": password.trim()});
        let answer = server.send("POST", "session", body).await;
        server.token = answer["access_token"].as_str().unwrap().into();
        server
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> Value {
        let url = format!("http://{}/api/v1/{path}", self.node.http_addr());
        let mut request = self.client.request(method.parse().unwrap(), url).json(&body);
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn register(&self, service: &str, id: &str, mut body: Value) {
        body["ttl_ms"] = 60_000.into();
        self.send("PUT", &format!("services/{service}/instances/{id}"), body).await;
    }

    /// What `dig` prints.
    async fn dig(&self, words: &str) -> String {
        let port = self.port.to_string();
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let run = move || {
            let mut dig = Command::new("dig");
            dig.args(["@127.0.0.1", "-p", &port, "+timeout=5", "+tries=2", "+nocookie"]);
            let output =
                dig.args(words).output().expect("dig: scripts/install-tools.sh installs it");
            String::from_utf8(output.stdout).unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    /// The data of the answers, sorted.
    async fn short(&self, words: &str) -> Vec<String> {
        let printed = self.dig(&format!("+short {words}")).await;
        let mut lines: Vec<String> = printed.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Asks until the answer is this one.
    async fn until(&self, words: &str, expected: &[&str]) {
        let started = Instant::now();
        loop {
            let found = self.short(words).await;
            if found == expected {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{words}: {found:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
    });
    system.block_on(test);
}

#[test]
fn dns_says_what_the_registry_says() {
    run(async {
        let server = Server::start(|_| ()).await;
        let web = "default/web";
        let a = json!({"address": "http://10.0.0.1:8080", "weight": 3, "tags": ["v1"], "node": "box-1",
                       "checks": [{"id": "own", "ttl_ms": 60_000, "initial_status": "passing"}]});
        server.register(web, "a", a).await;
        server.register(web, "b", json!({"address": "http://[2001:db8::7]:81"})).await;
        server.register(web, "c", json!({"address": "https://10.0.0.3", "zone": "east"})).await;
        let all = ["10.0.0.1", "10.0.0.3"];
        // Who has the answer to a write sees it in the next answer of this node.
        assert_eq!(server.short("web.service.maxine A").await, all);
        assert_eq!(server.short("web.service.consul AAAA").await, ["2001:db8::7"]);
        assert_eq!(server.short("v1.web.service.dc1.consul").await, ["10.0.0.1"]);
        assert_eq!(
            server.short("_web._tcp.service.maxine SRV").await,
            [
                "1 1 443 0a000003.addr.maxine.",
                "1 1 81 20010db8000000000000000000000007.addr.maxine.",
                "1 3 8080 0a000001.addr.maxine.",
            ]
        );
        server.until("box-1.node.maxine", &["10.0.0.1"]).await;
        server.until("-x 10.0.0.1", &["box-1.node.maxine."]).await;
        server.until("-x 10.0.0.3", &["web.service.maxine."]).await;

        server.send("PUT", "services/default/web/instances/c/drain", json!({"reason": "x"})).await;
        assert_eq!(server.short("web.service.maxine A").await, ["10.0.0.1"]);
        let check = "services/default/web/instances/a/checks/own";
        server.send("PUT", check, json!({"status": "critical"})).await;
        let failed = server.dig("web.service.maxine A").await;
        assert!(failed.contains("status: NOERROR") && failed.contains("ANSWER: 0"), "{failed}");
        assert!(failed.contains("\tSOA\t"), "{failed}");
        assert!(server.dig("v1.web.service.maxine").await.contains("status: NXDOMAIN"));
        server.send("PUT", check, json!({"status": "passing"})).await;
        server.send("DELETE", "services/default/web/instances/c/drain", Value::Null).await;
        assert_eq!(server.short("web.service.maxine A").await, all);
        for id in ["a", "b", "c"] {
            server
                .send("DELETE", &format!("services/default/web/instances/{id}"), Value::Null)
                .await;
        }
        assert!(server.dig("web.service.maxine A").await.contains("status: NXDOMAIN"));
        let metrics = format!("http://{}/api/actuator/prometheus", server.node.http_addr());
        let metrics = server.client.get(metrics).bearer_auth(&server.token).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        assert!(metrics.contains("maxine_dns_answers_total{code=\"nxdomain\"}"), "{metrics}");
        server.node.stop().await;
    });
}

#[test]
fn dig_reads_every_form_of_an_answer() {
    run(async {
        let server = Server::start(|config| config.dns.ttl_s = 4).await;
        for at in 0..100 {
            let address = json!({"address": format!("http://10.1.0.{at}:80")});
            server.register("default/many", &format!("i{at}"), address).await;
        }
        // Cut over UDP; dig then asks over TCP.
        assert_eq!(server.short("many.service.maxine SRV").await.len(), 100);
        let cut = server.dig("+ignore +bufsize=512 many.service.maxine SRV").await;
        assert!(cut.contains("flags: qr aa tc rd;"), "{cut}");
        let whole = server.dig("+tcp many.service.maxine SRV").await;
        assert!(whole.contains("ANSWER: 100, AUTHORITY: 0, ADDITIONAL: 101"), "{whole}");
        assert_eq!(server.short("+noedns +ignore many.service.maxine A").await.len(), 29);
        let spelled = server.dig("+norec mAnY.serVice.MaxinE A").await;
        assert!(spelled.contains("\nmAnY.serVice.MaxinE.\t4\tIN\tA\t10.1.0."), "{spelled}");
        assert!(spelled.contains("flags: qr aa; "), "{spelled}");
        for (words, expected) in [
            ("example.com", "status: REFUSED"),
            ("maxine SOA", "SOA\tns.maxine. hostmaster.maxine. "),
            ("maxine NS", "ns.maxine.\t\t4\tIN\tA\t127.0.0.1"),
            ("+edns=1 +noednsneg many.service.maxine", "status: BADVERS"),
            ("+subnet=10.1.2.0/24 many.service.maxine", "CLIENT-SUBNET: 10.1.2.0/24/0"),
            ("+opcode=notify many.service.maxine", "status: NOTIMP"),
            ("maxine AXFR", "Transfer failed."),
            ("-c CH version.bind TXT", "status: REFUSED"),
            ("+notcp many.service.maxine ANY", "flags: qr aa tc rd;"),
            ("many.service.maxine ANY", "ANSWER: 100,"),
        ] {
            let words =
                if words.contains("+notcp") { format!("+ignore {words}") } else { words.into() };
            let printed = server.dig(&words).await;
            assert!(printed.contains(expected), "{words}: {printed}");
            assert!(!printed.contains("Warning:") && !printed.contains("malformed"), "{printed}");
        }
        server.node.stop().await;
    });
}

#[test]
fn hostile_packets_and_connections_stop_nothing() {
    run(async {
        let server = Server::start(|config| {
            config.dns.connections_max = 3;
            config.dns.connection_timeout_ms = 1_000;
        })
        .await;
        server.register("default/web", "a", json!({"address": "http://10.0.0.1:80"})).await;
        let port = server.port;
        let attack = move || {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            udp.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            let answer = b"\x00\x01\x81\x80\0\0\0\0\0\0\0\0";
            let looping = b"\x00\x02\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01";
            for packet in [&b""[..], b"\x01", answer, &[0xff; 600], looping] {
                udp.send(packet).unwrap();
            }
            // Only the last one is a question.
            let mut read = [0; 512];
            udp.set_read_timeout(Some(PATIENCE)).unwrap();
            let len = udp.recv(&mut read).unwrap();
            assert_eq!(read[..len], *b"\x00\x02\x81\x01\0\0\0\0\0\0\0\0", "FORMERR");
            // Silent connections are closed; one that is too many is closed at once.
            let open = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            let mut connections: Vec<TcpStream> = (0..5).map(|_| open()).collect();
            connections[0].write_all(&[0]).unwrap();
            for connection in &mut connections {
                connection.set_read_timeout(Some(PATIENCE)).unwrap();
                let closed = connection.read(&mut read);
                assert!(
                    matches!(closed, Ok(0))
                        || closed.is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock)
                );
            }
        };
        tokio::task::spawn_blocking(attack).await.unwrap();
        assert_eq!(server.short("+tcp web.service.maxine").await, ["10.0.0.1"]);
        assert_eq!(server.short("web.service.maxine").await, ["10.0.0.1"]);
        server.node.stop().await;
    });
}

/// Addresses that hold all connections do not keep out another one.
#[test]
fn connections_of_other_addresses_do_not_keep_out_a_new_one() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    run(async {
        let server = Server::start(|config| {
            config.dns.connections_max = 6;
            config.dns.connections_per_address_max = 6;
        })
        .await;
        server.register("default/web", "a", json!({"address": "http://10.0.0.1:80"})).await;
        let port = server.port;
        let ask = async |from: &str| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
            let mut stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
            let question =
                b"\x00\x24\x00\x01\x01\x00\x00\x01\0\0\0\0\0\0\x03web\x07service\x06maxine\0\0\x01\0\x01";
            stream.write_all(question).await.unwrap();
            let answered = stream.read_u16().await.is_ok();
            (stream, answered)
        };
        let mut held = Vec::new();
        for from in ["127.0.1.1", "127.0.1.1", "127.0.1.1", "127.0.1.2", "127.0.1.2", "127.0.1.2"] {
            let (stream, answered) = ask(from).await;
            assert!(answered, "{from}");
            held.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let (_other, answered) = ask("127.0.1.3").await;
        assert!(answered, "an address that had no connection");
        drop(held);
        server.node.stop().await;
    });
}

#[test]
fn a_port_in_use_ends_the_start_with_the_setting() {
    run(async {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut config = NodeConfig::defaults();
        config.data_dir = dir.path().into();
        config.http.port = 0;
        config.dns.port = taken.local_addr().unwrap().port();
        let problems = maxine::app::start_problems(&config);
        assert!(problems.iter().any(|text| text.contains("dns.port")), "{problems:?}");
        let error = Node::start(config).await.err().expect("it does not start");
        assert!(format!("{error:#}").contains("dns.host, dns.port"), "{error:#}");
    });
}
