//! What is read. Readers see the last commit and never wait for the writer (WAL).

use crate::record::{Job, Pipeline};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;
use slipway_spec::ids::{JobId, PipelineId, ProjectId};
use slipway_spec::view::DeploymentView;
use std::sync::Arc;

/// Largest number of pipelines in one list.
pub const MAX_LISTED: u32 = 1_000;

fn document<T: DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(e)))
}

fn pipeline_of(row: &Row<'_>) -> rusqlite::Result<Pipeline> {
    let mut pipeline: Pipeline = document(row.get_ref(0)?.as_str()?)?;
    pipeline.plan = Arc::new(document(row.get_ref(1)?.as_str()?)?);
    Ok(pipeline)
}

/// A pipeline with its plan.
pub fn pipeline(c: &Connection, id: PipelineId) -> rusqlite::Result<Option<Pipeline>> {
    c.prepare_cached("SELECT doc, plan FROM pipeline WHERE id = ?1")?
        .query_row(params![id.0 as i64], pipeline_of)
        .optional()
}

/// All attempts of all jobs of a pipeline, oldest first.
pub fn jobs(c: &Connection, pipeline: PipelineId) -> rusqlite::Result<Vec<Job>> {
    c.prepare_cached("SELECT doc FROM job WHERE pipeline = ?1 ORDER BY id")?
        .query_map(params![pipeline.0 as i64], |row| document(row.get_ref(0)?.as_str()?))?
        .collect()
}

/// A job.
pub fn job(c: &Connection, id: JobId) -> rusqlite::Result<Option<Job>> {
    c.prepare_cached("SELECT doc FROM job WHERE id = ?1")?
        .query_row(params![id.0 as i64], |row| document(row.get_ref(0)?.as_str()?))
        .optional()
}

/// The newest pipelines, newest first.
pub fn pipelines(c: &Connection, path: &str, limit: u32) -> rusqlite::Result<Vec<Pipeline>> {
    let limit = if limit == 0 { 50 } else { limit.min(MAX_LISTED) };
    if path.is_empty() {
        c.prepare_cached("SELECT doc, plan FROM pipeline ORDER BY id DESC LIMIT ?1")?
            .query_map(params![limit], pipeline_of)?
            .collect()
    } else {
        c.prepare_cached("SELECT doc, plan FROM pipeline WHERE path = ?1 ORDER BY id DESC LIMIT ?2")?
            .query_map(params![path, limit], pipeline_of)?
            .collect()
    }
}

/// The pipelines that are not over.
pub fn active(c: &Connection) -> rusqlite::Result<Vec<Pipeline>> {
    c.prepare("SELECT doc, plan FROM pipeline WHERE active = 1 ORDER BY id")?.query_map([], pipeline_of)?.collect()
}

/// The last number of a kind that was given out.
pub fn counter(c: &Connection, name: &str) -> rusqlite::Result<u64> {
    let last: Option<i64> =
        c.query_row("SELECT last FROM counter WHERE name = ?1", params![name], |row| row.get(0)).optional()?;
    Ok(last.unwrap_or(0) as u64)
}

/// A project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectRow {
    /// Its number.
    pub id: ProjectId,
    /// Empty for our own.
    pub upstream: String,
    /// Its key there.
    pub key: String,
    /// For people.
    pub path: String,
    /// Last pipeline number within it.
    pub iid: u64,
}

/// All projects.
pub fn projects(c: &Connection) -> rusqlite::Result<Vec<ProjectRow>> {
    c.prepare("SELECT id, upstream, key, path, iid FROM project")?
        .query_map([], |row| {
            Ok(ProjectRow {
                id: ProjectId(row.get::<_, i64>(0)? as u64),
                upstream: row.get(1)?,
                key: row.get(2)?,
                path: row.get(3)?,
                iid: row.get::<_, i64>(4)? as u64,
            })
        })?
        .collect()
}

