//! What nodes say: sessions, traces, artifacts, ends.

use super::caller::{self, Who};
use crate::access::Access;
use crate::artifacts::Artifacts;
use crate::driver::{Driver, Finish, Held};
use crate::record::Artifact;
use crate::store::{Store, read};
use crate::traces::Traces;
use crate::upstream::{Upload, Upstream, UpstreamError};
use jiff::{SignedDuration, Timestamp};
use slipway_spec::ids::{Fence, JobId};
use slipway_spec::job::ArtifactFormat;
use slipway_spec::outcome::Outcome;
use slipway_spec::receipt::Receipt;
use slipway_wire::v1::runner_server::Runner;
use slipway_wire::{MAX_CHUNK_BYTES, PROTOCOL, v1};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

/// Messages that may wait for a node to read them; a node has at most a few per job it may run.
const WAITING_FOR_NODE: usize = 1024;
/// Acknowledgements and pieces that may wait.
const WAITING_PIECES: usize = 16;
/// How long a node may take to say Hello.
const HELLO_TIME: Duration = Duration::from_secs(30);
/// Variables of a dotenv report, and bytes of it; GitLab's limits are 20 and 5 KiB, ours leave room.
const MAX_DOTENV: (usize, usize) = (200, 64 << 10);

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What nodes say.
#[derive(Clone)]
pub struct RunnerService {
    pub(crate) driver: Driver,
    pub(crate) store: Store,
    pub(crate) traces: Traces,
    pub(crate) artifacts: Artifacts,
    pub(crate) access: Option<Arc<Access>>,
    pub(crate) upstream: Arc<OnceLock<Arc<dyn Upstream>>>,
    pub(crate) lease_ttl: Duration,
    pub(crate) keep_artifacts: Duration,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl RunnerService {
    fn caller<T>(&self, request: &Request<T>) -> Result<Who, Status> {
        caller::of(request, self.access.as_deref())
    }

    /// The lease under which a call reports, if it holds and is that caller's.
    fn held(&self, who: &Who, job: u64, fence: u64) -> Result<Arc<Held>, Status> {
        let held = self.driver.live.get(JobId(job), Fence(fence)).ok_or_else(|| {
            Status::failed_precondition(format!(
                "the lease {fence} of job {job} is gone: stop it and report nothing more"
            ))
        })?;
        who.node(Some(&held.node))?;
        Ok(held)
    }

    fn remote(&self, held: &Held) -> Option<(Arc<dyn Upstream>, crate::upstream::RemoteJob)> {
        Some((self.upstream.get()?.clone(), held.remote.clone()?))
    }

    async fn receive(&self, who: Who, mut stream: Streaming<v1::UploadChunk>) -> Result<v1::UploadReply, Status> {
        let first = stream.message().await?.and_then(|c| c.message);
        let Some(v1::upload_chunk::Message::Header(header)) = first else {
            return Err(Status::invalid_argument("the first message of an upload is its header"));
        };
        let held = self.held(&who, header.job, header.fence)?;
        let job = JobId(header.job);
        let expires_at = self.expiry(&header.expire_in)?;
        let mut incoming = self.artifacts.receive().await?;
        while let Some(chunk) = stream.message().await? {
            match chunk.message {
                Some(v1::upload_chunk::Message::Data(data)) if data.len() <= MAX_CHUNK_BYTES => {
                    incoming.write(&data).await?;
                }
                Some(v1::upload_chunk::Message::Data(data)) => return Err(too_long(data.len())),
                Some(v1::upload_chunk::Message::Header(_)) => {
                    return Err(Status::invalid_argument("a second header in one upload"));
                }
                None => {}
            }
        }
        let bytes = incoming.bytes();
        if let Some((upstream, remote)) = self.remote(&held) {
            let upload = Upload {
                file: incoming.flushed().await?,
                name: &header.name,
                kind: &header.kind,
                format: format(&header.format),
                expire_in: (!header.expire_in.is_empty()).then_some(header.expire_in.as_str()),
            };
            upstream.upload(&remote, upload).await.map_err(|e| refused_upstream(&e))?;
            return Ok(v1::UploadReply { bytes });
        }
        let file = incoming.keep(&self.artifacts, job).await?;
        let kind = if header.kind.is_empty() { "archive".to_owned() } else { header.kind };
        let artifact =
            Artifact { kind, name: header.name, format: header.format, bytes, file: file.clone(), expires_at };
        match self.driver.keep(job, Fence(header.fence), artifact).await {
            Ok(replaced) => {
                if let Some(old) = replaced {
                    self.artifacts.remove(&old).await;
                }
                Ok(v1::UploadReply { bytes })
            }
            Err(denied) => {
                self.artifacts.remove(&file).await;
                Err(denied.into())
            }
        }
    }

    fn expiry(&self, expire_in: &str) -> Result<Option<Timestamp>, Status> {
        let keep = match expire_in.trim() {
            "" => self.keep_artifacts,
            "never" => return Ok(None),
            text => slipway_spec::duration::parse(text)
                .map_err(|e| Status::invalid_argument(format!("expire_in {text:?} is no duration: {e}")))?,
        };
        let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
        Ok(Timestamp::now().checked_add(keep).ok())
    }
}

fn too_long(bytes: usize) -> Status {
    Status::out_of_range(format!("a chunk of {bytes} bytes; at most {MAX_CHUNK_BYTES} are taken"))
}

fn format(word: &str) -> ArtifactFormat {
    match word {
        "gzip" => ArtifactFormat::Gzip,
        "raw" => ArtifactFormat::Raw,
        _ => ArtifactFormat::Zip,
    }
}

fn refused_upstream(error: &UpstreamError) -> Status {
    let text = error.to_string();
    match error {
        UpstreamError::Gone(_) => Status::failed_precondition(text),
        UpstreamError::Spool { .. } | UpstreamError::TraceShort { .. } => Status::internal(text),
        UpstreamError::Artifact { jobs_fault: true, .. } => Status::invalid_argument(text),
        UpstreamError::Artifact { jobs_fault: false, .. } => Status::unavailable(text),
    }
}

/// Refuses a side that this build cannot speak with: this protocol and the one before are spoken, and a newer side
/// speaks the one before its own.
fn check_protocol(hello: Option<&v1::Hello>) -> Result<(), Status> {
    let theirs = hello.map_or(0, |h| h.protocol);
    let build = hello.map_or("", |h| h.build.as_str());
    if theirs + 1 < PROTOCOL || theirs > PROTOCOL + 1 || theirs == 0 {
        return Err(Status::failed_precondition(format!(
            "this scheduler speaks protocol {PROTOCOL} and the one before, the runner ({build}) {theirs}: bring both to neighbouring versions"
        )));
    }
    Ok(())
}

fn check_node(hello: &v1::NodeHello) -> Result<(), Status> {
    let well_named = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if hello.node.is_empty() || hello.node.len() > 128 || !hello.node.chars().all(well_named) {
        return Err(Status::invalid_argument("a node's name is 1 to 128 letters, digits, `-`, `_` or `.`"));
    }
    if hello.tags.len() > 100 || hello.running.len() > 10_000 || hello.trust_domain.len() > 1_000 {
        return Err(Status::invalid_argument("a Hello with too many tags, jobs or projects"));
    }
    Ok(())
}

#[tonic::async_trait]
impl Runner for RunnerService {
    type SessionStream = Out<v1::ToRunner>;

