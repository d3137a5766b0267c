//! Finds credentials in texts, so that logs do not contain them.

use std::borrow::Cow;
use std::ops::Range;

/// What is shown instead of a credential.
pub(super) const HIDDEN: &str = "(hidden)";
/// The beginnings of Maxine's own tokens: API tokens, and those for emergencies.
const OWN_TOKENS: [&str; 2] = ["mxt_", "mxb_"];
/// The beginning of a JSON Web Token.
const JWT: &str = "eyJ";
/// The end of the name of the scheme before a token, in both spellings.
const BEARER: &str = "earer ";
/// Minimum length of a token in a text, in bytes. Shorter words are not credentials.
const TOKEN_LEN_MIN: usize = 8;

/// Whether a value is a JSON Web Token, or one of Maxine's own tokens.
pub(super) fn is_token(value: &str) -> bool {
    (value.starts_with(JWT) && value.matches('.').count() == 2)
        || OWN_TOKENS.iter().any(|begin| value.starts_with(begin))
}

/// The text without the credentials that it contains: Maxine's tokens, JSON Web Tokens, what follows `Bearer`, and
/// passwords in URLs. Nothing is copied if there are none. This is a last safeguard: no part of Maxine logs a credential
/// on purpose.
#[must_use]
pub fn hide_credentials(text: &str) -> Cow<'_, str> {
    let found = credentials(text);
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for Range { start, end } in found {
        // One credential can be found in two ways.
        if start >= from {
            out.push_str(&text[from..start]);
            out.push_str(HIDDEN);
        }
        from = from.max(end);
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

/// Where credentials are, in the order of their beginnings.
fn credentials(text: &str) -> Vec<Range<usize>> {
    let token_from = |start: usize| {
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~+/=".contains(byte);
        start..start + text.as_bytes()[start..].iter().take_while(|byte| is_part(byte)).count()
    };
    let mut found = Vec::new();
    for begin in OWN_TOKENS {
        let tokens = text.match_indices(begin).map(|(at, _)| token_from(at + begin.len()));
        found.extend(tokens.filter(|token| token.len() >= TOKEN_LEN_MIN));
    }
    let tokens = text.match_indices(JWT).map(|(at, _)| token_from(at));
    found.extend(tokens.filter(|token| text[token.clone()].matches('.').count() >= 2));
    let tokens = text.match_indices(BEARER).map(|(at, _)| token_from(at + BEARER.len()));
    // A word of a sentence has only small letters.
    let is_word = |token: &str| token.bytes().all(|b| b.is_ascii_lowercase() || b"-.".contains(&b));
    found.extend(
        tokens.filter(|token| token.len() >= TOKEN_LEN_MIN && !is_word(&text[token.clone()])),
    );
    found.extend(text.match_indices("://").filter_map(|(at, _)| password_in(text, at + 3)));
    found.sort_unstable_by_key(|range| range.start);
    found
}

/// The password in the part of a URL that begins at `start`: `USER:PASSWORD@HOST`.
fn password_in(text: &str, start: usize) -> Option<Range<usize>> {
    let ends = |c: char| c.is_whitespace() || c.is_control() || "/?#\"'<>(),;".contains(c);
    let authority = text[start..].split(ends).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    let colon = user.find(':')?;
    (colon + 1 < user.len()).then(|| start + colon + 1..start + user.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_a_text_are_hidden_and_the_rest_stays() {
        let jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl-_x";
        for (text, shown) in [
            (format!("token {jwt} refused"), "token (hidden) refused"),
            (format!("\u{1b}[3mtoken\u{1b}[0m{jwt}"), "\u{1b}[3mtoken\u{1b}[0m(hidden)"),
            ("a=mxt_maxine_0a1b_s3cret, b".into(), "a=mxt_(hidden), b"),
            ("mxb_0123456789é".into(), "mxb_(hidden)é"),
            ("authorization: Bearer aB3xyz789=".into(), "authorization: Bearer (hidden)"),
            ("bearer mxt_maxine_0a1b_s3cret!".into(), "bearer (hidden)!"),
            (
                "redis://me:hunter2@h:6379/0 and redis://h:1".into(),
                "redis://me:(hidden)@h:6379/0 and redis://h:1",
            ),
            ("rediss://:hunter2@[::1]:6379".into(), "rediss://:(hidden)@[::1]:6379"),
            ("http://u:p@h, http://u:p@h".into(), "http://u:(hidden)@h, http://u:(hidden)@h"),
        ] {
            assert_eq!(hide_credentials(&text), shown);
        }
    }

    #[test]
    fn a_text_without_credentials_is_not_changed() {
        for text in [
            "",
            "a bearer certificate is needed",
            "tokens begin with mxt_ or mxb_",
            "eyJust a word. And. More.",
            "http://h:1/a@b:c and mailto:a@b",
            "http://user@h/",
        ] {
            assert!(matches!(hide_credentials(text), Cow::Borrowed(_)), "{text}");
        }
    }
}
