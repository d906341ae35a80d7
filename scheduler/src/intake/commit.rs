//! A commit of a repository: what a ref names, what the commit says of itself, who may trust it.

use crate::compose::wildcard;
use crate::config::Project;
use crate::record::Commit;
use git2::{BranchType, ErrorCode, Oid, Repository, RepositoryOpenFlags};
use slipway_spec::job::Tier;
use std::path::{Path, PathBuf};

/// Bytes of a commit's or tag's message that are kept; GitLab cuts at 100,000.
const MAX_MESSAGE_BYTES: usize = 110_000;

/// Why a commit could not be found.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// No repository.
    #[error("cannot open the git repository {path}: {source}{hint}", source = .source.message(), hint = hint(.source, .path))]
    Open {
        /// Where.
        path: PathBuf,
        /// What git says.
        source: git2::Error,
    },
    /// No such ref.
    #[error("{repository} has no branch or tag {name:?}")]
    NoRef {
        /// Where.
        repository: PathBuf,
        /// What was asked for.
        name: String,
    },
    /// No commit at all.
    #[error("{repository} has no commit at HEAD yet: commit something first")]
    Empty {
        /// Where.
        repository: PathBuf,
    },
    /// No such commit.
    #[error("{repository} has no commit {sha:?}")]
    NoCommit {
        /// Where.
        repository: PathBuf,
        /// What was asked for.
        sha: String,
    },
    /// Another fault.
    #[error("cannot read {repository}: {source}", source = .source.message())]
    Git {
        /// Where.
        repository: PathBuf,
        /// What git says.
        source: git2::Error,
    },
}

/// What to do about it.
fn hint(error: &git2::Error, path: &Path) -> String {
    match error.code() {
        ErrorCode::Owner => format!(
            "; it belongs to another user: `git config --system --add safe.directory {}` trusts it",
            path.display()
        ),
        _ => String::new(),
    }
}

/// A commit found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Branch or tag, short.
    pub ref_name: String,
    /// It is a tag.
    pub is_tag: bool,
    /// The commit, hex.
    pub sha: String,
    /// The ref holds the commit in its history: its trust is the commit's.
    pub on_ref: bool,
    /// The default branch.
    pub default_branch: String,
    /// What it says of itself.
    pub commit: Commit,
}

/// Opens a repository, bare or not.
///
/// # Errors
/// When there is none at that very path.
pub fn open(path: &Path) -> Result<Repository, CommitError> {
    Repository::open_ext(path, RepositoryOpenFlags::NO_SEARCH, std::iter::empty::<&Path>())
        .map_err(|source| CommitError::Open { path: path.to_owned(), source })
}

