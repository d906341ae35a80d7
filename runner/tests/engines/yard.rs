//! What the tests share: a network like a job's, a lender on a store of its own, clients in the network.

use bollard::Docker;
use slipway_runner::engine::{Choice, EngineConfig, EngineRequest, Lender, Lent, Limits, NetworkFacts, Registries};
use slipway_runner::layers::{Budget, Store};
use slipway_spec::ids::{Fence, JobId, PipelineId, ProjectId};
use slipway_spec::job::Tier;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A network, a store, a lender; gone with the test.
pub(crate) struct Yard {
    pub(crate) lender: Lender,
    pub(crate) store: Arc<Store>,
    pub(crate) network: Network,
    folder: tempfile::TempDir,
}

/// What a client said, and whether it went well.
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) text: String,
}

impl Yard {
    pub(crate) async fn new(choice: Choice) -> Yard {
        Yard::with(choice, Limits::default()).await
    }

    /// With limits for every engine.
    pub(crate) async fn with(choice: Choice, limits: Limits) -> Yard {
        Yard::within(Path::new(env!("CARGO_TARGET_TMPDIR")), choice, limits).await
    }

    /// With its folder in `parent`.
    pub(crate) async fn within(parent: &Path, choice: Choice, limits: Limits) -> Yard {
        let folder = tempfile::Builder::new().prefix("yard-").tempdir_in(parent).unwrap();
        let store = Arc::new(Store::open(&folder.path().join("store"), Budget::default()).unwrap());
        let lender = lender(folder.path(), store.clone(), choice, limits).await;
        Yard { lender, store, network: Network::new(), folder }
    }

    /// Where everything is.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another lender on the same folder, as after a restart of the runner.
    pub(crate) async fn restarted(&self, choice: Choice) -> Lender {
        lender(self.folder.path(), self.store.clone(), choice, Limits::default()).await
    }

    /// What job `job` of the yard's one project asks for.
    pub(crate) fn request(&self, job: u64) -> EngineRequest {
        EngineRequest {
            project: ProjectId(1),
            job_name: "build_image".into(),
            tier: Tier::Protected,
            read_protected: false,
            job: JobId(job),
            pipeline: PipelineId(job),
            fence: Fence(1),
            commit: "0123456789012345678901234567890123456789".into(),
            index: 0,
            image: "docker:dind".into(),
            command: None,
            environment: vec![("DOCKER_DRIVER".into(), "overlay2".into())],
            names: vec!["docker".into()],
            network: self.network.facts(job),
        }
    }

    pub(crate) async fn lend(&self, job: u64) -> Lent {
        let lent = self.lender.lend(self.request(job)).await.unwrap_or_else(|e| panic!("{e}"));
        eprintln!("{}", lent.line());
        lent
    }

    /// Runs a shell script in a client container of the engine's network; it must go well.
    pub(crate) fn sh(&self, lent: &Lent, script: &str) -> String {
        let said = self.try_sh(lent, script);
        assert!(said.ok, "{script}\n{}", said.text);
        said.text
    }

    /// The same, whatever comes of it.
    pub(crate) fn try_sh(&self, lent: &Lent, script: &str) -> Said {
        self.client(lent, &[], script)
    }

    /// A client that finds keys in `/certs`, as a job's container does.
    pub(crate) fn tls_sh(&self, lent: &Lent, script: &str) -> String {
        let certs = format!("{}:/certs:ro", lent.tls_dir.display());
        let said = self.client(lent, &["-v", &certs], script);
        assert!(said.ok, "{script}\n{}", said.text);
        said.text
    }

    fn client(&self, lent: &Lent, more: &[&str], script: &str) -> Said {
        let host = format!("docker:{}", lent.address);
        let mut args = vec!["run", "--rm", "--network", &self.network.name, "--add-host", &host];
        args.extend(more);
        args.extend(["docker:stable", "sh", "-ec", script]);
        docker(&args)
    }
}

