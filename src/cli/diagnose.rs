//! `maxine diagnose`: writes what is needed to look into a problem into one archive, for example for a ticket.
//!
//! The command changes nothing. The archive lists everything that could not be read, with the reason. So a reader knows
//! whether a file is missing or had no content.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::future::{join, join_all, join3};
use serde_json::{Value, json};

use super::client::{Answer, Client, ConnectArgs, Request};
use super::doctor;
use super::download::{check_target, new_private_file};
use super::each_node::{Node, nodes};
use super::exit::CliError;
use super::output::{Output, timestamp};
use super::serve::{Loaded, ServeArgs};
use maxine_clock::Clock;

/// Maximum length of one text that is read, in bytes. A longer one is cut, and the archive says so.
const TEXT_LEN_MAX: u64 = 32 << 20;
/// How much of the end of the node's log file is read, in bytes.
const LOG_LEN_MAX: u64 = 4 << 20;
/// Maximum time between two parts of an answer, in milliseconds.
const SILENCE_MS_MAX: u64 = 10_000;
/// Maximum number of traces, alerts and records that are read of each kind.
const ITEMS_MAX: u64 = 1_000;
/// The period of the calls per service, in milliseconds.
const WINDOW_MS: u64 = 900_000;

/// Arguments of `maxine diagnose`.
#[derive(Debug, clap::Args)]
pub struct DiagnoseArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The archive to be written [default: maxine-diagnosis-TIME.tar.gz in this directory]
    file: Option<PathBuf>,
    /// Settings file of the node on this machine: also include its settings, without secrets, and the end of its log
    /// file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl DiagnoseArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// What every node is asked for: the name of the file, and the segments of the path.
fn of_each_node() -> Vec<(&'static str, Request)> {
    let get = |segments: &[&str]| Request::get(segments);
    vec![
        ("status.json", get(&["cluster", "status"])),
        ("ready.json", get(&["ready"])),
        ("nodes.json", get(&["cluster", "nodes"])),
        ("leadership.json", get(&["cluster", "leadership"]).query("limit", Some(ITEMS_MAX))),
        ("alerts.json", get(&["alerts"]).query("limit", Some(ITEMS_MAX))),
        ("silences.json", get(&["alerts", "silences"])),
        ("traces.json", get(&["traces"]).query("limit", Some(ITEMS_MAX))),
        ("calls.json", get(&["traffic", "services"]).query("window_ms", Some(WINDOW_MS))),
        ("log-levels.json", get(&["log-levels"])),
        ("digest.json", get(&["cluster", "digest"])),
    ]
}

/// What one node is asked for, because it is the same on every node.
fn of_the_cluster() -> Vec<(&'static str, Request)> {
    let get = |segments: &[&str]| Request::get(segments);
    vec![
        ("config.json", get(&["config"])),
        ("services.json", get(&["services"]).query("limit", Some(ITEMS_MAX))),
        ("audit.json", get(&["audit"]).query("limit", Some(ITEMS_MAX))),
    ]
}

