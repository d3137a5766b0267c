//! Answers, read by another DNS library.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use maxine_state::Command;
use simple_dns::{RCODE, TYPE};

use crate::answer::{Dns, Transport};
use crate::rate::Allowed;
use crate::sample::{Read, World, key, name, question_for, registration, with_edns, world};

const UDP: Transport = Transport::Udp(Allowed::All);

fn send(dns: &Dns, question: &[u8], transport: Transport) -> Read {
    let mut out = Vec::new();
    assert!(dns.answer(question, transport, &mut out), "an answer");
    Read::of(&out).unwrap()
}

fn ask(dns: &Dns, asked: &str, rtype: TYPE) -> Read {
    send(dns, &question_for(asked, rtype.into()), UDP)
}

/// The answers as text, in order; the negative answers as their code.
fn shown(dns: &Dns, asked: &str, rtype: TYPE) -> Vec<String> {
    let message = ask(dns, asked, rtype);
    let mut found: Vec<String> = message.answers.into_iter().map(|record| record.data).collect();
    if found.is_empty() {
        let soa = message.authority.iter().any(|record| record.rtype == TYPE::SOA);
        found.push(format!("{:?}{}", message.rcode, if soa { " soa" } else { "" }));
    }
    found.sort();
    found
}

#[test]
fn each_record_is_as_documented() {
    let dns = world().dns;
    use TYPE::{A, AAAA, CNAME, MX, NS, PTR, SRV, TXT};
    for (asked, rtype, expected) in [
        ("web.service.maxine", A, &["10.0.0.1", "10.0.0.2"][..]),
        ("web.service.consul", A, &["10.0.0.1", "10.0.0.2"]),
        ("v1.web.service.maxine", A, &["10.0.0.1"]),
        ("BLUE.green.web.service.maxine", A, &["10.0.0.1"]),
        ("green.web.service.maxine", A, &["NoError soa"]),
        ("v3.web.service.maxine", A, &["NameError soa"]),
        ("web.service.east.zone.maxine", A, &["10.0.0.1"]),
        ("web.service.south.zone.maxine", A, &["NameError soa"]),
        ("web.service.maxine", AAAA, &["NoError soa"]),
        ("web.service.maxine", TXT, &["NoError soa"]),
        ("web.service.maxine", MX, &["NoError soa"]),
        (
            "web.service.maxine",
            SRV,
            &["1 1 8081 0a000002.addr.maxine", "1 5 8080 0a000001.addr.maxine"],
        ),
        ("_web._v2.service.consul", SRV, &["1 1 8081 0a000002.addr.consul"]),
        ("web.service.shop.ns.maxine", AAAA, &["2001:db8::1"]),
        (
            "web.service.shop.ns.maxine",
            SRV,
            &["1 1 443 20010db8000000000000000000000001.addr.maxine"],
        ),
        ("web.service.shop.ns.maxine", A, &["NoError soa"]),
        ("named.service.maxine", A, &["Host.example"]),
        ("named.service.maxine", AAAA, &["Host.example"]),
        ("named.service.maxine", CNAME, &["Host.example"]),
        ("named.service.maxine", SRV, &["1 1 9000 Host.example"]),
        ("mixed.service.maxine", A, &["10.0.0.9"]),
        ("gone.service.maxine", A, &["NameError soa"]),
        ("service.maxine", A, &["NoError soa"]),
        ("maxine", A, &["NoError soa"]),
        ("maxine", NS, &["ns.maxine"]),
        ("ns.maxine", A, &["192.0.2.53"]),
        ("ns.maxine", AAAA, &["NoError soa"]),
        ("0a000001.addr.maxine", A, &["10.0.0.1"]),
        ("0a000001.addr.maxine", AAAA, &["NoError soa"]),
        ("box.rack.node.maxine", A, &["10.0.0.1"]),
        ("box.rack.node.maxine", TXT, &["NoError soa"]),
        ("none.node.maxine", A, &["NameError soa"]),
        ("1.0.0.10.in-addr.arpa", PTR, &["Box.Rack.node.maxine"]),
        ("2.0.0.10.in-addr.arpa", PTR, &["web.service.maxine"]),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
            PTR,
            &["web.service.shop.ns.maxine"],
        ),
        ("9.9.9.9.in-addr.arpa", PTR, &["NameError"]),
        ("9.9.in-addr.arpa", PTR, &["Refused"]),
        ("example.com", A, &["Refused"]),
        ("", NS, &["Refused"]),
        ("notmaxine", A, &["Refused"]),
    ] {
        assert_eq!(shown(&dns, asked, rtype), expected, "{asked} {rtype:?}");
    }
}

