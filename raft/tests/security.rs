//! Which nodes are accepted by a node, and which are refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test measures real time")]

mod support;

use std::time::Duration;

use maxine_raft::{EngineKind, PeerTls, RaftNode, StartError, pki};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::client::TlsStream;

use support::{Cluster, Echo, Journal, JournalApp, TIMEOUT, member};

/// Certificates that are valid for a day, in a directory below the cluster's.
fn issue(cluster: &Cluster, dir: &str, cluster_id: &str, nodes: &[u64]) -> pki::ClusterPki {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now_ms = u64::try_from(since.as_millis()).unwrap();
    let validity = pki::Validity { now_ms, node_days: 1 };
    pki::issue_cluster(&cluster.dir.path().join(dir), cluster_id, nodes, validity).unwrap()
}

async fn tls_cluster() -> Cluster {
    let mut cluster = Cluster::prepare(EngineKind::Redb, 3, |_| {});
    cluster.tls = Some(issue(&cluster, "pki", "test", &[1, 2, 3, 4]));
    for id in 1..=3 {
        cluster.start_node(id).await;
    }
    cluster.node(1).bootstrap(cluster.members.clone()).await.unwrap();
    cluster.leader().await;
    cluster
}

/// Starts a node with other credentials and adds it to the cluster. Returns whether it was accepted.
async fn is_let_in(
    cluster: &mut Cluster,
    cluster_id: &str,
    tls: PeerTls,
    certificate_error: bool,
) -> bool {
    cluster.members.insert(4, member(4));
    let mut config = cluster.config(4);
    config.cluster_id = cluster_id.to_owned();
    config.tls = tls;
    let started = RaftNode::start(
        config,
        Box::new(JournalApp(Journal::default())),
        std::sync::Arc::new(Echo),
    )
    .await;
    if certificate_error {
        assert!(matches!(started, Err(StartError::Tls(_))));
        return false;
    }
    let stranger = started.unwrap();
    cluster.node(1).add_learner(4, cluster.members[&4].clone()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    let applied = stranger.status().applied_index;
    stranger.stop_now().await;
    cluster.propose(1, "goes on").await;
    applied.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_works_over_mutual_tls_and_lets_a_certified_node_in() {
    let mut cluster = tls_cluster().await;
    for id in 1..=3 {
        cluster.propose(id, "x").await;
    }
    cluster.converged().await;
    let tls = cluster.tls.as_ref().unwrap().tls_of(4).unwrap();
    assert!(is_let_in(&mut cluster, "test", tls, false).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_refused() {
    let mut cluster = tls_cluster().await;
    let other = issue(&cluster, "other", "test", &[4]);
    assert!(!is_let_in(&mut cluster, "test", other.tls_of(4).unwrap(), false).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_node_is_refused_at_its_own_start() {
    let mut cluster = tls_cluster().await;
    let of_three = cluster.tls.as_ref().unwrap().tls_of(3).unwrap();
    assert!(!is_let_in(&mut cluster, "test", of_three, true).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_and_plain_tcp_are_refused() {
    let mut cluster = tls_cluster().await;
    let foreign = issue(&cluster, "foreign", "other", &[4]);
    assert!(!is_let_in(&mut cluster, "other", foreign.tls_of(4).unwrap(), false).await);

    let mut plain = Cluster::start(EngineKind::Redb, 1, |_| {}).await;
    assert!(
        !is_let_in(&mut plain, "other", PeerTls::Plain { allow_non_loopback: false }, false).await
    );
}

/// The server must check the name itself: a node can have a valid certificate of the authority and claim to
/// be another node.
#[tokio::test(flavor = "multi_thread")]
async fn a_valid_certificate_under_a_false_name_is_refused_by_the_server() {
    let cluster = tls_cluster().await;
    let answers = [claim(&cluster, 4, 4, &KNOWN).await.1, claim(&cluster, 4, 2, &KNOWN).await.1];
    assert_eq!(answers, [0, 1], "variant 0 accepts, variant 1 refuses");
}

/// Connects to node 1 over mutual TLS with the certificate of `certified`, and greets it as `node_id`. Also
/// returns the variant of the welcome: 0 accepts, 1 refuses, 2 says that the node was removed. `seen` is what
/// the peer says about the directory of node 1.
async fn claim(
    cluster: &Cluster,
    certified: u64,
    node_id: u8,
    seen: &[u8],
) -> (TlsStream<tokio::net::TcpStream>, u8) {
    let tcp = tokio::net::TcpStream::connect(&cluster.members[&1].peer_addr).await.unwrap();
    let mut stream = handshake(cluster, certified, tcp).await;
    let answer = exchange(&mut stream, &hello(node_id)).await;
    if answer[4] == 0 {
        // Each sends its data directory id, here 44 with an empty log, and confirms the other's.
        let answer = exchange(&mut stream, &[b'M', b'X', 1, DIR_SHOWN, 44, 0]).await;
        assert_eq!(answer[..5], [b'M', b'X', 1, DIR_SEEN, 0], "the directory is known");
        send(&mut stream, &[&[b'M', b'X', 1, DIR_SEEN][..], seen].concat()).await;
    }
    (stream, answer[4])
}

/// Begins a TLS session with node 1, with the certificate of `certified`.
async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    cluster: &Cluster,
    certified: u64,
    connection: S,
) -> TlsStream<S> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
    let pki = cluster.tls.as_ref().unwrap();
    let PeerTls::Mutual { ca_pem, cert_pem, key_pem } = pki.tls_of(certified).unwrap() else {
        unreachable!("the authority issues mutual TLS")
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_pem).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(roots)
    .with_client_auth_cert(
        vec![CertificateDer::from_pem_file(cert_pem).unwrap()],
        PrivateKeyDer::from_pem_file(key_pem).unwrap(),
    )
    .unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    connector
        .connect(ServerName::try_from("node-1.test.maxine").unwrap(), connection)
        .await
        .unwrap()
}

/// The first envelope of a peer that says it is `node_id`.
fn hello(node_id: u8) -> Vec<u8> {
    // Cluster "test", lineage 0, who we claim to be, target 1, channel app, version 1, protocols 4 to 4.
    let mut hello = vec![b'M', b'X', 1, 5, 0, 4];
    hello.extend_from_slice(b"test");
    hello.extend_from_slice(&[0, node_id, 1, 3, 1, 4, 4]);
    hello
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), envelope: &[u8]) {
    let mut frame = (8 + envelope.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&[0; 8]);
    frame.extend_from_slice(envelope);
    stream.write_all(&frame).await.unwrap();
}

/// Sends one envelope and returns the one that answers it.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), envelope: &[u8]) -> Vec<u8> {
    send(stream, envelope).await;
    let answering = async {
        let len = stream.read_u32().await.unwrap();
        let mut answer = vec![0; len as usize];
        stream.read_exact(&mut answer).await.unwrap();
        answer.split_off(8)
    };
    tokio::time::timeout(TIMEOUT, answering).await.unwrap()
}

/// The kind of the envelopes with data directory ids.
const DIR_SHOWN: u8 = 12;
const DIR_SEEN: u8 = 13;
/// What a peer says about a directory. `KNOWN`: it knows the directory, and no acknowledged entries.
/// `ACKNOWLEDGED_MORE`: entries up to index 200 in term 100 were acknowledged. `REPLACED`: it knows another
/// directory.
const KNOWN: [u8; 5] = [0, 44, 0, 0, 0];
const ACKNOWLEDGED_MORE: [u8; 8] = [0, 44, 0, 1, 100, 0, 200, 100];
const REPLACED: [u8; 1] = [1];
/// The answers, by their variants in an envelope of kind 8.
const FAILED: u8 = 18;
const NOT_MEMBER: u8 = 21;

#[tokio::test(flavor = "multi_thread")]
async fn a_certified_node_that_is_no_member_can_do_nothing() {
    let mut cluster = tls_cluster().await;
    cluster.node(1).transfer_leadership(Some(1)).await.unwrap();
    assert_eq!(cluster.leader().await, 1);
    let term = cluster.node(1).leadership().term;
    // The cluster's authority created a certificate for node 4, which was never added.
    let (mut stranger, welcome) = claim(&cluster, 4, 4, &KNOWN).await;
    assert_eq!(welcome, 0, "the certificate is good");
    let request = |variant: u8, body: &[u8]| [b"MX\x01\x07", &[variant][..], body].concat();
    for (what, bytes) in [
        ("propose", request(9, &[1, b'x', 100])),
        ("read", request(10, &[1, 100])),
        ("send a message", request(11, &[1, b'x'])),
        ("remove node 3", request(12, &[2, 3, 1, 100])),
        ("learn how far the log is committed", request(13, &[])),
        ("read the membership", request(15, &[])),
    ] {
        let answer = exchange(&mut stranger, &bytes).await;
        assert_eq!(answer[..5], [b'M', b'X', 1, 8, NOT_MEMBER], "it could {what}");
    }
    // A vote in term 200 with the mark of a transfer, which skips the waiting time, and a heartbeat in that
    // term.
    for (what, bytes) in [
        ("get a vote", request(3, &[200, 4, 0, 0, 1])),
        ("lead", request(2, &[200, 4, 1, 0, 0, 0])),
    ] {
        let answer = exchange(&mut stranger, &bytes).await;
        assert_eq!(answer[..5], [b'M', b'X', 1, 8, FAILED], "it could {what}");
    }
    cluster.propose(1, "goes on").await;
    cluster.converged().await;
    assert_eq!(cluster.journal(1), ["goes on"]);
    assert_eq!(cluster.node(1).leadership().term, term);
    assert_eq!(cluster.node(1).status().members.len(), 3);

    cluster.node(1).remove(3, false).await.unwrap();
    cluster.kill(3).await;
    let (_, welcome) = claim(&cluster, 3, 3, &KNOWN).await;
    assert_eq!(welcome, 2, "a removed node is turned away");
}

/// Only a member may say that a node has lost its directory or entries, because a node that hears that stops, or
/// neither votes nor stands for election.
#[tokio::test(flavor = "multi_thread")]
async fn a_certified_node_that_is_no_member_neither_stops_a_node_nor_sets_it_back() {
    let cluster = tls_cluster().await;
    cluster.node(1).transfer_leadership(Some(1)).await.unwrap();
    assert_eq!(cluster.leader().await, 1);
    let (mut stranger, welcome) = claim(&cluster, 4, 4, &ACKNOWLEDGED_MORE).await;
    assert_eq!(welcome, 0, "the certificate is good");
    // The answer shows that node 1 has read what was said before.
    let answer = exchange(&mut stranger, b"MX\x01\x07\x0a\x01\x64").await;
    assert_eq!(answer[..5], [b'M', b'X', 1, 8, NOT_MEMBER]);
    assert_eq!(cluster.node(1).lost_index(), None, "it believes a stranger");

    let (mut stranger, _) = claim(&cluster, 4, 4, &REPLACED).await;
    let mut rest = Vec::new();
    let closing = tokio::io::AsyncReadExt::read_to_end(&mut stranger, &mut rest);
    let _closed = tokio::time::timeout(TIMEOUT, closing).await.expect("the connection is closed");
    assert_eq!(cluster.node(1).status().failure, None);
    cluster.propose(1, "goes on").await;
    cluster.converged().await;
    assert_eq!(cluster.node(1).leadership().leader, Some(1));
}

/// A connection of a certified node that is no member takes a place on the peer port. The members need their
/// places, also when they come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_certified_node_that_is_no_member_cannot_take_the_places_of_members() {
    let mut cluster = tls_cluster().await;
    cluster.kill(3).await;
    let mut held = Vec::new();
    for _ in 0..300 {
        let (stream, welcome) = claim(&cluster, 4, 4, &KNOWN).await;
        assert_eq!(welcome, 0, "the certificate is good");
        held.push(stream);
    }
    let (mut newest, _) = claim(&cluster, 4, 4, &KNOWN).await;
    let answer = exchange(&mut newest, b"MX\x01\x07\x00").await;
    assert_eq!(answer[3], 8, "its newest connection is served");
    // All older connections but 31 are closed.
    let mut rest = [0; 1];
    for stream in &mut held[..250] {
        let closing = tokio::io::AsyncReadExt::read(stream, &mut rest);
        let read = tokio::time::timeout(TIMEOUT, closing).await.expect("it is closed");
        assert!(!matches!(read, Ok(1..)), "{read:?}");
    }
    cluster.start_node(3).await;
    cluster.propose(3, "through the one that came back").await;
    cluster.converged().await;
}

/// The certificate of a stolen machine is shut out at once, with its open connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_denied_certificate_ends_open_connections_and_opens_none() {
    let mut cluster = Cluster::prepare(EngineKind::Redb, 3, |config| {
        let list = config.data_dir.parent().unwrap().join("denied");
        config.tls_denied = Some(list);
    });
    let list = cluster.dir.path().join("denied");
    std::fs::write(&list, "# none\n").unwrap();
    cluster.tls = Some(issue(&cluster, "pki", "test", &[1, 2, 3]));
    for id in 1..=3 {
        cluster.start_node(id).await;
    }
    cluster.node(1).bootstrap(cluster.members.clone()).await.unwrap();
    cluster.leader().await;
    cluster.propose(1, "before").await;
    cluster.converged().await;
    let stolen = pki::key_fingerprint(&cluster.dir.path().join("pki/node-3.pem")).unwrap();
    std::fs::write(&list, format!("{stolen}\n")).unwrap();
    for id in [1, 2] {
        cluster.node(id).reload_tls().unwrap();
    }
    support::eventually("a leader among the others", || {
        [1, 2].into_iter().find(|id| cluster.node(*id).leadership().is_leader)
    })
    .await;
    cluster.propose(1, "without it").await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    let behind = cluster.node(3).status().applied_index;
    assert!(behind < cluster.node(1).status().applied_index, "{behind:?}");
    // A list that cannot be read changes nothing.
    std::fs::write(&list, "node 3\n").unwrap();
    assert!(cluster.node(1).reload_tls().is_err());
    // A new certificate of the same node is another one.
    std::fs::write(&list, format!("{stolen}\n")).unwrap();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let validity = pki::Validity { now_ms: since.as_millis() as u64, node_days: 1 };
    pki::renew_nodes(&cluster.dir.path().join("pki"), "test", &[3], validity).unwrap();
    cluster.node(3).reload_tls().unwrap();
    cluster.propose(1, "with it").await;
    cluster.converged().await;
}

/// A list of revoked certificates that the cluster's authority signs, with the certificates of these nodes.
fn revoke(cluster: &Cluster, nodes: &[u64]) -> String {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    use x509_parser::prelude::{FromDer, X509Certificate};
    let dir = cluster.dir.path().join("pki");
    let key = std::fs::read_to_string(dir.join("ca-key.pem")).unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.distinguished_name.push(rcgen::DnType::CommonName, "maxine cluster test");
    let issuer = rcgen::Issuer::new(authority, rcgen::KeyPair::from_pem(&key).unwrap());
    let revoked = |node: &u64| {
        let file = dir.join(format!("node-{node}.pem"));
        let certificate = CertificateDer::from_pem_file(file).unwrap();
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        rcgen::RevokedCertParams {
            serial_number: rcgen::SerialNumber::from(parsed.raw_serial().to_vec()),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }
    };
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        // A list that is out of date still counts.
        next_update: rcgen::date_time_ymd(2024, 1, 2),
        crl_number: rcgen::SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: nodes.iter().map(revoked).collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).unwrap().pem().unwrap()
}

/// A certificate on a list of revoked ones is refused at the handshake, and its open connections end.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_ends_open_connections_and_opens_none() {
    let mut cluster = Cluster::prepare(EngineKind::Redb, 3, |config| {
        config.tls_crl = vec![config.data_dir.parent().unwrap().join("revoked.pem")];
    });
    cluster.tls = Some(issue(&cluster, "pki", "test", &[1, 2, 3, 4]));
    let list = cluster.dir.path().join("revoked.pem");
    std::fs::write(&list, revoke(&cluster, &[])).unwrap();
    for id in 1..=3 {
        cluster.start_node(id).await;
    }
    cluster.node(1).bootstrap(cluster.members.clone()).await.unwrap();
    cluster.leader().await;
    cluster.propose(1, "before").await;
    cluster.converged().await;
    let (mut open, welcome) = claim(&cluster, 4, 4, &KNOWN).await;
    assert_eq!(welcome, 0, "the certificate is good");

    std::fs::write(&list, revoke(&cluster, &[3, 4])).unwrap();
    for id in [1, 2] {
        cluster.node(id).reload_tls().unwrap();
    }
    send(&mut open, b"MX\x01\x07\x00").await;
    let mut rest = Vec::new();
    let closing = open.read_to_end(&mut rest);
    let _closed = tokio::time::timeout(TIMEOUT, closing).await.expect("the connection is closed");
    assert!(rest.is_empty(), "nothing is answered: {rest:?}");
    let tcp = tokio::net::TcpStream::connect(&cluster.members[&1].peer_addr).await.unwrap();
    let mut stream = handshake(&cluster, 4, tcp).await;
    // With TLS 1.3 the client learns of a refusal when it reads.
    let read = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut rest)).await.unwrap();
    let error = read.unwrap_err();
    let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let expected = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRevoked);
    assert_eq!(alert, Some(&expected), "{error}");
    support::eventually("a leader among the others", || {
        [1, 2].into_iter().find(|id| cluster.node(*id).leadership().is_leader)
    })
    .await;
    cluster.propose(1, "without it").await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    let behind = cluster.node(3).status().applied_index;
    assert!(behind < cluster.node(1).status().applied_index, "{behind:?}");

    // A list that cannot be used changes nothing.
    issue(&cluster, "other", "test", &[1]);
    let own_key = std::fs::read(cluster.dir.path().join("pki/ca-key.pem")).unwrap();
    let key = cluster.dir.path().join("pki/ca-key.pem");
    std::fs::copy(cluster.dir.path().join("other/ca-key.pem"), &key).unwrap();
    let foreign = revoke(&cluster, &[]);
    std::fs::write(&key, own_key).unwrap();
    for bad in ["nothing", &foreign] {
        std::fs::write(&list, bad).unwrap();
        let error = cluster.node(1).reload_tls().unwrap_err();
        assert!(error.to_string().contains("revoked.pem"), "{error}");
    }
    // A new certificate of the same node is another one.
    std::fs::write(&list, revoke(&cluster, &[3])).unwrap();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let validity = pki::Validity { now_ms: since.as_millis() as u64, node_days: 1 };
    pki::renew_nodes(&cluster.dir.path().join("pki"), "test", &[3], validity).unwrap();
    cluster.node(3).reload_tls().unwrap();
    cluster.propose(1, "with it").await;
    cluster.converged().await;
}

