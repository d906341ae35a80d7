//! The record of deployments: append-only, each entry carries the hash of the one before and its own.

use sha2::{Digest, Sha256};
use slipway_spec::view::DeploymentView;

/// An entry with its number and hash, after the last one.
///
/// The hash is SHA-256 over the hash before (64 zeros at first), a line end, and the entry's JSON with an empty hash.
#[must_use]
pub fn chained(previous: Option<&DeploymentView>, entry: DeploymentView) -> DeploymentView {
    let number = previous.map_or(1, |p| p.number + 1);
    let before = previous.map_or_else(|| "0".repeat(64), |p| p.hash.clone());
    let mut entry = DeploymentView { number, hash: String::new(), ..entry };
    entry.hash = hash(&before, &entry);
    entry
}

fn hash(before: &str, entry: &DeploymentView) -> String {
    let bare = DeploymentView { hash: String::new(), ..entry.clone() };
    let json = serde_json::to_string(&bare).unwrap_or_default();
    hex(&Sha256::new().chain_update(before).chain_update("\n").chain_update(json).finalize())
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The number of the first entry that was changed, or before which one is missing; `None` for a whole chain.
#[must_use]
pub fn first_broken(chain: &[DeploymentView]) -> Option<u64> {
    let mut before = "0".repeat(64);
    for (position, entry) in chain.iter().enumerate() {
        if entry.number != position as u64 + 1 || hash(&before, entry) != entry.hash {
            return Some(entry.number);
        }
        before.clone_from(&entry.hash);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_spec::ids::{JobId, PipelineId};

    fn entry(sha: &str) -> DeploymentView {
        DeploymentView {
            number: 0,
            environment: "production".into(),
            url: None,
            kind: "deploy".into(),
            outcome: "success".into(),
            project: "team/app".into(),
            ref_name: "main".into(),
            sha: sha.into(),
            pipeline: PipelineId(1),
            job: JobId(2),
            submitted_by: "anna".into(),
            at: jiff::Timestamp::UNIX_EPOCH,
            hash: String::new(),
        }
    }

    fn chain() -> Vec<DeploymentView> {
        let mut chain: Vec<DeploymentView> = Vec::new();
        for sha in ["a", "b", "c"] {
            let next = chained(chain.last(), entry(sha));
            chain.push(next);
        }
        chain
    }

    #[test]
    fn untouched_chain_holds() {
        assert_eq!(first_broken(&chain()), None);
    }

    #[test]
    fn changed_entry_is_found() {
        let mut chain = chain();
        chain[1].submitted_by = "mallory".into();
        assert_eq!(first_broken(&chain), Some(2));
    }

    #[test]
    fn missing_entry_is_found() {
        let mut chain = chain();
        chain.remove(1);
        assert_eq!(first_broken(&chain), Some(3));
    }
}
