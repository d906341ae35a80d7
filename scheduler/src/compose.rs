//! A planned job, its project, and what is known by now become the [`JobSpec`] a runner gets.

use crate::config::{Config, Project, ProjectVariable};
use crate::predefined;
use crate::record::{Job, Pipeline};
use slipway_spec::ids::JobId;
use slipway_spec::job::{Dependency, JobSpec, Service, Source, Tier};
use slipway_spec::variable::Variable;

/// History a runner fetches when nothing else is said; GitLab's default for new projects.
const DEFAULT_DEPTH: u32 = 20;

/// What a runner gets. `current`: the newest attempts of the pipeline's jobs, in the order of the plan.
#[must_use]
pub fn spec(config: &Config, pipeline: &Pipeline, job: &Job, current: &[&Job]) -> JobSpec {
    if let Some(taken) = &pipeline.upstream {
        return JobSpec { id: job.id, pipeline: pipeline.id, project: pipeline.project, ..taken.spec.clone() };
    }
    let planned = pipeline.planned(job);
    let project = config.project(&pipeline.origin.project_path);
    let timeout_seconds =
        planned.timeout_seconds.or(project.and_then(|p| p.timeout_seconds)).unwrap_or(config.timeout_seconds);
    let artifact_jobs: Vec<&Job> = planned
        .artifacts_from
        .iter()
        .filter_map(|name| current.iter().find(|j| pipeline.planned(j).name == *name).copied())
        .collect();
    let mut variables = predefined::of_job(config, pipeline, job, timeout_seconds);
    variables.extend(predefined::of_origin(config, pipeline.project.0, &pipeline.origin));
    variables.extend(planned.variables.iter().cloned());
    let borrowed = pipeline.origin.borrowed.iter();
    for (key, value) in borrowed.clone().flat_map(|b| &b.dotenv).chain(artifact_jobs.iter().flat_map(|j| &j.dotenv)) {
        variables.push(Variable::public(key.clone(), value.clone()));
    }
    if let Some(project) = project {
        let environment = planned.environment.as_ref().map(|e| e.name.as_str());
        variables.extend(secrets(project, pipeline.origin.tier, environment));
    }
    variables.extend(pipeline.origin.variables.iter().cloned());
    if let Some(played) = &job.played {
        variables.extend(played.variables.iter().cloned());
    }
    let depth = variables
        .iter()
        .rev()
        .find(|v| v.key == "GIT_DEPTH")
        .and_then(|v| v.value.parse().ok())
        .unwrap_or(DEFAULT_DEPTH);
    let origin = &pipeline.origin;
    JobSpec {
        id: job.id,
        pipeline: pipeline.id,
        project: pipeline.project,
        project_path: origin.project_path.clone(),
        name: planned.name.clone(),
        stage: planned.stage.clone(),
        tier: origin.tier,
        variables,
        image: planned.image.clone(),
        services: planned.services.clone(),
        steps: planned.steps.clone(),
        hooks: planned.hooks.clone(),
        source: Source {
            url: origin.repository.clone(),
            login: None,
            ref_name: origin.ref_name.clone(),
            is_tag: origin.is_tag,
            sha: origin.sha.clone(),
            before_sha: origin.before_sha.clone(),
            refspecs: Vec::new(),
            depth,
        },
        timeout_seconds,
        artifacts: planned.artifacts.clone(),
        caches: planned.caches.clone(),
        dependencies: borrowed
            .filter(|b| b.archive)
            .map(|b| b.from.clone())
            .chain(artifact_jobs.iter().filter_map(|job| dependency(pipeline, job)))
            .collect(),
        credentials: Vec::new(),
        token_mask_prefixes: Vec::new(),
        trace_sections: true,
        interruptible: planned.interruptible,
        tags: planned.tags.clone(),
        environment: planned.environment.clone(),
        coverage: planned.coverage.clone(),
    }
}

