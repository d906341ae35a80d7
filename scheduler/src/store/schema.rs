//! The tables, and how an older store becomes a newer one.

use super::StoreError;
use rusqlite::Connection;
use std::path::Path;

/// Version of the tables, in the store's `user_version`. A newer one is refused, an older one is migrated.
pub const FORMAT: u32 = 1;

/// What makes version n+1 of version n; [`FORMAT`] of them.
const MIGRATIONS: [&str; FORMAT as usize] = [r#"
CREATE TABLE counter (name TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE project (
    id INTEGER PRIMARY KEY, upstream TEXT NOT NULL, key TEXT NOT NULL, path TEXT NOT NULL,
    iid INTEGER NOT NULL DEFAULT 0, UNIQUE (upstream, key)
);
CREATE TABLE pipeline (
    id INTEGER PRIMARY KEY, project INTEGER NOT NULL, path TEXT NOT NULL, active INTEGER NOT NULL,
    finished INTEGER, doc TEXT NOT NULL, plan TEXT NOT NULL
);
CREATE INDEX pipeline_active ON pipeline (id) WHERE active = 1;
CREATE INDEX pipeline_path ON pipeline (path, id);
CREATE INDEX pipeline_finished ON pipeline (finished) WHERE finished IS NOT NULL;
CREATE TABLE job (id INTEGER PRIMARY KEY, pipeline INTEGER NOT NULL, doc TEXT NOT NULL);
CREATE INDEX job_pipeline ON job (pipeline);
CREATE TABLE event (
    seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, pipeline INTEGER NOT NULL, job INTEGER, doc TEXT NOT NULL
);
CREATE INDEX event_pipeline ON event (pipeline);
CREATE TABLE artifact_expiry (file TEXT PRIMARY KEY, job INTEGER NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX artifact_expiry_at ON artifact_expiry (at);
CREATE TABLE deployment (
    number INTEGER PRIMARY KEY, environment TEXT NOT NULL, project TEXT NOT NULL, doc TEXT NOT NULL
);
CREATE INDEX deployment_environment ON deployment (environment, number);
CREATE TABLE outbox (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, doc TEXT NOT NULL);
CREATE TABLE request (id TEXT PRIMARY KEY, pipeline INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE remote_job (upstream TEXT NOT NULL, remote INTEGER NOT NULL, job INTEGER NOT NULL, PRIMARY KEY (upstream, remote)) WITHOUT ROWID;
CREATE TABLE duration (project INTEGER NOT NULL, job TEXT NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (project, job)) WITHOUT ROWID;
"#];

/// Brings the tables to [`FORMAT`].
///
/// # Errors
/// When the store is newer than this build, or SQLite fails.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(StoreError::at(path))?;
    if found > FORMAT {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: FORMAT });
    }
    for (version, sql) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let step = connection.transaction().map_err(StoreError::at(path))?;
        step.execute_batch(sql).map_err(StoreError::at(path))?;
        step.pragma_update(None, "user_version", version as u32 + 1).map_err(StoreError::at(path))?;
        step.commit().map_err(StoreError::at(path))?;
    }
    Ok(())
}
