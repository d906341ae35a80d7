//! Images by policy, each at most once a job, with the first login that a source has for the registry.

use super::credentials::{Found, Source};
use super::{Error, status};
use crate::trace::Trace;
use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use slipway_spec::glob::Doublestar;
use slipway_spec::job::{Login, PullPolicy};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Tries of a pull that fails by the network (GitLab: 3).
const TRIES: u32 = 3;
/// Wait between them.
const WAIT: Duration = Duration::from_secs(2);

/// The images of one job.
pub(crate) struct Puller<'a> {
    pub(crate) docker: &'a Docker,
    pub(crate) trace: &'a Trace,
    /// In the order in which they are asked.
    pub(crate) sources: Vec<Source>,
    pub(crate) default_policy: &'a [PullPolicy],
    pub(crate) allowed_policies: &'a [PullPolicy],
    /// What this job has pulled already.
    pub(crate) done: Mutex<HashMap<String, ImageInspect>>,
}

/// An image that a job asks for.
pub(crate) struct Wanted<'a> {
    pub(crate) image: &'a str,
    pub(crate) policy: &'a [PullPolicy],
    pub(crate) platform: Option<&'a str>,
}

/// Whether an image is on a list of globs; an empty list has all.
///
/// # Errors
/// Names the list.
pub(crate) fn check_allowed(image: &str, globs: &[String], key: &str) -> Result<(), Error> {
    if globs.is_empty() || globs.iter().any(|g| Doublestar::new(g).is_ok_and(|g| g.matches(image))) {
        return Ok(());
    }
    Err(Error::NotAllowed(format!(
        "the image \"{image}\" is not present on list of allowed images; `{key}` of this node has: {}",
        globs.join(", ")
    )))
}

impl Puller<'_> {
    /// The image, pulled when the policy says so.
    ///
    /// # Errors
    /// When no policy gave it; the reason names each.
    pub(crate) async fn get(&self, wanted: &Wanted<'_>) -> Result<ImageInspect, Error> {
        let image = wanted.image;
        if let Some(found) = self.lock().get(image) {
            return Ok(found.clone());
        }
        let policies = self.policies(wanted.policy)?;
        let mut faults = Vec::new();
        for policy in &policies {
            let got = match policy {
                PullPolicy::Never => self.local(image).await.ok_or_else(|| "the node does not have it".to_owned()),
                PullPolicy::IfNotPresent => match self.local(image).await {
                    Some(found) => Ok(found),
                    None => self.pull(wanted).await,
                },
                PullPolicy::Always => self.pull(wanted).await,
            };
            match got {
                Ok(found) => {
                    self.lock().insert(image.to_owned(), found.clone());
                    return Ok(found);
                }
                Err(why) => faults.push(format!("{why} (policy {})", word(*policy))),
            }
        }
        Err(Error::Pull { image: image.to_owned(), why: faults.join("; ") })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, ImageInspect>> {
        self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn policies(&self, asked: &[PullPolicy]) -> Result<Vec<PullPolicy>, Error> {
        if asked.is_empty() {
            return Ok(self.default_policy.to_vec());
        }
        let allowed = if self.allowed_policies.is_empty() { self.default_policy } else { self.allowed_policies };
        let both: Vec<PullPolicy> = asked.iter().copied().filter(|p| allowed.contains(p)).collect();
        if both.is_empty() {
            let words = |list: &[PullPolicy]| list.iter().map(|p| word(*p)).collect::<Vec<_>>().join(" ");
            return Err(Error::NotAllowed(format!(
                "the configured PullPolicies ([{}]) are not allowed by AllowedPullPolicies ([{}])",
                words(asked),
                words(allowed)
            )));
        }
        Ok(both)
    }

    async fn local(&self, image: &str) -> Option<ImageInspect> {
        self.docker.inspect_image(image).await.ok()
    }

    async fn pull(&self, wanted: &Wanted<'_>) -> Result<ImageInspect, String> {
        self.trace.say(&format!("Pulling docker image {} ...", wanted.image));
        let login = self.login(wanted.image).await?;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.pull_once(wanted, login.clone()).await {
                Ok(()) => break,
                Err((why, transient)) if transient && tries < TRIES => {
                    self.trace.warn(&format!("{why}; trying again"));
                    tokio::time::sleep(WAIT).await;
                }
                Err((why, _)) => return Err(why),
            }
        }
        self.local(wanted.image).await.ok_or_else(|| "it was pulled, but Docker does not know it".to_owned())
    }

    async fn pull_once(&self, wanted: &Wanted<'_>, login: Option<Login>) -> Result<(), (String, bool)> {
        // Without a tag Docker would pull every tag of the repository.
        let tail = wanted.image.rsplit('/').next().unwrap_or_default();
        let reference =
            if tail.contains([':', '@']) { wanted.image.to_owned() } else { format!("{}:latest", wanted.image) };
        let mut options = CreateImageOptionsBuilder::default().from_image(&reference);
        if let Some(platform) = wanted.platform {
            options = options.platform(platform);
        }
        let credentials = login.map(|l| DockerCredentials {
            username: Some(l.username),
            password: Some(l.password),
            ..DockerCredentials::default()
        });
        let mut progress = self.docker.create_image(Some(options.build()), None, credentials);
        while let Some(item) = progress.next().await {
            if let Err(e) = item {
                let text = e.to_string();
                let transient = status(&e).is_none_or(|code| code >= 500)
                    && ["timeout", "refused", "reset", "EOF", "temporary", "no such host", "TLS handshake"]
                        .iter()
                        .any(|word| text.contains(word));
                return Err((text, transient));
            }
        }
        Ok(())
    }

    async fn login(&self, image: &str) -> Result<Option<Login>, String> {
        for source in &self.sources {
            match source.find(image) {
                None => {}
                Some(Found::Login(login)) => {
                    self.trace.say(&format!("Authenticating with credentials from {}", source.name));
                    return Ok(Some(login));
                }
                Some(Found::Helper { program, host }) => {
                    self.trace.say(&format!("Authenticating with credentials from {} ({program})", source.name));
                    return ask_helper(&program, &host).await.map(Some);
                }
            }
        }
        Ok(None)
    }
}

/// Asks a credential helper of Docker's protocol: the host on its stdin, JSON on its stdout.
async fn ask_helper(program: &str, host: &str) -> Result<Login, String> {
    #[derive(serde::Deserialize)]
    struct Answer {
        #[serde(rename = "Username")]
        username: String,
        #[serde(rename = "Secret")]
        secret: String,
    }
    if !program.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(format!("{program:?} is no name of a credential helper"));
    }
    let name = format!("docker-credential-{program}");
    let fault = |e: &dyn std::fmt::Display| format!("{name} gave no login for {host}: {e}");
    let mut child = tokio::process::Command::new(&name)
        .arg("get")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| fault(&e))?;
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(host.as_bytes()).await;
    }
    let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output())
        .await
        .map_err(|_| fault(&"it took longer than 30 s"))?
        .map_err(|e| fault(&e))?;
    let answer: Answer = serde_json::from_slice(&output.stdout).map_err(|_| fault(&"its answer is not JSON"))?;
    Ok(Login { username: answer.username, password: answer.secret })
}

/// GitLab's word.
pub(crate) fn word(policy: PullPolicy) -> &'static str {
    match policy {
        PullPolicy::Always => "always",
        PullPolicy::IfNotPresent => "if-not-present",
        PullPolicy::Never => "never",
    }
}
