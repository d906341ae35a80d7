//! What is kept of the work tree after the script: artifacts to the scheduler, caches on the node.

use super::bring_in::{blocking, resolved, scope, shared, tracked};
use super::driver::{Driver, now};
use super::state::{Event, Failure, Verdict};
use crate::artifacts::junit::{self, Summary};
use crate::artifacts::{Bounds, Level, Rules, Selected, dotenv, file_name, nothing_found, pack, select};
use crate::cache::SaveFrom;
use crate::confined::{Folder, Kind};
use crate::executor::container;
use crate::workspace::TrackedPaths;
use slipway_spec::job::{ArtifactFormat, ArtifactSpec, When};
use slipway_spec::outcome::FailureReason;
use slipway_wire::MAX_CHUNK_BYTES;
use slipway_wire::v1::{UploadChunk, UploadHeader, upload_chunk};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Tries of an upload (GitLab: 3).
const TRIES: u32 = 3;
/// Wait between them.
const WAIT: Duration = Duration::from_secs(1);
/// Bytes of one report that are read.
const REPORT_MAX: u64 = 64 << 20;
/// Files of an archive that are listed with it.
const LISTED: usize = 10_000;

/// Keeps artifacts and caches.
pub(crate) async fn run(driver: &mut Driver, verdict: &Verdict) -> Event {
    if let Some(fault) = driver.trace.fault() {
        return Event::Collected(Some(Failure::system(fault)));
    }
    let begun = Instant::now();
    let succeeded = matches!(verdict, Verdict::Success);
    super::finish::read_meters(driver);
    let mut first = None;
    let spec = driver.spec.clone();
    let due: Vec<&ArtifactSpec> = spec.artifacts.iter().filter(|a| is_due(a.when, succeeded)).collect();
    if !due.is_empty() && driver.record.sources.is_some() {
        let (section, word) = if succeeded {
            ("upload_artifacts_on_success", "successful")
        } else {
            ("upload_artifacts_on_failure", "failed")
        };
        driver.trace.section(section, &format!("Uploading artifacts for {word} job"), now());
        let files = Arc::new(tracked(driver, due.iter().any(|a| a.untracked)).await);
        for (index, artifact) in due.into_iter().enumerate() {
            if let Err(failure) = keep(driver, artifact, index, &files).await {
                driver.trace.error(&failure.message);
                first = first.or(Some(failure));
            }
        }
        driver.trace.section_end(now());
    }
    // Last: the files of caches are moved out of the tree.
    if !driver.spec.caches.is_empty() && driver.record.sources.is_some() {
        save_caches(driver, succeeded).await;
    }
    driver.record.receipt.collect_seconds = begun.elapsed().as_secs_f64();
    Event::Collected(first)
}

fn is_due(when: When, succeeded: bool) -> bool {
    match when {
        When::Always => true,
        When::OnSuccess => succeeded,
        When::OnFailure => !succeeded,
    }
}

/// Never fatal. The files of caches are moved out of the tree: the containers must be gone first.
async fn save_caches(driver: &mut Driver, succeeded: bool) {
    let (section, word) =
        if succeeded { ("archive_cache", "successful") } else { ("archive_cache_on_failure", "failed") };
    driver.trace.section(section, &format!("Saving cache for {word} job"), now());
    let files = tracked(driver, driver.spec.caches.iter().any(|c| c.untracked || !c.key_files.is_empty())).await;
    let wanted = resolved(driver, &files);
    if let Some(container) = driver.record.container.clone() {
        container::kill(&driver.node.docker, &container).await;
        driver.up = false;
    }
    for service in std::mem::take(&mut driver.services) {
        crate::executor::remove_container(&driver.node.docker, &service.container).await;
    }
    let (caches, scope) = (driver.node.caches.clone(), scope(driver));
    let (trace, tree) = shared(driver);
    let project_dir = driver.environment.project_dir.clone();
    let saved = blocking("save the caches", move || {
        let tree = tree.open().map_err(|e| e.to_string())?;
        let from = SaveFrom { tree: &tree, tracked: &files, project_dir: &project_dir, succeeded, may_move: true };
        caches.save(&scope, &wanted, from, &mut |line| trace.say(line));
        Ok(())
    });
    if let Err(failure) = saved.await {
        driver.trace.warn(&failure.message);
    }
    driver.trace.section_end(now());
}

