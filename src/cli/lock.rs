//! `maxine lock` and `maxine session`: runs a command while it holds a lock, and shows who holds which locks.

use std::ffi::OsString;
use std::future::Future;
use std::os::unix::process::ExitStatusExt;
use std::pin::{Pin, pin};
use std::process::ExitStatus;
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Client, ConnectArgs, LIST_ITEMS_MAX, Request};
use super::confirm::confirm;
use super::exit::{self, CliError};
use super::locked_command::{END_TIMEOUT, LockedCommand, SESSION_VARIABLE, Signals, ends};
use super::output::{Output, or_dash, timestamp};
use maxine_clock::Clock;
use maxine_state::limits::{LOCK_DELAY_MS_MAX, LOCK_SESSION_TTL_MS_MAX, TTL_MS_MIN};

/// How long a request for the lock waits for a change of it, in milliseconds. It is below the time limit of a request.
const WAIT_MS: u64 = 2_000;
/// Pause before the lock is requested again while a lock delay is not over, because its end is no change of the key.
const DELAY_PAUSE: Duration = Duration::from_millis(500);

/// The requests for the lock get this time beyond `--wait-ms`, in milliseconds. So a node can answer the last one, also
/// with `--wait-ms 0`.
const ANSWER_MS: u64 = 2_000;
/// The session of a lock that was not taken is ended within this time at least, in milliseconds.
const END_MS_MIN: u64 = 500;

/// Arguments of `maxine lock`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The command gets the lock's key in MAXINE_LOCK_KEY, its session in MAXINE_LOCK_SESSION, and its fencing token in \
MAXINE_LOCK_INDEX, which grows with each new holder. The exit code is that of the command, or 128 and the number of \
the signal that ended it. If the lock is lost, the command gets SIGTERM, and SIGKILL after 5 seconds, and the exit code \
is 7. SIGTERM, SIGHUP, SIGINT and SIGQUIT are passed to the command; after SIGTERM and SIGHUP it has 5 seconds until \
SIGKILL.

Example: run a script on one machine at a time, and wait for the lock for at most a minute:
  maxine lock jobs/nightly --wait-ms 60000 -- ./nightly.sh")]
pub struct LockArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The key to lock
    key: String,
    /// The command and its arguments
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    command: Vec<OsString>,
    /// The lock is lost after this time without a renewal, in milliseconds (1000 to 86400000)
    #[arg(long, value_name = "MS", default_value_t = 15_000,
        value_parser = clap::value_parser!(u64).range(TTL_MS_MIN..=LOCK_SESSION_TTL_MS_MAX))]
    ttl_ms: u64,
    /// How long nobody gets the lock after it was lost, in milliseconds (0 to 60000)
    #[arg(long, value_name = "MS", default_value_t = 15_000,
        value_parser = clap::value_parser!(u64).range(0..=LOCK_DELAY_MS_MAX))]
    lock_delay_ms: u64,
    /// How long to wait for the lock, in milliseconds; 0 tries once. By default it waits without end. After this time
    /// the exit code is 5
    #[arg(long, value_name = "MS")]
    wait_ms: Option<u64>,
}

/// Arguments of `maxine session`.
#[derive(Debug, clap::Args)]
pub struct SessionArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    action: Option<SessionAction>,
}

#[derive(Debug, clap::Subcommand)]
enum SessionAction {
    /// List lock sessions and the keys that they hold (the default)
    List,
    /// End a lock session: its keys are unlocked or deleted
    Destroy(DestroyArgs),
}

#[derive(Debug, clap::Args)]
struct DestroyArgs {
    /// The session's id, as the list shows it
    id: String,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

impl LockArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

impl SessionArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// Runs `maxine session`.
///
/// # Errors
/// See [`CliError`].
pub async fn session(args: SessionArgs, out: &mut Output) -> Result<(), CliError> {
    #[derive(Deserialize)]
    struct Session {
        id: String,
        name: String,
        node: String,
        ttl_ms: Option<u64>,
        created_at_ms: u64,
        created_by: String,
        locks: Vec<String>,
        locks_len: usize,
    }
    let client = args.connect.client()?;
    if let Some(SessionAction::Destroy(args)) = args.action {
        confirm(&format!("end the lock session {}", args.id), args.yes)?;
        let request = Request::keyed(Method::DELETE, &["sessions", &args.id]);
        let answer = client.send(&request).await?;
        return out.done(&answer.body, format!("{} has ended", args.id));
    }
    let list = client.list(&Request::get(&["sessions"]), LIST_ITEMS_MAX).await?;
    if out.is_json() {
        return list.items.iter().try_for_each(|item: &Value| out.json(item));
    }
    let sessions: Vec<Session> = list.read()?;
    if sessions.is_empty() {
        return out.line("no lock sessions");
    }
    let row = |session: Session| {
        let more = session.locks_len - session.locks.len().min(session.locks_len);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let text = |text: String| or_dash(Some(text).filter(|text| !text.is_empty()));
        vec![
            session.id,
            text(session.name),
            text(session.node),
            or_dash(session.ttl_ms.map(|ttl_ms| ttl_ms.to_string())),
            timestamp(session.created_at_ms),
            session.created_by,
            text(format!("{}{more}", session.locks.join(" "))),
        ]
    };
    let rows = sessions.into_iter().map(row).collect();
    out.table(&["session", "name", "node", "ttl_ms", "since", "by", "holds"], rows)
}

/// A lock session, and until when it certainly lives.
struct Held<'a> {
    client: &'a Client,
    clock: Clock,
    id: String,
    ttl_ms: u64,
    /// When the last renewal that was answered was sent, on the monotonic clock.
    renewed_ms: u64,
}

