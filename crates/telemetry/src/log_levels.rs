//! The levels of Maxine's own log: the filter of the settings, and levels that an operator sets for a time.
//!
//! The log belongs to the process and not to a node, so there is one [`LogLevels`] for the process. The program installs
//! it with the log.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Maximum number of modules whose level is set at the same time.
const SET_MAX: usize = 64;
/// Maximum duration for which a level is set, in milliseconds (24 hours).
pub const LOG_LEVEL_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// The crates that write log lines: this project's, and those of dependencies. A filter that begins with another name
/// has no effect. A test compares the list with the locked dependencies.
const CRATES: [&str; 36] = [
    "actix",
    "h2",
    "hyper_util",
    "iana_time_zone",
    "jiff",
    "jni",
    "log",
    "maxine",
    "maxine_actors",
    "maxine_admission",
    "maxine_api",
    "maxine_balance",
    "maxine_clock",
    "maxine_consul",
    "maxine_control",
    "maxine_discovery",
    "maxine_dns",
    "maxine_gateway",
    "maxine_http1",
    "maxine_identity",
    "maxine_raft",
    "maxine_state",
    "maxine_store",
    "maxine_telemetry",
    "maxine_view",
    "maxine_wording",
    "openraft",
    "opentelemetry",
    "redis",
    "reqwest",
    "rustls",
    "rustls_platform_verifier",
    "sled",
    "tonic",
    "tower",
    "tower_http",
];

/// A level of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Errors.
    Error,
    /// Warnings and errors.
    Warn,
    /// What happens rarely and is worth knowing, and everything above.
    Info,
    /// Details, and everything above.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// All levels, from the fewest lines to the most.
    pub const ALL: [Self; 6] =
        [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The level as a filter names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// The level with this name, in upper or lower case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(name))
    }
}

/// The level of a module, until a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ModuleLevel {
    /// The module, such as `maxine_raft` or `maxine_gateway::pool`. What is below it has the same level.
    pub module: String,
    /// Its level.
    pub level: LogLevel,
    /// When the level of the settings applies again, in milliseconds since 1970.
    pub until_ms: u64,
    /// The user who set it.
    pub by: String,
}

/// Takes a filter, in the syntax of the settings.
type Apply = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// The levels of the log of this process.
pub struct LogLevels {
    /// The filter of the settings.
    filter: String,
    apply: Box<Apply>,
    set: Mutex<BTreeMap<String, ModuleLevel>>,
    changed: Notify,
}

static INSTALLED: OnceLock<LogLevels> = OnceLock::new();

impl LogLevels {
    /// Levels that start with the filter of the settings. `apply` makes a filter effective.
    #[must_use]
    pub fn new(
        filter: &str,
        apply: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let (filter, apply) = (filter.to_owned(), Box::new(apply));
        Self { filter, apply, set: Mutex::default(), changed: Notify::new() }
    }

    /// Makes these the levels of the process. Only the first call has an effect.
    pub fn install(self) {
        let _already_installed = INSTALLED.set(self);
    }

