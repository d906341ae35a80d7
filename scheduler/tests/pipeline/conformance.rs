//! The folder of GitLab's own cases, which lies beside the project and is never copied into it.

use std::path::PathBuf;

/// `shared/conformance` of the nearest folder above that has it; says so when there is none.
pub(crate) fn folder() -> Option<PathBuf> {
    let start = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let found = start.ancestors().map(|a| a.join("shared/conformance")).find(|p| p.is_dir());
    if found.is_none() {
        eprintln!("shared/conformance is not there: GitLab's own cases are not run, the project's own are");
    }
    found
}

/// The rows of a table, its header dropped, as columns.
pub(crate) fn rows(file: &str) -> Option<Vec<Vec<String>>> {
    let path = folder()?.join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(text.lines().skip(1).map(|l| l.split('\t').map(String::from).collect()).collect())
}