/// One packed artifact.
struct Pack {
    path: PathBuf,
    name: String,
    bytes: u64,
    entries: Vec<u8>,
    dotenv: Vec<(String, String)>,
    tests: Option<Summary>,
}

async fn keep(
    driver: &mut Driver,
    artifact: &ArtifactSpec,
    index: usize,
    files: &Arc<TrackedPaths>,
) -> Result<(), Failure> {
    let (trace, tree) = shared(driver);
    let expand = |text: &String| driver.environment.expand(text);
    let mut expanded = artifact.clone();
    expanded.paths = artifact.paths.iter().map(expand).collect();
    expanded.exclude = artifact.exclude.iter().map(expand).collect();
    expanded.name = artifact.name.as_ref().map(expand);
    let level = driver.environment.get("ARTIFACT_COMPRESSION_LEVEL").map_or(Level::Default, Level::parse);
    let path = driver.folder.archives().join(format!("out-{index}"));
    let (project_dir, files) = (driver.environment.project_dir.clone(), files.clone());
    let kind = if artifact.kind.is_empty() { "archive" } else { &artifact.kind }.to_owned();
    let said = kind.clone();
    let packed = blocking("pack artifacts", move || {
        let tree = tree.open().map_err(|e| e.to_string())?;
        Ok(pack_one(&tree, &expanded, &said, &files, &project_dir, level, path, &|line| trace.say(line)))
    });
    let Some(pack) = packed.await?.map_err(Failure::script)? else { return Ok(()) };
    let header = UploadHeader {
        job: driver.spec.id.0,
        fence: driver.record.fence.0,
        kind: kind.clone(),
        format: match artifact.format {
            ArtifactFormat::Zip => "zip",
            ArtifactFormat::Gzip => "gzip",
            ArtifactFormat::Raw => "raw",
        }
        .into(),
        name: pack.name.clone(),
        expire_in: artifact.expire_in.as_ref().map(|e| driver.environment.expand(e)).unwrap_or_default(),
        entries_json: pack.entries,
    };
    driver.record.dotenv.extend(pack.dotenv);
    if let Some(tests) = pack.tests {
        driver.record.tests = Some(driver.record.tests.take().unwrap_or_default().plus(tests));
    }
    driver
        .trace
        .say(&format!("Uploading artifacts as \"{kind}\" to scheduler: {} ({} bytes)...", pack.name, pack.bytes));
    upload(driver, &header, &pack.path).await?;
    let _ = std::fs::remove_file(&pack.path);
    Ok(())
}

/// Selects, reads what reports say, and packs; `None` when nothing matched.
#[allow(clippy::too_many_arguments)]
fn pack_one(
    tree: &Folder,
    artifact: &ArtifactSpec,
    kind: &str,
    files: &TrackedPaths,
    project_dir: &str,
    level: Level,
    path: PathBuf,
    say: &dyn Fn(&str),
) -> Result<Option<Pack>, String> {
    let rules = Rules {
        paths: &artifact.paths,
        exclude: &artifact.exclude,
        untracked: artifact.untracked.then_some(files),
        project_dir,
    };
    let bounds = Bounds::default();
    let selected = select(tree, &rules, bounds).map_err(|e| e.to_string())?;
    for line in &selected.lines {
        say(line);
    }
    if selected.is_empty() {
        say(nothing_found());
        return Ok(None);
    }
    let (mut variables, mut tests) = (Vec::new(), None);
    match kind {
        "dotenv" => {
            for bytes in contents(tree, &selected) {
                let parsed = dotenv::parse(&bytes, dotenv::Limits::default()).map_err(|e| e.to_string())?;
                variables.extend(parsed.into_iter().map(|v| (v.key, v.value)));
            }
        }
        "junit" => {
            let summaries = contents(tree, &selected).iter().map(|b| junit::summarise(b)).collect::<Vec<_>>();
            tests = Some(summaries.into_iter().fold(Summary::default(), Summary::plus));
        }
        _ => {}
    }
    let out = File::create(&path).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    let packed = pack(tree, &selected, artifact.format, level, bounds, out).map_err(|e| e.to_string())?;
    let raw = selected.files().next().map(|e| String::from_utf8_lossy(&e.path).into_owned());
    let name = match artifact.format {
        ArtifactFormat::Raw => file_name(raw.as_deref(), artifact.format),
        // GitLab names reports after their kind.
        ArtifactFormat::Gzip => {
            file_name(Some(artifact.name.as_deref().unwrap_or(&format!("{kind}.xml"))), artifact.format)
        }
        ArtifactFormat::Zip => file_name(artifact.name.as_deref(), artifact.format),
    };
    Ok(Some(Pack { path, name, bytes: packed.bytes, entries: listed(&selected), dotenv: variables, tests }))
}

