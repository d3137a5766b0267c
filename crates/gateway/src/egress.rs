//! Decides which networks instances may be registered in and called in.
//!
//! Place in the flow: registration calls [`EgressPolicy::check_address`], to refuse an address early. Every connection
//! calls [`EgressPolicy::check_ip`] with the resolved address. That decides, because a name can resolve to another
//! address after its registration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use super::local_routes::is_of_this_machine;
use maxine_state::Address;

/// Networks without services of users: link-local, metadata services of clouds, multicast, broadcast, unspecified
/// addresses, and IPv6 ranges that a translator maps to hidden IPv4 addresses (local NAT64 and Teredo).
const ALWAYS_DENIED: [&str; 17] = [
    "0.0.0.0/8",
    "169.254.0.0/16",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.0/24",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "fd00:42::/32",
    "fd00:c1::/32",
    "fd00:ec2::/32",
    "fd20:ce::/32",
    "64:ff9b:1::/48",
    "2001::/32",
];

/// Why a destination is denied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressDenied {
    /// The address is in a network that may not be called.
    #[error("{host} is in a network that may not be called ({network})")]
    Network {
        /// The address or host name.
        host: String,
        /// The network that contains it, or why it is outside the allowed ones.
        network: String,
    },
    /// The address belongs to Maxine itself, or to its Redis.
    #[error("{host}:{port} is an address of Maxine itself")]
    Own {
        /// The address or host name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The name or address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Parses `host:port` or `[v6]:port`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().ok()?;
        (!host.is_empty()).then(|| Self { host: host.to_ascii_lowercase(), port })
    }

    /// Parses the host and port of a URL. If the URL has no port, it is `default_port`.
    #[must_use]
    pub fn of_url(url: &str, default_port: u16) -> Option<Self> {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next()?;
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let has_port = authority.rsplit_once(':').is_some_and(|(_, tail)| !tail.contains(']'));
        match has_port {
            true => Self::parse(authority),
            false => Self::parse(&format!("{authority}:{default_port}")),
        }
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

/// The addresses of this cluster itself: the HTTP and peer addresses of its members, and its Redis. Clones
/// share one list.
#[derive(Clone, Debug, Default)]
pub struct OwnAddresses(Arc<ArcSwap<Vec<HostPort>>>);

impl OwnAddresses {
    /// Replaces the list.
    pub fn set(&self, addresses: Vec<HostPort>) {
        if **self.0.load() != addresses {
            self.0.store(Arc::new(addresses));
        }
    }

    /// Whether `ip` and `port` are one of these addresses. Names are ignored.
    fn has(&self, ip: IpAddr, port: u16) -> bool {
        self.0.load().iter().filter(|own| own.port == port).any(|own| {
            own.host.parse::<IpAddr>().is_ok_and(|own| match own.is_unspecified() {
                true => is_of_this_machine(ip),
                false => own.to_canonical() == ip,
            })
        })
    }

    /// Whether a host name and a port are one of these addresses. Names are not resolved.
    fn has_name(&self, host: &str, port: u16) -> bool {
        self.0.load().iter().any(|own| own.port == port && own.host.eq_ignore_ascii_case(host))
    }

    /// The host names of these addresses that have this port.
    fn names_with(&self, port: u16) -> Vec<String> {
        let own = self.0.load();
        let named =
            own.iter().filter(|own| own.port == port && own.host.parse::<IpAddr>().is_err());
        named.map(|own| own.host.clone()).collect()
    }
}

/// The rules, in this order: networks that the operator denies; loopback and the networks that are always denied,
/// unless they are explicitly allowed; then the allowed networks, or everything if none is listed; and Maxine's own
/// addresses.
#[derive(Clone, Debug)]
pub struct EgressPolicy {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
    always_denied: Vec<IpNet>,
    allow_loopback: bool,
    own: OwnAddresses,
}

impl EgressPolicy {
    /// Makes a policy. `allowed` limits connections to these networks, and lifts the built-in denials for them. If it
    /// is empty, everything is allowed that is not denied. `allow_loopback` also allows loopback addresses; it is for a
    /// node that itself listens on loopback only.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>, denied: Vec<IpNet>, allow_loopback: bool) -> Self {
        let always_denied: Vec<IpNet> = ALWAYS_DENIED
            .iter()
            .filter_map(|text| text.parse().ok())
            .filter(|net: &IpNet| !allowed.iter().any(|a| a == net || net.contains(a)))
            .collect();
        Self { allowed, denied, always_denied, allow_loopback, own: OwnAddresses::default() }
    }

    /// The same policy, which also denies Maxine's own addresses.
    #[must_use]
    pub fn with_own(mut self, own: OwnAddresses) -> Self {
        self.own = own;
        self
    }

    /// Whether this address may be called, on any port. An IPv4 address that is embedded in it must be allowed, too.
    pub fn check_ip(&self, ip: IpAddr) -> Result<(), EgressDenied> {
        let ip = ip.to_canonical();
        let embedded = embedded_v4(ip).map(IpAddr::V4);
        let faces = || std::iter::once(ip).chain(embedded);
        let denied = |network: String| Err(EgressDenied::Network { host: ip.to_string(), network });
        let is_in = |nets: &[IpNet], ip: IpAddr| nets.iter().any(|net| net.contains(&ip));
        for face in faces() {
            if let Some(net) = self.denied.iter().find(|net| net.contains(&face)) {
                return denied(net.to_string());
            }
            if face.is_loopback() && !self.allow_loopback && !is_in(&self.allowed, face) {
                return denied("loopback".into());
            }
            if let Some(net) = self.always_denied.iter().find(|net| net.contains(&face)) {
                return denied(net.to_string());
            }
        }
        let is_allowed = |ip: IpAddr| {
            self.allowed.is_empty()
                || is_in(&self.allowed, ip)
                || ip.is_loopback() && self.allow_loopback
        };
        if !is_allowed(embedded.unwrap_or(ip)) {
            return denied("not among the allowed networks".into());
        }
        Ok(())
    }

    /// Whether this address may be connected to, judged without the names of Maxine's own addresses.
    pub(crate) fn check_socket(&self, to: SocketAddr) -> Result<(), EgressDenied> {
        self.check_ip(to.ip())?;
        let ip = to.ip().to_canonical();
        let embedded = embedded_v4(ip).map(IpAddr::V4);
        if std::iter::once(ip).chain(embedded).any(|ip| self.own.has(ip, to.port())) {
            return Err(EgressDenied::Own { host: ip.to_string(), port: to.port() });
        }
        Ok(())
    }

    /// The host names among Maxine's own addresses that have this port. Who connects compares their addresses.
    pub(crate) fn own_names_with(&self, port: u16) -> Vec<String> {
        self.own.names_with(port)
    }

    /// Whether this address may be registered, judged by its text: a literal IP, a loopback name, or a name of Maxine
    /// itself. Other names are only checked when they are resolved for a connection.
    pub fn check_address(&self, address: &Address) -> Result<(), EgressDenied> {
        let (host, port) = host_of(address);
        if let Some(ip) = literal_ip(host) {
            return self.check_socket(SocketAddr::new(ip, port));
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        if self.own.has_name(&name, port) {
            return Err(EgressDenied::Own { host: name, port });
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return self.check_socket(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
        }
        let metadata = ["metadata.google.internal", "metadata.goog", "metadata", "instance-data"];
        if metadata.contains(&name.as_str()) {
            return self.check_ip(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)));
        }
        Ok(())
    }
}