/// Finds a commit: of `sha` when it is given, else where the ref stands; the ref at HEAD when none is given.
///
/// # Errors
/// When ref or commit are not there.
pub fn find(
    repository: &Repository,
    ref_name: &str,
    sha: &str,
    project: Option<&Project>,
) -> Result<Found, CommitError> {
    let path = repository.workdir().unwrap_or_else(|| repository.path()).to_owned();
    let failed = |source| CommitError::Git { repository: path.clone(), source };
    let named = if ref_name.is_empty() { head(repository, &path) } else { named(repository, &path, ref_name) };
    let (name, is_tag, tip) = match named {
        Ok((name, is_tag, tip)) => (name, is_tag, Some(tip)),
        // A commit under the name of a branch that is not there: what its pipeline would be. Nothing vouches for it.
        Err(CommitError::NoRef { name, .. }) if !sha.is_empty() => (name, false, None),
        Err(e) => return Err(e),
    };
    let oid = if let (Some(tip), true) = (tip, sha.is_empty()) {
        tip
    } else {
        let missing = || CommitError::NoCommit { repository: path.clone(), sha: sha.to_owned() };
        let oid = Oid::from_str(sha).map_err(|_| missing())?;
        repository.find_commit(oid).map_err(|_| missing())?.id()
    };
    let on_ref = match tip {
        Some(tip) => oid == tip || repository.graph_descendant_of(tip, oid).map_err(failed)?,
        None => false,
    };
    let commit = repository.find_commit(oid).map_err(failed)?;
    let author = commit.author();
    let (author_name, author_email) = (text(author.name_bytes()), text(author.email_bytes()));
    let tag_message = is_tag.then(|| annotation(repository, &name)).flatten();
    Ok(Found {
        ref_name: name,
        is_tag,
        sha: oid.to_string(),
        on_ref,
        default_branch: default_branch(repository, project),
        commit: Commit {
            message: cut(&text(commit.message_bytes())),
            author: format!("{author_name} <{author_email}>"),
            author_name,
            author_email,
            timestamp: iso(commit.time()),
            tag_message,
        },
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn cut(text: &str) -> String {
    crate::text::cut(text, MAX_MESSAGE_BYTES).to_owned()
}

fn head(repository: &Repository, path: &Path) -> Result<(String, bool, Oid), CommitError> {
    let empty = || CommitError::Empty { repository: path.to_owned() };
    let head = repository.head().map_err(|e| match e.code() {
        ErrorCode::UnbornBranch | ErrorCode::NotFound => empty(),
        _ => CommitError::Git { repository: path.to_owned(), source: e },
    })?;
    let tip = head.peel_to_commit().map_err(|_| empty())?.id();
    let name = if head.is_branch() { text(head.shorthand_bytes()) } else { "HEAD".to_owned() };
    Ok((name, false, tip))
}

fn named(repository: &Repository, path: &Path, asked: &str) -> Result<(String, bool, Oid), CommitError> {
    let short = asked.strip_prefix("refs/heads/").or_else(|| asked.strip_prefix("refs/tags/")).unwrap_or(asked);
    let folders = [("refs/heads/", false), ("refs/tags/", true)];
    for (folder, is_tag) in folders {
        let full = format!("{folder}{short}");
        if asked.starts_with("refs/") && asked != full {
            continue;
        }
        if let Ok(tip) = repository.find_reference(&full).and_then(|r| r.peel_to_commit()) {
            return Ok((short.to_owned(), is_tag, tip.id()));
        }
    }
    Err(CommitError::NoRef { repository: path.to_owned(), name: asked.to_owned() })
}

fn annotation(repository: &Repository, tag: &str) -> Option<String> {
    let tag = repository.find_reference(&format!("refs/tags/{tag}")).ok()?.peel_to_tag().ok()?;
    tag.message_bytes().map(|m| cut(&text(m)))
}

/// The configured one; else what a clone remembers of its origin; else `main` or `master`; else HEAD's.
fn default_branch(repository: &Repository, project: Option<&Project>) -> String {
    if let Some(branch) = project.and_then(|p| p.default_branch.clone()) {
        return branch;
    }
    if !repository.is_bare() {
        let origin = repository.find_reference("refs/remotes/origin/HEAD").ok();
        let target = origin.and_then(|r| r.symbolic_target_bytes().map(text));
        if let Some(branch) = target.as_deref().and_then(|t| t.strip_prefix("refs/remotes/origin/")) {
            return branch.to_owned();
        }
        for name in ["main", "master"] {
            if repository.find_branch(name, BranchType::Local).is_ok() {
                return name.to_owned();
            }
        }
    }
    let head = repository.find_reference("HEAD").ok().and_then(|r| r.symbolic_target_bytes().map(text));
    head.and_then(|t| t.strip_prefix("refs/heads/").map(str::to_owned)).unwrap_or_default()
}

/// A moment as GitLab writes it: `2026-11-25T21:00:00+01:00`.
fn iso(time: git2::Time) -> String {
    let Ok(moment) = jiff::Timestamp::from_second(time.seconds()) else { return String::new() };
    let offset =
        jiff::tz::Offset::from_seconds(time.offset_minutes().saturating_mul(60)).unwrap_or(jiff::tz::Offset::UTC);
    let zoned = moment.to_zoned_datetime(jiff::tz::TimeZone::fixed(offset));
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%S%:z", &zoned).unwrap_or_default()
}

/// Whether a ref is protected: by the project's patterns, or as the default branch.
#[must_use]
pub fn tier(found: &Found, project: Option<&Project>, dirty: bool) -> Tier {
    let named = match project.and_then(|p| p.protected_refs.as_ref()) {
        Some(patterns) => patterns.iter().any(|p| wildcard(p, &found.ref_name)),
        None => !found.is_tag && found.ref_name == found.default_branch,
    };
    if named && found.on_ref && !dirty { Tier::Protected } else { Tier::Unprotected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ref_name: &str, is_tag: bool) -> Found {
        Found {
            ref_name: ref_name.into(),
            is_tag,
            sha: "a".repeat(40),
            on_ref: true,
            default_branch: "main".into(),
            commit: Commit::default(),
        }
    }

    #[test]
    fn default_branch_is_protected_unless_dirty_or_elsewhere() {
        assert_eq!(tier(&found("main", false), None, false), Tier::Protected);
        assert_eq!(tier(&found("main", false), None, true), Tier::Unprotected);
        assert_eq!(tier(&found("main", true), None, false), Tier::Unprotected);
        assert_eq!(tier(&found("topic", false), None, false), Tier::Unprotected);
        let elsewhere = Found { on_ref: false, ..found("main", false) };
        assert_eq!(tier(&elsewhere, None, false), Tier::Unprotected);
    }

    #[test]
    fn patterns_take_the_place_of_the_default_branch() {
        let project = Project { protected_refs: Some(vec!["release/*".into(), "v*".into()]), ..Project::default() };
        assert_eq!(tier(&found("release/1", false), Some(&project), false), Tier::Protected);
        assert_eq!(tier(&found("v1", true), Some(&project), false), Tier::Protected);
        assert_eq!(tier(&found("main", false), Some(&project), false), Tier::Unprotected);
    }

    #[test]
    fn moments_are_written_as_gitlab_does() {
        assert_eq!(iso(git2::Time::new(1_700_000_000, 60)), "2023-11-14T23:13:20+01:00");
    }
}
