//! The files of a folder as they are now, committed or not: what `slipway lint` looks at. Reads the folder and its
//! repository, writes nothing.

use super::fetch::{Fetch, FetchError, Fetched, Location, Repository as Other};
use super::load::MAX_FILE_BYTES;
use git2::Repository;
use slipway_spec::slug::ref_slug;
use slipway_spec::variable::Variable;
use std::fs;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

/// Files that are listed; more are not looked at.
const MAX_PATHS: usize = 200_000;

/// A folder, of a repository or not.
pub struct WorkTree {
    root: PathBuf,
    repository: Option<Repository>,
}

impl WorkTree {
    /// The repository a folder belongs to, or else the folder itself.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        let repository = Repository::discover(folder).ok().filter(|r| r.workdir().is_some());
        let root = repository.as_ref().and_then(|r| r.workdir()).unwrap_or(folder).to_path_buf();
        WorkTree { root, repository }
    }

    /// Its top folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The branch that is checked out; `main` when there is none.
    #[must_use]
    pub fn branch(&self) -> String {
        let head = self.repository.as_ref().and_then(|r| r.find_reference("HEAD").ok());
        let name = head.as_ref().and_then(|h| h.symbolic_target().ok().flatten());
        name.and_then(|n| n.strip_prefix("refs/heads/")).unwrap_or("main").to_string()
    }

    /// Whether there is a tag of this name, and no branch.
    #[must_use]
    pub fn is_tag(&self, name: &str) -> bool {
        let has = |prefix: &str| {
            self.repository.as_ref().is_some_and(|r| r.find_reference(&format!("{prefix}{name}")).is_ok())
        };
        has("refs/tags/") && !has("refs/heads/")
    }

    /// The default branch as the remote has it, else `main` or `master`, whichever is there.
    #[must_use]
    pub fn default_branch(&self) -> String {
        let Some(repository) = &self.repository else { return "main".into() };
        let remote = repository.find_reference("refs/remotes/origin/HEAD").ok();
        let target = remote.as_ref().and_then(|r| r.symbolic_target().ok().flatten());
        if let Some(name) = target.and_then(|t| t.strip_prefix("refs/remotes/origin/")) {
            return name.to_string();
        }
        let there = |n: &&str| repository.find_reference(&format!("refs/heads/{n}")).is_ok();
        ["main", "master"].into_iter().find(there).unwrap_or("main").to_string()
    }

    /// What rules may ask for of a pipeline for a ref, as far as a folder can know it.
    #[must_use]
    pub fn predefined(&self, ref_name: &str, is_tag: bool, source: &str, file: &str) -> Vec<Variable> {
        let name = self.root.file_name().map_or_else(|| "project".into(), |n| n.to_string_lossy().into_owned());
        let path = format!("local/{name}");
        let mut list: Vec<Variable> = Vec::new();
        let mut set = |key: &str, value: &str| list.push(Variable { raw: true, ..Variable::public(key, value) });
        set("CI", "true");
        set("GITLAB_CI", "true");
        set("CI_SERVER", "yes");
        set("CI_SERVER_NAME", "Slipway");
        set("CI_PIPELINE_SOURCE", source);
        set("CI_CONFIG_PATH", file);
        set("CI_DEFAULT_BRANCH", &self.default_branch());
        set("CI_PROJECT_NAME", &name);
        set("CI_PROJECT_TITLE", &name);
        set("CI_PROJECT_PATH", &path);
        set("CI_PROJECT_PATH_SLUG", &ref_slug(&path));
        set("CI_PROJECT_NAMESPACE", "local");
        set("CI_COMMIT_REF_NAME", ref_name);
        set("CI_COMMIT_REF_SLUG", &ref_slug(ref_name));
        let protected = !is_tag && ref_name == self.default_branch();
        set("CI_COMMIT_REF_PROTECTED", if protected { "true" } else { "false" });
        set("CI_COMMIT_BEFORE_SHA", &"0".repeat(40));
        match (is_tag, source) {
            (true, _) => set("CI_COMMIT_TAG", ref_name),
            (false, "merge_request_event") => set("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", ref_name),
            (false, _) => set("CI_COMMIT_BRANCH", ref_name),
        }
        let head = self.repository.as_ref().and_then(|r| r.head().ok()).and_then(|h| h.peel_to_commit().ok());
        if let Some(commit) = head {
            let sha = commit.id().to_string();
            set("CI_COMMIT_SHA", &sha);
            set("CI_COMMIT_SHORT_SHA", &sha[..8]);
            let message = String::from_utf8_lossy(commit.message_bytes()).into_owned();
            set("CI_COMMIT_MESSAGE", &message);
            set("CI_COMMIT_TITLE", message.lines().next().unwrap_or(""));
            let author = commit.author();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            set("CI_COMMIT_AUTHOR", &format!("{} <{}>", text(author.name_bytes()), text(author.email_bytes())));
        }
        list
    }

    /// The files below a folder that git does not ignore.
    fn walk(&self, folder: &Path, out: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(self.root.join(folder)) else { return };
        for entry in entries.flatten() {
            let path = folder.join(entry.file_name());
            let ignored = self.repository.as_ref().is_some_and(|r| r.is_path_ignored(&path).unwrap_or(false));
            if entry.file_name() == ".git" || ignored || out.len() >= MAX_PATHS {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.walk(&path, out),
                Ok(_) => out.push(path.to_string_lossy().into_owned()),
                Err(_) => {}
            }
        }
    }
}

/// Reads a file, at most one byte more than a configuration may have.
///
/// # Errors
/// When it is not there, cannot be read, or is not UTF-8.
pub fn read(path: &Path) -> Result<String, FetchError> {
    let cannot = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => FetchError::Missing,
        _ => FetchError::Unavailable(format!("cannot read {}: {e}", path.display())),
    };
    let file = fs::File::open(path).map_err(cannot)?;
    if file.metadata().map_err(cannot)?.is_dir() {
        return Err(FetchError::Missing);
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    let cut = bytes.len() > MAX_FILE_BYTES;
    String::from_utf8(bytes).or_else(|e| match cut {
        // Cut inside of a character: it is too big whatever it says.
        true => Ok(String::from_utf8_lossy(e.as_bytes()).into_owned()),
        false => Err(FetchError::Unavailable(format!("{} is not UTF-8 text", path.display()))),
    })
}

impl Fetch for WorkTree {
    fn fetch(&self, location: &Location) -> Result<Fetched, FetchError> {
        let path = match location {
            Location::File { repository: None, path } => Path::new(path),
            other => {
                return Err(FetchError::Unavailable(format!(
                    "{other} is not a file of this folder, and lint looks nowhere else"
                )));
            }
        };
        if path.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
            return Err(FetchError::Missing);
        }
        Ok(Fetched { text: read(&self.root.join(path))?, repository: None })
    }

    fn paths(&self, repository: Option<&Other>) -> Result<Vec<String>, FetchError> {
        if let Some(other) = repository {
            return Err(FetchError::Unavailable(format!("{} is another repository", other.project)));
        }
        let mut paths = Vec::new();
        self.walk(Path::new(""), &mut paths);
        paths.sort_unstable();
        Ok(paths)
    }

    /// Lint does not know what a push would change: every `changes` holds, as for a new branch.
    fn changes(&self, _: Option<&str>) -> Result<Option<Vec<String>>, FetchError> {
        Ok(None)
    }
}
