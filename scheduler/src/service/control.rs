//! What people ask.

use super::caller::{self, Who};
use crate::access::{Access, Role};
use crate::artifacts::Artifacts;
use crate::driver::{Denied, Driver, Target};
use crate::intake::{Asked, Intake, NoPipeline};
use crate::record::{Job, Pipeline};
use crate::store::{Store, StoreError, read};
use crate::traces::{PIECE_BYTES, Traces};
use crate::triggers::refs::Changed;
use crate::triggers::{Keeper, Told};
use jiff::{SignedDuration, Timestamp};
use slipway_spec::ids::{JobId, PipelineId};
use slipway_spec::variable::Variable;
use slipway_spec::view::PipelineView;
use slipway_wire::document::encode;
use slipway_wire::v1;
use slipway_wire::v1::control_server::Control;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use tokio::io::AsyncReadExt;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

/// Documents and pieces that may wait to be read.
const WAITING: usize = 16;
/// Variables, inputs or jobs of one request.
const MAX_NAMED: usize = 1_000;

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What people ask.
#[derive(Clone)]
pub struct ControlService {
    pub(crate) driver: Driver,
    pub(crate) store: Store,
    pub(crate) traces: Traces,
    pub(crate) artifacts: Artifacts,
    pub(crate) intake: Intake,
    pub(crate) access: Option<Arc<Access>>,
    pub(crate) keeper: Arc<OnceLock<Keeper>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

fn json<T: serde::Serialize>(value: &T) -> v1::Document {
    v1::Document { json: encode(value) }
}

/// A pipeline and all its jobs, as people see them.
pub(crate) async fn view(store: &Store, id: PipelineId) -> Result<Option<PipelineView>, StoreError> {
    store
        .read(move |c| match read::pipeline(c, id)? {
            Some(pipeline) => Ok(Some(pipeline.view(&read::jobs(c, id)?))),
            None => Ok(None),
        })
        .await
}

async fn job(store: &Store, id: JobId) -> Result<(Pipeline, Job), Status> {
    let found = store
        .read(move |c| match read::job(c, id)? {
            Some(job) => Ok(read::pipeline(c, job.pipeline)?.map(|p| (p, job))),
            None => Ok(None),
        })
        .await?;
    found.ok_or_else(|| Status::not_found(format!("there is no job #{id}")))
}

fn secret_pairs(pairs: Vec<v1::KeyValue>) -> Result<Vec<Variable>, Status> {
    if pairs.len() > MAX_NAMED {
        return Err(Status::invalid_argument(format!("{} variables; at most {MAX_NAMED} are taken", pairs.len())));
    }
    Ok(pairs.into_iter().map(|p| Variable { public: false, ..Variable::public(p.key, p.value) }).collect())
}

impl ControlService {
    fn person<T>(&self, request: &Request<T>) -> Result<Who, Status> {
        let who = caller::of(request, self.access.as_deref())?;
        who.person()?;
        Ok(who)
    }

    async fn submitted(&self, asked: Asked) -> Result<v1::SubmitReply, Status> {
        match self.intake.submit(asked).await {
            Ok(made) => {
                let id = made.pipeline;
                let view = view(&self.store, id).await?;
                let view = view.ok_or_else(|| Status::internal(format!("pipeline #{id} is not in the store")))?;
                Ok(v1::SubmitReply { pipeline_json: encode(&view), warnings: made.warnings })
            }
            Err(no) => Err(no.into()),
        }
    }

    async fn pipeline_document(&self, id: PipelineId) -> Result<v1::Document, Status> {
        let view = view(&self.store, id).await?;
        view.map(|v| json(&v)).ok_or_else(|| Status::not_found(format!("there is no pipeline #{id}")))
    }

