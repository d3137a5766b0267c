//! Fetches tokens from an OpenID provider by the grant `client_credentials` (RFC 6749, section 4.4). No error contains
//! the client's secret or a token.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Request, Url, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, with_causes};
use crate::hook::Hook;
use crate::path::form_encoded;
use crate::tls;

const TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_LEN_MAX: usize = 1 << 20;
const WORDS_LEN_MAX: usize = 300;
/// The life of a token whose answer does not say how long it is valid.
const LIFETIME_UNKNOWN: Duration = Duration::from_secs(60);
const LIFETIME_MAX_S: f64 = 1e9;
/// A longer `Retry-After` is not followed, in seconds.
const RETRY_AFTER_MAX_S: u64 = 8191;

/// The settings of [`ClientCredentials`](crate::ClientCredentials).
#[derive(Clone, Default)]
pub struct ClientCredentialsOptions {
    /// The name of this client at the provider. Required.
    pub client_id: String,
    /// The URL of the provider, whose `/.well-known/openid-configuration` names the token endpoint.
    pub issuer: Option<String>,
    /// The token endpoint itself. Exactly one of this and `issuer` is required.
    pub token_url: Option<String>,
    /// A file with the client's secret. It is read for each fetch, so that a replaced secret is used at once.
    pub client_secret_file: Option<PathBuf>,
    /// The environment variable with the client's secret. Exactly one of this and `client_secret_file` is required.
    pub client_secret_env: Option<String>,
    /// The scopes, separated by spaces.
    pub scope: Option<String>,
    /// For whom the token is, for providers that read `audience`.
    pub audience: Option<String>,
    /// For whom the token is, for providers that read `resource` (RFC 8707).
    pub resource: Option<String>,
    /// A PEM file with the certificates that the provider is checked with; by default those of the system.
    pub ca_file: Option<PathBuf>,
    /// Gets the errors of fetches while the former token is still valid. It must return soon, and must not block.
    pub on_error: Option<Hook<Error>>,
}

/// Why there is no token.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    /// Whether the provider has refused the client, so that another attempt will not succeed soon.
    pub(crate) is_final: bool,
    pub(crate) retry_after: Duration,
}

impl Failure {
    fn refusal(message: String) -> Self {
        Self { message, is_final: true, retry_after: Duration::ZERO }
    }

    fn passing(message: String) -> Self {
        Self { message, is_final: false, retry_after: Duration::ZERO }
    }
}

/// A token as the provider gives it.
pub(crate) struct Fetched {
    pub(crate) token: String,
    pub(crate) lifetime: Duration,
}

/// Where tokens are fetched.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    url: String,
    /// Whether the client authenticates in the form.
    is_post: bool,
}

#[derive(Deserialize)]
struct Discovered {
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    token_endpoint: String,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

#[derive(Deserialize)]
struct Granted {
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    token_type: String,
    #[serde(default)]
    expires_in: Value,
}

/// An OpenID provider.
pub(crate) struct Provider {
    options: ClientCredentialsOptions,
    http: reqwest::Client,
}

impl Provider {
    /// Checks the settings. Nothing is fetched.
    ///
    /// # Errors
    /// [`Error::Settings`] if they cannot be used.
    pub(crate) fn new(options: ClientCredentialsOptions) -> Result<Self, Error> {
        let problem = match (&options.issuer, &options.token_url) {
            _ if options.client_id.is_empty() => "client_id is needed",
            _ if options.client_secret_file.is_some() == options.client_secret_env.is_some() => {
                "either client_secret_file or client_secret_env is needed"
            }
            (Some(issuer), None) if !is_safe(issuer, true) => {
                "issuer must be an https URL, or http on a loopback address"
            }
            (None, Some(url)) if !is_safe(url, true) => {
                "token_url must be an https URL, or http on a loopback address"
            }
            (Some(_), None) | (None, Some(_)) => "",
            (Some(_), Some(_)) | (None, None) => "either issuer or token_url is needed",
        };
        if !problem.is_empty() {
            return Err(Error::Settings(problem.into()));
        }
        // No redirect is followed: it could take the secret elsewhere.
        let http = tls::builder(options.ca_file.as_deref(), None)?.timeout(TIMEOUT).build()?;
        Ok(Self { options, http })
    }

    pub(crate) fn options(&self) -> &ClientCredentialsOptions {
        &self.options
    }

