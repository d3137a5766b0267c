//! The load and the instance on one core: a single thread sends the requests and serves the answers, with one
//! epoll set.
//!
//! Both ends of the proxy under measurement are here. They share one core, so the proxy has the other one. The
//! thread makes as many system calls per request as the proxy, so it must do little else: it allocates nothing
//! and starts no task per request. Requests are prepared in advance. Of an answer, only the status and the
//! length are checked.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::load::{self, Outcome};
use maxine_clock::Clock;

/// The body of every answer, in bytes.
pub(super) const BODY_LEN: usize = 1_024;
/// Maximum number of events that one call of `epoll_wait` returns.
const EVENTS_MAX: usize = 256;
/// Maximum time of a run without an answer, in microseconds.
const SILENCE_US_MAX: u64 = 10_000_000;
/// Length of a client's buffer. Many answers fit into it.
const BUFFER_LEN: usize = 16 * 1_024;
/// The mark of the listener's events. The events of a connection are marked with its number.
const LISTENER: u64 = u64::MAX;
/// The bit that is also set in the marks of clients, which have their own numbers.
const CLIENT: u64 = 1 << 63;

/// The requests of a run.
pub(super) struct Plan {
    /// The address of the proxy.
    pub(super) target: SocketAddr,
    /// The requests. Each connection repeats one of them.
    pub(super) requests: Vec<Vec<u8>>,
    /// Number of keep-alive connections.
    pub(super) connections: usize,
    /// Requests per second over all connections; `None` to always have one in flight on each connection.
    pub(super) per_second: Option<u64>,
    /// Time at the beginning in which answers are not counted, in microseconds.
    pub(super) warmup_us: u64,
    /// Time in which they are counted, in microseconds.
    pub(super) measured_us: u64,
}

/// The load generator and the instance.
pub(super) struct Traffic {
    clock: Clock,
    epoll: Epoll,
    listener: TcpListener,
    answer: Vec<u8>,
    served: Vec<Option<Served>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
}

/// A connection that the proxy opened.
struct Served {
    stream: TcpStream,
    /// Number of bytes of `\r\n\r\n`, which ends a head, that were received last.
    matched: usize,
}

/// A connection to the proxy.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// The monotonic time from which the latency of the expected answer counts, in microseconds; 0 if no answer
    /// is expected.
    since_us: u64,
}

struct Counts {
    counted: u64,
    failed: u64,
    first_failure: Option<String>,
    latencies_us: Histogram<u64>,
}

