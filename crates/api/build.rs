//! Tells cargo that a release carries the dashboard's files, so that one that was built after the
//! last `cargo build` is built in. A debug build reads them from the disk and needs no rebuild.
#![allow(clippy::print_stdout, reason = "cargo reads these lines")]

fn main() {
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    // The folder is there before the dashboard is built: cargo would take a missing one for changed,
    // and build anew each time.
    println!("cargo:rerun-if-changed={}", if release { "../../ui/dist" } else { "build.rs" });
}
