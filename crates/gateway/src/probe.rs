//! The probes of instances: HTTP, HTTPS, TCP and the gRPC health service.
//!
//! Each probe opens its own connection, sends one request and closes the connection. Its total time is limited. A probe
//! calls only addresses that the egress policy also allows for the proxy.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinHandle;

use super::connect::{Connector, Security, TlsRoots, TlsRootsError};
use super::egress::EgressPolicy;
use super::error::ProxyError;
use super::lookup::LookupCaller;
use super::target::{RequestTarget, UpstreamAddress};

use maxine_admission::{PlaceLimits, Places};
use maxine_clock::Clock;
use maxine_control::health::{ProbeAnswer, ProbeClass, ProbeJob, ProbeStatus};
use maxine_state::{ProbeKind, ProbeSpec};

/// Maximum number of concurrent connections of probes.
const CONNECTIONS_MAX: usize = 4_096;
/// Maximum number of bytes of a body that are read to look for a text.
const BODY_LEN_MAX: usize = 64 * 1024;
/// Maximum length of a gRPC health answer, in bytes.
const GRPC_LEN_MAX: usize = 4 * 1024;

/// Runs probes. Clones are cheap.
#[derive(Clone)]
pub struct Prober {
    connector: Connector,
    clock: Clock,
}

/// The result of a probe without the time that it took.
type Finding = (ProbeStatus, String);

/// Why a probe did not succeed.
enum Failure {
    /// What is wrong with the instance.
    Found(String),
    /// The probe could not be made on this node. This says nothing about the instance.
    NotMade,
}

impl From<String> for Failure {
    fn from(detail: String) -> Self {
        Self::Found(detail)
    }
}

impl From<ProxyError> for Failure {
    fn from(error: ProxyError) -> Self {
        match error {
            ProxyError::LookupsBusy | ProxyError::ConnectionsBusy => Self::NotMade,
            error => Self::Found(error.to_string()),
        }
    }
}

fn dead(detail: impl ToString) -> Finding {
    (ProbeStatus::Dead, detail.to_string())
}

