//! The names of keys.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};

use super::limits::{self, LimitExceeded};
use super::versioned::fixed;

/// A key. Clones are cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct KvKey(Arc<str>);

impl KvKey {
    /// Takes `text` as a key. It must be 1 to [`limits::KV_KEY_LEN_MAX`] bytes long and have no control characters.
    pub fn parse(text: &str) -> Result<Self, LimitExceeded> {
        limits::check_text("key", text, 1, limits::KV_KEY_LEN_MAX)?;
        Ok(Self(text.into()))
    }

    /// Takes `text` as the beginning of keys. It may be empty, and then every key begins with it.
    pub fn parse_prefix(text: &str) -> Result<Self, LimitExceeded> {
        limits::check_text("prefix", text, 0, limits::KV_KEY_LEN_MAX)?;
        Ok(Self(text.into()))
    }

    /// The empty beginning, with which every key begins.
    #[must_use]
    pub fn everything() -> Self {
        Self("".into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KvKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KvKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for KvKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fixed!(KvKey);
