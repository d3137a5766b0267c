//! Which networks may be registered and called at all.
//!
//! Place in the flow: registration asks [`EgressPolicy::check_address`] to refuse early; every
//! connection asks [`EgressPolicy::check_ip`] about the resolved address, which is what counts: a
//! name can change its meaning after it was registered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::state::Address;

/// Networks that hold no service of anyone's: link-local with the metadata services of clouds,
/// multicast, broadcast and the unspecified addresses.
const ALWAYS_DENIED: [&str; 10] = [
    "0.0.0.0/8",
    "169.254.0.0/16",
    "100.100.100.200/32",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "fd00:ec2::254/128",
];

/// A destination that no policy lets through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} is in a network that may not be registered ({network})")]
pub struct EgressDenied {
    /// The address or host name.
    pub host: String,
    /// The network that it is in, or why it is outside the allowed ones.
    pub network: String,
}

/// The rule: denied networks first, then the allowed ones; everything, where none is listed.
#[derive(Clone, Debug)]
pub struct EgressPolicy {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
    allow_loopback: bool,
}

impl EgressPolicy {
    /// A policy. `allowed` limits to these networks, and lifts the built-in denials for what it
    /// lists; empty allows all that is not denied. `allow_loopback` is for a Maxine that itself
    /// listens on loopback only.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>, mut denied: Vec<IpNet>, allow_loopback: bool) -> Self {
        let built_in: Vec<IpNet> = ALWAYS_DENIED
            .iter()
            .filter_map(|text| text.parse().ok())
            .filter(|net: &IpNet| !allowed.iter().any(|a| a == net || net.contains(a)))
            .collect();
        denied.extend(built_in);
        Self { allowed, denied, allow_loopback }
    }

    /// Whether this address may be called.
    pub fn check_ip(&self, ip: IpAddr) -> Result<(), EgressDenied> {
        let ip = embedded_v4(ip.to_canonical());
        let denied = |network: String| Err(EgressDenied { host: ip.to_string(), network });
        if ip.is_loopback() {
            let listed = self.allowed.iter().any(|net| net.contains(&ip));
            return if self.allow_loopback || listed { Ok(()) } else { denied("loopback".into()) };
        }
        if let Some(net) = self.denied.iter().find(|net| net.contains(&ip)) {
            return denied(net.to_string());
        }
        if !self.allowed.is_empty() && !self.allowed.iter().any(|net| net.contains(&ip)) {
            return denied("not among the allowed networks".into());
        }
        Ok(())
    }

    /// Whether this address may be registered, as far as its text tells: a literal IP or a name of
    /// loopback. Other names are judged when they are resolved for a connection.
    pub fn check_address(&self, address: &Address) -> Result<(), EgressDenied> {
        let host = host_of(address);
        if let Some(ip) = literal_ip(host) {
            return self.check_ip(ip);
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        if name == "localhost" || name.ends_with(".localhost") {
            return self.check_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        let metadata = name == "metadata.google.internal" || name == "instance-data";
        if metadata {
            return self.check_ip(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)));
        }
        Ok(())
    }
}

/// The host of an address, without brackets and port.
fn host_of(address: &Address) -> &str {
    let text = address.as_str();
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    if let Some(v6) = authority.strip_prefix('[') {
        return v6.split(']').next().unwrap_or(v6);
    }
    authority.split(':').next().unwrap_or(authority)
}

/// A host that is an IP address, the old notations of IPv4 included (`127.1`, `0x7f000001`,
/// `2130706433`), which resolvers still take.
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

/// The IPv4 address inside an IPv6 one that a translator would unpack (NAT64, 6to4).
fn embedded_v4(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let octets: [u8; 16] = v6.octets();
    let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0).octets();
    if octets[..12] == nat64[..12] {
        return IpAddr::V4(Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]));
    }
    // The old IPv4-compatible form, `::a.b.c.d`; `::` and `::1` are what they are.
    if octets[..12] == [0; 12] && octets[12..15] != [0; 3] {
        return IpAddr::V4(Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]));
    }
    if octets[..2] == [0x20, 0x02] {
        return IpAddr::V4(Ipv4Addr::new(octets[2], octets[3], octets[4], octets[5]));
    }
    ip
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
}
