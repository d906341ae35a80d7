//! Which refs changed between two looks.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Full name (`refs/heads/master`) -> commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Refs(pub BTreeMap<String, String>);

/// The commit id that stands for "none" in a push.
pub const NONE: &str = "0000000000000000000000000000000000000000";

/// More refs than this in one look are a mistake or an attack; the rest is not looked at.
pub const MAX_REFS: usize = 100_000;

/// One ref that changed; `old` or `new` is [`NONE`] when it was made or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// `refs/heads/master`.
    pub name: String,
    /// Before.
    pub old: String,
    /// Now.
    pub new: String,
}

impl Changed {
    /// (branch or tag name, whether it is a tag), for refs that make pipelines.
    #[must_use]
    pub fn short(&self) -> Option<(&str, bool)> {
        short(&self.name)
    }
}

/// (branch or tag name, whether it is a tag) of a full name.
#[must_use]
pub fn short(name: &str) -> Option<(&str, bool)> {
    name.strip_prefix("refs/heads/").map(|n| (n, false)).or_else(|| name.strip_prefix("refs/tags/").map(|n| (n, true)))
}

impl Refs {
    /// Reads what `git ls-remote` prints. Peeled tags (`^{}`) win over the tag objects they peel.
    #[must_use]
    pub fn parse(text: &str) -> Refs {
        let mut refs = BTreeMap::new();
        for line in text.lines().take(MAX_REFS) {
            let Some((sha, name)) = line.split_once('\t') else { continue };
            let is_id = (sha.len() == 40 || sha.len() == 64) && sha.bytes().all(|b| b.is_ascii_hexdigit());
            if is_id && short(name).is_some() {
                refs.insert(name.trim_end_matches("^{}").to_owned(), sha.to_owned());
            }
        }
        Refs(refs)
    }

    /// What is different in `now`, by name.
    #[must_use]
    pub fn changes(&self, now: &Refs) -> Vec<Changed> {
        let mut changed: Vec<Changed> = now
            .0
            .iter()
            .filter(|(name, new)| self.0.get(*name) != Some(new))
            .map(|(name, new)| Changed {
                name: name.clone(),
                old: self.0.get(name).cloned().unwrap_or_else(|| NONE.to_owned()),
                new: new.clone(),
            })
            .collect();
        let gone = self.0.iter().filter(|(name, _)| !now.0.contains_key(*name));
        changed.extend(gone.map(|(name, old)| Changed { name: name.clone(), old: old.clone(), new: NONE.to_owned() }));
        changed
    }

    /// Takes one change in.
    pub fn apply(&mut self, change: &Changed) {
        if change.new == NONE {
            self.0.remove(&change.name);
        } else {
            self.0.insert(change.name.clone(), change.new.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn refs_are_read_from_ls_remote_and_tags_are_peeled() {
        let text = format!("{A}\tHEAD\n{A}\trefs/heads/a/b\n{A}\trefs/tags/v1\n{B}\trefs/tags/v1^{{}}\nnonsense\n");
        let refs = Refs::parse(&text);
        let expected = [("refs/heads/a/b", A), ("refs/tags/v1", B)];
        assert_eq!(refs.0.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn changes_are_new_moved_and_removed_refs_and_applying_them_gives_the_second_look() {
        let mut first = Refs::parse(&format!("{A}\trefs/heads/stays\n{A}\trefs/heads/moves\n{A}\trefs/heads/goes\n"));
        let second = Refs::parse(&format!("{A}\trefs/heads/stays\n{B}\trefs/heads/moves\n{B}\trefs/heads/comes\n"));
        let changes = first.changes(&second);
        let shown: Vec<_> = changes.iter().map(|c| (c.short().unwrap().0, c.old.as_str(), c.new.as_str())).collect();
        assert_eq!(shown, [("comes", NONE, B), ("moves", A, B), ("goes", A, NONE)]);
        changes.iter().for_each(|c| first.apply(c));
        assert_eq!(first, second);
        assert!(first.changes(&second).is_empty());
    }
}
