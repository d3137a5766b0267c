//! Connections to Redis: to one server, through Sentinels, or to a Redis Cluster.
//!
//! A [`Connector`] makes connections. A [`SharedLink`] keeps a connection that many tasks use at the same
//! time. After the connection breaks, it makes a new one, with growing pauses between attempts. Nothing here
//! knows a key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    FromRedisValue, IntoConnectionInfo, Pipeline, RedisError, RedisResult, ServerErrorKind,
    TlsCertificates, TlsMode, Value,
};

use super::config::{RedisConfig, Topology};
use maxine_clock::Clock;

const BACKOFF_MS_MIN: u64 = 50;
const BACKOFF_MS_MAX: u64 = 3_000;

/// What a failed command means for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server refused the command before it did anything.
    Refused,
    /// The connection broke, or no answer came in time. The command may have been carried out.
    Unknown,
}

/// Whether a failed command may have been carried out.
pub(super) fn classify(error: &RedisError) -> Failure {
    if error.is_connection_refusal() {
        return Failure::Refused;
    }
    match error.kind() {
        ErrorKind::Server(_)
        | ErrorKind::Extension
        | ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::MasterNameNotFoundBySentinel
        | ErrorKind::ClusterConnectionNotFound
        | ErrorKind::EmptySentinelList => Failure::Refused,
        _ => Failure::Unknown,
    }
}

/// Whether Redis answered that the connection has not sent a password. It answers a long command on such a connection
/// with an error about its length, and closes the connection.
pub(super) fn is_unauthenticated(error: &RedisError) -> bool {
    error.detail().is_some_and(|text| text.contains("unauthenticated"))
}

/// Whether the connection must be replaced. That is so if the server may no longer be the right one, or if a reply does
/// not have the type that its command returns: then each command may be getting the reply to another command. A key that
/// holds another type of data is not such a case, because the server answers with the error `WRONGTYPE`.
fn must_reconnect(error: &RedisError) -> bool {
    if is_unauthenticated(error) {
        return true;
    }
    match error.kind() {
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::ReadOnly | ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown
        ),
        ErrorKind::Extension => false,
        _ => true,
    }
}

pub(super) fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// An open connection. Clones share it.
#[derive(Clone)]
pub(super) enum Link {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    /// Sends one command and waits for its answer. Dropping the future does not cancel a command that was
    /// sent.
    pub(super) async fn query<T: FromRedisValue>(
        &mut self,
        cmd: &Cmd,
        timeout: Duration,
    ) -> RedisResult<T> {
        let answer = match self {
            Self::One(link) => tokio::time::timeout(timeout, link.req_packed_command(cmd)).await,
            Self::Cluster(link) => {
                tokio::time::timeout(timeout, link.req_packed_command(cmd)).await
            }
        };
        Ok(T::from_redis_value(answer.map_err(|_| timed_out())??.extract_error()?)?)
    }

