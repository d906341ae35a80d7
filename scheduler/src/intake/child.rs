//! Pipelines that trigger jobs start, and redeployments of what drifted.

use super::{Asked, Intake, NoPipeline};
use crate::compose;
use crate::config::OnDrift;
use crate::driver::NewPipeline;
use crate::pipeline::plan::{Plan, PlannedJob, Trigger};
use crate::record::{Borrowed, Job, Origin, Parent, Pipeline};
use crate::store::read;
use slipway_spec::expand::{Undefined, expand_for_server};
use slipway_spec::ids::PipelineId;
use slipway_spec::job::Dependency;
use slipway_spec::variable::Variable;
use std::io::Read;

/// Largest configuration made by a job; GitLab's limit.
const MAX_GENERATED_BYTES: u64 = 5 << 20;

impl Intake {
    /// Makes the pipeline of a trigger job, or tells the job why there is none.
    pub(crate) async fn make_child(&self, parent: Parent) {
        if let Err(no) = self.try_child(parent).await {
            let message = no.to_string();
            tracing::info!(job = %parent.job, message, "a trigger job's pipeline could not be made");
            self.driver.child_failed(parent, message).await;
        }
    }

    async fn try_child(&self, parent: Parent) -> Result<PipelineId, NoPipeline> {
        let found = self
            .store
            .read(move |c| Ok((read::pipeline(c, parent.pipeline)?, read::jobs(c, parent.pipeline)?)))
            .await
            .map_err(|e| NoPipeline::Denied(e.into()))?;
        let (Some(pipeline), jobs) = found else {
            return Err(NoPipeline::Repository(format!("pipeline #{} is gone", parent.pipeline)));
        };
        let planned = jobs.iter().find(|j| j.id == parent.job).map(|j| pipeline.planned(j));
        let Some((planned, trigger)) = planned.and_then(|p| p.trigger.as_ref().map(|t| (p, t))) else {
            return Err(NoPipeline::Repository(format!("job #{} is no trigger job", parent.job)));
        };
        let asked = self.asked(&pipeline, &jobs, planned, trigger, parent).await?;
        self.submit(asked).await.map(|made| made.pipeline)
    }

    async fn asked(
        &self,
        pipeline: &Pipeline,
        jobs: &[Job],
        planned: &PlannedJob,
        trigger: &Trigger,
        parent: Parent,
    ) -> Result<Asked, NoPipeline> {
        let origin = &pipeline.origin;
        let mut variables: Vec<Variable> = Vec::new();
        if trigger.forward_pipeline_variables {
            variables.extend(origin.variables.iter().cloned());
        }
        if trigger.forward_yaml_variables {
            variables.extend(self.expanded(pipeline, jobs, planned, parent));
        }
        let asked = Asked {
            repository: origin.repository.clone(),
            variables,
            inputs: trigger.inputs.clone(),
            who: origin.submitted_by.clone(),
            parent: Some(parent),
            ..Asked::default()
        };
        if let Some(project) = &trigger.project {
            let branch = trigger.branch.clone().unwrap_or_default();
            return Ok(Asked { repository: project.clone(), ref_name: branch, source: "pipeline".into(), ..asked });
        }
        let folder = if origin.is_tag { "refs/tags/" } else { "refs/heads/" };
        let ref_name = if origin.ref_name == "HEAD" { String::new() } else { format!("{folder}{}", origin.ref_name) };
        let asked = Asked {
            ref_name,
            sha: origin.sha.clone(),
            source: "parent_pipeline".into(),
            // A pipeline never has more trust than the one that started it.
            dirty: origin.tier == slipway_spec::job::Tier::Unprotected,
            ..asked
        };
        if let Some((job, path)) = &trigger.artifact {
            let text = self.generated(pipeline, jobs, job, path).await?;
            return Ok(Asked { text: Some(text), file: path.clone(), ..asked });
        }
        // The inputs are in that text already, each beside the file it is for.
        match &trigger.configuration {
            None => Err(NoPipeline::Repository("the trigger job names no configuration".into())),
            Some(text) => {
                Ok(Asked { text: Some(text.clone()), file: planned.name.clone(), inputs: Vec::new(), ..asked })
            }
        }
    }

    /// A trigger job's own variables, references to what is known of the job by now filled in: dotenv variables of jobs
    /// before it travel to the child this way.
    fn expanded(&self, pipeline: &Pipeline, jobs: &[Job], planned: &PlannedJob, parent: Parent) -> Vec<Variable> {
        let current: Vec<&Job> = jobs.iter().filter(|j| !j.retried).collect();
        let known = match jobs.iter().find(|j| j.id == parent.job) {
            Some(job) => compose::spec(&self.config, pipeline, job, &current).variables,
            None => Vec::new(),
        };
        let expand = |variable: &Variable| {
            if variable.raw {
                return variable.clone();
            }
            let lookup = |name: &str| {
                let others = known.iter().rev().filter(|v| v.key == name && *v != variable);
                others.map(|v| v.value.as_str()).next()
            };
            Variable { value: expand_for_server(&variable.value, Undefined::Keep, lookup), ..variable.clone() }
        };
        planned.variables.iter().map(expand).collect()
    }

