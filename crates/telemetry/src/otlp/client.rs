//! Sends spans and lines of the log to a receiver, over gRPC or HTTP.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use super::settings::{OtlpProtocol, OtlpSettings, header_fields, read_authorities};
use crate::webhook::{http_client_with, why_failed, with_causes};

/// The path of traces in OTLP over HTTP.
const TRACES_PATH: &str = "/v1/traces";
/// The path of logs in OTLP over HTTP.
const LOGS_PATH: &str = "/v1/logs";
/// Maximum length of an answer over HTTP that is read, in bytes.
const ANSWER_LEN_MAX: usize = 64 * 1_024;

/// Why a delivery failed. The text is for the log and has no URL and no header field.
#[derive(Debug)]
pub(super) enum Failure {
    /// The receiver may take the same message later.
    Later(String),
    /// The receiver will never take this message.
    Never(String),
}

/// What is sent.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Traces(ExportTraceServiceRequest),
    Logs(ExportLogsServiceRequest),
}

pub(super) struct Client {
    sender: Sender,
    headers_file: Option<std::path::PathBuf>,
    timeout: Duration,
}

enum Sender {
    Grpc(Box<TraceServiceClient<Channel>>, Box<LogsServiceClient<Channel>>),
    Http { client: reqwest::Client, endpoint: String },
}

impl Client {
    /// A client that connects when it first sends. Must be called inside a tokio runtime. Blocks for the file with the
    /// authorities.
    pub(super) fn new(settings: &OtlpSettings) -> Result<Self, String> {
        let timeout = Duration::from_millis(settings.timeout_ms);
        let authorities = settings.ca_file.as_deref().map(read_authorities).transpose()?;
        let endpoint = settings.endpoint.trim_end_matches('/');
        let sender = match settings.protocol {
            OtlpProtocol::Grpc => {
                let mut channel = Endpoint::from_shared(endpoint.to_owned())
                    .map_err(|error| error.to_string())?
                    .connect_timeout(timeout)
                    .timeout(timeout);
                if endpoint.starts_with("https:") {
                    let tls = ClientTlsConfig::new();
                    let tls = match authorities {
                        Some((pem, _)) => tls.ca_certificate(Certificate::from_pem(pem)),
                        None => tls.with_native_roots(),
                    };
                    channel = channel.tls_config(tls).map_err(|error| error.to_string())?;
                }
                let channel = channel.connect_lazy();
                let traces = TraceServiceClient::new(channel.clone());
                Sender::Grpc(Box::new(traces), Box::new(LogsServiceClient::new(channel)))
            }
            OtlpProtocol::Http => {
                let authorities = authorities.map(|(_, certificates)| certificates);
                let client = http_client_with(timeout, authorities)?;
                Sender::Http { client, endpoint: endpoint.to_owned() }
            }
        };
        Ok(Self { sender, headers_file: settings.headers_file.clone(), timeout })
    }

    /// Sends a message. Returns how many of the spans or lines in it the receiver refused. Dropping the future ends the
    /// delivery, whose outcome is then unknown.
    pub(super) async fn send(&mut self, message: Message) -> Result<u64, Failure> {
        // The file is read each time, so that a token can be replaced without a restart.
        let fields = match &self.headers_file {
            Some(path) => {
                let text = maxine_files::read_on_thread(path).await;
                let text = text.map_err(|error| error.to_string());
                text.and_then(|text| header_fields(&text)).map_err(|why| {
                    Failure::Later(format!(
                        "telemetry.otlp_headers_file: {}: {why}",
                        path.display()
                    ))
                })?
            }
            None => Vec::new(),
        };
        let timeout = self.timeout;
        let refused = match (&mut self.sender, message) {
            (Sender::Grpc(client, _), Message::Traces(message)) => {
                let answer = client.export(with_headers(message, fields, timeout)).await;
                let answer = answer.map_err(|status| of_status(&status))?.into_inner();
                refused_spans(&answer)
            }
            (Sender::Grpc(_, client), Message::Logs(message)) => {
                let answer = client.export(with_headers(message, fields, timeout)).await;
                let answer = answer.map_err(|status| of_status(&status))?.into_inner();
                refused_lines(&answer)
            }
            (Sender::Http { client, endpoint }, Message::Traces(message)) => {
                let url = format!("{endpoint}{TRACES_PATH}");
                let answer = post(client, url, fields, message.encode_to_vec()).await?;
                ExportTraceServiceResponse::decode(&answer[..]).map_or(0, |it| refused_spans(&it))
            }
            (Sender::Http { client, endpoint }, Message::Logs(message)) => {
                let url = format!("{endpoint}{LOGS_PATH}");
                let answer = post(client, url, fields, message.encode_to_vec()).await?;
                ExportLogsServiceResponse::decode(&answer[..]).map_or(0, |it| refused_lines(&it))
            }
        };
        Ok(u64::try_from(refused).unwrap_or(0))
    }
}

fn refused_spans(answer: &ExportTraceServiceResponse) -> i64 {
    answer.partial_success.as_ref().map_or(0, |partial| partial.rejected_spans)
}

fn refused_lines(answer: &ExportLogsServiceResponse) -> i64 {
    answer.partial_success.as_ref().map_or(0, |partial| partial.rejected_log_records)
}

fn with_headers<T>(
    message: T,
    fields: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    let mut headers = request.metadata().clone().into_headers();
    headers.extend(fields);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    request
}

/// Posts a message. Returns the body of a good answer. The receiver has taken the message then, so an answer that
/// cannot be read counts as an empty one.
async fn post(
    client: &reqwest::Client,
    url: String,
    fields: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
) -> Result<Vec<u8>, Failure> {
    let request = client.post(url).header("content-type", "application/x-protobuf");
    let request = request.headers(fields.into_iter().collect());
    let mut answer = request.body(body).send().await.map_err(lost)?;
    let status = answer.status();
    if !status.is_success() {
        let why = format!("the receiver answered with status {}", status.as_u16());
        return Err(match status.as_u16() {
            408 | 429 | 502 | 503 | 504 => Failure::Later(why),
            _ => Failure::Never(why),
        });
    }
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        if bytes.len() + chunk.len() > ANSWER_LEN_MAX {
            return Ok(Vec::new());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn lost(error: reqwest::Error) -> Failure {
    Failure::Later(why_failed(error))
}

/// Which codes may be tried again is in the specification of OTLP.
fn of_status(status: &Status) -> Failure {
    let code = status.code();
    let cause = std::error::Error::source(status).map(with_causes);
    // The message comes from the receiver.
    let why = cause.unwrap_or_else(|| maxine_wording::foreign(status.message()));
    let why = format!("{code}: {why}");
    match code {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss
        // What a connection that breaks or cannot be made looks like.
        | Code::Unknown => Failure::Later(why),
        // The details say when it may be tried again. Without them it will not be taken later either.
        Code::ResourceExhausted if !status.details().is_empty() => Failure::Later(why),
        _ => Failure::Never(why),
    }
}
