//! What a job's variables say about its sources (GitLab's names).

use super::error::WorkspaceError;

/// `GIT_STRATEGY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The mirror is brought up to date and a fresh work tree made.
    #[default]
    Fetch,
    /// The same here: a work tree is never used twice.
    Clone,
    /// No git at all: an empty folder.
    None,
    /// An empty folder.
    Empty,
}

/// `GIT_SUBMODULE_STRATEGY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Submodules {
    /// Left as empty folders.
    #[default]
    None,
    /// Those of the project.
    Normal,
    /// And those of theirs.
    Recursive,
}

/// `SLIPWAY_GIT_OBJECTS`: where a work tree's objects are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objects {
    /// Copied up to [`Objects::COPY_BYTES_MAX`] (any size where the file system has reflinks), borrowed above.
    #[default]
    Auto,
    /// In its own `.git`.
    Copy,
    /// In the mirror, mounted read-only.
    Borrow,
}

impl Objects {
    /// Packs up to this size in all are copied: 16 MiB take about 10 ms.
    pub const COPY_BYTES_MAX: u64 = 16 << 20;
}

/// What a job's variables say about its sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `GIT_STRATEGY`.
    pub strategy: Strategy,
    /// `GIT_DEPTH`; `None` leaves it to the source.
    pub depth: Option<u32>,
    /// `GIT_CHECKOUT`.
    pub checkout: bool,
    /// `GIT_SUBMODULE_STRATEGY`.
    pub submodules: Submodules,
    /// `GIT_SUBMODULE_PATHS`: paths that are updated (all when empty); with `:(exclude)` in front those that are not.
    pub submodule_paths: Vec<String>,
    /// `GIT_SUBMODULE_DEPTH`; `None` takes the project's depth.
    pub submodule_depth: Option<u32>,
    /// `GIT_SUBMODULE_FORCE_HTTPS`: `git@host:path` and `ssh://host/path` are fetched by HTTPS.
    pub submodule_force_https: bool,
    /// LFS files are fetched: `GIT_LFS_SKIP_SMUDGE` is not set.
    pub lfs: bool,
    /// `SLIPWAY_GIT_OBJECTS`.
    pub objects: Objects,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            strategy: Strategy::default(),
            depth: None,
            checkout: true,
            submodules: Submodules::default(),
            submodule_paths: Vec::new(),
            submodule_depth: None,
            submodule_force_https: false,
            lfs: true,
            objects: Objects::default(),
        }
    }
}

impl Settings {
    /// Reads a job's variables, expanded; `lookup` gives the last value of a key.
    ///
    /// `GIT_CLEAN_FLAGS` and `GIT_FETCH_EXTRA_FLAGS` have nothing to do here: a work tree is always fresh, and flags
    /// from a job's variables are never given to a command that runs outside its container.
    ///
    /// # Errors
    /// A value that GitLab's runner refuses too.
    pub fn from_variables<'v>(lookup: impl Fn(&str) -> Option<&'v str>) -> Result<Settings, WorkspaceError> {
        let get = |key: &str| lookup(key).map(str::trim).filter(|value| !value.is_empty());
        let refuse = |variable, value: &str, expected| WorkspaceError::Setting {
            variable,
            value: value.chars().take(100).collect(),
            expected,
        };
        let strategy = match get("GIT_STRATEGY") {
            None | Some("fetch") => Strategy::Fetch,
            Some("clone") => Strategy::Clone,
            Some("none") => Strategy::None,
            Some("empty") => Strategy::Empty,
            Some(other) => return Err(refuse("GIT_STRATEGY", other, "fetch, clone, none or empty")),
        };
        let submodules = match get("GIT_SUBMODULE_STRATEGY") {
            None | Some("none") => Submodules::None,
            Some("normal") => Submodules::Normal,
            Some("recursive") => Submodules::Recursive,
            Some(other) => return Err(refuse("GIT_SUBMODULE_STRATEGY", other, "none, normal or recursive")),
        };
        let objects = match get("SLIPWAY_GIT_OBJECTS") {
            None | Some("auto") => Objects::Auto,
            Some("copy") => Objects::Copy,
            Some("borrow") => Objects::Borrow,
            Some(other) => return Err(refuse("SLIPWAY_GIT_OBJECTS", other, "auto, copy or borrow")),
        };
        let depth = |variable: &'static str| match get(variable).map(|text| (text, text.parse())) {
            None => Ok(None),
            Some((_, Ok(depth))) => Ok(Some(depth)),
            Some((text, Err(_))) => Err(refuse(variable, text, "a number of commits")),
        };
        Ok(Settings {
            strategy,
            depth: depth("GIT_DEPTH")?,
            checkout: get("GIT_CHECKOUT").and_then(boolean).unwrap_or(true),
            submodules,
            submodule_paths: submodule_paths(get("GIT_SUBMODULE_PATHS").unwrap_or("")),
            submodule_depth: depth("GIT_SUBMODULE_DEPTH")?,
            submodule_force_https: get("GIT_SUBMODULE_FORCE_HTTPS").and_then(boolean).unwrap_or(false),
            lfs: !get("GIT_LFS_SKIP_SMUDGE").and_then(boolean).unwrap_or(false),
            objects,
        })
    }

    /// Whether `GIT_SUBMODULE_PATHS` has the submodule at `path` updated.
    pub(super) fn wants_submodule(&self, path: &str) -> bool {
        let names = |pattern: &str| {
            let pattern = pattern.trim_matches('/');
            path == pattern || path.strip_prefix(pattern).is_some_and(|rest| rest.starts_with('/'))
        };
        let (excluded, wanted): (Vec<&str>, Vec<&str>) =
            self.submodule_paths.iter().map(String::as_str).partition(|p| p.starts_with(EXCLUDE));
        !excluded.iter().any(|p| names(&p[EXCLUDE.len()..])) && (wanted.is_empty() || wanted.iter().any(|p| names(p)))
    }
}

const EXCLUDE: &str = ":(exclude)";

/// Paths are separated by spaces; one may follow `:(exclude)` and a space, as GitLab's documentation writes it.
fn submodule_paths(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut exclude = false;
    for word in text.split_ascii_whitespace() {
        if word == EXCLUDE {
            exclude = true;
            continue;
        }
        paths.push(if exclude { format!("{EXCLUDE}{word}") } else { word.to_owned() });
        exclude = false;
    }
    paths
}

/// What Go's `ParseBool` takes.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
