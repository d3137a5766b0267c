//! Sends spans to a receiver, over gRPC or HTTP.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use super::settings::{OtlpProtocol, OtlpSettings, header_fields, read_authorities};
use crate::webhook::{http_client_with, with_causes};

/// The path of traces in OTLP over HTTP.
const TRACES_PATH: &str = "/v1/traces";
/// Maximum length of an answer over HTTP that is read, in bytes.
const ANSWER_LEN_MAX: usize = 64 * 1_024;

/// Why a delivery failed. The text is for the log and has no URL and no header field.
#[derive(Debug)]
pub(super) enum Failure {
    /// The receiver may take the same spans later.
    Later(String),
    /// The receiver will never take these spans.
    Never(String),
}

pub(super) struct Client {
    sender: Sender,
    headers_file: Option<std::path::PathBuf>,
    timeout: Duration,
}

enum Sender {
    Grpc(Box<TraceServiceClient<Channel>>),
    Http { client: reqwest::Client, url: String },
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
                Sender::Grpc(Box::new(TraceServiceClient::new(channel.connect_lazy())))
            }
            OtlpProtocol::Http => {
                let authorities = authorities.map(|(_, certificates)| certificates);
                let client = http_client_with(timeout, authorities)?;
                Sender::Http { client, url: format!("{endpoint}{TRACES_PATH}") }
            }
        };
        Ok(Self { sender, headers_file: settings.headers_file.clone(), timeout })
    }

    /// Sends spans. Returns how many of them the receiver refused. Dropping the future ends the delivery, whose outcome
    /// is then unknown.
    pub(super) async fn send(&mut self, spans: ExportTraceServiceRequest) -> Result<u64, Failure> {
        // The file is read each time, so that a token can be replaced without a restart.
        let fields = match &self.headers_file {
            Some(path) => {
                let text = tokio::fs::read(path).await.map_err(|error| error.to_string());
                text.and_then(|text| header_fields(&text)).map_err(|why| {
                    Failure::Later(format!(
                        "telemetry.otlp_headers_file: {}: {why}",
                        path.display()
                    ))
                })?
            }
            None => Vec::new(),
        };
        let answer = match &mut self.sender {
            Sender::Grpc(client) => {
                let mut request = tonic::Request::new(spans);
                request.set_timeout(self.timeout);
                let mut headers = request.metadata().clone().into_headers();
                headers.extend(fields);
                *request.metadata_mut() = MetadataMap::from_headers(headers);
                client.export(request).await.map_err(|status| of_status(&status))?.into_inner()
            }
            Sender::Http { client, url } => {
                let request = client.post(&*url).header("content-type", "application/x-protobuf");
                let request = request.headers(fields.into_iter().collect());
                let answer = request.body(spans.encode_to_vec()).send().await.map_err(lost)?;
                let status = answer.status();
                if !status.is_success() {
                    let why = format!("the receiver answered with status {}", status.as_u16());
                    return Err(match status.as_u16() {
                        408 | 429 | 502 | 503 | 504 => Failure::Later(why),
                        _ => Failure::Never(why),
                    });
                }
                read_answer(answer).await
            }
        };
        let refused = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(u64::try_from(refused).unwrap_or(0))
    }
}

/// The receiver has taken the spans, so an answer that cannot be read counts as an empty one.
async fn read_answer(mut answer: reqwest::Response) -> ExportTraceServiceResponse {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        if bytes.len() + chunk.len() > ANSWER_LEN_MAX {
            return ExportTraceServiceResponse::default();
        }
        bytes.extend_from_slice(&chunk);
    }
    ExportTraceServiceResponse::decode(&bytes[..]).unwrap_or_default()
}

fn lost(error: reqwest::Error) -> Failure {
    let why = if error.is_timeout() { "there was no answer in time" } else { "no connection" };
    Failure::Later(format!("{why}: {}", with_causes(&error.without_url())))
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