    async fn job_document(&self, id: JobId) -> Result<v1::Document, Status> {
        let (pipeline, job) = job(&self.store, id).await?;
        Ok(json(&pipeline.job_view(&job)))
    }
}

impl From<NoPipeline> for Status {
    fn from(no: NoPipeline) -> Status {
        match no {
            NoPipeline::Denied(
                denied @ (Denied::Unknown(_) | Denied::State { .. } | Denied::Nothing(_) | Denied::Empty),
            ) => Status::invalid_argument(denied.to_string()),
            NoPipeline::Denied(denied @ (Denied::Store(_) | Denied::Stopped)) => denied.into(),
            other => Status::invalid_argument(other.to_string()),
        }
    }
}

/// The job's trace in pieces, from an offset, until its end or until the job is over.
async fn send_trace(
    service: ControlService,
    id: JobId,
    mut offset: u64,
    follow: bool,
    to: &mpsc::Sender<Result<v1::LogChunk, Status>>,
) -> Result<(), Status> {
    let mut progress = service.traces.follow(id);
    // Asked after subscribing: an end that comes between is seen by one of the two.
    let (_, job) = job(&service.store, id).await?;
    let mut over = job.state.end().is_some() || !follow;
    let path = service.traces.path(id);
    loop {
        let seen = *progress.borrow_and_update();
        over |= seen.over;
        // A new lease before the script begins its trace anew.
        if seen.length < offset && !over {
            offset = 0;
        }
        loop {
            let from = path.clone();
            let piece = tokio::task::spawn_blocking(move || Traces::read(&from, offset)).await;
            let piece = piece.map_err(|e| Status::internal(e.to_string()))?;
            let data = piece.map_err(|e| Status::internal(format!("cannot read the trace of job #{id}: {e}")))?;
            let got = data.len();
            if got == 0 {
                break;
            }
            offset += got as u64;
            if to.send(Ok(v1::LogChunk { data })).await.is_err() {
                return Ok(());
            }
            if got < PIECE_BYTES {
                break;
            }
        }
        if over {
            return Ok(());
        }
        tokio::select! {
            () = to.closed() => return Ok(()),
            () = service.stop.cancelled() => return Err(Status::unavailable("the scheduler is shutting down")),
            changed = progress.changed() => if changed.is_err() { over = true },
        }
    }
}

/// The pipeline now, and after every change, until it is over.
async fn send_changes(
    store: Store,
    stop: CancellationToken,
    id: PipelineId,
    mut changes: broadcast::Receiver<PipelineId>,
    to: mpsc::Sender<Result<v1::Document, Status>>,
) {
    let mut before: Option<PipelineView> = None;
    loop {
        match view(&store, id).await {
            Ok(Some(now)) => {
                let over = now.status.is_over() && now.finished_at.is_some();
                if before.as_ref() != Some(&now) {
                    if to.send(Ok(json(&now))).await.is_err() {
                        return;
                    }
                    before = Some(now);
                }
                if over {
                    return;
                }
            }
            Ok(None) => {
                let _gone = to.send(Err(Status::not_found(format!("there is no pipeline #{id}")))).await;
                return;
            }
            Err(error) => {
                let _gone = to.send(Err(error.into())).await;
                return;
            }
        }
        loop {
            tokio::select! {
                () = to.closed() => return,
                () = stop.cancelled() => {
                    let _gone = to.send(Err(Status::unavailable("the scheduler is shutting down"))).await;
                    return;
                }
                change = changes.recv() => match change {
                    Ok(changed) if changed != id => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        }
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitReply>, Status> {
        let who = self.person(&request)?;
        let asked = request.into_inner();
        if asked.jobs.len() > MAX_NAMED || asked.manual.len() > MAX_NAMED || asked.inputs.len() > MAX_NAMED {
            return Err(Status::invalid_argument("too many jobs or inputs are named"));
        }
        let asked = Asked {
            repository: asked.repository,
            ref_name: asked.ref_name,
            sha: asked.sha,
            file: asked.file,
            jobs: asked.jobs,
            variables: secret_pairs(asked.variables)?,
            source: asked.source,
            inputs: asked.inputs.into_iter().map(|p| (p.key, p.value.into())).collect(),
            request_id: asked.request_id,
            dirty: asked.dirty,
            manual: asked.manual,
            who: who.name,
            ..Asked::default()
        };
        self.submitted(asked).await.map(Response::new)
    }

    async fn get_pipeline(&self, request: Request<v1::IdRequest>) -> Result<Response<v1::Document>, Status> {
        self.person(&request)?;
        self.pipeline_document(PipelineId(request.into_inner().id)).await.map(Response::new)
    }

    type ListPipelinesStream = Out<v1::Document>;

    async fn list_pipelines(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<Self::ListPipelinesStream>, Status> {
        self.person(&request)?;
        let asked = request.into_inner();
        let views: Vec<PipelineView> = self
            .store
            .read(move |c| {
                let pipelines = read::pipelines(c, &asked.project, asked.limit)?;
                pipelines.into_iter().map(|p| Ok(p.view(&read::jobs(c, p.id)?))).collect()
            })
            .await?;
        let documents: Vec<_> = views.iter().map(|v| Ok(json(v))).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(documents))))
    }

    async fn get_job(&self, request: Request<v1::IdRequest>) -> Result<Response<v1::Document>, Status> {
        self.person(&request)?;
        self.job_document(JobId(request.into_inner().id)).await.map(Response::new)
    }

    type WatchStream = Out<v1::Document>;

    async fn watch(&self, request: Request<v1::IdRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.person(&request)?;
        let (to, out) = mpsc::channel(WAITING);
        let id = PipelineId(request.into_inner().id);
        // Subscribed before the first look: no change falls between.
        let (store, stop, changes) = (self.store.clone(), self.stop.clone(), self.driver.changes());
        self.tasks.spawn(send_changes(store, stop, id, changes, to));
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    type LogsStream = Out<v1::LogChunk>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        self.person(&request)?;
        let asked = request.into_inner();
        let (to, out) = mpsc::channel(WAITING);
        let service = self.clone();
        let id = JobId(asked.job);
        self.tasks.spawn(async move {
            let traces = service.traces.clone();
            if let Err(status) = send_trace(service, id, asked.offset, asked.follow, &to).await {
                let _gone = to.send(Err(status)).await;
            }
            traces.unfollow(id);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::Empty>, Status> {
        let who = self.person(&request)?;
        let asked = request.into_inner();
        let target = match asked.target {
            Some(v1::cancel_request::Target::Job(id)) => Target::Job(JobId(id)),
            Some(v1::cancel_request::Target::Pipeline(id)) => Target::Pipeline(PipelineId(id)),
            None => return Err(Status::invalid_argument("name a job or a pipeline to cancel")),
        };
        self.driver.cancel(target, asked.force, who.name).await?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn retry(&self, request: Request<v1::TargetRequest>) -> Result<Response<v1::Document>, Status> {
        let who = self.person(&request)?;
        let target = match request.into_inner().target {
            Some(v1::target_request::Target::Job(id)) => Target::Job(JobId(id)),
            Some(v1::target_request::Target::Pipeline(id)) => Target::Pipeline(PipelineId(id)),
            None => return Err(Status::invalid_argument("name a job or a pipeline to retry")),
        };
        let first = self.driver.retry(target, who.name).await?;
        let document = match target {
            Target::Job(_) => self.job_document(first).await?,
            Target::Pipeline(id) => self.pipeline_document(id).await?,
        };
        Ok(Response::new(document))
    }

    async fn play(&self, request: Request<v1::PlayRequest>) -> Result<Response<v1::Document>, Status> {
        let who = self.person(&request)?;
        let asked = request.into_inner();
        let variables = secret_pairs(asked.variables)?;
        let id = self.driver.play(JobId(asked.job), who.name, variables).await?;
        self.job_document(id).await.map(Response::new)
    }

    type NodesStream = Out<v1::Document>;

    async fn nodes(&self, request: Request<v1::Empty>) -> Result<Response<Self::NodesStream>, Status> {
        self.person(&request)?;
        let nodes = self.driver.nodes().await?;
        let documents: Vec<_> = nodes.iter().map(|n| Ok(json(n))).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(documents))))
    }

    type DeploymentsStream = Out<v1::Document>;

    async fn deployments(
        &self,
        request: Request<v1::DeploymentsRequest>,
    ) -> Result<Response<Self::DeploymentsStream>, Status> {
        self.person(&request)?;
        let asked = request.into_inner();
        let entries = self.store.read(move |c| read::deployments(c, &asked.environment, &asked.project)).await?;
        let documents: Vec<_> = entries.iter().map(|d| Ok(json(d))).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(documents))))
    }