    /// Finds the token endpoint.
    pub(crate) async fn discover(&self) -> Result<Endpoint, Failure> {
        let issuer = match (&self.options.issuer, &self.options.token_url) {
            (Some(issuer), _) => issuer,
            (None, url) => {
                return Ok(Endpoint { url: url.clone().unwrap_or_default(), is_post: false });
            }
        };
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let request = self.http.get(&url).build();
        let request = request.map_err(|_| Failure::refusal(format!("{url} is not a URL")))?;
        let found: Discovered = self.ask(request, &[]).await?;
        if found.issuer != *issuer {
            let message = format!("{url}: the issuer in the answer is another one");
            return Err(Failure::refusal(message));
        }
        if !is_safe(&found.token_endpoint, is_loopback(issuer)) {
            let message = format!("{url}: the token_endpoint must be an https URL");
            return Err(Failure::refusal(message));
        }
        let has = |method: &str| {
            found.token_endpoint_auth_methods_supported.iter().any(|known| known == method)
        };
        let is_post = has("client_secret_post") && !has("client_secret_basic");
        Ok(Endpoint { url: found.token_endpoint, is_post })
    }

    /// Fetches a token.
    pub(crate) async fn fetch(&self, endpoint: &Endpoint) -> Result<Fetched, Failure> {
        let secret = self.secret().await?;
        let Endpoint { url, is_post } = endpoint;
        let options = &self.options;
        let mut fields = vec![("grant_type", Some("client_credentials"))];
        fields.push(("scope", options.scope.as_deref()));
        fields.push(("audience", options.audience.as_deref()));
        fields.push(("resource", options.resource.as_deref()));
        if *is_post {
            fields.push(("client_id", Some(options.client_id.as_str())));
            fields.push(("client_secret", Some(secret.as_str())));
        }
        let fields = fields.iter().filter_map(|(name, value)| value.map(|value| (name, value)));
        let form: Vec<String> =
            fields.map(|(name, value)| format!("{name}={}", form_encoded(value))).collect();
        let mut request = self.http.post(url).body(form.join("&"));
        request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if !is_post {
            // Both as a form has them (RFC 6749, section 2.3.1).
            let (id, secret) = (form_encoded(&options.client_id), form_encoded(&secret));
            request = request.basic_auth(id, Some(secret));
        }
        let request = request.build();
        let request = request.map_err(|_| Failure::refusal(format!("{url} is not a URL")))?;
        let sent = request.headers().get(header::AUTHORIZATION);
        let sent = sent.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let sent = sent.trim_start_matches("Basic ").to_owned();
        let secrets = [secret.clone(), form_encoded(&secret), sent];
        let granted: Granted = self.ask(request, &secrets).await?;
        let is_visible = granted.access_token.bytes().all(|byte| byte.is_ascii_graphic());
        if granted.access_token.is_empty() || !is_visible {
            return Err(Failure::refusal(format!("{url}: the answer has no access_token")));
        }
        if !granted.token_type.eq_ignore_ascii_case("bearer") {
            return Err(Failure::refusal(format!("{url}: the token_type is not Bearer")));
        }
        let lifetime = lifetime_of(&granted.expires_in);
        Ok(Fetched { token: granted.access_token, lifetime })
    }

    /// The client's secret.
    async fn secret(&self) -> Result<String, Failure> {
        if let Some(name) = &self.options.client_secret_env {
            let secret = std::env::var(name).unwrap_or_default();
            if secret.is_empty() {
                let message = format!("the environment variable {name} has no client secret");
                return Err(Failure::refusal(message));
            }
            return Ok(secret);
        }
        let file = self.options.client_secret_file.clone().unwrap_or_default();
        let text = tokio::fs::read_to_string(&file).await.map_err(|error| {
            let file = file.display();
            Failure::refusal(format!("the client secret cannot be read: {file}: {error}"))
        })?;
        let secret = text.trim();
        if secret.is_empty() {
            return Err(Failure::refusal(format!("{} has no client secret", file.display())));
        }
        Ok(secret.to_owned())
    }

