//! The job's container: made and started while the sources are fetched, waiting at its gate; one for all steps.

use super::network::Network;
use super::script::{self, CONTROL, GATE};
use super::{Error, LABEL_ROLE, Labels, status};
use crate::config::RunnerConfig;
use bollard::Docker;
use bollard::exec::StartExecOptions;
use bollard::models::{
    ContainerCreateBody, EndpointSettings, ExecConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
    NetworkingConfig,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest log of a container: beyond it the oldest output is dropped by Docker, long after the trace's own limit.
const LOG_MAX: &str = "64g";

/// How long one `kill -1` in a container may take.
const EXEC: Duration = Duration::from_secs(10);

/// What a container is made of.
pub(crate) struct Shape<'a> {
    pub(crate) image: &'a str,
    pub(crate) entrypoint: Option<&'a [String]>,
    pub(crate) command: Option<Vec<String>>,
    pub(crate) user: Option<&'a str>,
    pub(crate) platform: Option<&'a str>,
    pub(crate) env: Vec<String>,
    pub(crate) working_dir: Option<&'a str>,
    pub(crate) hostname: Option<String>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) network: Option<&'a Network>,
    pub(crate) aliases: Vec<String>,
    pub(crate) extra_hosts: Vec<String>,
    pub(crate) role: &'a str,
    pub(crate) name: String,
    pub(crate) limited: bool,
}

/// A bind of a folder of the node.
pub(crate) fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

/// The node's further binds, `/host:/container[:ro]`.
pub(crate) fn configured_binds(volumes: &[String]) -> Vec<Mount> {
    let mount = |text: &String| {
        let mut parts = text.split(':');
        let (source, target) = (parts.next()?, parts.next()?);
        Some(bind(Path::new(source), target, parts.next() == Some("ro")))
    };
    volumes.iter().filter_map(mount).collect()
}

/// Makes a container; it is not started.
///
/// # Errors
/// When Docker refuses.
pub(crate) async fn create(
    docker: &Docker,
    labels: &Labels,
    config: &RunnerConfig,
    shape: Shape<'_>,
) -> Result<String, Error> {
    let mut map = labels.map();
    map.insert(LABEL_ROLE.to_owned(), shape.role.to_owned());
    let limit = |n: Option<u64>| n.filter(|_| shape.limited).and_then(|n| i64::try_from(n).ok());
    let memory = limit(config.memory_bytes);
    #[allow(clippy::cast_possible_truncation)]
    let nano_cpus = config.cpus.filter(|_| shape.limited).map(|n| (n * 1e9) as i64);
    let log = [("max-size", LOG_MAX), ("max-file", "1"), ("compress", "false")];
    let log = log.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let host = HostConfig {
        mounts: Some(shape.mounts),
        extra_hosts: Some(shape.extra_hosts).filter(|h| !h.is_empty()),
        network_mode: Some(shape.network.map_or_else(|| "bridge".to_owned(), |n| n.name.clone())),
        // The trace is read from it, whatever the node's default is. `local` keeps bytes as they are, where `json-file`
        // replaces what is no UTF-8, half characters at the end of its 16 KiB pieces too.
        log_config: Some(HostConfigLogConfig { typ: Some("local".into()), config: Some(log) }),
        memory,
        memory_swap: memory,
        nano_cpus,
        pids_limit: config.pids.filter(|_| shape.limited),
        shm_size: config.shm_bytes.and_then(|n| i64::try_from(n).ok()),
        ..HostConfig::default()
    };
    let networking = shape.network.map(|n| NetworkingConfig {
        endpoints_config: Some(HashMap::from([(
            n.name.clone(),
            EndpointSettings { aliases: Some(shape.aliases.clone()), ..EndpointSettings::default() },
        )])),
    });
    let body = ContainerCreateBody {
        image: Some(shape.image.to_owned()),
        entrypoint: shape.entrypoint.filter(|e| !e.is_empty()).map(<[String]>::to_vec),
        cmd: shape.command,
        user: shape.user.map(str::to_owned),
        env: Some(shape.env),
        working_dir: shape.working_dir.map(str::to_owned),
        hostname: shape.hostname,
        labels: Some(map),
        host_config: Some(host),
        networking_config: networking,
        ..ContainerCreateBody::default()
    };
    let mut options = CreateContainerOptionsBuilder::default().name(&shape.name);
    if let Some(platform) = shape.platform {
        options = options.platform(platform);
    }
    let options = options.build();
    let docker = docker.clone();
    let name = shape.name.clone();
    let made = labels.make(async move {
        match docker.create_container(Some(options.clone()), body.clone()).await {
            // Left behind by a runner that was killed: the name is the job's alone.
            Err(e) if status(&e) == Some(409) => {
                super::remove_container(&docker, &name).await;
                docker.create_container(Some(options), body).await
            }
            other => other,
        }
    });
    made.await.map(|m| m.id).map_err(|e| Error::docker("make the container", &shape.name, e))
}

