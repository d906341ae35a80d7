//! Everything the script needs: containers on one side, sources on the other, at the same time.

use super::driver::{Driver, now};
use super::engine::{self, Ask};
use super::record::Folder;
use super::sources::{self, Tree};
use super::state::{Event, Failure};
use crate::executor::container::{self, Control, Shape};
use crate::executor::credentials::Source;
use crate::executor::network::{self, Network};
use crate::executor::pull::{self, Puller, Wanted};
use crate::executor::services::{self, Ground, Ready, Running};
use crate::executor::{Error, credentials};
use crate::layers::Reservation;
use crate::receipt::Meter;
use bollard::models::{ImageInspect, Mount};
use slipway_spec::job::{Image, JobSpec, Service};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Prepares a job.
pub(crate) async fn run(driver: &mut Driver) -> Event {
    if let Some(failure) = driver.fault.take() {
        return Event::Unprepared { failure, sources: false };
    }
    driver.trace.section("prepare_executor", "Preparing the \"docker\" executor", now());
    let begun = Instant::now();
    let prepared = prepare(driver).await;
    driver.record.receipt.prepare_seconds = begun.elapsed().as_secs_f64();
    let (made, tree) = match prepared {
        Ok(both) => both,
        Err(failure) => return Event::Unprepared { failure, sources: false },
    };
    driver.record.engines = made.engines;
    driver.engines.reservation = made.reservation;
    if let Err(failure) = engine::await_all(driver).await {
        return Event::Unprepared { failure, sources: false };
    }
    driver.trace.section_end(now());
    driver.trace.section("get_sources", "Getting source from Git repository", now());
    for line in &tree.lines {
        driver.trace.say(line);
    }
    driver.trace.section_end(now());
    driver.record.receipt.sources_seconds = tree.took.as_secs_f64();
    driver.record.receipt.prepare_seconds = made.took.as_secs_f64();
    driver.record.container = Some(made.container);
    driver.record.image = made.image;
    driver.network = made.network;
    driver.services = made.services;
    driver.control = Some(made.control);
    driver.meter = made.meter;
    driver.record.sources = Some(tree.sources);
    driver.up = true;
    match super::bring_in::run(driver).await {
        Ok(()) => Event::Prepared,
        Err(failure) => Event::Unprepared { failure, sources: true },
    }
}

/// What the containers' side made.
struct Made {
    container: String,
    image: String,
    network: Option<Network>,
    services: Vec<Running>,
    control: Control,
    meter: Option<Meter>,
    engines: u8,
    reservation: Option<Reservation>,
    took: Duration,
}

/// What the job's container gets of its engines.
#[derive(Clone, Default)]
struct Extras {
    mounts: Vec<Mount>,
    hosts: Vec<String>,
    env: Vec<String>,
}

async fn prepare(driver: &Driver) -> Result<(Made, Tree), Failure> {
    let fault = |e: std::io::Error| Failure::system(format!("cannot lay out the job's folder: {e}"));
    sources::lay_out(driver).map_err(fault)?;
    let recorded = async {
        let (folder, spec): (Folder, JobSpec) = (driver.folder.clone(), JobSpec::clone(&driver.spec));
        let spec = tokio::task::spawn_blocking(move || folder.save_spec(&spec));
        spec.await.map_err(std::io::Error::other).and_then(|r| r).map_err(fault)?;
        driver.save().await.map_err(fault)
    };
    let containers = containers(driver);
    let ((made, mut extras), tree, ()) = tokio::try_join!(containers, sources::fetch(driver), recorded)?;
    if tree.sources.mounts.is_empty() {
        return Ok((made, tree));
    }
    // Objects that are borrowed from the mirror must be seen by the container: it is made again with them.
    crate::executor::remove_container(&driver.node.docker, &made.container).await;
    extras.mounts.extend(tree.sources.mounts.iter().map(|m| container::bind(m, &m.display().to_string(), true)));
    let image = Image { name: made.image.clone(), ..expanded(driver, driver.spec.image.clone().unwrap_or_default()) };
    let again = job_container(driver, &image, made.network.as_ref(), &made.control, extras);
    let (container, meter) = again.await.map_err(|e| e.failure())?;
    Ok((Made { container, meter, ..made }, tree))
}

