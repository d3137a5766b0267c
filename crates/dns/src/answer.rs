//! Answers a question from the published tables.
//!
//! **Invariant:** an answer waits for nothing, and a question costs a limited number of comparisons, however many
//! instances and tags a service has. Everybody may ask, and register what others ask for.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use maxine_clock::Clock;
use maxine_state::{Name, ServiceKey, ServiceRef};
use maxine_view::{Host, ServiceTable, Snapshot, Socket, SocketSet, View};

use crate::domain::Domain;
use crate::message::{Outcome, Owner, QUESTION_NAME, RECORD_LEN, Rcode, Section, Writer};
use crate::metrics::DnsMetrics;
use crate::names::{self, Asked, ServiceAsked};
use crate::nodes::{AddressOwner, Nodes};
use crate::question::{self, CLASS_IN, NAME_LEN_MAX, Question, Refusal, rtype};
use crate::rate::Allowed;
use crate::settings::DnsSettings;

/// Maximum number of instances with a tag or in a zone that one answer is made from. They are copied and sorted for
/// each question, and no answer has room for more.
const MATCHES_MAX: usize = 4_096;
/// Maximum number of instances and tags that a question for a tag or a zone is compared with, which takes about a
/// millisecond. If a service has more, and none of those matches, it is unknown whether the name exists.
const COMPARISONS_MAX: usize = 65_536;

/// Length of an answer for a client that announces no length (RFC 1035).
pub(crate) const UDP_LEN_MIN: usize = 512;
/// Maximum length of an answer over TCP.
const TCP_LEN_MAX: usize = u16::MAX as usize;
/// The priority of all SRV records.
const PRIORITY: u16 = 1;
/// Refresh, retry and expiry of the SOA record, in seconds. Nothing transfers the zone.
const SOA_TIMES_S: [u32; 3] = [3_600, 600, 86_400];

/// How a question arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp(Allowed),
    Tcp,
}

/// Whether the state of this node is the cluster's. If it is not, every question about the domains gets SERVFAIL.
pub(crate) type IsServing = Box<dyn Fn() -> bool + Send + Sync>;

/// The name server.
pub struct Dns {
    pub(crate) is_serving: IsServing,
    pub(crate) settings: DnsSettings,
    pub(crate) view: Arc<View>,
    pub(crate) clock: Clock,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) metrics: DnsMetrics,
}

/// A question in one of the domains.
struct InDomain<'a> {
    question: &'a Question<'a>,
    domain: &'a Domain,
}

impl InDomain<'_> {
    /// The domain's name, in the question.
    fn pointer(&self) -> u16 {
        let at = self.question.name.wire().len() - self.domain.wire().len();
        QUESTION_NAME + u16::try_from(at).unwrap_or_default()
    }
}

