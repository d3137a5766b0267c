//! The file of outside identities: providers of sign-ins for people, and issuers of tokens for workloads.
//!
//! The file is TOML. Paths in it are relative to its own directory. All problems are reported together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use maxine_state::Role;

/// Maximum number of providers, and of issuers.
const ENTRIES_MAX: usize = 32;
/// Maximum number of rules of one issuer, and of groups of one role.
const RULES_MAX: usize = 256;
/// Maximum difference between the clocks of an issuer and of this node, in seconds.
const CLOCK_SKEW_S_MAX: u64 = 300;
/// Maximum length of a name in the file, in bytes.
const NAME_LEN_MAX: usize = 32;

/// Where people may sign in, and whose tokens workloads may use.
#[derive(Clone, Debug, Default)]
pub struct OutsideSettings {
    /// The URL at which browsers reach the dashboard, without a path. Providers send browsers back to it.
    pub public_url: Option<String>,
    /// The providers, in the order in which the sign-in shows them.
    pub providers: Vec<Provider>,
    /// The issuers of tokens for workloads.
    pub issuers: Vec<Issuer>,
}

/// An OpenID provider.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its name in URLs, in user names and in the command line.
    pub name: String,
    /// Its name for people.
    #[serde(default)]
    pub title: String,
    /// Its issuer, exactly as the provider writes it.
    pub issuer: String,
    /// The id of Maxine at the provider.
    pub client_id: String,
    /// The file with the secret that belongs to it; `None` for a public client.
    pub client_secret_file: Option<PathBuf>,
    /// The PEM file of authorities for the provider's certificate; the machine's if there is none.
    pub ca_file: Option<PathBuf>,
    /// What Maxine asks for.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<String>,
    /// The claim that becomes the user's name. Without that claim, the subject does.
    #[serde(default = "default_user_claim")]
    pub user_claim: String,
    /// The claim with the user's groups.
    #[serde(default = "default_groups_claim")]
    pub groups_claim: String,
    /// The groups whose members get a role.
    #[serde(default)]
    pub roles: BTreeMap<Role, Vec<String>>,
    /// The role of every other user of the provider; `None` to refuse them.
    pub default_role: Option<Role>,
    /// Accepted difference between the provider's clock and this node's, in seconds.
    #[serde(default = "default_clock_skew_s")]
    pub clock_skew_s: u64,
}

/// An issuer of tokens for workloads.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Its name in the audit log.
    pub name: String,
    /// The `iss` of its tokens.
    pub issuer: String,
    /// A token must be for one of these.
    pub audiences: Vec<String>,
    /// The URL of its keys. Without a URL and a file, its discovery document names it.
    pub jwks_url: Option<String>,
    /// A file with its keys.
    pub jwks_file: Option<PathBuf>,
    /// The PEM file of authorities for its certificate; the machine's if there is none.
    pub ca_file: Option<PathBuf>,
    /// A file with a token that this node sends when it fetches the keys.
    pub bearer_token_file: Option<PathBuf>,
    /// Accepted difference between the issuer's clock and this node's, in seconds.
    #[serde(default = "default_clock_skew_s")]
    pub clock_skew_s: u64,
    /// Which tokens get which role. The highest role of all rules that fit counts.
    #[serde(default, rename = "rule")]
    pub rules: Vec<Rule>,
}

/// A rule: tokens with these claims get this role.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The role.
    pub role: Role,
    /// The values that the claims must have. A value that ends in `*` is a prefix.
    pub claims: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    public_url: Option<String>,
    #[serde(default, rename = "provider")]
    providers: Vec<Provider>,
    #[serde(default, rename = "issuer")]
    issuers: Vec<Issuer>,
}

fn default_scopes() -> Vec<String> {
    ["openid", "profile", "email"].map(str::to_owned).into()
}

fn default_user_claim() -> String {
    "preferred_username".into()
}

fn default_groups_claim() -> String {
    "groups".into()
}

fn default_clock_skew_s() -> u64 {
    60
}