/// The authority changes while the cluster works, and every node can always reach every other one.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_authority_takes_over_step_by_step_under_writes() {
    let mut cluster = tls_cluster().await;
    let dir = cluster.dir.path().join("pki");
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let validity = pki::Validity { now_ms: since.as_millis() as u64, node_days: 1 };
    let (mut former, welcome) = claim(&cluster, 4, 4, &KNOWN).await;
    assert_eq!(welcome, 0, "the certificate is good");
    for step in [pki::CaStep::Begin, pki::CaStep::Issue, pki::CaStep::Finish] {
        pki::rotate_authority(&dir, "test", &[], step, validity).unwrap();
        for id in 1..=3 {
            cluster.node(id).reload_tls().unwrap();
            cluster.propose(id, "goes on").await;
        }
        // The nodes replace their own connections without losing a request.
        tokio::time::sleep(Duration::from_millis(600)).await;
        // A restart closes all connections of the node, and opens new ones.
        cluster.kill(3).await;
        cluster.start_node(3).await;
        cluster.propose(1, "with new connections").await;
        cluster.converged().await;
    }
    // A connection that began with a certificate of the former authority ends, after a moment for requests in flight.
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    send(&mut former, b"MX\x01\x07\x00").await;
    let mut rest = Vec::new();
    let closing = former.read_to_end(&mut rest);
    let _closed = tokio::time::timeout(TIMEOUT, closing).await.expect("the connection is closed");
    assert!(rest.is_empty(), "nothing is answered: {rest:?}");
}