async fn containers(driver: &Driver) -> Result<(Made, Extras), Failure> {
    let begun = Instant::now();
    let (node, config) = (&driver.node, &driver.node.config);
    let fault = |e: Error| e.failure();
    let image = asked_image(driver).map_err(fault)?;
    let services = asked_services(driver).map_err(fault)?;
    let control = Control::open(&driver.folder.control()).map_err(fault)?;
    let puller = Puller {
        docker: &node.docker,
        trace: &driver.trace,
        sources: login_sources(driver).map_err(fault)?,
        default_policy: &config.pull_policy,
        allowed_policies: &config.allowed_pull_policies,
        done: Mutex::default(),
    };
    let network = async {
        if services.is_empty() {
            return Ok(None);
        }
        network::create(&node.docker, &driver.labels, node.pool, driver.spec.id.0, config.network_mtu).await.map(Some)
    };
    let found = async {
        let found = puller.get(&wanted(&image)).await?;
        let mut images = Vec::new();
        for service in &services {
            images.push(puller.get(&wanted(&service.image)).await?);
        }
        Ok((found, images))
    };
    let (network, (found, images)) = tokio::try_join!(network, found).map_err(fault)?;
    let id = found.id.unwrap_or_default();
    let digest = found.repo_digests.and_then(|d| d.into_iter().next());
    driver.trace.say(&format!(
        "Using docker image {id} for {}{} ...",
        image.name,
        digest.map(|d| format!(" with digest {d}")).unwrap_or_default()
    ));
    let (beside, engines) = sort_services(driver, &services, images);
    let reservation = reserve(driver, engines.len()).await?;
    let mut extras = Extras::default();
    if let Some(network) = &network {
        extras = lend(driver, network, &engines).await?;
    }
    let job = job_container(driver, &image, network.as_ref(), &control, extras.clone());
    let beside = start_services(driver, network.as_ref(), beside, extras.hosts.clone());
    let ((container, meter), running) = tokio::try_join!(job, beside).map_err(fault)?;
    let made = Made {
        container,
        image: image.name,
        network,
        services: running,
        control,
        meter,
        engines: u8::try_from(engines.len()).unwrap_or(u8::MAX),
        reservation,
        took: begun.elapsed(),
    };
    Ok((made, extras))
}

/// A service with its names.
struct Named<'a> {
    service: &'a Service,
    aliases: Vec<String>,
    image: ImageInspect,
    index: usize,
}

/// Gives names, in the services' order; engines come second.
fn sort_services<'a>(
    driver: &Driver,
    services: &'a [Service],
    images: Vec<ImageInspect>,
) -> (Vec<Named<'a>>, Vec<Named<'a>>) {
    let mut taken = vec!["build".to_owned()];
    let (mut plain, mut engines) = (Vec::new(), Vec::new());
    for (index, (service, image)) in services.iter().zip(images).enumerate() {
        let (aliases, refused) = services::aliases(&service.image.name, &service.aliases, &taken);
        for alias in refused {
            driver.trace.warn(&format!("Service {} will not have the name {alias}: it is taken.", service.image.name));
        }
        if aliases.is_empty() {
            driver.trace.warn(&format!("Service {} is already created. Ignoring.", service.image.name));
            continue;
        }
        taken.extend(aliases.iter().cloned());
        let is_engine = engine::is_engine(service, &image);
        let named = Named { service, aliases, image, index };
        if is_engine { engines.push(named) } else { plain.push(named) }
    }
    (plain, engines)
}

/// Disk for the builds of a job with engines.
async fn reserve(driver: &Driver, engines: usize) -> Result<Option<Reservation>, Failure> {
    let (Some(store), true) = (driver.node.store.clone(), engines > 0) else { return Ok(None) };
    let bytes = driver.node.config.build_disk_bytes;
    match tokio::task::spawn_blocking(move || store.reserve(bytes)).await {
        Ok(Ok(reservation)) => Ok(Some(reservation)),
        Ok(Err(refused)) => Err(Failure::system(refused.to_string())),
        Err(e) => Err(Failure::system(format!("cannot reserve disk for the build: {e}"))),
    }
}

