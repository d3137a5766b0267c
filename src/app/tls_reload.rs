//! Takes new certificates and keys from their files while the node runs.
//!
//! The files are read every two seconds, because no notification covers every way in which they are replaced (a
//! renamed file, a switched link of a mounted secret, a network file system). A change is taken once two readings are
//! equal, because a certificate and its key are two files that are seldom replaced in one step.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use maxine_telemetry::Telemetry;

/// Interval between two readings.
const INTERVAL: Duration = Duration::from_secs(2);

/// Files that are taken together.
pub(super) struct TlsFiles {
    /// What they are for, in messages.
    pub(super) purpose: &'static str,
    /// The files.
    pub(super) files: Vec<PathBuf>,
    /// Takes their present content for new connections, or says why it cannot be used. Blocks.
    pub(super) take: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// Why the present content of files is not used, by their purpose.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Refused {
    /// The purposes of all refused files with the reasons.
    pub(super) fn all(&self) -> Vec<(&'static str, String)> {
        self.0.lock().iter().map(|(purpose, why)| (*purpose, why.clone())).collect()
    }
}

/// The bytes of each file; `None` for a file that cannot be read.
type Content = Vec<Option<Vec<u8>>>;

/// What is known of one group of files.
struct Watched {
    group: TlsFiles,
    /// The content that is in use.
    taken: Content,
    /// The content at the last reading.
    seen: Content,
    /// The content that was refused.
    refused: Option<Content>,
}

impl Watched {
    fn new(group: TlsFiles) -> Self {
        let taken = content(&group.files);
        Self { group, seen: taken.clone(), taken, refused: None }
    }

    /// Takes the present content, whether it has changed or not.
    fn take_again(&mut self) -> Result<(), String> {
        self.taken = content(&self.group.files);
        self.seen.clone_from(&self.taken);
        (self.group.take)().inspect_err(|_| self.refused = Some(std::mem::take(&mut self.taken)))
    }

    /// Reads the files, and takes their content if it has changed and is stable. Returns the outcome of taking it.
    fn look(&mut self) -> Option<Result<(), String>> {
        let present = content(&self.group.files);
        let is_stable = self.seen == present;
        self.seen.clone_from(&present);
        if present == self.taken {
            // Files that were refused are as they were before.
            return self.refused.take().map(|_| Ok(()));
        }
        if !is_stable || self.refused.as_ref() == Some(&present) {
            return None;
        }
        let outcome = (self.group.take)();
        match outcome {
            Ok(()) => (self.taken, self.refused) = (present, None),
            Err(_) => self.refused = Some(present),
        }
        Some(outcome)
    }
}

fn content(files: &[PathBuf]) -> Content {
    files.iter().map(|path| maxine_files::read_bundle(path).ok()).collect()
}

/// Watches the files for as long as the future is polled.
pub(super) async fn watch(groups: Vec<TlsFiles>, telemetry: Telemetry, refused: Refused) {
    let groups = groups.into_iter().filter(|group| !group.files.is_empty());
    let mut watched: Vec<Watched> = groups.map(Watched::new).collect();
    if watched.is_empty() {
        return;
    }
    let mut is_start = true;
    loop {
        let (telemetry, refused) = (telemetry.clone(), refused.clone());
        let looked = tokio::task::spawn_blocking(move || {
            for each in &mut watched {
                // A start can take minutes, and a file may have changed since it was read for the first time.
                let outcome = if is_start { each.take_again().err().map(Err) } else { each.look() };
                if let Some(outcome) = outcome {
                    report(each.group.purpose, outcome, &telemetry, &refused);
                }
            }
            watched
        });
        // Reading and taking files does not panic, and a stop drops this future.
        match looked.await {
            Ok(back) => watched = back,
            Err(error) => {
                tracing::error!(%error, "files for TLS are no longer watched; restart the node");
                return;
            }
        }
        is_start = false;
        tokio::time::sleep(INTERVAL).await;
    }
}

fn report(
    purpose: &'static str,
    outcome: Result<(), String>,
    telemetry: &Telemetry,
    refused: &Refused,
) {
    let result = match outcome {
        Ok(()) => {
            tracing::info!("new connections use the present files for {purpose}");
            refused.0.lock().remove(purpose);
            "taken"
        }
        Err(why) => {
            tracing::error!(%why, "the changed files for {purpose} cannot be used; the former ones stay in use");
            refused.0.lock().insert(purpose, why);
            "refused"
        }
    };
    telemetry.metrics().tls_reloads.with_label_values(&[result]).inc();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_once_it_is_stable_and_a_refused_one_is_tried_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("certificate.pem");
        std::fs::write(&path, "a").unwrap();
        let read = path.clone();
        let group = TlsFiles {
            purpose: "a test",
            files: vec![path.clone()],
            take: Box::new(move || match std::fs::read_to_string(&read).as_deref() {
                Ok("bad") | Err(_) => Err("bad".into()),
                Ok(_) => Ok(()),
            }),
        };
        let mut watched = Watched::new(group);
        assert_eq!(watched.look(), None);
        std::fs::write(&path, "b").unwrap();
        assert_eq!(watched.look(), None, "it may still be written");
        assert_eq!(watched.look(), Some(Ok(())));
        assert_eq!(watched.look(), None);
        std::fs::write(&path, "bad").unwrap();
        assert_eq!(watched.look(), None);
        assert_eq!(watched.look(), Some(Err("bad".into())));
        assert_eq!(watched.look(), None);
        // The former content, and then the absence of the file.
        std::fs::write(&path, "b").unwrap();
        assert_eq!(watched.look(), Some(Ok(())));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(watched.look(), None);
        assert_eq!(watched.look(), Some(Err("bad".into())));
        std::fs::write(&path, "c").unwrap();
        assert_eq!(watched.look(), None);
        assert_eq!(watched.look(), Some(Ok(())));
    }
}
