//! A repository, a scheduler on a real Unix socket, and a node that does as the test says.

use hyper_util::rt::TokioIo;
use slipway_scheduler::Scheduler;
use slipway_scheduler::config::Config;
use slipway_spec::ids::{Fence, JobId};
use slipway_spec::job::JobSpec;
use slipway_spec::outcome::{FailureReason, Outcome};
use slipway_spec::view::{JobView, PipelineView, Status};
use slipway_wire::document::{decode, encode};
use slipway_wire::v1;
use slipway_wire::v1::control_client::ControlClient;
use slipway_wire::v1::runner_client::RunnerClient;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Longer than anything should take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for an event, and says which one did not come.
pub(crate) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, event).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {DEADLINE:?}"),
    }
}

/// A repository with one branch, `main`.
pub(crate) struct Repo {
    pub(crate) folder: tempfile::TempDir,
    git: git2::Repository,
}

impl Repo {
    pub(crate) fn with(configuration: &str) -> Repo {
        let folder = tempfile::tempdir().unwrap();
        let mut options = git2::RepositoryInitOptions::new();
        options.initial_head("main");
        let git = git2::Repository::init_opts(folder.path(), &options).unwrap();
        let repo = Repo { folder, git };
        repo.commit(&[(".gitlab-ci.yml", configuration)]);
        repo
    }

    pub(crate) fn commit(&self, files: &[(&str, &str)]) -> String {
        let mut index = self.git.index().unwrap();
        for (path, text) in files {
            let full = self.folder.path().join(path);
            std::fs::create_dir_all(full.parent().unwrap()).unwrap();
            std::fs::write(full, text).unwrap();
            index.add_path(Path::new(path)).unwrap();
        }
        index.write().unwrap();
        let tree = self.git.find_tree(index.write_tree().unwrap()).unwrap();
        let author = git2::Signature::now("Ada", "ada@example.org").unwrap();
        let parent = self.git.head().ok().and_then(|h| h.peel_to_commit().ok());
        let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
        self.git.commit(Some("HEAD"), &author, &author, "A change\n", &tree, &parents).unwrap().to_string()
    }

    pub(crate) fn path(&self) -> String {
        self.folder.path().canonicalize().unwrap().display().to_string()
    }
}

/// A scheduler on a socket in a folder.
pub(crate) struct Site {
    pub(crate) scheduler: Scheduler,
    channel: Channel,
}

impl Site {
    pub(crate) async fn start(config: Config) -> (Site, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        (Site::in_folder(config, folder.path()).await, folder)
    }

    pub(crate) async fn in_folder(config: Config, folder: &Path) -> Site {
        let (scheduler, _) = Scheduler::start(config, &folder.join("state")).await.unwrap();
        let socket = folder.join("scheduler.sock");
        scheduler.serve_unix(&socket).await.unwrap();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://scheduler").connect_with_connector(connect).await.unwrap();
        Site { scheduler, channel }
    }

    pub(crate) fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
    }

    pub(crate) fn runner(&self) -> RunnerClient<Channel> {
        RunnerClient::new(self.channel.clone())
    }

    pub(crate) async fn submit(&self, repo: &Repo) -> PipelineView {
        self.submit_as(v1::SubmitRequest { repository: repo.path(), ..v1::SubmitRequest::default() }).await
    }

    /// A pipeline that ends no older one.
    pub(crate) async fn submit_by_hand(&self, repo: &Repo) -> PipelineView {
        let request =
            v1::SubmitRequest { repository: repo.path(), source: "web".into(), ..v1::SubmitRequest::default() };
        self.submit_as(request).await
    }

    pub(crate) async fn submit_as(&self, request: v1::SubmitRequest) -> PipelineView {
        let reply = self.control().submit(request).await.unwrap().into_inner();
        decode(&reply.pipeline_json).unwrap()
    }

    pub(crate) async fn pipeline(&self, id: u64) -> PipelineView {
        decode(&self.control().get_pipeline(v1::IdRequest { id }).await.unwrap().into_inner().json).unwrap()
    }

    /// Watches until the pipeline fits.
    pub(crate) async fn until(&self, id: u64, what: &str, fits: impl Fn(&PipelineView) -> bool) -> PipelineView {
        soon(what, async {
            let mut stream = self.control().watch(v1::IdRequest { id }).await.unwrap().into_inner();
            let mut last = None;
            while let Some(document) = stream.next().await {
                let view: PipelineView = decode(&document.unwrap().json).unwrap();
                if fits(&view) {
                    return view;
                }
                last = Some(view);
            }
            panic!("{what}: the watch ended with {last:#?}")
        })
        .await
    }

    pub(crate) async fn until_over(&self, id: u64) -> PipelineView {
        self.until(id, "the end of the pipeline", |p| p.finished_at.is_some()).await
    }

    pub(crate) async fn log(&self, job: JobId, follow: bool) -> Vec<u8> {
        let request = v1::LogsRequest { job: job.0, offset: 0, follow };
        let mut stream = self.control().logs(request).await.unwrap().into_inner();
        let mut log = Vec::new();
        while let Some(chunk) = stream.next().await {
            log.extend(chunk.unwrap().data);
        }
        log
    }

    /// The record of deployments.
    pub(crate) async fn deployments(&self) -> Vec<slipway_spec::view::DeploymentView> {
        let all = v1::DeploymentsRequest::default();
        let stream = self.control().deployments(all).await.unwrap().into_inner();
        stream.map(|d| decode(&d.unwrap().json).unwrap()).collect().await
    }
}

