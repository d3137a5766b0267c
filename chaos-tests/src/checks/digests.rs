//! Check: nodes at the same index have the same state.

use std::collections::BTreeMap;

/// The digest of one node at an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The node.
    pub node: u64,
    /// The index.
    pub index: u64,
    /// The hash.
    pub digest: String,
}

/// Compares every pair at an equal index.
pub fn check(digests: &[Digest]) -> Vec<String> {
    let mut first: BTreeMap<u64, &Digest> = BTreeMap::new();
    let mut anomalies = Vec::new();
    for digest in digests {
        let known = first.entry(digest.index).or_insert(digest);
        if known.digest != digest.digest {
            anomalies.push(format!(
                "at index {} node {} has state {} and node {} has {}",
                digest.index, known.node, known.digest, digest.node, digest.digest
            ));
        }
    }
    anomalies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_at_an_equal_index_is_found() {
        let digest = |node, index, text: &str| Digest { node, index, digest: text.into() };
        let mut digests = vec![digest(1, 5, "a"), digest(2, 5, "a"), digest(3, 6, "b")];
        assert!(check(&digests).is_empty());
        digests.push(digest(3, 5, "c"));
        assert_eq!(check(&digests).len(), 1);
    }
}
