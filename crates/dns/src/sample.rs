//! A small registry with a name server, and questions, for the tests and the fuzz target.

use std::net::{Ipv4Addr, Ipv6Addr};

use maxine_clock::Clock;
use maxine_state::{
    Actor, Address, Command, ControlState, History, Name, Proposal, Registration, RequestId,
    ServiceKey, SigningKey,
};
use maxine_view::View;
use prometheus::Registry;
use simple_dns::rdata::RData;
use simple_dns::{Packet, PacketFlag, RCODE, ResourceRecord, TYPE};

use crate::answer::Dns;
use crate::domain::Domain;
use crate::metrics::DnsMetrics;
use crate::settings::DnsSettings;

/// A registry, and a name server that answers from it.
pub(crate) struct World {
    state: ControlState,
    pub(crate) dns: Dns,
    requests: u128,
}

pub(crate) fn name(text: &str) -> Name {
    Name::trusted(text)
}

pub(crate) fn key(service: &str) -> ServiceKey {
    let (namespace, service) = service.split_once('/').unwrap_or(("default", service));
    ServiceKey::new(name(namespace), name(service))
}

impl World {
    /// A registry without a state.
    pub(crate) fn without_state() -> Self {
        let clock = Clock::manual();
        let domains = ["maxine", "consul"].map(|domain| Domain::parse(domain).expect("it is one"));
        let settings = DnsSettings {
            domains: domains.into(),
            datacenter: "dc1".to_owned(),
            ttl_s: 7,
            negative_ttl_s: 3,
            udp_len_max: 1_232,
            rate_max_per_s: 0,
            connections_max: 8,
            connections_per_address_max: 4,
            connection_timeout_ms: 5_000,
            own_addresses: vec![[192, 0, 2, 53].into()],
        };
        let view = View::new(clock.clone());
        let dns =
            Dns::new(settings, view, clock, DnsMetrics::new(&Registry::new()), Box::new(|| true));
        Self { state: ControlState::default(), dns, requests: 0 }
    }

    /// An empty registry.
    pub(crate) fn empty() -> Self {
        let mut world = Self::without_state();
        world.apply(Command::BeginHistory {
            before: None,
            history: History::from_random(7),
            line: 0,
            signing_key: SigningKey {
                key_id: name("key"),
                secret: [7; 32].into(),
                created_at_ms: 0,
            },
        });
        world
    }

    /// The state of this node is not the cluster's from now on.
    pub(crate) fn exclude(&mut self) {
        self.dns.is_serving = Box::new(|| false);
    }

    pub(crate) fn apply(&mut self, command: Command) {
        self.requests += 1;
        let proposal = Proposal {
            request_id: RequestId(self.requests),
            proposed_at_ms: 1,
            fence: self.state.grant().map(|grant| grant.fence).filter(|_| command.is_leader_only()),
            actor: Actor::system("sample"),
            command,
        };
        let mut events = Vec::new();
        self.state.apply(&proposal, &mut events);
        self.dns.view.publish(&self.state, &events);
        self.dns.nodes.build(&self.dns.view.snapshot());
    }

    /// Registers `SERVICE` or `NAMESPACE/SERVICE`, instance `id`, after `change`.
    pub(crate) fn register(
        &mut self,
        service: &str,
        id: &str,
        url: &str,
        change: impl FnOnce(&mut Registration),
    ) {
        let (key, mut registration) = registration(service, id, url);
        change(&mut registration);
        self.apply(Command::Register { items: vec![(key, registration)] });
    }
}

pub(crate) fn registration(service: &str, id: &str, url: &str) -> (ServiceKey, Registration) {
    let address = Address::parse(url).expect("an address");
    (key(service), Registration::new(name(id), address, 60_000))
}

