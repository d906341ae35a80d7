//! A payload becomes a [`JobSpec`].

use super::super::config::{Secret, UpstreamConfig};
use super::super::spool::Facts;
use super::Payload;
use crate::upstream::{RemoteJob, UpstreamJob};
use serde_json::Value;
use slipway_spec::ids::{JobId, PipelineId, ProjectId};
use slipway_spec::job::{
    ArtifactFormat, ArtifactSpec, CacheSpec, Credential, Dependency, Environment, EnvironmentAction, Hook, Image,
    JobSpec, Login, PullPolicy, Service, Source, Step, Tier, When,
};
use slipway_spec::outcome::FailureReason;
use slipway_spec::variable::Variable;

/// A job as it was handed out.
#[derive(Clone, Debug)]
pub struct Taken {
    /// What is spooled; its `job` is `None` exactly when `unfit` is there.
    pub facts: Facts,
    /// Why we cannot run it.
    pub unfit: Option<Unfit>,
}

/// Why a job cannot be run here: told to its user in the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// For GitLab.
    pub reason: FailureReason,
    /// For people.
    pub text: String,
}

/// A payload of which not even the job can be named, so that nobody can be told.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// It is not JSON, or a known key has an impossible value.
    #[error("GitLab handed out a job that cannot be read: {0}; it will be dropped there after an hour")]
    Json(#[from] serde_json::Error),
    /// Number or token are missing.
    #[error("GitLab handed out a job without {0}")]
    Missing(&'static str),
}

/// Reads a payload.
///
/// # Errors
/// The job cannot even be named. One that can be named but not run is [`Taken::unfit`].
pub fn read(body: &[u8], config: &UpstreamConfig) -> Result<Taken, PayloadError> {
    let payload = match serde_json::from_slice::<Payload>(body) {
        Ok(payload) => payload,
        Err(error) => return read_name_only(body, config, error),
    };
    let mut taken = name(&payload, config)?;
    match job(&payload, config, &taken.facts.remote) {
        Ok(job) => taken.facts.job = Some(job),
        Err(unfit) => taken.unfit = Some(unfit),
    }
    Ok(taken)
}

/// A payload with an impossible value somewhere can still be reported as failed.
fn read_name_only(body: &[u8], config: &UpstreamConfig, error: serde_json::Error) -> Result<Taken, PayloadError> {
    let Ok(Value::Object(whole)) = serde_json::from_slice::<Value>(body) else { return Err(error.into()) };
    let few: serde_json::Map<String, Value> =
        whole.into_iter().filter(|(k, _)| matches!(k.as_str(), "id" | "token")).collect();
    let mut taken = name(&serde_json::from_value(Value::Object(few))?, config)?;
    let text = format!("this runner cannot read what GitLab says about the job: {error}");
    taken.unfit = Some(Unfit { reason: FailureReason::RunnerSystemFailure, text });
    Ok(taken)
}

fn name(payload: &Payload, config: &UpstreamConfig) -> Result<Taken, PayloadError> {
    let id = u64::try_from(payload.id).ok().filter(|id| *id > 0).ok_or(PayloadError::Missing("a number"))?;
    if payload.token.is_empty() {
        return Err(PayloadError::Missing("a token"));
    }
    let on = |key| last(payload, key).is_some_and(|v| matches!(v.trim(), "true" | "1" | "t" | "T" | "TRUE" | "True"));
    let facts = Facts {
        job: None,
        remote: RemoteJob { upstream: config.name.clone(), id },
        token: Secret(payload.token.clone()),
        failure_reasons: payload.features.failure_reasons.clone(),
        debug_trace: on("CI_DEBUG_TRACE") || on("CI_DEBUG_SERVICES"),
        dependency_tokens: payload
            .dependencies
            .iter()
            .filter_map(|d| Some((u64::try_from(d.id).ok()?, Secret(d.token.clone()))))
            .collect(),
        output_limit: config.output_limit_bytes,
    };
    Ok(Taken { facts, unfit: None })
}

fn last<'a>(payload: &'a Payload, key: &str) -> Option<&'a str> {
    payload.variables.iter().rev().find(|v| v.key == key).map(|v| v.value.as_str())
}