/// Whether a name has records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It has records of this type.
    Records,
    /// It has none of this type, or names below it have some.
    NoData,
    /// There is no such name.
    NoName,
    /// This node does not know yet.
    Unknown,
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Dns {
    /// A name server that answers from `view` while `is_serving`.
    #[must_use]
    pub fn new(
        settings: DnsSettings,
        view: Arc<View>,
        clock: Clock,
        metrics: DnsMetrics,
        is_serving: IsServing,
    ) -> Self {
        Self { is_serving, settings, view, clock, nodes: Arc::default(), metrics }
    }

    /// Appends the answer to `message` to `out`. Returns false for no answer.
    pub(crate) fn answer(&self, message: &[u8], transport: Transport, out: &mut Vec<u8>) -> bool {
        let (head, read) = question::read(message);
        let question = read.as_ref().ok();
        let (Some(head), false) = (head, matches!(read, Err(Refusal::Silence))) else {
            self.metrics.ignored.inc();
            return false;
        };
        let udp_len_max = self.settings.udp_len_max.max(UDP_LEN_MIN);
        let announced =
            question.and_then(|question| question.edns.as_ref()).map_or(0, |e| e.udp_len);
        let len_max = match transport {
            Transport::Udp(_) => announced.clamp(UDP_LEN_MIN, udp_len_max),
            Transport::Tcp => TCP_LEN_MAX,
        };
        let mut writer = Writer::new(out, question, len_max);
        let outcome = match (&read, transport) {
            (Err(Refusal::NotImp), _) => refused(Rcode::NotImp),
            (Err(_), _) => refused(Rcode::FormErr),
            (Ok(_), Transport::Udp(Allowed::Slip)) => {
                writer.truncate();
                Outcome { rcode: Rcode::NoError, is_authoritative: true }
            }
            (Ok(question), _) => self.answer_question(question, transport, &mut writer),
        };
        self.metrics.answered(outcome.rcode);
        if writer.is_truncated() {
            self.metrics.truncated.inc();
        }
        writer.finish(head, question, udp_len_max, &outcome);
        true
    }

    fn answer_question(
        &self,
        question: &Question<'_>,
        transport: Transport,
        writer: &mut Writer<'_>,
    ) -> Outcome {
        if question.edns.as_ref().is_some_and(|edns| edns.version != 0) {
            return refused(Rcode::BadVers);
        }
        if rtype::META.contains(&question.rtype) {
            return refused(Rcode::NotImp);
        }
        if question.class != CLASS_IN {
            return refused(Rcode::Refused);
        }
        if !(self.is_serving)() {
            return refused(Rcode::ServFail);
        }
        let domains = self.settings.domains.iter();
        let in_domain = domains
            .filter_map(|domain| Some((domain, question.name.labels_before(domain.wire())?)));
        // A domain may be below another one.
        let Some((domain, labels)) = in_domain.min_by_key(|(_, labels)| *labels) else {
            return self.answer_reverse(question, writer);
        };
        if question.rtype == rtype::ANY && transport != Transport::Tcp {
            // Over UDP this would be a way to send long answers to others (RFC 8482).
            writer.truncate();
            return authoritative(Rcode::NoError);
        }
        let asked = names::asked(&question.name, labels, &self.settings.datacenter);
        let question = InDomain { question, domain };
        let rcode = match self.records(&question, &asked, writer) {
            Found::Records => return authoritative(Rcode::NoError),
            Found::NoData => Rcode::NoError,
            Found::NoName => Rcode::NxDomain,
            Found::Unknown => return refused(Rcode::ServFail),
        };
        self.push_soa(&question, writer, Section::Authority, self.settings.negative_ttl_s);
        authoritative(rcode)
    }

    /// Writes the records of a name.
    fn records(
        &self,
        question: &InDomain<'_>,
        asked: &Asked<'_>,
        writer: &mut Writer<'_>,
    ) -> Found {
        let rtype = question.question.rtype;
        match asked {
            Asked::Apex => self.push_apex(question, writer),
            Asked::NameServer => {
                let own = &self.settings.own_addresses;
                self.push_addresses(own.iter().copied(), rtype, writer)
            }
            Asked::Inner => Found::NoData,
            Asked::Unknown => Found::NoName,
            Asked::Address(address) => {
                self.push_addresses(std::iter::once(*address), rtype, writer)
            }
            Asked::Node(name) => match self.nodes.load() {
                None => Found::Unknown,
                Some(nodes) => match nodes.node(name) {
                    None => Found::NoName,
                    Some(addresses) => {
                        self.push_addresses(rotated(addresses).copied(), rtype, writer)
                    }
                },
            },
            Asked::Service(service) => self.push_service(question, service, writer),
        }
    }

    fn push_service(
        &self,
        question: &InDomain<'_>,
        asked: &ServiceAsked<'_>,
        writer: &mut Writer<'_>,
    ) -> Found {
        let key = ServiceRef { namespace: asked.namespace, service: asked.service };
        let mut read = |table: &Arc<ServiceTable>| self.push_table(question, asked, table, writer);
        // Most names are in lower case, and are found without another copy of the name.
        let found = match self.view.with_table(key, &mut read) {
            Some(found) => Some(found),
            None => self.view.find_ignoring_case(key).as_ref().map(read),
        };
        found.unwrap_or_else(|| match self.view.with_snapshot(Snapshot::has_state) {
            true => Found::NoName,
            false => Found::Unknown,
        })
    }

    fn push_table(
        &self,
        question: &InDomain<'_>,
        asked: &ServiceAsked<'_>,
        table: &ServiceTable,
        writer: &mut Writer<'_>,
    ) -> Found {
        if table.endpoints().is_empty() {
            return Found::NoName;
        }
        if asked.tag.is_none() && asked.zone.is_none() {
            return self.push_sockets(question, table.socket_set(), writer);
        }
        let has_tag = |tags: &[Box<str>]| match asked.tag.as_deref() {
            Some(wanted) => tags.iter().any(|tag| is_same(tag, wanted)),
            None => true,
        };
        let in_zone = |zone: Option<&Name>| match asked.zone {
            Some(wanted) => zone.is_some_and(|zone| is_same(zone.as_str(), wanted)),
            None => true,
        };
        // A tag may contain dots. Then there are names below the name of its end.
        let below = |tag: &str| match asked.tag.as_deref() {
            Some(end) => is_below(tag, end),
            None => false,
        };
        let registrations =
            table.endpoints().iter().map(|endpoint| &endpoint.instance.registration);
        let all = table.sockets().iter().zip(registrations);
        // From a random one on, so that all instances of a large service get their turn.
        let start = fastrand::usize(..table.sockets().len());
        let mut matching = Vec::new();
        let mut left = COMPARISONS_MAX;
        let (mut has_names_below, mut is_complete) = (false, true);
        for (socket, registration) in all.clone().skip(start).chain(all.take(start)) {
            let cost = 1 + registration.tags.len();
            if left < cost || matching.len() == MATCHES_MAX {
                is_complete = false;
                break;
            }
            left -= cost;
            if has_tag(&registration.tags) && in_zone(registration.zone.as_ref()) {
                matching.push(socket);
            } else {
                has_names_below |= registration.tags.iter().any(|tag| below(tag));
            }
        }
        match (matching.is_empty(), is_complete) {
            (false, _) => self.push_sockets(question, &SocketSet::of(matching.into_iter()), writer),
            (true, false) => Found::Unknown,
            (true, true) if has_names_below => Found::NoData,
            (true, true) => Found::NoName,
        }
    }

    /// Writes the records of the instances that listen on these sockets.
    fn push_sockets(
        &self,
        question: &InDomain<'_>,
        set: &SocketSet,
        writer: &mut Writer<'_>,
    ) -> Found {
        let (rtype, ttl_s) = (question.question.rtype, self.settings.ttl_s);
        if rtype == rtype::SRV {
            return push_srv(question.domain, set, ttl_s, writer);
        }
        let v4 = rotated(&set.v4).map(|address| IpAddr::V4(*address));
        let v6 = rotated(&set.v6).map(|address| IpAddr::V6(*address));
        if !set.v4.is_empty() || !set.v6.is_empty() {
            return self.push_addresses(v4.chain(v6), rtype, writer);
        }
        // A name can have one CNAME record, and then no other record (RFC 1034).
        let is_asked = matches!(rtype, rtype::A | rtype::AAAA | rtype::CNAME | rtype::ANY);
        let owner = Owner::Pointer(QUESTION_NAME);
        let mut names = rotated(&set.names).filter(|_| is_asked);
        let written = names.any(|name| {
            let data = |out: &mut Vec<u8>| push_host_name(out, name);
            writer.record(Section::Answer, owner, rtype::CNAME, ttl_s, data)
        });
        if written { Found::Records } else { Found::NoData }
    }

    /// Writes those of the addresses that a question of this type asks for.
    fn push_addresses(
        &self,
        addresses: impl Iterator<Item = IpAddr>,
        rtype: u16,
        writer: &mut Writer<'_>,
    ) -> Found {
        let mut found = Found::NoData;
        for address in addresses.filter(|address| asks_for(rtype, *address)) {
            found = Found::Records;
            let owner = Owner::Pointer(QUESTION_NAME);
            if !push_address(writer, Section::Answer, owner, address, self.settings.ttl_s) {
                writer.truncate();
                break;
            }
        }
        found
    }

    /// Writes the records of the domain itself.
    fn push_apex(&self, question: &InDomain<'_>, writer: &mut Writer<'_>) -> Found {
        let rtype = question.question.rtype;
        let (ns, soa) =
            (matches!(rtype, rtype::NS | rtype::ANY), matches!(rtype, rtype::SOA | rtype::ANY));
        if soa {
            self.push_soa(question, writer, Section::Answer, self.settings.ttl_s);
        }
        if !ns && !soa {
            return Found::NoData;
        }
        let section = if ns { Section::Answer } else { Section::Authority };
        let ns_at = writer.len() + 2 + RECORD_LEN;
        let owner = Owner::Pointer(question.pointer());
        writer.record(section, owner, rtype::NS, self.settings.ttl_s, |out| {
            out.extend_from_slice(b"\x02ns");
            out.extend_from_slice(&question.pointer().to_be_bytes());
            true
        });
        if let Some(name_server) = Writer::pointer_to(ns_at) {
            for address in &self.settings.own_addresses {
                let owner = Owner::Pointer(name_server);
                push_address(writer, Section::Additional, owner, *address, self.settings.ttl_s);
            }
        }
        Found::Records
    }

    fn push_soa(
        &self,
        question: &InDomain<'_>,
        writer: &mut Writer<'_>,
        section: Section,
        ttl_s: u32,
    ) {
        let domain = question.pointer();
        // Grows by itself, and needs no state. It wraps, as serial numbers do (RFC 1982).
        let serial = (self.clock.wall_ms() / 1_000) as u32;
        writer.record(section, Owner::Pointer(domain), rtype::SOA, ttl_s, |out| {
            for label in [&b"\x02ns"[..], b"\x0ahostmaster"] {
                out.extend_from_slice(label);
                out.extend_from_slice(&domain.to_be_bytes());
            }
            let [refresh, retry, expire] = SOA_TIMES_S;
            for number in [serial, refresh, retry, expire, self.settings.negative_ttl_s] {
                out.extend_from_slice(&number.to_be_bytes());
            }
            true
        });
    }

    /// Answers a question outside of the domains: a reverse look-up, or nothing that this server knows.
    fn answer_reverse(&self, question: &Question<'_>, writer: &mut Writer<'_>) -> Outcome {
        let Some(address) = names::reverse_address(&question.name) else {
            return refused(Rcode::Refused);
        };
        let Some(nodes) = self.nodes.load() else { return refused(Rcode::ServFail) };
        let Some(owner) = nodes.owner(address) else { return authoritative(Rcode::NxDomain) };
        if matches!(question.rtype, rtype::PTR | rtype::ANY)
            && let Some(domain) = self.settings.domains.first()
        {
            let pointer = Owner::Pointer(QUESTION_NAME);
            writer.record(Section::Answer, pointer, rtype::PTR, self.settings.ttl_s, |out| {
                push_owner(out, owner, domain)
            });
        }
        authoritative(Rcode::NoError)
    }
}

