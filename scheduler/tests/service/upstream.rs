//! A job of a GitLab server goes the same way as any other, and its server hears of it.

use crate::support::{Node, Site, failed, soon};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use slipway_scheduler::config::Config;
use slipway_scheduler::upstream::{Cancel, End, RemoteJob, Selector, Upload, Upstream, UpstreamError, UpstreamJob};
use slipway_spec::ids::{JobId, PipelineId, ProjectId};
use slipway_spec::job::{Dependency, JobSpec, Source, Tier};
use slipway_spec::outcome::Outcome;
use slipway_wire::v1;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// What the server has heard.
#[derive(Clone, Debug, Default)]
struct Heard {
    started: bool,
    trace: Vec<u8>,
    files: Vec<(String, Vec<u8>)>,
    end: Option<End>,
    refusals_left: u32,
}

struct Server {
    heard: watch::Sender<Heard>,
    // The scheduler may call from several tasks.
    order: Mutex<()>,
}

impl Server {
    fn new(refusals: u32) -> (Arc<Server>, watch::Receiver<Heard>) {
        let (heard, hears) = watch::channel(Heard { refusals_left: refusals, ..Heard::default() });
        (Arc::new(Server { heard, order: Mutex::default() }), hears)
    }
}

impl Upstream for Server {
    fn started(&self, _: &RemoteJob) -> BoxFuture<'_, ()> {
        self.heard.send_modify(|h| h.started = true);
        Box::pin(async {})
    }

    fn append_trace(&self, _: &RemoteJob, offset: u64, bytes: Bytes) -> BoxFuture<'_, Result<u64, UpstreamError>> {
        let _order = self.order.lock().unwrap();
        let mut held = 0;
        self.heard.send_modify(|h| {
            let offset = offset as usize;
            if offset <= h.trace.len() {
                let known = (h.trace.len() - offset).min(bytes.len());
                h.trace.extend(&bytes[known..]);
            }
            held = h.trace.len() as u64;
        });
        Box::pin(async move { Ok(held) })
    }

    fn finish(&self, job: &RemoteJob, end: End) -> BoxFuture<'_, Result<(), UpstreamError>> {
        let mut refused = false;
        self.heard.send_modify(|h| {
            refused = h.refusals_left > 0;
            h.refusals_left = h.refusals_left.saturating_sub(1);
            if !refused {
                h.end = Some(end);
            }
        });
        let source = std::io::Error::other("the disk is full");
        let answer = if refused { Err(UpstreamError::Spool { job: job.clone(), source }) } else { Ok(()) };
        Box::pin(async move { answer })
    }

    fn upload<'a>(&'a self, _: &RemoteJob, upload: Upload<'a>) -> BoxFuture<'a, Result<(), UpstreamError>> {
        let data = std::fs::read(upload.file).unwrap();
        self.heard.send_modify(|h| h.files.push((upload.kind.to_owned(), data)));
        Box::pin(async { Ok(()) })
    }

    fn download<'a>(
        &'a self,
        _: &RemoteJob,
        dependency: JobId,
        into: &'a Path,
    ) -> BoxFuture<'a, Result<u64, UpstreamError>> {
        let data = format!("archive of {dependency}");
        std::fs::write(into, &data).unwrap();
        Box::pin(async move { Ok(data.len() as u64) })
    }
}

fn remote(id: u64) -> RemoteJob {
    RemoteJob { upstream: "gitlab".into(), id }
}

fn taken(id: u64) -> UpstreamJob {
    let json = serde_json::json!({
        "id": 0, "pipeline": 0, "project": 0, "project_path": "group/app", "name": "build", "stage": "build",
        "tier": "protected", "timeout_seconds": 3600,
        "source": { "url": "https://gitlab.example/group/app.git", "ref_name": "main", "sha": "a".repeat(40) },
    });
    let spec: JobSpec = serde_json::from_value(json).unwrap();
    let dependencies = vec![Dependency { job: JobId(77), name: "before".into(), bytes: 1 }];
    let spec =
        JobSpec { tier: Tier::Protected, source: Source { depth: 1, ..spec.source.clone() }, dependencies, ..spec };
    assert_eq!((spec.id, spec.pipeline, spec.project), (JobId(0), PipelineId(0), ProjectId(0)));
    UpstreamJob { remote: remote(id), remote_project: 5, remote_pipeline: 6, selector: Selector::default(), spec }
}