/// Starts a container.
///
/// # Errors
/// [`Error::Job`] when the image lacks what was to run or its user; else what Docker says.
pub(crate) async fn start(docker: &Docker, labels: &Labels, container: &str, image: &str) -> Result<(), Error> {
    let (docker, id) = (docker.clone(), container.to_owned());
    let started = labels.make(async move { docker.start_container(&id, None).await });
    started.await.map_err(|e| {
        let text = e.to_string();
        let own = [
            "executable file not found",
            "no such file or directory",
            "unable to find user",
            "permission denied",
            "argument list too long",
        ];
        if status(&e) == Some(400) || own.iter().any(|word| text.contains(word)) {
            Error::Job(format!("cannot start a shell in image {image}: {text}"))
        } else {
            Error::docker("start the container of image", image, e)
        }
    })
}

/// The folder of the gate and the scripts.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    gate: File,
}

impl Control {
    /// Makes the folder, or opens one that is there.
    ///
    /// # Errors
    /// When the file system refuses, or something that is no fifo is in the gate's place.
    pub(crate) fn open(path: &Path) -> Result<Control, Error> {
        let gate = path.join(GATE);
        let fault = |e| Error::file("make the gate", &gate, e);
        std::fs::create_dir_all(path).map_err(fault)?;
        match nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::from_bits_truncate(0o644)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(e) => return Err(fault(e.into())),
        }
        // Read and write: opening does not wait for the container, and what is written stays until it reads.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits() | nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(&gate)
            .map_err(fault)?;
        if !file.metadata().map_err(fault)?.file_type().is_fifo() {
            return Err(fault(std::io::ErrorKind::InvalidInput.into()));
        }
        Ok(Control { path: path.to_owned(), gate: file })
    }

    /// Its path on the node.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a step's file.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        std::fs::write(&path, text).map_err(|e| Error::file("write the script", &path, e))
    }

    /// Lets the launcher run a step.
    ///
    /// # Errors
    /// When the gate is gone.
    pub(crate) fn open_gate(&self, number: u32, name: &str) -> Result<(), Error> {
        let line = format!("{number} {name}\n");
        (&self.gate).write_all(line.as_bytes()).map_err(|e| Error::file("open the gate", &self.path, e))
    }
}

/// The job container's command and binds.
pub(crate) fn job_command(nonce: &str) -> Vec<String> {
    vec!["sh".into(), "-c".into(), script::launcher(nonce)]
}

/// The bind of the control folder.
pub(crate) fn control_bind(control: &Control) -> Mount {
    bind(control.path(), CONTROL, true)
}

/// What Docker knows of a container that has stopped, or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) running: bool,
    pub(crate) exit_code: i64,
    pub(crate) oom_killed: bool,
    pub(crate) pid: i64,
}

/// A container's condition; `None` when it is gone.
pub(crate) async fn condition(docker: &Docker, container: &str) -> Option<Condition> {
    let state = docker.inspect_container(container, None).await.ok()?.state?;
    Some(Condition {
        running: state.running.unwrap_or(false),
        exit_code: state.exit_code.unwrap_or(0),
        oom_killed: state.oom_killed.unwrap_or(false),
        pid: state.pid.unwrap_or(0),
    })
}

/// SIGTERM to every process of the container but its first.
pub(crate) async fn terminate(docker: &Docker, container: &str) -> Result<(), Error> {
    let fault = |e| Error::docker("end the script in container", container, e);
    let config = ExecConfig {
        cmd: Some(vec!["sh".into(), "-c".into(), "kill -TERM -1".into()]),
        user: Some("0".into()),
        ..ExecConfig::default()
    };
    let run = async {
        let exec = docker.create_exec(container, config).await.map_err(fault)?;
        let options = StartExecOptions { detach: true, ..StartExecOptions::default() };
        docker.start_exec(&exec.id, Some(options)).await.map(drop).map_err(fault)
    };
    tokio::time::timeout(EXEC, run).await.unwrap_or(Ok(()))
}

/// Kills a container and waits until it is down.
pub(crate) async fn kill(docker: &Docker, container: &str) {
    let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
    if docker.kill_container(container, Some(options)).await.is_ok() {
        stopped(docker, container).await;
    }
}

/// Waits until a container is down, or gone; not for ever. Whether it is. Its log ends a little before Docker knows.
pub(crate) async fn stopped(docker: &Docker, container: &str) -> bool {
    let stopped = WaitContainerOptionsBuilder::default().condition("not-running").build();
    let mut wait = Box::pin(docker.wait_container(container, Some(stopped)));
    if tokio::time::timeout(EXEC, wait.next()).await.is_ok() {
        return condition(docker, container).await.is_none_or(|c| !c.running);
    }
    false
}
