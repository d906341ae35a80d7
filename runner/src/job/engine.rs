//! Engines that services of the job are: lent by the node, given back after the job is over for everybody.

use super::Node;
use super::driver::Driver;
use super::state::Failure;
use super::variables::Environment;
use crate::engine::{Ending, EngineError, EngineRequest, Lent, NetworkFacts};
use crate::executor::network::Network;
use crate::layers::{Finishing, Reservation};
use bollard::models::ImageInspect;
use slipway_spec::job::Service;
use slipway_spec::outcome::{FailureReason, Outcome};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;

/// Where certificates are when the job does not say.
const CERTS: &str = "/certs";

/// A lending under way. Dropping the call would leave an engine behind, so it runs to its end in a task of its own.
pub(crate) type Lending = JoinHandle<Result<Lent, EngineError>>;

/// The engines of a job.
#[derive(Default)]
pub(crate) struct Engines {
    /// Being started.
    pub(crate) lending: Mutex<Vec<Lending>>,
    /// Lent.
    pub(crate) lent: Vec<Lent>,
    /// Disk that was promised to the job's builds.
    pub(crate) reservation: Option<Reservation>,
    /// Holds back later jobs of the pipeline until what this one built is stored.
    finishing: Vec<Finishing>,
}

/// Whether a service is a Docker engine: by its name, or by what it starts.
pub(crate) fn is_engine(service: &Service, image: &ImageInspect) -> bool {
    let name = service.image.name.rsplit('/').next().unwrap_or_default();
    let starts_one = |words: &[String]| words.first().is_some_and(|w| w.ends_with("dockerd-entrypoint.sh"));
    let entrypoint = image.config.as_ref().and_then(|c| c.entrypoint.as_deref()).unwrap_or_default();
    name.contains("dind") || starts_one(entrypoint)
}

/// What a Docker client in the job's container is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// `KEY=value` that the job has not set itself.
    pub(crate) env: Vec<String>,
    /// Where the certificates are mounted, for a job that speaks TLS. Not for one that does not: an image's entrypoint
    /// that finds certificates speaks TLS even to port 2375.
    pub(crate) certs: Option<String>,
}

/// What a client needs to reach the engine called `name`, whatever the job's variables say about ports and TLS.
pub(crate) fn client(environment: &Environment, name: &str) -> Client {
    let get = |key: &str| environment.get(key).filter(|v| !v.is_empty());
    let (host, path) = (get("DOCKER_HOST"), get("DOCKER_CERT_PATH"));
    let tls = get("DOCKER_TLS_VERIFY").is_some() || path.is_some() || host.is_some_and(|h| h.ends_with(":2376"));
    let mut env = Vec::new();
    if host.is_none() {
        env.push(format!("DOCKER_HOST=tcp://{name}:{}", if tls { 2376 } else { 2375 }));
    }
    if !tls {
        return Client { env, certs: None };
    }
    let at = path.and_then(|p| p.trim_end_matches('/').strip_suffix("/client")).or(get("DOCKER_TLS_CERTDIR"));
    let at = at.filter(|p| p.starts_with('/')).unwrap_or(CERTS).to_owned();
    if path.is_none() {
        env.push(format!("DOCKER_CERT_PATH={at}/client"));
    }
    if get("DOCKER_TLS_VERIFY").is_none() {
        env.push("DOCKER_TLS_VERIFY=1".into());
    }
    Client { env, certs: Some(at) }
}

/// What an engine of a job is asked for.
pub(crate) struct Ask<'a> {
    pub(crate) service: &'a Service,
    pub(crate) names: Vec<String>,
    pub(crate) index: u8,
    pub(crate) network: &'a Network,
}

