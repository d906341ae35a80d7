//! A lent engine, and giving it back.

use super::cgroup::Group;
use super::lend::{Lender, blocking, layers_failed, tls_folder};
use super::record::Record;
use super::stop::{self, Stopped};
use super::{EngineError, container};
use crate::layers::store::Finishing;
use crate::layers::{self, Finished, Promotion, Store, Wall};
use bollard::Docker;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// An engine that answers on both ports. Give it back; one that is dropped runs on until the next start's sweep.
pub struct Lent {
    /// Its name, of the process, the control groups, the folder.
    pub id: String,
    /// Where the job reaches it.
    pub address: Ipv4Addr,
    /// A folder with `client/{ca,cert,key}.pem`, to be mounted read-only on the job's `/certs`.
    pub tls_dir: PathBuf,
    /// `lineage@n` it started from; `None` is cold.
    pub generation: Option<String>,
    /// How old that is.
    pub age: Option<Duration>,
    /// Milliseconds of making its data directory.
    pub clone_ms: u64,
    /// Milliseconds from being asked for to its first answer.
    pub ready_ms: u64,
    /// How long it waited for an earlier job of the pipeline to be promoted; part of `ready_ms`.
    pub waited: Duration,
    /// What the service asked for and did not get, for the job's log.
    pub notes: Vec<String>,
    record: Record,
    folder: PathBuf,
    clone: layers::Clone,
    door: Option<tokio::process::Child>,
    store: Arc<Store>,
    docker: Docker,
    stop_within: Duration,
}

/// What is done with an engine that is given back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// It is stopped and what it built is offered to the store.
    Keep {
        /// Seconds the job's script took: what its new layers are worth.
        build_seconds: f64,
    },
    /// It is killed and forgotten: the lease is gone, or nothing came of the job.
    Discard,
}

/// What an engine used, read before it ends. `None` where the host does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU seconds.
    pub cpu_seconds: Option<f64>,
    /// Highest memory in bytes.
    pub memory_peak_bytes: Option<u64>,
}

/// The one line of a job's log about its engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Returned {
    /// The beginning, known since it was lent.
    pub lent: String,
    /// What became of it.
    pub ending: String,
    /// What the store said; `None` when it was not asked.
    pub promotion: Option<Promotion>,
}

impl fmt::Display for Returned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.lent, self.ending)
    }
}

impl Lent {
    pub(super) fn new(
        lender: &Lender,
        record: Record,
        folder: PathBuf,
        clone: layers::Clone,
        door: tokio::process::Child,
        notes: Vec<String>,
    ) -> Lent {
        Lent { door: Some(door), notes, ..Lent::adopted(lender, record, folder, clone) }
    }

    pub(super) fn adopted(lender: &Lender, record: Record, folder: PathBuf, clone: layers::Clone) -> Lent {
        Lent {
            id: record.id.clone(),
            address: record.address,
            tls_dir: tls_folder(&folder),
            generation: clone.generation.as_ref().map(ToString::to_string),
            age: clone.age,
            clone_ms: record.clone_ms,
            ready_ms: record.ready_ms,
            waited: Duration::ZERO,
            notes: Vec::new(),
            record,
            folder,
            clone,
            door: None,
            store: lender.store.clone(),
            docker: lender.docker.clone(),
            stop_within: lender.config.stop_within,
        }
    }

    /// The line of the job's log once the engine answers.
    #[must_use]
    pub fn line(&self) -> String {
        let from = match (&self.generation, self.age) {
            (Some(generation), Some(age)) => format!("generation {generation} ({} old)", human(age)),
            (Some(generation), None) => format!("generation {generation}"),
            (None, _) => "cold".to_owned(),
        };
        let waited = match self.waited.as_millis() {
            0..50 => String::new(),
            ms => format!(" ({ms} ms of it waiting for an earlier job of the pipeline)"),
        };
        let wall = match self.record.wall {
            Wall::Userns => "userns wall",
            Wall::Container => "container wall (as strong as --privileged)",
        };
        format!("engine: {from}, cloned in {} ms, ready in {} ms{waited}, {wall}", self.clone_ms, self.ready_ms)
    }