fn job(payload: &Payload, config: &UpstreamConfig, remote: &RemoteJob) -> Result<UpstreamJob, Unfit> {
    refuse_what_we_lack(payload)?;
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    let from_variable = |key| last(payload, key).and_then(|v| v.parse().ok()).unwrap_or(0);
    let info = &payload.job_info;
    let protected =
        payload.git_info.protected.unwrap_or_else(|| last(payload, "CI_COMMIT_REF_PROTECTED") == Some("true"));
    let path = [info.project_full_path.as_str(), last(payload, "CI_PROJECT_PATH").unwrap_or(""), &info.project_name]
        .into_iter()
        .find(|p| !p.is_empty())
        .unwrap_or_default()
        .to_string();
    let project = match info.project_id {
        0 => from_variable("CI_PROJECT_ID"),
        id => number(id),
    };
    let pipeline = match info.pipeline_id {
        0 => from_variable("CI_PIPELINE_ID"),
        id => number(id),
    };
    let spec = JobSpec {
        id: JobId(0),
        pipeline: PipelineId(0),
        project: ProjectId(0),
        project_path: path,
        name: info.name.clone(),
        stage: info.stage.clone(),
        tier: if protected { Tier::Protected } else { Tier::Unprotected },
        variables: variables(payload, config),
        image: image(payload.image.as_ref(), config)?,
        services: payload.services.iter().filter(|s| !s.name.is_empty()).map(service).collect::<Result<_, _>>()?,
        steps: steps(payload),
        hooks: payload.hooks.iter().map(|h| Hook { name: h.name.clone(), script: h.script.clone() }).collect(),
        source: source(payload, config)?,
        timeout_seconds: if payload.runner_info.timeout > 0 { number(payload.runner_info.timeout) } else { 7200 },
        artifacts: payload.artifacts.iter().map(artifact).collect::<Result<_, _>>()?,
        caches: payload.cache.iter().map(cache).collect(),
        dependencies: payload
            .dependencies
            .iter()
            .filter_map(|d| {
                let file = d.artifacts_file.as_ref().filter(|f| !f.filename.is_empty())?;
                Some(Dependency { job: JobId(number(d.id)), name: d.name.clone(), bytes: number(file.size) })
            })
            .collect(),
        credentials: payload
            .credentials
            .iter()
            .filter(|c| c.kind == "registry")
            .map(|c| Credential {
                registry: c.url.clone(),
                login: Login { username: c.username.clone(), password: c.password.clone() },
            })
            .collect(),
        token_mask_prefixes: payload.features.token_mask_prefixes.iter().take(15).cloned().collect(),
        trace_sections: payload.features.trace_sections,
        interruptible: false,
        tags: Vec::new(),
        environment: environment(payload),
        coverage: None,
    };
    Ok(UpstreamJob {
        remote: remote.clone(),
        remote_project: project,
        remote_pipeline: pipeline,
        selector: config.selector(),
        spec,
    })
}

fn refuse_what_we_lack(payload: &Payload) -> Result<(), Unfit> {
    let unfit = |text: &str| Err(Unfit { reason: FailureReason::RunnerUnsupported, text: text.to_string() });
    if payload.secrets.as_object().is_some_and(|s| !s.is_empty()) {
        return unfit(
            "this runner cannot fetch `secrets:`; use CI/CD variables, or a runner that claims vault_secrets",
        );
    }
    if payload.run.as_str().is_some_and(|r| !r.trim().is_empty() && r.trim() != "[]") {
        return unfit("this runner has no step runner for `run:`; use `script:`");
    }
    let interpolated = |line: &String| line.contains("${{") && line.contains("job.inputs.");
    let has_inputs = payload.inputs.as_array().is_some_and(|i| !i.is_empty());
    if has_inputs && payload.steps.iter().any(|s| s.script.iter().any(interpolated)) {
        return unfit("this runner does not know job `inputs:`; use variables");
    }
    Ok(())
}

fn variable(v: &super::Variable) -> Variable {
    Variable {
        key: v.key.clone(),
        value: v.value.clone(),
        public: v.public,
        masked: v.masked,
        file: v.file,
        raw: v.raw,
    }
}

