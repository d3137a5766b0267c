//! The `maxine` program.

use std::process::ExitCode;

use nix::sys::stat::{Mode, umask};

/// The system's allocator is slow for many short-lived values on many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // All files are private, because the log, backups and certificates contain secrets.
    let before = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    maxine::cli::UMASK_BEFORE.set(before).ok();
    let cli = match maxine::cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // The web server and the actors share a multi-thread runtime. The log has its own.
    let runtime = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread()
            .thread_name("maxine")
            .enable_all()
            .build()
            .expect("a runtime can be made: without one nothing can be done")
    });
    runtime.block_on(maxine::cli::run(cli))
}