    /// The host's process 1 of the engine, for tests and for people.
    #[must_use]
    pub fn init_pid(&self) -> Option<i32> {
        self.record.init.map(|p| p.pid)
    }

    /// Says that what this engine built is on its way into the store: later jobs of the pipeline wait for it, at most
    /// three seconds. Take it before `finished` is said, drop it after [`Lent::give_back`].
    pub fn finishing(&self) -> Finishing {
        let lineage = &self.clone.lineage;
        self.store.finishing(lineage.project, lineage.tier, self.record.pipeline)
    }

    /// What it used so far. Blocks for some reads of small files.
    #[must_use]
    pub fn usage(&self) -> Usage {
        match self.record.wall {
            Wall::Userns => {
                let group = Group::of(&self.id);
                Usage { cpu_seconds: group.cpu_seconds(), memory_peak_bytes: group.memory_peak_bytes() }
            }
            Wall::Container => Usage::default(),
        }
    }

    /// Ends the engine, keeps what it built or not, removes all of it. Call it after `finished` was said. Not
    /// cancel-safe: what a dropped call leaves is removed at the next start.
    pub async fn give_back(mut self, ending: Ending) -> Returned {
        let line = self.line();
        let stopped = self.end(ending).await;
        self.remove().await;
        let (store, clone) = (self.store.clone(), self.clone);
        let (text, promotion) = match ending {
            Ending::Discard => {
                let discarded = blocking(move || store.discard(clone).map_err(layers_failed)).await;
                (discarded.map_or_else(|e| format!("not removed: {e}"), |()| "discarded".to_owned()), None)
            }
            Ending::Keep { build_seconds } => {
                let finished = Finished {
                    clean_stop: stopped.clean,
                    snapshots: stopped.snapshots,
                    build_seconds,
                    job: self.record.job,
                    pipeline: self.record.pipeline,
                    commit: self.record.commit.clone(),
                };
                match blocking(move || store.promote(clone, &finished).map_err(layers_failed)).await {
                    Ok(promotion) => (promotion.to_string(), Some(promotion)),
                    Err(e) => (format!("not promoted: {e}"), None),
                }
            }
        };
        let returned = Returned { lent: line, ending: text, promotion };
        tracing::info!(engine = self.record.id, "{returned}");
        returned
    }

    /// Ends and removes it after a start that went wrong at its very end.
    pub(super) async fn abandon(self) {
        self.give_back(Ending::Discard).await;
    }

    async fn end(&self, ending: Ending) -> Stopped {
        let grace = match ending {
            Ending::Keep { .. } => self.stop_within,
            Ending::Discard => Duration::ZERO,
        };
        if let Ending::Keep { .. } = ending {
            super::tidy::tidy(self.address).await;
        }
        match (self.record.wall, self.record.init, &self.record.container) {
            (Wall::Userns, Some(init), _) => {
                stop::stop(init, grace).await;
                let folder = self.folder.clone();
                blocking(move || Ok(stop::read_last(&folder))).await.unwrap_or_default()
            }
            (Wall::Container, _, Some(made)) => {
                container::stop(&self.docker, made, grace).await;
                stop::parse_last(&container::log(&self.docker, made).await)
            }
            _ => Stopped::default(),
        }
    }

    async fn remove(&mut self) {
        container::remove(&self.docker, &container::container_name(&self.id)).await;
        if let Some(mut door) = self.door.take() {
            let _ = door.start_kill();
            let _ = door.wait().await;
        }
        let (id, folder) = (self.id.clone(), self.folder.clone());
        let removed = blocking(move || {
            stop::remove(&id, &folder);
            Ok::<_, EngineError>(())
        });
        let _ = removed.await;
    }

    /// Where its own folder is, for tests.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// An age for people: two units at most.
fn human(age: Duration) -> String {
    match age.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        s => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_for_people() {
        let shown = [5, 90, 7300, 200_000].map(|s| human(Duration::from_secs(s)));
        assert_eq!(shown, ["5 s", "1 min", "2 h 1 min", "2 d"]);
    }
}
