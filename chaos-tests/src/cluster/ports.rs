//! Ports for nodes, which keep theirs over a restart.
//!
//! They lie below the range from which the kernel takes ports for outgoing connections: while a node
//! is down, nobody's connection can sit on its port.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::bail;

const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;

static TAKEN: AtomicU32 = AtomicU32::new(0);

/// A port of `ip` that is free now, and that this process gives once.
pub(super) fn free(ip: Ipv4Addr) -> anyhow::Result<u16> {
    // Far apart for processes that were started one after the other, which take many each.
    let start = std::process::id().wrapping_mul(1_627);
    for _ in 0..COUNT {
        let nth = TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + start.wrapping_add(nth) % COUNT)?;
        if TcpListener::bind((ip, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {ip} is free")
}