#[tokio::test]
async fn its_trace_files_and_end_are_told_even_when_the_first_try_fails() {
    let (site, _folder) = Site::start(Config::default()).await;
    let (server, mut hears) = Server::new(1);
    site.scheduler.set_upstream(server);
    let intake = site.scheduler.intake();
    let mut room = intake.room(&Selector::default());
    let mut node = Node::connect(&site, "n1", 2).await;
    soon("room for two", room.wait_for(|r| *r == 2)).await.unwrap();
    let id = intake.accept(taken(901)).await.unwrap();
    assert_eq!(intake.accept(taken(901)).await.unwrap(), id);
    assert!(intake.remembers(remote(901)).await && !intake.remembers(remote(902)).await);
    let offered = node.take().await;
    assert_eq!(offered.spec.id, id);
    assert!(offered.spec.project.0 > 0 && offered.spec.pipeline.0 > 0);
    soon("less room", room.wait_for(|r| *r == 1)).await.unwrap();
    node.started(&offered).await;
    node.trace(&offered, 0, b"hello ").await.unwrap();
    soon("the first bytes", hears.wait_for(|h| h.started && h.trace == b"hello ")).await.unwrap();
    node.trace(&offered, 6, b"server").await.unwrap();
    let header = v1::UploadHeader { kind: "archive".into(), name: "a.zip".into(), ..Default::default() };
    node.upload(&offered, header, b"zipped").await.unwrap();
    assert_eq!(node.download(&offered, JobId(77)).await.unwrap(), b"archive of 77");
    node.finish(&offered, failed(2)).await.unwrap();
    let heard = soon("the end", hears.wait_for(|h| h.end.is_some())).await.unwrap().clone();
    assert_eq!(heard.trace, b"hello server");
    assert_eq!(heard.files, [("archive".to_owned(), b"zipped".to_vec())]);
    assert_eq!(heard.end, Some(End { outcome: failed(2), trace_bytes: 12 }));
    assert!(intake.remembers(remote(901)).await);
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn end_that_was_not_told_is_told_after_a_restart() {
    let (site, folder) = Site::start(Config::default()).await;
    let intake = site.scheduler.intake();
    intake.accept(taken(901)).await.unwrap();
    let mut node = Node::connect(&site, "n1", 2).await;
    let offered = node.take().await;
    node.trace(&offered, 0, b"bytes").await.unwrap();
    node.finish(&offered, Outcome::Success).await.unwrap();
    // The server was never there.
    site.scheduler.shutdown().await;
    drop((site, node, intake));
    let site = Site::in_folder(Config::default(), folder.path()).await;
    let (server, mut hears) = Server::new(0);
    site.scheduler.set_upstream(server);
    let heard = soon("the end", hears.wait_for(|h| h.end.is_some())).await.unwrap().clone();
    assert_eq!((heard.trace, heard.end), (b"bytes".to_vec(), Some(End { outcome: Outcome::Success, trace_bytes: 5 })));
    site.scheduler.shutdown().await;
}

#[tokio::test]
async fn server_ends_its_job() {
    let (site, _folder) = Site::start(Config::default()).await;
    let (server, mut hears) = Server::new(0);
    site.scheduler.set_upstream(server);
    let intake = site.scheduler.intake();
    intake.accept(taken(901)).await.unwrap();
    let mut node = Node::connect(&site, "n1", 2).await;
    let offered = node.take().await;
    intake.cancel(remote(901), Cancel::Graceful).await;
    assert_eq!(node.cancel().await.how, "canceling");
    intake.cancel(remote(901), Cancel::Abort).await;
    assert_eq!(node.cancel().await.how, "canceled");
    node.finish(&offered, Outcome::Canceled).await.unwrap();
    let heard = soon("the end", hears.wait_for(|h| h.end.is_some())).await.unwrap().clone();
    assert_eq!(heard.end.map(|e| e.outcome), Some(Outcome::Canceled));
    intake.cancel(remote(901), Cancel::Abort).await;
    site.scheduler.shutdown().await;
}