impl<'a> Held<'a> {
    async fn new(client: &'a Client, args: &LockArgs, clock: Clock) -> Result<Self, CliError> {
        let node = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let body = json!({
            "name": format!("maxine lock {}", args.key).chars().take(60).collect::<String>(),
            "node": node.unwrap_or_default(),
            "ttl_ms": args.ttl_ms,
            "lock_delay_ms": args.lock_delay_ms,
        });
        let renewed_ms = clock.monotonic_ms();
        let limit_ms = args.wait_ms.map_or(u64::MAX, |wait_ms| wait_ms.saturating_add(ANSWER_MS));
        let request = Request::keyed(Method::POST, &["sessions"]).json(body).within(limit_ms);
        let answer = client.send(&request).await?;
        let id = answer.body["id"].as_str().unwrap_or_default().to_owned();
        Ok(Self { client, clock, id, ttl_ms: args.ttl_ms, renewed_ms })
    }

    /// The time until the session may be over, in milliseconds.
    fn left_ms(&self) -> u64 {
        (self.renewed_ms + self.ttl_ms).saturating_sub(self.clock.monotonic_ms())
    }

    /// The time until then, in milliseconds. Without a limit it does not end.
    fn left_until_ms(&self, limit_ms: Option<u64>) -> u64 {
        limit_ms.map_or(u64::MAX, |limit_ms| limit_ms.saturating_sub(self.clock.monotonic_ms()))
    }