impl OutsideSettings {
    /// Reads the file. Blocks.
    ///
    /// # Errors
    ///
    /// Every problem, one text each.
    pub fn read(path: &Path) -> Result<Self, Vec<String>> {
        let named = |text: String| format!("{}: {text}", path.display());
        let text = maxine_files::read_text(path)
            .map_err(|error| vec![named(maxine_wording::io(&error))])?;
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, directory).map_err(|problems| problems.into_iter().map(named).collect())
    }

    /// Parses the text of the file. `directory` is the one that relative paths begin at.
    fn parse(text: &str, directory: &Path) -> Result<Self, Vec<String>> {
        let File { public_url, mut providers, mut issuers } =
            toml::from_str(text).map_err(|error| {
                let line = error.span().map(|span| {
                    let before = text.get(..span.start).unwrap_or_default();
                    format!("line {}: ", before.matches('\n').count() + 1)
                });
                vec![format!("{}{}", line.unwrap_or_default(), error.message())]
            })?;
        let paths = providers
            .iter_mut()
            .flat_map(|provider| [&mut provider.client_secret_file, &mut provider.ca_file]);
        let of_issuers = issuers.iter_mut().flat_map(|issuer| {
            [&mut issuer.jwks_file, &mut issuer.ca_file, &mut issuer.bearer_token_file]
        });
        for path in paths.chain(of_issuers).flatten() {
            *path = directory.join(&*path);
        }
        for provider in &mut providers {
            if provider.title.is_empty() {
                provider.title.clone_from(&provider.name);
            }
        }
        let public_url = public_url.map(|url| url.trim_end_matches('/').to_owned());
        let settings = Self { public_url, providers, issuers };
        let problems = settings.problems();
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    /// The certificates and keys that the file names. The secrets of providers are not among them, because they are
    /// read each time.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let of_providers = self.providers.iter().map(|provider| &provider.ca_file);
        let of_issuers =
            self.issuers.iter().flat_map(|issuer| [&issuer.ca_file, &issuer.jwks_file]);
        of_providers.chain(of_issuers).flatten().cloned().collect()
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.providers.len().max(self.issuers.len()) > ENTRIES_MAX {
            problems.push(format!("at most {ENTRIES_MAX} providers and {ENTRIES_MAX} issuers"));
        }
        if let Some(url) = &self.public_url
            && !is_origin(url)
        {
            problems
                .push(format!("public_url must be like https://HOST, without a path, got {url}"));
        }
        let mut names = Vec::new();
        for provider in &self.providers {
            let at = format!("provider {}", provider.name);
            let mut problem = |text: &str| problems.push(format!("{at}: {text}"));
            check_entry((&provider.name, &provider.issuer, provider.clock_skew_s), &mut problem);
            if provider.client_id.is_empty() {
                problem("client_id is empty");
            }
            if !provider.scopes.iter().any(|scope| scope == "openid") {
                problem("scopes must have openid");
            }
            if provider.title.len() > 64 || provider.title.chars().any(char::is_control) {
                problem("title must have at most 64 bytes and no control characters");
            }
            let groups = provider.roles.values();
            if groups.clone().any(|groups| groups.len() > RULES_MAX) {
                problem("a role has too many groups; the limit is 256");
            }
            if groups.flatten().next().is_none() && provider.default_role.is_none() {
                problem("nobody could sign in: set roles or default_role");
            }
            names.push(provider.name.as_str());
        }
        if let Some(name) = repeated(names) {
            problems.push(format!("provider {name}: the name is used twice"));
        }
        for issuer in &self.issuers {
            let at = format!("issuer {}", issuer.name);
            let mut problem = |text: &str| problems.push(format!("{at}: {text}"));
            check_entry((&issuer.name, &issuer.issuer, issuer.clock_skew_s), &mut problem);
            if issuer.audiences.iter().all(String::is_empty) {
                problem("audiences must name whom the tokens are for");
            }
            if issuer.jwks_url.is_some() && issuer.jwks_file.is_some() {
                problem("jwks_url and jwks_file exclude each other");
            }
            if issuer.jwks_url.as_ref().is_some_and(|url| !is_guarded(url, Scope::Machine)) {
                problem("jwks_url must be an https URL");
            }
            if issuer.jwks_file.is_none()
                && issuer.jwks_url.is_none()
                && !is_guarded(&issuer.issuer, Scope::Machine)
            {
                problem("issuer is no https URL, so jwks_url or jwks_file must be set");
            }
            if issuer.rules.is_empty() || issuer.rules.len() > RULES_MAX {
                problem("needs 1 to 256 rules");
            }
            if issuer.rules.iter().any(|rule| rule.claims.is_empty()) {
                problem("a rule without claims would admit every token of the issuer");
            }
        }
        if let Some(name) = repeated(self.issuers.iter().map(|issuer| &*issuer.name).collect()) {
            problems.push(format!("issuer {name}: the name is used twice"));
        }
        if let Some(issuer) = repeated(self.issuers.iter().map(|issuer| &*issuer.issuer).collect())
        {
            problems.push(format!("issuer {issuer} is set twice"));
        }
        problems
    }
}