#[test]
fn the_question_and_its_spelling_are_repeated_and_the_ttls_are_those_of_the_settings() {
    let dns = world().dns;
    let question = question_for("wEb.SerVice.MAXINE", 1);
    let mut out = Vec::new();
    assert!(dns.answer(&question, UDP, &mut out));
    assert_eq!(out[12..question.len()], question[12..]);
    let message = Read::of(&out).unwrap();
    assert!(message.is_authoritative && message.wants_recursion);
    assert!(!message.offers_recursion && !message.is_truncated);
    assert!(
        message
            .answers
            .iter()
            .all(|record| record.ttl_s == 7 && record.owner == "wEb.SerVice.MAXINE")
    );
    let message = ask(&dns, "gone.service.maxine", TYPE::A);
    let [soa] = &message.authority[..] else { panic!("{message:?}") };
    assert_eq!((soa.ttl_s, soa.owner.as_str()), (3, "maxine"));
    assert_eq!(soa.data, "ns.maxine hostmaster.maxine 3");
}

#[test]
fn the_apex_has_soa_and_ns_with_the_address_of_the_server() {
    let dns = world().dns;
    for rtype in [TYPE::SOA, TYPE::NS] {
        let message = ask(&dns, "maxine", rtype);
        assert_eq!(message.answers.len(), 1);
        assert_eq!(message.answers[0].rtype, rtype);
        let [glue] = &message.additional[..] else { panic!("{message:?}") };
        assert_eq!((glue.owner.as_str(), glue.data.as_str()), ("ns.maxine", "192.0.2.53"));
    }
}

#[test]
fn answers_begin_with_each_instance_in_turn_at_random() {
    let dns = world().dns;
    let first = |_| ask(&dns, "web.service.maxine", TYPE::A).answers.remove(0).data;
    let firsts: BTreeSet<String> = (0..200).map(first).collect();
    assert_eq!(firsts.len(), 2);
}

#[test]
fn a_long_answer_is_cut_with_its_addresses_over_udp_and_whole_over_tcp() {
    let dns = world().dns;
    let question = question_for("many.service.maxine", TYPE::SRV.into());
    for (question, len_max) in [
        (question.clone(), 512),
        (with_edns(&question, 100), 512),
        (with_edns(&question, 900), 900),
        (with_edns(&question, 65_000), 1_232),
    ] {
        let mut out = Vec::new();
        assert!(dns.answer(&question, UDP, &mut out));
        let message = Read::of(&out).unwrap();
        assert!(out.len() <= len_max && out.len() > len_max - 60, "{}", out.len());
        assert!(message.is_truncated);
        assert_eq!(message.answers.len(), message.additional.len());
        assert_eq!(message.has_edns, question.len() > 40);
    }
    let whole = send(&dns, &question, Transport::Tcp);
    assert!(!whole.is_truncated);
    assert_eq!((whole.answers.len(), whole.additional.len()), (100, 100));
    let target = |data: &str| data.rsplit(' ').next().unwrap_or_default().to_owned();
    let targets: BTreeSet<String> = whole.answers.iter().map(|r| target(&r.data)).collect();
    let owners: BTreeSet<String> = whole.additional.iter().map(|r| r.owner.clone()).collect();
    assert_eq!((targets.len(), &targets), (100, &owners));
    // All addresses fit without EDNS if they are few enough.
    let message = ask(&dns, "many.service.maxine", TYPE::A);
    assert_eq!(message.answers.len(), (512 - 12 - 25) / 16);
}

