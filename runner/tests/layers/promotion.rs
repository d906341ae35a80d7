//! Clone, build, promote, clone again: what lives on, what does not, and who succeeds whom.

use crate::engine_tree::{
    BLOBS, Bench, SNAPSHOTS, active, blob, build, committed, databases, finished, generation, inside, kept, lineage,
    litter, next_snapshot, promoted, protected, snapshot, tools, write,
};
use slipway_runner::layers::{Budget, Promotion, SnapshotInfo, SnapshotKind, Store};
use slipway_spec::ids::{PipelineId, ProjectId};
use slipway_spec::job::Tier;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

#[test]
fn clone_of_nothing_is_an_empty_data_directory() {
    let bench = Bench::new();
    let store = bench.store();
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    assert!(clone.is_cold() && clone.age.is_none());
    assert_eq!(fs::read_dir(&clone.data).expect("data").count(), 0);
    assert!(clone.layers.is_dir());
    store.discard(clone).expect("discarded");
    assert_eq!(store.engines().expect("engines"), Vec::<String>::new());
}

#[test]
fn clone_of_a_generation_has_its_layers_databases_and_nothing_of_the_job() {
    let bench = Bench::new();
    let store = bench.store();
    let first = promoted(&store, &protected(), "node 20", 60.0);
    let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
    assert_eq!(clone.generation.as_ref(), Some(&first));
    assert!(clone.age.is_some());
    assert_eq!(tools(&clone).into_values().collect::<Vec<_>>(), ["tool of node 20"]);
    assert_eq!(fs::read_to_string(clone.data.join("buildkit/cache.db")).expect("db"), "build cache node 20");
    let worker = clone.data.join("buildkit/containerd-overlayfs/workerid");
    assert_eq!(fs::read_to_string(worker).expect("the id"), "a1b2c3", "cache records are tied to it");
    for gone in ["containers", "volumes", "network", "tmp", "engine-id", "buildkit/executor"] {
        assert!(!clone.data.join(gone).exists(), "{gone} is a job's own affair");
    }
    let ingest = clone.data.join("containerd/daemon/io.containerd.content.v1.content/ingest");
    assert!(!ingest.exists(), "half a blob is no blob");
}

#[test]
fn generation_thirty_is_as_shallow_as_generation_two() {
    let bench = Bench::new();
    let store = bench.store();
    for n in 1..=30 {
        assert_eq!(promoted(&store, &protected(), &format!("commit {n}"), 1.0).number, n);
    }
    let clone = store.clone_for(&protected(), "e-last", false).expect("a clone");
    let tools = tools(&clone);
    assert_eq!(tools.len(), 30);
    assert_eq!(tools[&1], "tool of commit 1");
    for id in tools.keys() {
        let link = clone.data.join(SNAPSHOTS).join(id.to_string());
        let stored = inside(&clone, &link);
        assert!(fs::symlink_metadata(stored).expect("the layer").is_dir(), "one link, whatever the age");
    }
    let listing = store.list().expect("a listing");
    let numbers: Vec<u64> = listing.lineages[0].generations.iter().map(|g| g.number).collect();
    assert_eq!(numbers, [28, 29, 30], "older ones are retired");
}

