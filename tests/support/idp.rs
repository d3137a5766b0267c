//! An OpenID provider of a test. It keeps to the specification, except where a test tells it to attack.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use rcgen::SigningKey;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

/// What a test changes in the claims of the next tokens: a name, and a value or null for none.
type Changes = Vec<(&'static str, Value)>;

/// What the provider remembers of a code.
struct Code {
    challenge: String,
    redirect_uri: String,
    nonce: String,
    claims: Value,
}

#[derive(Default)]
struct Mind {
    codes: HashMap<String, Code>,
    changes: Changes,
    /// Whether a stranger's key signs.
    forges: bool,
    device_approved: bool,
    /// The pause between two questions that it wants, in seconds; 0 for the shortest.
    interval_s: u64,
    requests: Vec<String>,
}

/// The provider.
#[derive(Clone)]
pub(crate) struct Idp {
    pub(crate) issuer: String,
    mind: Arc<Mutex<Mind>>,
    key: Arc<rcgen::KeyPair>,
    stranger: Arc<rcgen::KeyPair>,
    /// Requests for tokens with a grant type that ends with this text get no answer.
    held: Arc<watch::Sender<Option<&'static str>>>,
}

fn new_key() -> Arc<rcgen::KeyPair> {
    Arc::new(rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap())
}

/// The parameters in the query of a URL.
pub(crate) fn query(url: &str) -> HashMap<String, String> {
    reqwest::Url::parse(url).unwrap().query_pairs().into_owned().collect()
}

impl Idp {
    /// A provider on a free port of this machine.
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let idp = Self {
            issuer,
            mind: Arc::default(),
            key: new_key(),
            stranger: new_key(),
            held: Arc::new(watch::Sender::new(None)),
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(jwks))
            .route("/token", post(token))
            .route("/device", post(device))
            .with_state(idp.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        idp
    }

    /// Does what a person does on the page of the provider at this address. Returns the parameters with which the
    /// browser comes back.
    pub(crate) fn authorize(&self, url: &str, claims: Value) -> HashMap<String, String> {
        assert!(url.starts_with(&format!("{}/authorize?", self.issuer)), "{url}");
        let query = query(url);
        assert_eq!(query["response_type"], "code");
        assert_eq!(query["code_challenge_method"], "S256");
        let code = hex(&rand::random::<[u8; 16]>());
        let mut mind = self.mind.lock().unwrap();
        let (challenge, nonce) = (query["code_challenge"].clone(), query["nonce"].clone());
        let redirect_uri = query["redirect_uri"].clone();
        mind.codes.insert(code.clone(), Code { challenge, redirect_uri, nonce, claims });
        let pairs = [("code", &code), ("state", &query["state"]), ("iss", &self.issuer)];
        pairs.map(|(name, value)| (name.to_owned(), value.clone())).into()
    }

    /// Changes claims of the next tokens.
    pub(crate) fn change(&self, changes: Changes) {
        self.mind.lock().unwrap().changes = changes;
    }

    /// Whether a stranger's key signs the next tokens.
    pub(crate) fn forge(&self, forges: bool) {
        self.mind.lock().unwrap().forges = forges;
    }

    /// The person signs in on the other device.
    pub(crate) fn approve_device(&self) {
        self.mind.lock().unwrap().device_approved = true;
    }

    /// The pause between two questions about a sign-in on another device that it wants, in seconds.
    pub(crate) fn want_interval(&self, interval_s: u64) {
        self.mind.lock().unwrap().interval_s = interval_s;
    }

    /// Holds requests for tokens with a grant type that ends with this text. `None` answers them all.
    pub(crate) fn hold(&self, grant_type: Option<&'static str>) {
        self.held.send_replace(grant_type);
    }

    /// The proofs with which Maxine asked for tokens.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.mind.lock().unwrap().requests.clone()
    }

    /// A token of this issuer with these claims, and with those that every token has.
    pub(crate) fn sign(&self, claims: Value) -> String {
        let now_s = std::time::SystemTime::now();
        let now_s = now_s.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let mut all =
            json!({"iss": self.issuer, "aud": "maxine", "iat": now_s, "exp": now_s + 300});
        let mind = self.mind.lock().unwrap();
        let given = claims.as_object().unwrap().clone();
        let changes = mind.changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        for (name, value) in given.into_iter().chain(changes) {
            all[name] = value;
        }
        all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let head = BASE64URL.encode(r#"{"alg":"EdDSA","kid":"k1"}"#);
        let text = format!("{head}.{}", BASE64URL.encode(all.to_string()));
        let key = if mind.forges { &self.stranger } else { &self.key };
        format!("{text}.{}", BASE64URL.encode(key.sign(text.as_bytes()).unwrap()))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn discovery(State(idp): State<Idp>) -> Json<Value> {
    let at = |path: &str| format!("{}{path}", idp.issuer);
    Json(json!({
        "issuer": idp.issuer, "jwks_uri": at("/jwks"),
        "authorization_endpoint": at("/authorize"), "token_endpoint": at("/token"),
        "device_authorization_endpoint": at("/device"), "end_session_endpoint": at("/end"),
        "authorization_response_iss_parameter_supported": true,
    }))
}

async fn jwks(State(idp): State<Idp>) -> Json<Value> {
    let x = BASE64URL.encode(idp.key.public_key_raw());
    Json(json!({"keys": [
        {"kty": "oct", "kid": "k1", "k": "AAAA"},
        {"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": x},
    ]}))
}

type Answer = (StatusCode, Json<Value>);

fn refused(error: &str) -> Answer {
    (StatusCode::BAD_REQUEST, Json(json!({"error": error})))
}

async fn token(State(idp): State<Idp>, headers: axum::http::HeaderMap, body: String) -> Answer {
    let form = query(&format!("http://form/?{body}"));
    let proof = headers.get("authorization").and_then(|value| value.to_str().ok());
    idp.mind.lock().unwrap().requests.push(proof.unwrap_or_default().to_owned());
    let is_answered =
        |held: &Option<&'static str>| held.is_none_or(|held| !form["grant_type"].ends_with(held));
    drop(idp.held.subscribe().wait_for(is_answered).await);
    if form["grant_type"].ends_with("device_code") {
        if !idp.mind.lock().unwrap().device_approved {
            return refused("authorization_pending");
        }
        let id_token =
            idp.sign(json!({"sub": "42", "preferred_username": "ada", "groups": ["staff"]}));
        return (StatusCode::OK, Json(json!({"id_token": id_token, "token_type": "Bearer"})));
    }
    // A code is exchanged once.
    let Some(code) = idp.mind.lock().unwrap().codes.remove(&form["code"]) else {
        return refused("invalid_grant");
    };
    let challenge = BASE64URL.encode(Sha256::digest(form["code_verifier"].as_bytes()));
    if challenge != code.challenge || form["redirect_uri"] != code.redirect_uri {
        return refused("invalid_grant");
    }
    let mut claims = code.claims;
    claims["nonce"] = code.nonce.into();
    let id_token = idp.sign(claims);
    (StatusCode::OK, Json(json!({"id_token": id_token, "token_type": "Bearer"})))
}

async fn device(State(idp): State<Idp>) -> Json<Value> {
    let interval_s = idp.mind.lock().unwrap().interval_s.max(1);
    Json(json!({
        "device_code": "d", "user_code": "ABCD-EFGH", "verification_uri": format!("{}/d", idp.issuer),
        "expires_in": 600, "interval": interval_s,
    }))
}
