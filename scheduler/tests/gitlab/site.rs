//! A double, an upstream, and between them a scheduler whose jobs are played by the test.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::Value;
use slipway_double::{Double, Job, Settings, server::TOKEN};
use slipway_scheduler::upstream::gitlab::GitlabUpstreams;
use slipway_scheduler::upstream::gitlab::config::{Pace, UpstreamConfig};
use slipway_scheduler::upstream::{
    Cancel, End, Intake, Refused, RemoteJob, Selector, Upload, Upstream, UpstreamError, UpstreamJob,
};
use slipway_spec::ids::JobId;
use slipway_spec::outcome::{FailureReason, Outcome};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};

/// A second of the protocol, in these tests.
/// Where a test asks that an interval was kept it asks for half of it or less: what it sees are arrivals, which a busy
/// machine delays unevenly.
pub(crate) const SECOND: Duration = Duration::from_millis(10);

pub(crate) fn pace() -> Pace {
    Pace {
        second: SECOND,
        connect: Duration::from_secs(20),
        read: Duration::from_secs(60),
        stop_grace: Duration::from_secs(5),
    }
}

/// What a job does.
pub(crate) type Play = Arc<dyn Fn(Run) -> BoxFuture<'static, Outcome> + Send + Sync>;

pub(crate) fn play<F>(f: impl Fn(Run) -> F + Send + Sync + 'static) -> Play
where
    F: Future<Output = Outcome> + Send + 'static,
{
    Arc::new(move |run| Box::pin(f(run)))
}

/// Prints a line and succeeds.
pub(crate) fn hello() -> Play {
    play(|mut run: Run| async move {
        run.print(b"hello\n").await;
        Outcome::Success
    })
}

pub(crate) fn failed(reason: FailureReason, exit_code: Option<i32>) -> Outcome {
    Outcome::Failed { reason, exit_code, message: "failed".into() }
}

/// The scheduler of the tests: remembers jobs, counts places, plays.
pub(crate) struct Desk {
    room: watch::Sender<u32>,
    jobs: Mutex<HashMap<RemoteJob, Entry>>,
    upstream: watch::Sender<Option<Arc<GitlabUpstreams>>>,
    call: Arc<RwLock<()>>,
    play: Play,
    pub(crate) draining: watch::Sender<bool>,
    /// Jobs that run now, and the most there were.
    pub(crate) running: watch::Sender<(u32, u32)>,
}

#[derive(Clone)]
struct Entry {
    id: JobId,
    runs: u32,
    cancel: watch::Sender<Option<Cancel>>,
}

impl Desk {
    fn jobs(&self) -> MutexGuard<'_, HashMap<RemoteJob, Entry>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a job was started.
    pub(crate) fn runs(&self, remote: &RemoteJob) -> u32 {
        self.jobs().get(remote).map_or(0, |e| e.runs)
    }

    /// Forgets everything, as a scheduler that lost its store.
    pub(crate) fn forget(&self) {
        self.jobs().clear();
    }
}

/// The scheduler is shared with the upstream's own runtime.
struct Door(Arc<Desk>, tokio::runtime::Handle);

impl Intake for Door {
    fn accept(&self, job: UpstreamJob) -> BoxFuture<'_, Result<JobId, Refused>> {
        let desk = self.0.clone();
        let runtime = self.1.clone();
        Box::pin(async move {
            if *desk.draining.borrow() {
                return Err(Refused::Draining);
            }
            let mut jobs = desk.jobs();
            if let Some(known) = jobs.get(&job.remote) {
                return Ok(known.id);
            }
            let id = JobId(jobs.len() as u64 + 1);
            let cancel = watch::Sender::new(None);
            let run = Run {
                job: job.clone(),
                cancel: cancel.subscribe(),
                printed: watch::Sender::new(0),
                life: Life { upstream: desk.upstream.subscribe(), call: desk.call.clone() },
            };
            jobs.insert(job.remote.clone(), Entry { id, runs: 1, cancel });
            drop(jobs);
            desk.room.send_modify(|n| *n = n.saturating_sub(1));
            desk.running.send_modify(|(now, most)| {
                *now += 1;
                *most = (*most).max(*now);
            });
            runtime.spawn(finish(desk, run));
            Ok(id)
        })
    }

    fn remembers(&self, job: RemoteJob) -> BoxFuture<'_, bool> {
        let known = self.0.jobs().contains_key(&job);
        Box::pin(async move { known })
    }

    fn cancel(&self, job: RemoteJob, how: Cancel) -> BoxFuture<'_, ()> {
        if let Some(entry) = self.0.jobs().get(&job) {
            entry.cancel.send_replace(Some(how));
        }
        Box::pin(async {})
    }

    fn room(&self, _: &Selector) -> watch::Receiver<u32> {
        self.0.room.subscribe()
    }
}

