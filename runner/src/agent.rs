//! The node's session with the scheduler: offers, cancels, leases, pressure; and the jobs it runs.
//!
//! One task owns everything. The session may break at any time: jobs go on while their leases last.

mod leases;
mod session;

use crate::cache::{CacheError, Caches, Limits};
use crate::config::{RunnerConfig, Unusable};
use crate::engine::{self, EngineConfig, Lender, Registries};
use crate::executor::network::Pool;
use crate::job::Node;
use crate::layers::{Budget, LayersError, Store};
use crate::workspace::{Mirrors, WorkspaceError};
use bollard::Docker;
use slipway_wire::MAX_MESSAGE_BYTES;
use slipway_wire::v1::runner_client::RunnerClient;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// Seconds a request to Docker may take. Pulls and waits stream and are not bound by it.
const DOCKER_SECONDS: u64 = 120;
/// Stamp of the cache root's layout.
const FORMAT: &str = "1";

/// Why a runner cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] Unusable),
    /// A file or folder.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The cache root belongs to a newer version.
    #[error("{} has format {found}, this build knows {FORMAT}; use a newer build, or another cache_root", path.display())]
    Format {
        /// The stamp.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// Another runner has it.
    #[error("another runner is using {}; give each its own cache_root", path.display())]
    Taken {
        /// The lock.
        path: PathBuf,
    },
    /// Docker's engine.
    #[error("cannot reach Docker's engine at {}: {source}; is it running?", socket.display())]
    Docker {
        /// The socket.
        socket: PathBuf,
        /// Why it failed.
        source: bollard::errors::Error,
    },
    /// The mirrors.
    #[error(transparent)]
    Mirrors(#[from] WorkspaceError),
    /// The caches.
    #[error(transparent)]
    Caches(#[from] CacheError),
    /// The layer store.
    #[error(transparent)]
    Layers(#[from] LayersError),
    /// A thread that was to open the store.
    #[error("cannot open the layer store: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// How a runner is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// Not yet.
    Run,
    /// When its jobs are over; it takes no more.
    Drain,
    /// Its jobs are ended and reported.
    Stop,
    /// At once; its jobs go on in their containers until a next process adopts them.
    Leave,
}

/// A runner that is working.
#[derive(Debug)]
pub struct RunnerHandle {
    ending: watch::Sender<Ending>,
    task: JoinHandle<()>,
}

/// One node.
#[derive(Debug)]
pub struct Runner;

impl Runner {
    /// Starts a node that speaks to the scheduler at the other end of `channel`. What an earlier process left is
    /// adopted or removed first.
    ///
    /// # Errors
    /// When the configuration, the cache root or Docker's engine cannot be used.
    pub async fn start(config: RunnerConfig, channel: Channel) -> Result<RunnerHandle, StartError> {
        config.check()?;
        let lock = claim(&config.cache_root)?;
        let fault = |source| StartError::Docker { socket: config.docker_socket.clone(), source };
        let socket = config.docker_socket.to_string_lossy();
        let docker = Docker::connect_with_unix(&socket, DOCKER_SECONDS, bollard::API_DEFAULT_VERSION).map_err(fault)?;
        let docker = docker.negotiate_version().await.map_err(fault)?;
        let mirrors = Mirrors::open(&config.cache_root)?;
        let caches = Caches::open(&config.cache_root, Limits::default())?;
        let store = open_store(&config).await?;
        let lender = lender(&config, store.clone(), docker.clone()).await;
        let pool = Pool::parse(&config.job_networks).map_err(|why| Unusable { faults: vec![why] })?;
        let client = RunnerClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (name, holdings) = (config.node(), watch::Sender::default());
        let store = Some(store);
        let node = Arc::new(Node { name, config, docker, client, pool, mirrors, caches, store, lender, holdings });
        let adopted = crate::sweep::sweep(&node).await;
        let (ending, told) = watch::channel(Ending::Run);
        let task = tokio::spawn(session::run(node, adopted, told, lock));
        Ok(RunnerHandle { ending, task })
    }
}

impl RunnerHandle {
    /// Takes no more jobs; ends when those it has are over.
    pub fn drain(&self) {
        self.tell(Ending::Drain);
    }

    /// Ends its jobs, which are reported as failed by the system, and then itself, within `shutdown_seconds`.
    pub fn stop(&self) {
        self.tell(Ending::Stop);
    }

    /// Ends at once. Its jobs go on in their containers; a next process on the same cache root adopts them.
    pub fn leave(&self) {
        self.tell(Ending::Leave);
    }

    /// Comes back when it has ended. Cancel-safe.
    pub async fn ended(&mut self) {
        let _ = (&mut self.task).await;
    }

    fn tell(&self, ending: Ending) {
        self.ending.send_if_modified(|now| {
            let later = ending > *now;
            *now = (*now).max(ending);
            later
        });
    }
}

async fn open_store(config: &RunnerConfig) -> Result<Arc<Store>, StartError> {
    let root = config.cache_root.join(crate::layers::FOLDER);
    let budget = Budget {
        cache_max_bytes: config.cache_max_bytes,
        build_disk_bytes: config.build_disk_bytes,
        ..Budget::default()
    };
    Ok(Arc::new(tokio::task::spawn_blocking(move || Store::open(&root, budget)).await??))
}

/// What lends engines; a node that cannot runs all other jobs.
async fn lender(config: &RunnerConfig, store: Arc<Store>, docker: Docker) -> Option<Arc<Lender>> {
    let mut engines = EngineConfig::new(config.cache_root.join("lent"));
    engines.wall = config.wall;
    engines.registries =
        Registries { mirrors: config.registry_mirrors.clone(), insecure: config.insecure_registries.clone() };
    engines.ca_file.clone_from(&config.ca_file);
    engines.limits =
        engine::Limits { memory_bytes: config.engine_memory_bytes, cpus: config.engine_cpus, pids: config.engine_pids };
    if !config.engine_door.is_empty() {
        engines.door.clone_from(&config.engine_door);
    }
    engines.labels.insert(crate::executor::LABEL_NODE.into(), config.mark());
    match Lender::new(engines, store, docker).await {
        Ok(lender) => Some(Arc::new(lender)),
        Err(e) => {
            tracing::warn!(error = %e, "this node lends no engines: jobs with `docker:dind` are refused here");
            None
        }
    }
}

/// Makes the cache root and takes it for this process.
fn claim(root: &std::path::Path) -> Result<std::fs::File, StartError> {
    let fault = |what, path: &std::path::Path| {
        let path = path.to_owned();
        move |source| StartError::File { what, path, source }
    };
    let jobs = root.join("jobs");
    std::fs::create_dir_all(&jobs).map_err(fault("make", &jobs))?;
    let path = root.join("runner.lock");
    let lock = std::fs::File::create(&path).map_err(fault("make", &path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Err(StartError::Taken { path }),
        Err(std::fs::TryLockError::Error(e)) => return Err(fault("lock", &path)(e)),
    }
    let stamp = root.join("jobs").join("FORMAT");
    match std::fs::read_to_string(&stamp) {
        Ok(found) if found.trim() == FORMAT => {}
        Ok(found) => return Err(StartError::Format { path: stamp, found: found.trim().to_owned() }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::write(&stamp, FORMAT).map_err(fault("write", &stamp))?;
        }
        Err(e) => return Err(fault("read", &stamp)(e)),
    }
    Ok(lock)
}
