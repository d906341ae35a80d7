//! The `container` wall: an engine as a container of the host's Docker, for hosts that cannot hold `userns`.
//!
//! It is `--privileged` in all but name, and said to be so. Two things are better: the layers come as an overlay
//! without an upper folder, whose superblock cannot be made writable from inside (a read-only bind can), and no device
//! of the host is in it.

use super::error::{EngineError, Tried};
use super::launch::Launch;
use super::record::Process;
use super::{files, health, network, spaces};
use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, NetworkingConfig,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use futures_util::StreamExt;
use nix::mount::{MntFlags, MsFlags};
use std::collections::HashMap;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Files and mounts the container will want; what blocks is here.
pub(super) fn prepare(launch: &Launch<'_>) -> Result<(), EngineError> {
    let etc = launch.folder.join("etc");
    files::write(&etc, launch.keys, launch.ca_file)?;
    files::write_file(&etc.join("resolv.conf"), 0o644, &network::resolv_conf())?;
    if let Some(layers) = launch.layers {
        let (at, empty) = (layers_at(launch.folder), launch.folder.join("empty"));
        files::make_dir(&at, 0o755)?;
        files::make_dir(&empty, 0o755)?;
        let options = format!("lowerdir={}:{}", layers.display(), empty.display());
        nix::mount::mount(
            Some("layers"),
            &at,
            Some("overlay"),
            MsFlags::MS_RDONLY | MsFlags::MS_NODEV,
            Some(options.as_str()),
        )
        .tried("mount the layers on", &at)?;
        nix::mount::mount(None::<&str>, &at, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
            .tried("make private", &at)?;
    }
    Ok(())
}

fn layers_at(folder: &Path) -> PathBuf {
    folder.join("layers")
}

/// Undoes the one mount of [`prepare`] that the host sees.
pub(super) fn unmount(folder: &Path) {
    let at = layers_at(folder);
    if at.exists() {
        let _ = nix::mount::umount2(&at, MntFlags::MNT_DETACH);
    }
}

/// Makes the container; nothing of it runs yet.
pub(super) async fn create(
    docker: &Docker,
    launch: &Launch<'_>,
    reference: &str,
    labels: &HashMap<String, String>,
) -> Result<String, EngineError> {
    let etc = launch.folder.join("etc");
    let mut binds = vec![
        format!("{}:/var/lib/docker", launch.data.display()),
        format!("{}:{}:ro", etc.display(), super::shape::ETC),
        format!("{}:/etc/resolv.conf:ro", etc.join("resolv.conf").display()),
        "/sys/fs/cgroup:/sys/fs/cgroup:rw".to_owned(),
    ];
    if launch.layers.is_some() {
        binds.push(format!("{}:{}:ro", layers_at(launch.folder).display(), crate::layers::MOUNT));
    }
    let mut entrypoint = vec!["/bin/sh".to_owned(), format!("{}/init", super::shape::ETC)];
    entrypoint.extend(launch.shape.flags.iter().cloned());
    let environment = launch.shape.environment.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let added = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN"].map(str::to_owned).to_vec();
    let endpoint = EndpointSettings {
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: Some(launch.network.address.to_string()),
            ..EndpointIpamConfig::default()
        }),
        ..EndpointSettings::default()
    };
    let body = ContainerCreateBody {
        hostname: Some(launch.id.to_owned()),
        image: Some(reference.to_owned()),
        entrypoint: Some(entrypoint),
        cmd: Some(Vec::new()),
        env: Some(environment),
        labels: Some(labels.clone()),
        host_config: Some(HostConfig {
            binds: Some(binds),
            cap_add: Some(added),
            security_opt: Some(["seccomp=unconfined", "apparmor=unconfined"].map(str::to_owned).to_vec()),
            // `systempaths=unconfined` of the command line.
            masked_paths: Some(Vec::new()),
            readonly_paths: Some(Vec::new()),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::HOST),
            network_mode: Some(launch.network.id.clone()),
            tmpfs: Some(HashMap::from([("/run".to_owned(), "rw,exec,nosuid,mode=755,size=256m".to_owned())])),
            memory: launch.limits.memory_bytes.and_then(|b| i64::try_from(b).ok()),
            nano_cpus: launch.limits.cpus.map(|cpus| (cpus * 1e9) as i64),
            pids_limit: launch.limits.pids.and_then(|p| i64::try_from(p).ok()),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".into()),
                config: Some(HashMap::from([("max-size".into(), "8m".into()), ("max-file".into(), "1".into())])),
            }),
            ..HostConfig::default()
        }),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(launch.network.id.clone(), endpoint)])),
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(&container_name(launch.id)).build();
    let made = docker.create_container(Some(options), body).await;
    made.map(|made| made.id).map_err(failed("make the engine's container", launch.id))
}

/// The name of an engine's container on the host.
pub(super) fn container_name(id: &str) -> String {
    format!("slipway-engine-{id}")
}

/// Starts it; says its process 1 and a socket that listens on its plain port.
pub(super) async fn start(docker: &Docker, container: &str, id: &str) -> Result<(Process, TcpListener), EngineError> {
    let doing = "start the engine's container";
    docker.start_container(container, None).await.map_err(failed(doing, id))?;
    let found = docker.inspect_container(container, None).await.map_err(failed(doing, id))?;
    let pid = found.state.and_then(|s| s.pid).and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let Some(init) = pid.and_then(Process::of) else {
        let (how, log) = ("exited at once".to_owned(), log(docker, container).await);
        return Err(EngineError::NotReady { id: id.to_owned(), how, log });
    };
    let path = PathBuf::from(format!("/proc/{}/ns/net", init.pid));
    let net = File::open(&path).tried("open", &path)?;
    let plain = spaces::listen_in(net.as_fd(), health::PLAIN_PORT)?;
    Ok((init, plain))
}

/// Tells it to end and waits; Docker kills it after `grace`.
pub(super) async fn stop(docker: &Docker, container: &str, grace: Duration) {
    let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
    let options = StopContainerOptionsBuilder::default().t(seconds).build();
    let _ = docker.stop_container(container, Some(options)).await;
}

/// What its process 1 said, the last 4 MiB of it.
pub(super) async fn log(docker: &Docker, container: &str) -> String {
    const MOST: usize = 4 << 20;
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail("20000").build();
    let mut chunks = docker.logs(container, Some(options));
    let mut text = String::new();
    while let Some(Ok(chunk)) = chunks.next().await {
        text.push_str(&chunk.to_string());
        if text.len() > MOST {
            break;
        }
    }
    text
}

/// Removes a container of ours, running or not, and its anonymous volumes.
pub(super) async fn remove(docker: &Docker, container: &str) {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    let _ = docker.remove_container(container, Some(options)).await;
}

/// Makes a container that never runs, so that the service's image cannot be deleted while an engine lives on its
/// layers.
pub(super) async fn pin(
    docker: &Docker,
    id: &str,
    reference: &str,
    labels: &HashMap<String, String>,
) -> Result<String, EngineError> {
    let body = ContainerCreateBody {
        image: Some(reference.to_owned()),
        cmd: Some(vec!["never-started".into()]),
        network_disabled: Some(true),
        labels: Some(labels.clone()),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(&container_name(id)).build();
    let made = docker.create_container(Some(options), body).await;
    made.map(|made| made.id).map_err(failed("hold on to the service's image for", id))
}

fn failed<'a>(doing: &'static str, what: &'a str) -> impl Fn(bollard::errors::Error) -> EngineError + 'a {
    move |source| EngineError::Docker { doing, what: what.to_owned(), source }
}