#[test]
fn cache_mount_lives_on_and_is_private_to_each_engine() {
    let bench = Bench::new();
    let store = bench.store();
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    databases(&clone.data, "one");
    snapshot(&clone.data, 1, "layer");
    let mount = format!("{SNAPSHOTS}/2/fs");
    write(clone.data.join(&mount).join("npm/log"), "first\n");
    fs::hard_link(clone.data.join(&mount).join("npm/log"), clone.data.join(&mount).join("npm/again")).expect("a link");
    std::os::unix::fs::symlink("/etc/passwd", clone.data.join(&mount).join("npm/passwd")).expect("a link");
    let infos = vec![committed("1"), active(2, "cache-mount")];
    generation(store.promote(clone, &finished(3.0, infos.clone())).expect("an outcome"));

    let a = store.clone_for(&protected(), "e-a", false).expect("a clone");
    let b = store.clone_for(&protected(), "e-b", false).expect("a clone");
    for (clone, line) in [(&a, "first\na\n"), (&b, "first\nb\n")] {
        let folder = clone.data.join(&mount);
        assert!(fs::symlink_metadata(&folder).expect("the mount").is_dir(), "a folder of its own, not a link");
        let log = folder.join("npm/log");
        assert_eq!(fs::read_to_string(&log).expect("the log"), "first\n");
        fs::write(&log, line).expect("written in place");
        assert_eq!(fs::read_to_string(folder.join("npm/again")).expect("the log"), line, "still one file");
        assert_eq!(fs::read_link(folder.join("npm/passwd")).expect("a link").to_str(), Some("/etc/passwd"));
        snapshot(&clone.data, 3, "more");
    }
    let infos = vec![committed("1"), active(2, "cache-mount"), committed("3")];
    generation(store.promote(a, &finished(1.0, infos.clone())).expect("an outcome"));
    generation(store.promote(b, &finished(2.0, infos)).expect("an outcome"));
    let next = store.clone_for(&protected(), "e-next", false).expect("a clone");
    let log = fs::read_to_string(next.data.join(&mount).join("npm/log")).expect("the log");
    assert_eq!(log, "first\nb\n", "the successor's");
}

#[test]
fn views_are_folders_without_content_and_no_layers() {
    let bench = Bench::new();
    let store = bench.store();
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    databases(&clone.data, "one");
    snapshot(&clone.data, 1, "tool of one");
    let view = |id, key: &str| SnapshotInfo { id, kind: SnapshotKind::View, ..committed(key) };
    for id in [2, 3] {
        fs::create_dir_all(clone.data.join(SNAPSHOTS).join(format!("{id}/fs"))).expect("a view's folder");
    }
    let infos = vec![committed("1"), view(Some(2), "1-view"), view(None, "deep-view")];
    generation(store.promote(clone, &finished(1.0, infos)).expect("an outcome"));
    assert_eq!(store.list().expect("a listing").lineages[0].generations[0].layers, 1);
    let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
    for id in [2, 3] {
        let folder = clone.data.join(SNAPSHOTS).join(format!("{id}/fs"));
        assert!(fs::symlink_metadata(&folder).expect("the folder").is_dir());
        assert_eq!(fs::read_dir(&folder).expect("the folder").count(), 0);
    }
}

#[test]
fn layer_keeps_modes_owners_and_attributes() {
    let bench = Bench::new();
    let store = bench.store();
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    databases(&clone.data, "one");
    snapshot(&clone.data, 1, "layer");
    let tool = clone.data.join(SNAPSHOTS).join("1/fs/bin/tool");
    std::os::unix::fs::chown(&tool, Some(1000), Some(999)).expect("given away");
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).expect("mode");
    rustix::fs::setxattr(&tool, "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).expect("attribute");
    // The same as a cache mount: it is copied, not moved.
    snapshot(&clone.data, 2, "mount");
    let mount = clone.data.join(SNAPSHOTS).join("2/fs/bin/tool");
    std::os::unix::fs::chown(&mount, Some(1000), Some(999)).expect("given away");
    std::fs::set_permissions(&mount, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).expect("mode");
    rustix::fs::setxattr(&mount, "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).expect("attribute");
    let time = fs::metadata(&mount).expect("the file").mtime_nsec();
    generation(store.promote(clone, &finished(1.0, vec![committed("1"), active(2, "m")])).expect("an outcome"));
    let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
    for id in [1, 2] {
        let tool = inside(&clone, &clone.data.join(SNAPSHOTS).join(id.to_string())).join("fs/bin/tool");
        let stat = fs::metadata(&tool).expect("the tool");
        assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o4755, 1000, 999), "snapshot {id}");
        let mut value = [0u8; 8];
        let length = rustix::fs::getxattr(&tool, "user.overlay.opaque", value.as_mut_slice()).expect("the attribute");
        assert_eq!(&value[..length], b"y", "snapshot {id}");
        if id == 2 {
            assert_eq!(stat.mtime_nsec(), time, "build tools compare times");
        }
    }
}

