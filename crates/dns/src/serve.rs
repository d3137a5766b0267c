//! The sockets: one for UDP, and one that listens for TCP connections (RFC 7766).
//!
//! Every buffer, connection and wait has a limit.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use maxine_admission::{CallerClass, Leave, Place, PlaceLimits, Places};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{Dns, Transport};
use crate::rate::{Allowed, RateLimit};

/// Maximum length of a question, in bytes. A real one has some hundred.
const QUESTION_LEN_MAX: usize = 4_096;
/// How many datagrams are answered before other tasks get a turn.
const BATCH: usize = 32;
/// After this time, other tasks get a turn although more datagrams wait. In microseconds.
const TURN_US_MAX: u64 = 1_000;
/// The pause before an answer over TCP to an address that is over the limit.
const LIMITED_PAUSE: Duration = Duration::from_millis(100);
/// Space for datagrams that wait, in bytes, so that a burst of questions is not lost.
const RECEIVE_BUFFER_LEN: usize = 1 << 20;
/// A longer buffer for answers is released after its use.
const ANSWER_BUFFER_LEN: usize = 8 << 10;
/// How long a connection is kept, even if an address that has fewer connections needs its place.
const CONNECTION_KEPT: Duration = Duration::from_secs(1);
/// Pause after an error of a socket, so that an error that repeats does not take a whole processor.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// The open sockets of a name server.
#[derive(Debug)]
pub struct Listener {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Listener {
    /// Opens the sockets. With port 0, both get the same free port. Must be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// The address is no address of this machine, or the port is in use.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let tcp = maxine_admission::listen(address)?;
        let address = tcp.local_addr()?;
        let udp = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        udp.set_nonblocking(true)?;
        udp.bind(&address.into())?;
        // The system may allow less.
        let _smaller = udp.set_recv_buffer_size(RECEIVE_BUFFER_LEN);
        Ok(Self { udp: UdpSocket::from_std(udp.into())?, tcp })
    }

    /// The address of both sockets.
    ///
    /// # Errors
    ///
    /// The system does not report it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Answers questions until `stop`. Then each connection gets the answer that is being written.
    pub async fn serve(self, dns: Arc<Dns>, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let nodes = Arc::clone(&dns.nodes).follow(Arc::clone(&dns.view), dns.clock.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(nodes));
        let datagrams = serve_udp(self.udp, Arc::clone(&dns));
        tasks.spawn(stop.clone().run_until_cancelled_owned(datagrams));
        stop.run_until_cancelled(accept(self.tcp, dns, &tasks, &stop)).await;
        tasks.close();
        tasks.wait().await;
    }
}

