//! Fuzz target: any message of renewals is decoded, item by item, as it was encoded.

use super::renewals::{ITEM_LEN, parse};

pub(crate) fn renewals(bytes: &[u8]) {
    let items = bytes.chunks_exact(ITEM_LEN).map(parse);
    let again: Vec<u8> = items
        .flat_map(|(id, epoch)| [id.0.to_le_bytes().as_slice(), &epoch.to_le_bytes()].concat())
        .collect();
    assert_eq!(again, bytes[..bytes.len() - bytes.len() % ITEM_LEN]);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    vec![vec![1; ITEM_LEN], (0..=255).collect()]
}
