//! How pipelines come to be: from a commit of a repository, for a person, a trigger, a trigger job or a redeployment.
//!
//! | module | noun |
//! |---|---|
//! | [`commit`] | what a ref names, what the commit says of itself, who may trust it |
//! | [`child`] | pipelines that trigger jobs start, and redeployments |
//! | `elsewhere` | files that a configuration includes from other projects and addresses |
//! | [`mirror`] | a local copy of a repository that is elsewhere |
//! | [`selection`] | only some jobs of a plan |

pub mod child;
pub mod commit;
mod elsewhere;
pub mod mirror;
pub mod selection;

use crate::config::{Config, Project};
use crate::driver::{Denied, Driver, NewPipeline};
use crate::pipeline::compile::{Compiled, Request, compile};
use crate::pipeline::fetch::{Fetch, Location};
use crate::pipeline::git_tree::{Base, GitTree, GitTreeError};
use crate::pipeline::rules::{Event, RefKind};
use crate::record::{Origin, Parent, zeros};
use crate::store::Store;
use crate::triggers::{MakePipeline, NotMade, Wanted};
use crate::{compose, predefined};
use commit::CommitError;
use elsewhere::Elsewhere;
use slipway_spec::ids::PipelineId;
use slipway_spec::variable::Variable;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

/// What a pipeline is asked for with.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Path of a repository on this machine, or of a registered project.
    pub repository: String,
    /// Branch or tag; empty: the branch at HEAD.
    pub ref_name: String,
    /// Commit; empty: the ref's.
    pub sha: String,
    /// The commit before the push; empty when there was none.
    pub before_sha: String,
    /// Configuration file; empty: the project's.
    pub file: String,
    /// The configuration itself, instead of the file's text.
    pub text: Option<String>,
    /// Only these jobs and what they need; empty: all.
    pub jobs: Vec<String>,
    /// Pipeline variables.
    pub variables: Vec<Variable>,
    /// `CI_PIPELINE_SOURCE`; empty: `push`.
    pub source: String,
    /// Values for `spec:inputs`.
    pub inputs: Vec<(String, serde_json::Value)>,
    /// The caller's own key.
    pub request_id: String,
    /// The work tree differs from the commit.
    pub dirty: bool,
    /// Manual jobs to start as soon as they can.
    pub manual: Vec<String>,
    /// Who.
    pub who: String,
    /// The trigger job that asks.
    pub parent: Option<Parent>,
}

/// A pipeline that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Its number.
    pub pipeline: PipelineId,
    /// Warnings of its configuration, rendered.
    pub warnings: Vec<String>,
}

/// Why there is no pipeline.
#[derive(Debug, thiserror::Error)]
pub enum NoPipeline {
    /// No commit.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Not a repository of ours.
    #[error("{0}")]
    Repository(String),
    /// No configuration.
    #[error("the commit {sha} has no {file}: {why}")]
    NoConfiguration {
        /// Which commit.
        sha: String,
        /// Which file.
        file: String,
        /// Why.
        why: String,
    },
    /// The configuration is wrong: all that is wrong with it, rendered.
    #[error("{0}")]
    Invalid(String),
    /// The configuration makes no pipeline for this event.
    #[error("no pipeline: {0}")]
    Filtered(String),
    /// The driver did not take it.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// A thread ended.
    #[error("the compilation was interrupted: {0}")]
    Interrupted(String),
}

/// Makes pipelines of commits.
#[derive(Clone)]
pub struct Intake {
    pub(crate) driver: Driver,
    pub(crate) store: Store,
    pub(crate) config: Arc<Config>,
    pub(crate) mirrors: PathBuf,
    pub(crate) artifacts: crate::artifacts::Artifacts,
}

/// A project as a pipeline is made for it.
struct Place {
    /// The key of its number: a registered path, or `dir:` and the folder.
    key: String,
    /// `group/name`.
    path: String,
    /// From where runners fetch.
    repository: String,
    /// Where this process reads.
    folder: PathBuf,
}

