//! Hashes passwords with argon2id, on its own threads, a few at a time.
//!
//! A hash takes tens of milliseconds and megabytes of memory by design. Without a limit, anyone who can reach
//! the sign-in could use all memory and threads of the node. The blocking threads of the runtime are not
//! used, because file access and DNS look-ups can occupy all of them, and then nobody could sign in.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::{Semaphore, oneshot};

use maxine_admission::{CallerClass, PlaceLimits, Places, WorkTurns};
use maxine_state::{Given, Limit, LimitExceeded};

/// Maximum number of concurrent hashes.
const CONCURRENT_MAX: usize = 2;
/// Maximum number of those of one address.
const OF_ADDRESS_MAX: usize = 1;
/// Maximum number of passwords of callers with a credential that are checked or wait.
const KNOWN_MAX: usize = 34;
/// Minimum length of a password, in characters.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Maximum length of a password, in bytes. A longer one would only take more time.
pub const PASSWORD_LEN_MAX: usize = 1_024;

/// Checks a new password. Every way to set a password uses this rule. The error does not contain the
/// password.
pub fn check_password(field: &str, password: &str) -> Result<(), LimitExceeded> {
    let chars = password.chars().count();
    if chars >= PASSWORD_CHARS_MIN && password.len() <= PASSWORD_LEN_MAX {
        return Ok(());
    }
    let limit =
        Limit::Password { chars_min: PASSWORD_CHARS_MIN as u64, len_max: PASSWORD_LEN_MAX as u64 };
    Err(LimitExceeded::new(field, limit, Given::Characters(chars as u64)))
}

/// The cost of a hash (RFC 9106).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordCost {
    /// Memory, in KiB, at least 8.
    pub memory_kib: u32,
    /// Number of passes over the memory, at least 1.
    pub passes: u32,
}

impl Default for PasswordCost {
    fn default() -> Self {
        Self { memory_kib: 19 * 1_024, passes: 2 }
    }
}

/// Too many passwords are being checked. A retry is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are being checked; try again in 1 s")]
pub struct PasswordBusy;

/// Why a password was not hashed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Users may not have this password.
    #[error(transparent)]
    Refused(#[from] LimitExceeded),
    /// Too many passwords are being hashed. A retry is safe.
    #[error(transparent)]
    Busy(#[from] PasswordBusy),
}

/// The caller for whom a password is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordCaller {
    /// A caller without a credential, at this address.
    Stranger(IpAddr),
    /// A caller with a credential, or the node itself.
    Known,
}

/// Hashes and checks passwords.
pub struct Passwords {
    cost: PasswordCost,
    running: Arc<Semaphore>,
    /// For callers without a credential. As many of them wait for `running` as can have it, and callers with a credential
    /// wait for no more than these.
    strangers: WorkTurns,
    known: Arc<Places>,
    /// A hash that is checked for users that do not exist, so that the check takes as long as for others.
    decoy: Box<str>,
}

impl Passwords {
    /// New hashes have this cost.
    pub fn new(cost: PasswordCost) -> Self {
        let decoy = hash_blocking(cost, "no user has this").unwrap_or_default();
        Self {
            cost,
            running: Arc::new(Semaphore::new(CONCURRENT_MAX)),
            strangers: WorkTurns::new(CONCURRENT_MAX, OF_ADDRESS_MAX),
            known: Places::new(PlaceLimits {
                max: KNOWN_MAX,
                per_address_max: KNOWN_MAX,
                reserved: 0,
            }),
            decoy,
        }
    }

    /// Whether `password` fits `hash`. Without a hash, returns `false` after the same work.
    pub async fn verify(
        &self,
        password: &str,
        hash: Option<Box<str>>,
        caller: PasswordCaller,
    ) -> Result<bool, PasswordBusy> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.decoy.clone());
        let fits_length = password.len() <= PASSWORD_LEN_MAX;
        let password: Box<str> = if fits_length { password.into() } else { "".into() };
        let fits = self.run(caller, move || verify_blocking(&password, &hash)).await?;
        Ok(fits && known && fits_length)
    }

    /// The hash of a new password, in PHC form.
    pub async fn hash(&self, password: &str) -> Result<Box<str>, PasswordError> {
        check_password("password", password)?;
        let (cost, password) = (self.cost, Box::<str>::from(password));
        let work = move || hash_blocking(cost, &password);
        Ok(self.run(PasswordCaller::Known, work).await?.ok_or(PasswordBusy)?)
    }

    /// Runs hashing work on a thread of its own; starting a thread takes little time compared to the work.
    /// The permits belong to the work: if a caller goes away, no other one is admitted before the work has
    /// ended.
    async fn run<T: Send + 'static>(
        &self,
        caller: PasswordCaller,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordBusy> {
        let (turn, place) = match caller {
            PasswordCaller::Stranger(address) => {
                (Some(self.strangers.take(address).await.ok_or(PasswordBusy)?), None)
            }
            PasswordCaller::Known => {
                let address = Ipv4Addr::UNSPECIFIED.into();
                let place = self.known.take(address, CallerClass::Trusted, 1);
                (None, Some(place.map_err(|_| PasswordBusy)?))
            }
        };
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| PasswordBusy)?;
        let (reply, done) = oneshot::channel();
        let work = move || {
            let result = work();
            drop((turn, place, running));
            // The caller may have gone away.
            let _gone = reply.send(result);
        };
        let thread = std::thread::Builder::new().name("password".into()).spawn(work);
        thread.map_err(|error| {
            tracing::warn!(%error, "no thread could be started to check a password");
            PasswordBusy
        })?;
        done.await.map_err(|_| PasswordBusy)
    }
}

