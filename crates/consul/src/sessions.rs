//! The routes of lock sessions.

use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{self, Answer, Refusal};
use super::body::Object;
use super::kv::unexpected;
use super::options::check_namespace;
use super::parts::Inner;
use super::read::Scope;
use super::request::Asked;
use super::shape::NODE_CHECK;
use super::text::{duration_ms, duration_text};
use maxine_state::{
    Command, LockBehavior, LockSession, LockSessionCheck, LockSessionId, LockSessionSpec, Name,
    Reply, ServiceKey,
};
use maxine_view::KvScope;

/// The lock delay of a session that does not say so, in milliseconds.
const LOCK_DELAY_MS_DEFAULT: u64 = 15_000;
/// The range of times to live, in milliseconds.
const TTL_MS_MIN: u64 = 10_000;
const TTL_MS_MAX: u64 = 86_400_000;

/// A session in an answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown<'a> {
    #[serde(rename = "ID")]
    id: String,
    name: &'a str,
    node: &'a str,
    /// In nanoseconds.
    lock_delay: u64,
    behavior: &'static str,
    #[serde(rename = "TTL")]
    ttl: String,
    node_checks: [&'static str; 1],
    service_checks: Vec<Value>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> Shown<'a> {
    fn new(session: &'a LockSession) -> Self {
        let spec = &session.spec;
        let check = |check: &LockSessionCheck| {
            let id = check.check.as_ref().map_or("", |id| id.as_str());
            json!({"ID": id, "Namespace": ""})
        };
        Self {
            id: session.id.to_string(),
            name: &spec.name,
            node: &spec.node,
            lock_delay: spec.lock_delay_ms * 1_000_000,
            behavior: match spec.behavior {
                LockBehavior::Release => "release",
                LockBehavior::Delete => "delete",
            },
            ttl: spec.ttl_ms.map(duration_text).unwrap_or_default(),
            // The check of the node always passes, so it ends no session.
            node_checks: [NODE_CHECK],
            service_checks: spec.checks.iter().map(check).collect(),
            create_index: session.create_index,
            modify_index: session.create_index,
        }
    }
}

/// A lock delay: Go's text, a number of seconds below 1,000, or a number of nanoseconds.
fn lock_delay_ms(value: Option<Value>) -> Result<u64, Refusal> {
    let wrong = || Refusal::bad("Request decode failed: LockDelay is no duration such as \"15s\"");
    match value {
        None => Ok(LOCK_DELAY_MS_DEFAULT),
        Some(Value::String(text)) if text.is_empty() => Ok(LOCK_DELAY_MS_DEFAULT),
        Some(Value::String(text)) => duration_ms(&text).ok_or_else(wrong),
        Some(value) => match value.as_u64().ok_or_else(wrong)? {
            seconds if seconds < 1_000 => Ok(seconds * 1_000),
            nanos => Ok(nanos.div_ceil(1_000_000)),
        },
    }
}

/// A time to live: Go's text. `None` if it is absent, empty or 0.
fn ttl_ms(value: Option<Value>) -> Result<Option<u64>, Refusal> {
    let wrong = || Refusal::bad("Request decode failed: TTL must be a text such as \"10s\"");
    match value {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => {
            let ms = duration_ms(&text).ok_or_else(wrong)?;
            Ok(Some(ms).filter(|ms| *ms > 0))
        }
        Some(_) => Err(wrong()),
    }
}

/// The body of a new session, without the checks that it names.
pub(crate) struct SessionBody {
    spec: LockSessionSpec,
    /// The ids of checks of services.
    checks: Vec<String>,
    /// The namespaces that it names.
    namespaces: Vec<String>,
}