impl Intake {
    /// The registered project that has this path or this repository.
    #[must_use]
    pub fn project_of(&self, repository: &str) -> Option<String> {
        let real = |path: &str| std::fs::canonicalize(path).ok();
        let asked = real(repository);
        let same = |p: &&Project| {
            p.path == repository || p.repository == repository || (asked.is_some() && real(&p.repository) == asked)
        };
        self.config.projects.iter().find(same).map(|p| p.path.clone())
    }

    /// Compiles the configuration of a commit and makes its pipeline; it is on disk when this returns.
    ///
    /// # Errors
    /// When there is no such commit or configuration, it is wrong, or makes no pipeline.
    pub async fn submit(&self, asked: Asked) -> Result<Made, NoPipeline> {
        let place = self.place(&asked.repository).await?;
        let number = self.driver.project_number(&place.key, &place.path).await?;
        let (config, request_id, parent) = (self.config.clone(), asked.request_id.clone(), asked.parent);
        let key = place.key.clone();
        let mirrors = self.mirrors.clone();
        let compiled = tokio::task::spawn_blocking(move || prepare(&config, &mirrors, &place, number.0, asked)).await;
        let (origin, compiled) = compiled.map_err(|e| NoPipeline::Interrupted(e.to_string()))??;
        let warnings = if compiled.warnings.is_empty() { Vec::new() } else { vec![compiled.warnings.render()] };
        let new = NewPipeline { project_key: key, origin, plan: compiled.plan, request_id, parent };
        let pipeline = self.driver.create(new).await?;
        Ok(Made { pipeline, warnings })
    }

    async fn place(&self, repository: &str) -> Result<Place, NoPipeline> {
        if let Some(path) = self.project_of(repository) {
            let project = self.config.project(&path);
            let source = project.map(|p| p.repository.clone()).unwrap_or_default();
            let folder = if Path::new(&source).is_absolute() {
                PathBuf::from(&source)
            } else {
                mirror::updated(&self.mirrors, &source).await.map_err(NoPipeline::Repository)?
            };
            return Ok(Place { key: path.clone(), path, repository: source, folder });
        }
        let folder = Path::new(repository);
        if !folder.is_absolute() {
            let text = format!("{repository:?} is neither a [[project]] of the configuration nor an absolute path");
            return Err(NoPipeline::Repository(text));
        }
        let folder = std::fs::canonicalize(folder)
            .map_err(|e| NoPipeline::Repository(format!("cannot find the repository {repository}: {e}")))?;
        let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let name: String = name
            .trim_end_matches(".git")
            .chars()
            .map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' })
            .collect();
        let name = if name.is_empty() { "repository".to_owned() } else { name };
        let shown = folder.display().to_string();
        Ok(Place { key: format!("dir:{shown}"), path: format!("local/{name}"), repository: shown, folder })
    }
}

