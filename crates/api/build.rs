//! A release build embeds the dashboard's files. This script makes cargo rebuild the crate when they have changed. A
//! debug build reads them from the disk and needs no rebuild.
#![allow(clippy::print_stdout, reason = "cargo reads these lines")]

fn main() {
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    // Cargo treats a missing folder as changed, and would rebuild each time. In a checkout, `ui/dist` exists before the
    // dashboard is built.
    println!("cargo:rerun-if-changed={}", if release { "../../ui/dist" } else { "build.rs" });
}