async fn serve_udp(socket: UdpSocket, dns: Arc<Dns>) {
    let mut limit = RateLimit::new(dns.settings.rate_max_per_s);
    let mut question = vec![0; QUESTION_LEN_MAX];
    let mut out = Vec::with_capacity(dns.settings.udp_len_max);
    loop {
        if let Err(error) = socket.readable().await {
            tracing::warn!(%error, "the DNS socket cannot be read");
            tokio::time::sleep(ERROR_PAUSE).await;
        }
        let turn_ends_us = dns.clock.monotonic_us() + TURN_US_MAX;
        for _ in 0..BATCH {
            if dns.clock.monotonic_us() > turn_ends_us {
                break;
            }
            match socket.try_recv_from(&mut question) {
                Ok((len, from)) => {
                    answer_datagram(&socket, &dns, &mut limit, &question[..len], from, &mut out);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!(%error, "a DNS question was not received");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

fn answer_datagram(
    socket: &UdpSocket,
    dns: &Dns,
    limit: &mut RateLimit,
    question: &[u8],
    from: SocketAddr,
    out: &mut Vec<u8>,
) {
    let allowed = limit.allows(from.ip(), dns.clock.monotonic_ms());
    if allowed != Allowed::All {
        dns.metrics.limited.inc();
    }
    // Port 0 cannot receive anything, so the sender's address is forged.
    if allowed == Allowed::Nothing || from.port() == 0 {
        return;
    }
    out.clear();
    if dns.answer(question, Transport::Udp(allowed), out)
        && let Err(error) = socket.try_send_to(out, from)
    {
        // The client asks again.
        tracing::debug!(%error, "a DNS answer was not sent");
    }
}

async fn accept(
    listener: TcpListener,
    dns: Arc<Dns>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let places = Places::fair(PlaceLimits {
        max: dns.settings.connections_max,
        per_address_max: dns.settings.connections_per_address_max,
        reserved: 0,
    });
    let rate = Arc::new(Mutex::new(RateLimit::new(dns.settings.rate_max_per_s)));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Ok(mut place) = places.take(from.ip(), CallerClass::Stranger, 1) else {
                    dns.metrics.connections_refused.inc();
                    continue;
                };
                let leave = Arc::new(Leave::of_connection(CONNECTION_KEPT));
                place.give_way(&leave);
                let (dns, stop, rate) = (Arc::clone(&dns), stop.clone(), Arc::clone(&rate));
                tasks.spawn(async move {
                    let place = (place, &*leave);
                    let connection = Connection::new(&dns, stream, (from.ip(), &rate), place);
                    let ended = tokio::select! {
                        biased;
                        ended = connection.serve(&stop) => ended,
                        () = leave.displaced() => {
                            dns.metrics.connections_refused.inc();
                            return;
                        }
                    };
                    if let Err(error) = ended {
                        tracing::debug!(%error, from = %from.ip(), "a DNS connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a DNS connection was not accepted");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// A connection, which takes a place while it is open.
struct Connection<'a> {
    dns: &'a Dns,
    stream: BufReader<TcpStream>,
    /// The address of the client, and the rate of questions over TCP.
    from: (IpAddr, &'a Mutex<RateLimit>),
    leave: &'a Leave,
    _place: Place,
}

impl<'a> Connection<'a> {
    fn new(
        dns: &'a Dns,
        stream: TcpStream,
        from: (IpAddr, &'a Mutex<RateLimit>),
        (place, leave): (Place, &'a Leave),
    ) -> Self {
        dns.metrics.connections.inc();
        let stream = BufReader::with_capacity(512, stream);
        Self { dns, stream, from, leave, _place: place }
    }

    /// Answers one question after the other.
    async fn serve(mut self, stop: &CancellationToken) -> io::Result<()> {
        self.stream.get_ref().set_nodelay(true)?;
        let limit = Duration::from_millis(self.dns.settings.connection_timeout_ms);
        let (mut question, mut out) = (Vec::new(), Vec::new());
        while let Some(read) =
            stop.run_until_cancelled(timeout(limit, self.read(&mut question))).await
        {
            read??;
            self.take_turn().await;
            out.clear();
            out.extend_from_slice(&[0; 2]);
            if !self.dns.answer(&question, Transport::Tcp, &mut out) {
                break;
            }
            self.leave.has_spoken();
            let len = u16::try_from(out.len() - 2).map_err(io::Error::other)?;
            out[..2].copy_from_slice(&len.to_be_bytes());
            timeout(limit, self.stream.get_mut().write_all(&out)).await??;
            if out.capacity() > ANSWER_BUFFER_LEN {
                out = Vec::new();
            }
        }
        Ok(())
    }

    /// Lets other tasks run before the next answer, because a client may send many questions at once. An address that
    /// is over the limit waits longer.
    async fn take_turn(&self) {
        let (address, rate) = &self.from;
        let allowed = rate.lock().allows(*address, self.dns.clock.monotonic_ms());
        if allowed == Allowed::All {
            tokio::task::yield_now().await;
        } else {
            self.dns.metrics.limited.inc();
            tokio::time::sleep(LIMITED_PAUSE).await;
        }
    }

    /// Reads a question after its length.
    async fn read(&mut self, question: &mut Vec<u8>) -> io::Result<()> {
        let len = usize::from(self.stream.read_u16().await?);
        if len > QUESTION_LEN_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the question is too long"));
        }
        question.resize(len, 0);
        self.stream.read_exact(question).await?;
        Ok(())
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.dns.metrics.connections.dec();
    }
}

/// The addresses that `ns` in a domain gets: the address that is listened on, or else the advertised one.
#[must_use]
pub fn own_addresses(listen: IpAddr, advertised: Option<IpAddr>) -> Vec<IpAddr> {
    let known = Some(listen).filter(|address| !address.is_unspecified());
    known.or(advertised).into_iter().collect()
}
