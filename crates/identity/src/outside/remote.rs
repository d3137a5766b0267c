//! Requests to providers and issuers: short, bounded, over HTTPS or within this machine, and without redirects.

use std::path::Path;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::settings::is_guarded;

/// Time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Maximum length of an answer, in bytes.
const ANSWER_LEN_MAX: usize = 512 * 1024;

/// Why there is no usable answer. The text names the host, and no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Away(pub(super) String);

/// Sends requests to one provider or issuer.
pub(super) struct Remote(reqwest::Client);

/// How Maxine proves who it is.
pub(super) enum Proof<'a> {
    /// It does not.
    Nothing,
    /// By the `Authorization` of the scheme `Basic`. The two texts are encoded already.
    Basic(&'a str, &'a str),
    /// By the `Authorization` of the scheme `Bearer`.
    Bearer(&'a str),
}

impl Remote {
    /// A client that trusts the authorities in `ca_file`, or else those of the machine. Blocks.
    pub(super) fn new(ca_file: Option<&Path>) -> Result<Self, String> {
        crate::crypto_provider::install_crypto_provider();
        let builder = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("maxine/", env!("CARGO_PKG_VERSION")))
            .pool_max_idle_per_host(2);
        let builder = match ca_file {
            None => builder,
            Some(path) => {
                let named = |text: String| format!("ca_file: {}: {text}", path.display());
                let pem = std::fs::read(path).map_err(|error| named(maxine_wording::io(&error)))?;
                let authorities = reqwest::Certificate::from_pem_bundle(&pem)
                    .ok()
                    .filter(|authorities| !authorities.is_empty())
                    .ok_or_else(|| named("it holds no certificate in PEM".into()))?;
                builder.tls_certs_only(authorities)
            }
        };
        builder.build().map(Self).map_err(|error| format!("HTTPS cannot be set up: {error}"))
    }

    /// The JSON document at this URL.
    pub(super) async fn get(&self, url: &str, proof: Proof<'_>) -> Result<Value, Away> {
        let request = self.0.get(guarded(url)?).header(http::header::ACCEPT, "application/json");
        let (status, document) = answer(url, with_proof(request, proof)).await?;
        if status == 200 { Ok(document) } else { Err(Away(format!("{url} answered {status}"))) }
    }

    /// Posts a form. Returns the status and the JSON document of the answer.
    pub(super) async fn post(
        &self,
        url: &str,
        proof: Proof<'_>,
        form: &[(&str, &str)],
    ) -> Result<(u16, Value), Away> {
        let pairs = form.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
        let request = self
            .0
            .post(guarded(url)?)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(pairs.collect::<Vec<_>>().join("&"));
        answer(url, with_proof(request, proof)).await
    }
}

/// A text in a form or in the user and password of `Basic` (RFC 6749, section 2.3.1).
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn with_proof(request: reqwest::RequestBuilder, proof: Proof<'_>) -> reqwest::RequestBuilder {
    match proof {
        Proof::Nothing => request,
        Proof::Basic(user, password) => request.basic_auth(user, Some(password)),
        Proof::Bearer(token) => request.bearer_auth(token),
    }
}

/// Refuses a URL, perhaps one from a document of the provider, over which others could read secrets.
fn guarded(url: &str) -> Result<&str, Away> {
    if is_guarded(url) { Ok(url) } else { Err(Away(format!("{url} is no https URL"))) }
}

async fn answer(url: &str, request: reqwest::RequestBuilder) -> Result<(u16, Value), Away> {
    let failed = |error: reqwest::Error| {
        let error = error.without_url();
        // The last cause says most, such as which check of the certificate failed.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        Away(format!("{url} cannot be reached: {cause}"))
    };
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(failed)? {
        if body.len() + part.len() > ANSWER_LEN_MAX {
            return Err(Away(format!("{url} answered with more than 512 KiB")));
        }
        body.extend_from_slice(&part);
    }
    // An answer without a body, or with a page for people, says no more than its status.
    let document = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if status == 200 && document.is_null() {
        return Err(Away(format!("{url} answered with something that is no JSON")));
    }
    Ok((status, document))
}