/// A pointer reaches 16 KiB. Names behind that are written in full.
#[test]
fn an_answer_of_64_kib_is_whole_or_marked() {
    let mut world = World::empty();
    let item = |at: u32| {
        let url = format!("http://{}:80", Ipv4Addr::from(0x0a00_0000 + at));
        registration("big", &at.to_string(), &url)
    };
    for half in [0..700, 700..1_400] {
        world.apply(Command::Register { items: half.map(item).collect() });
    }
    let question = question_for("big.service.maxine", TYPE::SRV.into());
    let mut out = Vec::new();
    assert!(world.dns.answer(&question, Transport::Tcp, &mut out));
    let message = Read::of(&out).unwrap();
    assert!(message.is_truncated && out.len() > 65_000, "{}", out.len());
    assert_eq!(message.answers.len(), message.additional.len());
    for (record, address) in message.answers.iter().zip(&message.additional) {
        assert!(record.data.ends_with(&format!(" {}", address.owner)), "{record:?} {address:?}");
    }
}

#[test]
fn sockets_of_one_host_share_its_address_and_equal_ones_their_weight() {
    let mut world = World::empty();
    for (id, port) in [("a", 1), ("b", 2), ("c", 2), ("d", 3)] {
        world.register("s", id, &format!("http://10.0.0.1:{port}"), |r| r.weight = 2);
    }
    world.register("s", "e", "http://10.0.0.2:1", |_| ());
    for _ in 0..20 {
        let message = ask(&world.dns, "s.service.maxine", TYPE::SRV);
        assert_eq!((message.answers.len(), message.additional.len()), (4, 2));
    }
    let shown = shown(&world.dns, "s.service.maxine", TYPE::SRV);
    assert!(shown.contains(&"1 4 2 0a000001.addr.maxine".to_owned()), "{shown:?}");
    assert_eq!(ask(&world.dns, "s.service.maxine", TYPE::A).answers.len(), 2);
}

#[test]
fn only_instances_in_traffic_are_answered() {
    let mut world = world();
    let instance = key("web").instance(name("a"));
    world.apply(Command::SetDrain { key: instance.clone(), reason: Some("test".into()) });
    assert_eq!(shown(&world.dns, "web.service.maxine", TYPE::A), ["10.0.0.2"]);
    assert_eq!(shown(&world.dns, "v1.web.service.maxine", TYPE::A), ["NameError soa"]);
    let other = key("web").instance(name("b"));
    world.apply(Command::SetDrain { key: other, reason: Some("test".into()) });
    assert_eq!(shown(&world.dns, "web.service.maxine", TYPE::A), ["NameError soa"]);
    world.apply(Command::SetDrain { key: instance, reason: None });
    assert_eq!(shown(&world.dns, "web.service.maxine", TYPE::A), ["10.0.0.1"]);
}

#[test]
fn a_node_without_a_state_does_not_say_that_something_does_not_exist() {
    let dns = World::without_state().dns;
    for (asked, expected) in [
        ("web.service.maxine", "ServerFailure"),
        ("box.node.maxine", "ServerFailure"),
        ("1.0.0.10.in-addr.arpa", "ServerFailure"),
        ("0a000001.addr.maxine", "10.0.0.1"),
        ("example.com", "Refused"),
    ] {
        assert_eq!(shown(&dns, asked, TYPE::A), [expected], "{asked}");
    }
}

#[test]
fn a_removed_node_answers_nothing_about_the_cluster() {
    let mut world = world();
    world.exclude();
    for asked in ["web.service.maxine", "box.rack.node.maxine", "nothing.service.maxine"] {
        assert_eq!(shown(&world.dns, asked, TYPE::A), ["ServerFailure"], "{asked}");
    }
}