    /// The levels of the process. `None` if its log is not Maxine's, as in a test.
    #[must_use]
    pub fn of_process() -> Option<&'static Self> {
        INSTALLED.get()
    }

    /// The filter of the settings.
    #[must_use]
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// The levels that are set now.
    #[must_use]
    pub fn list(&self) -> Vec<ModuleLevel> {
        self.set.lock().values().cloned().collect()
    }

    /// Sets the level of a module.
    ///
    /// # Errors
    ///
    /// Too many levels are set, or the module's name is not one. Nothing was changed.
    pub fn set(&self, level: ModuleLevel) -> Result<(), String> {
        check_target(&level.module)?;
        let mut set = self.set.lock();
        if !set.contains_key(&level.module) && set.len() >= SET_MAX {
            return Err(format!("at most {SET_MAX} modules can have a level of their own"));
        }
        let before = set.insert(level.module.clone(), level.clone());
        if let Err(why) = (self.apply)(&self.effective(&set)) {
            match before {
                Some(before) => set.insert(before.module.clone(), before),
                None => set.remove(&level.module),
            };
            return Err(why);
        }
        drop(set);
        self.changed.notify_one();
        Ok(())
    }

    /// Checks the name of a module.
    ///
    /// # Errors
    ///
    /// It is not the name of one that writes log lines.
    pub fn check_module(module: &str) -> Result<(), String> {
        check_target(module)
    }

    /// Ends the level of a module early. Returns whether it had one.
    ///
    /// # Errors
    ///
    /// The log does not take the filter.
    pub fn unset(&self, module: &str) -> Result<bool, String> {
        let mut set = self.set.lock();
        let was_set = set.remove(module).is_some();
        if was_set {
            (self.apply)(&self.effective(&set))?;
        }
        Ok(was_set)
    }

    /// Ends the levels whose time is over. Returns the earliest end of the others.
    fn expire(&self, now_ms: u64) -> Option<u64> {
        let mut set = self.set.lock();
        let before = set.len();
        set.retain(|_, level| level.until_ms > now_ms);
        if set.len() < before
            && let Err(error) = (self.apply)(&self.effective(&set))
        {
            tracing::error!(%error, "a log level could not be set back");
        }
        set.values().map(|level| level.until_ms).min()
    }

    /// Ends each level when its time is over. Runs until it is dropped.
    pub async fn end_in_time(&self, wall_ms: impl Fn() -> u64) {
        loop {
            let now_ms = wall_ms();
            match self.expire(now_ms) {
                // A wall clock can be set back, so it is read again at least once a minute.
                Some(next_ms) => {
                    let pause = Duration::from_millis((next_ms - now_ms).min(60_000));
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep(pause) => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// The filter with the levels that are set. For one target the later entry counts.
    fn effective(&self, set: &BTreeMap<String, ModuleLevel>) -> String {
        let entry = |level: &ModuleLevel| format!("{}={}", level.module, level.level.as_str());
        let entries = set.values().map(entry);
        let filter = (!self.filter.is_empty()).then(|| self.filter.clone());
        filter.into_iter().chain(entries).collect::<Vec<_>>().join(",")
    }
}

/// Checks a filter of the settings: `LEVEL` or `TARGET=LEVEL`, separated by commas. `tracing` itself takes a level that is
/// not spelled well as a target, and a target that does not exist.
///
/// # Errors
///
/// Says which entry is wrong.
pub fn check_log_filter(filter: &str) -> Result<(), String> {
    for entry in filter.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let Some((target, level)) = entry.rsplit_once('=') else {
            LogLevel::named(entry).ok_or_else(|| not_a_level(entry))?;
            continue;
        };
        LogLevel::named(level).ok_or_else(|| not_a_level(level))?;
        check_target(target)?;
    }
    Ok(())
}

fn not_a_level(text: &str) -> String {
    let levels = LogLevel::ALL.map(LogLevel::as_str).join(", ");
    format!("`{text}` is not a level; the levels are {levels}")
}

/// Checks the name of a module.
fn check_target(target: &str) -> Result<(), String> {
    let segments = || target.split("::");
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    if target.len() > 255 || !segments().all(is_name) {
        return Err(format!("`{target}` is not a module such as maxine_raft or maxine_api::serve"));
    }
    let first = segments().next().unwrap_or_default();
    if CRATES.contains(&first) {
        return Ok(());
    }
    Err(format!("no module `{first}` writes log lines; those that do are {}", CRATES.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_filter_with_a_typo_is_refused() {
        for good in
            ["", "info", "WARN", "info,openraft=error,openraft::raft=off", " info , maxine=debug "]
        {
            assert_eq!(check_log_filter(good), Ok(()), "{good}");
        }
        for (bad, part) in [
            ("inof", "`inof` is not a level"),
            ("info,maxine=debgu", "`debgu` is not a level"),
            ("maxin=debug", "no module `maxin`"),
            ("info,openraft", "`openraft` is not a level"),
            ("maxine::=debug", "`maxine::` is not a module"),
            ("maxine[span]=debug", "is not a module"),
        ] {
            let why = check_log_filter(bad).unwrap_err();
            assert!(why.contains(part), "{bad}: {why}");
        }
    }

    #[test]
    fn a_level_ends_in_time_and_the_settings_apply_again() {
        let applied = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&applied);
        let levels = LogLevels::new("info", move |filter| {
            log.lock().push(filter.to_owned());
            Ok(())
        });
        let level = |module: &str, until_ms| ModuleLevel {
            module: module.into(),
            level: LogLevel::Debug,
            until_ms,
            by: "ann".into(),
        };
        levels.set(level("maxine_raft", 2_000)).unwrap();
        levels.set(level("maxine_api", 1_000)).unwrap();
        assert!(levels.set(level("maxin_api", 1_000)).unwrap_err().contains("no module"));
        assert_eq!(levels.expire(999), Some(1_000));
        assert_eq!(levels.expire(1_000), Some(2_000));
        assert!(levels.unset("maxine_raft").unwrap());
        assert!(!levels.unset("maxine_raft").unwrap());
        assert_eq!(
            *applied.lock(),
            [
                "info,maxine_raft=debug",
                "info,maxine_api=debug,maxine_raft=debug",
                "info,maxine_raft=debug",
                "info"
            ]
        );
        for number in 0..SET_MAX {
            levels.set(level(&format!("maxine::m{number}"), 1_000)).unwrap();
        }
        assert!(levels.set(level("maxine::more", 1_000)).is_err());
    }

    #[test]
    fn a_filter_that_the_log_refuses_changes_nothing() {
        let levels = LogLevels::new("info", |_| Err("no".into()));
        let level = ModuleLevel {
            module: "maxine".into(),
            level: LogLevel::Trace,
            until_ms: 1,
            by: String::new(),
        };
        assert_eq!(levels.set(level), Err("no".into()));
        assert!(levels.list().is_empty());
    }

    /// A new dependency that writes log lines must be in the list.
    #[test]
    fn every_locked_crate_that_can_log_is_known() {
        let lock = include_str!("../../../Cargo.lock");
        // Crates of the log itself, and those that are not part of the program on Linux or that write no lines.
        let silent = [
            "jiff-core",
            "maxine-bench",
            "maxine-chaos-tests",
            "maxine-client",
            "tracing",
            "tracing-log",
            "tracing-serde",
            "tracing-subscriber",
            "zopfli",
        ];
        for package in lock.split("[[package]]").skip(1) {
            let name = package.split('"').nth(1).unwrap_or_default();
            let logs = ["\"tracing\"", "\"log\"", "\"tracing-core\""];
            let dependencies = package.split("dependencies = [").nth(1).unwrap_or_default();
            if logs.iter().any(|log| dependencies.contains(log)) && !silent.contains(&name) {
                let name = name.replace('-', "_");
                assert!(CRATES.contains(&&*name), "{name} is missing");
            }
        }
    }
}
