//! The names of a domain: from the labels of a question to what it asks for.
//!
//! ```text
//! name      = [ what [ "." qualifier ]* "." ] domain
//! what      = [ TAG "." ] SERVICE ".service"  |  "_" SERVICE "._" TAG [ ".service" ]
//!           | MACHINE ".node"  |  HEX ".addr"  |  "ns"
//! qualifier = NAMESPACE ".ns"  |  ZONE ".zone"  |  DATACENTER [ ".dc" ]
//! ```

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use maxine_state::ServiceKey;

use crate::question::QuestionName;

/// What a name in one of the domains stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked<'a> {
    /// The domain itself.
    Apex,
    /// The name server.
    NameServer,
    /// A name that has no records, but names below it may have some.
    Inner,
    /// The instances of a service.
    Service(ServiceAsked<'a>),
    /// A machine, in lower case.
    Node(Cow<'a, str>),
    /// The address in the name.
    Address(IpAddr),
    /// No such name.
    Unknown,
}

/// Which instances a name stands for. All texts are in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceAsked<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) service: &'a str,
    /// Only the instances with this tag.
    pub(crate) tag: Option<Cow<'a, str>>,
    /// Only the instances in this zone.
    pub(crate) zone: Option<&'a str>,
}

#[derive(Default)]
struct Qualifiers<'a> {
    namespace: Option<&'a str>,
    zone: Option<&'a str>,
    has_datacenter: bool,
}

/// What the first `labels` labels of a name stand for. `datacenter` is in lower case.
pub(crate) fn asked<'a>(name: &'a QuestionName, labels: usize, datacenter: &str) -> Asked<'a> {
    match read(name, labels, datacenter) {
        Some(asked) => asked,
        None => Asked::Unknown,
    }
}

/// `None` if there is no such name.
fn read<'a>(name: &'a QuestionName, labels: usize, datacenter: &str) -> Option<Asked<'a>> {
    let mut qualifiers = Qualifiers::default();
    let mut left = labels;
    if left == 0 {
        return Some(Asked::Apex);
    }
    if left == 1 && name.label(0)? == "ns" {
        return Some(Asked::NameServer);
    }
    while let Some(last) = left.checked_sub(1) {
        match name.label(last)? {
            "service" => return service(name, last, &qualifiers),
            "node" if last == 0 => return Some(Asked::Inner),
            "node" => return Some(Asked::Node(joined(name, last)?)),
            "addr" if last == 0 => return Some(Asked::Inner),
            "addr" if last == 1 => return Some(Asked::Address(hex_address(name.label(0)?)?)),
            qualifier @ ("ns" | "zone" | "dc") => {
                let Some(before) = last.checked_sub(1) else { break };
                let value = name.label(before)?;
                let is_new = match qualifier {
                    "ns" => qualifiers.namespace.replace(value).is_none(),
                    "zone" => qualifiers.zone.replace(value).is_none(),
                    _ => value == datacenter && !qualifiers.has_datacenter,
                };
                if !is_new {
                    return None;
                }
                qualifiers.has_datacenter |= qualifier == "dc";
                left = before;
            }
            label if label == datacenter && !qualifiers.has_datacenter => {
                qualifiers.has_datacenter = true;
                left = last;
            }
            label if label.starts_with('_') => return rfc_2782(name, left, &qualifiers),
            _ => return None,
        }
    }
    Some(Asked::Inner)
}

/// The name before `.service`, which has `labels` labels.
fn service<'a>(
    name: &'a QuestionName,
    labels: usize,
    qualifiers: &Qualifiers<'a>,
) -> Option<Asked<'a>> {
    let Some(last) = labels.checked_sub(1) else { return Some(Asked::Inner) };
    let service = name.label(last)?;
    if service.starts_with('_') {
        return rfc_2782(name, labels, qualifiers);
    }
    let tag = if last == 0 { None } else { Some(joined(name, last)?) };
    Some(qualifiers.service(service, tag))
}

/// `_SERVICE._TAG` (RFC 2782). The tag `tcp` is the protocol, and selects nothing.
fn rfc_2782<'a>(
    name: &'a QuestionName,
    labels: usize,
    qualifiers: &Qualifiers<'a>,
) -> Option<Asked<'a>> {
    let tag = name.label(labels - 1)?.strip_prefix('_').filter(|tag| !tag.is_empty())?;
    match labels {
        1 => Some(Asked::Inner),
        2 => {
            let service = name.label(0)?.strip_prefix('_').filter(|service| !service.is_empty())?;
            let tag = (tag != "tcp").then_some(Cow::Borrowed(tag));
            Some(qualifiers.service(service, tag))
        }
        _ => None,
    }
}

impl<'a> Qualifiers<'a> {
    fn service(&self, service: &'a str, tag: Option<Cow<'a, str>>) -> Asked<'a> {
        let namespace = self.namespace.unwrap_or(ServiceKey::DEFAULT_NAMESPACE);
        Asked::Service(ServiceAsked { namespace, service, tag, zone: self.zone })
    }
}

/// The first `labels` labels, which are at least one, with dots between them.
fn joined(name: &QuestionName, labels: usize) -> Option<Cow<'_, str>> {
    let mut text = Cow::Borrowed(name.label(0)?);
    for at in 1..labels {
        let text = text.to_mut();
        text.push('.');
        text.push_str(name.label(at)?);
    }
    Some(text)
}

