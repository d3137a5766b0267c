//! Writes every target's seeds below a folder: `TARGET/NUMBER`.

use std::path::Path;

fn write(root: &Path, name: &str, seeds: Vec<Vec<u8>>) -> std::io::Result<()> {
    let folder = root.join(name);
    std::fs::create_dir_all(&folder)?;
    seeds
        .into_iter()
        .enumerate()
        .try_for_each(|(n, seed)| std::fs::write(folder.join(n.to_string()), seed))
}

fn main() -> std::io::Result<()> {
    let root = std::env::args().nth(1).unwrap_or_else(|| "fuzz/seeds".into());
    let targets = [
        maxine_actors::fuzz::TARGETS,
        maxine_api::fuzz::TARGETS,
        maxine_consul::fuzz::TARGETS,
        maxine_discovery::fuzz::TARGETS,
        maxine_dns::fuzz::TARGETS,
        maxine_gateway::fuzz::TARGETS,
        maxine_http1::fuzz::TARGETS,
        maxine_identity::fuzz::TARGETS,
        maxine_raft::fuzz::TARGETS,
        maxine_state::fuzz::TARGETS,
        maxine_store::fuzz::TARGETS,
    ]
    .concat();
    for target in targets {
        write(Path::new(&root), target.name, (target.seeds)())?;
    }
    Ok(())
}
