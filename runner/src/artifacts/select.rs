//! Which files of a work tree are meant: GitLab's rules (section 7.1 of its contract, 12.1 of its YAML).

use super::{ArtifactError, Bounds, shown};
use crate::confined::{Entry, Folder, Kind};
use crate::workspace::TrackedPaths;
use slipway_spec::glob::Doublestar;
use std::collections::BTreeMap;
use std::io;

/// What is meant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules<'a> {
    /// Doublestar patterns, variables expanded; one that names a folder takes all that is in it.
    pub paths: &'a [String],
    /// Doublestar patterns of files that are left out.
    pub exclude: &'a [String],
    /// Also everything that git does not know, ignored files too: the commit's files, where it is asked for.
    pub untracked: Option<&'a TrackedPaths>,
    /// `CI_PROJECT_DIR`: the work tree's path in the container, which patterns may begin with.
    pub project_dir: &'a str,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// Sorted by path; folders too, before what is in them.
    pub entries: Vec<Entry>,
    /// GitLab's lines for the trace, warnings among them.
    pub lines: Vec<String>,
}

impl Selected {
    /// Files and links.
    pub fn files(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.kind != Kind::Folder)
    }

    /// There is nothing to pack.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

struct Pattern {
    text: String,
    glob: Doublestar,
    found: u64,
}

/// Finds what the rules mean.
///
/// # Errors
/// A pattern that is none, a work tree that cannot be read, or more files than allowed. Patterns without a match, and
/// ones that lead outside, are warnings in [`Selected::lines`].
pub fn select(tree: &Folder, rules: &Rules<'_>, bounds: Bounds) -> Result<Selected, ArtifactError> {
    let mut selected = Selected::default();
    let mut patterns = Vec::new();
    for text in rules.paths {
        match inside(text, rules.project_dir) {
            Some(relative) => {
                let glob = Doublestar::new(&relative).map_err(ArtifactError::Pattern)?;
                patterns.push(Pattern { text: text.clone(), glob, found: 0 });
            }
            None => selected.lines.push(format!(
                "WARNING: {}: the path is outside of the project directory {}, it is left out",
                shown(text.as_bytes()),
                rules.project_dir
            )),
        }
    }
    let mut exclude = Vec::new();
    for text in rules.exclude {
        if let Some(relative) = inside(text, rules.project_dir) {
            exclude.push(Doublestar::new(&relative).map_err(ArtifactError::Pattern)?);
        }
    }
    let mut found: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    let (mut untracked, mut excluded) = (0u64, 0u64);
    let mut too_many = false;
    let mut visit = |entry: &Entry| -> io::Result<bool> {
        let mut taken = false;
        for pattern in &mut patterns {
            if pattern.glob.takes(&entry.path) {
                pattern.found += 1;
                taken = true;
            }
        }
        if let Some(tracked) = rules.untracked
            && matches!(entry.kind, Kind::File { .. } | Kind::Link { .. })
            && !tracked.knows(&entry.path)
        {
            untracked += 1;
            taken = true;
        }
        if taken && exclude.iter().any(|glob| glob.matches(&entry.path)) {
            excluded += 1;
            // The folder itself is left out, not what is in it.
            return Ok(true);
        }
        if taken && entry.kind != Kind::Special {
            found.insert(entry.path.clone(), entry.clone());
            if found.len() as u64 > bounds.entries {
                too_many = true;
                return Err(io::Error::other("too many"));
            }
        }
        Ok(true)
    };
    let mut failed = Ok(());
    for start in starts(rules, &tree_bases(rules)) {
        let walked = match tree.look(start.as_bytes()) {
            Ok(entry) if start.is_empty() || entry.kind == Kind::Folder => {
                let into = if start.is_empty() { Ok(true) } else { visit(&entry) };
                into.and_then(|_| tree.walk(start.as_bytes(), &mut visit))
            }
            Ok(entry) => visit(&entry).map(|_| ()),
            // Nothing there, or a link on the way: no match.
            Err(_) => Ok(()),
        };
        if let Err(error) = walked {
            failed = Err(ArtifactError::file("read", start.as_bytes())(error));
            break;
        }
    }
    if too_many {
        return Err(ArtifactError::TooMany { limit: bounds.entries });
    }
    failed?;
    for pattern in &patterns {
        let text = shown(pattern.text.as_bytes());
        selected.lines.push(if pattern.found == 0 {
            format!(
                "WARNING: {text}: no matching files. Ensure that the artifact path is relative to the working directory ({})",
                rules.project_dir
            )
        } else {
            format!("{text}: found {} matching artifact files and directories", pattern.found)
        });
    }
    if rules.untracked.is_some() {
        selected.lines.push(if untracked == 0 {
            "WARNING: untracked: no files".to_owned()
        } else {
            format!("untracked: found {untracked} files")
        });
    }
    if excluded > 0 {
        selected.lines.push(format!("exclude: left out {excluded} files and directories"));
    }
    selected.entries = found.into_values().collect();
    Ok(selected)
}

/// A pattern relative to the work tree; `None` when it leads outside.
fn inside(text: &str, project_dir: &str) -> Option<String> {
    let project_dir = project_dir.trim_end_matches('/');
    let relative = match text.strip_prefix(project_dir) {
        Some("") if !project_dir.is_empty() => ".",
        Some(rest) if rest.starts_with('/') && !project_dir.is_empty() => rest.trim_start_matches('/'),
        _ => text,
    };
    if relative.starts_with('/') || relative.is_empty() {
        return (!project_dir.is_empty() && relative.is_empty() && !text.is_empty()).then(|| ".".to_owned());
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
}

fn tree_bases(rules: &Rules<'_>) -> Vec<String> {
    let globs = rules.paths.iter().filter_map(|text| Doublestar::new(&inside(text, rules.project_dir)?).ok());
    globs.map(|glob| if glob.text() == "." { String::new() } else { glob.base() }).collect()
}

/// Where walks begin: no start lies within another.
fn starts(rules: &Rules<'_>, bases: &[String]) -> Vec<String> {
    if rules.untracked.is_some() || bases.iter().any(String::is_empty) {
        return vec![String::new()];
    }
    let mut sorted: Vec<&String> = bases.iter().collect();
    sorted.sort();
    sorted.dedup();
    let within = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    sorted.iter().filter(|base| !sorted.iter().any(|other| within(base, other))).map(|base| (*base).clone()).collect()
}