#[test]
fn a_question_costs_a_limited_number_of_comparisons_and_does_not_claim_to_have_made_all() {
    let mut world = World::empty();
    let tags = |at: usize| (0..40).map(|tag| format!("t{tag}-{}", at % 2).into()).collect();
    let item = |at: usize| {
        let url = format!("http://10.1.{}.{}:80", at / 250, at % 250);
        let (key, mut registration) = registration("big", &format!("i{at}"), &url);
        registration.tags = tags(at);
        (key, registration)
    };
    for from in [0, 1_000] {
        world.apply(Command::Register { items: (from..from + 1_000).map(item).collect() });
    }
    let found = ask(&world.dns, "t7-1.big.service.maxine", TYPE::A);
    assert!(!found.answers.is_empty());
    assert_eq!(shown(&world.dns, "missing.big.service.maxine", TYPE::A), ["ServerFailure"]);
    assert_eq!(shown(&world.dns, "big.service.north.zone.maxine", TYPE::A), ["ServerFailure"]);
    // A host that is no name in DNS is no answer, whatever is asked for.
    world.register("odd", "a", &format!("http://{}.example:80", "a".repeat(64)), |_| ());
    for rtype in [TYPE::A, TYPE::SRV, TYPE::CNAME] {
        assert_eq!(shown(&world.dns, "odd.service.maxine", rtype), ["NoError soa"]);
    }
}

#[test]
fn any_is_answered_over_tcp_only() {
    let dns = world().dns;
    let question = question_for("web.service.maxine", 255);
    let udp = send(&dns, &question, UDP);
    assert!(udp.is_truncated && udp.answers.is_empty());
    let tcp = send(&dns, &question, Transport::Tcp);
    assert!(tcp.answers.len() == 2 && tcp.answers.iter().all(|r| r.rtype == TYPE::A), "{tcp:?}");
}

#[test]
fn an_answer_over_the_limit_has_no_records() {
    let dns = world().dns;
    let question = question_for("web.service.maxine", 1);
    let slip = send(&dns, &question, Transport::Udp(Allowed::Slip));
    assert!(slip.is_truncated && slip.answers.is_empty() && slip.authority.is_empty());
}

#[test]
fn what_is_no_plain_question_gets_its_code() {
    let dns = world().dns;
    let good = question_for("web.service.maxine", 1);
    let with = |at: usize, byte: u8| {
        let mut message = good.clone();
        message[at] = byte;
        message
    };
    let edns = |at: usize, byte: u8| {
        let mut message = with_edns(&good, 1_232);
        let end = message.len();
        message[end - at] = byte;
        message
    };
    for (message, expected) in [
        (good.clone(), RCODE::NoError),
        (with(2, 0x29), RCODE::NotImplemented),
        (with(5, 0), RCODE::FormatError),
        (with(5, 2), RCODE::FormatError),
        (with(7, 1), RCODE::FormatError),
        (with(11, 1), RCODE::FormatError),
        (with(12, 0xc0), RCODE::FormatError),
        (with(12, 0x40), RCODE::FormatError),
        (with(12, 63), RCODE::FormatError),
        (good[..12].to_vec(), RCODE::FormatError),
        (good[..good.len() - 1].to_vec(), RCODE::FormatError),
        (with(good.len() - 3, 252), RCODE::NotImplemented),
        (with(good.len() - 3, 251), RCODE::NotImplemented),
        (with(good.len() - 1, 3), RCODE::Refused),
        (edns(1, 0), RCODE::NoError),
        (edns(1, 4), RCODE::FormatError),
        (with(12, 4), RCODE::FormatError),
    ] {
        let answer = send(&dns, &message, UDP);
        assert_eq!(answer.rcode, expected, "{message:?}");
    }
    // The upper bits of BADVERS are in the OPT record, before the version.
    let mut out = Vec::new();
    assert!(dns.answer(&edns(5, 1), UDP, &mut out));
    assert_eq!((out[3], &out[out.len() - 6..]), (0, &[1, 0, 0, 0, 0, 0][..]));
    for silent in [&with(2, 0x81)[..], &good[..11], b""] {
        let mut out = Vec::new();
        assert!(!dns.answer(silent, UDP, &mut out) && out.is_empty(), "{silent:?}");
    }
}

#[test]
fn the_client_subnet_comes_back_with_scope_0() {
    let dns = world().dns;
    let mut question = with_edns(&question_for("web.service.maxine", 1), 1_232);
    let end = question.len();
    question[end - 1] = 11;
    question.extend_from_slice(&[0, 8, 0, 7, 0, 1, 24, 9, 10, 1, 2]);
    let mut out = Vec::new();
    assert!(dns.answer(&question, UDP, &mut out));
    assert!(out.ends_with(&[0, 11, 0, 8, 0, 7, 0, 1, 24, 0, 10, 1, 2]), "{out:?}");
}
