//! Lending: a clone of the layer store and an engine on it, for one job.

use super::cgroup::Limits;
use super::error::{EngineError, Tried};
use super::ids::{self, IdRange};
use super::image::{ServiceImage, Versions};
use super::launch::Launch;
use super::lent::Lent;
use super::record::{FORMAT, Process, Record};
use super::shape::{Registries, Shape};
use super::tls::{self, Keys};
use super::wall::{self, Choice, Found};
use super::{cgroup, container, door, files, health, launch, stop, unpack};
use crate::layers::{self, EngineKind, GenerationRef, ImageStore, Lineage, Store, Wall};
use bollard::Docker;
use slipway_spec::ids::{Fence, JobId, PipelineId, ProjectId};
use slipway_spec::job::Tier;
use std::collections::HashMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What all engines of a node have in common.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where lent engines keep what is not in the layer store, on the same filesystem; one runner's alone.
    pub folder: PathBuf,
    /// The wall.
    pub wall: Choice,
    /// Mirrors and insecure registries.
    pub registries: Registries,
    /// PEM file of authorities that engines trust beside the node's own.
    pub ca_file: Option<PathBuf>,
    /// What one engine may take.
    pub limits: Limits,
    /// The program that [`door::serve`]s: this binary and the words that lead there.
    pub door: Vec<OsString>,
    /// How long an engine may take until it answers.
    pub ready_within: Duration,
    /// How long an engine may take to end.
    pub stop_within: Duration,
    /// Never use the layers of the host's Docker in place, also where it has them in folders.
    pub unpack_images: bool,
    /// Labels of the containers made for engines on the host's Docker.
    pub labels: HashMap<String, String>,
}

impl EngineConfig {
    /// Everything beneath `folder`, no registries, no limits; the door is this program, called with `engine-door`.
    #[must_use]
    pub fn new(folder: PathBuf) -> EngineConfig {
        EngineConfig {
            folder,
            wall: Choice::Auto,
            registries: Registries::default(),
            ca_file: None,
            limits: Limits::default(),
            door: vec!["/proc/self/exe".into(), "engine-door".into()],
            ready_within: Duration::from_secs(60),
            stop_within: Duration::from_secs(20),
            unpack_images: false,
            labels: HashMap::new(),
        }
    }
}

/// The job's network, in which the engine takes a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFacts {
    /// Docker's id of it.
    pub id: String,
    /// Its bridge's interface.
    pub bridge: String,
    /// An address of it that Docker will not give to others.
    pub address: Ipv4Addr,
    /// Bits of its mask.
    pub prefix: u8,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
    /// Bytes of a packet.
    pub mtu: u32,
}

/// What a job asks for.
#[derive(Clone, Debug)]
pub struct EngineRequest {
    /// Whose layers.
    pub project: ProjectId,
    /// The job's name.
    pub job_name: String,
    /// What it may see.
    pub tier: Tier,
    /// Whether an unprotected job may start from what protected ones made.
    pub read_protected: bool,
    /// The job.
    pub job: JobId,
    /// Its pipeline.
    pub pipeline: PipelineId,
    /// The lease.
    pub fence: Fence,
    /// The commit, for the generation's record.
    pub commit: String,
    /// Which of the job's engines, from 0.
    pub index: u8,
    /// The service's image, pulled before.
    pub image: String,
    /// The service's command, expanded.
    pub command: Option<Vec<String>>,
    /// What the service sees as environment, expanded; a later one of a key wins.
    pub environment: Vec<(String, String)>,
    /// Names by which the job calls it.
    pub names: Vec<String>,
    /// Where.
    pub network: NetworkFacts,
}

/// Lends engines.
pub struct Lender {
    pub(super) config: EngineConfig,
    pub(super) store: Arc<Store>,
    pub(super) docker: Docker,
    pub(super) found: Found,
    versions: Versions,
}

/// Everything of one lending that does not change between tries.
struct Wanted {
    id: String,
    folder: PathBuf,
    lineage: Lineage,
    image: ServiceImage,
    shape: Shape,
    keys: Keys,
    request: EngineRequest,
}

