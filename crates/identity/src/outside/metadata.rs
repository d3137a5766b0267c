//! What Maxine uses of a discovery document (OpenID Connect Discovery 1.0, section 3). The rest of it is not kept.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

/// Maximum length of a URL, in bytes.
const URL_LEN_MAX: usize = 2_048;

/// A text that is not kept if it is too long to be a URL.
fn short<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    Ok(text.filter(|text| text.len() <= URL_LEN_MAX))
}

/// The fields that are used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metadata {
    #[serde(deserialize_with = "short")]
    pub(super) issuer: Option<String>,
    #[serde(deserialize_with = "short")]
    pub(super) jwks_uri: Option<String>,
    #[serde(deserialize_with = "short")]
    authorization_endpoint: Option<String>,
    #[serde(deserialize_with = "short")]
    token_endpoint: Option<String>,
    #[serde(deserialize_with = "short")]
    device_authorization_endpoint: Option<String>,
    #[serde(deserialize_with = "short")]
    userinfo_endpoint: Option<String>,
    #[serde(deserialize_with = "short")]
    end_session_endpoint: Option<String>,
    /// Whether the provider names itself when it sends a browser back (RFC 9207).
    pub(super) authorization_response_iss_parameter_supported: bool,
    token_endpoint_auth_methods_supported: Option<AuthMethods>,
}

impl Metadata {
    /// The URL of an endpoint.
    pub(super) fn endpoint(&self, name: &str) -> Option<&str> {
        let url = match name {
            "authorization_endpoint" => &self.authorization_endpoint,
            "token_endpoint" => &self.token_endpoint,
            "device_authorization_endpoint" => &self.device_authorization_endpoint,
            "userinfo_endpoint" => &self.userinfo_endpoint,
            "end_session_endpoint" => &self.end_session_endpoint,
            _ => return None,
        };
        url.as_deref()
    }

    /// Whether Maxine proves who it is by the scheme `Basic`, and not in the form. It is the default of the
    /// specification.
    pub(super) fn takes_basic(&self) -> bool {
        let methods = self.token_endpoint_auth_methods_supported.as_ref();
        methods.is_none_or(|methods| methods.is_empty || methods.has_basic)
    }
}

/// What counts of the list of ways to prove who Maxine is.
#[derive(Debug)]
struct AuthMethods {
    is_empty: bool,
    has_basic: bool,
}

impl<'de> Deserialize<'de> for AuthMethods {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Items;

        impl<'de> Visitor<'de> for Items {
            type Value = AuthMethods;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a list of texts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<AuthMethods, A::Error> {
                let mut methods = AuthMethods { is_empty: true, has_basic: false };
                for _ in 0..64 {
                    let Some(item) = items.next_element::<String>()? else { return Ok(methods) };
                    methods.is_empty = false;
                    methods.has_basic |= item == "client_secret_basic";
                }
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(methods)
            }
        }

        from.deserialize_seq(Items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Metadata {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_discovery_document_of_half_a_megabyte_leaves_only_what_is_used() {
        let many = vec![r#"{"a":[]}"#; 50_000].join(",");
        let long = "x".repeat(URL_LEN_MAX);
        let metadata = parse(&format!(
            r#"{{"issuer":"https://a","x":[{many}],"token_endpoint":"https://a/{long}","jwks_uri":null}}"#
        ));
        assert_eq!(metadata.issuer.as_deref(), Some("https://a"));
        assert_eq!(metadata.endpoint("token_endpoint"), None);
        assert_eq!(metadata.jwks_uri, None);
    }

    #[test]
    fn the_way_to_prove_who_maxine_is_comes_from_the_list() {
        let name = "token_endpoint_auth_methods_supported";
        for (list, basic) in [
            ("[]", true),
            ("null", true),
            (r#"["client_secret_post"]"#, false),
            (r#"["client_secret_post","client_secret_basic"]"#, true),
        ] {
            assert_eq!(parse(&format!(r#"{{"{name}":{list}}}"#)).takes_basic(), basic, "{list}");
        }
        assert!(parse("{}").takes_basic());
    }
}