/// Finds the commit and compiles its configuration. Blocks.
fn prepare(
    config: &Config,
    mirrors: &Path,
    place: &Place,
    number: u64,
    asked: Asked,
) -> Result<(Origin, Compiled), NoPipeline> {
    let repository = commit::open(&place.folder)?;
    let project = config.project(&place.path).filter(|_| place.key == place.path);
    let found = commit::find(&repository, &asked.ref_name, &asked.sha, project)?;
    let tier = commit::tier(&found, project, asked.dirty);
    let config_path = match (asked.file.as_str(), project) {
        ("", Some(project)) => project.config_path.clone(),
        ("", None) => ".gitlab-ci.yml".to_owned(),
        (file, _) => file.trim_start_matches('/').to_owned(),
    };
    let source = if asked.source.is_empty() { "push".to_owned() } else { asked.source };
    if source.len() > 64 || !source.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
        return Err(NoPipeline::Repository(format!("{source:?} is no CI_PIPELINE_SOURCE")));
    }
    let origin = Origin {
        project_path: place.path.clone(),
        repository: place.repository.clone(),
        ref_name: found.ref_name,
        is_tag: found.is_tag,
        sha: found.sha,
        before_sha: if asked.before_sha.is_empty() { zeros() } else { asked.before_sha },
        default_branch: found.default_branch,
        source,
        submitted_by: asked.who,
        tier,
        config_path,
        commit: found.commit,
        variables: asked.variables,
        manual: asked.manual,
        priority: project.map_or(0, |p| p.priority),
        redeploys: None,
        borrowed: Vec::new(),
    };
    let predefined = predefined::of_origin(config, number, &origin);
    let mut variables = project.map(|p| compose::secrets(p, tier, None)).unwrap_or_default();
    variables.extend(origin.variables.iter().cloned());
    let base = if origin.source == "push" { Base::Commit(origin.before_sha.clone()) } else { Base::Nothing };
    let missing = |why: String| NoPipeline::NoConfiguration {
        sha: origin.sha.chars().take(8).collect(),
        file: origin.config_path.clone(),
        why,
    };
    let tree = GitTree::open(&place.folder, &origin.sha, base).map_err(|e: GitTreeError| missing(e.to_string()))?;
    let text = match asked.text {
        Some(text) => text,
        None => {
            let location = Location::File { repository: None, path: origin.config_path.clone() };
            tree.fetch(&location).map_err(|e| missing(e.to_string()))?.text
        }
    };
    let event = Event {
        source: origin.source.clone(),
        ref_name: origin.ref_name.clone(),
        kind: if origin.is_tag { RefKind::Tag } else { RefKind::Branch },
        project_path: origin.project_path.clone(),
    };
    let request = Request {
        file: &origin.config_path,
        text: &text,
        predefined: &predefined,
        variables: &variables,
        event: &event,
        inputs: &asked.inputs,
    };
    let mut compiled = compile(&request, &Elsewhere::new(&tree, config, mirrors))
        .map_err(|wrong| NoPipeline::Invalid(wrong.render()))?;
    if let Some(why) = compiled.no_pipeline {
        return Err(NoPipeline::Filtered(why));
    }
    if !asked.jobs.is_empty() {
        compiled.plan = selection::select(compiled.plan, &asked.jobs).map_err(NoPipeline::Filtered)?;
    }
    Ok((origin, compiled))
}

impl MakePipeline for Intake {
    fn make(&self, wanted: Wanted) -> Pin<Box<dyn Future<Output = Result<u64, NotMade>> + Send>> {
        let intake = self.clone();
        let folder = if wanted.is_tag { "refs/tags/" } else { "refs/heads/" };
        let ref_name =
            if wanted.source == "schedule" { wanted.ref_name } else { format!("{folder}{}", wanted.ref_name) };
        let variables = wanted.variables.into_iter();
        let asked = Asked {
            repository: wanted.project,
            ref_name,
            sha: wanted.sha,
            before_sha: wanted.before_sha,
            source: wanted.source.to_owned(),
            variables: variables.map(|(k, v)| Variable { public: false, ..Variable::public(k, v) }).collect(),
            who: wanted.who,
            ..Asked::default()
        };
        Box::pin(async move {
            match intake.submit(asked).await {
                Ok(made) => Ok(made.pipeline.0),
                Err(no) => {
                    let text = no.to_string();
                    Err(match no {
                        NoPipeline::Denied(Denied::Store(_) | Denied::Stopped)
                        | NoPipeline::Repository(_)
                        | NoPipeline::Interrupted(_)
                        | NoPipeline::Commit(CommitError::Open { .. } | CommitError::Git { .. }) => {
                            NotMade::ForNow(text)
                        }
                        NoPipeline::Commit(_)
                        | NoPipeline::NoConfiguration { .. }
                        | NoPipeline::Invalid(_)
                        | NoPipeline::Filtered(_)
                        | NoPipeline::Denied(_) => NotMade::ForGood(text),
                    })
                }
            }
        })
    }
}
