//! The scheduler as one thing: started on a state folder, reached over a Unix socket, TLS or an in-memory stream.

use crate::access::{Access, AccessError};
use crate::artifacts::{ArtifactError, Artifacts};
use crate::config::Config;
use crate::driver::{Denied, Driver, Ended};
use crate::errands::Doer;
use crate::housekeeping::Housekeeper;
use crate::intake::Intake;
use crate::service::Services;
use crate::service::control::ControlService;
use crate::service::runner::RunnerService;
use crate::store::{Store, StoreError, read};
use crate::traces::Traces;
use crate::triggers::{Keeper, Watched, webhook};
use crate::upstream::{self, Cancel, RemoteJob, Selector, Upstream, UpstreamJob};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use slipway_spec::ids::JobId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// How long calls and tasks may take to end at a shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// Why a scheduler does not start, or does not listen.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The artifacts' folder.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// The authority.
    #[error("cannot open the certificate authority: {0}")]
    Access(#[from] AccessError),
    /// Triggers: all that is wrong.
    #[error("cannot start the triggers:\n{}", .0.join("\n"))]
    Triggers(Vec<String>),
    /// An address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// TLS.
    #[error("cannot serve TLS: {0}")]
    Tls(#[from] tonic::transport::Error),
}

/// A running scheduler.
#[derive(Clone)]
pub struct Scheduler {
    driver: Driver,
    store: Store,
    config: Arc<Config>,
    services: Services,
    access: Option<Arc<Access>>,
    keeper: Arc<OnceLock<Keeper>>,
    upstream_now: Arc<OnceLock<Arc<dyn Upstream>>>,
    upstream: watch::Sender<Option<Arc<dyn Upstream>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Scheduler {
    /// Starts on a state folder: what was accepted before goes on. The services it gives can be mounted on any
    /// transport; [`Scheduler::serve_unix`] and [`Scheduler::listen`] mount them on the usual ones.
    ///
    /// # Errors
    /// When the folder cannot be used, another scheduler has it, or a newer build made it.
    pub async fn start(config: Config, state_dir: &Path) -> Result<(Scheduler, Services), StartError> {
        let config = Arc::new(config);
        let now = Timestamp::now();
        let store = Store::open(state_dir)?;
        let traces = Traces::new(state_dir.join("traces"), config.trace_max_bytes);
        let artifacts = Artifacts::open(state_dir.join("artifacts"), config.artifact_max_bytes)?;
        let access = match config.listen {
            Some(_) => Some(Arc::new(Access::open(&state_dir.join("access"), now)?)),
            None => None,
        };
        let (driver, errands) = Driver::start(config.clone(), store.clone(), traces.clone())?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mirrors = state_dir.join("mirrors");
        let intake = Intake {
            driver: driver.clone(),
            store: store.clone(),
            config: config.clone(),
            mirrors,
            artifacts: artifacts.clone(),
        };
        let keeper = Arc::new(OnceLock::new());
        let started = start_keeper(&config, state_dir, &intake, &stop).map_err(StartError::Triggers)?;
        let _first = keeper.set(started);
        let upstream_now: Arc<OnceLock<Arc<dyn Upstream>>> = Arc::new(OnceLock::new());
        let upstream = watch::Sender::new(None);
        let doer = Doer {
            driver: driver.clone(),
            store: store.clone(),
            traces: traces.clone(),
            intake: intake.clone(),
            upstream: upstream.subscribe(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(async move {
            if let Err(error) = doer.run(errands).await {
                tracing::error!(%error, "the outbox could not be read");
            }
        });
        let housekeeper = Housekeeper {
            driver: driver.clone(),
            store: store.clone(),
            traces: traces.clone(),
            artifacts: artifacts.clone(),
            keep_finished: config.keep_finished,
        };
        tasks.spawn(housekeeper.run(stop.clone()));
        let runner = RunnerService {
            driver: driver.clone(),
            store: store.clone(),
            traces: traces.clone(),
            artifacts: artifacts.clone(),
            access: access.clone(),
            upstream: upstream_now.clone(),
            lease_ttl: config.lease_ttl,
            keep_artifacts: config.keep_artifacts,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let control = ControlService {
            driver: driver.clone(),
            store: store.clone(),
            traces,
            artifacts,
            intake,
            access: access.clone(),
            keeper: keeper.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let services = Services::new(runner, control);
        let scheduler = Scheduler {
            driver,
            store,
            config,
            services: services.clone(),
            access,
            keeper,
            upstream_now,
            upstream,
            tasks,
            stop,
        };
        Ok((scheduler, services))
    }

    /// The driver's handle.
    #[must_use]
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Who gives out certificates; `None` without a `listen` address.
    #[must_use]
    pub fn access(&self) -> Option<&Arc<Access>> {
        self.access.as_ref()
    }

    /// The GitLab servers whose jobs were accepted through [`Scheduler::intake`]. Called once.
    pub fn set_upstream(&self, upstream: Arc<dyn Upstream>) {
        if self.upstream_now.set(upstream.clone()).is_ok() {
            self.upstream.send_replace(Some(upstream));
        }
    }

    /// The scheduler as a GitLab upstream sees it.
    #[must_use]
    pub fn intake(&self) -> Arc<dyn upstream::Intake> {
        Arc::new(Door {
            driver: self.driver.clone(),
            store: self.store.clone(),
            rooms: Default::default(),
            tasks: self.tasks.clone(),
        })
    }

    /// Serves people and nodes of this machine over a Unix socket, for its owner and group. A socket that nobody
    /// listens on is taken over.
    ///
    /// # Errors
    /// When the socket cannot be made, or another scheduler listens on it.
    pub async fn serve_unix(&self, path: &Path) -> Result<(), StartError> {
        let failed = |source| StartError::Listen { address: path.display().to_string(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        if path.exists() {
            if tokio::net::UnixStream::connect(path).await.is_ok() {
                return Err(failed(std::io::Error::new(
                    std::io::ErrorKind::AddrInUse,
                    "another scheduler listens there",
                )));
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = tokio::net::UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
        let serving = self
            .services
            .router()
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), self.stop.clone().cancelled_owned());
        let path: PathBuf = path.to_owned();
        self.tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the Unix socket is not served any more");
            }
            let _gone = std::fs::remove_file(path);
        });
        Ok(())
    }

    /// Serves what the configuration names: socket, TLS, webhooks, metrics. Returns the address of TLS.
    ///
    /// # Errors
    /// When one of them cannot be listened on.
    pub async fn listen(&self) -> Result<Option<SocketAddr>, StartError> {
        if let Some(path) = self.config.socket.clone() {
            self.serve_unix(&path).await?;
        }
        if let Some(address) = self.config.webhook {
            let secrets: BTreeMap<_, _> = self
                .config
                .projects
                .iter()
                .filter_map(|p| p.triggers.webhook_secret.clone().map(|s| (p.path.clone(), s)))
                .collect();
            if let Some(keeper) = self.keeper.get() {
                self.serve_http(address, webhook::router(keeper.clone(), secrets)).await?;
            }
        }
        if let Some(address) = self.config.metrics {
            self.serve_http(address, crate::metrics::router(self.driver.clone())).await?;
        }
        match self.config.listen {
            Some(address) => self.serve_tls(address).await.map(Some),
            None => Ok(None),
        }
    }

    async fn serve_http(&self, address: SocketAddr, router: axum::Router) -> Result<(), StartError> {
        let listener = bind(address).await?;
        let stopped = self.stop.clone().cancelled_owned();
        self.tasks.spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                tracing::error!(%error, %address, "an HTTP address is not served any more");
            }
        });
        Ok(())
    }

    /// Mutual TLS: everybody may connect, for joining; all but [`join`](slipway_wire::v1) needs a certificate of ours.
    async fn serve_tls(&self, address: SocketAddr) -> Result<SocketAddr, StartError> {
        let Some(access) = &self.access else { return Ok(address) };
        let names = [host_name(), "localhost".to_owned(), "127.0.0.1".to_owned(), address.ip().to_string()];
        let identity = access.server(&names, Timestamp::now())?;
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(&identity.certificate_pem, &identity.key_pem))
            .client_ca_root(Certificate::from_pem(&identity.ca_pem))
            .client_auth_optional(true);
        let listener = bind(address).await?;
        let bound = listener.local_addr().unwrap_or(address);
        let serving = tonic::transport::Server::builder()
            .tls_config(tls)?
            .add_service(self.services.runner.clone())
            .add_service(self.services.control.clone())
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), self.stop.clone().cancelled_owned());
        self.tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "TLS is not served any more");
            }
        });
        Ok(bound)
    }

    /// Whether the scheduler has ended by itself, and why: a store that fails ends it.
    #[must_use]
    pub fn ended(&self) -> watch::Receiver<Ended> {
        self.driver.ended()
    }

    /// Takes no more calls, writes what is decided, and ends. Jobs go on at their nodes. Waits ten seconds for calls
    /// that are under way.
    pub async fn shutdown(&self) {
        self.driver.stop().await;
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "some calls did not end in time");
        }
        self.store.close().await;
    }
}

