//! The `maxine` program.

use std::process::ExitCode;

use clap::Parser;
use nix::sys::stat::{Mode, umask};

/// Many short-lived values on many threads are what the system's allocator is slowest at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Whatever is written is its owner's alone: the log, backups and certificates hold secrets.
    let _before = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let cli = maxine::cli::Cli::parse();
    // The web server and the actors share one multi-thread runtime; the log has one of its own.
    let runtime = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread()
            .thread_name("maxine")
            .enable_all()
            .build()
            .expect("a runtime can be made: without one nothing can be done")
    });
    runtime.block_on(maxine::cli::run(cli))
}
