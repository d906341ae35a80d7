//! A scheduler that does what a test tells it, over the real gRPC service on a Unix socket, and remembers what it is told.

use hyper_util::rt::TokioIo;
use slipway_runner::agent::{Runner, RunnerHandle};
use slipway_runner::config::RunnerConfig;
use slipway_spec::job::JobSpec;
use slipway_spec::outcome::Outcome;
use slipway_spec::receipt::Receipt;
use slipway_wire::document::{decode, encode};
use slipway_wire::v1::runner_server::{Runner as Service, RunnerServer};
use slipway_wire::v1::{self, from_runner, to_runner};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

/// Longest wait for anything a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What the scheduler was told of one job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) trace: Vec<u8>,
    pub(crate) phases: Vec<String>,
    pub(crate) started: u32,
    pub(crate) finish: Option<v1::FinishRequest>,
    pub(crate) finishes: u32,
    pub(crate) reply: Option<String>,
    pub(crate) uploads: Vec<(v1::UploadHeader, Vec<u8>)>,
}

impl Seen {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.trace).into_owned()
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.finish.as_ref().map(|f| decode(&f.outcome_json).unwrap())
    }

    pub(crate) fn receipt(&self) -> Receipt {
        decode(&self.finish.as_ref().expect("the job is not over").receipt_json).unwrap()
    }
}

#[derive(Default)]
struct State {
    jobs: BTreeMap<u64, Seen>,
    hellos: Vec<v1::NodeHello>,
    /// Archives that `Download` gives: by the job they are of.
    archives: BTreeMap<u64, Vec<u8>>,
    session: Option<mpsc::Sender<Result<v1::ToRunner, Status>>>,
    /// Leases that are not renewed.
    silent: bool,
    /// Sessions and traces are refused.
    away: bool,
    refuse_uploads: bool,
    /// Fences that are refused.
    stale: Vec<u64>,
}

#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    ttl: u32,
}

impl Fake {
    fn change<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        let r = f(&mut self.state.lock().unwrap());
        self.changed.send_modify(|n| *n += 1);
        r
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Service for Fake {
    type SessionStream = Answers<v1::ToRunner>;
    type TraceStream = Answers<v1::TraceAck>;
    type DownloadStream = Answers<v1::DownloadChunk>;

    async fn session(
        &self,
        request: Request<Streaming<v1::FromRunner>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if self.state.lock().unwrap().away {
            return Err(Status::unavailable("away"));
        }
        let (answers, stream) = mpsc::channel(64);
        let hello = v1::SchedulerHello {
            hello: Some(v1::Hello { protocol: 1, build: "fake".into(), features: vec![] }),
            lease_ttl_seconds: self.ttl,
        };
        let hello = v1::ToRunner { message: Some(to_runner::Message::Hello(hello)) };
        answers.send(Ok(hello)).await.unwrap();
        let mut messages = request.into_inner();
        let fake = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let Some(message) = message.message else { continue };
                fake.take(message, &answers).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn trace(&self, request: Request<Streaming<v1::TraceChunk>>) -> Result<Response<Self::TraceStream>, Status> {
        if self.state.lock().unwrap().away {
            return Err(Status::unavailable("away"));
        }
        let fake = self.clone();
        let chunks = request.into_inner();
        let acks = chunks.map(move |chunk| {
            let chunk = chunk?;
            fake.change(|s| {
                if s.away {
                    return Err(Status::unavailable("away"));
                }
                if s.stale.contains(&chunk.fence) {
                    return Err(Status::failed_precondition("stale fence"));
                }
                let trace = &mut s.jobs.entry(chunk.job).or_default().trace;
                let held = trace.len() as u64;
                let end = chunk.offset + chunk.data.len() as u64;
                if chunk.offset <= held && end > held {
                    let from = usize::try_from(held - chunk.offset).unwrap();
                    trace.extend_from_slice(&chunk.data[from..]);
                }
                Ok(v1::TraceAck { held: trace.len() as u64 })
            })
        });
        Ok(Response::new(Box::pin(acks)))
    }

    async fn upload(&self, request: Request<Streaming<v1::UploadChunk>>) -> Result<Response<v1::UploadReply>, Status> {
        let mut chunks = request.into_inner();
        let mut header = None;
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await {
            match chunk?.message {
                Some(v1::upload_chunk::Message::Header(h)) => header = Some(h),
                Some(v1::upload_chunk::Message::Data(data)) => bytes.extend(data),
                None => {}
            }
        }
        let header = header.ok_or_else(|| Status::invalid_argument("no header"))?;
        if self.state.lock().unwrap().refuse_uploads {
            return Err(Status::out_of_range("too large for this test"));
        }
        let length = bytes.len() as u64;
        self.change(|s| s.jobs.entry(header.job).or_default().uploads.push((header, bytes)));
        Ok(Response::new(v1::UploadReply { bytes: length }))
    }

    async fn download(&self, request: Request<v1::DownloadRequest>) -> Result<Response<Self::DownloadStream>, Status> {
        let from = request.into_inner().from_job;
        let found = self.state.lock().unwrap().archives.get(&from).cloned();
        let data = found.ok_or_else(|| Status::not_found("no such artifact"))?;
        let chunk = v1::DownloadChunk { name: "artifacts.zip".into(), format: "zip".into(), data };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(chunk)))))
    }

    async fn finish(&self, request: Request<v1::FinishRequest>) -> Result<Response<v1::FinishReply>, Status> {
        let finish = request.into_inner();
        self.change(|s| {
            if s.away {
                return Err(Status::unavailable("away"));
            }
            if s.stale.contains(&finish.fence) {
                return Err(Status::failed_precondition("stale fence"));
            }
            let seen = s.jobs.entry(finish.job).or_default();
            if (seen.trace.len() as u64) < finish.trace_bytes {
                return Err(Status::out_of_range("trace bytes are missing"));
            }
            seen.finishes += 1;
            seen.finish = Some(finish);
            Ok(Response::new(v1::FinishReply {}))
        })
    }

    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        Err(Status::permission_denied("no tokens here"))
    }

    async fn renew(&self, _: Request<v1::RenewRequest>) -> Result<Response<v1::JoinReply>, Status> {
        Err(Status::permission_denied("no tokens here"))
    }
}

