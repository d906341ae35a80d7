//! The job's work tree, made while its containers are.

use super::driver::Driver;
use super::state::Failure;
use crate::confined;
use crate::workspace::{Request, Settings, Sources};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A work tree that is there.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) sources: Sources,
    /// For the trace.
    pub(crate) lines: Vec<String>,
    pub(crate) took: Duration,
}

/// The work tree of a job, on the node.
#[derive(Clone, Debug)]
pub(crate) struct TreePath {
    builds: PathBuf,
    project: String,
}

impl TreePath {
    /// Opens it. Everything below the builds folder is the containers' to change, the folders above the work tree too:
    /// a link in their place must not lead the node elsewhere.
    ///
    /// # Errors
    /// It is not there any more, or something else is.
    pub(crate) fn open(&self) -> std::io::Result<confined::Folder> {
        confined::Folder::open(&self.builds)?.folder(self.project.as_bytes())
    }

    /// For the time before there are containers, and for messages.
    fn path(&self) -> PathBuf {
        self.builds.join(&self.project)
    }
}

pub(crate) fn tree_path(driver: &Driver) -> TreePath {
    let project = driver.environment.project_path.trim_matches('/').to_owned();
    TreePath { builds: driver.folder.builds(), project }
}

/// The folder beside it for file variables and what steps export.
pub(crate) fn temp_path(driver: &Driver) -> PathBuf {
    driver.folder.builds().join(format!("{}.tmp", driver.environment.project_path))
}

/// Makes the folders that the container needs when it starts, open to any user, and the files of file variables.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn lay_out(driver: &Driver) -> std::io::Result<()> {
    open_folder(&tree_path(driver).path(), &driver.folder.builds())?;
    let temp = temp_path(driver);
    open_folder(&temp, &driver.folder.builds())?;
    for (key, value) in driver.environment.files() {
        if key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !key.is_empty() {
            let path = temp.join(key);
            std::fs::write(&path, value)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        }
    }
    Ok(())
}

/// A folder and all above it up to `top`, writable for everybody: the image's user need not be root.
fn open_folder(path: &Path, top: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o777).create(path)?;
    for folder in path.ancestors().take_while(|p| *p != top) {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777))?;
    }
    Ok(())
}

/// Fetches and checks out.
///
/// # Errors
/// Whose fault it was.
pub(crate) async fn fetch(driver: &Driver) -> Result<Tree, Failure> {
    let begun = Instant::now();
    // Services run by now, and see the builds folder: what they could put in the way, or change between two steps of
    // ours (a link for a folder, a configuration for git), must not exist while the tree is made.
    let path = driver.folder.sources();
    let settings =
        Settings::from_variables(|key| driver.environment.get(key)).map_err(|e| Failure::script(e.to_string()))?;
    let attempts = driver.environment.attempts("GET_SOURCES_ATTEMPTS");
    // Dropping the call (a cancelled job) ends the fetch.
    let cancel = CancellationToken::new();
    let _ends = cancel.clone().drop_guard();
    let lines = Mutex::new(Vec::new());
    let say = |line: &str| lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(line.to_owned());
    let mut attempt = 1;
    let sources = loop {
        let request = Request {
            project: driver.spec.project,
            source: &driver.spec.source,
            tree: &path,
            settings: &settings,
            cancel: &cancel,
            local_submodules: false,
        };
        match driver.node.mirrors.prepare(request, &say).await {
            Ok(sources) => break sources,
            Err(e) if e.is_users() => return Err(Failure::script(e.to_string())),
            Err(e) if attempt < attempts => {
                say(&format!("WARNING: {e}; trying again ({attempt} of {attempts})"));
                attempt += 1;
                empty(&path).map_err(|e| Failure::system(format!("cannot empty {}: {e}", path.display())))?;
            }
            Err(e) => return Err(Failure::system(e.to_string())),
        }
    };
    let (made, tree) = (path.clone(), tree_path(driver));
    let moved = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let target = tree.open()?;
        if !confined::Folder::open(&made)?.move_all(b"", &target)? {
            return Err(std::io::Error::other("it is on another file system"));
        }
        target.permit_folder(b"", 0o777)?;
        std::fs::remove_dir_all(&made)
    });
    moved.await.map_err(std::io::Error::other).and_then(|moved| moved).map_err(|e| {
        Failure::system(format!("cannot move the sources into {}: {e}", tree_path(driver).path().display()))
    })?;
    let lines = lines.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(Tree { sources, lines, took: begun.elapsed() })
}

fn empty(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => std::fs::create_dir(path),
    }
}
