//! Finds the `maxine` program to test.
//!
//! It is the real program: that of `MAXINE_BIN`, or the build next to this program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// The program that `MAXINE_BIN` names, or the one that cargo built in the profile of this program. If it is
/// missing, and cargo runs this program, it is built.
pub fn locate() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("MAXINE_BIN") {
        let path = PathBuf::from(path);
        return path.canonicalize().with_context(|| format!("MAXINE_BIN {}", path.display()));
    }
    let own = std::env::current_exe().context("this program's own path is not known")?;
    let dir = build_dir(&own).context("this program is not in a build directory")?;
    let program = dir.join("maxine");
    if program.exists() {
        return Ok(program);
    }
    build(&dir)?;
    Ok(program)
}

/// The program of the next version: that of `MAXINE_NEXT_BIN`, or the one that `scripts/build-next.sh` built.
pub fn locate_next() -> Option<PathBuf> {
    let built = || {
        let own = std::env::current_exe().ok()?;
        Some(build_dir(&own)?.parent()?.join("next").join("maxine"))
    };
    let path = std::env::var_os("MAXINE_NEXT_BIN").map(PathBuf::from).or_else(built)?;
    path.canonicalize().ok()
}

/// The directory of the profile, such as `target/debug` for `target/debug/maxine-chaos` and for
/// `target/debug/deps/rounds-0123`.
fn build_dir(own: &Path) -> Option<PathBuf> {
    let dir = own.parent()?;
    let dir = if dir.ends_with("deps") { dir.parent()? } else { dir };
    Some(dir.to_path_buf())
}

fn build(dir: &Path) -> anyhow::Result<()> {
    let Some(cargo) = std::env::var_os("CARGO") else {
        bail!(
            "{} has no program maxine: run 'cargo build' first, or set MAXINE_BIN",
            dir.display()
        );
    };
    let mut command = Command::new(cargo);
    command.args(["build", "--package", "maxine", "--bin", "maxine"]);
    if dir.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().context("cargo cannot be run")?;
    if !status.success() {
        bail!("maxine cannot be built: {status}");
    }
    Ok(())
}