impl Lender {
    /// Finds out which wall this host holds and gets ready. Engines of an earlier process live on until
    /// [`Lender::sweep`].
    ///
    /// # Errors
    /// The folder cannot be used, or the wall that the configuration insists on does not stand here.
    pub async fn new(mut config: EngineConfig, store: Arc<Store>, docker: Docker) -> Result<Lender, EngineError> {
        config.limits = config.limits.or_safe(cgroup::memory_total_bytes());
        let (choice, folder) = (config.wall, config.folder.clone());
        let found = blocking(move || {
            // What an engine leaves on disk includes set-user-id files of "root".
            files::make_dir(&folder, 0o700)?;
            wall::probe(choice, &folder)
        })
        .await?;
        tracing::info!(wall = %found.wall, why = %found.why, "engines");
        let versions = Versions::open(config.folder.join(".versions.json"));
        Ok(Lender { config, store, docker, found, versions })
    }

    /// The wall engines are put behind, and why that one.
    #[must_use]
    pub fn wall(&self) -> &Found {
        &self.found
    }

    /// Lends an engine. It answers on both ports when this returns. On an error nothing of it is left.
    ///
    /// Not cancel-safe: a call that is dropped leaves an engine behind until [`Lender::sweep`]; let it finish and give
    /// the engine back.
    ///
    /// # Errors
    /// See [`EngineError`]; a generation that no engine starts from is condemned, and is no error.
    pub async fn lend(&self, request: EngineRequest) -> Result<Lent, EngineError> {
        let asked = Instant::now();
        let wanted = Arc::new(self.want(request).await?);
        // A job that has said `finished` may still be promoting what this one wants.
        let waited = {
            let (store, r) = (self.store.clone(), wanted.request.clone());
            let wait = move || Ok(store.await_finishing(r.project, r.tier, r.pipeline, Duration::from_secs(3)));
            blocking(wait).await?
        };
        loop {
            match self.attempt(&wanted, asked).await {
                Ok(mut lent) => {
                    lent.waited = waited;
                    return Ok(lent);
                }
                Err((error @ EngineError::NotReady { .. }, Some(generation))) => {
                    tracing::warn!(%generation, %error, "the engine did not start from this generation");
                    let (store, why) = (self.store.clone(), error.to_string());
                    let condemn = move || store.condemn(&generation, &why).map(drop).map_err(layers_failed);
                    blocking(condemn).await?;
                }
                Err((error, _)) => return Err(error),
            }
        }
    }

    async fn want(&self, request: EngineRequest) -> Result<Wanted, EngineError> {
        let image = ServiceImage::inspect(&self.docker, &request.image, &self.config, &self.versions).await?;
        let shape = Shape::new(
            request.command.as_deref(),
            &request.environment,
            &self.config.registries,
            &request.network,
            self.config.ca_file.is_some(),
        )?;
        let kind = EngineKind {
            major: image.major,
            // Docker 24 is the first that can keep images in containerd.
            store: if image.major >= 24 { ImageStore::Containerd } else { ImageStore::Overlay2 },
            wall: self.found.wall,
            arch: image.arch.clone(),
        };
        let lineage = Lineage { project: request.project, job: request.job_name.clone(), tier: request.tier, kind };
        let id = engine_id(&self.config.folder, request.job, request.fence, request.index);
        let keys = tls::make(&request.names, request.network.address)?;
        Ok(Wanted { folder: self.config.folder.join(&id), id, lineage, image, shape, keys, request })
    }

