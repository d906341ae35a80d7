//! What can be written. A batch is one transaction: all of it, or nothing.

use crate::record::{Job, Pipeline};
use jiff::Timestamp;
use rusqlite::{Transaction, params};
use serde_json::Value;
use slipway_spec::ids::{JobId, PipelineId, ProjectId};
use slipway_spec::view::DeploymentView;

/// One row to be written.
#[derive(Debug)]
pub enum Write {
    /// The last number given out, of `pipeline`, `job`, `project`, `deployment`, `outbox`.
    Counter(&'static str, u64),
    /// A project's key, and the last number of its pipelines.
    Project {
        /// Its number.
        id: ProjectId,
        /// Empty for our own.
        upstream: String,
        /// The path, or the upstream's number.
        key: String,
        /// For people.
        path: String,
        /// Last pipeline number within it.
        iid: u64,
    },
    /// A new pipeline, with its plan.
    NewPipeline(Box<Pipeline>),
    /// A pipeline that changed; `active`: it is loaded at the next start.
    Pipeline {
        /// It.
        pipeline: Box<Pipeline>,
        /// Whether it is loaded at the next start.
        active: bool,
    },
    /// A new or changed job.
    Job(Box<Job>),
    /// History.
    Event {
        /// When.
        at: Timestamp,
        /// Whose.
        pipeline: PipelineId,
        /// Whose.
        job: Option<JobId>,
        /// What.
        what: Value,
    },
    /// When an artifact's file is to be deleted.
    Expiry {
        /// Which.
        file: String,
        /// Whose.
        job: JobId,
        /// When.
        at: Timestamp,
    },
    /// The artifact's file is gone.
    Expired {
        /// Which.
        file: String,
    },
    /// An entry of the record of deployments.
    Deployment(Box<DeploymentView>),
    /// Something to be told outside.
    Outbox {
        /// Its number.
        id: u64,
        /// To whom.
        kind: &'static str,
        /// What.
        doc: Value,
    },
    /// It was told.
    Told(u64),
    /// A submission's own key.
    Request {
        /// The key.
        id: String,
        /// What it made.
        pipeline: PipelineId,
    },
    /// A job's key at its GitLab server.
    RemoteJob {
        /// The server.
        upstream: String,
        /// Its number there.
        remote: u64,
        /// Its number here.
        job: JobId,
    },
    /// How long a job takes, smoothed.
    Duration {
        /// Whose.
        project: ProjectId,
        /// Its name.
        job: String,
        /// Seconds.
        seconds: f64,
    },
    /// A pipeline's retention is over: it, its jobs and its history go. The record of deployments stays.
    Forget(PipelineId),
}

fn json<T: serde::Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

impl Write {
    /// Executes it.
    pub(super) fn execute(self, t: &Transaction<'_>) -> rusqlite::Result<()> {
        let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| t.prepare_cached(sql)?.execute(values).map(drop);
        match self {
            Write::Counter(name, last) => run(
                "INSERT INTO counter VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET last = max(last, ?2)",
                params![name, last as i64],
            ),
            Write::Project { id, upstream, key, path, iid } => run(
                "INSERT INTO project VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO UPDATE SET path = ?4, iid = max(iid, ?5)",
                params![id.0 as i64, upstream, key, path, iid as i64],
            ),
            Write::NewPipeline(p) => run(
                "INSERT INTO pipeline VALUES (?1, ?2, ?3, 1, NULL, ?4, ?5)",
                params![p.id.0 as i64, p.project.0 as i64, p.origin.project_path, json(&*p)?, json(&*p.plan)?],
            ),
            Write::Pipeline { pipeline: p, active } => run(
                "UPDATE pipeline SET active = ?2, finished = ?3, doc = ?4 WHERE id = ?1",
                params![p.id.0 as i64, active, p.finished_at.map(Timestamp::as_second), json(&*p)?],
            ),
            Write::Job(job) => run(
                "INSERT INTO job VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET doc = ?3",
                params![job.id.0 as i64, job.pipeline.0 as i64, json(&*job)?],
            ),
            Write::Event { at, pipeline, job, what } => run(
                "INSERT INTO event (at, pipeline, job, doc) VALUES (?1, ?2, ?3, ?4)",
                params![at.as_millisecond(), pipeline.0 as i64, job.map(|j| j.0 as i64), what.to_string()],
            ),
            Write::Expiry { file, job, at } => run(
                "INSERT OR REPLACE INTO artifact_expiry VALUES (?1, ?2, ?3)",
                params![file, job.0 as i64, at.as_second()],
            ),
            Write::Expired { file } => run("DELETE FROM artifact_expiry WHERE file = ?1", params![file]),
            Write::Deployment(d) => run(
                "INSERT INTO deployment VALUES (?1, ?2, ?3, ?4)",
                params![d.number as i64, d.environment, d.project, json(&*d)?],
            ),
            Write::Outbox { id, kind, doc } => {
                run("INSERT INTO outbox VALUES (?1, ?2, ?3)", params![id as i64, kind, doc.to_string()])
            }
            Write::Told(id) => run("DELETE FROM outbox WHERE id = ?1", params![id as i64]),
            Write::Request { id, pipeline } => {
                run("INSERT OR IGNORE INTO request VALUES (?1, ?2)", params![id, pipeline.0 as i64])
            }
            Write::RemoteJob { upstream, remote, job } => run(
                "INSERT OR IGNORE INTO remote_job VALUES (?1, ?2, ?3)",
                params![upstream, remote as i64, job.0 as i64],
            ),
            Write::Duration { project, job, seconds } => {
                run("INSERT OR REPLACE INTO duration VALUES (?1, ?2, ?3)", params![project.0 as i64, job, seconds])
            }
            Write::Forget(pipeline) => {
                let id = pipeline.0 as i64;
                run("DELETE FROM event WHERE pipeline = ?1", params![id])?;
                run("DELETE FROM remote_job WHERE job IN (SELECT id FROM job WHERE pipeline = ?1)", params![id])?;
                run("DELETE FROM job WHERE pipeline = ?1", params![id])?;
                run("DELETE FROM request WHERE pipeline = ?1", params![id])?;
                run("DELETE FROM pipeline WHERE id = ?1", params![id])
            }
        }
    }
}