/// Whatever the test left running, also when it failed, is ended: the folder must not go before the engines on it.
impl Drop for Yard {
    fn drop(&mut self) {
        let lender = &self.lender;
        let swept = std::thread::scope(|scope| {
            let sweep = || tokio::runtime::Runtime::new().unwrap().block_on(lender.sweep(&[]));
            scope.spawn(sweep).join()
        });
        eprintln!("swept: {swept:?}");
    }
}

/// How the tests' engines are configured.
pub(crate) fn config(folder: &Path, choice: Choice, limits: Limits) -> EngineConfig {
    EngineConfig {
        wall: choice,
        limits,
        registries: Registries { mirrors: vec!["http://127.0.0.1:5000".into()], insecure: Vec::new() },
        door: vec![env!("CARGO_BIN_EXE_slipway-door").into()],
        ..EngineConfig::new(folder.join("lent"))
    }
}

async fn lender(folder: &Path, store: Arc<Store>, choice: Choice, limits: Limits) -> Lender {
    let config = config(folder, choice, limits);
    let docker = Docker::connect_with_local_defaults().unwrap();
    Lender::new(config, store, docker).await.unwrap_or_else(|e| panic!("{e}"))
}

/// A Docker network with room for engines.
pub(crate) struct Network {
    pub(crate) name: String,
    id: String,
    base: u32,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Network {
    fn new() -> Network {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("slipway-yard-{}-{number}", std::process::id());
        let bridge = format!("sy{:x}", crc32(&name));
        for attempt in 0..200u32 {
            let third = (std::process::id() + number * 7 + attempt) % 256;
            let base = u32::from(Ipv4Addr::new(10, 211, u8::try_from(third).unwrap(), 0));
            let said = docker(&[
                "network",
                "create",
                "--label",
                "dev.slipway.test=1",
                "--subnet",
                &format!("{}/24", Ipv4Addr::from(base)),
                "--ip-range",
                &format!("{}/25", Ipv4Addr::from(base)),
                "--gateway",
                &Ipv4Addr::from(base + 1).to_string(),
                "--opt",
                &format!("com.docker.network.bridge.name={bridge}"),
                &name,
            ]);
            if said.ok {
                return Network { name, id: said.text.trim().to_owned(), base };
            }
            assert!(said.text.contains("overlaps") || said.text.contains("conflicts"), "{}", said.text);
        }
        panic!("no free network for a test");
    }

    fn facts(&self, job: u64) -> NetworkFacts {
        NetworkFacts {
            id: self.id.clone(),
            bridge: format!("sy{:x}", crc32(&self.name)),
            address: Ipv4Addr::from(self.base + 200 + u32::try_from(job % 50).unwrap()),
            prefix: 24,
            gateway: Ipv4Addr::from(self.base + 1),
            mtu: 1500,
        }
    }

    /// The bridge's address, which is the node's.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        docker(&["network", "rm", &self.name]);
    }
}

fn crc32(text: &str) -> u32 {
    crc32fast::hash(text.as_bytes())
}

/// The host's `docker`, stdout and stderr together.
pub(crate) fn docker(args: &[&str]) -> Said {
    let output = Command::new("docker").args(args).output().expect("docker is needed");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Said { ok: output.status.success(), text }
}

/// Everything of an engine that the host could still have after it is gone.
pub(crate) fn traces_of(id: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let proc_mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    found.extend(proc_mounts.lines().filter(|l| l.contains(id)).map(PathBuf::from));
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        for at in [hierarchy.path().join("slipway").join(id)] {
            if at.exists() {
                found.push(at);
            }
        }
    }
    let state = Path::new("/run/slipway/runc").join(id);
    if state.exists() {
        found.push(state);
    }
    for claim in std::fs::read_dir("/run/slipway/ids").into_iter().flatten().flatten() {
        if std::fs::read_to_string(claim.path()).is_ok_and(|owner| owner.ends_with(id)) {
            found.push(claim.path());
        }
    }
    let containers = docker(&["ps", "-aq", "--filter", &format!("name={id}")]);
    found.extend(containers.text.lines().map(PathBuf::from));
    found
}