impl SessionBody {
    pub(crate) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let body = if body.is_empty() { b"{}".as_slice() } else { body };
        let mut body = Object::parse(body)?;
        let (name, node) = (body.text("Name")?, body.text("Node")?);
        let behavior = match body.text("Behavior")?.as_str() {
            "" | "release" => LockBehavior::Release,
            "delete" => LockBehavior::Delete,
            other => return Err(Refusal::bad(format!("Invalid Behavior setting '{other}'"))),
        };
        let lock_delay_ms = lock_delay_ms(body.take("LockDelay"))?;
        let ttl_ms = ttl_ms(body.take("TTL"))?;
        if ttl_ms.is_some_and(|ttl_ms| !(TTL_MS_MIN..=TTL_MS_MAX).contains(&ttl_ms)) {
            let ttl = duration_text(ttl_ms.unwrap_or(0));
            let text = format!("Invalid Session TTL '{ttl}', must be between [10s=24h0m0s]");
            return Err(Refusal::bad(text));
        }
        let mut namespaces = vec![body.namespace()?];
        let mut checks = body.texts("Checks")?;
        checks.retain(|check| check != NODE_CHECK);
        if let Some(other) = body.texts("NodeChecks")?.iter().find(|check| *check != NODE_CHECK) {
            return Err(Refusal::bad(format!("Missing check '{other}' registration")));
        }
        for mut check in body.objects("ServiceChecks")? {
            checks.push(check.text("ID")?);
            namespaces.push(check.namespace()?);
            check.finish()?;
        }
        for field in ["ID", "CreateIndex", "ModifyIndex"] {
            body.ignore(field);
        }
        body.finish()?;
        let (name, node) = (name.into(), node.into());
        let spec =
            LockSessionSpec { name, node, ttl_ms, behavior, lock_delay_ms, checks: Vec::new() };
        Ok(Self { spec, checks, namespaces })
    }
}

impl Inner {
    pub(crate) async fn session_create(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let query = self.query(asked)?;
        let SessionBody { mut spec, checks, namespaces } = SessionBody::read(&asked.body)?;
        check_namespace(&query, &namespaces.iter().map(String::as_str).collect::<Vec<_>>())?;
        if spec.node.is_empty() {
            spec.node = self.names.node.as_str().into();
        }
        let namespace = Name::trusted(ServiceKey::DEFAULT_NAMESPACE);
        // Both may have been registered through another node just now.
        let is_own = self.names.is_own_node(&spec.node);
        if !is_own || !checks.is_empty() {
            self.current(asked).await?;
        }
        if !self.has_node(asked, &namespace, &spec.node).await? {
            return Err(Refusal::bad(format!("Missing node registration: {:?}", spec.node)));
        }
        for id in checks {
            let missing = || Refusal::bad(format!("Missing check '{id}' registration"));
            let found = self.check_on_node(&namespace, &spec.node, &id).await;
            let (instance, check) = found.ok_or_else(missing)?;
            spec.checks.push(LockSessionCheck { instance, check: Some(check) });
        }
        spec.check()?;
        let id = self.registry.new_lock_session_id();
        self.propose(asked, Command::CreateLockSession { id, spec }).await?;
        Ok(answer::json(StatusCode::OK, false, &json!({"ID": id.to_string()})))
    }

    pub(crate) async fn session_destroy(&self, asked: &Asked, id: &str) -> Result<Answer, Refusal> {
        check_namespace(&self.query(asked)?, &[])?;
        // A session that does not exist counts as destroyed.
        if let Some(id) = LockSessionId::parse(id) {
            let applied = self.propose(asked, Command::EndLockSession { id }).await?;
            if !matches!(applied.reply, Reply::Changed(_)) {
                return Err(unexpected());
            }
        }
        Ok(answer::json(StatusCode::OK, false, &true))
    }

