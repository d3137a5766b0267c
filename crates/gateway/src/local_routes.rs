//! Asks the routing table which addresses this machine delivers to itself.
//!
//! The addresses of the interfaces are only a part of them: after `ip address add 10.9.9.9/24 dev lo` or `ip route add
//! local 10.1.0.0/16 dev lo`, the machine answers at every address of these networks. The source address that the
//! system chooses for such a destination does not help, because it may be another address.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};

// Constants of rtnetlink(7) and netlink(7).
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const RTA_DST: u16 = 1;
const RTN_LOCAL: u8 = 2;
/// Length of `struct nlmsghdr`. A `struct rtmsg` follows it.
const HEAD_LEN: usize = 16;
/// Offset of `rtm_type` in a `struct rtmsg`.
const TYPE_AT: usize = 7;

/// Whether a packet to this address stays on this machine. Returns false if the routing table cannot be asked.
pub(crate) fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback()
        || is_delivered_here(ip).unwrap_or_else(|error| {
            tracing::warn!(%ip, %error, "cannot ask the routing table whether this is an address of this machine");
            false
        })
}

fn is_delivered_here(ip: IpAddr) -> Result<bool, Errno> {
    let route = socket::socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    socket::send(route.as_raw_fd(), &question(ip), MsgFlags::empty())?;
    let mut answer = [0; 4_096];
    // The system answers before the call that sends the question returns.
    let len = socket::recv(route.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    Ok(is_local_route(&answer[..len]))
}

/// The message that asks for the route to one address.
fn question(ip: IpAddr) -> Vec<u8> {
    let (family, address) = match ip {
        IpAddr::V4(v4) => (AddressFamily::Inet, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::Inet6, v6.octets().to_vec()),
    };
    // A `struct rtmsg`: the family, the length of the address in bits, and ten unused bytes. A `struct rtattr` with the
    // address follows it.
    let mut body = vec![family as u8, (address.len() * 8) as u8];
    body.resize(12, 0);
    body.extend((4 + address.len() as u16).to_ne_bytes());
    body.extend(RTA_DST.to_ne_bytes());
    body.extend(address);
    // A `struct nlmsghdr`: the length, the kind, the flags, a sequence number, and the port of the sender.
    let mut message = ((HEAD_LEN + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(RTM_GETROUTE.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Whether an answer is a local route. If there is no route, the answer is an error, and the address is not of this
/// machine.
fn is_local_route(answer: &[u8]) -> bool {
    let kind = answer.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
    kind == Some(RTM_NEWROUTE) && answer.get(HEAD_LEN + TYPE_AT) == Some(&RTN_LOCAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No interface has the address 127.9.9.9. The loopback interface has 127.0.0.1/8.
    #[test]
    fn an_address_that_no_interface_has_is_of_this_machine_if_packets_to_it_stay_here() {
        let is_here = |text: &str| is_delivered_here(text.parse().unwrap()).unwrap();
        for here in ["127.0.0.1", "127.9.9.9"] {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in ["198.51.100.7", "2001:db8:ffff::7"] {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
        // Without IPv6, the machine does not have this address.
        if std::net::TcpListener::bind("[::1]:0").is_ok() {
            assert!(is_here("::1"));
        }
    }
}
