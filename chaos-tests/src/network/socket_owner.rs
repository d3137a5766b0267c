//! Finds the process at the other end of a loopback connection.
//!
//! All nodes connect from 127.0.0.1, and their data may be encrypted, but the kernel knows the processes.
//! Linux only, like the other process faults.

use std::fs;
use std::net::SocketAddr;

/// How often the kernel's table is read before a connection counts as unknown.
const LOOKS_MAX: usize = 5;

/// The process among `candidates` that owns the socket with the local address `local`.
pub(super) fn owner_of(local: SocketAddr, candidates: &[(u64, i32)]) -> Option<u64> {
    // The kernel returns its table in parts, and a line may be missing while other connections change.
    let look = || inode_of(&fs::read_to_string("/proc/net/tcp").ok()?, local);
    let inode = (0..LOOKS_MAX).find_map(|_| look())?;
    let wanted = format!("socket:[{inode}]");
    let holds = |pid: i32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files.flatten().any(|file| {
            fs::read_link(file.path()).is_ok_and(|target| target.to_string_lossy() == wanted)
        })
    };
    candidates.iter().find(|(_, pid)| holds(*pid)).map(|(id, _)| *id)
}

/// The inode of the socket with this local address in the kernel's table.
fn inode_of(table: &str, local: SocketAddr) -> Option<u64> {
    let SocketAddr::V4(local) = local else { return None };
    let address = u32::from_le_bytes(local.ip().octets());
    let wanted = format!("{address:08X}:{:04X}", local.port());
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let own = fields.nth(1)?;
        let inode = fields.nth(7)?;
        (own == wanted).then(|| inode.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn our_own_socket_is_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let local = stream.local_addr().unwrap();
        assert_eq!(owner_of(local, &[(2, 1_999_999_999), (7, own)]), Some(7));
        assert_eq!(owner_of(local, &[(2, 1_999_999_999)]), None);
    }
}
