//! A local copy of a repository that is elsewhere, to read configurations from.

use git2::{AutotagOption, FetchOptions, FetchPrune, Repository};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The copy of `url` below `folder`, brought up to date.
///
/// # Errors
/// What could not be done, for people.
pub async fn updated(folder: &Path, url: &str) -> Result<PathBuf, String> {
    if !url.starts_with("https://") && !url.starts_with("http://") && !url.starts_with("file://") {
        return Err(format!("{url:?} is neither an absolute path nor an http(s) or file address"));
    }
    let name = crate::deployments::hex(&Sha256::digest(url.as_bytes())[..12]);
    let (path, url) = (folder.join(format!("{name}.git")), url.to_owned());
    let done = tokio::task::spawn_blocking(move || fetch(&path, &url).map(|()| path).map_err(|e| (e, url)));
    match done.await {
        Ok(Ok(path)) => Ok(path),
        Ok(Err((e, url))) => Err(format!("cannot fetch {url}: {}", e.message())),
        Err(e) => Err(format!("the fetch was interrupted: {e}")),
    }
}

fn fetch(path: &Path, url: &str) -> Result<(), git2::Error> {
    let repository = match Repository::open_bare(path) {
        Ok(repository) => repository,
        Err(_) => Repository::init_bare(path)?,
    };
    let mut remote = repository.remote_anonymous(url)?;
    let mut options = FetchOptions::new();
    options.prune(FetchPrune::On).download_tags(AutotagOption::None);
    remote.fetch(&["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"], Some(&mut options), None)?;
    let head = remote.default_branch().ok().map(|b| String::from_utf8_lossy(&b).into_owned());
    if let Some(head) = head {
        repository.set_head(&head)?;
    }
    Ok(())
}
