//! What the program reports to the service manager that started it: that the node serves, that it makes
//! progress, and that it stops.
//!
//! This is the protocol of `sd_notify(3)`: datagrams of `NAME=VALUE` to the Unix socket that `NOTIFY_SOCKET`
//! names. Without that variable nothing is sent. A message that cannot be sent is not repeated and stops nothing: the
//! service manager acts when it hears nothing.

use std::convert::Infallible;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The connection to the service manager, if there is one.
#[derive(Debug, Default)]
pub(super) struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// The service manager stops the process when it has heard nothing for this long.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The service manager that the environment names.
    pub(super) fn of_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
            _ => SocketAddr::from_pathname(&name),
        };
        let socket = address.and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            // A full queue must not block the node.
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        });
        match socket {
            Ok(socket) => Self { socket: Some(socket), watchdog: watchdog() },
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET names no socket: the service manager is told nothing");
                Self::default()
            }
        }
    }

    /// Reports that the node serves requests.
    pub(super) fn ready(&self, address: std::net::SocketAddr) {
        self.send(&format!("READY=1\nSTATUS=serves HTTP on {address}"));
    }

    /// Reports that the node stops. From now on the service manager limits the time of the stop, and no longer
    /// watches the progress.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=finishes the requests in flight");
    }

    /// Reports progress for as long as `stuck` finds no part of the node that hangs. `stuck` gets the time in which
    /// every part must react. Never returns.
    pub(super) async fn report_progress(
        &self,
        stuck: impl AsyncFn(Duration) -> Option<&'static str>,
    ) -> Infallible {
        let Some(watchdog) = self.watchdog else { return std::future::pending().await };
        // A check takes at most a third of the time, and the pause is another third. So a node that makes progress is
        // never late. A failed check is repeated at once: a node that reacts again in time is not restarted.
        let third = watchdog / 3;
        loop {
            let pause = match stuck(third).await {
                None => {
                    self.send("WATCHDOG=1");
                    third
                }
                Some(part) => {
                    tracing::error!(
                        part,
                        "a part of this node does not react; if it stays so, the service manager restarts the node"
                    );
                    third / 20
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::warn!(%error, "the service manager could not be told: {message}");
        }
    }
}

/// The time in which the service manager expects the next report, if it expects reports from this process.
fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    // The variables are inherited, so they may be meant for the process that started this one.
    let is_meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|us| is_meant && *us > 0).map(Duration::from_micros)
}