impl Fake {
    async fn take(&self, message: from_runner::Message, answers: &mpsc::Sender<Result<v1::ToRunner, Status>>) {
        match message {
            from_runner::Message::Hello(hello) => self.change(|s| {
                s.hellos.push(hello);
                s.session = Some(answers.clone());
            }),
            from_runner::Message::Report(report) => {
                let silent = self.state.lock().unwrap().silent;
                if !silent {
                    let renewed = v1::Renewed { leases: report.leases };
                    let _ =
                        answers.send(Ok(v1::ToRunner { message: Some(to_runner::Message::Renewed(renewed)) })).await;
                }
            }
            from_runner::Message::Progress(progress) => self.change(|s| {
                let seen = s.jobs.entry(progress.job).or_default();
                match progress.what {
                    Some(v1::job_progress::What::Phase(phase)) => seen.phases.push(phase),
                    Some(v1::job_progress::What::Started(_)) => seen.started += 1,
                    None => {}
                }
            }),
            from_runner::Message::OfferReply(reply) => {
                self.change(|s| s.jobs.entry(reply.job).or_default().reply = Some(reply.refused));
            }
        }
    }
}

/// A scheduler and a runner, of one test.
pub(crate) struct House {
    fake: Fake,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) config: RunnerConfig,
    pub(crate) docker: bollard::Docker,
    runner: Option<RunnerHandle>,
    server: tokio::task::JoinHandle<()>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl House {
    pub(crate) async fn open(change: impl FnOnce(&mut RunnerConfig)) -> House {
        House::with_ttl(120, change).await
    }

    pub(crate) async fn with_ttl(ttl: u32, change: impl FnOnce(&mut RunnerConfig)) -> House {
        let folder = tempfile::tempdir().unwrap();
        let node = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut config = RunnerConfig {
            name: node,
            cache_root: folder.path().join("cache"),
            capacity: 4,
            job_networks: "10.214.0.0/16".into(),
            engine_door: vec![env!("CARGO_BIN_EXE_slipway-door").into()],
            ..RunnerConfig::default()
        };
        change(&mut config);
        let fake = Fake { state: Arc::default(), changed: watch::Sender::new(0), ttl };
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let service = RunnerServer::new(fake.clone());
        let server = tokio::spawn(async move {
            let served = tonic::transport::Server::builder().add_service(service);
            served.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        });
        let docker = bollard::Docker::connect_with_unix_defaults().unwrap().negotiate_version().await.unwrap();
        let mut house = House { fake, folder, config, docker, runner: None, server };
        house.start().await;
        house
    }

    async fn channel(&self) -> Channel {
        let path: PathBuf = self.folder.path().join("socket");
        Endpoint::from_static("http://scheduler").connect_with_connector_lazy(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
    }

    /// Starts the runner, again if it was there before, and waits for its hello.
    pub(crate) async fn start(&mut self) {
        let hellos = self.fake.state.lock().unwrap().hellos.len();
        let runner = Runner::start(self.config.clone(), self.channel().await).await.unwrap();
        self.runner = Some(runner);
        if !self.fake.state.lock().unwrap().away {
            self.until(|s| (s.hellos.len() > hellos).then_some(())).await;
        }
    }

    /// Ends the runner as a kill would: its jobs stay as they are.
    pub(crate) async fn kill(&mut self) {
        let mut runner = self.runner.take().unwrap();
        runner.leave();
        runner.ended().await;
    }

    pub(crate) async fn stop(&mut self) {
        let mut runner = self.runner.take().unwrap();
        runner.stop();
        runner.ended().await;
    }

    pub(crate) async fn drain(&mut self) {
        let mut runner = self.runner.take().unwrap();
        runner.drain();
        runner.ended().await;
    }

    pub(crate) fn tell_drain(&self) {
        self.runner.as_ref().unwrap().drain();
    }

    async fn until<R>(&self, mut look: impl FnMut(&State) -> Option<R>) -> R {
        let mut changed = self.fake.changed.subscribe();
        let wait = async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = look(&self.fake.state.lock().unwrap()) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => panic!("waited too long; the jobs: {:#?}", {
                let state = self.fake.state.lock().unwrap();
                state.jobs.iter().map(|(id, s)| (*id, s.phases.clone(), s.text(), s.outcome())).collect::<Vec<_>>()
            }),
        }
    }

    /// Waits until something is true of a job.
    pub(crate) async fn wait_for(&self, job: u64, mut look: impl FnMut(&Seen) -> bool) -> Seen {
        self.until(|s| s.jobs.get(&job).filter(|seen| look(seen)).cloned()).await
    }

    pub(crate) async fn offer(&self, spec: &JobSpec, fence: u64) {
        let offer = v1::Offer { spec_json: encode(spec), fence, trace_offset: 0 };
        self.say(to_runner::Message::Offer(offer)).await;
    }

    pub(crate) async fn cancel(&self, job: u64, fence: u64, how: &str) {
        self.say(to_runner::Message::Cancel(v1::Cancel { job, fence, how: how.into() })).await;
    }

    async fn say(&self, message: to_runner::Message) {
        let session = self.until(|s| s.session.clone()).await;
        session.send(Ok(v1::ToRunner { message: Some(message) })).await.unwrap();
    }

    /// Ends the session from the scheduler's side.
    pub(crate) async fn cut(&self) {
        let session = self.until(|s| s.session.clone()).await;
        self.fake.change(|s| s.session = None);
        let _ = session.send(Err(Status::unavailable("cut"))).await;
    }

    /// Gives the job, waits for its end and for all of it to be gone.
    pub(crate) async fn run(&self, spec: &JobSpec) -> Seen {
        self.offer(spec, 1).await;
        let seen = self.wait_for(spec.id.0, |s| s.finish.is_some()).await;
        self.gone(spec.id.0).await;
        seen
    }

    /// Waits until nothing of a job is left: containers, networks, volumes, folder.
    pub(crate) async fn gone(&self, job: u64) {
        let wait = async {
            loop {
                let left = self.left(job).await;
                if left.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("left behind: {:?}", self.left(job).await);
        }
    }

    /// Waits until a job's record says that state.
    pub(crate) async fn recorded(&self, job: u64, state: &str) {
        let path = self.job_folder(job).join("record.json");
        let wait = async {
            loop {
                let record =
                    std::fs::read(&path).ok().and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
                if record.is_some_and(|r| r["state"]["state"] == state) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("its record did not come to that state");
    }

    /// Waits until a folder has nothing in it.
    pub(crate) async fn empty(&self, folder: &Path) {
        let wait = async {
            while std::fs::read_dir(folder).unwrap().next().is_some() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the folder is not empty");
    }

    pub(crate) async fn left(&self, job: u64) -> Vec<String> {
        use bollard::query_parameters as q;
        let filters = std::collections::HashMap::from([(
            "label".to_owned(),
            vec![format!("slipway.job={job}"), format!("slipway.node={}", self.config.mark())],
        )]);
        let mut left = Vec::new();
        let options = q::ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let containers = self.docker.list_containers(Some(options)).await.unwrap();
        left.extend(containers.into_iter().map(|c| format!("container {:?}", c.names)));
        let options = q::ListNetworksOptionsBuilder::default().filters(&filters).build();
        let networks = self.docker.list_networks(Some(options)).await.unwrap();
        left.extend(networks.into_iter().map(|n| format!("network {:?}", n.name)));
        let options = q::ListVolumesOptionsBuilder::default().filters(&filters).build();
        let volumes = self.docker.list_volumes(Some(options)).await.unwrap().volumes.unwrap_or_default();
        left.extend(volumes.into_iter().map(|v| format!("volume {}", v.name)));
        let folder = self.job_folder(job);
        if folder.exists() {
            left.push(format!("folder {}", folder.display()));
        }
        left
    }

    /// Waits until a container of that role of the job is there, and gives its id.
    pub(crate) async fn container(&self, job: u64, role: &str) -> String {
        use bollard::query_parameters as q;
        let labels = vec![
            format!("slipway.job={job}"),
            format!("slipway.node={}", self.config.mark()),
            format!("slipway.role={role}"),
        ];
        let filters = std::collections::HashMap::from([("label".to_owned(), labels)]);
        let look = async {
            loop {
                let options = q::ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
                let found = self.docker.list_containers(Some(options)).await.unwrap();
                if let Some(id) = found.into_iter().find_map(|c| c.id) {
                    return id;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, look).await.expect("no such container came")
    }

    /// Gives an image a further name.
    pub(crate) async fn tag(&self, image: &str, name: &str) -> String {
        let (repo, tag) = name.rsplit_once(':').unwrap();
        let options = bollard::query_parameters::TagImageOptionsBuilder::default().repo(repo).tag(tag).build();
        self.docker.tag_image(image, Some(options)).await.unwrap();
        name.to_owned()
    }

    /// Takes a name back.
    pub(crate) async fn untag(&self, name: &str) {
        self.docker.remove_image(name, None::<bollard::query_parameters::RemoveImageOptions>, None).await.unwrap();
    }

    /// An image with nothing in it.
    pub(crate) async fn image_without_shell(&self) -> String {
        let name = format!("slipway-test-empty-{}:1", self.config.name);
        let script = format!("tar c -T /dev/null | docker import - {name}");
        let made = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        name
    }

    /// An image whose entrypoint prints a line and goes on with its arguments.
    pub(crate) async fn image_with_entrypoint(&self) -> String {
        let name = format!("slipway-test-entrypoint-{}:1", self.config.name);
        let script = format!(
            "id=$(docker create alpine:latest) && docker commit \
             --change 'ENTRYPOINT [\"sh\", \"-c\", \"echo from the entrypoint; exec \\\"$@\\\"\", \"sh\"]' $id {name} && docker rm $id"
        );
        let made = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        name
    }

    pub(crate) fn job_folder(&self, job: u64) -> PathBuf {
        self.config.cache_root.join("jobs").join(job.to_string())
    }

    pub(crate) fn away(&self, away: bool) {
        self.fake.change(|s| {
            s.away = away;
            if away {
                s.session = None;
            }
        });
    }

    pub(crate) fn refuse_uploads(&self) {
        self.fake.change(|s| s.refuse_uploads = true);
    }

    pub(crate) fn stale(&self, fence: u64) {
        self.fake.change(|s| s.stale.push(fence));
    }

    pub(crate) fn silent(&self, silent: bool) {
        self.fake.change(|s| s.silent = silent);
    }

    /// Waits for so many hellos in all.
    pub(crate) async fn hello(&self, count: usize) {
        self.until(|s| (s.hellos.len() >= count).then_some(())).await;
    }

    /// Makes an empty file in the job's work tree.
    pub(crate) fn touch(&self, job: u64, name: &str) {
        std::fs::write(self.job_folder(job).join("builds/group/project").join(name), "").unwrap();
    }

    pub(crate) fn archive(&self, job: u64, zip: Vec<u8>) {
        self.fake.change(|s| s.archives.insert(job, zip));
    }

    pub(crate) fn seen(&self, job: u64) -> Seen {
        self.fake.state.lock().unwrap().jobs.get(&job).cloned().unwrap_or_default()
    }

    pub(crate) fn hellos(&self) -> Vec<v1::NodeHello> {
        self.fake.state.lock().unwrap().hellos.clone()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(runner) = &self.runner {
            runner.leave();
        }
        self.server.abort();
        // Whatever a failed test left is removed by its label; a passing one has left nothing.
        let label = format!("label=slipway.node={}", self.config.mark());
        let script = format!(
            "docker ps -aq --filter {label} | xargs -r docker rm -fv >/dev/null; \
             docker network ls -q --filter {label} | xargs -r docker network rm >/dev/null"
        );
        let _ = std::process::Command::new("sh").args(["-c", &script]).output();
    }
}