fn check_entry((name, issuer, clock_skew_s): (&str, &str, u64), problem: &mut dyn FnMut(&str)) {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > NAME_LEN_MAX || !name.chars().all(is_plain) {
        problem("name must be 1 to 32 lower-case letters, digits and hyphens");
    }
    if issuer.is_empty() || issuer.len() > 1_024 {
        problem("issuer must have 1 to 1024 bytes");
    }
    if clock_skew_s > CLOCK_SKEW_S_MAX {
        problem("clock_skew_s must be at most 300");
    }
}

fn repeated(mut names: Vec<&str>) -> Option<&str> {
    names.sort_unstable();
    names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// Where plain HTTP may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Nowhere.
    Https,
    /// On this machine.
    Machine,
}

impl Scope {
    /// Where plain HTTP may be used for the URLs that a provider or issuer names. One that is elsewhere must not make
    /// this node send requests to services of its own machine.
    pub(super) fn of(issuer: &str) -> Self {
        let is_here = Url::parse(issuer).is_ok_and(|url| is_here(&url));
        if is_here { Self::Machine } else { Self::Https }
    }
}

fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// Whether nobody on the way can read or change what is sent to this URL: it is https, or stays on this machine.
pub(super) fn is_guarded(url: &str, scope: Scope) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let has_password = !url.username().is_empty() || url.password().is_some();
    let may_be_plain = scope == Scope::Machine && url.scheme() == "http" && is_here(&url);
    !has_password && url.host_str().is_some() && (url.scheme() == "https" || may_be_plain)
}

fn is_origin(text: &str) -> bool {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.is_some_and(|url| {
        url.host_str().is_some() && url.origin().ascii_serialization() == text.to_ascii_lowercase()
    })
}

/// A claim: a name, or a JSON pointer (RFC 6901) to a claim within another.
pub(super) fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    if name.starts_with('/') { claims.pointer(name) } else { claims.get(name) }
}

