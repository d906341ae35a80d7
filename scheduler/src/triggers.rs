//! What makes pipelines by itself: pushes told by a hook or a webhook, pushes found by asking, and schedules.
//!
//! | file | noun |
//! |---|---|
//! | `config.rs` | a project's `[project.triggers]` |
//! | `refs.rs` | which refs changed between two looks; pure |
//! | `schedule.rs` | when a cron line is due; pure |
//! | `memory.rs` | what was seen and fired last, kept as one file a project |
//! | `keeper.rs` | the one task: sleeps until the next look or schedule, or until a push is told |
//! | `webhook.rs` | the HTTP endpoint |

pub mod config;
mod keeper;
mod memory;
pub mod refs;
pub mod schedule;
pub mod webhook;

pub use keeper::{Keeper, MAX_PIPELINES_PER_PUSH, Told, Watched};

use std::future::Future;
use std::pin::Pin;

/// A pipeline that should be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Path of the registered project.
    pub project: String,
    /// Branch or tag, without `refs/heads/`.
    pub ref_name: String,
    /// Whether it is a tag.
    pub is_tag: bool,
    /// The commit; empty: the ref's at the time of making.
    pub sha: String,
    /// The commit before the push; empty when there was none.
    pub before_sha: String,
    /// `CI_PIPELINE_SOURCE`: `push` or `schedule`.
    pub source: &'static str,
    /// Variables of a schedule.
    pub variables: Vec<(String, String)>,
    /// Who, for the records: `hook of ada`, `webhook`, `poll`, `schedule "nightly"`.
    pub who: String,
}

/// A pipeline could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotMade {
    /// The commit's configuration makes none (invalid, or no job fits): asking again changes nothing.
    ForGood(String),
    /// The repository or the store could not be read: worth asking again.
    ForNow(String),
}

/// What makes pipelines: the scheduler's driver.
pub trait MakePipeline: Send + Sync + 'static {
    /// Makes one; `Ok` is its number.
    fn make(&self, wanted: Wanted) -> Pin<Box<dyn Future<Output = Result<u64, NotMade>> + Send>>;
}