/// The job's archive as something to bring in; `None` when it left none.
fn dependency(pipeline: &Pipeline, job: &Job) -> Option<Dependency> {
    let archive = job.artifacts.iter().find(|a| a.kind == "archive")?;
    Some(Dependency { job: job.id, name: pipeline.planned(job).name.clone(), bytes: archive.bytes })
}

/// The jobs whose artifacts a job may fetch.
#[must_use]
pub fn readable(spec: &JobSpec) -> Vec<JobId> {
    spec.dependencies.iter().map(|d| d.job).collect()
}

/// A project's variables for a job: protected ones on protected refs only, and of one key the one whose environment
/// scope fits most closely.
#[must_use]
pub fn secrets(project: &Project, tier: Tier, environment: Option<&str>) -> Vec<Variable> {
    let mut fitting: Vec<(usize, &ProjectVariable)> = project
        .variables
        .iter()
        .filter(|v| !v.protected || tier == Tier::Protected)
        .filter_map(|v| scope_fit(&v.environment_scope, environment).map(|fit| (fit, v)))
        .collect();
    // Stable: of the same closeness the later entry wins, as later entries of the list do.
    fitting.sort_by_key(|(fit, _)| *fit);
    fitting.into_iter().map(|(_, v)| v.variable.clone()).collect()
}

/// How closely a scope fits: characters that are no star; `None` when it does not.
fn scope_fit(scope: &str, environment: Option<&str>) -> Option<usize> {
    if scope == "*" {
        return Some(0);
    }
    let environment = environment?;
    wildcard(scope, environment).then(|| scope.chars().filter(|c| *c != '*').count())
}

/// Whether a text fits a pattern in which `*` stands for anything.
#[must_use]
pub fn wildcard(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether a service is an engine lent to the job: GitLab's `docker:dind` by any registry and version.
#[must_use]
pub fn is_engine(service: &Service) -> bool {
    let name = service.image.name.as_str();
    let last = name.rsplit('/').next().unwrap_or(name);
    let (repository, tag) = last.split_once(':').unwrap_or((last, ""));
    repository == "dind" || (repository == "docker" && tag.split('@').next().unwrap_or("").contains("dind"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_spec::job::Image;

    #[test]
    fn wildcard_stands_for_anything() {
        assert!(wildcard("*", "a/b"));
        assert!(wildcard("review/*", "review/app"));
        assert!(!wildcard("review/*", "production"));
        assert!(wildcard("v*.*", "v1.2"));
        assert!(!wildcard("main", "main2"));
        assert!(!wildcard("a*a", "a"));
    }

    #[test]
    fn closer_scope_wins_and_protected_stays_on_protected_refs() {
        let variable = |value: &str, scope: &str, protected| ProjectVariable {
            variable: Variable::secret("TOKEN", value),
            protected,
            environment_scope: scope.into(),
        };
        let project = Project {
            variables: vec![
                variable("for production", "production", true),
                variable("for any", "*", false),
                variable("for p", "p*", false),
            ],
            ..Project::default()
        };
        let value = |tier, environment| secrets(&project, tier, environment).last().unwrap().value.clone();
        assert_eq!(value(Tier::Protected, Some("production")), "for production");
        assert_eq!(value(Tier::Unprotected, Some("production")), "for p");
        assert_eq!(value(Tier::Unprotected, Some("staging")), "for any");
        assert_eq!(value(Tier::Protected, None), "for any");
    }

    #[test]
    fn engine_is_known_by_image_name() {
        let service =
            |name: &str| Service { image: Image { name: name.into(), ..Image::default() }, ..Service::default() };
        for name in ["docker:dind", "registry:5000/mirror/docker:26-dind", "docker:27.1-dind@sha256:aa"] {
            assert!(is_engine(&service(name)), "{name}");
        }
        for name in ["postgres:16", "docker:cli", "docker"] {
            assert!(!is_engine(&service(name)), "{name}");
        }
    }
}