/// The upstream's `environment` first: a job's own variable of the same key wins.
fn variables(payload: &Payload, config: &UpstreamConfig) -> Vec<Variable> {
    let ours = config.environment.iter().filter_map(|e| e.split_once('=')).map(|(k, v)| Variable::public(k, v));
    ours.chain(payload.variables.iter().filter(|v| !v.key.is_empty()).map(variable)).collect()
}

fn pull_policies(words: &[String]) -> Result<Vec<PullPolicy>, Unfit> {
    words
        .iter()
        .map(|word| match word.as_str() {
            "always" => Ok(PullPolicy::Always),
            "if-not-present" => Ok(PullPolicy::IfNotPresent),
            "never" => Ok(PullPolicy::Never),
            other => Err(Unfit {
                reason: FailureReason::RunnerSystemFailure,
                text: format!("unknown pull policy {other:?}; known are always, if-not-present, never"),
            }),
        })
        .collect()
}

/// `docker` has `platform` and `user`, `kubernetes` has `user`; any other key fails the job before anything is run,
/// as in the official runner.
fn executor_options(image: &super::Image) -> Result<(Option<String>, Option<String>), Unfit> {
    let unknown = |key: &str| Unfit {
        reason: FailureReason::RunnerSystemFailure,
        text: format!("unknown option {key:?} for image {}; known are docker: platform, user", image.name),
    };
    let (mut user, mut platform) = (None, None);
    for (executor, options) in &image.executor_opts {
        let known: &[&str] = match executor.as_str() {
            "docker" => &["platform", "user"],
            "kubernetes" => &["user"],
            other => return Err(unknown(other)),
        };
        for (key, value) in options.as_object().into_iter().flatten() {
            if !known.contains(&key.as_str()) {
                return Err(unknown(&format!("{executor}.{key}")));
            }
            let value = match value {
                Value::String(s) if !s.is_empty() => Some(s.clone()),
                Value::Number(n) => Some(n.to_string()),
                _ => None,
            };
            match (executor.as_str(), key.as_str()) {
                ("docker", "user") => user = value,
                ("docker", "platform") => platform = value,
                _ => {}
            }
        }
    }
    Ok((user, platform))
}

fn plain_image(image: &super::Image) -> Result<Image, Unfit> {
    let (user, platform) = executor_options(image)?;
    Ok(Image {
        name: image.name.clone(),
        entrypoint: image.entrypoint.clone(),
        pull_policy: pull_policies(&image.pull_policy)?,
        user,
        platform,
    })
}

fn image(image: Option<&super::Image>, config: &UpstreamConfig) -> Result<Option<Image>, Unfit> {
    match (image.filter(|i| !i.name.is_empty()), &config.default_image) {
        (Some(image), _) => plain_image(image).map(Some),
        (None, Some(name)) => Ok(Some(Image { name: name.clone(), ..Image::default() })),
        (None, None) => Ok(None),
    }
}

fn service(service: &super::Image) -> Result<Service, Unfit> {
    Ok(Service {
        image: plain_image(service)?,
        command: service.command.clone().filter(|c| !c.is_empty()),
        aliases: service
            .alias
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|a| !a.is_empty())
            .map(String::from)
            .collect(),
        variables: service.variables.iter().filter(|v| !v.key.is_empty()).map(variable).collect(),
    })
}

fn when(word: &str) -> When {
    match word {
        "always" => When::Always,
        "on_failure" => When::OnFailure,
        _ => When::OnSuccess,
    }
}

/// `release` and other steps of the server's making hold references that it leaves to us; the script's and
/// after_script's are the shell's.
fn steps(payload: &Payload) -> Vec<Step> {
    payload
        .steps
        .iter()
        .map(|step| {
            let shells_own = matches!(step.name.as_str(), "script" | Step::AFTER_SCRIPT | "");
            let script = if shells_own {
                step.script.clone()
            } else {
                step.script.iter().map(|line| expand_known(line, payload)).collect()
            };
            Step {
                name: if step.name.is_empty() { "script".into() } else { step.name.clone() },
                script,
                when: when(&step.when),
                allow_failure: step.allow_failure,
            }
        })
        .collect()
}