/// A name server with some services.
pub(crate) fn world() -> World {
    let mut world = World::empty();
    world.register("web", "a", "http://10.0.0.1:8080", |r| {
        r.tags = ["v1".into(), "Blue.Green".into()].into();
        r.zone = Some(name("East"));
        r.node = Some(name("Box.Rack"));
        r.weight = 5;
    });
    world.register("web", "b", "http://10.0.0.2:8081/base", |r| {
        r.tags = ["v2".into()].into();
        r.zone = Some(name("west"));
    });
    let item = |at| registration("many", &format!("i{at}"), &format!("http://10.1.0.{at}:80"));
    world.apply(Command::Register { items: (0..100).map(item).collect() });
    world.register("shop/web", "six", "https://[2001:db8::1]", |_| ());
    world.register("named", "n", "http://Host.example:9000", |_| ());
    world.register("Mixed", "m", "http://10.0.0.9:80", |_| ());
    world
}

/// The name server of [`world`].
pub(crate) fn server() -> Dns {
    world().dns
}

/// A question of this type.
pub(crate) fn question_for(name: &str, rtype: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).expect("a short label"));
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&rtype.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message
}

/// The question with an OPT record that announces this length.
pub(crate) fn with_edns(question: &[u8], udp_len: u16) -> Vec<u8> {
    let mut message = question.to_vec();
    message[11] += 1;
    message.extend_from_slice(&[0, 0, 41]);
    message.extend_from_slice(&udp_len.to_be_bytes());
    message.extend_from_slice(&[0; 6]);
    message
}

/// A message, as another DNS library reads it.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) rcode: RCODE,
    pub(crate) is_authoritative: bool,
    pub(crate) is_truncated: bool,
    pub(crate) wants_recursion: bool,
    pub(crate) offers_recursion: bool,
    pub(crate) has_edns: bool,
    /// Name, type and class of each question.
    pub(crate) questions: Vec<String>,
    pub(crate) answers: Vec<ReadRecord>,
    pub(crate) authority: Vec<ReadRecord>,
    pub(crate) additional: Vec<ReadRecord>,
}

/// A record, as another DNS library reads it.
#[derive(Debug)]
pub(crate) struct ReadRecord {
    pub(crate) owner: String,
    pub(crate) ttl_s: u32,
    pub(crate) rtype: TYPE,
    /// The data, as `dig +short` shows it.
    pub(crate) data: String,
}

impl Read {
    /// Reads a message; `None` if the library cannot.
    pub(crate) fn of(message: &[u8]) -> Option<Self> {
        let packet = Packet::parse(message).ok()?;
        let records = |records: &[ResourceRecord<'_>]| records.iter().map(ReadRecord::of).collect();
        let question =
            |q: &simple_dns::Question<'_>| format!("{} {:?} {:?}", q.qname, q.qtype, q.qclass);
        Some(Self {
            rcode: packet.rcode(),
            is_authoritative: packet.has_flags(PacketFlag::AUTHORITATIVE_ANSWER),
            is_truncated: packet.has_flags(PacketFlag::TRUNCATION),
            wants_recursion: packet.has_flags(PacketFlag::RECURSION_DESIRED),
            offers_recursion: packet.has_flags(PacketFlag::RECURSION_AVAILABLE),
            has_edns: packet.opt().is_some(),
            questions: packet.questions.iter().map(question).collect(),
            answers: records(&packet.answers),
            authority: records(&packet.name_servers),
            additional: records(&packet.additional_records),
        })
    }
}

impl ReadRecord {
    fn of(record: &ResourceRecord<'_>) -> Self {
        let data = match &record.rdata {
            RData::A(a) => Ipv4Addr::from(a.address).to_string(),
            RData::AAAA(a) => Ipv6Addr::from(a.address).to_string(),
            RData::SRV(s) => format!("{} {} {} {}", s.priority, s.weight, s.port, s.target),
            RData::NS(ns) => ns.0.to_string(),
            RData::PTR(ptr) => ptr.0.to_string(),
            RData::CNAME(cname) => cname.0.to_string(),
            RData::SOA(soa) => format!("{} {} {}", soa.mname, soa.rname, soa.minimum),
            other => format!("{other:?}"),
        };
        let (owner, rtype) = (record.name.to_string(), record.rdata.type_code());
        Self { owner, ttl_s: record.ttl, rtype, data }
    }
}