/// Bytes of the selected files, as far as reports are read.
fn contents(tree: &Folder, selected: &Selected) -> Vec<Vec<u8>> {
    let read = |path: &[u8]| {
        let mut bytes = Vec::new();
        tree.read(path).ok()?.take(REPORT_MAX).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    selected.files().filter_map(|e| read(&e.path)).collect()
}

fn listed(selected: &Selected) -> Vec<u8> {
    let entry = |e: &crate::confined::Entry| {
        let bytes = if let Kind::File { bytes } = e.kind { bytes } else { 0 };
        serde_json::json!({"path": String::from_utf8_lossy(&e.path), "bytes": bytes})
    };
    let entries: Vec<_> = selected.files().take(LISTED).map(entry).collect();
    serde_json::to_vec(&entries).unwrap_or_default()
}

async fn upload(driver: &Driver, header: &UploadHeader, path: &Path) -> Result<(), Failure> {
    let mut tries = 0;
    loop {
        tries += 1;
        let status = match upload_once(driver, header.clone(), path).await {
            Ok(()) => return Ok(()),
            Err(status) => status,
        };
        let message = format!("cannot upload the artifacts \"{}\": {}", header.kind, status.message());
        match status.code() {
            // Too large, or not wanted: another try would not do better.
            tonic::Code::OutOfRange
            | tonic::Code::ResourceExhausted
            | tonic::Code::PermissionDenied
            | tonic::Code::InvalidArgument
            | tonic::Code::FailedPrecondition => return Err(Failure::script(message)),
            _ if tries < TRIES => {
                driver.trace.warn(&format!("{message}; trying again"));
                tokio::time::sleep(WAIT).await;
            }
            _ => {
                let reason = FailureReason::RunnerSystemFailure;
                return Err(Failure { reason, exit_code: None, message });
            }
        }
    }
}

async fn upload_once(driver: &Driver, header: UploadHeader, path: &Path) -> Result<(), tonic::Status> {
    let (chunks, stream) = mpsc::channel(4);
    let path = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let header = UploadChunk { message: Some(upload_chunk::Message::Header(header)) };
        let mut file = File::open(path)?;
        if chunks.blocking_send(header).is_err() {
            return Ok(());
        }
        loop {
            let mut data = Vec::with_capacity(MAX_CHUNK_BYTES);
            (&mut file).take(MAX_CHUNK_BYTES as u64).read_to_end(&mut data)?;
            let chunk = UploadChunk { message: Some(upload_chunk::Message::Data(data.clone())) };
            if data.is_empty() || chunks.blocking_send(chunk).is_err() {
                return Ok(());
            }
        }
    });
    let sent = driver.node.client.clone().upload(ReceiverStream::new(stream)).await;
    match reading.await {
        Ok(Ok(())) => sent.map(drop),
        Ok(Err(e)) => Err(tonic::Status::data_loss(format!("cannot read the archive: {e}"))),
        Err(e) => Err(tonic::Status::internal(e.to_string())),
    }
}
