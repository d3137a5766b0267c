//! Forwards audit records to an HTTP endpoint.

use std::path::PathBuf;
use std::time::Duration;

use hmac::{Hmac, Mac};
use reqwest::StatusCode;
use sha2::Sha256;

use super::batch::{Batch, NotTaken, Source};
use super::settings::read_key;
use crate::audit_record::hex;
use crate::otlp::read_authorities;
use crate::webhook::{http_client_with, why_failed};

/// The field with the signature: `sha256=` and HMAC-SHA256 over the bytes of the body, in hexadecimal.
const SIGNATURE: &str = "x-maxine-signature";

pub(super) struct HttpSink {
    url: String,
    key_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    timeout: Duration,
    client: Option<reqwest::Client>,
}

impl HttpSink {
    pub(super) fn new(
        url: String,
        key_file: Option<PathBuf>,
        ca_file: Option<PathBuf>,
        timeout: Duration,
    ) -> Self {
        Self { url, key_file, ca_file, timeout, client: None }
    }

    /// Posts a batch. The receiver has taken it if it answers with a status of 200 to 299.
    pub(super) async fn deliver(&mut self, batch: &Batch, source: &Source) -> Result<(), NotTaken> {
        let (body, key_file) = (batch.body(source), self.key_file.clone());
        let len = body.len();
        // The key is read each time, so that it can be replaced without a restart.
        let signed = move || match key_file {
            Some(path) => {
                let key = read_key(&path).map_err(|why| format!("{}: {why}", path.display()))?;
                Ok((signature(&key, &body), body))
            }
            None => Err("audit.http_key_file is not set".to_owned()),
        };
        let signed =
            tokio::task::spawn_blocking(signed).await.map_err(|error| error.to_string())?;
        let (signature, body) = signed?;
        let client = self.client().await?;
        let request = client
            .post(&self.url)
            .header("content-type", "application/json")
            .header(SIGNATURE, signature)
            .body(body);
        let answer = request.send().await.map_err(|error| {
            // The file with the authorities may have changed.
            self.client = None;
            why_failed(error)
        })?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::PAYLOAD_TOO_LARGE => Err(NotTaken::TooLarge(len)),
            status => Err(format!("the receiver answered with status {}", status.as_u16()).into()),
        }
    }

    async fn client(&mut self) -> Result<reqwest::Client, String> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let (ca_file, timeout) = (self.ca_file.clone(), self.timeout);
        let make = move || {
            let authorities = ca_file.map(|path| {
                let read = read_authorities(&path);
                read.map_err(|why| format!("audit.http_ca: {}: {why}", path.display()))
            });
            let authorities = authorities.transpose()?;
            http_client_with(timeout, authorities.map(|(_, certificates)| certificates))
        };
        let made = tokio::task::spawn_blocking(make).await.map_err(|error| error.to_string())??;
        self.client = Some(made.clone());
        Ok(made)
    }
}

fn signature(key: &[u8], body: &[u8]) -> String {
    let mut mac =
        <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(body);
    format!("sha256={}", hex(&mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_rfc_4231() {
        // Test case 2.
        let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature(b"Jefe", b"what do ya want for nothing?"), expected);
    }
}