fn refused(rcode: Rcode) -> Outcome {
    Outcome { rcode, is_authoritative: false }
}

fn authoritative(rcode: Rcode) -> Outcome {
    Outcome { rcode, is_authoritative: true }
}

/// Names are equal in upper and lower case.
fn is_same(text: &str, lower: &str) -> bool {
    text.eq_ignore_ascii_case(lower)
}

/// Whether `tag` ends with a dot and `end`.
fn is_below(tag: &str, end: &str) -> bool {
    let dot = tag.len().checked_sub(end.len() + 1);
    dot.is_some_and(|dot| {
        let rest = &tag.as_bytes()[dot..];
        rest[0] == b'.' && rest[1..].eq_ignore_ascii_case(end.as_bytes())
    })
}

fn asks_for(rtype: u16, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => matches!(rtype, rtype::A | rtype::ANY),
        IpAddr::V6(_) => matches!(rtype, rtype::AAAA | rtype::ANY),
    }
}

/// The items from a random one on, once around.
fn rotated<T>(items: &[T]) -> impl Iterator<Item = &T> {
    let start = match items.len() {
        0 | 1 => 0,
        len => fastrand::usize(..len),
    };
    items[start..].iter().chain(&items[..start])
}

fn push_address(
    writer: &mut Writer<'_>,
    section: Section,
    owner: Owner<'_>,
    address: IpAddr,
    ttl_s: u32,
) -> bool {
    let rtype = match address {
        IpAddr::V4(_) => rtype::A,
        IpAddr::V6(_) => rtype::AAAA,
    };
    writer.record(section, owner, rtype, ttl_s, |out| {
        match address {
            IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
        }
        true
    })
}

