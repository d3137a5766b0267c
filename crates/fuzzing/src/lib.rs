//! Shared code of the fuzz targets.
//!
//! A target passes bytes from outside to one of our parsers and checks what the parser promises for any
//! bytes. Each is in a module `fuzz` of the parser's crate, and panics if a promise is broken. `cargo test`
//! runs every target on mutated seeds ([`check`]). `fuzz/` runs them with a fuzzer.

mod driver;

use http::{HeaderMap, HeaderName, HeaderValue};

pub use driver::check;

/// One target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its file in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Runs it on an input.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Runs the target with this name.
///
/// # Panics
///
/// Panics if there is no such target, or if the target finds a broken promise.
pub fn run(targets: &[Target], name: &str, bytes: &[u8]) {
    let target = targets.iter().find(|target| target.name == name);
    (target.expect("a target of this name").run)(bytes);
}

/// Texts as seeds.
#[must_use]
pub fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Splits the first line off an input. The rest may be anything.
#[must_use]
pub fn first_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

/// Header fields, one per line as `name: value`. Lines that are no header field are left out, as by the HTTP
/// parser.
#[must_use]
pub fn headers(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(32) {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..at]);
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}