/// Runs `maxine diagnose`.
///
/// # Errors
/// [`CliError::Incomplete`] if the archive was written and lacks something; see [`CliError`] for others.
pub async fn run(args: DiagnoseArgs, out: &mut Output) -> Result<(), CliError> {
    let now_ms = Clock::system().wall_ms();
    let file = args.file.clone().unwrap_or_else(|| {
        let time = timestamp(now_ms).replace([' ', ':'], "-");
        PathBuf::from(format!("maxine-diagnosis-{time}.tar.gz"))
    });
    check_target(&file)?;
    // Without the right to read, there is nothing to write. A node that does not answer is no reason to stop.
    let client = args.connect.client()?;
    let request = Request::get(&["cluster", "status"]).within(args.connect.timeout_ms / 4);
    let status = client.send(&request).await;
    if let Err(CliError::Problem(problem)) = status
        && matches!(problem.status, 401 | 403)
    {
        return Err(CliError::Problem(problem));
    }
    let mut bundle = Bundle::new(now_ms);
    let nodes = nodes(&args.connect.within(client.left_ms()), 1).await?;
    // All at once, so a node that does not answer costs one waiting time, and not one for each file.
    let rest = args.connect.within(client.left_ms());
    let any_node = rest.client()?;
    let of_the_cluster = of_the_cluster();
    let files = of_the_cluster.iter().map(async |(name, request)| {
        (format!("cluster/{name}"), json_of(&any_node, request).await)
    });
    let (of_nodes, files, findings) = join3(
        join_all(nodes.iter().map(files_of)),
        join_all(files),
        Box::pin(doctor::findings(&rest, args.config.as_deref())),
    )
    .await;
    of_nodes.into_iter().for_each(|files| bundle.extend(files));
    bundle.extend(files);
    match findings {
        Ok(findings) => bundle.add_json("doctor.json".into(), &json!(findings)),
        Err(error) => bundle.is_missing("doctor.json".into(), error.of_one_node()),
    }
    if let Some(config) = &args.config {
        add_machine(config, &mut bundle);
    }
    let missing = bundle.missing.len();
    let files = bundle.files.len();
    let len = bundle.write(&file)?;
    let name = file.display().to_string();
    out.done(
        &json!({"file": name, "files": files, "len": len, "missing": bundle.missing}),
        format!(
            "wrote {name} ({}, {len} bytes); read README.txt in it before you send it to others",
            maxine_wording::count(files, "file")
        ),
    )?;
    if missing == 0 {
        return Ok(());
    }
    let what = match missing {
        1 => "1 part is missing".to_owned(),
        n => format!("{n} parts are missing"),
    };
    let list: Vec<(String, String)> = bundle.missing;
    Err(CliError::Incomplete(format!("{what}:{}", super::exit::list(&list))))
}

/// The name of a file in the archive, and its content or why there is none.
type Made = (String, Result<Vec<u8>, CliError>);

/// The files about one node. Their answers are awaited at the same time.
async fn files_of(node: &Node) -> Vec<Made> {
    let folder = folder_of(&node.url);
    let requests = of_each_node();
    let documents = requests.iter().map(async |(name, request)| {
        (format!("{folder}/{name}"), json_of(&node.client, request).await)
    });
    let metrics = Request::metrics();
    let (mut files, text) = join(join_all(documents), text_of(node, &metrics)).await;
    files.push((format!("{folder}/metrics.txt"), text));
    files
}

/// Reads an answer that is JSON.
async fn json_of(client: &Client, request: &Request) -> Result<Vec<u8>, CliError> {
    json_in(client.send(request).await)
}

/// The JSON of an answer. A node that is not ready answers with 503, and the reason is what the archive is for.
fn json_in(answer: Result<Answer, CliError>) -> Result<Vec<u8>, CliError> {
    match answer {
        Ok(answer) => Ok(lines_of(&answer.body)),
        Err(CliError::Problem(problem)) if problem.raw["ready"].is_boolean() => {
            Ok(lines_of(&problem.raw))
        }
        Err(error) => Err(error),
    }
}