/// A target of an SRV record that is written, and its address.
struct Target<'a> {
    socket: &'a Socket,
    /// Where its name begins in the message.
    name_at: usize,
}

/// Writes a SRV record for each socket, as many as fit together with the addresses of their targets.
fn push_srv(domain: &Domain, set: &SocketSet, ttl_s: u32, writer: &mut Writer<'_>) -> Found {
    /// Length of the data before the target.
    const BEFORE_TARGET_LEN: usize = 6;
    let mut found = Found::NoData;
    let mut targets: Vec<Target<'_>> = Vec::new();
    // Space for the addresses of the targets so far.
    let mut addresses_len = 0;
    for socket in rotated(&set.sockets) {
        let mut target = [0; NAME_LEN_MAX];
        let Some(target) = target_name(&socket.host, domain, &mut target) else { continue };
        found = Found::Records;
        let name_at = writer.len() + 2 + RECORD_LEN + BEFORE_TARGET_LEN;
        let address_len = match &socket.host {
            Host::Name(_) => 0,
            host if targets.last().is_some_and(|last| last.socket.host == *host) => 0,
            Host::V4(_) => 4,
            Host::V6(_) => 16,
        };
        if address_len > 0 {
            let owner_len = Writer::pointer_to(name_at).map_or(target.len(), |_| 2);
            addresses_len += owner_len + RECORD_LEN + address_len;
        }
        let needed = 2 + RECORD_LEN + BEFORE_TARGET_LEN + target.len() + addresses_len;
        let fits = needed <= writer.left()
            && writer.record(
                Section::Answer,
                Owner::Pointer(QUESTION_NAME),
                rtype::SRV,
                ttl_s,
                |out| {
                    for number in [PRIORITY, socket.weight, socket.port] {
                        out.extend_from_slice(&number.to_be_bytes());
                    }
                    // The name is written in full (RFC 2782).
                    out.extend_from_slice(target);
                    true
                },
            );
        if !fits {
            writer.truncate();
            break;
        }
        targets.push(Target { socket, name_at });
    }
    push_target_addresses(domain, &targets, ttl_s, writer);
    found
}

