//! Services: containers beside the job's, under GitLab's names, awaited but never fatal.

use super::container::{self, Shape};
use super::network::Network;
use super::{Error, Labels};
use crate::config::RunnerConfig;
use crate::trace::Trace;
use bollard::Docker;
use bollard::models::Mount;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;
use slipway_spec::job::Service;
use std::net::IpAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Ports of a service that are tried at most, lowest first (GitLab: 20).
const PORTS: usize = 20;
/// Between two tries of a port.
const RETRY: Duration = Duration::from_millis(100);
/// Longest log of a service in the trace, bytes (GitLab: 64 KiB).
const LOG: usize = 64 << 10;

/// A service that runs.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) container: String,
    pub(crate) image: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) ports: Vec<u16>,
}

/// Names of a service: those derived from the image (without tag, digest and the registry's port), then the user's.
/// Those in `taken` are left out and come back as second.
pub(crate) fn aliases(image: &str, user: &[String], taken: &[String]) -> (Vec<String>, Vec<String>) {
    let name = image.split('@').next().unwrap_or(image);
    let name = match name.rfind(':') {
        Some(at) if !name[at..].contains('/') => &name[..at],
        _ => name,
    };
    let name = match name.split_once('/') {
        Some((host, rest)) => format!("{}/{rest}", host.split(':').next().unwrap_or(host)),
        None => name.to_owned(),
    };
    let mut all = vec![name.replace('/', "__"), name.replace('/', "-")];
    all.extend(user.iter().flat_map(|a| a.split([',', ' '])).filter(|a| !a.is_empty()).map(str::to_owned));
    let (mut free, mut refused) = (Vec::new(), Vec::new());
    for alias in all {
        if taken.contains(&alias) {
            refused.push(alias);
        } else if !free.contains(&alias) {
            free.push(alias);
        }
    }
    (free, refused)
}

/// What every service of a job shares.
pub(crate) struct Ground<'a> {
    pub(crate) docker: &'a Docker,
    pub(crate) labels: &'a Labels,
    pub(crate) config: &'a RunnerConfig,
    pub(crate) network: &'a Network,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) extra_hosts: Vec<String>,
}

/// A service with its texts expanded.
pub(crate) struct Ready<'a> {
    pub(crate) service: &'a Service,
    pub(crate) aliases: Vec<String>,
    pub(crate) env: Vec<String>,
    /// From the image's EXPOSE, or `HEALTHCHECK_TCP_PORT`.
    pub(crate) ports: Vec<u16>,
    pub(crate) index: usize,
}

/// Starts a service.
///
/// # Errors
/// When Docker refuses: GitLab fails the job then.
pub(crate) async fn start(ground: &Ground<'_>, ready: Ready<'_>) -> Result<Running, Error> {
    let image = &ready.service.image;
    let shape = Shape {
        image: &image.name,
        entrypoint: image.entrypoint.as_deref(),
        command: ready.service.command.clone().filter(|c| !c.is_empty()),
        user: image.user.as_deref(),
        platform: image.platform.as_deref(),
        env: ready.env,
        working_dir: None,
        hostname: None,
        mounts: ground.mounts.clone(),
        network: Some(ground.network),
        aliases: ready.aliases.clone(),
        extra_hosts: ground.extra_hosts.clone(),
        role: "service",
        name: ground.labels.name(&format!("service-{}", ready.index)),
        limited: false,
    };
    let container = container::create(ground.docker, ground.labels, ground.config, shape).await?;
    container::start(ground.docker, ground.labels, &container, &image.name).await?;
    Ok(Running { container, image: image.name.clone(), aliases: ready.aliases, ports: ready.ports })
}

/// Ports of an image's EXPOSE (`80/tcp`), the lowest first; UDP cannot be asked.
pub(crate) fn exposed(ports: &[String]) -> Vec<u16> {
    let mut ports: Vec<u16> = ports.iter().filter_map(|p| p.strip_suffix("/tcp").unwrap_or(p).parse().ok()).collect();
    ports.sort_unstable();
    ports.truncate(PORTS);
    ports
}