fn lines_of(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// The folder of a node in the archive. Its URL is known also when it does not answer.
fn folder_of(url: &str) -> String {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' };
    format!("nodes/{}", host.chars().map(safe).collect::<String>())
}

/// Reads an answer that is not JSON.
async fn text_of(node: &Node, request: &Request) -> Result<Vec<u8>, CliError> {
    let mut response = node.client.stream(request).await?;
    let mut text = Vec::new();
    loop {
        let part = tokio::time::timeout(Duration::from_millis(SILENCE_MS_MAX), response.chunk())
            .await
            .map_err(|_| CliError::Failed("the node stopped in the middle of its answer".into()))?
            .map_err(|error| CliError::Failed(format!("the connection was lost: {error}")))?;
        let Some(part) = part else { return Ok(text) };
        text.extend_from_slice(&part);
        if text.len() as u64 > TEXT_LEN_MAX {
            text.extend_from_slice(b"\n# cut here: the answer is longer than 32 MiB\n");
            return Ok(text);
        }
    }
}

/// Adds the settings and the log of the node on this machine.
fn add_machine(file: &Path, bundle: &mut Bundle) {
    let settings = maxine_files::read_text(file)
        .map_err(|error| maxine_wording::io(&error))
        .and_then(|text| text.parse::<toml::Table>().map_err(|error| error.message().to_owned()));
    match settings {
        Ok(table) => bundle.add_json("machine/settings.json".into(), &without_secrets(table)),
        Err(why) => bundle.is_missing("machine/settings.json".into(), why),
    }
    let serve = ServeArgs { config: Some(file.to_owned()), ..ServeArgs::default() };
    let name = "machine/log.txt".to_owned();
    let config = match serve.load() {
        Ok(Loaded { config, .. }) => config,
        Err(error) => return bundle.is_missing(name, error.0.join("; ")),
    };
    if config.telemetry.log_file.as_os_str().is_empty() {
        let why = "telemetry.log_file is not set; the service manager may have the log: journalctl -u maxine";
        return bundle.is_missing(name, why.into());
    }
    let path = config.data_dir.join(&config.telemetry.log_file);
    match end_of(&path) {
        Ok(text) => bundle.add(name, text),
        Err(error) => {
            let why = format!("{}: {}", path.display(), maxine_wording::io(&error));
            bundle.is_missing(name, why);
        }
    }
}

/// The end of a file, from the beginning of a line.
fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let len = file.metadata()?.len();
    let skipped = len.saturating_sub(LOG_LEN_MAX);
    file.seek(SeekFrom::Start(skipped))?;
    let mut text = Vec::new();
    file.take(LOG_LEN_MAX).read_to_end(&mut text)?;
    if skipped > 0 {
        let line = text.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        text.drain(..line);
    }
    Ok(text)
}

/// The settings as JSON. Of a URL only the scheme and the host are kept, because a password may be in it, or a secret
/// in its path. Other secrets are never in this file: a node takes them from files of their own or from its environment.
fn without_secrets(table: toml::Table) -> Value {
    fn cut(value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(cut_urls(&text)),
            Value::Array(items) => items.into_iter().map(cut).collect(),
            Value::Object(fields) => fields.into_iter().map(|(name, v)| (name, cut(v))).collect(),
            other => other,
        }
    }
    cut(json!(table))
}

/// A text in which each URL ends after its host.
fn cut_urls(text: &str) -> String {
    let one = |part: &str| {
        let Some((scheme, rest)) = part.split_once("://") else { return part.to_owned() };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let cut = if host.len() == rest.len() { "" } else { " (cut)" };
        format!("{scheme}://{host}{cut}")
    };
    text.split(',').map(one).collect::<Vec<_>>().join(",")
}

/// The files of the archive.
struct Bundle {
    made_at_ms: u64,
    files: Vec<(String, Vec<u8>)>,
    /// Files that could not be made, each with the reason.
    missing: Vec<(String, String)>,
}

impl Bundle {
    fn new(made_at_ms: u64) -> Self {
        Self { made_at_ms, files: Vec::new(), missing: Vec::new() }
    }

    fn add(&mut self, name: String, content: Vec<u8>) {
        self.files.push((name, content));
    }

    fn add_json(&mut self, name: String, value: &Value) {
        self.add(name, lines_of(value));
    }

    fn is_missing(&mut self, name: String, why: String) {
        self.missing.push((name, why));
    }

    fn extend(&mut self, files: Vec<Made>) {
        for (name, made) in files {
            match made {
                Ok(content) => self.add(name, content),
                Err(error) => self.is_missing(name, error.of_one_node()),
            }
        }
    }

    fn read_me(&self) -> String {
        let mut text = format!(
            "What maxine {} diagnose read at {} (by the clock of the machine that ran it).\n\n\
             It holds names and addresses of services, instances, users and nodes, metrics, traces of recent requests\n\
             and the newest audit records. It holds no passwords, tokens, keys, values of keys, or bodies of requests.\n\
             Read it before you send it to others.\n\n\
             doctor.json     what `maxine doctor` found\n\
             nodes/          what each node says of itself\n\
             cluster/        what is the same on every node: configuration, services, audit records\n\
             machine/        settings and log of the node on this machine (only with --config)\n\n",
            env!("CARGO_PKG_VERSION"),
            timestamp(self.made_at_ms)
        );
        if self.missing.is_empty() {
            text.push_str("Nothing is missing.\n");
        } else {
            text.push_str("Missing:\n");
        }
        for (name, why) in &self.missing {
            text.push_str(&format!("  {name}: {why}\n"));
        }
        text
    }