    async fn session(
        &self,
        request: Request<Streaming<v1::FromRunner>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let who = self.caller(&request)?;
        let mut from_node = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIME, from_node.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello came"))??;
        let Some(v1::from_runner::Message::Hello(hello)) = first.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("the first message of a session is its Hello"));
        };
        check_node(&hello)?;
        check_protocol(hello.hello.as_ref())?;
        who.node(Some(&hello.node))?;
        let (to_node, messages) = mpsc::channel(WAITING_FOR_NODE);
        let ours = v1::Hello { protocol: PROTOCOL, build: env!("CARGO_PKG_VERSION").into(), features: Vec::new() };
        let ttl = u32::try_from(self.lease_ttl.as_secs().max(1)).unwrap_or(u32::MAX);
        let hello_back = v1::SchedulerHello { hello: Some(ours), lease_ttl_seconds: ttl };
        let first = v1::ToRunner { message: Some(v1::to_runner::Message::Hello(hello_back)) };
        to_node.try_send(Ok(first)).map_err(|_| Status::internal("a new session's channel is full"))?;
        let session = self.driver.connect(hello, to_node.clone()).await?;
        let (driver, stop) = (self.driver.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            loop {
                let message = tokio::select! {
                    () = stop.cancelled() => break,
                    // The node, or a newer session of its name, has closed this one.
                    () = to_node.closed() => break,
                    message = from_node.message() => message,
                };
                match message {
                    Ok(Some(v1::FromRunner { message: Some(message) })) => {
                        if driver.heard(session, message).await.is_err() {
                            break;
                        }
                    }
                    // A message of a newer version.
                    Ok(Some(v1::FromRunner { message: None })) => {}
                    Ok(None) | Err(_) => break,
                }
            }
            driver.disconnect(session).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    type TraceStream = Out<v1::TraceAck>;

    async fn trace(&self, request: Request<Streaming<v1::TraceChunk>>) -> Result<Response<Self::TraceStream>, Status> {
        let who = self.caller(&request)?;
        let mut chunks = request.into_inner();
        let (acks, out) = mpsc::channel(WAITING_PIECES);
        let service = self.clone();
        self.tasks.spawn(async move {
            let mut allowed: Option<(u64, u64)> = None;
            loop {
                let chunk = tokio::select! {
                    () = service.stop.cancelled() => return,
                    chunk = chunks.message() => chunk,
                };
                let answer = match chunk {
                    Ok(Some(chunk)) if chunk.data.len() > MAX_CHUNK_BYTES => Err(too_long(chunk.data.len())),
                    Ok(Some(chunk)) => {
                        let lease = (chunk.job, chunk.fence);
                        // Whose lease it is is asked once; whether it holds, at every append.
                        let checked = if allowed == Some(lease) {
                            Ok(())
                        } else {
                            service.held(&who, chunk.job, chunk.fence).map(|_| allowed = Some(lease))
                        };
                        checked.and_then(|()| {
                            let (job, fence) = (JobId(chunk.job), Fence(chunk.fence));
                            let held = service.traces.append(job, fence, chunk.offset, &chunk.data)?;
                            Ok(v1::TraceAck { held })
                        })
                    }
                    Ok(None) | Err(_) => return,
                };
                let ends = answer.is_err();
                if acks.send(answer).await.is_err() || ends {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }

    async fn upload(&self, request: Request<Streaming<v1::UploadChunk>>) -> Result<Response<v1::UploadReply>, Status> {
        let who = self.caller(&request)?;
        self.receive(who, request.into_inner()).await.map(Response::new)
    }

    type DownloadStream = Out<v1::DownloadChunk>;

    async fn download(&self, request: Request<v1::DownloadRequest>) -> Result<Response<Self::DownloadStream>, Status> {
        let who = self.caller(&request)?;
        let wanted = request.into_inner();
        let held = self.held(&who, wanted.job, wanted.fence)?;
        let from = JobId(wanted.from_job);
        if !held.readable.contains(&from) {
            let text = format!("job {} does not depend on job {from}", wanted.job);
            return Err(Status::permission_denied(text));
        }
        if let Some((upstream, remote)) = self.remote(&held) {
            let mut incoming = self.artifacts.receive().await?;
            let path = incoming.flushed().await?.to_owned();
            upstream.download(&remote, from, &path).await.map_err(|e| refused_upstream(&e))?;
            let file = tokio::fs::File::open(&path).await.map_err(|e| Status::internal(e.to_string()))?;
            // The open file outlives its name.
            drop(incoming);
            return Ok(Response::new(pieces(file, "artifacts.zip".into(), "zip".into(), &self.tasks)));
        }
        let kind = if wanted.kind.is_empty() { "archive".to_owned() } else { wanted.kind };
        let job = self.store.read(move |c| read::job(c, from)).await?;
        let artifact = job.and_then(|j| j.artifacts.into_iter().find(|a| a.kind == kind));
        let artifact =
            artifact.ok_or_else(|| Status::not_found(format!("job {from} has no such artifact (any more)")))?;
        let file = tokio::fs::File::open(self.artifacts.path(&artifact.file)).await.map_err(|_| {
            Status::not_found(format!("the artifact {} of job {from} is gone from disk", artifact.name))
        })?;
        Ok(Response::new(pieces(file, artifact.name, artifact.format, &self.tasks)))
    }

    async fn finish(&self, request: Request<v1::FinishRequest>) -> Result<Response<v1::FinishReply>, Status> {
        let who = self.caller(&request)?;
        let said = request.into_inner();
        let (job, fence) = (JobId(said.job), Fence(said.fence));
        let outcome: Outcome = slipway_wire::document::decode(&said.outcome_json)?;
        let receipt: Option<Receipt> = match said.receipt_json.as_slice() {
            [] => None,
            json => Some(slipway_wire::document::decode(json)?),
        };
        let dotenv: Vec<(String, String)> = match said.dotenv_json.as_slice() {
            [] => Vec::new(),
            json if json.len() <= MAX_DOTENV.1 => slipway_wire::document::decode(json)?,
            json => return Err(Status::invalid_argument(format!("a dotenv report of {} bytes", json.len()))),
        };
        if dotenv.len() > MAX_DOTENV.0 {
            return Err(Status::invalid_argument(format!("a dotenv report of {} variables", dotenv.len())));
        }
        // A finish that is said again finds no lease: the driver knows whether it is the same one.
        if self.driver.live.get(job, fence).is_some() {
            self.held(&who, said.job, said.fence)?;
            let held = self.traces.held(job);
            if held < said.trace_bytes {
                let text = format!("the trace has {} bytes, {held} are held: send the rest first", said.trace_bytes);
                return Err(Status::out_of_range(text));
            }
        }
        let finish = Finish {
            job,
            fence,
            outcome,
            receipt,
            dotenv,
            environment_url: said.environment_url,
            tests: String::from_utf8_lossy(&said.tests_json).into_owned(),
        };
        self.driver.finish(finish).await?;
        Ok(Response::new(v1::FinishReply {}))
    }

    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinReply>, Status> {
        let access = self.access.as_ref().ok_or_else(no_authority)?;
        let asked = request.into_inner();
        match access.redeem(&asked.token, &asked.node, &asked.csr_pem, Timestamp::now()) {
            Ok(issued) => {
                tracing::info!(name = asked.node, "a certificate was given out for a token");
                Ok(Response::new(v1::JoinReply { certificate_pem: issued.certificate_pem, ca_pem: issued.ca_pem }))
            }
            Err(refused) => {
                tracing::warn!(name = asked.node, %refused, "a join was refused");
                Err(Status::permission_denied(refused.to_string()))
            }
        }
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::JoinReply>, Status> {
        let access = self.access.as_ref().ok_or_else(no_authority)?;
        let certificate = request
            .extensions()
            .get::<tonic::transport::server::TlsConnectInfo<tonic::transport::server::TcpConnectInfo>>()
            .and_then(|tls| tls.peer_certs())
            .and_then(|certificates| certificates.first().map(|c| c.to_vec()))
            .ok_or_else(|| Status::unauthenticated("only who has a certificate can renew it"))?;
        let issued = access
            .renew(&certificate, &request.into_inner().csr_pem, Timestamp::now())
            .map_err(|refused| Status::permission_denied(refused.to_string()))?;
        Ok(Response::new(v1::JoinReply { certificate_pem: issued.certificate_pem, ca_pem: issued.ca_pem }))
    }
}

fn no_authority() -> Status {
    Status::failed_precondition("this scheduler gives out no certificates: it has no `listen` address")
}

/// A file in pieces.
fn pieces(mut file: tokio::fs::File, name: String, format: String, tasks: &TaskTracker) -> Out<v1::DownloadChunk> {
    let (to, out) = mpsc::channel(WAITING_PIECES);
    tasks.spawn(async move {
        let (mut name, mut format) = (Some(name), Some(format));
        loop {
            let mut data = Vec::with_capacity(MAX_CHUNK_BYTES);
            let got = (&mut file).take(MAX_CHUNK_BYTES as u64).read_to_end(&mut data).await;
            let piece = match got {
                Ok(0) if name.is_none() => return,
                Ok(_) => Ok(v1::DownloadChunk {
                    name: name.take().unwrap_or_default(),
                    format: format.take().unwrap_or_default(),
                    data,
                }),
                Err(e) => Err(Status::internal(format!("cannot read the artifact: {e}"))),
            };
            let ends = piece.is_err();
            if to.send(piece).await.is_err() || ends {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_protocols_are_spoken_and_others_refused() {
        let hello = |protocol| v1::Hello { protocol, build: "b".into(), features: vec!["from the future".into()] };
        assert!(check_protocol(Some(&hello(PROTOCOL))).is_ok());
        assert!(check_protocol(Some(&hello(PROTOCOL + 1))).is_ok());
        assert!(check_protocol(Some(&hello(PROTOCOL + 2))).is_err());
        assert!(check_protocol(None).is_err());
    }
}