#[test]
fn engine_that_did_not_stop_or_built_nothing_is_not_promoted() {
    let bench = Bench::new();
    let store = bench.store();
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    databases(&clone.data, "torn");
    snapshot(&clone.data, 1, "layer");
    let mut killed = finished(9.0, vec![committed("1")]);
    killed.clean_stop = false;
    assert_eq!(kept(store.promote(clone, &killed).expect("an outcome")), "the engine did not stop by itself");

    promoted(&store, &protected(), "one", 5.0);
    let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
    let same = finished(9.0, vec![committed("1")]);
    assert_eq!(kept(store.promote(clone, &same).expect("an outcome")), "nothing new was built");
    assert_eq!(store.engines().expect("engines"), Vec::<String>::new(), "gone either way");
}

#[test]
fn snapshot_that_is_named_and_gone_is_a_reason_not_an_error() {
    let bench = Bench::new();
    let store = bench.store();
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    databases(&clone.data, "one");
    snapshot(&clone.data, 1, "layer");
    let named = finished(9.0, vec![committed("1"), committed("2")]);
    let why = kept(store.promote(clone, &named).expect("an outcome"));
    assert_eq!(why, "the engine names 2 snapshots, only 1 are on its disk");

    let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
    databases(&clone.data, "one");
    snapshot(&clone.data, 1, "layer");
    let named = finished(9.0, vec![active(7, "mount")]);
    let why = kept(store.promote(clone, &named).expect("an outcome"));
    assert_eq!(why, "snapshot 7 is named by the engine but gone from its disk");
}

#[test]
fn prune_inside_takes_links_not_layers_and_the_rest_is_promoted() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "one", 5.0);
    promoted(&store, &protected(), "two", 5.0);
    let clone = store.clone_for(&protected(), "e-3", false).expect("a clone");
    fs::remove_file(clone.data.join(SNAPSHOTS).join("1")).expect("pruned");
    for entry in fs::read_dir(clone.data.join(BLOBS)).expect("blobs") {
        fs::remove_file(entry.expect("an entry").path()).expect("pruned");
    }
    databases(&clone.data, "three");
    snapshot(&clone.data, 3, "tool of three");
    let promotion = store.promote(clone, &finished(1.0, vec![committed("2"), committed("3")])).expect("an outcome");
    assert_eq!(generation(promotion).number, 3);
    assert!(store.verify().expect("verified").is_sound());
    let clone = store.clone_for(&protected(), "e-4", false).expect("a clone");
    assert_eq!(tools(&clone).into_values().collect::<Vec<_>>(), ["tool of two", "tool of three"]);
    store.discard(clone).expect("discarded");
    let back = store.rollback(&protected().key(), Some(1)).expect("rolled back");
    let clone = store.clone_for(&protected(), "e-5", false).expect("a clone");
    assert_eq!((clone.generation.as_ref(), tools(&clone).len()), (Some(&back), 1), "the older ones are whole");
}

#[test]
fn race_keeps_the_layers_that_took_longest_whoever_is_first() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "base", 10.0);
    let start = |name: &str| store.clone_for(&protected(), name, false).expect("a clone");
    let (fast, slow, middle) = (start("e-fast"), start("e-slow"), start("e-middle"));
    assert_eq!(generation(build(&store, fast, "fast", 1.0)).number, 2);
    match build(&store, slow, "slow", 900.0) {
        Promotion::Promoted { generation, instead_of, .. } => assert_eq!((generation.number, instead_of), (3, Some(2))),
        Promotion::Kept(why) => panic!("{why}"),
    }
    assert_eq!(
        kept(build(&store, middle, "middle", 60.0)),
        "generation 3 came first and holds 900.0 s of building, this job adds 60.0 s"
    );
    let clone = store.clone_for(&protected(), "e-next", false).expect("a clone");
    let tools: Vec<String> = tools(&clone).into_values().collect();
    assert_eq!(tools, ["tool of base", "tool of slow"]);
    assert!(store.verify().expect("verified").is_sound(), "what lost left nothing behind");
}

#[test]
fn race_of_twenty_threads_leaves_one_sound_lineage() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "base", 10.0);
    std::thread::scope(|scope| {
        for n in 0..20u32 {
            let store = &store;
            scope.spawn(move || {
                let clone = store.clone_for(&protected(), &format!("e-{n}"), false).expect("a clone");
                build(store, clone, &format!("commit-{n}"), f64::from(n) + 1.0)
            });
        }
    });
    let verified = store.verify().expect("verified");
    assert!(verified.is_sound(), "{:?}", verified.faults);
    let clone = store.clone_for(&protected(), "e-next", false).expect("a clone");
    assert!(clone.generation.as_ref().expect("warm").number > 1);
    assert!(tools(&clone).len() > 1);
}