/// The job of that name, newest attempt.
pub(crate) fn job<'p>(pipeline: &'p PipelineView, name: &str) -> &'p JobView {
    pipeline
        .jobs
        .iter()
        .rev()
        .find(|j| j.name == name && !j.retried)
        .unwrap_or_else(|| panic!("no {name}: {pipeline:#?}"))
}

/// Status of the job of that name.
pub(crate) fn status(pipeline: &PipelineView, name: &str) -> Status {
    job(pipeline, name).status
}

/// A node that does as the test says.
pub(crate) struct Node {
    pub(crate) runner: RunnerClient<Channel>,
    to: mpsc::Sender<v1::FromRunner>,
    from: tonic::Streaming<v1::ToRunner>,
}

/// A job that a node was offered.
#[derive(Clone, Debug)]
pub(crate) struct Offered {
    pub(crate) spec: JobSpec,
    pub(crate) fence: Fence,
}

impl Offered {
    pub(crate) fn lease(&self, started: bool) -> v1::Lease {
        v1::Lease { job: self.spec.id.0, fence: self.fence.0, started }
    }
}

pub(crate) fn hello(name: &str, capacity: u32, running: Vec<v1::Lease>) -> v1::NodeHello {
    let ours = v1::Hello { protocol: slipway_wire::PROTOCOL, build: "test".into(), features: vec![] };
    v1::NodeHello {
        hello: Some(ours),
        node: name.into(),
        architecture: "amd64".into(),
        capacity,
        wall: "userns".into(),
        running,
        ..v1::NodeHello::default()
    }
}

impl Node {
    pub(crate) async fn connect(site: &Site, name: &str, capacity: u32) -> Node {
        Node::connect_as(site, hello(name, capacity, vec![])).await
    }

    pub(crate) async fn connect_as(site: &Site, hello: v1::NodeHello) -> Node {
        Node::connect_over(site.runner(), hello).await
    }

    pub(crate) async fn connect_over(mut runner: RunnerClient<Channel>, hello: v1::NodeHello) -> Node {
        let (to, messages) = mpsc::channel(64);
        to.send(v1::FromRunner { message: Some(v1::from_runner::Message::Hello(hello)) }).await.unwrap();
        let from = soon("a session", runner.session(ReceiverStream::new(messages))).await.unwrap().into_inner();
        let mut node = Node { runner, to, from };
        match node.next().await {
            v1::to_runner::Message::Hello(hello) => assert!(hello.lease_ttl_seconds > 0),
            other => panic!("a session begins with Hello, not {other:?}"),
        }
        node
    }

    pub(crate) async fn try_next(&mut self) -> Result<v1::to_runner::Message, tonic::Status> {
        let message = soon("a message of the scheduler", self.from.next()).await;
        message.unwrap_or_else(|| Err(tonic::Status::cancelled("ended"))).map(|m| m.message.unwrap())
    }

    pub(crate) async fn next(&mut self) -> v1::to_runner::Message {
        self.try_next().await.unwrap()
    }

