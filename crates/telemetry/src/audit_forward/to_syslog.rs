//! Forwards audit records to a syslog receiver: messages of RFC 5424, with octet counting, over TLS (RFC 5425) or TCP
//! (RFC 6587).
//!
//! Syslog has no acknowledgement. A batch counts as taken if the connection is still open a moment after it was written.
//! After a connection that broke, the batch is sent again.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::batch::{Batch, Line, Source};
use super::settings::{SyslogProtocol, server_name};
use crate::events::iso_8601;

/// How long a connection must stay open after a batch, so that the batch counts as taken.
const SETTLE: Duration = Duration::from_millis(200);
/// Facility "log audit" (13), severity "informational" (6).
const PRIORITY: u8 = 13 * 8 + 6;
/// Facility "log audit" (13), severity "notice" (5).
const PRIORITY_NOTABLE: u8 = 13 * 8 + 5;
/// Maximum length of a host name in a message, in bytes.
const HOST_LEN_MAX: usize = 255;
/// Maximum length of the identifier of a kind of messages, in bytes.
const KIND_LEN_MAX: usize = 32;

trait Connection: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Connection for T {}

pub(super) struct Syslog {
    address: String,
    protocol: SyslogProtocol,
    ca_file: Option<PathBuf>,
    timeout: Duration,
    connection: Option<Box<dyn Connection>>,
}

impl Syslog {
    pub(super) fn new(
        address: String,
        protocol: SyslogProtocol,
        ca_file: Option<PathBuf>,
        timeout: Duration,
    ) -> Self {
        Self { address, protocol, ca_file, timeout, connection: None }
    }

    /// Writes a batch, one message for each record.
    pub(super) async fn deliver(&mut self, batch: &Batch, source: &Source) -> Result<(), String> {
        let mut messages = Vec::new();
        batch.lines(source).iter().for_each(|line| push_message(&mut messages, line, source));
        // A connection that did not take all of a batch is never used again.
        let open = self.connection.take();
        let (address, protocol, ca_file) = (&*self.address, self.protocol, &self.ca_file);
        let send = async {
            let open = match open {
                Some(mut open) => is_open(&mut open).await.then_some(open),
                None => None,
            };
            let mut connection = match open {
                Some(open) => open,
                None => connect(address, protocol, ca_file.as_deref()).await?,
            };
            connection.write_all(&messages).await.map_err(|error| broken(&error))?;
            connection.flush().await.map_err(|error| broken(&error))?;
            settle(&mut connection).await?;
            Ok::<_, String>(connection)
        };
        let sent = tokio::time::timeout(self.timeout, send).await;
        let connection = sent.map_err(|_| "there was no answer in time".to_owned())??;
        self.connection = Some(connection);
        Ok(())
    }
}

async fn connect(
    address: &str,
    protocol: SyslogProtocol,
    ca_file: Option<&Path>,
) -> Result<Box<dyn Connection>, String> {
    let failed = |error: std::io::Error| format!("no connection: {}", maxine_wording::io(&error));
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    if protocol == SyslogProtocol::Tcp {
        return Ok(Box::new(stream));
    }
    let Some(ca_file) = ca_file else { return Err("audit.syslog_ca is not set".into()) };
    // The file is read for each connection, so that it can be replaced without a restart.
    let pem = maxine_files::read_bundle_on_thread(ca_file).await.map_err(|error| {
        format!("audit.syslog_ca: {}: {}", ca_file.display(), maxine_wording::io(&error))
    })?;
    let config = client_config(&pem)
        .map_err(|why| format!("audit.syslog_ca: {}: {why}", ca_file.display()))?;
    let name = server_name(address)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = stream.map_err(|error| format!("no connection over TLS: {error}"))?;
    Ok(Box::new(stream))
}

fn client_config(pem: &[u8]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| "it holds no certificate in PEM".to_owned())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("it holds no certificate in PEM".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn broken(error: &std::io::Error) -> String {
    format!("the connection broke: {}", maxine_wording::io(error))
}

/// Whether the receiver has not closed the connection since it was last used.
async fn is_open(connection: &mut Box<dyn Connection>) -> bool {
    let mut unread = [0; 64];
    let read = tokio::time::timeout(Duration::ZERO, connection.read(&mut unread)).await;
    // A receiver has nothing to say. Whatever it says is ignored.
    !matches!(read, Ok(Ok(0) | Err(_)))
}

/// Waits until it is plausible that the receiver has taken what was written.
async fn settle(connection: &mut Box<dyn Connection>) -> Result<(), String> {
    let mut unread = [0; 64];
    let ended = async {
        loop {
            match connection.read(&mut unread).await {
                Ok(0) => return "the receiver closed the connection".to_owned(),
                Ok(_) => {}
                Err(error) => return broken(&error),
            }
        }
    };
    match tokio::time::timeout(SETTLE, ended).await {
        Ok(why) => Err(why),
        Err(_) => Ok(()),
    }
}

/// Adds one message, with its length before it.
fn push_message(out: &mut Vec<u8>, line: &Line, source: &Source) {
    let priority = if line.is_notable { PRIORITY_NOTABLE } else { PRIORITY };
    let time = if line.time_ms == 0 { "-".to_owned() } else { iso_8601(line.time_ms) };
    let host = printable(&source.node, HOST_LEN_MAX);
    let kind = printable(line.kind, KIND_LEN_MAX);
    let text = ascii(&line.json);
    let message = format!("<{priority}>1 {time} {host} maxine - {kind} - {text}");
    out.extend_from_slice(message.len().to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(message.as_bytes());
}

/// A text for a field of the head of a message; `-` if nothing of it can be shown there.
fn printable(text: &str, len_max: usize) -> String {
    let text: String = text.chars().filter(char::is_ascii_graphic).take(len_max).collect();
    if text.is_empty() { "-".into() } else { text }
}

/// JSON with only ASCII characters. A message in UTF-8 would have to begin with a byte order mark, which parsers of JSON
/// refuse.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _infallible = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_length_before_it_and_only_ascii() {
        let source = Source { cluster: "c".into(), node: "node 1é".into() };
        let json = "{\"object\":\"zoë 😀\"}".to_owned();
        let line = Line { time_ms: 1_700_000_000_123, kind: "policy.put", is_notable: true, json };
        let mut out = Vec::new();
        push_message(&mut out, &line, &source);
        push_message(&mut out, &Line { time_ms: 0, is_notable: false, ..line }, &source);
        let text = String::from_utf8(out).unwrap();
        let (len, rest) = text.split_once(' ').unwrap();
        let (first, second) = rest.split_at(len.parse().unwrap());
        assert_eq!(
            first,
            "<109>1 2023-11-14T22:13:20.123Z node1 maxine - policy.put - {\"object\":\"zo\\u00eb \\ud83d\\ude00\"}"
        );
        let (len, second) = second.split_once(' ').unwrap();
        assert_eq!(second.len().to_string(), len);
        assert!(second.starts_with("<110>1 - node1 maxine - "), "{second}");
    }
}