/// The address in 8 or 32 hexadecimal digits.
fn hex_address(text: &str) -> Option<IpAddr> {
    if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match text.len() {
        8 => Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?).into()),
        32 => Some(Ipv6Addr::from(u128::from_str_radix(text, 16).ok()?).into()),
        _ => None,
    }
}

/// The address of a name for reverse look-ups, such as `4.3.2.1.in-addr.arpa`; `None` for any other name.
pub(crate) fn reverse_address(name: &QuestionName) -> Option<IpAddr> {
    if let Some(labels) = name.labels_before(b"\x07in-addr\x04arpa\0") {
        let mut octets = [0_u8; 4];
        if labels != octets.len() {
            return None;
        }
        for (at, octet) in octets.iter_mut().rev().enumerate() {
            let text = name.label(at)?;
            *octet = text.parse().ok().filter(|octet: &u8| octet.to_string() == text)?;
        }
        return Some(octets.into());
    }
    let labels = name.labels_before(b"\x03ip6\x04arpa\0")?;
    let mut bits = 0_u128;
    if labels != 32 {
        return None;
    }
    for at in (0..labels).rev() {
        let digit = name.label(at)?;
        let digit = digit.chars().next().filter(|_| digit.len() == 1)?.to_digit(16)?;
        bits = bits << 4 | u128::from(digit);
    }
    Some(Ipv6Addr::from(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question;
    use crate::sample::question_for;

    fn with<R>(text: &str, then: impl FnOnce(&QuestionName) -> R) -> R {
        let message = question_for(text, 1);
        let Ok(read) = question::read(&message).1 else { panic!("no question") };
        then(&read.name)
    }

    fn shown(text: &str) -> String {
        with(text, |name| {
            let labels = name.labels_before(b"\x06maxine\0").unwrap();
            match asked(name, labels, "dc1") {
                Asked::Service(ServiceAsked { namespace, service, tag, zone }) => {
                    let (tag, zone) = (tag.unwrap_or_default(), zone.unwrap_or_default());
                    format!("{namespace}/{service} {tag} {zone}").trim_end().to_owned()
                }
                Asked::Node(node) => format!("node {node}"),
                Asked::Address(address) => address.to_string(),
                other => format!("{other:?}"),
            }
        })
    }

    #[test]
    fn names_are_read_as_documented() {
        for (name, expected) in [
            ("maxine", "Apex"),
            ("ns.maxine", "NameServer"),
            ("WEB.Service.MAXINE", "default/web"),
            ("v1.web.service.maxine", "default/web v1"),
            ("a.b.web.service.maxine", "default/web a.b"),
            ("service.service.maxine", "default/service"),
            ("web.service.dc1.maxine", "default/web"),
            ("web.service.DC1.dc.maxine", "default/web"),
            ("web.service.shop.ns.maxine", "shop/web"),
            ("v1.web.service.shop.ns.east.zone.dc1.dc.maxine", "shop/web v1 east"),
            ("web.service.east.zone.maxine", "default/web  east"),
            ("_web._tcp.service.maxine", "default/web"),
            ("_web._tcp.maxine", "default/web"),
            ("_web._v1.service.dc1.maxine", "default/web v1"),
            ("_web._tcp.service.shop.ns.maxine", "shop/web"),
            ("box-1.node.maxine", "node box-1"),
            ("box.rack.node.dc1.maxine", "node box.rack"),
            ("0a0000ff.addr.maxine", "10.0.0.255"),
            ("0A0000ff.addr.dc1.maxine", "10.0.0.255"),
            ("20010db8000000000000000000000001.addr.maxine", "2001:db8::1"),
            ("service.maxine", "Inner"),
            ("node.dc1.maxine", "Inner"),
            ("addr.maxine", "Inner"),
            ("dc1.maxine", "Inner"),
            ("dc1.dc.maxine", "Inner"),
            ("dc.maxine", "Inner"),
            ("shop.ns.maxine", "Inner"),
            ("zone.maxine", "Inner"),
            ("_tcp.service.maxine", "Inner"),
            ("_tcp.maxine", "Inner"),
            ("web.maxine", "Unknown"),
            ("web.service.dc2.maxine", "Unknown"),
            ("web.service.dc2.dc.maxine", "Unknown"),
            ("web.service.dc1.dc1.maxine", "Unknown"),
            ("web.service.a.ns.b.ns.maxine", "Unknown"),
            ("a._web._tcp.service.maxine", "Unknown"),
            ("web._tcp.service.maxine", "Unknown"),
            ("_._tcp.service.maxine", "Unknown"),
            ("web.connect.maxine", "Unknown"),
            ("web.query.maxine", "Unknown"),
            ("0a0000.addr.maxine", "Unknown"),
            ("+a0000ff.addr.maxine", "Unknown"),
            ("x.0a0000ff.addr.maxine", "Unknown"),
        ] {
            assert_eq!(shown(name), expected, "{name}");
        }
    }

    #[test]
    fn reverse_names_are_complete_addresses() {
        let v6 = format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23));
        for (name, expected) in [
            ("4.3.2.1.in-addr.ARPA", "1.2.3.4"),
            (v6.as_str(), "2001:db8::1"),
            ("3.2.1.in-addr.arpa", ""),
            ("04.3.2.1.in-addr.arpa", ""),
            ("256.3.2.1.in-addr.arpa", ""),
            ("in-addr.arpa", ""),
            ("1.ip6.arpa", ""),
            ("4.3.2.1.maxine", ""),
        ] {
            let found = with(name, reverse_address);
            assert_eq!(found.map(|a| a.to_string()).unwrap_or_default(), expected, "{name}");
        }
    }
}
