//! Requests to providers and issuers: short, bounded, over HTTPS or within this machine, and without redirects.

use std::path::Path;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::settings::{Scope, is_guarded};

/// Time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Maximum length of an answer, in bytes.
const ANSWER_LEN_MAX: usize = 512 * 1024;

/// Why there is no usable answer. The text is for the log, because it names URLs within the network. It has no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Away(String);

impl Away {
    /// Part of the text may come from the provider, so it is shortened, and has no control characters.
    pub(super) fn new(text: &str) -> Self {
        Self(maxine_wording::foreign(text))
    }
}

/// Sends requests to one provider or issuer.
pub(super) struct Remote {
    client: reqwest::Client,
    scope: Scope,
}

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
    pub(super) fn new(ca_file: Option<&Path>, scope: Scope) -> Result<Self, String> {
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
                let pem = maxine_files::read_bundle(path)
                    .map_err(|error| named(maxine_wording::io(&error)))?;
                let authorities = reqwest::Certificate::from_pem_bundle(&pem)
                    .ok()
                    .filter(|authorities| !authorities.is_empty())
                    .ok_or_else(|| named("it holds no certificate in PEM".into()))?;
                builder.tls_certs_only(authorities)
            }
        };
        let client = builder.build().map_err(|error| format!("HTTPS cannot be set up: {error}"))?;
        Ok(Self { client, scope })
    }

    /// Whether a URL of a document of the provider may be used.
    pub(super) fn is_guarded(&self, url: &str) -> bool {
        is_guarded(url, self.scope)
    }

    /// Refuses a URL, perhaps one from a document of the provider, over which others could read secrets.
    fn guarded(&self, url: &str) -> Result<Url, Away> {
        let parsed = Url::parse(url).ok().filter(|_| self.is_guarded(url));
        parsed.ok_or_else(|| Away::new(&format!("a URL that may not be used: {url}")))
    }

    /// The JSON document at this URL.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        url: &str,
        proof: Proof<'_>,
    ) -> Result<T, Away> {
        let url = self.guarded(url)?;
        let request = self.client.get(url.clone()).header(http::header::ACCEPT, "application/json");
        let (status, body) = answer(&url, with_proof(request, proof)).await?;
        if status != 200 {
            return Err(Away::new(&format!("status {status} from {url}")));
        }
        let document = serde_json::from_slice(&body);
        document
            .map_err(|_| Away::new(&format!("an answer that is not the expected JSON from {url}")))
    }

    /// Posts a form. Returns the status and the JSON document of the answer.
    pub(super) async fn post(
        &self,
        url: &str,
        proof: Proof<'_>,
        form: &[(&str, &str)],
    ) -> Result<(u16, Value), Away> {
        let pairs = form.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
        let url = self.guarded(url)?;
        let request = self
            .client
            .post(url.clone())
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(pairs.collect::<Vec<_>>().join("&"));
        let (status, body) = answer(&url, with_proof(request, proof)).await?;
        // An answer without a body, or with a page for people, says no more than its status.
        let document = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if status == 200 && document.is_null() {
            return Err(Away::new(&format!("an answer that is no JSON from {url}")));
        }
        Ok((status, document))
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

async fn answer(url: &Url, request: reqwest::RequestBuilder) -> Result<(u16, Vec<u8>), Away> {
    let failed = |error: reqwest::Error| {
        let error = error.without_url();
        // The last cause says most, such as which check of the certificate failed.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        Away::new(&format!("{cause}, at {url}"))
    };
    let mut response = request.send().await.map_err(failed)?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(failed)? {
        if body.len() + part.len() > ANSWER_LEN_MAX {
            return Err(Away::new(&format!("more than 512 KiB from {url}")));
        }
        body.extend_from_slice(&part);
    }
    Ok((status, body))
}
