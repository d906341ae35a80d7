//! `slipway register`: become a runner of a GitLab server. Flags and environment variables are the official ones.

use crate::End;
use crate::upstream_file::{self, ConfigFile};
use anyhow::{Context, Result, bail};
use slipway_scheduler::upstream::gitlab::config::{Secret, UpstreamConfig};
use slipway_scheduler::upstream::gitlab::register::{self, LegacyOptions};
use std::io::{BufRead, Write as _};
use std::path::PathBuf;

/// Become a runner of a GitLab server.
#[derive(clap::Args)]
pub(crate) struct Register {
    #[command(flatten)]
    file: ConfigFile,
    /// Ask for nothing.
    #[arg(short = 'n', long, env = "REGISTER_NON_INTERACTIVE")]
    non_interactive: bool,
    /// Leave the runner in GitLab when the registration fails afterwards.
    #[arg(long, env = "REGISTER_LEAVE_RUNNER")]
    leave_runner: bool,
    /// The server: `https://gitlab.example.com`
    #[arg(short = 'u', long, env = "CI_SERVER_URL")]
    url: Option<String>,
    /// The runner authentication token that GitLab shows when a runner is made: glrt-…
    #[arg(short = 't', long, env = "CI_SERVER_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The deprecated registration token.
    #[arg(short = 'r', long, env = "REGISTRATION_TOKEN", hide_env_values = true)]
    registration_token: Option<String>,
    /// Our name for the server in the configuration; with a registration token also the description in GitLab.
    #[arg(long, visible_alias = "description", env = "RUNNER_NAME")]
    name: Option<String>,
    /// Jobs of it at once; 0: as many as the nodes take.
    #[arg(long, env = "RUNNER_LIMIT", default_value_t = 0)]
    limit: u32,
    /// KEY=value for every job, below its own variables.
    #[arg(long = "env", env = "RUNNER_ENV")]
    environment: Vec<String>,
    /// Image of jobs that name none.
    #[arg(long, env = "DOCKER_IMAGE")]
    docker_image: Option<String>,
    /// Replaces scheme and host of the sources' address.
    #[arg(long, env = "CLONE_URL")]
    clone_url: Option<String>,
    /// Authorities of the server's certificate, PEM.
    #[arg(long, env = "CI_SERVER_TLS_CA_FILE")]
    tls_ca_file: Option<PathBuf>,
    /// Our certificate, PEM.
    #[arg(long, env = "CI_SERVER_TLS_CERT_FILE")]
    tls_cert_file: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, env = "CI_SERVER_TLS_KEY_FILE")]
    tls_key_file: Option<PathBuf>,
    /// Only nodes of ours with all these tags take its jobs.
    #[arg(long, value_delimiter = ',')]
    node_tags: Vec<String>,
    /// Only nodes of this architecture take its jobs: amd64, arm64.
    #[arg(long)]
    architecture: Option<String>,
    /// Only `docker`, which is what slipway does.
    #[arg(long, env = "RUNNER_EXECUTOR")]
    executor: Option<String>,
    #[command(flatten)]
    legacy: Legacy,
    #[command(flatten)]
    accepted: Accepted,
}

/// What only a registration token may say; a runner made in GitLab has it there.
#[derive(clap::Args)]
#[command(next_help_heading = "With --registration-token only")]
struct Legacy {
    /// Tags of the runner in GitLab.
    #[arg(long, env = "RUNNER_TAG_LIST", value_delimiter = ',')]
    tag_list: Vec<String>,
    /// Take jobs without tags.
    #[arg(long, env = "REGISTER_RUN_UNTAGGED", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    run_untagged: Option<bool>,
    /// Stay with the project.
    #[arg(long, env = "REGISTER_LOCKED", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    locked: Option<bool>,
    /// not_protected or ref_protected.
    #[arg(long, env = "REGISTER_ACCESS_LEVEL")]
    access_level: Option<String>,
    /// Seconds that a job may take.
    #[arg(long, env = "REGISTER_MAXIMUM_TIMEOUT")]
    maximum_timeout: Option<u64>,
    /// Take no jobs yet.
    #[arg(long, env = "REGISTER_PAUSED", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    paused: Option<bool>,
    /// A note for the server's admins.
    #[arg(long, env = "REGISTER_MAINTENANCE_NOTE")]
    maintenance_note: Option<String>,
}

impl Legacy {
    fn given(&self) -> Vec<&'static str> {
        [
            ("--tag-list", !self.tag_list.is_empty()),
            ("--run-untagged", self.run_untagged.is_some()),
            ("--locked", self.locked.is_some()),
            ("--access-level", self.access_level.is_some()),
            ("--maximum-timeout", self.maximum_timeout.is_some()),
            ("--paused", self.paused.is_some()),
            ("--maintenance-note", self.maintenance_note.is_some()),
        ]
        .into_iter()
        .filter_map(|(flag, given)| given.then_some(flag))
        .collect()
    }
}

/// Taken for the sake of existing scripts; each says what becomes of it.
#[derive(clap::Args)]
#[command(next_help_heading = "Accepted, without effect")]
struct Accepted {
    /// Not needed: every job with docker:dind gets a private engine.
    #[arg(long, env = "DOCKER_PRIVILEGED", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    docker_privileged: Option<bool>,
    /// `/cache` and `/certs/client` are not needed; others belong into `volumes` of `[runner]`.
    #[arg(long, env = "DOCKER_VOLUMES")]
    docker_volumes: Vec<String>,
    /// One question at a time is asked.
    #[arg(long, env = "RUNNER_REQUEST_CONCURRENCY")]
    request_concurrency: Option<u32>,
    /// Belongs into `output_limit_bytes` of `[runner]`.
    #[arg(long, env = "RUNNER_OUTPUT_LIMIT")]
    output_limit: Option<u64>,
}