/// References to variables of the payload are put in; all others (`$CI_PROJECT_DIR`, which only the node knows) are
/// left to the shell.
fn expand_known(line: &str, payload: &Payload) -> String {
    static REFERENCE: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
        regex::Regex::new(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))").expect("a constant")
    });
    let put = |found: &regex::Captures<'_>| {
        let key = found.get(1).or_else(|| found.get(2)).map_or("", |m| m.as_str());
        let variable = payload.variables.iter().rev().find(|v| v.key == key && !v.file);
        variable.map_or_else(|| found[0].to_string(), |v| v.value.clone())
    };
    REFERENCE.replace_all(line, put).into_owned()
}

fn source(payload: &Payload, config: &UpstreamConfig) -> Result<Source, Unfit> {
    let git = &payload.git_info;
    let unfit = |text: String| Unfit { reason: FailureReason::RunnerSystemFailure, text };
    let (mut url, mut login) = (git.repo_url.clone(), None);
    if let Ok(mut parsed) = reqwest::Url::parse(&git.repo_url) {
        let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        if !parsed.username().is_empty() || parsed.password().is_some() {
            login = Some(Login {
                username: decode(parsed.username()),
                password: decode(parsed.password().unwrap_or_default()),
            });
            // Both only fail for addresses that cannot have a user, and this one had.
            let _ = parsed.set_username("");
            let _ = parsed.set_password(None);
        }
        if let Some(base) = &config.clone_url {
            let base = base.trim_end_matches('/');
            url = format!("{base}{}", parsed.path());
        } else {
            url = parsed.to_string();
        }
    } else if git.repo_url.contains('@') && git.repo_url.contains("://") {
        return Err(unfit("GitLab's address of the sources cannot be read".into()));
    }
    let is_commit = git.sha.len() >= 40 && git.sha.bytes().all(|b| b.is_ascii_hexdigit());
    if !git.sha.is_empty() && !is_commit {
        return Err(unfit(format!("GitLab names a commit that is none: {:?}", git.sha)));
    }
    Ok(Source {
        url,
        login,
        ref_name: git.ref_name.clone(),
        is_tag: git.ref_type == "tag",
        sha: git.sha.clone(),
        before_sha: git.before_sha.clone(),
        refspecs: git.refspecs.clone(),
        depth: u32::try_from(git.depth).unwrap_or(0),
    })
}

fn artifact(artifact: &super::Artifact) -> Result<ArtifactSpec, Unfit> {
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    Ok(ArtifactSpec {
        name: some(&artifact.name),
        paths: artifact.paths.clone(),
        exclude: artifact.exclude.clone(),
        untracked: artifact.untracked,
        when: when(&artifact.when),
        expire_in: some(&artifact.expire_in),
        kind: some(&artifact.artifact_type).unwrap_or_else(|| "archive".into()),
        format: match artifact.artifact_format.as_str() {
            "" | "zip" => ArtifactFormat::Zip,
            "gzip" => ArtifactFormat::Gzip,
            "raw" => ArtifactFormat::Raw,
            other => {
                let text = format!("unknown artifact format {other:?}; known are zip, gzip, raw");
                return Err(Unfit { reason: FailureReason::RunnerUnsupported, text });
            }
        },
    })
}

fn cache(cache: &super::Cache) -> CacheSpec {
    CacheSpec {
        key: cache.key.clone(),
        fallback_keys: cache.fallback_keys.clone(),
        paths: cache.paths.clone(),
        untracked: cache.untracked,
        policy: if cache.policy.is_empty() { "pull-push".into() } else { cache.policy.clone() },
        when: when(&cache.when),
        key_files: Vec::new(),
        key_prefix: None,
    }
}

/// GitLab keeps the record of deployments; ours has the job as well.
fn environment(payload: &Payload) -> Option<Environment> {
    let name = last(payload, "CI_ENVIRONMENT_NAME").filter(|n| !n.is_empty())?.to_string();
    Some(Environment {
        name,
        url: last(payload, "CI_ENVIRONMENT_URL").filter(|u| !u.is_empty()).map(String::from),
        action: match last(payload, "CI_ENVIRONMENT_ACTION").unwrap_or("start") {
            "stop" => EnvironmentAction::Stop,
            "prepare" => EnvironmentAction::Prepare,
            "verify" => EnvironmentAction::Verify,
            "access" => EnvironmentAction::Access,
            _ => EnvironmentAction::Start,
        },
    })
}