    async fn explain(&self, request: Request<v1::IdRequest>) -> Result<Response<v1::Text>, Status> {
        self.person(&request)?;
        let text = self.driver.explain(JobId(request.into_inner().id)).await?;
        Ok(Response::new(v1::Text { text }))
    }

    type GetArtifactStream = Out<v1::LogChunk>;

    async fn get_artifact(
        &self,
        request: Request<v1::ArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        self.person(&request)?;
        let asked = request.into_inner();
        let id = JobId(asked.job);
        let kind = if asked.kind.is_empty() { "archive".to_owned() } else { asked.kind };
        let (_, job) = job(&self.store, id).await?;
        let artifact = job.artifacts.into_iter().find(|a| a.kind == kind);
        let artifact = artifact.ok_or_else(|| Status::not_found(format!("job #{id} has no {kind} (any more)")))?;
        let mut file = tokio::fs::File::open(self.artifacts.path(&artifact.file))
            .await
            .map_err(|_| Status::not_found(format!("the {kind} of job #{id} is gone from disk")))?;
        let (to, out) = mpsc::channel(WAITING);
        self.tasks.spawn(async move {
            loop {
                let mut data = Vec::with_capacity(PIECE_BYTES);
                let piece = match (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut data).await {
                    Ok(0) => return,
                    Ok(_) => Ok(v1::LogChunk { data }),
                    Err(e) => Err(Status::internal(format!("cannot read the artifact: {e}"))),
                };
                let ends = piece.is_err();
                if to.send(piece).await.is_err() || ends {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    type PushedStream = Out<v1::Document>;

    async fn pushed(&self, request: Request<v1::PushedRequest>) -> Result<Response<Self::PushedStream>, Status> {
        let who = self.person(&request)?;
        let asked = request.into_inner();
        let project = self.intake.project_of(&asked.repository).ok_or_else(|| {
            Status::not_found(format!(
                "{:?} is not the repository of a [[project]] of the configuration",
                asked.repository
            ))
        })?;
        let keeper = self.keeper.get().ok_or_else(|| Status::unavailable("the scheduler is starting"))?;
        let changes =
            asked.refs.into_iter().map(|r| Changed { name: r.ref_name, old: r.old_sha, new: r.new_sha }).collect();
        let told = Told { project, changes, who: format!("hook of {}", who.name) };
        let made = keeper.pushed(told).await.map_err(Status::failed_precondition)?;
        let mut documents = Vec::with_capacity(made.len());
        for id in made {
            documents.push(Ok(self.pipeline_document(PipelineId(id)).await?));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(documents))))
    }

    async fn create_token(&self, request: Request<v1::CreateTokenRequest>) -> Result<Response<v1::Text>, Status> {
        let who = caller::of(&request, self.access.as_deref())?;
        who.administrator()?;
        let access = self.access.as_ref().ok_or_else(no_authority)?;
        let asked = request.into_inner();
        let role = Role::of(&asked.role)
            .ok_or_else(|| Status::invalid_argument("a role is `node`, `developer` or `admin`"))?;
        let valid = SignedDuration::from_secs(i64::try_from(asked.valid_seconds.clamp(1, 30 * 86_400)).unwrap_or(3600));
        let text = access
            .mint(&asked.name, role, valid, Timestamp::now())
            .map_err(|refused| Status::invalid_argument(refused.to_string()))?;
        tracing::info!(by = who.name, name = asked.name, role = role.as_str(), "a token was made");
        Ok(Response::new(v1::Text { text }))
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Result<Response<v1::Empty>, Status> {
        let who = caller::of(&request, self.access.as_deref())?;
        who.administrator()?;
        let access = self.access.as_ref().ok_or_else(no_authority)?;
        let name = request.into_inner().name;
        let taken = access.revoke(&name).map_err(|refused| Status::not_found(refused.to_string()))?;
        tracing::info!(by = who.name, name, taken, "certificates and tokens were taken back");
        Ok(Response::new(v1::Empty {}))
    }
}

fn no_authority() -> Status {
    Status::failed_precondition("this scheduler gives out no certificates: it has no `listen` address")
}