/// The host of an address, without brackets, and its port.
fn host_of(address: &Address) -> (&str, u16) {
    let text = address.as_str();
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let authority = rest.split('/').next().unwrap_or(rest);
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']').unwrap_or((v6, "")),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let usual = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
    (host, port.trim_start_matches(':').parse().unwrap_or(usual))
}

/// The IP address that a host is, also in the old notations of IPv4 (`127.1`, `0x7f000001`, `2130706433`), which
/// resolvers still accept. `None` for a name.
fn literal_ip(host: &str) -> Option<IpAddr> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(ip);
    }
    let parts: Vec<&str> = host.split('.').collect();
    if parts.len() > 4 {
        return None;
    }
    let number = |part: &str| -> Option<u64> {
        let lower = part.to_ascii_lowercase();
        if let Some(hex) = lower.strip_prefix("0x") {
            return u64::from_str_radix(hex, 16).ok();
        }
        if lower.len() > 1 && lower.starts_with('0') {
            return u64::from_str_radix(&lower, 8).ok();
        }
        lower.parse().ok()
    };
    let numbers: Vec<u64> = parts.into_iter().map(number).collect::<Option<_>>()?;
    let (last, front) = numbers.split_last()?;
    let mut value: u64 = *last;
    for (at, part) in front.iter().enumerate() {
        if *part > 255 {
            return None;
        }
        value |= part << (8 * (3 - at));
    }
    u32::try_from(value).ok().map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
}

