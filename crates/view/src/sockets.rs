//! Hosts and ports of a service's endpoints, for faces that answer with addresses instead of URLs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use maxine_state::{Address, Registration, Scheme};

/// The host of an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
    /// A host name, as it was registered.
    Name(Box<str>),
}

impl Host {
    /// The host of an address.
    #[must_use]
    pub fn of(address: &Address) -> Self {
        let host = address.parts().host;
        match host.parse() {
            Ok(IpAddr::V4(v4)) => Self::V4(v4),
            Ok(IpAddr::V6(v6)) => Self::V6(v6),
            Err(_) => Self::Name(host.into()),
        }
    }
}

/// Where an instance listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Socket {
    /// The host.
    pub host: Host,
    /// The port: the registered one, or the default port of the scheme.
    pub port: u16,
    /// The weight of the instance. In a [`SocketSet`]: of all instances that listen here, at most 65535.
    pub weight: u16,
}

impl Socket {
    fn of(registration: &Registration) -> Self {
        let parts = registration.address.parts();
        let default_port = match parts.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        };
        Self {
            host: Host::of(&registration.address),
            port: parts.port.unwrap_or(default_port),
            weight: registration.weight,
        }
    }
}

/// Distinct hosts and sockets, each list in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketSet {
    /// The IPv4 addresses.
    pub v4: Box<[Ipv4Addr]>,
    /// The IPv6 addresses.
    pub v6: Box<[Ipv6Addr]>,
    /// The host names.
    pub names: Box<[Box<str>]>,
    /// Hosts with ports.
    pub sockets: Box<[Socket]>,
}

impl SocketSet {
    /// The set of these sockets. A socket whose host is not a valid name in DNS is left out, because no face can answer
    /// with it, and every question would have to skip it.
    #[must_use]
    pub fn of<'a>(sockets: impl Iterator<Item = &'a Socket>) -> Self {
        let is_usable = |socket: &&Socket| match &socket.host {
            Host::V4(_) | Host::V6(_) => true,
            Host::Name(name) => is_dns_name(name),
        };
        let mut all: Vec<Socket> = sockets.filter(is_usable).cloned().collect();
        all.sort_unstable();
        all.dedup_by(|later, kept| {
            let is_same = later.host == kept.host && later.port == kept.port;
            if is_same {
                kept.weight = kept.weight.saturating_add(later.weight);
            }
            is_same
        });
        let (mut v4, mut v6, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for socket in &all {
            match &socket.host {
                Host::V4(address) => v4.push(*address),
                Host::V6(address) => v6.push(*address),
                Host::Name(name) => names.push(name.clone()),
            }
        }
        v4.dedup();
        v6.dedup();
        names.dedup();
        Self { v4: v4.into(), v6: v6.into(), names: names.into(), sockets: all.into() }
    }
}

/// Whether a host name can be written in DNS: labels of at most 63 bytes, at most 253 bytes in all (RFC 1035 section
/// 2.3.4).
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.split('.').all(|label| matches!(label.len(), 1..=63))
}

/// The sockets of a table's endpoints.
#[derive(Debug)]
pub(super) struct Sockets {
    /// The socket of each endpoint, in the order of the endpoints.
    pub(super) each: Box<[Socket]>,
    pub(super) set: SocketSet,
}

impl Sockets {
    pub(super) fn of<'a>(registrations: impl Iterator<Item = &'a Registration>) -> Self {
        let each: Box<[Socket]> = registrations.map(Socket::of).collect();
        let set = SocketSet::of(each.iter());
        Self { each, set }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(host: &str, port: u16, weight: u16) -> Socket {
        let host = Host::of(&Address::parse(&format!("http://{host}")).unwrap());
        Socket { host, port, weight }
    }

    #[test]
    fn equal_hosts_and_sockets_are_listed_once() {
        let all = [
            socket("10.0.0.2", 80, 1),
            socket("10.0.0.1", 81, 2),
            socket("a.example", 80, 1),
            socket("10.0.0.1", 80, u16::MAX),
            socket("[::1]", 80, 1),
            socket("10.0.0.1", 80, 3),
            socket(&format!("{}.example", "a".repeat(64)), 80, 1),
        ];
        let set = SocketSet::of(all.iter());
        assert_eq!(&*set.v4, [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]);
        assert_eq!(&*set.v6, [Ipv6Addr::LOCALHOST]);
        assert_eq!(&*set.names, ["a.example".into()]);
        let weights: Vec<_> = set.sockets.iter().map(|s| (s.port, s.weight)).collect();
        assert_eq!(weights, [(80, u16::MAX), (81, 2), (80, 1), (80, 1), (80, 1)]);
    }
}
