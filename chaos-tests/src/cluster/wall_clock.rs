//! A separate wall clock for a node, which can jump while the node runs.
//!
//! libfaketime answers the process's questions about the wall clock, with a file that it reads each time. The
//! monotonic clock stays that of the machine, as it does when an operator or NTP sets the time.

use std::path::{Path, PathBuf};

/// Where Debian and other distributions install the library.
const PLACES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
];

/// A node's wall clock.
#[derive(Clone, Debug)]
pub struct WallClock {
    file: PathBuf,
}

fn library() -> Option<&'static str> {
    PLACES.iter().copied().find(|place| Path::new(place).exists())
}

impl WallClock {
    /// Why there are no such clocks here; `None` if there are.
    pub fn missing() -> Option<String> {
        match library() {
            Some(_) => None,
            None => Some("libfaketime (on Debian: apt-get install faketime)".into()),
        }
    }

    /// A clock that agrees with the machine's until it jumps.
    pub fn new(file: PathBuf) -> anyhow::Result<Self> {
        let clock = Self { file };
        clock.jump(0)?;
        Ok(clock)
    }

    /// From now on the clock differs from the machine's by this many seconds.
    pub fn jump(&self, by_s: i64) -> anyhow::Result<()> {
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{by_s:+}\n"))?;
        // The file is replaced in one step, because the node can read it at any moment.
        Ok(std::fs::rename(next, &self.file)?)
    }

    /// The environment variables with which a process uses it.
    pub fn env(&self) -> Vec<(String, String)> {
        let Some(library) = library() else { return Vec::new() };
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            text("LD_PRELOAD", library),
            text("FAKETIME_TIMESTAMP_FILE", &self.file.display().to_string()),
            text("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            text("FAKETIME_CACHE_DURATION", "1"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_goes_by_its_own_clock() {
        if let Some(missing) = WallClock::missing() {
            eprintln!("SKIPPED: {missing}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let clock = WallClock::new(dir.path().join("clock")).unwrap();
        let year = || {
            let output = Command::new("date").arg("+%Y").envs(clock.env()).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<i64>().unwrap()
        };
        let now = year();
        clock.jump(-10 * 366 * 86_400).unwrap();
        assert!(now - year() >= 10);
        clock.jump(0).unwrap();
        assert_eq!(year(), now);
    }
}