impl Traffic {
    /// Listens on loopback.
    pub(super) fn new(clock: Clock) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY_LEN}\r\n\r\n"
        )
        .into_bytes();
        answer.resize(answer.len() + BODY_LEN, b'x');
        let scratch = vec![0; BUFFER_LEN];
        Ok(Self { clock, epoll, listener, answer, served: Vec::new(), free: Vec::new(), scratch })
    }

    /// The address of the instance.
    pub(super) fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Carries out a plan. Blocks the thread until the plan ends.
    pub(super) fn run(&mut self, plan: &Plan) -> io::Result<Outcome> {
        let mut clients = self.connect(plan)?;
        let mut counts =
            Counts { counted: 0, failed: 0, first_failure: None, latencies_us: load::histogram() };
        let begun_us = self.clock.monotonic_us();
        let (from_us, until_us) =
            (begun_us + plan.warmup_us, begun_us + plan.warmup_us + plan.measured_us);
        let mut pace = plan.per_second.map(|rate| Pace::new(rate, begun_us));
        if pace.is_none() {
            for (n, client) in clients.iter_mut().enumerate() {
                client.send(&plan.requests[n % plan.requests.len()], begun_us)?;
            }
        }
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let mut heard_us = begun_us;
        loop {
            let mut now_us = self.clock.monotonic_us();
            if now_us >= until_us {
                break;
            }
            if now_us.saturating_sub(heard_us) > SILENCE_US_MAX {
                return Err(io::Error::other("no answer for 10 s"));
            }
            if let Some(pace) = &mut pace {
                pace.send_due(&mut clients, plan, now_us)?;
            }
            // The thread never sleeps. Otherwise a slower proxy would have to wake it more often, and with a
            // pace, the timer's delay would be counted as latency.
            let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
            for event in &events[..ready] {
                match event.data() {
                    LISTENER => self.accept()?,
                    mark if mark & CLIENT != 0 => {
                        let n = usize::try_from(mark & !CLIENT).unwrap_or(usize::MAX);
                        now_us = self.clock.monotonic_us();
                        let client = &mut clients[n];
                        let Some(status) = client.receive()? else { continue };
                        let since_us = client.since_us;
                        client.since_us = 0;
                        heard_us = now_us;
                        if now_us >= from_us {
                            counts.note(status, now_us - since_us);
                        }
                        if pace.is_none() {
                            client.send(&plan.requests[n % plan.requests.len()], now_us)?;
                        }
                    }
                    mark => self.serve(usize::try_from(mark).unwrap_or(usize::MAX)),
                }
            }
        }
        for client in &clients {
            self.epoll.delete(&client.stream)?;
        }
        Ok(Outcome {
            units: counts.counted,
            failed: counts.failed,
            elapsed_us: plan.measured_us,
            latencies_us: counts.latencies_us,
            first_failure: counts.first_failure,
        })
    }

    /// Opens connections, sends one request on each, and returns them idle.
    pub(super) fn idle(
        &mut self,
        target: SocketAddr,
        request: &[u8],
        count: usize,
    ) -> io::Result<Vec<TcpStream>> {
        let mut open = Vec::with_capacity(count);
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        for _ in 0..count {
            let mut client = Client::open(target)?;
            client.send(request, 1)?;
            let asked_us = self.clock.monotonic_us();
            // The epoll set has only the listener and the connections of the instance, so the client is read
            // in each turn of this loop.
            loop {
                let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
                for event in &events[..ready] {
                    match event.data() {
                        LISTENER => self.accept()?,
                        mark => self.serve(usize::try_from(mark).unwrap_or(usize::MAX)),
                    }
                }
                match client.receive()? {
                    Some(200) => break,
                    Some(status) => return Err(io::Error::other(format!("HTTP {status}"))),
                    None if self.clock.monotonic_us() - asked_us > SILENCE_US_MAX => {
                        return Err(io::Error::other("an idle connection got no answer for 10 s"));
                    }
                    None => {}
                }
            }
            open.push(client.stream);
        }
        Ok(open)
    }

    fn connect(&mut self, plan: &Plan) -> io::Result<Vec<Client>> {
        let mut clients = Vec::with_capacity(plan.connections);
        for n in 0..plan.connections {
            let client = Client::open(plan.target)?;
            let mark = CLIENT | n as u64;
            self.epoll.add(&client.stream, EpollEvent::new(EpollFlags::EPOLLIN, mark))?;
            clients.push(client);
        }
        Ok(clients)
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let n = self.free.pop().unwrap_or_else(|| {
                self.served.push(None);
                self.served.len() - 1
            });
            self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, n as u64))?;
            self.served[n] = Some(Served { stream, matched: 0 });
        }
    }

    /// Answers the data on one connection. A connection that has ended is dropped.
    fn serve(&mut self, n: usize) {
        let Some(served) = self.served.get_mut(n).and_then(Option::as_mut) else { return };
        let asked = match served.stream.read(&mut self.scratch) {
            Ok(0) => Err(()),
            Ok(len) => Ok(served.heads(&self.scratch[..len])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => Err(()),
        };
        let answered = asked.and_then(|asked| {
            (0..asked).try_for_each(|_| served.stream.write_all(&self.answer)).map_err(drop)
        });
        if answered.is_err() {
            // Closing it also removes it from the set.
            self.served[n] = None;
            self.free.push(n);
        }
    }
}

impl Served {
    /// Number of heads that end in these bytes. That is the number of requests, because they have no bodies.
    fn heads(&mut self, bytes: &[u8]) -> usize {
        const END: &[u8; 4] = b"\r\n\r\n";
        // The usual case: one complete request.
        if self.matched == 0 && bytes.ends_with(END) && count_of(bytes, END) == 1 {
            return 1;
        }
        let mut heads = 0;
        for byte in bytes {
            self.matched = match (*byte, self.matched) {
                (b'\r', 0 | 2) | (b'\n', 1 | 3) => self.matched + 1,
                (b'\r', _) => 1,
                _ => 0,
            };
            if self.matched == END.len() {
                self.matched = 0;
                heads += 1;
            }
        }
        heads
    }
}