    /// Renews the session. `false` if it is over.
    async fn renew(&mut self) -> Result<bool, CliError> {
        let sent_ms = self.clock.monotonic_ms();
        // A repeat does no harm.
        let request = Request::keyed(Method::POST, &["sessions", &self.id, "renew"]);
        let request = request.hedged((self.ttl_ms / 20).clamp(50, 1_000));
        match self.client.send(&request).await {
            Ok(_) => {
                self.renewed_ms = sent_ms;
                Ok(true)
            }
            Err(error) if error.exit_code() == exit::NOT_FOUND => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Renews the session three times within each time to live, until it is lost. Returns why.
    async fn keep(&mut self) -> String {
        loop {
            tokio::time::sleep(Duration::from_millis(self.ttl_ms / 3)).await;
            // Attempts that fail are repeated until the session may be over.
            loop {
                let left = Duration::from_millis(self.left_ms());
                match tokio::time::timeout(left, self.renew()).await {
                    Ok(Ok(true)) => break,
                    Ok(Ok(false)) => return "its session ended".into(),
                    Ok(Err(error)) if error.exit_code() == exit::REFUSED => {
                        return error.to_string();
                    }
                    Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                    Err(_) => return format!("no renewal was confirmed within {} ms", self.ttl_ms),
                }
            }
        }
    }

    /// Ends the session, so that the lock is free. Whether that works or not, it ends after its time to live.
    async fn end(&self, key: &str) {
        let release = Request::keyed(Method::DELETE, &["locks", key]);
        // A lock that is given back has no lock delay, and one that is still held at the end of the session has.
        let _released = self.client.send(&release.query("session", Some(&self.id))).await;
        let destroy = Request::keyed(Method::DELETE, &["sessions", &self.id]);
        let _ended = self.client.send(&destroy).await;
    }

    /// Waits until the session holds the lock. Returns the fencing token. At `until_ms` the lock is asked for once more.
    async fn take(&mut self, key: &str, until_ms: Option<u64>) -> Result<u64, CliError> {
        let end_ms = until_ms.map(|until_ms| until_ms.saturating_add(ANSWER_MS));
        loop {
            let request = Request::keyed(Method::PUT, &["locks", key]);
            let request = request.json(json!({"session": self.id}));
            let request = request.within(self.left_until_ms(end_ms));
            let why = match self.client.send(&request).await {
                Ok(answer) => return Ok(answer.body["lock_index"].as_u64().unwrap_or_default()),
                Err(CliError::Problem(problem)) if problem.status == 409 => problem.detail,
                Err(error) => return Err(error),
            };
            let left_ms = self.left_until_ms(until_ms);
            if left_ms == 0 {
                let text = format!("the lock was not free within --wait-ms: {why}");
                return Err(CliError::Refused(text));
            }
            let waited = async {
                self.wait(key).await?;
                self.renew().await
            };
            match tokio::time::timeout(Duration::from_millis(left_ms), waited).await {
                Ok(Ok(true)) | Err(_) => {}
                Ok(Ok(false)) => {
                    return Err(CliError::Refused("the lock session ended while it waited".into()));
                }
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// Waits until the lock may be free, for a short time.
    async fn wait(&self, key: &str) -> Result<(), CliError> {
        let look = Request::get(&["locks", key]);
        let seen = self.client.send(&look).await?;
        if seen.body["session"].is_null() {
            tokio::time::sleep(DELAY_PAUSE).await;
            return Ok(());
        }
        let wait_ms = WAIT_MS.min(self.ttl_ms / 3);
        let look = look.query("index", seen.index()).query("wait_ms", Some(wait_ms));
        let look = look.hedged(wait_ms + 1_000);
        self.client.send(&look).await.map(drop)
    }
}

/// Runs `maxine lock`.
///
/// # Errors
/// [`CliError::Ended`] with the exit code of the command, [`CliError::LockLost`] if the lock was lost,
/// [`CliError::Refused`] if it was not free in time. See [`CliError`] for the rest.
pub async fn lock(args: LockArgs, out: &mut Output) -> Result<(), CliError> {
    LockedCommand::check(&args.command)?;
    let client = args.connect.client()?;
    let clock = Clock::system();
    let until_ms = args.wait_ms.map(|wait_ms| clock.monotonic_ms().saturating_add(wait_ms));
    let mut signals = Signals::new()?;
    let mut held = Held::new(&client, &args, clock).await?;
    let taken = tokio::select! {
        taken = held.take(&args.key, until_ms) => taken,
        signal = signals.next() => Err(CliError::Ended(code_of_signal(signal as i32))),
    };
    let lock_index = match taken {
        Ok(lock_index) => lock_index,
        Err(error) => {
            // If this does not work in time, the session ends by itself.
            let limit_ms = held.left_until_ms(until_ms).clamp(END_MS_MIN, ANSWER_MS);
            let limit = Duration::from_millis(limit_ms);
            let _late = tokio::time::timeout(limit, held.end(&args.key)).await;
            return Err(error);
        }
    };
    let ended = run(&args, &mut held, lock_index, &mut signals, out).await;
    match ended {
        Err(error @ CliError::LockLost(_)) => return Err(error),
        _ => held.end(&args.key).await,
    }
    match ended? {
        exit::OK => Ok(()),
        code => Err(CliError::Ended(code)),
    }
}

/// Runs the command until it has ended, and meanwhile keeps the lock and passes signals on.
async fn run(
    args: &LockArgs,
    held: &mut Held<'_>,
    lock_index: u64,
    signals: &mut Signals,
    out: &mut Output,
) -> Result<u8, CliError> {
    if out.is_json() {
        out.json(&json!({"event": "locked", "key": args.key, "lock_index": lock_index}))?;
    }
    let environment = [
        ("MAXINE_LOCK_KEY", args.key.clone()),
        (SESSION_VARIABLE, held.id.clone()),
        ("MAXINE_LOCK_INDEX", lock_index.to_string()),
    ];
    let mut command = LockedCommand::start(&args.command, &held.id, environment)?;
    // One future for all turns: signals in quick succession must not keep it from renewing the session.
    let mut lost = pin!(held.keep());
    let mut kill: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(std::future::pending());
    let mut is_ending = false;
    loop {
        tokio::select! {
            status = command.gone() => return Ok(code_of(status?)),
            why = &mut lost => {
                command.end().await;
                let text = format!("{} was lost: {why}; the command was ended", args.key);
                return Err(CliError::LockLost(text));
            }
            signal = signals.next() => {
                command.pass(signal);
                if ends(signal) && !is_ending {
                    is_ending = true;
                    kill = Box::pin(tokio::time::sleep(END_TIMEOUT));
                }
            }
            () = &mut kill => {
                kill = Box::pin(std::future::pending());
                command.kill();
            }
        }
    }
}

/// The exit code of a command, as a shell reports it.
fn code_of(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(exit::FAILURE),
        (None, Some(signal)) => code_of_signal(signal),
        (None, None) => exit::FAILURE,
    }
}

fn code_of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(exit::FAILURE)
}