fn hash_blocking(cost: PasswordCost, password: &str) -> Option<Box<str>> {
    let params = Params::new(cost.memory_kib, cost.passes, 1, None).ok()?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let salt = SaltString::generate(&mut OsRng);
    let hash = argon2.hash_password(password.as_bytes(), &salt).ok()?;
    Some(hash.to_string().into())
}

// The hash contains its cost, so a hash that was made with another setting is still valid.
fn verify_blocking(password: &str, hash: &str) -> bool {
    let Ok(parsed) = PasswordHash::new(hash) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: PasswordCost = PasswordCost { memory_kib: 8, passes: 1 };

    #[tokio::test]
    async fn a_password_fits_its_hash_and_no_other() {
        let passwords = Passwords::new(CHEAP);
        let hash = passwords.hash("right one").await.unwrap();
        assert!(hash.starts_with("$argon2id$") && !hash.contains("right one"));
        assert_ne!(hash, passwords.hash("right one").await.unwrap(), "salted");
        assert_eq!(
            passwords.verify("right one", Some(hash.clone()), PasswordCaller::Known).await,
            Ok(true)
        );
        assert_eq!(
            passwords.verify("wrong one", Some(hash.clone()), PasswordCaller::Known).await,
            Ok(false)
        );
        assert_eq!(
            passwords.verify("no user has this", None, PasswordCaller::Known).await,
            Ok(false)
        );
        let long = "r".repeat(PASSWORD_LEN_MAX + 1);
        assert_eq!(passwords.verify(&long, Some(hash), PasswordCaller::Known).await, Ok(false));
        assert_eq!(
            passwords.verify("x", Some("damaged".into()), PasswordCaller::Known).await,
            Ok(false)
        );
    }

    #[test]
    fn passwords_are_checked_while_all_blocking_threads_are_taken() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let blocked = runtime.spawn_blocking(move || held.recv());
        let passwords = Passwords::new(CHEAP);
        let verified = runtime.block_on(async {
            let verify = passwords.verify("x", None, PasswordCaller::Known);
            tokio::time::timeout(std::time::Duration::from_secs(20), verify).await
        });
        assert!(!blocked.is_finished());
        drop(release);
        assert_eq!(verified, Ok(Ok(false)));
    }

    #[tokio::test]
    async fn many_addresses_that_try_passwords_do_not_keep_others_from_signing_in() {
        let passwords = Arc::new(Passwords::new(CHEAP));
        let shared = Arc::clone(&passwords);
        let verify = move |last: u8| {
            let passwords = Arc::clone(&shared);
            let caller = PasswordCaller::Stranger(IpAddr::from([10, 0, 0, last]));
            async move { passwords.verify("x", None, caller).await }
        };
        let attack: Vec<_> = (1..=120)
            .map(|n| {
                let tries = verify.clone();
                tokio::spawn(async move {
                    loop {
                        let _busy = tries(n % 40).await;
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        for last in 200..220 {
            assert_eq!(verify(last).await, Ok(false), "{last}");
        }
        assert!(passwords.hash("long enough").await.is_ok(), "callers with a credential, too");
        attack.iter().for_each(|one| one.abort());
        let all =
            passwords.known.take(Ipv4Addr::UNSPECIFIED.into(), CallerClass::Trusted, KNOWN_MAX);
        assert!(all.is_ok());
        assert_eq!(passwords.hash("long enough").await, Err(PasswordBusy.into()), "all are taken");
    }

    #[tokio::test]
    async fn a_password_has_eight_characters_at_least() {
        let passwords = Passwords::new(CHEAP);
        for refused in ["", "x", "admin", "admin2", "1234567", "passwör", &"x".repeat(1_025)] {
            let error = passwords.hash(refused).await.unwrap_err();
            let PasswordError::Refused(limit) = &error else { panic!("{error}") };
            assert!(limit.to_string().contains("at least 8 characters"), "{limit}");
            assert!(refused.is_empty() || !limit.to_string().contains(refused), "{limit}");
        }
        // The limit counts characters, not bytes.
        for accepted in ["12345678", "pässwörd", &"x".repeat(1_024)] {
            passwords.hash(accepted).await.unwrap();
        }
    }
}
