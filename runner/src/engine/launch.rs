//! Starting an engine behind the `userns` wall: namespaces, network, mounts, `runc`.

use super::bundle::{self, Facts};
use super::cgroup::{Group, Limits};
use super::error::{EngineError, Tried};
use super::ids::IdRange;
use super::image::ServiceImage;
use super::lend::NetworkFacts;
use super::mounts::{self, Plan};
use super::network;
use super::record::Process;
use super::shape::Shape;
use super::spaces::Spaces;
use super::tls::Keys;
use super::{files, health};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where `runc` keeps its state: gone with a reboot, as engines are.
pub(super) const RUNC_ROOT: &str = "/run/slipway/runc";

/// What is started.
pub(super) struct Launch<'a> {
    pub(super) id: &'a str,
    /// The engine's folder, with nothing in it but its record.
    pub(super) folder: &'a Path,
    pub(super) data: &'a Path,
    pub(super) layers: Option<&'a Path>,
    pub(super) image: &'a ServiceImage,
    pub(super) shape: &'a Shape,
    pub(super) network: &'a NetworkFacts,
    pub(super) limits: &'a Limits,
    pub(super) keys: &'a Keys,
    pub(super) ca_file: Option<&'a Path>,
}

/// An engine that was started.
pub(super) struct Started {
    pub(super) init: Process,
    /// Listens on the plain port; nobody accepts yet.
    pub(super) plain: TcpListener,
}

impl Launch<'_> {
    /// Starts it with ids of its own. Blocks for about 0.1 s; the daemon answers later. What it made is removed by
    /// [`super::stop::remove`], also after an error.
    pub(super) fn start(&self, ids: &IdRange) -> Result<Started, EngineError> {
        let base = ids.base();
        let spaces = Spaces::new(base)?;
        network::wire(&spaces, self.network, self.id)?;
        let plain = spaces.listen(health::PLAIN_PORT)?;
        Group::make(self.id, base, self.limits)?;
        let root = self.write_root()?;
        let plan = Plan { image: &self.image.layers, root: &root, data: self.data, layers: self.layers };
        let pid = mounts::apart(|| {
            let mounted = plan.mount(spaces.user(), base)?;
            let bundle = self.folder.join("bundle");
            files::make_dir(&bundle, 0o700)?;
            let (user, net) = (spaces.user_path(), spaces.net_path());
            let layers = mounted.layers.as_deref().map(|at| (at, crate::layers::MOUNT));
            let config = bundle::config(&Facts {
                id: self.id,
                base,
                root: &mounted.root,
                data: &mounted.data,
                layers,
                spaces: (&user, &net),
                flags: &self.shape.flags,
                environment: self.environment(),
                unified: super::cgroup::is_unified(),
            });
            files::write_file(&bundle.join("config.json"), 0o600, &config.to_string())?;
            self.run(&bundle)
        })?;
        let init = Process::of(pid).ok_or_else(|| EngineError::NotReady {
            id: self.id.to_owned(),
            how: "exited at once".into(),
            log: last_words(self.folder),
        })?;
        Ok(Started { init, plain })
    }

    /// `runc run --detach`; returns the number of process 1.
    fn run(&self, bundle: &Path) -> Result<i32, EngineError> {
        let log = log_file(self.folder);
        let output = File::options().create(true).append(true).open(&log).tried("open", &log)?;
        let errors = output.try_clone().tried("open", &log)?;
        let (pid_file, runc_log) = (self.folder.join("pid"), self.folder.join("runc.log"));
        files::make_dir(Path::new(RUNC_ROOT), 0o700)?;
        let status = Command::new("runc")
            .arg("--root")
            .arg(RUNC_ROOT)
            .arg("--log")
            .arg(&runc_log)
            .args(["run", "--detach", "--pid-file"])
            .arg(&pid_file)
            .arg("--bundle")
            .arg(bundle)
            .arg(self.id)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .status()
            .tried("start", "runc (package runc)")?;
        if !status.success() {
            let mut said = tail(&runc_log);
            said.push_str(&tail(&log));
            return Err(EngineError::Program { doing: "start the engine", program: "runc", said });
        }
        let text = std::fs::read_to_string(&pid_file).tried("read", &pid_file)?;
        text.trim().parse().map_err(std::io::Error::other).tried("read", &pid_file)
    }

    /// What the engine's root filesystem has over its image.
    fn write_root(&self) -> Result<PathBuf, EngineError> {
        let root = self.folder.join("root");
        let etc = root.join("upper/etc");
        for (path, mode) in [(root.clone(), 0o755), (root.join("upper"), 0o755), (root.join("work"), 0o755)] {
            files::make_dir(&path, mode)?;
        }
        files::make_dir(&etc, 0o755)?;
        files::write(&etc.join("slipway"), self.keys, self.ca_file)?;
        files::write_file(&etc.join("resolv.conf"), 0o644, &network::resolv_conf())?;
        let hosts = format!("127.0.0.1 localhost\n::1 localhost\n{} {}\n", self.network.address, self.id);
        files::write_file(&etc.join("hosts"), 0o644, &hosts)?;
        Ok(root)
    }

    fn environment(&self) -> Vec<String> {
        let mut environment = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
        environment.extend(self.image.environment.iter().cloned());
        environment.extend(self.shape.environment.iter().map(|(key, value)| format!("{key}={value}")));
        environment
    }
}

/// What process 1 of an engine says.
pub(super) fn log_file(folder: &Path) -> PathBuf {
    folder.join("log")
}

/// The end of what an engine said, for people.
pub(super) fn last_words(folder: &Path) -> String {
    tail(&log_file(folder))
}

/// The last 4000 bytes of a text.
fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(4000)))?;
        let mut bytes = Vec::new();
        file.take(4000).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}
