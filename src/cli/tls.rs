//! `maxine tls`: replaces the certificates between nodes, and their authority. It works on the directory that
//! `maxine cluster init-tls` has made, without a running node.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::commands::finish;
use super::exit::CliError;
use super::output::{Output, OutputArgs};
use maxine_clock::Clock;
use maxine_raft::NodeId;
use maxine_raft::pki::{
    CaStep, NODE_DAYS, Validity, key_fingerprint, renew_nodes, rotate_authority,
};

/// Arguments of `maxine tls`.
#[derive(Debug, clap::Args)]
pub struct TlsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Offline: replace the certificates and keys of nodes by new ones of the same authority
    Renew(RenewArgs),
    /// Offline: carry out one step of the replacement of the authority; the nodes work all the time
    RotateCa(RotateArgs),
    /// Offline: print the fingerprint of the key of a certificate, for the file raft.tls_denied
    Fingerprint(FingerprintArgs),
}

#[derive(Debug, clap::Args)]
struct Directory {
    /// Directory of the certificates, with ca.pem and ca-key.pem
    #[arg(default_value = "tls")]
    dir: PathBuf,
    /// The cluster's name, as in the nodes' settings
    #[arg(long, default_value = "maxine")]
    cluster_id: String,
    /// The nodes' numbers; all nodes with a certificate in the directory if left out
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',')]
    nodes: Vec<NodeId>,
    /// Number of days for which new certificates of nodes are valid (1 to 3650)
    #[arg(long, value_name = "DAYS", default_value_t = NODE_DAYS, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    days: u32,
    #[command(flatten)]
    output: OutputArgs,
}

impl Directory {
    fn validity(&self) -> Validity {
        Validity { now_ms: Clock::system().wall_ms(), node_days: self.days }
    }
}

#[derive(Debug, clap::Args)]
struct RenewArgs {
    #[command(flatten)]
    directory: Directory,
}

#[derive(Debug, clap::Args)]
struct RotateArgs {
    #[command(flatten)]
    directory: Directory,
    /// The step: begin makes a new authority beside the present one, issue makes new certificates of the nodes, finish
    /// drops the former authority
    #[arg(long)]
    step: Step,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Step {
    Begin,
    Issue,
    Finish,
}

#[derive(Debug, clap::Args)]
struct FingerprintArgs {
    /// File with the certificate in PEM
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `maxine tls`, writes an error to `errors`, and returns the exit code.
pub fn run(args: &TlsArgs, errors: &mut dyn Write) -> u8 {
    let output = match &args.action {
        Action::Renew(RenewArgs { directory }) | Action::RotateCa(RotateArgs { directory, .. }) => {
            &directory.output
        }
        Action::Fingerprint(args) => &args.output,
    };
    let mut out = Output::stdout(output.format);
    let done = match &args.action {
        Action::Renew(args) => renew(&args.directory, &mut out),
        Action::RotateCa(args) => rotate(args, &mut out),
        Action::Fingerprint(args) => fingerprint(&args.file, &mut out),
    };
    finish(done, output.format, errors)
}

fn fingerprint(file: &Path, out: &mut Output) -> Result<(), CliError> {
    let fingerprint = key_fingerprint(file).map_err(|error| {
        let why = match error.kind() {
            // This error names the file already.
            std::io::ErrorKind::InvalidData => return CliError::Usage(error.to_string()),
            _ => maxine_wording::io(&error),
        };
        CliError::Usage(format!("{}: {why}", file.display()))
    })?;
    out.done(&json!({"fingerprint": fingerprint}), format!("{fingerprint}  # {}", file.display()))
}

fn list(files: &[PathBuf]) -> String {
    let names: Vec<_> = files.iter().map(|path| format!("  {}", path.display())).collect();
    names.join("\n")
}

fn shown(files: &[PathBuf]) -> Vec<String> {
    files.iter().map(|path: &PathBuf| Path::display(path).to_string()).collect()
}

fn renew(args: &Directory, out: &mut Output) -> Result<(), CliError> {
    let pki = renew_nodes(&args.dir, &args.cluster_id, &args.nodes, args.validity());
    let nodes = pki.map_err(CliError::of_authority)?.nodes;
    let files: Vec<_> =
        nodes.iter().flat_map(|node| [node.cert_pem.clone(), node.key_pem.clone()]).collect();
    let text = format!(
        "New certificates, valid for {}:\n{}\nPut each node's two files in their place on the node. It takes them within five \
         seconds, and open connections go on",
        maxine_wording::count(args.days, "day"),
        list(&files)
    );
    out.done(&json!({"changed": shown(&files)}), text)
}

fn rotate(args: &RotateArgs, out: &mut Output) -> Result<(), CliError> {
    let Directory { dir, cluster_id, nodes, .. } = &args.directory;
    let (step, next) = match args.step {
        Step::Begin => (
            CaStep::Begin,
            "Put this file in its place on all nodes, so that each of them trusts both authorities. When every node has \
             logged that it uses it, run the step issue",
        ),
        Step::Issue => (
            CaStep::Issue,
            "Put each node's two files in their place on the node. When every node has logged that it uses them, run the \
             step finish",
        ),
        Step::Finish => (
            CaStep::Finish,
            "Put this file in its place on all nodes. They then refuse certificates of the former authority. Destroy all \
             copies of the former authority's key",
        ),
    };
    let files = rotate_authority(dir, cluster_id, nodes, step, args.directory.validity());
    let files = files.map_err(CliError::of_authority)?;
    out.done(&json!({"changed": shown(&files)}), format!("Changed:\n{}\n{next}", list(&files)))
}