    /// One clone and one start. With the error comes the generation it was on.
    async fn attempt(
        &self,
        wanted: &Arc<Wanted>,
        asked: Instant,
    ) -> Result<Lent, (EngineError, Option<GenerationRef>)> {
        let clone = {
            let (store, wanted) = (self.store.clone(), wanted.clone());
            let read_protected = wanted.request.read_protected;
            blocking(move || store.clone_for(&wanted.lineage, &wanted.id, read_protected).map_err(layers_failed)).await
        }
        .map_err(|e| (e, None))?;
        let generation = clone.generation.clone();
        let begun = self.begin(wanted, &clone).await;
        let started = match begun {
            Ok(mut record) => {
                let started = self.start(wanted, &clone, &mut record).await;
                started.map(|door| (record, door))
            }
            Err(e) => Err(e),
        };
        match started {
            Ok((mut record, door)) => {
                record.ready_ms = millis(asked.elapsed());
                let written = record.write(&wanted.folder);
                let lent = Lent::new(self, record, wanted.folder.clone(), clone, door, wanted.shape.notes.clone());
                match written {
                    Ok(()) => Ok(lent),
                    Err(e) => {
                        lent.abandon().await;
                        Err((e, None))
                    }
                }
            }
            Err(error) => {
                self.clear(&wanted.id).await;
                let store = self.store.clone();
                if let Err(left) = blocking(move || store.discard(clone).map_err(layers_failed)).await {
                    tracing::warn!(engine = wanted.id, error = %left, "an engine's data is left behind");
                }
                Err((error, generation))
            }
        }
    }

    /// The folder and the first record: from here on a sweep finds everything.
    async fn begin(&self, wanted: &Arc<Wanted>, clone: &layers::Clone) -> Result<Record, EngineError> {
        let (wanted, wall, clone_ms) = (wanted.clone(), self.found.wall, millis(clone.took));
        blocking(move || {
            let folder = &wanted.folder;
            std::fs::create_dir(folder).tried("make", folder)?;
            let ids = match wall {
                Wall::Userns => Some(IdRange::claim(folder)?),
                Wall::Container => None,
            };
            let request = &wanted.request;
            let record = Record {
                format: FORMAT,
                id: wanted.id.clone(),
                job: request.job,
                pipeline: request.pipeline,
                fence: request.fence,
                commit: request.commit.clone(),
                wall,
                address: request.network.address,
                ids,
                container: None,
                init: None,
                door: None,
                clone_ms,
                ready_ms: 0,
            };
            record.write(folder)?;
            files::write_client(&tls_folder(folder), &wanted.keys)?;
            Ok(record)
        })
        .await
    }