/// Waits until a port of the service answers; says in the trace when none does. Never fatal.
pub(crate) async fn wait(docker: &Docker, service: &Running, network: &str, patience: Duration, trace: &Trace) {
    let why = match readiness(docker, service, network, patience).await {
        Ok(()) => return,
        Err(why) => why,
    };
    trace.warn(&format!(
        "Service {} probably didn't start properly.",
        service.aliases.first().unwrap_or(&service.image)
    ));
    trace.say(&format!("Health check error: {why}"));
    let log = tail(docker, &service.container).await;
    trace.say(&format!("Service container logs:\n{}", log.trim_end()));
    trace.say("*********");
}

async fn readiness(docker: &Docker, service: &Running, network: &str, patience: Duration) -> Result<(), String> {
    if service.ports.is_empty() {
        return Err(format!("service \"{}\" has no exposed ports", service.image));
    }
    let address = address(docker, &service.container, network)
        .await
        .ok_or_else(|| "its container has no address: it has ended".to_owned())?;
    let deadline = Instant::now() + patience;
    let tries = service.ports.iter().map(|&port| {
        Box::pin(async move {
            while TcpStream::connect((address, port)).await.is_err() {
                tokio::time::sleep(RETRY).await;
            }
        })
    });
    let ended = docker.wait_container(&service.container, None).boxed();
    tokio::select! {
        _ = futures_util::future::select_all(tries) => Ok(()),
        _ = ended.into_future() => Err("its container has ended".into()),
        () = tokio::time::sleep_until(deadline) => {
            let ports: Vec<String> = service.ports.iter().map(u16::to_string).collect();
            Err(format!("no port of {} ({}) answered within {} s", service.image, ports.join(", "), patience.as_secs()))
        }
    }
}

/// A container's address in a network.
pub(crate) async fn address(docker: &Docker, container: &str, network: &str) -> Option<IpAddr> {
    let settings = docker.inspect_container(container, None).await.ok()?.network_settings?;
    settings.networks?.get(network)?.ip_address.as_deref()?.parse().ok()
}

/// The last lines of a container's log.
pub(crate) async fn tail(docker: &Docker, container: &str) -> String {
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail("200").build();
    let mut frames = Box::pin(docker.logs(container, Some(options)));
    let mut text = Vec::new();
    while let Some(Ok(frame)) = frames.next().await {
        text.extend_from_slice(frame.as_ref());
    }
    let from = text.len().saturating_sub(LOG);
    String::from_utf8_lossy(&text[from..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_names_follow_gitlab() {
        let names = |image: &str, user: &[&str]| {
            let user: Vec<String> = user.iter().map(|u| (*u).to_owned()).collect();
            aliases(image, &user, &[]).0.join(" ")
        };
        assert_eq!(names("postgres:15", &[]), "postgres");
        assert_eq!(names("tutum/wordpress", &[]), "tutum__wordpress tutum-wordpress");
        assert_eq!(
            names("registry.example.com:5000/group/image:1", &["x,y z"]),
            "registry.example.com__group__image registry.example.com-group-image x y z"
        );
        assert_eq!(names("docker.io/postgres@sha256:00", &[]), "docker.io__postgres docker.io-postgres");
    }

    #[test]
    fn services_second_of_a_name_gets_what_is_left() {
        let (free, refused) = aliases("postgres:15", &["db".into()], &["postgres".into()]);
        assert_eq!((free, refused), (vec!["db".to_owned()], vec!["postgres".to_owned(), "postgres".to_owned()]));
    }

    #[test]
    fn services_ports_are_the_lowest_of_tcp() {
        let ports: Vec<String> = ["5432/tcp", "80/tcp", "53/udp", "443"].iter().map(|p| (*p).to_owned()).collect();
        assert_eq!(exposed(&ports), [80, 443, 5432]);
    }
}