async fn finish(desk: Arc<Desk>, run: Run) {
    let (remote, printed, mut life) = (run.job.remote.clone(), run.printed.subscribe(), run.life.clone());
    let outcome = (desk.play)(run).await;
    let trace_bytes = *printed.borrow();
    let (upstream, alive) = life.here().await;
    match upstream.finish(&remote, End { outcome, trace_bytes }).await {
        Ok(()) | Err(UpstreamError::Gone(_)) => {}
        Err(other) => panic!("{other}"),
    }
    drop(alive);
    desk.running.send_modify(|(now, _)| *now -= 1);
    desk.room.send_modify(|n| *n += 1);
}

/// The upstream of now. A call to it ends before the upstream is killed: a dead process answers nobody.
#[derive(Clone)]
struct Life {
    upstream: watch::Receiver<Option<Arc<GitlabUpstreams>>>,
    call: Arc<RwLock<()>>,
}

impl Life {
    async fn here(&mut self) -> (Arc<GitlabUpstreams>, OwnedRwLockReadGuard<()>) {
        loop {
            self.upstream.wait_for(Option::is_some).await.expect("the desk lives");
            let call = self.call.clone().read_owned().await;
            if let Some(upstream) = self.upstream.borrow().clone() {
                return (upstream, call);
            }
        }
    }
}

/// One run of a job, as its player sees it.
pub(crate) struct Run {
    pub(crate) job: UpstreamJob,
    pub(crate) cancel: watch::Receiver<Option<Cancel>>,
    printed: watch::Sender<u64>,
    life: Life,
}

impl Run {
    /// Appends to the trace; waits while the upstream is away. What its server has given up is dropped.
    pub(crate) async fn print(&mut self, bytes: &[u8]) {
        let offset = *self.printed.borrow();
        let (upstream, _alive) = self.life.here().await;
        let held = match upstream.append_trace(&self.job.remote, offset, Bytes::copy_from_slice(bytes)).await {
            Ok(held) => held,
            Err(UpstreamError::Gone(_)) => offset + bytes.len() as u64,
            Err(other) => panic!("{other}"),
        };
        assert_eq!(held, offset + bytes.len() as u64);
        self.printed.send_replace(held);
    }

    pub(crate) async fn upload(&mut self, upload: Upload<'_>) -> Result<(), UpstreamError> {
        self.life.here().await.0.upload(&self.job.remote, upload).await
    }

    pub(crate) async fn download(&mut self, job: u64, into: &std::path::Path) -> Result<u64, UpstreamError> {
        self.life.here().await.0.download(&self.job.remote, JobId(job), into).await
    }

    /// Waits until the job is to be ended.
    pub(crate) async fn cancelled(&mut self) -> Cancel {
        self.cancel.wait_for(Option::is_some).await.expect("the desk lives").expect("waited for")
    }

    /// A variable of the job.
    pub(crate) fn variable(&self, key: &str) -> &str {
        self.job.spec.variable(key).unwrap_or("")
    }
}