impl Accepted {
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if self.docker_privileged == Some(true) {
            words
                .push("--docker-privileged is not needed: every job with docker:dind gets a private engine".to_owned());
        }
        for volume in &self.docker_volumes {
            if !matches!(volume.as_str(), "/cache" | "/certs/client") {
                words.push(format!("--docker-volumes {volume}: put it into `volumes` of [runner]"));
            }
        }
        if self.request_concurrency.is_some_and(|n| n > 1) {
            words.push("--request-concurrency: one question at a time is asked".to_owned());
        }
        if let Some(kilobytes) = self.output_limit {
            words.push(format!("--output-limit: put `output_limit_bytes = {}` into [runner]", kilobytes * 1024));
        }
        words
    }
}

impl Register {
    pub(crate) async fn execute(mut self) -> Result<End> {
        if let Some(executor) = self.executor.as_deref().filter(|e| *e != "docker") {
            bail!("--executor {executor}: slipway runs jobs in containers only; use docker");
        }
        self.ask()?;
        let (Some(url), given) = (self.url.clone(), self.token.clone()) else {
            bail!("the server's address is missing: give --url or CI_SERVER_URL");
        };
        // A glrt- token in the place of a registration token is taken for what it is, as the official runner does.
        let (token, registration) = match (given, self.registration_token.clone()) {
            (Some(_), Some(_)) => bail!("give --token or --registration-token, not both"),
            (Some(token), None) => (Some(token), None),
            (None, Some(r)) if register::is_authentication_token(&r) => {
                let ignored = self.legacy.given();
                eprintln!(
                    "--registration-token holds a runner authentication token, and is used as --token{}",
                    if ignored.is_empty() {
                        String::new()
                    } else {
                        format!("; {} set in GitLab, not here", ignored.join(", "))
                    }
                );
                (Some(r), None)
            }
            (None, Some(r)) => (None, Some(r)),
            (None, None) => bail!("the token is missing: give --token or CI_SERVER_TOKEN"),
        };
        if let (Some(token), None, false) = (&token, &self.registration_token, self.legacy.given().is_empty())
            && register::is_authentication_token(token)
        {
            bail!("{}: a runner made in GitLab has these set there; leave them out", self.legacy.given().join(", "));
        }
        let mut file = self.file.read()?;
        let host = || nix::unistd::gethostname().map_or_else(|_| "gitlab".into(), |h| h.to_string_lossy().into_owned());
        let wanted = self.name.clone().unwrap_or_else(host);
        let mut upstream = UpstreamConfig::new(file.free_name(&wanted), url, token.clone().unwrap_or_default());
        upstream.limit = self.limit;
        upstream.environment = self.environment.clone();
        upstream.default_image = self.docker_image.clone();
        upstream.clone_url = self.clone_url.clone();
        upstream.tls_ca_file = self.tls_ca_file.clone();
        upstream.tls_cert_file = self.tls_cert_file.clone();
        upstream.tls_key_file = self.tls_key_file.clone();
        upstream.tags = self.node_tags.clone();
        upstream.architecture = self.architecture.clone();
        let system_id = file.system_id()?;
        let client = upstream_file::client(&upstream)?;
        let architecture = self.architecture.as_deref();
        let made = match &registration {
            Some(secret) => register::register_legacy(&client, secret, &self.options(&wanted), architecture).await,
            None => register::verify(&client, &token.unwrap_or_default(), &system_id, architecture).await,
        };
        let made = made.context("cannot register")?;
        upstream.token = Some(Secret(made.token.clone()));
        upstream.id = (made.id > 0).then_some(made.id);
        if let Err(error) = file.add(&upstream) {
            if !self.leave_runner {
                let _ = register::unregister(&client, &made.token, &system_id).await;
            }
            return Err(error);
        }
        for word in self.accepted.words() {
            eprintln!("{word}");
        }
        println!("Runner registered successfully as `{}` at {}.", upstream.name, upstream.url);
        println!("The configuration was saved in {}.", file.path().display());
        println!("A running service takes it over with `systemctl reload slipway`.");
        Ok(End::Ok)
    }

    fn options(&self, description: &str) -> LegacyOptions {
        LegacyOptions {
            description: Some(description.to_owned()),
            maintenance_note: self.legacy.maintenance_note.clone(),
            tags: self.legacy.tag_list.clone(),
            run_untagged: self.legacy.run_untagged,
            locked: Some(self.legacy.locked.unwrap_or(true)),
            access_level: self.legacy.access_level.clone(),
            maximum_timeout: self.legacy.maximum_timeout,
            paused: self.legacy.paused,
        }
    }

    /// Asks a person for what is missing.
    fn ask(&mut self) -> Result<()> {
        if self.non_interactive {
            return Ok(());
        }
        if self.url.is_none() {
            self.url = prompt("Enter the GitLab instance URL (https://gitlab.example.com)")?;
        }
        if self.token.is_none() && self.registration_token.is_none() {
            self.token = prompt("Enter the runner authentication token (glrt-…)")?;
            if self.name.is_none() {
                self.name = prompt("Enter a name for the server here (empty: the host's name)")?;
            }
        }
        Ok(())
    }
}

/// One line from the terminal; `None` for an empty one.
fn prompt(text: &str) -> Result<Option<String>> {
    eprint!("{text}: ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("cannot read the answer")?;
    let line = line.trim();
    Ok((!line.is_empty()).then(|| line.to_owned()))
}