    pub(crate) async fn session_renew(&self, asked: &Asked, text: &str) -> Result<Answer, Refusal> {
        check_namespace(&self.query(asked)?, &[])?;
        let unknown = || Refusal::not_found(format!("Session id '{text}' not found"));
        let id = LockSessionId::parse(text).ok_or_else(unknown)?;
        if !self.registry.renew_lock_session(id, asked.answer_by_ms).await? {
            return Err(unknown());
        }
        let snapshot = self.view.snapshot();
        let session = snapshot.state.kv().session(id).ok_or_else(unknown)?;
        Ok(answer::json(StatusCode::OK, false, &[Shown::new(session)]))
    }

    pub(crate) async fn session_info(&self, asked: &Asked, text: &str) -> Result<Answer, Refusal> {
        let (query, options) = self.options(asked, None)?;
        check_namespace(&query, &[])?;
        let id = LockSessionId::parse(text);
        let scope = id.map_or(KvScope::Sessions, KvScope::Session);
        let ready = self.ready(asked, &options, &Scope::Keys(scope)).await?;
        if let Some(answer) = self.built_before(&options, &ready) {
            return Ok(answer);
        }
        let session = id.and_then(|id| ready.snapshot.state.kv().session(id));
        let shown: Vec<_> = session.into_iter().map(|session| Shown::new(session)).collect();
        self.answered(&options, &ready, &shown)
    }

    /// All sessions, or those of one node.
    pub(crate) async fn session_list(
        &self,
        asked: &Asked,
        node: Option<&str>,
    ) -> Result<Answer, Refusal> {
        let (query, options) = self.options(asked, None)?;
        check_namespace(&query, &[])?;
        let ready = self.ready(asked, &options, &Scope::Keys(KvScope::Sessions)).await?;
        if let Some(answer) = self.built_before(&options, &ready) {
            return Ok(answer);
        }
        let sessions = ready.snapshot.state.kv().sessions().values();
        let is_meant = |session: &&std::sync::Arc<LockSession>| {
            node.is_none_or(|node| session.spec.node.eq_ignore_ascii_case(node))
        };
        let shown: Vec<_> = sessions.filter(is_meant).map(|session| Shown::new(session)).collect();
        self.answered(&options, &ready, &shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_consul_reads_it() {
        let read = |body: Value| SessionBody::read(body.to_string().as_bytes());
        let plain = SessionBody::read(b"").unwrap().spec;
        assert_eq!((plain.ttl_ms, plain.lock_delay_ms), (None, 15_000));
        assert_eq!(plain.behavior, LockBehavior::Release);
        let full = read(json!({
            "name": "n", "Node": "", "LockDelay": "0s", "Behavior": "delete", "TTL": "15s",
            "NodeChecks": ["serfHealth"], "ServiceChecks": [{"ID": "service:web", "Namespace": "shop"}],
        }));
        let SessionBody { spec, checks, namespaces } = full.unwrap();
        assert_eq!((&*spec.name, spec.ttl_ms, spec.lock_delay_ms), ("n", Some(15_000), 0));
        assert_eq!((spec.behavior, checks), (LockBehavior::Delete, vec!["service:web".into()]));
        assert_eq!(namespaces, ["", "shop"]);
        for (delay, ms) in
            [(json!(20), 20_000), (json!(2_000_000_000_u64), 2_000), (json!("1.5s"), 1_500)]
        {
            assert_eq!(read(json!({"LockDelay": delay})).unwrap().spec.lock_delay_ms, ms);
        }
        for bad in [
            json!({"TTL": "9s"}),
            json!({"TTL": "25h"}),
            json!({"TTL": "soon"}),
            json!({"Behavior": "keep"}),
            json!({"LockDelay": "x"}),
            json!({"Extra": 1}),
            json!({"Partition": "x"}),
            json!({"NodeChecks": ["service:web"]}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
        let refused = read(json!({"TTL": 10})).err().map(|refused| refused.text);
        let text = r#"Request decode failed: TTL must be a text such as "10s""#;
        assert_eq!(refused.as_deref(), Some(text));
        assert_eq!(read(json!({"TTL": "0s"})).unwrap().spec.ttl_ms, None);
    }
}