/// The pipeline that a request made.
pub fn request(c: &Connection, id: &str) -> rusqlite::Result<Option<PipelineId>> {
    c.prepare_cached("SELECT pipeline FROM request WHERE id = ?1")?
        .query_row(params![id], |row| Ok(PipelineId(row.get::<_, i64>(0)? as u64)))
        .optional()
}

/// Our number of a GitLab job.
pub fn remote_job(c: &Connection, upstream: &str, remote: u64) -> rusqlite::Result<Option<JobId>> {
    c.prepare_cached("SELECT job FROM remote_job WHERE upstream = ?1 AND remote = ?2")?
        .query_row(params![upstream, remote as i64], |row| Ok(JobId(row.get::<_, i64>(0)? as u64)))
        .optional()
}

/// The record of deployments, oldest first; empty texts mean all.
pub fn deployments(c: &Connection, environment: &str, project: &str) -> rusqlite::Result<Vec<DeploymentView>> {
    c.prepare_cached(
        "SELECT doc FROM deployment WHERE (?1 = '' OR environment = ?1) AND (?2 = '' OR project = ?2) ORDER BY number",
    )?
    .query_map(params![environment, project], |row| document(row.get_ref(0)?.as_str()?))?
    .collect()
}

/// The last entry of the record of deployments.
pub fn last_deployment(c: &Connection) -> rusqlite::Result<Option<DeploymentView>> {
    c.query_row("SELECT doc FROM deployment ORDER BY number DESC LIMIT 1", [], |row| {
        document(row.get_ref(0)?.as_str()?)
    })
    .optional()
}

/// What is still to be told outside: number, kind, document.
pub fn outbox(c: &Connection) -> rusqlite::Result<Vec<(u64, String, serde_json::Value)>> {
    c.prepare("SELECT id, kind, doc FROM outbox ORDER BY id")?
        .query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?, document(row.get_ref(2)?.as_str()?)?)))?
        .collect()
}

/// Artifacts whose time has come, at most `limit`: file and job.
pub fn expired(c: &Connection, now: Timestamp, limit: u32) -> rusqlite::Result<Vec<(String, JobId)>> {
    c.prepare_cached("SELECT file, job FROM artifact_expiry WHERE at <= ?1 ORDER BY at LIMIT ?2")?
        .query_map(params![now.as_second(), limit], |row| Ok((row.get(0)?, JobId(row.get::<_, i64>(1)? as u64))))?
        .collect()
}

/// Pipelines that ended before a moment, at most `limit`.
pub fn finished_before(c: &Connection, at: Timestamp, limit: u32) -> rusqlite::Result<Vec<PipelineId>> {
    c.prepare_cached("SELECT id FROM pipeline WHERE finished < ?1 AND active = 0 ORDER BY finished LIMIT ?2")?
        .query_map(params![at.as_second(), limit], |row| Ok(PipelineId(row.get::<_, i64>(0)? as u64)))?
        .collect()
}

/// How long jobs take.
pub fn durations(c: &Connection) -> rusqlite::Result<Vec<((ProjectId, String), f64)>> {
    c.prepare("SELECT project, job, seconds FROM duration")?
        .query_map([], |row| Ok(((ProjectId(row.get::<_, i64>(0)? as u64), row.get(1)?), row.get(2)?)))?
        .collect()
}

/// The history of a pipeline, oldest first: milliseconds, job, event.
pub fn events(c: &Connection, pipeline: PipelineId) -> rusqlite::Result<Vec<(i64, Option<JobId>, serde_json::Value)>> {
    c.prepare_cached("SELECT at, job, doc FROM event WHERE pipeline = ?1 ORDER BY seq")?
        .query_map(params![pipeline.0 as i64], |row| {
            Ok((
                row.get(0)?,
                row.get::<_, Option<i64>>(1)?.map(|j| JobId(j as u64)),
                document(row.get_ref(2)?.as_str()?)?,
            ))
        })?
        .collect()
}