/// Asks for the engines, and says what the job's container gets of them.
async fn lend(driver: &Driver, network: &Network, engines: &[Named<'_>]) -> Result<Extras, Failure> {
    let mut extras = Extras::default();
    for (index, named) in (0_u8..).zip(engines) {
        driver.trace.say(&format!("Starting engine {} ...", named.service.image.name));
        let address = network.subnet.engine(index);
        extras.hosts.extend(named.aliases.iter().map(|name| format!("{name}:{address}")));
        let ask = Ask { service: named.service, names: named.aliases.clone(), index, network };
        engine::lend(driver, ask).await?;
    }
    if let Some(first) = engines.first() {
        let client = engine::client(&driver.environment, first.aliases.first().map_or("docker", String::as_str));
        extras.env = client.env;
        if let Some(at) = client.certs {
            let certs = driver.folder.certs();
            std::fs::create_dir_all(&certs)
                .map_err(|e| Failure::system(format!("cannot make {}: {e}", certs.display())))?;
            extras.mounts.push(container::bind(&certs, &at, true));
        }
    }
    Ok(extras)
}

async fn job_container(
    driver: &Driver,
    image: &Image,
    network: Option<&Network>,
    control: &Control,
    extras: Extras,
) -> Result<(String, Option<Meter>), Error> {
    let (node, config) = (&driver.node, &driver.node.config);
    let Extras { mut mounts, hosts: mut extra_hosts, env: more } = extras;
    let mut env = driver.environment.all();
    env.extend(more);
    mounts.push(container::control_bind(control));
    mounts.push(builds_bind(driver));
    mounts.extend(container::configured_binds(&config.volumes));
    extra_hosts.extend(config.extra_hosts.iter().cloned());
    let shape = Shape {
        image: &image.name,
        entrypoint: image.entrypoint.as_deref(),
        command: Some(container::job_command(&driver.record.nonce)),
        user: config.user.as_deref().or(image.user.as_deref()).filter(|u| !u.is_empty()),
        platform: image.platform.as_deref(),
        env,
        working_dir: Some(&driver.environment.project_dir),
        hostname: Some(format!("slipway-job-{}", driver.spec.id)),
        mounts,
        network,
        aliases: vec!["build".into()],
        extra_hosts,
        role: "job",
        name: driver.labels.name("job"),
        limited: true,
    };
    let container = container::create(&node.docker, &driver.labels, config, shape).await?;
    container::start(&node.docker, &driver.labels, &container, &image.name).await?;
    let meter = Meter::of(&node.docker, &container).await;
    Ok((container, meter))
}

/// The work trees' bind.
fn builds_bind(driver: &Driver) -> Mount {
    container::bind(&driver.folder.builds(), super::variables::BUILDS, false)
}

async fn start_services(
    driver: &Driver,
    network: Option<&Network>,
    services: Vec<Named<'_>>,
    mut extra_hosts: Vec<String>,
) -> Result<Vec<Running>, Error> {
    let Some(network) = network else { return Ok(Vec::new()) };
    let (node, config) = (&driver.node, &driver.node.config);
    extra_hosts.extend(config.extra_hosts.iter().cloned());
    let mounts = vec![builds_bind(driver)];
    let ground = Ground { docker: &node.docker, labels: &driver.labels, config, network, mounts, extra_hosts };
    let mut running = Vec::new();
    for Named { service, aliases, image, index } in services {
        driver.trace.say(&format!("Starting service {} ...", service.image.name));
        let env = driver.environment.of_service(&service.variables);
        let exposed = image.config.and_then(|c| c.exposed_ports).unwrap_or_default();
        let port = service.variables.iter().rev().find(|v| v.key == "HEALTHCHECK_TCP_PORT");
        let port = port.map(|v| driver.environment.expand(&v.value)).and_then(|v| v.parse().ok());
        let ports = port.map_or_else(|| services::exposed(&exposed), |port| vec![port]);
        running.push(services::start(&ground, Ready { service, aliases, env, ports, index }).await?);
    }
    if let (Ok(patience), false) = (u64::try_from(config.services_wait_seconds), running.is_empty()) {
        driver.trace.say("Waiting for services to be up and running...");
        let patience = Duration::from_secs(patience);
        let waits = running.iter().map(|s| services::wait(&node.docker, s, &network.name, patience, &driver.trace));
        futures_util::future::join_all(waits).await;
    }
    Ok(running)
}

fn wanted(image: &Image) -> Wanted<'_> {
    Wanted { image: &image.name, policy: &image.pull_policy, platform: image.platform.as_deref() }
}

/// The job's image, expanded and allowed.
fn asked_image(driver: &Driver) -> Result<Image, Error> {
    let config = &driver.node.config;
    let default = || config.default_image.clone().map(|name| Image { name, ..Image::default() });
    let Some(image) = driver.spec.image.clone().filter(|i| !i.name.is_empty()).or_else(default) else {
        return Err(Error::Job("the job names no image, and the node has no `default_image`".into()));
    };
    let image = expanded(driver, image);
    if config.default_image.as_ref() != Some(&image.name) {
        pull::check_allowed(&image.name, &config.allowed_images, "allowed_images")?;
    }
    Ok(image)
}

fn asked_services(driver: &Driver) -> Result<Vec<Service>, Error> {
    let mut services = Vec::new();
    for service in &driver.spec.services {
        let mut service = service.clone();
        service.image = expanded(driver, service.image);
        service.command = service.command.map(|c| c.iter().map(|w| driver.environment.expand(w)).collect());
        service.aliases = service.aliases.iter().map(|a| driver.environment.expand(a)).collect();
        pull::check_allowed(&service.image.name, &driver.node.config.allowed_services, "allowed_services")?;
        services.push(service);
    }
    Ok(services)
}

fn expanded(driver: &Driver, image: Image) -> Image {
    let expand = |text: &String| driver.environment.expand(text);
    Image {
        name: expand(&image.name).trim().to_owned(),
        entrypoint: image.entrypoint.map(|e| e.iter().map(expand).collect()),
        user: image.user.as_ref().map(expand),
        platform: image.platform.as_ref().map(expand),
        pull_policy: image.pull_policy,
    }
}

/// Who is asked for logins, in order.
fn login_sources(driver: &Driver) -> Result<Vec<Source>, Error> {
    let mut sources = Vec::new();
    if let Some(text) = driver.environment.get("DOCKER_AUTH_CONFIG").filter(|t| !t.is_empty()) {
        let source = credentials::Source::docker_config("$DOCKER_AUTH_CONFIG", text).map_err(Error::Job)?;
        sources.push(source);
    }
    if let Some(path) = &driver.node.config.docker_config {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file("read the node's logins in", path, e))?;
        let source = credentials::Source::docker_config("the node's docker_config", &text);
        sources.push(source.map_err(|why| Error::file("read", path, std::io::Error::other(why)))?);
    }
    sources.push(credentials::Source::job(&driver.spec.credentials));
    Ok(sources)
}