/// The texts of a claim, which is a text or a list of texts.
pub(super) fn texts(claim: Option<&Value>) -> Vec<&str> {
    match claim {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

impl Provider {
    /// The role of a user with these claims; `None` if the user may not sign in.
    pub(super) fn role_of(&self, claims: &Value) -> Option<Role> {
        let groups = texts(claim(claims, &self.groups_claim));
        let is_in = |wanted: &[String]| groups.iter().any(|own| wanted.iter().any(|w| w == own));
        let given = self.roles.iter().filter(|(_, wanted)| is_in(wanted)).map(|(role, _)| *role);
        given.max().or(self.default_role)
    }
}

impl Issuer {
    /// The role of a token with these claims; `None` if no rule fits.
    pub(super) fn role_of(&self, claims: &Value) -> Option<Role> {
        let fits = |wanted: &str, own: &str| match wanted.strip_suffix('*') {
            Some(prefix) => own.starts_with(prefix),
            None => own == wanted,
        };
        let holds = |(name, wanted): (&String, &String)| {
            texts(claim(claims, name)).into_iter().any(|own| fits(wanted, own))
        };
        let rules = self.rules.iter().filter(|rule| rule.claims.iter().all(holds));
        rules.map(|rule| rule.role).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const GOOD: &str = r#"
        public_url = "https://maxine.example/"
        [[provider]]
        name = "corp"
        issuer = "https://idp.example/realms/corp"
        client_id = "maxine"
        client_secret_file = "secret"
        groups_claim = "/realm_access/roles"
        roles = { admin = ["platform"], viewer = ["staff", "guests"] }
        [[issuer]]
        name = "k8s"
        issuer = "https://kubernetes.default.svc"
        audiences = ["maxine"]
        jwks_file = "/keys.json"
        [[issuer.rule]]
        role = "operator"
        claims = { sub = "system:serviceaccount:shop:*", "/kubernetes.io/namespace" = "shop" }
        [[issuer.rule]]
        role = "viewer"
        claims = { sub = "system:serviceaccount:*" }
    "#;

    fn parse(text: &str) -> Result<OutsideSettings, Vec<String>> {
        OutsideSettings::parse(text, Path::new("/etc/maxine"))
    }

    #[test]
    fn groups_and_claims_give_the_highest_role_that_fits() {
        let settings = parse(GOOD).unwrap();
        assert_eq!(settings.public_url.as_deref(), Some("https://maxine.example"));
        let provider = &settings.providers[0];
        assert_eq!(provider.client_secret_file, Some("/etc/maxine/secret".into()));
        assert_eq!(provider.title, "corp");
        let of = |roles: Value| provider.role_of(&json!({"realm_access": {"roles": roles}}));
        assert_eq!(of(json!(["staff", "platform"])), Some(Role::Admin));
        assert_eq!(of(json!("guests")), Some(Role::Viewer));
        assert_eq!(of(json!(["Platform", "staff2", 7])), None, "a group is an exact text");
        assert_eq!(provider.role_of(&json!({"groups": ["platform"]})), None);
        let issuer = &settings.issuers[0];
        let of = |sub: &str, namespace: &str| {
            issuer.role_of(&json!({"sub": sub, "kubernetes.io": {"namespace": namespace}}))
        };
        assert_eq!(of("system:serviceaccount:shop:orders", "shop"), Some(Role::Operator));
        assert_eq!(of("system:serviceaccount:shop:orders", "pay"), Some(Role::Viewer));
        assert_eq!(of("system:node:shop", "shop"), None);
    }

    #[test]
    fn all_problems_of_a_file_are_told_at_once_and_nothing_admits_everybody_by_mistake() {
        let bad = r#"
            public_url = "https://maxine.example/path"
            [[provider]]
            name = "Corp"
            issuer = "http://idp.example"
            client_id = ""
            scopes = ["email"]
            [[issuer]]
            name = "k8s"
            issuer = "kubernetes/serviceaccount"
            audiences = []
            clock_skew_s = 301
            [[issuer.rule]]
            role = "admin"
            claims = {}
        "#;
        let problems = parse(bad).unwrap_err().join("\n");
        for part in [
            "public_url",
            "name must be",
            "client_id is empty",
            "scopes must have openid",
            "nobody could sign in",
            "audiences",
            "jwks_url or jwks_file",
            "clock_skew_s",
            "a rule without claims",
        ] {
            assert!(problems.contains(part), "{part} in {problems}");
        }
        let error = parse("[[provider]]\nname = 1").unwrap_err().join("\n");
        assert!(error.starts_with("line 2"), "{error}");
        let twice = GOOD.replace("name = \"k8s\"", "name = \"k8s\"\ncolour = 1");
        assert!(parse(&twice).unwrap_err()[0].contains("colour"));
    }

    #[test]
    fn only_https_and_this_machine_are_guarded() {
        for (url, guarded) in [
            ("https://idp.example/x", true),
            ("http://127.0.0.1:9000", true),
            ("http://[::1]:9000/x", true),
            ("http://localhost/x", true),
            ("http://idp.example", false),
            ("http://localhost.example", false),
            ("https://user:secret@idp.example", false),
            ("ftp://127.0.0.1", false),
            ("idp.example", false),
        ] {
            assert_eq!(is_guarded(url, Scope::Machine), guarded, "{url}");
            let is_https = url.starts_with("https:");
            assert_eq!(is_guarded(url, Scope::Https), guarded && is_https, "{url}");
        }
        for (issuer, scope) in [
            ("https://idp.example", Scope::Https),
            ("http://127.0.0.1:9000/x", Scope::Machine),
            ("https://localhost:9000", Scope::Machine),
            ("kubernetes/serviceaccount", Scope::Https),
        ] {
            assert_eq!(Scope::of(issuer), scope, "{issuer}");
        }
    }
}