    /// Sends several commands together. Each has its own answer.
    pub(super) async fn query_all(
        &mut self,
        pipeline: &Pipeline,
        count: usize,
        timeout: Duration,
    ) -> RedisResult<Vec<Value>> {
        let answer = match self {
            Self::One(link) => {
                tokio::time::timeout(timeout, link.req_packed_commands(pipeline, 0, count)).await
            }
            Self::Cluster(link) => {
                tokio::time::timeout(timeout, link.req_packed_commands(pipeline, 0, count)).await
            }
        };
        answer.map_err(|_| timed_out())?
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

enum Source {
    One(Box<Client>),
    Sentinel(Box<tokio::sync::Mutex<SentinelClient>>),
    Cluster(Box<ClusterClient>),
}

impl Source {
    fn new(config: &RedisConfig) -> Result<Self, String> {
        // This is the only provider in the program. A second installation is refused, which does no harm.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let bad = |error: RedisError| format!("redis address: {error}");
        let certificates = certificates(config)?;
        let info = config.url.as_str().into_connection_info().map_err(bad)?;
        let timeout = Duration::from_millis(config.connect_timeout_ms);
        let source = match &config.topology {
            Topology::Single => Self::One(Box::new(client(info, certificates).map_err(bad)?)),
            Topology::Sentinel { sentinels, master_name } => {
                let client = sentinel(&info, certificates, sentinels, master_name).map_err(bad)?;
                Self::Sentinel(Box::new(tokio::sync::Mutex::new(client)))
            }
            Topology::Cluster { nodes } => {
                let mut all = vec![info];
                for node in nodes {
                    all.push(node.as_str().into_connection_info().map_err(bad)?);
                }
                let mut builder = ClusterClient::builder(all)
                    .connection_timeout(timeout)
                    .response_timeout(Duration::from_secs(30))
                    .retries(3);
                if let Some(certificates) = certificates {
                    builder = builder.certs(certificates);
                }
                Self::Cluster(Box::new(builder.build().map_err(bad)?))
            }
        };
        Ok(source)
    }
}

/// Makes connections.
pub(super) struct Connector {
    /// Replaced when the credentials or certificates change.
    source: RwLock<Arc<Source>>,
    timeout: Duration,
    failures: AtomicU32,
}

impl Connector {
    /// Checks the addresses and reads the certificates. It makes no connection yet. Blocks.
    pub(super) fn new(config: &RedisConfig) -> Result<Self, String> {
        let source = RwLock::new(Arc::new(Source::new(config)?));
        let timeout = Duration::from_millis(config.connect_timeout_ms);
        Ok(Self { source, timeout, failures: AtomicU32::new(0) })
    }

    /// Uses the credentials and certificates of `config` for connections that begin later. After an error nothing
    /// changes. Blocks.
    pub(super) fn reload(&self, config: &RedisConfig) -> Result<(), String> {
        *self.source.write() = Arc::new(Source::new(config)?);
        Ok(())
    }

    /// Opens a connection.
    pub(super) async fn connect(&self) -> RedisResult<Link> {
        let opened = tokio::time::timeout(self.timeout, self.open()).await;
        let opened = opened.unwrap_or_else(|_| Err(timed_out()));
        match &opened {
            Ok(_) => self.failures.store(0, Ordering::Relaxed),
            Err(_) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        opened
    }

    async fn open(&self) -> RedisResult<Link> {
        // Every call has its own time limit. Blocking reads need a longer one than other commands.
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(None);
        let source = Arc::clone(&self.source.read());
        match &*source {
            Source::One(client) => {
                Ok(Link::One(client.get_multiplexed_async_connection_with_config(&settings).await?))
            }
            Source::Sentinel(client) => {
                let mut client = client.lock().await;
                Ok(Link::One(client.get_async_connection_with_config(&settings).await?))
            }
            Source::Cluster(client) => Ok(Link::Cluster(client.get_async_connection().await?)),
        }
    }

    /// The pause before the next attempt. It grows with each failure and varies at random.
    pub(super) fn backoff(&self) -> Duration {
        let doublings = self.failures.load(Ordering::Relaxed).min(8);
        let full = (BACKOFF_MS_MIN << doublings).min(BACKOFF_MS_MAX);
        Duration::from_millis(rand::random_range(full / 2..=full))
    }
}

pub(super) fn certificates(config: &RedisConfig) -> Result<Option<TlsCertificates>, String> {
    let read = |path: &std::path::Path| {
        maxine_files::read_bundle(path)
            .map_err(|error| format!("{}: {}", path.display(), maxine_wording::io(&error)))
    };
    if config.tls_ca_file.is_none() && config.tls_client_files.is_none() {
        return Ok(None);
    }
    let root_cert = config.tls_ca_file.as_deref().map(read).transpose()?;
    let client_tls = match &config.tls_client_files {
        None => None,
        Some((cert, key)) => {
            Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? })
        }
    };
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}

pub(super) fn client(
    info: ConnectionInfo,
    certificates: Option<TlsCertificates>,
) -> RedisResult<Client> {
    match certificates {
        Some(certificates) => Client::build_with_tls(info, certificates),
        None => Client::open(info),
    }
}

fn sentinel(
    info: &ConnectionInfo,
    certificates: Option<TlsCertificates>,
    sentinels: &[String],
    master_name: &str,
) -> RedisResult<SentinelClient> {
    let mut addresses = Vec::new();
    let (mut user, mut password) = (None, None);
    for sentinel in sentinels {
        let info = sentinel.as_str().into_connection_info()?;
        user = user.or(info.redis_settings().username().map(String::from));
        password = password.or(info.redis_settings().password().map(String::from));
        addresses.push(info.addr().clone());
    }
    let sentinel_tls = addresses.iter().any(is_tls);
    let mut builder =
        SentinelClientBuilder::new(addresses, master_name, SentinelServerType::Master)?
            .set_client_to_redis_db(info.redis_settings().db());
    if let Some(user) = info.redis_settings().username() {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = info.redis_settings().password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(user) = user {
        builder = builder.set_client_to_sentinel_username(user);
    }
    if let Some(password) = password {
        builder = builder.set_client_to_sentinel_password(password);
    }
    if is_tls(info.addr()) {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        if let Some(certificates) = &certificates {
            builder = builder.set_client_to_redis_certificates(certificates.clone());
        }
    }
    if let Some(certificates) = certificates.filter(|_| sentinel_tls) {
        builder = builder.set_client_to_sentinel_certificates(certificates);
    }
    builder.build()
}

fn is_tls(address: &ConnectionAddr) -> bool {
    matches!(address, ConnectionAddr::TcpTls { .. })
}

/// One connection for many tasks. It is replaced when it breaks.
pub(super) struct SharedLink {
    connector: Arc<Connector>,
    clock: Clock,
    slot: Mutex<Slot>,
    /// The task that connects holds this lock; the others wait for its result.
    connecting: tokio::sync::Mutex<()>,
    retry_at_ms: AtomicU64,
}

#[derive(Default)]
struct Slot {
    link: Option<Link>,
    generation: u64,
    last_error: Option<RedisError>,
}

impl SharedLink {
    pub(super) fn new(connector: Arc<Connector>, clock: Clock) -> Self {
        Self {
            connector,
            clock,
            slot: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
            retry_at_ms: AtomicU64::new(0),
        }
    }

    /// The connection and its number. While Redis is unreachable this fails at once between two attempts.
    pub(super) async fn get(&self) -> RedisResult<(Link, u64)> {
        if let Some(found) = self.present() {
            return Ok(found);
        }
        let _one = self.connecting.lock().await;
        if let Some(found) = self.present() {
            return Ok(found);
        }
        if self.clock.monotonic_ms() < self.retry_at_ms.load(Ordering::Acquire) {
            return Err(self.slot.lock().last_error.clone().unwrap_or_else(timed_out));
        }
        let opened = self.connector.connect().await;
        let mut slot = self.slot.lock();
        match opened {
            Ok(link) => {
                slot.generation += 1;
                slot.link = Some(link.clone());
                Ok((link, slot.generation))
            }
            Err(error) => {
                let pause_ms = u64::try_from(self.connector.backoff().as_millis()).unwrap_or(0);
                let retry_at_ms = self.clock.monotonic_ms() + pause_ms;
                self.retry_at_ms.store(retry_at_ms, Ordering::Release);
                slot.last_error = Some(error.clone());
                Err(error)
            }
        }
    }

    fn present(&self) -> Option<(Link, u64)> {
        let slot = self.slot.lock();
        slot.link.clone().map(|link| (link, slot.generation))
    }

    /// Drops the connection if `error` means that it can no longer be used.
    pub(super) fn report(&self, generation: u64, error: &RedisError) {
        if !must_reconnect(error) {
            return;
        }
        self.drop_link(generation);
    }

    /// Drops the connection, because the server does not answer. The next command opens another one. If that fails,
    /// it is known that the command was not sent.
    pub(super) fn reopen(&self) {
        self.slot.lock().link = None;
    }

    /// Drops the connection with this number, because its replies belong to other commands.
    pub(super) fn drop_link(&self, generation: u64) {
        let mut slot = self.slot.lock();
        if slot.generation == generation {
            slot.link = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_of_another_type_replaces_the_connection_and_a_key_of_another_type_does_not() {
        let shifted = u64::from_redis_value(Value::Okay).unwrap_err();
        assert!(must_reconnect(&shifted.into()));
        let uneven = RedisError::from((ErrorKind::UnexpectedReturnType, "not the expected reply"));
        assert!(must_reconnect(&uneven));
        let wrong_key = redis::parse_redis_value(b"-WRONGTYPE Operation against a key\r\n");
        let error = wrong_key.and_then(Value::extract_error).unwrap_err();
        assert!(!must_reconnect(&error), "{error}");
    }
}
