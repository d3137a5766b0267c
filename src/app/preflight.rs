//! What can be known of the settings before a node starts: every file that it would read, and
//! secrets from the environment.

use std::path::Path;

use maxine_raft::pki::check_certificate_name;

use super::settings;
use crate::config::{BackendKind, NodeConfig};
use maxine_identity::tls_files::{TlsFiles, look_at};

/// Looks at everything that `config` names and the node reads; what keeps it from starting, a line
/// each. Blocks.
#[must_use]
pub fn preflight(config: &NodeConfig) -> Vec<String> {
    let mut found = Vec::new();
    if let Err(error) = settings::security(config) {
        found.push(format!("{error:#}"));
    }
    let upstream = named("security.upstream_ca", &config.security.upstream_ca);
    look_at(TlsFiles { authority: upstream, identity: None, signed: false }, &mut found);
    match config.backend {
        BackendKind::Raft => {
            let raft = &config.raft;
            let files = TlsFiles {
                authority: named("raft.tls_ca", &raft.tls_ca),
                identity: pair(
                    named("raft.tls_cert", &raft.tls_cert),
                    named("raft.tls_key", &raft.tls_key),
                ),
                signed: true,
            };
            let before = found.len();
            look_at(files, &mut found);
            // What cannot be read has no name either.
            if let Some((setting, path)) = named("raft.tls_cert", &raft.tls_cert)
                && found.len() == before
                && let Err(why) = check_certificate_name(path, &raft.cluster_id, config.node_id)
            {
                found.push(format!("{setting}: {}: {why}", path.display()));
            }
        }
        BackendKind::Redis => {
            match settings::redis(config) {
                Err(error) => found.push(format!("{error:#}")),
                Ok(redis) => found.extend(redis.check().err().into_iter().flatten()),
            }
            let state = &config.state;
            let files = TlsFiles {
                authority: named("state.redis_tls_ca", &state.redis_tls_ca),
                identity: pair(
                    named("state.redis_tls_cert", &state.redis_tls_cert),
                    named("state.redis_tls_key", &state.redis_tls_key),
                ),
                // Redis trusts an authority of its own choice.
                signed: false,
            };
            look_at(files, &mut found);
        }
        BackendKind::Local | BackendKind::SharedFile => {}
    }
    found
}

fn named<'a>(setting: &'a str, path: &'a Path) -> Option<(&'a str, &'a Path)> {
    (!path.as_os_str().is_empty()).then_some((setting, path))
}

fn pair<T>(first: Option<T>, second: Option<T>) -> Option<[T; 2]> {
    Some([first?, second?])
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
