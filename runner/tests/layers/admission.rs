//! Disk that cannot fill up.

use crate::engine_tree::{Bench, budget, committed, databases, finished, kept, lineage, promoted, protected, snapshot};
use slipway_runner::layers::budget::Space;
use slipway_runner::layers::{Budget, Faults, Lineage, Step, Store};
use slipway_spec::job::Tier;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn job(name: &str) -> Lineage {
    lineage(1, name, Tier::Protected)
}

/// A store on a disk of `size` bytes, of which the store's own bytes are taken.
fn small_disk(root: &Path, size: u64, budget: Budget) -> Store {
    let inner = Store::open(root, budget.clone()).expect("the store opens");
    let space = move |_: &Path| {
        let used = inner.bytes().map_err(io::Error::other)?;
        Ok(Space { free_bytes: size.saturating_sub(used), total_bytes: size })
    };
    Store::open_with(root, budget, Faults::none(), space).expect("the store opens")
}

#[test]
fn reservation_evicts_what_is_cheapest_to_rebuild_and_refuses_when_that_is_not_enough() {
    let bench = Bench::new();
    let floor = Budget { disk_floor_bytes: 1000, ..budget() };
    {
        let store = Store::open(&bench.root, floor.clone()).expect("the store opens");
        promoted(&store, &job("dear"), "dear", 600.0);
        // Its own: from nothing, so that it shares no layer with the dear one.
        promoted(&store, &lineage(2, "cheap", Tier::Protected), "cheap", 1.0);
    }
    let probe = Store::open(&bench.root, floor.clone()).expect("the store opens");
    let used = probe.bytes().expect("bytes");
    let size = used + 1000 + 500;
    let store = small_disk(&bench.root, size, floor);
    let fits = store.reserve(500).expect("there is room");
    assert_eq!(store.promised_bytes(), 500);
    assert_eq!(store.list().expect("listing").lineages.iter().map(|l| l.generations.len()).sum::<usize>(), 2);
    let more = store.reserve(500).expect("the cheap one goes");
    let left: Vec<_> =
        store.list().expect("listing").lineages.into_iter().filter(|l| !l.generations.is_empty()).collect();
    assert_eq!(left.iter().map(|l| l.job.as_str()).collect::<Vec<_>>(), ["dear"]);
    let pinned = store.clone_for(&job("dear"), "e-1", false).expect("a clone");
    let refused = store.reserve(size).expect_err("not with all that");
    let text = refused.to_string();
    assert!(text.contains("1000 B are promised to running jobs and 1000 B must stay free"), "{text}");
    assert!(text.contains("no generation could be evicted"), "{text}");
    assert_eq!(store.generations().expect("generations").len(), 1, "never what an engine runs on");
    store.discard(pinned).expect("discarded");
    let refused = store.reserve(size).expect_err("still not");
    assert_eq!(refused.evicted, 1, "now nobody runs on it");
    drop((fits, more));
    assert_eq!(store.promised_bytes(), 0);
    let all = store.reserve(size - 1000).expect("an empty store leaves all but the floor");
    assert_eq!(all.bytes(), size - 1000);
}

#[test]
fn cache_beyond_its_budget_shrinks_at_promotion() {
    let bench = Bench::new();
    {
        let store = bench.store();
        promoted(&store, &job("a"), "a", 1.0);
    }
    let one = bench.store().bytes().expect("bytes");
    let tight = Budget { cache_max_bytes: one * 3, ..budget() };
    let store = Store::open(&bench.root, tight.clone()).expect("the store opens");
    for n in 2..=6u64 {
        // Projects share nothing, so each costs as much as the first.
        promoted(&store, &lineage(n, "b", Tier::Protected), &format!("b {n}"), n as f64 * 100.0);
        assert!(store.bytes().expect("bytes") <= tight.cache_max_bytes, "after {n}");
    }
    let mut left: Vec<u64> = store.generations().expect("generations").iter().map(|g| g.project).collect();
    left.sort_unstable();
    assert_eq!(left, [4, 5, 6], "the dearest stay");
    assert!(store.verify().expect("verified").is_sound());
}

#[test]
fn disk_that_fills_during_promotion_is_a_reason_and_the_lineage_stays_warm() {
    for step in [Step::Examined, Step::Staged, Step::LayersMoved, Step::Synced, Step::Placed] {
        let bench = Bench::new();
        let first = promoted(&bench.store(), &protected(), "one", 5.0);
        let hits = Arc::new(AtomicU64::new(0));
        let counted = hits.clone();
        let faults = Faults::with(move |at| {
            if at == step {
                counted.fetch_add(1, Ordering::Relaxed);
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            Ok(())
        });
        let store = Store::open_with(&bench.root, budget(), faults, slipway_runner::layers::store::statvfs)
            .expect("the store opens");
        let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
        databases(&clone.data, "two");
        snapshot(&clone.data, 2, "two");
        let outcome = store.promote(clone, &finished(1.0, vec![committed("1"), committed("2")])).expect("an outcome");
        let why = kept(outcome);
        assert_eq!(hits.load(Ordering::Relaxed), 1, "{step:?}");
        assert!(why.contains("no storage space"), "{step:?}: {why}");
        let store = bench.store();
        let verified = store.verify().expect("verified");
        assert!(verified.is_sound(), "{step:?}: {:?}", verified.faults);
        let clone = store.clone_for(&protected(), "e-3", false).expect("a clone");
        assert_eq!(clone.generation, Some(first), "{step:?}");
    }
}