/// Asks for an engine. The call comes back when it answers.
///
/// # Errors
/// Whose fault it was.
pub(crate) async fn lend(driver: &Driver, ask: Ask<'_>) -> Result<(), Failure> {
    let Some(lender) = driver.node.lender.clone() else {
        return Err(Failure {
            reason: FailureReason::RunnerUnsupported,
            exit_code: None,
            message: format!("this node lends no engines, and {} is one", ask.service.image.name),
        });
    };
    let spec = &driver.spec;
    let pairs = driver.environment.of_service(&ask.service.variables);
    let environment =
        pairs.iter().filter_map(|p| p.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let request = EngineRequest {
        project: spec.project,
        job_name: spec.name.clone(),
        tier: spec.tier,
        read_protected: false,
        job: spec.id,
        pipeline: spec.pipeline,
        fence: driver.record.fence,
        commit: spec.source.sha.clone(),
        index: ask.index,
        image: ask.service.image.name.clone(),
        command: ask.service.command.clone(),
        environment,
        names: ask.names,
        network: NetworkFacts {
            id: ask.network.id.clone(),
            bridge: ask.network.bridge.clone(),
            address: ask.network.subnet.engine(ask.index),
            prefix: 24,
            gateway: ask.network.subnet.gateway(),
            mtu: ask.network.mtu,
        },
    };
    let lending = tokio::spawn(async move { lender.lend(request).await });
    driver.engines.lending.lock().unwrap_or_else(PoisonError::into_inner).push(lending);
    Ok(())
}

/// Waits for the engines that were asked for; each answers when this comes back.
///
/// # Errors
/// The first that did not start: the node's fault, with the engine's last words.
pub(crate) async fn await_all(driver: &mut Driver) -> Result<(), Failure> {
    let mut first = Ok(());
    loop {
        let next = driver.engines.lending.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(lending) = next else { break };
        match taken(lending).await {
            Ok(lent) => {
                driver.trace.say(&lent.line());
                for note in &lent.notes {
                    driver.trace.warn(note);
                }
                let receipt = &mut driver.record.receipt;
                #[allow(clippy::cast_precision_loss)]
                let seconds = lent.ready_ms as f64 / 1000.0;
                receipt.engine_seconds = Some(receipt.engine_seconds.map_or(seconds, |s| s.max(seconds)));
                receipt.generation = receipt.generation.take().or_else(|| lent.generation.clone());
                if let Err(e) = copy_certificates(&lent.tls_dir, &driver.folder.certs()) {
                    first = first.and(Err(Failure::system(format!("cannot give the job its certificates: {e}"))));
                }
                driver.engines.lent.push(lent);
            }
            Err(why) => first = first.and(Err(Failure::system(why))),
        }
    }
    first
}

async fn taken(lending: Lending) -> Result<Lent, String> {
    match lending.await {
        Ok(Ok(lent)) => Ok(lent),
        Ok(Err(e)) => Err(e.to_string()),
        Err(e) => Err(format!("the engine's start was broken off: {e}")),
    }
}

/// `client/{ca,cert,key}.pem`, readable by the image's user.
fn copy_certificates(from: &Path, to: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let (from, to) = (from.join("client"), to.join("client"));
    std::fs::create_dir_all(&to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        std::fs::copy(entry.path(), &target)?;
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Tells later jobs of the pipeline that something is on its way; before `finished` is said.
pub(crate) fn announce(driver: &mut Driver, outcome: &Outcome) {
    if keeps(outcome) && driver.engines.finishing.is_empty() {
        driver.engines.finishing = driver.engines.lent.iter().map(Lent::finishing).collect();
    }
}

/// Whether what the job built is worth keeping: it came to its own end.
fn keeps(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Success => true,
        Outcome::Failed { reason, .. } => *reason == FailureReason::ScriptFailure,
        Outcome::Canceled => false,
    }
}

/// Gives every engine back: what it built is kept when the job came to its own end and was reported.
pub(crate) async fn give_back(driver: &mut Driver, outcome: Option<&Outcome>) {
    let left = std::mem::take(&mut *driver.engines.lending.lock().unwrap_or_else(PoisonError::into_inner));
    for lending in left {
        if let Ok(lent) = taken(lending).await {
            lent.give_back(Ending::Discard).await;
        }
    }
    let build_seconds = driver.record.receipt.script_seconds;
    let keep = outcome.is_some_and(keeps);
    let any = !driver.engines.lent.is_empty();
    for lent in driver.engines.lent.drain(..) {
        let ending = if keep { Ending::Keep { build_seconds } } else { Ending::Discard };
        let returned = lent.give_back(ending).await;
        tracing::info!(job = %driver.spec.id, "{returned}");
    }
    driver.engines.finishing.clear();
    driver.engines.reservation = None;
    if any {
        refresh(&driver.node).await;
    }
}

/// Reads what the store holds, for the next report.
pub(crate) async fn refresh(node: &Arc<Node>) {
    let Some(store) = node.store.clone() else { return };
    let read = tokio::task::spawn_blocking(move || (store.generations(), store.bytes()));
    if let Ok((Ok(generations), bytes)) = read.await {
        node.holdings.send_replace((slipway_wire::document::encode(&generations), bytes.unwrap_or(0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_spec::variable::Variable;

    fn of(variables: &[(&str, &str)]) -> Client {
        client(&Environment::test(variables.iter().map(|(k, v)| Variable::public(*k, *v)).collect()), "docker")
    }

    #[test]
    fn engine_client_without_a_word_about_tls_gets_the_plain_port_and_no_certificates() {
        let plain = Client { env: vec!["DOCKER_HOST=tcp://docker:2375".into()], certs: None };
        assert_eq!(of(&[]), plain);
        assert_eq!(of(&[("DOCKER_TLS_CERTDIR", "/certs")]), plain);
        assert_eq!(of(&[("DOCKER_HOST", "tcp://docker:2375")]), Client { env: vec![], certs: None });
    }

    #[test]
    fn engine_client_with_tls_gets_certificates_where_it_looks_for_them() {
        let all = [
            ("DOCKER_HOST", "tcp://docker:2376"),
            ("DOCKER_TLS_VERIFY", "1"),
            ("DOCKER_TLS_CERTDIR", "/tls"),
            ("DOCKER_CERT_PATH", "/tls/client"),
        ];
        assert_eq!(of(&all), Client { env: vec![], certs: Some("/tls".into()) });
        assert_eq!(
            of(&all[..1]),
            Client {
                env: vec!["DOCKER_CERT_PATH=/certs/client".into(), "DOCKER_TLS_VERIFY=1".into()],
                certs: Some("/certs".into())
            }
        );
    }
}