/// A handshake that begins with the old authority and ends after its replacement opens no connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_spans_the_replacement_of_the_authority_is_refused() {
    let cluster = tls_cluster().await;
    issue(&cluster, "later", "test", &[1, 2, 3, 4]);
    for replaced in [false, true] {
        let tcp = tokio::net::TcpStream::connect(&cluster.members[&1].peer_addr).await.unwrap();
        let (connection, release) = held_after_first_write(tcp);
        // The client's part of the handshake ends. Its certificate does not reach the node yet.
        let mut stream = handshake(&cluster, 4, connection).await;
        if replaced {
            replace_files(&cluster, "later", "pki");
            cluster.node(1).reload_tls().unwrap();
        }
        release.send(()).unwrap();
        if !replaced {
            assert_eq!(exchange(&mut stream, &hello(4)).await[4], 0, "the certificate is good");
            continue;
        }
        send(&mut stream, &hello(4)).await;
        let mut rest = Vec::new();
        let closing = stream.read_to_end(&mut rest);
        let _closed = tokio::time::timeout(TIMEOUT, closing).await.expect("it is closed");
        assert!(rest.is_empty(), "nothing is answered: {rest:?}");
    }
}

/// A connection that passes the first write at once, and all others after the release.
fn held_after_first_write(
    tcp: tokio::net::TcpStream,
) -> (tokio::io::DuplexStream, tokio::sync::oneshot::Sender<()>) {
    let (own, other) = tokio::io::duplex(64 * 1_024);
    let (release, released) = tokio::sync::oneshot::channel();
    let (mut from_node, mut to_node) = tcp.into_split();
    let (mut from_client, mut to_client) = tokio::io::split(other);
    tokio::spawn(async move {
        let _ended = tokio::io::copy(&mut from_node, &mut to_client).await;
        let _closed = to_client.shutdown().await;
    });
    tokio::spawn(async move {
        let mut first = vec![0; 16 * 1_024];
        let len = from_client.read(&mut first).await.unwrap();
        to_node.write_all(&first[..len]).await.unwrap();
        if released.await.is_ok() {
            let _ended = tokio::io::copy(&mut from_client, &mut to_node).await;
        }
    });
    (own, release)
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_peer_port_does_no_harm() {
    use tokio::io::AsyncWriteExt;
    let cluster = Cluster::start(EngineKind::Redb, 1, |_| {}).await;
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1]]
    {
        let mut stream =
            tokio::net::TcpStream::connect(&cluster.members[&1].peer_addr).await.unwrap();
        let _ = stream.write_all(garbage).await;
    }
    cluster.propose(1, "still here").await;
}