    /// Starts it and waits for its answer.
    async fn start(
        &self,
        wanted: &Arc<Wanted>,
        clone: &layers::Clone,
        record: &mut Record,
    ) -> Result<tokio::process::Child, EngineError> {
        let (config, data, layers) = (self.config.clone(), clone.data.clone(), clone.layers.clone());
        let what = wanted.clone();
        let with_launch = move |act: &dyn Fn(&Launch<'_>) -> Result<launch::Started, EngineError>| {
            act(&Launch {
                id: &what.id,
                folder: &what.folder,
                data: &data,
                layers: Some(&layers),
                image: &what.image,
                shape: &what.shape,
                network: &what.request.network,
                limits: &config.limits,
                keys: &what.keys,
                ca_file: config.ca_file.as_deref(),
            })
        };
        let (init, plain) = match (record.wall, record.ids.clone()) {
            (Wall::Userns, Some(ids)) => {
                let started = blocking(move || with_launch(&|launch| launch.start(&ids)));
                let pin = container::pin(&self.docker, &wanted.id, &wanted.request.image, &self.config.labels);
                let (started, pin) = tokio::join!(started, pin);
                record.container = Some(pin?);
                let started = started?;
                (started.init, started.plain)
            }
            (Wall::Userns | Wall::Container, _) => {
                let launch = Launch {
                    id: &wanted.id,
                    folder: &wanted.folder,
                    data: &clone.data,
                    layers: Some(&clone.layers),
                    image: &wanted.image,
                    shape: &wanted.shape,
                    network: &wanted.request.network,
                    limits: &self.config.limits,
                    keys: &wanted.keys,
                    ca_file: self.config.ca_file.as_deref(),
                };
                container::prepare(&launch)?;
                let made = container::create(&self.docker, &launch, &wanted.request.image, &self.config.labels).await?;
                record.container = Some(made.clone());
                record.write(&wanted.folder)?;
                container::start(&self.docker, &made, &wanted.id).await?
            }
        };
        record.init = Some(init);
        let user = record.ids.as_ref().map(IdRange::base);
        let door = door::open(&self.config.door, plain, init.pid, user, &wanted.folder.join("door.log"))?;
        record.door = door.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Process::of);
        record.write(&wanted.folder)?;
        self.answers(wanted, record, init).await?;
        Ok(door)
    }

    async fn answers(&self, wanted: &Wanted, record: &Record, init: Process) -> Result<(), EngineError> {
        let within = self.config.ready_within;
        let how = tokio::select! {
            pinged = health::ping(record.address) => match pinged {
                Ok(()) => return Ok(()),
                Err(e) => format!("did not answer on port {}: {e}", health::PLAIN_PORT),
            },
            true = stop::ended(init, within) => "exited".to_owned(),
            () = tokio::time::sleep(within) => format!("did not answer within {} s", within.as_secs()),
        };
        let mut log = match (&record.wall, &record.container) {
            (Wall::Container, Some(container)) => container::log(&self.docker, container).await,
            _ => launch::last_words(&wanted.folder),
        };
        if log.trim().is_empty() {
            log = std::fs::read_to_string(wanted.folder.join("door.log")).unwrap_or_default();
        }
        Err(EngineError::NotReady { id: wanted.id.clone(), how, log })
    }

    /// Removes everything of an engine but its data.
    pub(super) async fn clear(&self, id: &str) {
        container::remove(&self.docker, &container::container_name(id)).await;
        let (id, folder) = (id.to_owned(), self.config.folder.join(id));
        let _ = blocking(move || {
            stop::remove(&id, &folder);
            Ok(())
        })
        .await;
    }

    /// Ends what an earlier process left, but for the engines named; returns those that it ended. Call it once, at the
    /// start, with the ids of the engines that [`Lender::adopt`] took.
    ///
    /// # Errors
    /// The folder cannot be read, or the layer store's.
    pub async fn sweep(&self, alive: &[String]) -> Result<Vec<String>, EngineError> {
        let mut ended = Vec::new();
        let folder = &self.config.folder;
        for entry in std::fs::read_dir(folder).tried("read", folder)? {
            let name = entry.tried("read", folder)?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && !alive.contains(&name) {
                self.clear(&name).await;
                ended.push(name);
            }
        }
        if alive.is_empty() {
            unpack::sweep(&self.docker, folder).await;
        }
        let (store, folder) = (self.store.clone(), folder.clone());
        let alive = alive.iter().cloned().collect();
        blocking(move || {
            ids::release_orphans(&folder);
            store.sweep_engines(&alive).map(drop).map_err(layers_failed)
        })
        .await?;
        Ok(ended)
    }

    /// Takes over the engine of a job that an earlier process started; `None` when it has ended or was never ready.
    ///
    /// # Errors
    /// The layer store cannot read its record.
    pub async fn adopt(&self, job: JobId, fence: Fence, index: u8) -> Result<Option<Lent>, EngineError> {
        let id = engine_id(&self.config.folder, job, fence, index);
        let folder = self.config.folder.join(&id);
        let Some(record) = Record::read(&folder) else { return Ok(None) };
        let lives = |process: Option<Process>| process.is_some_and(Process::is_alive);
        if record.ready_ms == 0 || !lives(record.init) || !lives(record.door) {
            return Ok(None);
        }
        let store = self.store.clone();
        let clone = blocking(move || store.adopt(&id).map_err(layers_failed)).await?;
        Ok(clone.map(|clone| Lent::adopted(self, record, folder, clone)))
    }
}

/// An engine's name: of the job's lease, and of the runner's folder, so that two runners on a machine do not meet.
#[must_use]
pub fn engine_id(folder: &Path, job: JobId, fence: Fence, index: u8) -> String {
    let runner = crc32fast::hash(folder.as_os_str().as_encoded_bytes());
    format!("j{job}-{fence}-{index}-{runner:08x}")
}

/// Where the job's `/certs` is.
pub(super) fn tls_folder(folder: &Path) -> PathBuf {
    folder.join("tls")
}

pub(super) fn layers_failed(error: layers::LayersError) -> EngineError {
    EngineError::Layers(error.to_string())
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Runs what blocks where it may.
pub(super) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    match tokio::task::spawn_blocking(act).await {
        Ok(result) => result,
        Err(e) => Err(std::io::Error::other(e)).tried("finish", "a blocking call"),
    }
}