#[test]
fn rolled_back_lineage_is_not_moved_by_jobs_of_what_was_left_behind() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "good", 10.0);
    promoted(&store, &protected(), "bad", 10.0);
    let late = store.clone_for(&protected(), "e-late", false).expect("a clone");
    assert_eq!(store.rollback(&protected().key(), None).expect("rolled back").number, 1);
    assert_eq!(
        kept(build(&store, late, "late", 999.0)),
        "generation 2, which it started from, was rolled back or dropped meanwhile"
    );
    let next = promoted(&store, &protected(), "next", 1.0);
    assert_eq!(next.number, 3, "a number is never used twice");
    let clone = store.clone_for(&protected(), "e-after", false).expect("a clone");
    assert_eq!(tools(&clone).into_values().collect::<Vec<_>>(), ["tool of good", "tool of next"]);
    let wrong = store.rollback(&protected().key(), Some(9)).expect_err("there is none");
    assert!(wrong.to_string().contains("has no generation 9; it has 1, 2, 3"), "{wrong}");
}

#[test]
fn condemned_generation_gives_way_to_its_parent_then_to_cold_and_is_counted() {
    let bench = Bench::new();
    let store = bench.store();
    let first = promoted(&store, &protected(), "one", 10.0);
    let second = promoted(&store, &protected(), "two", 10.0);
    let running = store.clone_for(&protected(), "e-running", false).expect("a clone");
    assert_eq!(store.condemn(&second, "containerd did not start").expect("condemned"), Some(first.clone()));
    assert_eq!(tools(&running).len(), 2, "an engine that runs on it keeps its layers");
    let clone = store.clone_for(&protected(), "e-3", false).expect("a clone");
    assert_eq!(clone.generation.as_ref(), Some(&first));
    store.discard(clone).expect("discarded");
    assert_eq!(store.condemn(&first, "neither").expect("condemned"), None);
    let clone = store.clone_for(&protected(), "e-4", false).expect("a clone");
    assert!(clone.is_cold());
    assert_eq!(store.list().expect("a listing").lineages[0].condemned, 2);
    assert_eq!(generation(build(&store, clone, "anew", 1.0)).number, 3);
}

#[test]
fn damaged_records_cost_a_cold_start_never_an_error() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "one", 10.0);
    promoted(&store, &protected(), "two", 10.0);
    let folder = bench.root.join("generations").join(protected().key().as_str());
    fs::write(folder.join("2/manifest.json"), "{").expect("damaged");
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    assert_eq!(clone.generation.as_ref().expect("warm").number, 1, "its parent is used");
    store.discard(clone).expect("discarded");

    fs::write(folder.join("current"), "nonsense").expect("damaged");
    let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
    assert!(clone.is_cold());
    assert_eq!(generation(build(&store, clone, "three", 1.0)).number, 2, "after all that are there");

    fs::remove_dir_all(folder.join("2/tree")).expect("damaged");
    let clone = store.clone_for(&protected(), "e-3", false).expect("a clone");
    assert!(clone.generation.is_none_or(|g| g.number == 1));
}

#[test]
fn missing_layer_condemns_the_generation_that_needs_it() {
    let bench = Bench::new();
    let store = bench.store();
    let first = promoted(&store, &protected(), "one", 10.0);
    let clone = store.clone_for(&protected(), "e-look", false).expect("a clone");
    let before: BTreeSet<_> = fs::read_dir(&clone.layers).expect("layers").map(|e| e.expect("entry").path()).collect();
    store.discard(clone).expect("discarded");
    promoted(&store, &protected(), "two", 10.0);
    let folder = bench.root.join("layers/1/protected");
    let after: BTreeSet<_> = fs::read_dir(&folder).expect("layers").map(|e| e.expect("entry").path()).collect();
    let new = after.difference(&before).find(|p| p.is_dir()).expect("the new snapshot");
    fs::remove_dir_all(new).expect("damaged");
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    assert_eq!(clone.generation, Some(first));
}