    /// Writes the archive completely, or not at all. Only its owner can read it. Returns its length in bytes.
    fn write(&self, file: &Path) -> Result<u64, CliError> {
        let mut name = file.file_name().map(ToOwned::to_owned).unwrap_or_default();
        name.push(".part");
        let draft = file.with_file_name(name);
        let written = self.fill(&draft).and_then(|len| fs::rename(&draft, file).map(|()| len));
        written.map_err(|error| {
            // The draft may not exist. The first error is the cause.
            let _ = fs::remove_file(&draft);
            CliError::Failed(format!("{}: {}", file.display(), maxine_wording::io(&error)))
        })
    }

    fn fill(&self, draft: &Path) -> io::Result<u64> {
        let mut archive =
            tar::Builder::new(GzEncoder::new(new_private_file(draft)?, Compression::default()));
        let read_me = ("README.txt".to_owned(), self.read_me().into_bytes());
        for (name, content) in std::iter::once(&read_me).chain(&self.files) {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(self.made_at_ms / 1_000);
            archive.append_data(&mut header, name, content.as_slice())?;
        }
        let mut out = archive.into_inner()?.finish()?;
        out.flush()?;
        out.sync_all()?;
        Ok(out.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::Problem;
    use super::*;

    #[test]
    fn settings_keep_no_password_and_no_secret_path() {
        let text = r#"
            [state]
            redis_url = "redis://maxine:geheim@10.0.0.1:6379/0"
            redis_sentinels = "redis://a:geheim@s1:26379,redis://s2:26379"
            [telemetry]
            webhook_url = "https://hooks.example.com/services/geheim?key=geheim"
            log_filter = "info,maxine=debug"
            [http]
            port = 8080
        "#;
        let shown = without_secrets(text.parse().unwrap());
        assert!(!shown.to_string().contains("geheim"), "{shown}");
        assert_eq!(shown["state"]["redis_url"], "redis://10.0.0.1:6379 (cut)");
        assert_eq!(shown["state"]["redis_sentinels"], "redis://s1:26379 (cut),redis://s2:26379");
        assert_eq!(shown["telemetry"]["webhook_url"], "https://hooks.example.com (cut)");
        assert_eq!(shown["telemetry"]["log_filter"], "info,maxine=debug");
        assert_eq!(shown["http"]["port"], 8080);
    }

    /// Regression: the archive lacked the readiness of a node just when it was not ready.
    #[test]
    fn the_readiness_of_a_node_that_is_not_ready_is_kept_with_its_reason() {
        let refused =
            |body: Value| json_in(Err(CliError::Problem(Box::new(Problem::read(503, body, None)))));
        let kept = refused(json!({"ready": false, "reason": "no leader is confirmed"})).unwrap();
        assert!(String::from_utf8(kept).unwrap().contains("no leader is confirmed"));
        assert!(refused(json!({"type": "/problems/unavailable", "status": 503})).is_err());
    }

    #[test]
    fn a_folder_is_named_after_its_node_and_stays_in_the_archive() {
        assert_eq!(folder_of("http://10.0.0.1:8080"), "nodes/10.0.0.1_8080");
        assert_eq!(folder_of("https://[::1]:8080/base"), "nodes/___1__8080_base");
    }

    #[test]
    fn the_archive_names_what_is_missing_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("d.tar.gz");
        let mut bundle = Bundle::new(1_000);
        bundle.add_json("cluster/config.json".into(), &json!({"a": 1}));
        bundle.is_missing("nodes/n3/status.json".into(), "no answer".into());
        bundle.write(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let packed = flate2::read::GzDecoder::new(fs::File::open(&file).unwrap());
        let mut texts = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(packed).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            texts.insert(entry.path().unwrap().display().to_string(), text);
        }
        assert!(texts["README.txt"].contains("nodes/n3/status.json: no answer"));
        assert_eq!(texts["cluster/config.json"], "{\n  \"a\": 1\n}\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
    }
}