/// Everything of a test.
pub(crate) struct Site {
    pub(crate) double: Double,
    pub(crate) desk: Arc<Desk>,
    pub(crate) configs: Vec<UpstreamConfig>,
    pub(crate) state: tempfile::TempDir,
    pub(crate) pace: Pace,
    runtime: Option<tokio::runtime::Runtime>,
    up: Option<Arc<GitlabUpstreams>>,
}

impl Site {
    /// A double and a scheduler with four places; the upstream is not started yet.
    pub(crate) async fn new(settings: Settings, play: Play) -> Self {
        let double = Double::start(settings).await;
        let mut config = UpstreamConfig::new("gitlab", double.url(), TOKEN);
        config.check_interval_seconds = 3;
        let desk = Desk {
            room: watch::Sender::new(4),
            jobs: Mutex::default(),
            upstream: watch::Sender::new(None),
            call: Arc::default(),
            play,
            draining: watch::Sender::new(false),
            running: watch::Sender::new((0, 0)),
        };
        let state = tempfile::tempdir().expect("a folder");
        Site { double, desk: Arc::new(desk), configs: vec![config], state, pace: pace(), runtime: None, up: None }
    }

    /// The same, started.
    pub(crate) async fn started(settings: Settings, play: Play) -> Self {
        let mut site = Site::new(settings, play).await;
        site.start();
        site
    }

    pub(crate) fn set_room(&self, room: u32) {
        self.desk.room.send_replace(room);
    }

    /// Starts the upstream in a runtime of its own, which can be killed.
    pub(crate) fn start(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
        let door = Arc::new(Door(self.desk.clone(), tokio::runtime::Handle::current()));
        let up = {
            let _inside = runtime.enter();
            GitlabUpstreams::start(self.configs.clone(), self.state.path(), self.pace, door)
                .expect("a good configuration")
        };
        self.desk.upstream.send_replace(Some(up.clone()));
        (self.up, self.runtime) = (Some(up), Some(runtime));
    }

    pub(crate) fn up(&self) -> Arc<GitlabUpstreams> {
        self.up.clone().expect("started")
    }

    /// Ends the upstream in the middle of whatever it does, as kill -9 would.
    pub(crate) async fn kill(&mut self) {
        let _no_calls = self.desk.call.clone().write_owned().await;
        self.desk.upstream.send_replace(None);
        self.up = None;
        if let Some(runtime) = self.runtime.take() {
            // Tasks end where they are; a thread in the middle of a write cannot be ended, and no other process would
            // find it still writing.
            let ended = tokio::task::spawn_blocking(|| runtime.shutdown_timeout(Duration::from_secs(60))).await;
            ended.expect("the runtime ends");
        }
        self.double.forgive();
    }

    /// Ends the upstream as SIGTERM does.
    pub(crate) async fn stop(&mut self) {
        let _no_calls = self.desk.call.clone().write_owned().await;
        self.desk.upstream.send_replace(None);
        self.up.take().expect("started").stop().await;
        self.runtime.take().expect("started").shutdown_background();
        self.double.forgive();
    }

    /// Enqueues a job, waits until it is over, and until the upstream has put it away.
    pub(crate) async fn run(&self, payload: Value) -> Job {
        let id = self.double.enqueue(payload);
        let job = self.double.over(id).await;
        self.up().idle().await;
        job
    }

    /// No breach, and an empty spool.
    pub(crate) async fn assert_clean(&self) {
        self.double.assert_clean();
        self.up().idle().await;
        for config in &self.configs {
            let left: Vec<_> = std::fs::read_dir(self.state.path().join("upstreams").join(&config.name))
                .expect("the spool")
                .map(|e| e.expect("an entry").file_name())
                .filter(|n| n != "token.json")
                .collect();
            assert!(left.is_empty(), "left in the spool: {left:?}");
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A simple job of the double.
pub(crate) fn job(name: &str) -> Value {
    slipway_double::payload::job(name, Some("busybox"), &["true"])
}