/// Writes the addresses of targets. Sockets of one host follow each other.
fn push_target_addresses(
    domain: &Domain,
    targets: &[Target<'_>],
    ttl_s: u32,
    writer: &mut Writer<'_>,
) {
    let first = targets.first().map(|target| &target.socket.host);
    let mut before = None;
    for (at, Target { socket, name_at }) in targets.iter().enumerate() {
        let host = &socket.host;
        // The order was rotated, so the last sockets may be those of the first host.
        let is_written = before == Some(host) || at > 0 && first == Some(host);
        before = Some(host);
        let address = match host {
            Host::V4(v4) => IpAddr::V4(*v4),
            Host::V6(v6) => IpAddr::V6(*v6),
            Host::Name(_) => continue,
        };
        if is_written {
            continue;
        }
        let mut name = [0; NAME_LEN_MAX];
        let owner = match Writer::pointer_to(*name_at) {
            Some(pointer) => Some(Owner::Pointer(pointer)),
            None => target_name(host, domain, &mut name).map(Owner::Name),
        };
        if let Some(owner) = owner {
            push_address(writer, Section::Additional, owner, address, ttl_s);
        }
    }
}

/// The name of a host as a target: `HEX.addr.DOMAIN` for an address. `None` for a host that is no name in DNS.
fn target_name<'a>(host: &Host, domain: &Domain, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let (octets, len) = match host {
        Host::V4(v4) => (u128::from(u32::from(*v4)), 8),
        Host::V6(v6) => (u128::from(*v6), 32),
        Host::Name(name) => {
            let mut wire = Vec::with_capacity(name.len() + 2);
            if !push_host_name(&mut wire, name) {
                return None;
            }
            let target = buffer.get_mut(..wire.len())?;
            target.copy_from_slice(&wire);
            return Some(target);
        }
    };
    let wire = domain.wire();
    let target = buffer.get_mut(..1 + len + 5 + wire.len())?;
    target[0] = u8::try_from(len).ok()?;
    for (at, digit) in target[1..=len].iter_mut().enumerate() {
        let nibble = (octets >> (4 * (len - 1 - at))) as usize & 0xf;
        *digit = b"0123456789abcdef"[nibble];
    }
    target[1 + len..1 + len + 5].copy_from_slice(b"\x04addr");
    target[1 + len + 5..].copy_from_slice(wire);
    Some(target)
}

/// Appends a registered host name. Returns false if it is no name in DNS.
fn push_host_name(out: &mut Vec<u8>, name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    push_labels(out, name.split('.')) && {
        out.push(0);
        name.len() + 2 <= NAME_LEN_MAX
    }
}

fn push_labels<'a>(out: &mut Vec<u8>, labels: impl Iterator<Item = &'a str>) -> bool {
    for label in labels {
        match u8::try_from(label.len()) {
            Ok(len @ 1..=63) => out.push(len),
            _ => return false,
        }
        out.extend_from_slice(label.as_bytes());
    }
    true
}

/// Appends the name of the owner of an address. Returns false if it is no name in DNS.
fn push_owner(out: &mut Vec<u8>, owner: &AddressOwner, domain: &Domain) -> bool {
    let start = out.len();
    let written = match owner {
        AddressOwner::Node(node) => {
            push_labels(out, node.as_str().split('.')) && push_labels(out, ["node"].into_iter())
        }
        AddressOwner::Service(key) => {
            let namespace = key.namespace.as_str();
            let qualified = namespace != ServiceKey::DEFAULT_NAMESPACE;
            push_labels(out, [key.service.as_str(), "service"].into_iter())
                && (!qualified || push_labels(out, [namespace, "ns"].into_iter()))
        }
    };
    out.extend_from_slice(domain.wire());
    written && out.len() - start <= NAME_LEN_MAX
}