fn count_of(bytes: &[u8], needle: &[u8; 4]) -> usize {
    bytes.windows(4).filter(|window| window == needle).count()
}

impl Client {
    fn open(target: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, buffer: vec![0; BUFFER_LEN], filled: 0, since_us: 0 })
    }

    fn send(&mut self, request: &[u8], now_us: u64) -> io::Result<()> {
        self.since_us = now_us;
        // A request is much smaller than an empty socket buffer.
        self.stream.write_all(request)
    }

    /// Reads the available data. Returns the status once the answer is complete.
    fn receive(&mut self) -> io::Result<Option<u16>> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => self.filled += len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        let bytes = &self.buffer[..self.filled];
        let Some(head_len) = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
        else {
            return Ok(None);
        };
        let head = &bytes[..head_len];
        let malformed =
            || io::Error::new(io::ErrorKind::InvalidData, "an answer without status or length");
        let status = head.get(9..12).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let status = status.ok_or_else(malformed)?;
        let body_len = content_length(head).ok_or_else(malformed)?;
        if self.filled < head_len + body_len {
            return Ok(None);
        }
        // Requests are not pipelined, so nothing follows.
        self.filled = 0;
        Ok(Some(status))
    }
}

/// The value of `Content-Length`.
fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let line = head
        .split(|byte| *byte == b'\n')
        .find(|line| line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME))?;
    std::str::from_utf8(&line[NAME.len()..]).ok()?.trim().parse().ok()
}

impl Counts {
    fn note(&mut self, status: u16, latency_us: u64) {
        if status == 200 {
            self.counted += 1;
            self.latencies_us.saturating_record(latency_us.max(1));
            return;
        }
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| format!("HTTP {status}"));
    }
}

/// Sends requests at a constant rate, however long the answers take. The latency of a request that is sent late
/// counts from its scheduled time.
struct Pace {
    between_us: f64,
    begun_us: u64,
    sent: u64,
    next: usize,
}

impl Pace {
    fn new(per_second: u64, begun_us: u64) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a rate is far below 2^52")]
        let between_us = 1_000_000.0 / per_second.max(1) as f64;
        Self { between_us, begun_us, sent: 0, next: 0 }
    }

    fn send_due(&mut self, clients: &mut [Client], plan: &Plan, now_us: u64) -> io::Result<()> {
        loop {
            #[allow(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "microseconds of a run are far below 2^52, and not negative"
            )]
            let due_us = self.begun_us + (self.sent as f64 * self.between_us) as u64;
            if due_us > now_us {
                return Ok(());
            }
            let len = clients.len();
            let free = (0..len).map(|n| (self.next + n) % len).find(|n| clients[*n].since_us == 0);
            // If no connection is free, the request stays due. Its wait counts as latency.
            let Some(n) = free else { return Ok(()) };
            clients[n].send(&plan.requests[n % plan.requests.len()], due_us)?;
            self.next = n + 1;
            self.sent += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_and_instance_meet_without_a_proxy_between() {
        let mut traffic = Traffic::new(Clock::system()).unwrap();
        let target = traffic.addr().unwrap();
        let requests = vec![b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()];
        for per_second in [None, Some(500)] {
            let plan = Plan {
                target,
                requests: requests.clone(),
                connections: 4,
                per_second,
                warmup_us: 10_000,
                measured_us: 200_000,
            };
            let outcome = traffic.run(&plan).unwrap();
            assert!(outcome.units > 0 && outcome.failed == 0, "{per_second:?}");
            assert_eq!(outcome.latencies_us.len(), outcome.units);
        }
        assert_eq!(traffic.idle(target, &requests[0], 20).unwrap().len(), 20);
    }

    #[test]
    fn heads_are_counted_however_they_are_cut() {
        let (client, _) = {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (client, listener)
        };
        let bytes = b"GET / HTTP/1.1\r\na: b\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        for cut in 0..bytes.len() {
            let mut served = Served { stream: client.try_clone().unwrap(), matched: 0 };
            assert_eq!(served.heads(&bytes[..cut]) + served.heads(&bytes[cut..]), 2, "{cut}");
        }
    }
}
