//! Ports for nodes, which keep them over a restart.
//!
//! They are below the range that the kernel uses for outgoing connections. So no connection can take the port
//! of a stopped node.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::bail;

const FIRST: u32 = 10_000;
const COUNT: u32 = 20_000;

static TAKEN: AtomicU32 = AtomicU32::new(0);

/// A port of `ip` that is free now. This process returns each port once.
pub(super) fn free(ip: Ipv4Addr) -> anyhow::Result<u16> {
    // The first port depends on the process id, with large distances, because each process takes many ports.
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