/// Connections that send nothing must not keep out a peer that returns.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_keep_a_returning_peer_out() {
    let mut cluster = Cluster::start(EngineKind::Redb, 3, |_| {}).await;
    let leader = cluster.leader().await;
    let other = if leader == 3 { 2 } else { 3 };
    cluster.kill(other).await;
    let address = cluster.members[&leader].peer_addr.clone();
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    cluster.start_node(other).await;
    let started = std::time::Instant::now();
    tokio::time::timeout(TIMEOUT, cluster.propose(other, "through the one that came back"))
        .await
        .unwrap();
    let took = started.elapsed();
    assert!(took < Duration::from_millis(2_500), "{took:?}");
    drop(silent);
}

/// Copies the authority and all nodes' certificates of one directory over those of another.
fn replace_files(cluster: &Cluster, from: &str, to: &str) {
    let (from, to) = (cluster.dir.path().join(from), cluster.dir.path().join(to));
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_new_certificates_without_a_restart_and_keeps_the_former_ones_if_they_are_bad()
{
    let mut cluster = tls_cluster().await;
    issue(&cluster, "later", "test", &[1, 2, 3, 4]);
    replace_files(&cluster, "later", "pki");
    // Another authority. Nodes that were not told about it do not accept its certificates.
    cluster.kill(3).await;
    cluster.start_node(3).await;
    cluster.propose(1, "before").await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    let behind = cluster.node(3).status().applied_index;
    assert!(behind < cluster.node(1).status().applied_index, "{behind:?}");
    for id in [1, 2] {
        cluster.node(id).reload_tls().unwrap();
    }
    cluster.propose(1, "after").await;
    cluster.converged().await;
    // A key that does not belong to the certificate.
    let key = cluster.dir.path().join("pki/node-1-key.pem");
    std::fs::copy(cluster.dir.path().join("later/node-2-key.pem"), &key).unwrap();
    let error = cluster.node(1).reload_tls().unwrap_err();
    assert!(matches!(&error, StartError::Tls(_)), "{error}");
    cluster.kill(3).await;
    cluster.start_node(3).await;
    cluster.propose(1, "goes on").await;
    cluster.converged().await;
}