/// Ends the connection's task together with the probe.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Prober {
    /// A prober that calls only addresses which this egress policy allows.
    pub fn new(
        egress: EgressPolicy,
        roots: &TlsRoots,
        clock: Clock,
    ) -> Result<Self, TlsRootsError> {
        let connections =
            PlaceLimits { max: CONNECTIONS_MAX, per_address_max: CONNECTIONS_MAX, reserved: 0 };
        let connector = Connector::new(egress, roots, Places::new(connections))?;
        Ok(Self { connector, clock })
    }

    /// Trusts `roots` for certificates of instances from the next probe on.
    ///
    /// # Errors
    ///
    /// The roots cannot be used. Then nothing changes.
    pub fn trust(&self, roots: &TlsRoots) -> Result<(), TlsRootsError> {
        self.connector.trust(roots)
    }

    /// Probes once. `None` if the probe could not be made on this node. It never takes longer than the probe's time
    /// limit. The future may be dropped at any time.
    pub async fn run(&self, job: &ProbeJob) -> Option<ProbeAnswer> {
        let started_us = self.clock.monotonic_us();
        let timeout = Duration::from_millis(job.spec.timeout_ms);
        let (status, detail) = match tokio::time::timeout(timeout, self.ask(job)).await {
            Ok(Ok(found)) => found,
            Ok(Err(Failure::Found(detail))) => dead(detail),
            Ok(Err(Failure::NotMade)) => return None,
            Err(_) => dead(format!("no answer within {} ms", job.spec.timeout_ms)),
        };
        let latency_us = self.clock.monotonic_us().saturating_sub(started_us);
        Some(ProbeAnswer { status, detail, latency_us })
    }

    async fn ask(&self, job: &ProbeJob) -> Result<Finding, Failure> {
        let Some(address) = UpstreamAddress::parse(&job.address) else {
            return Err(String::from("the address cannot be taken apart").into());
        };
        // If the instance has answered before, its name was resolved before.
        let name_known = AtomicBool::new(job.class == ProbeClass::Answering);
        let asker = LookupCaller::node(&name_known);
        match job.spec.kind {
            ProbeKind::Heartbeat => Ok((ProbeStatus::Good, "the heartbeat alone counts".into())),
            ProbeKind::Tcp => {
                self.connector.connect_tcp(&address.host, address.port, asker).await?;
                Ok((ProbeStatus::Good, "connected".into()))
            }
            ProbeKind::Http => self.http(&address, &job.spec, asker).await,
            ProbeKind::Grpc => self.grpc(&address, &job.spec, asker).await,
        }
    }

    async fn http(
        &self,
        address: &UpstreamAddress,
        spec: &ProbeSpec,
        asker: LookupCaller<'_>,
    ) -> Result<Finding, Failure> {
        let alive = self.http_once(address, spec, &spec.path, true, asker).await?;
        let Some(path) = &spec.readiness_path else { return Ok((ProbeStatus::Good, alive)) };
        match self.http_once(address, spec, path, false, asker).await {
            Ok(detail) => Ok((ProbeStatus::Good, format!("ready: {detail}"))),
            Err(Failure::Found(detail)) => {
                Ok((ProbeStatus::NotReady, format!("not ready: {detail}")))
            }
            Err(not_made) => Err(not_made),
        }
    }

    /// Sends one request, and returns the text of a good result.
    async fn http_once(
        &self,
        address: &UpstreamAddress,
        spec: &ProbeSpec,
        path: &str,
        check_body: bool,
        asker: LookupCaller<'_>,
    ) -> Result<String, Failure> {
        let request = http_request(address, spec, path)?;
        let security = Security { insecure: spec.insecure_tls, http2: false };
        let stream = self.connector.connect(address, security, asker).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        let _driver = Driver(tokio::spawn(async move {
            let _ended = connection.await;
        }));
        let response =
            sender.send_request(request).await.map_err(|_| ProxyError::Reset.to_string())?;
        let status = response.status();
        if !is_expected(status, spec) {
            let is_redirect = status.is_redirection() && spec.expected_statuses.is_empty();
            let expected = if is_redirect { "; 200 to 299 counts as good" } else { "" };
            return Err((shown(status) + expected).into());
        }
        if let Some(expected) = spec.expected_body.as_ref().filter(|_| check_body) {
            let found = read_up_to(response.into_body(), BODY_LEN_MAX).await?;
            let contains = found.windows(expected.len()).any(|part| part == expected.as_bytes());
            if !contains {
                return Err(format!("{}, but the body lacks the text", shown(status)).into());
            }
        }
        Ok(shown(status))
    }

    async fn grpc(
        &self,
        address: &UpstreamAddress,
        spec: &ProbeSpec,
        asker: LookupCaller<'_>,
    ) -> Result<Finding, Failure> {
        Ok(match self.grpc_status(address, spec, asker).await? {
            1 => (ProbeStatus::Good, "SERVING".into()),
            2 => (ProbeStatus::NotReady, "NOT_SERVING".into()),
            3 => dead("SERVICE_UNKNOWN"),
            _ => dead("UNKNOWN"),
        })
    }

    async fn grpc_status(
        &self,
        address: &UpstreamAddress,
        spec: &ProbeSpec,
        asker: LookupCaller<'_>,
    ) -> Result<u64, Failure> {
        let security = Security { insecure: spec.insecure_tls, http2: true };
        let stream = self.connector.connect(address, security, asker).await?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(text)?;
        let _driver = Driver(tokio::spawn(async move {
            let _ended = connection.await;
        }));
        let target = RequestTarget::new("/grpc.health.v1.Health/Check", None).map_err(text)?;
        let uri = address
            .path_and_query(&target)
            .and_then(|path| address.absolute(path))
            .map_err(text)?;
        let body = Full::new(grpc_request(spec.path.trim_start_matches('/')));
        let request = Request::post(uri)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(body)
            .map_err(text)?;
        let response =
            sender.send_request(request).await.map_err(|_| ProxyError::Reset.to_string())?;
        Ok(grpc_answer(response).await?)
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// The text for a status in a probe's result. It says that a status is a redirect, because that often leads to a
/// sign-in page.
fn shown(status: StatusCode) -> String {
    let kind = if status.is_redirection() { " (a redirect)" } else { "" };
    format!("status {}{kind}", status.as_u16())
}

fn is_expected(status: StatusCode, spec: &ProbeSpec) -> bool {
    if spec.expected_statuses.is_empty() {
        return status.is_success();
    }
    spec.expected_statuses.contains(&status.as_u16())
}

fn http_request(
    address: &UpstreamAddress,
    spec: &ProbeSpec,
    path: &str,
) -> Result<Request<Full<Bytes>>, String> {
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    // The path on the instance. Its owner may have left out the slash at the beginning.
    let rooted = match path {
        "" => String::new(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    let target = RequestTarget::new(&rooted, query).map_err(text)?;
    let mut request = Request::new(Full::default());
    *request.uri_mut() = Uri::from(address.path_and_query(&target).map_err(text)?);
    *request.method_mut() = Method::from_bytes(spec.method.as_bytes()).map_err(text)?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, address.host_header.clone());
    headers.insert(header::USER_AGENT, HeaderValue::from_static("maxine-health"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in &spec.headers {
        let name: HeaderName = name.parse().map_err(text)?;
        headers.insert(name, HeaderValue::from_str(value).map_err(text)?);
    }
    Ok(request)
}

/// The beginning of a body, up to `len_max` bytes.
async fn read_up_to(mut body: Incoming, len_max: usize) -> Result<Vec<u8>, String> {
    let mut found = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| "the body broke off".to_owned())?;
        if let Ok(data) = frame.into_data() {
            let room = len_max - found.len();
            found.extend_from_slice(&data[..data.len().min(room)]);
        }
        if found.len() == len_max {
            break;
        }
    }
    Ok(found)
}

/// The framed message `HealthCheckRequest { service }`. Field 1 is a string: tag 0x0a, length, bytes.
fn grpc_request(service: &str) -> Bytes {
    let service = &service.as_bytes()[..service.len().min(100)];
    let mut message = Vec::new();
    if !service.is_empty() {
        // The length is below 128, so it is one byte as a varint.
        message.extend([0x0a, service.len() as u8]);
        message.extend_from_slice(service);
    }
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    frame.into()
}

/// The status in a `HealthCheckResponse`.
async fn grpc_answer(response: Response<Incoming>) -> Result<u64, String> {
    if response.status() != StatusCode::OK {
        return Err(format!("status {}", response.status().as_u16()));
    }
    let early = response.headers().get("grpc-status").cloned();
    let body = Limited::new(response.into_body(), GRPC_LEN_MAX);
    let collected = body.collect().await.map_err(|_| "the answer broke off".to_owned())?;
    let status = collected.trailers().and_then(|t| t.get("grpc-status")).cloned().or(early);
    match status.as_ref().and_then(|value| value.to_str().ok()) {
        Some("0") => {}
        Some(code) => return Err(grpc_failure(code)),
        None => return Err("no grpc-status".into()),
    }
    let mut bytes = collected.to_bytes();
    if bytes.len() < 5 || bytes.get_u8() != 0 || bytes.get_u32() as usize != bytes.len() {
        return Err("the answer is not one uncompressed gRPC message".into());
    }
    serving_status(&bytes).ok_or_else(|| "the answer is not a health check's".into())
}

/// The text for a gRPC status other than 0. The instance's own text is not shown, because everyone who may read the
/// result would see it.
fn grpc_failure(status: &str) -> String {
    match status.parse::<u16>() {
        Ok(12) => "the instance has no gRPC health service".into(),
        Ok(code) => format!("grpc-status {code}"),
        Err(_) => "its grpc-status is no number".into(),
    }
}

/// The value of field 1, a varint; 0 if it is left out. Other fields are skipped. `None` if the message is malformed.
fn serving_status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut message)?,
            (_, 0) => {
                varint(&mut message)?;
            }
            (_, 2) => {
                let len = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(len..)?;
            }
            (_, 1) => message = message.get(8..)?,
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probes_result_contains_no_text_of_the_instance() {
        assert_eq!(grpc_failure("14"), "grpc-status 14");
        assert_eq!(grpc_failure("12"), "the instance has no gRPC health service");
        for text in ["<script>", "99999999", &"9".repeat(60_000)] {
            assert_eq!(grpc_failure(text), "its grpc-status is no number");
        }
    }

    #[test]
    fn grpc_messages_are_framed_and_read() {
        assert_eq!(grpc_request(""), &[0, 0, 0, 0, 0][..]);
        assert_eq!(grpc_request("svc"), &[0, 0, 0, 0, 5, 0x0a, 3, b's', b'v', b'c'][..]);
        assert_eq!(serving_status(&[]), Some(0));
        assert_eq!(serving_status(&[0x08, 1]), Some(1));
        assert_eq!(
            serving_status(&[0x12, 1, b'x', 0x08, 2]),
            Some(2),
            "unknown fields are skipped"
        );
        assert_eq!(serving_status(&[0x08]), None);
        assert_eq!(serving_status(&[0x12, 9, 1]), None);
    }
}
