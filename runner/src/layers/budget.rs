//! Disk admission and the order of eviction.
//!
//! A job's build space is reserved before the job is accepted; when there is not enough, generations go, least valuable
//! first, never one in use; when even that is not enough the node takes no builds and says why.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const GIB: u64 = 1 << 30;

/// How much disk the store may use, and how much one engine may leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Layers and generations together; beyond it the least valuable go.
    pub cache_max_bytes: u64,
    /// Free bytes of the filesystem that builds must leave.
    pub disk_floor_bytes: u64,
    /// What is reserved for a job's build when its earlier runs are not known.
    pub build_disk_bytes: u64,
    /// Generations kept in a lineage, the current one included: what can be rolled back to.
    pub keep_generations: u32,
    /// Length of all files of the new layers of one job; more is not promoted.
    pub promote_max_bytes: u64,
    /// Files of the new layers of one job; more is not promoted.
    pub promote_max_inodes: u64,
    /// Length of what a generation keeps privately (databases, cache mounts): it is copied for every engine.
    pub private_max_bytes: u64,
    /// Layers of one generation, snapshots and blobs together.
    pub generation_max_layers: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget {
            cache_max_bytes: 40 * GIB,
            disk_floor_bytes: 2 * GIB,
            build_disk_bytes: GIB,
            keep_generations: 3,
            promote_max_bytes: 32 * GIB,
            promote_max_inodes: 4_000_000,
            private_max_bytes: 2 * GIB,
            generation_max_layers: 2000,
        }
    }
}

/// What a filesystem has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes still to be had by us.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// Why a job's build cannot be given disk space; a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the layer store's disk has {} free, of which {} are promised to running jobs and {} must stay free: no room for a \
     build of {}; {}",
    Bytes(*free_bytes), Bytes(*promised_bytes), Bytes(*floor_bytes), Bytes(*wanted_bytes), rest(*evicted)
)]
pub struct Refused {
    /// Free now, after eviction.
    pub free_bytes: u64,
    /// Promised to running jobs.
    pub promised_bytes: u64,
    /// Must stay free.
    pub floor_bytes: u64,
    /// Asked for.
    pub wanted_bytes: u64,
    /// Generations that were evicted in the attempt.
    pub evicted: usize,
}

fn rest(evicted: usize) -> String {
    match evicted {
        0 => "no generation could be evicted; free some disk or lower disk_floor_bytes".to_owned(),
        n => format!("{n} generations were evicted and it was not enough; free some disk"),
    }
}

/// Bytes for people: `1.5 GiB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        #[allow(clippy::cast_precision_loss)]
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < units.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", units[unit])
    }
}

/// Sum of what running jobs were promised.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promised(Arc<Mutex<u64>>);

impl Promised {
    pub(crate) fn bytes(&self) -> u64 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Promises `wanted` if `free` has room for it beside `floor` and all that was promised before.
    pub(crate) fn take(&self, wanted: u64, free: u64, floor: u64) -> Result<Reservation, u64> {
        let mut promised = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = promised.saturating_add(wanted).saturating_add(floor);
        if needed > free {
            return Err(*promised);
        }
        *promised += wanted;
        Ok(Reservation { promised: self.clone(), bytes: wanted })
    }
}

/// A promise of disk space; dropping it gives the space back.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    promised: Promised,
    bytes: u64,
}

impl Reservation {
    /// How much.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut promised = self.promised.0.lock().unwrap_or_else(PoisonError::into_inner);
        *promised = promised.saturating_sub(self.bytes);
    }
}

/// A generation that could be evicted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Whether its lineage's pointer names it; the others only serve to roll back.
    pub current: bool,
    /// What it saves a job.
    pub build_seconds: f64,
    /// Since a job last used it.
    pub idle: Duration,
    /// What removing it would free now: bytes no other generation shares.
    pub frees_bytes: u64,
}

/// Half the value is lost when a generation is not used for as long.
const HALF_LIFE_HOURS: f64 = 24.0;

impl Candidate {
    /// Seconds saved, by recency, by byte. What no job starts from saves nothing.
    #[must_use]
    pub fn value(&self) -> f64 {
        if !self.current {
            return 0.0;
        }
        let recency = 1.0 / (1.0 + self.idle.as_secs_f64() / 3600.0 / HALF_LIFE_HOURS);
        #[allow(clippy::cast_precision_loss)]
        let bytes = self.frees_bytes.max(1) as f64;
        self.build_seconds.max(0.1) * recency / bytes
    }
}

/// Index of the candidate to evict first: least value, then longest idle. `None` when there is none.
#[must_use]
pub fn least_valuable(candidates: &[Candidate]) -> Option<usize> {
    (0..candidates.len()).min_by(|a, b| {
        let (a, b) = (&candidates[*a], &candidates[*b]);
        a.value().total_cmp(&b.value()).then(b.idle.cmp(&a.idle))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(current: bool, build_seconds: f64, idle_hours: u64, frees_bytes: u64) -> Candidate {
        Candidate { current, build_seconds, idle: Duration::from_secs(idle_hours * 3600), frees_bytes }
    }

    #[test]
    fn eviction_table() {
        let cases = [
            ("rollback generations go first", vec![candidate(true, 1.0, 90, 9), candidate(false, 900.0, 0, 9)], 1),
            ("of two equals the idle one", vec![candidate(true, 60.0, 0, 100), candidate(true, 60.0, 48, 100)], 1),
            ("of two equals the larger", vec![candidate(true, 60.0, 1, 100), candidate(true, 60.0, 1, 1000)], 1),
            ("cheap to rebuild", vec![candidate(true, 600.0, 1, 100), candidate(true, 6.0, 1, 100)], 1),
            ("old but dear stays", vec![candidate(true, 600.0, 72, 100), candidate(true, 6.0, 0, 100)], 1),
        ];
        for (name, candidates, expected) in cases {
            assert_eq!(least_valuable(&candidates), Some(expected), "{name}");
        }
        assert_eq!(least_valuable(&[]), None);
    }

    #[test]
    fn reservation_counts_until_it_is_dropped() {
        let promised = Promised::default();
        let first = promised.take(60, 100, 10).expect("room for 60 of 90");
        assert_eq!(promised.take(60, 100, 10).expect_err("30 left"), 60);
        let second = promised.take(30, 100, 10).expect("exactly what is left");
        assert_eq!(promised.bytes(), 90);
        drop(first);
        assert_eq!(promised.bytes(), 30);
        drop(second);
        assert_eq!(promised.bytes(), 0);
    }

    #[test]
    fn refused_is_a_sentence_for_people() {
        let refused =
            Refused { free_bytes: 3 * GIB / 2, promised_bytes: 0, floor_bytes: 2 * GIB, wanted_bytes: GIB, evicted: 0 };
        assert_eq!(
            refused.to_string(),
            "the layer store's disk has 1.5 GiB free, of which 0 B are promised to running jobs and 2.0 GiB must stay \
             free: no room for a build of 1.0 GiB; no generation could be evicted; free some disk or lower \
             disk_floor_bytes"
        );
    }
}