/// The IPv4 address that a translator or tunnel would extract from an IPv6 address: NAT64 (RFC 6052), SIIT (RFC 2765),
/// IPv4-compatible (RFC 4291), 6to4 (RFC 3056) and ISATAP (RFC 5214).
fn embedded_v4(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = ip else { return None };
    let octets: [u8; 16] = v6.octets();
    let at = |from: usize| {
        Some(Ipv4Addr::new(octets[from], octets[from + 1], octets[from + 2], octets[from + 3]))
    };
    let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0).octets();
    let translated = [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
    if octets[..12] == nat64[..12] || octets[..12] == translated {
        return at(12);
    }
    // `::` and `::1` contain no IPv4 address.
    if octets[..12] == [0; 12] && octets[12..15] != [0; 3] {
        return at(12);
    }
    if octets[..2] == [0x20, 0x02] {
        return at(2);
    }
    let isatap = octets[8] & !2 == 0 && octets[9..12] == [0, 0x5e, 0xfe];
    if isatap { at(12) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(policy: &EgressPolicy, url: &str) -> bool {
        policy.check_address(&Address::parse(url).unwrap()).is_ok()
    }

    #[test]
    fn metadata_services_and_loopback_are_out_of_reach_in_every_notation() {
        let policy = EgressPolicy::new(vec![], vec![], false);
        for url in [
            "http://169.254.169.254/latest",
            "http://[fd00:ec2::254]/",
            "http://[::ffff:169.254.169.254]/",
            "http://[::169.254.169.254]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::127.0.0.1]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[2002:a9fe:a9fe::1]/",
            "http://2852039166/",
            "http://0xa9fea9fe/",
            "http://0251.0376.0251.0376/",
            "http://169.254.43518/",
            "http://127.0.0.1:8080",
            "http://127.1",
            "http://[::1]:80",
            "http://localhost:9",
            "http://a.localhost",
            "http://metadata.google.internal",
            "http://0.0.0.0:80",
            "http://224.0.0.1",
            "http://[fe80::1]",
            "http://168.63.129.16",
            "http://192.0.0.192/opc/v2",
            "http://[fd20:ce::254]",
            "http://[fd00:ec2::23]",
            "http://[64:ff9b::168.63.129.16]",
            "http://[64:ff9b::7f00:1]:8080",
            "http://[64:ff9b:1::a9fe:a9fe]",
            "http://[64:ff9b:1:a9fe:a9:fe00::]",
            "http://[::ffff:168.63.129.16]",
            "http://[::ffff:0:169.254.169.254]",
            "http://[2002:7f00:1::]",
            "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
            "http://[2001:db8::5efe:169.254.169.254]",
            "http://metadata.goog",
        ] {
            assert!(!registered(&policy, url), "{url}");
        }
        for url in ["http://10.0.0.1:80", "http://service.internal", "https://[2001:db8::1]:1"] {
            assert!(registered(&policy, url), "{url}");
        }
    }

    #[test]
    fn loopback_is_a_setting_and_the_allowed_list_is_exclusive() {
        let open = EgressPolicy::new(vec![], vec![], true);
        assert!(registered(&open, "http://127.0.0.1:8080"));
        assert!(!registered(&open, "http://169.254.169.254"));
        let narrow = EgressPolicy::new(vec!["10.0.0.0/8".parse().unwrap()], vec![], false);
        assert!(registered(&narrow, "http://10.1.2.3"));
        assert!(!registered(&narrow, "http://192.168.0.1"));
        let denied = vec!["10.9.0.0/16".parse().unwrap()];
        let both = EgressPolicy::new(vec!["10.0.0.0/8".parse().unwrap()], denied, false);
        assert!(!registered(&both, "http://10.9.0.1"));
        let link_local: IpNet = "169.254.7.0/24".parse().unwrap();
        let lifted = EgressPolicy::new(vec![link_local], vec![], false);
        assert!(registered(&lifted, "http://169.254.7.1"));
        assert!(!registered(&lifted, "http://169.254.169.254"));
    }

    #[test]
    fn networks_that_the_operator_denies_are_denied_even_if_they_are_allowed() {
        let nets = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        let loopback_node = EgressPolicy::new(vec![], nets("127.0.0.0/8"), true);
        assert!(!registered(&loopback_node, "http://127.0.0.1:80"));
        assert!(!registered(&loopback_node, "http://localhost:80"));
        assert!(!registered(&loopback_node, "http://[::ffff:127.0.0.1]:80"));
        assert!(registered(&loopback_node, "http://[::1]:80"), "only what is listed");
        let both = EgressPolicy::new(nets("127.0.0.0/8"), nets("127.0.0.0/8"), true);
        assert!(!registered(&both, "http://127.0.0.1:80"));
        // A mapped or translated address is checked in both forms.
        let mapped = EgressPolicy::new(vec![], nets("10.0.0.0/8"), false);
        assert!(!registered(&mapped, "http://[64:ff9b::10.1.2.3]"));
        let range = EgressPolicy::new(vec![], nets("64:ff9b::/96"), false);
        assert!(!registered(&range, "http://[64:ff9b::8.8.8.8]"));
    }

    #[test]
    fn maxines_own_addresses_cannot_be_registered() {
        let own = OwnAddresses::default();
        let policy = EgressPolicy::new(vec![], vec![], true).with_own(own.clone());
        assert!(registered(&policy, "http://127.0.0.1:8080"));
        own.set(vec![
            HostPort::parse("127.0.0.1:8080").unwrap(),
            HostPort::parse("[fd12::7]:7700").unwrap(),
            HostPort::of_url("redis://user:word@cache.internal/0", 6_379).unwrap(),
            HostPort::parse("0.0.0.0:7701").unwrap(),
            HostPort::of_url("http://10.0.0.9", 80).unwrap(),
        ]);
        for url in [
            "http://127.0.0.1:8080/base",
            "http://[::ffff:127.0.0.1]:8080",
            "http://2130706433:8080",
            "http://localhost:8080",
            "http://[fd12::7]:7700",
            "http://[64:ff9b::10.0.0.9]",
            "http://10.0.0.9:80/x",
            "http://cache.internal:6379",
            "http://Cache.Internal.:6379",
            "http://127.9.9.9:7701",
        ] {
            assert!(!registered(&policy, url), "{url}");
        }
        for url in ["http://127.0.0.2:8080", "http://127.0.0.1:8081", "https://10.0.0.9"] {
            assert!(registered(&policy, url), "{url}");
        }
    }
}