    /// The JSON of an answer with status 200. An error does not contain the `secrets`.
    async fn ask<T: DeserializeOwned>(
        &self,
        mut request: Request,
        secrets: &[String],
    ) -> Result<T, Failure> {
        let url = request.url().to_string();
        let json = header::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::ACCEPT, json);
        let failed = |error: reqwest::Error| {
            let cause = if error.is_timeout() {
                "no answer in time".to_owned()
            } else {
                with_causes(&error.without_url())
            };
            Failure::passing(format!("{url}: {cause}"))
        };
        let mut answer = self.http.execute(request).await.map_err(failed)?;
        let mut text = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(failed)? {
            text.extend_from_slice(&piece);
            if text.len() > ANSWER_LEN_MAX {
                return Err(Failure::refusal(format!("{url}: the answer is too long")));
            }
        }
        let status = answer.status();
        if status == reqwest::StatusCode::OK
            && let Ok(value) = serde_json::from_slice(&text)
        {
            return Ok(value);
        }
        let number = status.as_u16();
        let words = words_of(&text, secrets);
        let retry_after = answer.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let retry_after = retry_after.filter(|seconds| *seconds <= RETRY_AFTER_MAX_S);
        Err(Failure {
            message: format!("{url} answers {number}: {words}"),
            is_final: number < 500 && !matches!(number, 408 | 429),
            retry_after: Duration::from_secs(retry_after.unwrap_or_default()),
        })
    }
}

/// The provider's own words, without the secrets, which it may repeat.
fn words_of(text: &[u8], secrets: &[String]) -> String {
    let problem: Value = serde_json::from_slice(text).unwrap_or_default();
    let words =
        ["error", "error_description"].into_iter().filter_map(|name| problem[name].as_str());
    let mut words = words.collect::<Vec<_>>().join(": ");
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        words = words.replace(secret.as_str(), "***");
    }
    if words.is_empty() {
        return "the answer is not what a provider answers".into();
    }
    let visible = |c: char| if matches!(c, ' '..='~') { c } else { ' ' };
    words.chars().map(visible).take(WORDS_LEN_MAX).collect()
}

/// The life of a token: a number of seconds, which some providers write as a text.
fn lifetime_of(expires_in: &Value) -> Duration {
    let seconds = match expires_in {
        Value::String(text) => text.parse().ok(),
        other => other.as_f64(),
    };
    let seconds = seconds.filter(|seconds| *seconds > 0.0 && *seconds < LIFETIME_MAX_S);
    seconds.map_or(LIFETIME_UNKNOWN, Duration::from_secs_f64)
}

fn is_loopback(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Whether a secret may be sent to this URL.
fn is_safe(url: &str, plain_on_loopback: bool) -> bool {
    let Ok(parsed) = Url::parse(url) else { return false };
    if !parsed.has_host() || !parsed.username().is_empty() || parsed.password().is_some() {
        return false;
    }
    match parsed.scheme() {
        "https" => true,
        "http" => plain_on_loopback && is_loopback(url),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_goes_only_to_https_or_to_this_machine() {
        for good in
            ["https://h/token", "http://localhost:1/t", "http://127.0.0.1/t", "http://[::1]/t"]
        {
            assert!(is_safe(good, true), "{good}");
        }
        assert!(!is_safe("http://localhost:1/t", false));
        for bad in [
            "http://10.0.0.1/token",
            "http://localhost.example/token",
            "https://u:p@h/token",
            "ftp://localhost/",
            "token",
            "",
        ] {
            assert!(!is_safe(bad, true), "{bad}");
        }
    }

    #[test]
    fn an_error_has_the_words_of_the_provider_and_no_secret() {
        let text = json!({"error": "invalid_client", "error_description": "no s3cret\nfor you"});
        let words = words_of(text.to_string().as_bytes(), &["s3cret".into(), String::new()]);
        assert_eq!(words, "invalid_client: no *** for you");
        assert_eq!(words_of(b"<html>", &[]), "the answer is not what a provider answers");
        let long = json!({"error": "x".repeat(1000)}).to_string();
        assert_eq!(words_of(long.as_bytes(), &[]).len(), WORDS_LEN_MAX);
    }

    #[test]
    fn a_lifetime_that_is_not_usable_counts_as_a_minute() {
        assert_eq!(lifetime_of(&json!(600)), Duration::from_secs(600));
        assert_eq!(lifetime_of(&json!("8")), Duration::from_secs(8));
        for unknown in [json!(null), json!(-1), json!("soon"), json!(1e300), json!("NaN")] {
            assert_eq!(lifetime_of(&unknown), LIFETIME_UNKNOWN, "{unknown}");
        }
    }
}