async fn bind(address: SocketAddr) -> Result<tokio::net::TcpListener, StartError> {
    let failed = |source| StartError::Listen { address: address.to_string(), source };
    tokio::net::TcpListener::bind(address).await.map_err(failed)
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok()).unwrap_or_else(|| "localhost".into())
}

fn start_keeper(
    config: &Config,
    state_dir: &Path,
    intake: &Intake,
    stop: &CancellationToken,
) -> Result<Keeper, Vec<String>> {
    let watched = config
        .projects
        .iter()
        .map(|p| Watched {
            project: p.path.clone(),
            repository: p.repository.clone(),
            triggers: p.triggers.clone(),
            schedules: p.schedules.clone(),
        })
        .collect();
    let folder = state_dir.join("triggers");
    std::fs::create_dir_all(&folder).map_err(|e| vec![format!("{}: {e}", folder.display())])?;
    Keeper::start(watched, &folder, Arc::new(intake.clone()), stop.clone())
}

/// The scheduler as a GitLab upstream sees it.
struct Door {
    driver: Driver,
    store: Store,
    rooms: std::sync::Mutex<std::collections::HashMap<Selector, watch::Receiver<u32>>>,
    tasks: TaskTracker,
}

impl upstream::Intake for Door {
    fn accept(&self, job: UpstreamJob) -> BoxFuture<'_, Result<JobId, upstream::Refused>> {
        Box::pin(async move {
            self.driver.accept(job).await.map_err(|denied| match denied {
                Denied::Stopped => upstream::Refused::Draining,
                other => upstream::Refused::Store(other.to_string()),
            })
        })
    }

    fn remembers(&self, job: RemoteJob) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let found = self.store.read(move |c| read::remote_job(c, &job.upstream, job.id)).await;
            // A store that cannot be read must not make a job run twice or be reported as lost.
            found.map_or(true, |id| id.is_some())
        })
    }

    fn cancel(&self, job: RemoteJob, how: Cancel) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let _stopped = self.driver.cancel_remote(job, how).await;
        })
    }

    fn room(&self, selector: &Selector) -> watch::Receiver<u32> {
        let mut rooms = self.rooms.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(room) = rooms.get(selector) {
            return room.clone();
        }
        let (to, room) = watch::channel(0);
        rooms.insert(selector.clone(), room.clone());
        let (driver, selector) = (self.driver.clone(), selector.clone());
        let (asked, answer) = oneshot::channel();
        self.tasks.spawn(async move {
            if let Ok(room) = driver.room(selector).await {
                let _gone = asked.send(room);
            }
        });
        self.tasks.spawn(async move {
            let Ok(mut from) = answer.await else { return };
            loop {
                let now = *from.borrow_and_update();
                to.send_if_modified(|before| std::mem::replace(before, now) != now);
                tokio::select! {
                    () = to.closed() => return,
                    changed = from.changed() => if changed.is_err() {
                        to.send_replace(0);
                        return;
                    }
                }
            }
        });
        room
    }
}