    /// A file out of the archive of a job.
    async fn generated(&self, pipeline: &Pipeline, jobs: &[Job], name: &str, path: &str) -> Result<String, NoPipeline> {
        let missing = |why: String| NoPipeline::NoConfiguration {
            sha: pipeline.origin.sha.chars().take(8).collect(),
            file: format!("{path} of job {name}"),
            why,
        };
        let made_by = jobs.iter().rev().find(|j| !j.retried && pipeline.planned(j).name == name);
        let archive = made_by.and_then(|j| j.artifacts.iter().find(|a| a.kind == "archive"));
        let archive = archive.ok_or_else(|| missing("that job left no artifacts".into()))?;
        let (file, wanted) = (self.artifacts.path(&archive.file), path.trim_start_matches("./").to_owned());
        let text = tokio::task::spawn_blocking(move || -> Result<String, String> {
            let file = std::fs::File::open(&file).map_err(|e| format!("its archive is gone: {e}"))?;
            let mut archive = zip::ZipArchive::new(file).map_err(|e| format!("its archive cannot be read: {e}"))?;
            let entry = archive.by_name(&wanted).map_err(|e| format!("its archive has no such file: {e}"))?;
            let mut text = String::new();
            let got = entry.take(MAX_GENERATED_BYTES + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
            if got as u64 > MAX_GENERATED_BYTES {
                return Err(format!("it is larger than {MAX_GENERATED_BYTES} bytes"));
            }
            Ok(text)
        });
        text.await.map_err(|e| NoPipeline::Interrupted(e.to_string()))?.map_err(missing)
    }

    /// An environment was found other than it was left: with `on_drift = "redeploy"` its last successful deployment
    /// runs again at its commit.
    pub(crate) async fn drifted(&self, project: &str, environment: &str) {
        let wanted = self.config.project(project).is_some_and(|p| p.on_drift == OnDrift::Redeploy);
        tracing::warn!(project, environment, redeploy = wanted, "an environment has drifted");
        if wanted && let Err(no) = self.redeploy(project, environment).await {
            tracing::error!(project, environment, error = %no, "the environment could not be put back");
        }
    }

    async fn redeploy(&self, project: &str, environment: &str) -> Result<PipelineId, NoPipeline> {
        let key = (environment.to_owned(), project.to_owned());
        let found = self
            .store
            .read(move |c| {
                let entries = read::deployments(c, &key.0, &key.1)?;
                let good = |e: &&slipway_spec::view::DeploymentView| {
                    e.outcome == "success" && (e.kind == "deploy" || e.kind == "redeploy")
                };
                let Some(last) = entries.iter().rev().find(good) else { return Ok(None) };
                let jobs = read::jobs(c, last.pipeline)?;
                let job = jobs.iter().find(|j| j.id == last.job).cloned();
                Ok(read::pipeline(c, last.pipeline)?.zip(job).map(|(pipeline, job)| (pipeline, job, jobs)))
            })
            .await
            .map_err(|e| NoPipeline::Denied(e.into()))?;
        let Some((pipeline, job, jobs)) = found else {
            return Err(NoPipeline::Filtered(format!("{environment} was never deployed with success")));
        };
        let left_for_it =
            |j: &&Job| !j.retried && pipeline.planned(&job).artifacts_from.contains(&pipeline.planned(j).name);
        let borrowed = jobs.iter().filter(left_for_it).map(|j| {
            let archive = j.artifacts.iter().find(|a| a.kind == "archive");
            let (name, bytes) = (pipeline.planned(j).name.clone(), archive.map_or(0, |a| a.bytes));
            Borrowed {
                from: Dependency { job: j.id, name, bytes },
                archive: archive.is_some(),
                dotenv: j.dotenv.clone(),
            }
        });
        let borrowed = borrowed.collect();
        let planned = PlannedJob {
            needs: Some(Vec::new()),
            artifacts_from: Vec::new(),
            when: crate::pipeline::plan::JobWhen::OnSuccess,
            ..pipeline.planned(&job).clone()
        };
        let plan = Plan { stages: vec![planned.stage.clone()], jobs: vec![planned], ..Plan::default() };
        let origin = Origin {
            source: "api".into(),
            submitted_by: "drift".into(),
            redeploys: Some(environment.to_owned()),
            manual: Vec::new(),
            borrowed,
            ..pipeline.origin.clone()
        };
        let new =
            NewPipeline { project_key: project.to_owned(), origin, plan, request_id: String::new(), parent: None };
        Ok(self.driver.create(new).await?)
    }
}