    pub(crate) async fn say(&self, message: v1::from_runner::Message) {
        self.to.send(v1::FromRunner { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn report(&self, leases: Vec<v1::Lease>, free: u32) {
        self.say(v1::from_runner::Message::Report(v1::NodeReport { leases, free, ..v1::NodeReport::default() })).await;
    }

    /// The next offer, whatever comes before it.
    pub(crate) async fn offer(&mut self) -> Offered {
        loop {
            if let v1::to_runner::Message::Offer(offer) = self.next().await {
                return Offered { spec: decode(&offer.spec_json).unwrap(), fence: Fence(offer.fence) };
            }
        }
    }

    /// The next cancel, whatever comes before it.
    pub(crate) async fn cancel(&mut self) -> v1::Cancel {
        loop {
            if let v1::to_runner::Message::Cancel(cancel) = self.next().await {
                return cancel;
            }
        }
    }

    /// Takes the next offer.
    pub(crate) async fn take(&mut self) -> Offered {
        let offered = self.offer().await;
        self.accept(&offered).await;
        offered
    }

    pub(crate) async fn accept(&self, offered: &Offered) {
        let reply = v1::OfferReply { job: offered.spec.id.0, fence: offered.fence.0, refused: String::new() };
        self.say(v1::from_runner::Message::OfferReply(reply)).await;
    }

    pub(crate) async fn started(&self, offered: &Offered) {
        let what = Some(v1::job_progress::What::Started(true));
        let progress = v1::JobProgress { job: offered.spec.id.0, fence: offered.fence.0, what };
        self.say(v1::from_runner::Message::Progress(progress)).await;
    }

    /// Sends bytes at an offset; the length held, or the refusal.
    pub(crate) async fn trace(&mut self, offered: &Offered, offset: u64, data: &[u8]) -> Result<u64, tonic::Status> {
        let chunk = v1::TraceChunk { job: offered.spec.id.0, fence: offered.fence.0, offset, data: data.to_vec() };
        let mut acks = self.runner.trace(tokio_stream::iter([chunk])).await?.into_inner();
        Ok(soon("an acknowledgement", acks.next()).await.unwrap()?.held)
    }

    pub(crate) async fn upload(
        &mut self,
        offered: &Offered,
        header: v1::UploadHeader,
        data: &[u8],
    ) -> Result<(), tonic::Status> {
        let header = v1::UploadHeader { job: offered.spec.id.0, fence: offered.fence.0, ..header };
        let mut chunks = vec![v1::UploadChunk { message: Some(v1::upload_chunk::Message::Header(header)) }];
        for piece in data.chunks(100 << 10) {
            chunks.push(v1::UploadChunk { message: Some(v1::upload_chunk::Message::Data(piece.to_vec())) });
        }
        self.runner.upload(tokio_stream::iter(chunks)).await.map(drop)
    }

    pub(crate) async fn download(&mut self, offered: &Offered, from_job: JobId) -> Result<Vec<u8>, tonic::Status> {
        let request = v1::DownloadRequest {
            job: offered.spec.id.0,
            fence: offered.fence.0,
            from_job: from_job.0,
            kind: String::new(),
        };
        let mut stream = self.runner.download(request).await?.into_inner();
        let mut data = Vec::new();
        while let Some(chunk) = stream.next().await {
            data.extend(chunk?.data);
        }
        Ok(data)
    }

    pub(crate) async fn finish(&mut self, offered: &Offered, outcome: Outcome) -> Result<(), tonic::Status> {
        self.finish_as(offered, outcome, v1::FinishRequest::default()).await
    }

    pub(crate) async fn finish_as(
        &mut self,
        offered: &Offered,
        outcome: Outcome,
        request: v1::FinishRequest,
    ) -> Result<(), tonic::Status> {
        let request = v1::FinishRequest {
            job: offered.spec.id.0,
            fence: offered.fence.0,
            outcome_json: encode(&outcome),
            ..request
        };
        self.runner.finish(request).await.map(drop)
    }

    /// Takes the next job and ends it well.
    pub(crate) async fn pass(&mut self) -> Offered {
        self.run(Outcome::Success).await
    }

    /// Takes the next job, starts it and ends it so.
    pub(crate) async fn run(&mut self, outcome: Outcome) -> Offered {
        let offered = self.take().await;
        self.started(&offered).await;
        self.finish(&offered, outcome).await.unwrap();
        offered
    }
}

pub(crate) fn failed(exit_code: i32) -> Outcome {
    let reason = FailureReason::ScriptFailure;
    Outcome::Failed { reason, exit_code: Some(exit_code), message: format!("exit {exit_code}") }
}
