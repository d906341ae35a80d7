//! A service image's files in a folder of ours, for hosts whose Docker does not keep images with overlay2 (Docker 29
//! keeps them in containerd): exported once an image, shared read-only by all engines of it.

use super::container;
use super::error::{EngineError, Tried};
use super::files;
use super::lend::blocking;
use bollard::Docker;
use futures_util::StreamExt;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;

/// Where they are, in the lender's folder; a name no engine has.
const FOLDER: &str = ".images";

/// The folder of image `id`, which is exported if it is not there yet. Two at once do the same work twice and one of
/// them wins.
pub(super) async fn unpacked(
    docker: &Docker,
    reference: &str,
    id: &str,
    folder: &Path,
    labels: &HashMap<String, String>,
) -> Result<PathBuf, EngineError> {
    let all = folder.join(FOLDER);
    let target = all.join(name_of(id));
    if target.is_dir() {
        return Ok(target);
    }
    tracing::info!(image = reference, "unpacking the service's image for engines; once an image");
    files::make_dir(&all, 0o700)?;
    let draft = tempfile::Builder::new().prefix("new-").tempdir_in(&all).tried("make a folder in", &all)?;
    let name = draft.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let made = container::pin(docker, &name.to_lowercase(), reference, labels).await?;
    let written = export(docker, &made, draft.path()).await;
    container::remove(docker, &made).await;
    written?;
    // The draft's own mode is a temporary folder's; the root of a filesystem can be searched by all.
    files::make_dir(draft.path(), 0o755)?;
    let draft = draft.keep();
    if let Err(e) = std::fs::rename(&draft, &target) {
        let _ = blocking(move || std::fs::remove_dir_all(&draft).tried("remove", &draft)).await;
        if !target.is_dir() {
            return Err(e).tried("keep the service's image in", &target);
        }
    }
    Ok(target)
}

async fn export(docker: &Docker, made: &str, target: &Path) -> Result<(), EngineError> {
    // GNU tar keeps hostile names and links beneath the folder.
    let mut tar = tokio::process::Command::new("tar")
        .args(["--extract", "--numeric-owner", "--preserve-permissions", "--directory"])
        .arg(target)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .tried("start", "tar")?;
    let mut stdin = tar.stdin.take();
    let mut bytes = docker.export_container(made);
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|source| EngineError::Docker {
            doing: "export the service's image from",
            what: made.to_owned(),
            source,
        })?;
        if let Some(stdin) = &mut stdin
            && stdin.write_all(&chunk).await.is_err()
        {
            // Its words are in stderr.
            break;
        }
    }
    drop(stdin);
    let output = tar.wait_with_output().await.tried("wait for", "tar")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).chars().take(2000).collect();
    Err(EngineError::Program { doing: "unpack the service's image", program: "tar", said })
}

/// Removes the folders of images that the host no longer has, and drafts. For the start of a runner without engines.
pub(super) async fn sweep(docker: &Docker, folder: &Path) {
    let all = folder.join(FOLDER);
    let Ok(entries) = std::fs::read_dir(&all) else { return };
    let Ok(images) = docker.list_images(None::<bollard::query_parameters::ListImagesOptions>).await else { return };
    let known: HashSet<String> = images.iter().map(|image| name_of(&image.id)).collect();
    let gone: Vec<PathBuf> =
        entries.flatten().filter(|e| !known.contains(&*e.file_name().to_string_lossy())).map(|e| e.path()).collect();
    for path in gone {
        if let Err(error) = blocking(move || std::fs::remove_dir_all(&path).tried("remove", &path)).await {
            tracing::warn!(%error, "an unpacked image stays behind");
        }
    }
}

/// `sha256:ab…` as a folder's name.
fn name_of(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().filter(char::is_ascii_hexdigit).collect()
}
