//! The tokens that identify the processes of this node in the leader's lease.
//!
//! Place in the flow: a leader that is killed leaves its lease in the store until the lease runs out. The data
//! directory has the tokens of the last processes, and a process locks that directory as long as it runs. So a process
//! that starts there knows that nobody holds a lease with one of these tokens any more, and gives it back.

use std::io::{self, Write};
use std::path::Path;

use crate::file_log::{beside, create_new, read_short};

/// Maximum number of tokens that are kept.
const KEPT_MAX: usize = 8;
/// Maximum length of the file, in bytes.
const FILE_LEN_MAX: u64 = 1_024;
/// Length of a token: 32 hexadecimal digits.
const TOKEN_LEN: usize = 32;

/// The tokens of this process and of the ones before it.
#[derive(Debug)]
pub(crate) struct LeaseTokens {
    mine: String,
    /// Oldest first. Their processes have ended.
    earlier: Vec<String>,
}

impl LeaseTokens {
    /// Chooses the token of this process, and adds it to the file. Blocks. Without a file, or with one that cannot be
    /// read, no earlier process is known. The caller has locked the directory of the file.
    pub(crate) fn begin(path: Option<&Path>) -> Self {
        let mine = format!("{:032x}", rand::random::<u128>());
        let mut tokens = Self { mine, earlier: Vec::new() };
        let Some(path) = path else { return tokens };
        match read(path) {
            Ok(earlier) => tokens.earlier = earlier,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the tokens of earlier processes are not known");
            }
        }
        if let Err(error) = tokens.write(path) {
            tracing::warn!(path = %path.display(), %error, "the token of this process could not be noted");
        }
        tokens
    }

    /// The token of this process.
    pub(crate) fn mine(&self) -> &str {
        &self.mine
    }

    /// Whether `token` is that of an earlier process of this node, which has ended.
    pub(crate) fn is_of_ended_process(&self, token: &str) -> bool {
        self.earlier.iter().any(|earlier| earlier == token)
    }

    /// Replaces the file in one step. The file is not synced: after a power failure, the lease has run out before the
    /// machine runs again.
    fn write(&self, path: &Path) -> io::Result<()> {
        let temporary = beside(path, ".new");
        let surplus = (self.earlier.len() + 1).saturating_sub(KEPT_MAX);
        let kept = self.earlier[surplus..].iter().chain([&self.mine]);
        let text: String = kept.flat_map(|token| [token, "\n"]).collect();
        create_new(&temporary)?.write_all(text.as_bytes())?;
        std::fs::rename(&temporary, path)
    }
}

fn read(path: &Path) -> io::Result<Vec<String>> {
    let bytes = read_short(path, FILE_LEN_MAX)?.unwrap_or_default();
    let is_token =
        |line: &&str| line.len() == TOKEN_LEN && line.bytes().all(|b| b.is_ascii_hexdigit());
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().filter(is_token).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_the_tokens_of_the_last_ones_and_of_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease-tokens");
        let tokens: Vec<_> = (0..12).map(|_| LeaseTokens::begin(Some(&path))).collect();
        let last = LeaseTokens::begin(Some(&path));
        let known = |of: &LeaseTokens| last.is_of_ended_process(of.mine());
        let expected: Vec<bool> = (0..12).map(|at| at >= 12 - KEPT_MAX).collect();
        assert_eq!(tokens.iter().map(known).collect::<Vec<_>>(), expected);
        assert!(!last.is_of_ended_process(last.mine()));
        assert!(!last.is_of_ended_process(LeaseTokens::begin(None).mine()));
        assert!(!last.is_of_ended_process(""), "a lease that was given back");
        // What is no token is left out.
        std::fs::write(&path, [b"\n\xff\xfe\n", "a".repeat(32).as_bytes(), b"\n"].concat())
            .unwrap();
        let next = LeaseTokens::begin(Some(&path));
        assert_eq!(next.earlier, ["a".repeat(32)]);
        std::fs::write(&path, "b".repeat(2_000)).unwrap();
        assert!(LeaseTokens::begin(Some(&path)).earlier.is_empty());
    }
}
