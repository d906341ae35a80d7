//! What is brought into the work tree before the script: caches, and artifacts of earlier jobs.

use super::driver::{Driver, now};
use super::sources::{TreePath, tree_path};
use super::state::Failure;
use crate::artifacts::{Bounds, extract};
use crate::cache::{Cache, Facts, Scope};
use crate::workspace::TrackedPaths;
use slipway_spec::job::Dependency;
use slipway_spec::outcome::FailureReason;
use slipway_wire::v1::DownloadRequest;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Brings in caches and artifacts.
///
/// # Errors
/// When an artifact that is there cannot be had; a cache is never missed.
pub(crate) async fn run(driver: &mut Driver) -> Result<(), Failure> {
    if !driver.spec.caches.is_empty() {
        driver.trace.section("restore_cache", "Restoring cache", now());
        restore(driver).await?;
        driver.trace.section_end(now());
    }
    if !driver.spec.dependencies.is_empty() {
        driver.trace.section("download_artifacts", "Downloading artifacts", now());
        for dependency in driver.spec.clone().dependencies.iter() {
            download(driver, dependency).await?;
        }
        driver.trace.section_end(now());
    }
    Ok(())
}

async fn restore(driver: &Driver) -> Result<(), Failure> {
    let (caches, trace, scope) = (driver.node.caches.clone(), driver.trace.clone(), scope(driver));
    let wanted = resolved(driver, &tracked(driver, key_files(driver)).await);
    let tree = tree_path(driver);
    blocking("restore the caches", move || {
        let mut say = |line: &str| trace.say(line);
        let tree = tree.open().map_err(|e| e.to_string())?;
        for cache in &wanted {
            caches.restore(&scope, cache, &tree, &mut say);
        }
        Ok(())
    })
    .await
}

/// Whose caches a job sees.
pub(crate) fn scope(driver: &Driver) -> Scope {
    Scope { project: driver.spec.project, tier: driver.spec.tier, read_protected: false }
}

/// The job's caches with their keys; one that makes no sense is said in the trace and left out.
pub(crate) fn resolved(driver: &Driver, tracked: &TrackedPaths) -> Vec<Cache> {
    let mut wanted = Vec::new();
    for (index, spec) in driver.spec.caches.iter().enumerate() {
        let expand = |text: &str| driver.environment.expand(text);
        let facts =
            Facts { job: &driver.spec.name, ref_name: &driver.spec.source.ref_name, index, expand: &expand, tracked };
        match Cache::resolve(spec, &facts) {
            Ok(cache) => wanted.push(cache),
            Err(why) => driver.trace.say(&why),
        }
    }
    wanted
}

fn key_files(driver: &Driver) -> bool {
    driver.spec.caches.iter().any(|c| !c.key_files.is_empty())
}

/// The commit's files, where they are needed.
pub(crate) async fn tracked(driver: &Driver, needed: bool) -> TrackedPaths {
    let Some(sources) = driver.record.sources.clone().filter(|_| needed) else { return TrackedPaths::default() };
    match tokio::task::spawn_blocking(move || sources.tracked.paths()).await {
        Ok(Ok(paths)) => paths,
        Ok(Err(e)) => {
            driver.trace.warn(&e.to_string());
            TrackedPaths::default()
        }
        Err(_) => TrackedPaths::default(),
    }
}

async fn download(driver: &Driver, dependency: &Dependency) -> Result<(), Failure> {
    let what = format!("artifacts of {} ({})", dependency.name, dependency.job);
    let attempts = driver.environment.attempts("ARTIFACT_DOWNLOAD_ATTEMPTS");
    let path = driver.folder.archives().join(format!("in-{}", dependency.job));
    let mut attempt = 1;
    loop {
        driver.trace.say(&format!("Downloading {what}..."));
        match fetch(driver, dependency, &path).await {
            Ok(()) => break,
            Err(status) if status.code() == tonic::Code::NotFound && dependency.bytes == 0 => {
                driver.trace.say("It has none.");
                return Ok(());
            }
            Err(status) if status.code() == tonic::Code::NotFound => {
                let reason = FailureReason::MissingDependencyFailure;
                return Err(Failure { reason, exit_code: None, message: format!("the {what} are gone") });
            }
            Err(status) if attempt < attempts => {
                driver.trace.warn(&format!("cannot download {what}: {}; trying again", status.message()));
                attempt += 1;
            }
            Err(status) => return Err(Failure::system(format!("cannot download {what}: {}", status.message()))),
        }
    }
    let (tree, archive) = (tree_path(driver), path.clone());
    let extracted = blocking("extract an archive", move || {
        let archive = File::open(&archive).map_err(|e| e.to_string())?;
        let tree = tree.open().map_err(|e| e.to_string())?;
        Ok(extract(archive, &tree, Bounds::default()).map_err(|e| e.to_string()))
    })
    .await?;
    let _ = std::fs::remove_file(&path);
    match extracted {
        Ok(extracted) => {
            driver.trace.say(&format!("{} files, {} bytes", extracted.files, extracted.bytes));
            Ok(())
        }
        Err(why) => Err(Failure::script(format!("cannot bring in the {what}: {why}"))),
    }
}

async fn fetch(driver: &Driver, dependency: &Dependency, path: &Path) -> Result<(), tonic::Status> {
    let request = DownloadRequest {
        job: driver.spec.id.0,
        fence: driver.record.fence.0,
        from_job: dependency.job.0,
        kind: "archive".into(),
    };
    let fault = |e: std::io::Error| tonic::Status::internal(format!("cannot write {}: {e}", path.display()));
    let mut chunks = driver.node.client.clone().download(request).await?.into_inner();
    let mut file = File::create(path).map_err(fault)?;
    let mut left = Bounds::default().bytes;
    while let Some(chunk) = chunks.message().await? {
        left = left
            .checked_sub(chunk.data.len() as u64)
            .ok_or_else(|| tonic::Status::out_of_range("the archive is larger than the node takes"))?;
        file.write_all(&chunk.data).map_err(fault)?;
    }
    Ok(())
}

/// Work on files, on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(why)) => Err(Failure::system(format!("cannot {what}: {why}"))),
        Err(e) => Err(Failure::system(format!("cannot {what}: {e}"))),
    }
}

/// The trace and the work tree, for work on files.
pub(crate) fn shared(driver: &Driver) -> (Arc<crate::trace::Trace>, TreePath) {
    (driver.trace.clone(), tree_path(driver))
}