#[test]
fn engine_that_outlived_its_runner_is_adopted_and_promoted() {
    let bench = Bench::new();
    let store = bench.store();
    let first = promoted(&store, &protected(), "one", 10.0);
    let clone = store.clone_for(&protected(), "e-survivor", false).expect("a clone");
    let lost = store.clone_for(&protected(), "e-lost", false).expect("a clone");
    drop((clone, lost, store));

    let store = bench.store();
    let clone = store.adopt("e-survivor").expect("the record").expect("a clone");
    assert_eq!(clone.generation, Some(first));
    let alive = BTreeSet::from(["e-survivor".to_owned()]);
    assert_eq!(store.sweep_engines(&alive).expect("swept"), ["e-lost"]);
    assert_eq!(generation(build(&store, clone, "two", 1.0)).number, 2);
    assert!(store.adopt("e-lost").expect("no record").is_none());
}

#[test]
fn engine_names_are_folders_and_taken_once() {
    let bench = Bench::new();
    let store = bench.store();
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    assert!(store.clone_for(&protected(), "e-1", false).is_err(), "taken");
    for name in ["", "../x", "a/b", "A", ".", &"x".repeat(65)] {
        assert!(store.clone_for(&protected(), name, false).is_err(), "{name:?}");
    }
    store.discard(clone).expect("discarded");
}

#[test]
fn lineage_with_too_many_layers_starts_cold_next_time() {
    let bench = Bench::new();
    let small = Budget { generation_max_layers: 5, ..crate::engine_tree::budget() };
    let store = Store::open(&bench.root, small).expect("the store opens");
    promoted(&store, &protected(), "one", 10.0);
    promoted(&store, &protected(), "two", 10.0);
    let clone = store.clone_for(&protected(), "e-3", false).expect("a clone");
    let why = kept(build(&store, clone, "three", 10.0));
    assert_eq!(why, "it would hold 6 layers, more than 5; the lineage starts cold next time");
    let clone = store.clone_for(&protected(), "e-4", false).expect("a clone");
    assert!(clone.is_cold());
    assert_eq!(generation(build(&store, clone, "anew", 1.0)).number, 3);
}

#[test]
fn unknown_layout_is_a_reason() {
    let bench = Bench::new();
    let store = bench.store();
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    write(clone.data.join("btrfs/subvolumes/x"), "");
    litter(&clone.data);
    let why = kept(store.promote(clone, &finished(1.0, Vec::new())).expect("an outcome"));
    assert!(why.starts_with("its data directory is laid out in no known way"), "{why}");
}

#[test]
fn later_job_of_a_pipeline_waits_for_the_promotion_of_an_earlier_one() {
    let bench = Bench::new();
    let store = bench.store();
    let key = (ProjectId(1), Tier::Protected, PipelineId(5));
    let clone = store.clone_for(&lineage(1, "first", Tier::Protected), "e-1", false).expect("a clone");
    let guard = store.finishing(key.0, key.1, key.2);
    let nobody = store.await_finishing(key.0, key.1, PipelineId(6), Duration::from_secs(60));
    assert!(nobody < Duration::from_secs(30), "another pipeline waits for nobody");
    std::thread::scope(|scope| {
        let later = scope.spawn(|| {
            store.await_finishing(key.0, key.1, key.2, Duration::from_secs(60));
            store.clone_for(&lineage(1, "second", Tier::Protected), "e-2", false).expect("a clone")
        });
        let first = generation(build(&store, clone, "one", 1.0));
        drop(guard);
        let later = later.join().expect("no panic");
        assert_eq!(later.generation, Some(first), "the newest of its project and tier");
        store.discard(later).expect("discarded");
    });
}

#[test]
fn blob_of_a_new_image_is_a_layer_like_any_other() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "one", 10.0);
    let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
    let digest = blob(&clone.data, "a manifest list");
    assert_eq!(next_snapshot(&clone.data), 2);
    generation(store.promote(clone, &finished(0.2, vec![committed("1")])).expect("an outcome"));
    let clone = store.clone_for(&protected(), "e-3", false).expect("a clone");
    let link = clone.data.join(BLOBS).join(digest);
    assert_eq!(fs::read_to_string(inside(&clone, &link)).expect("the blob"), "a manifest list");
}
