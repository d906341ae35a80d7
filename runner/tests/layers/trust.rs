//! Who may read and write whose layers.

use crate::engine_tree::{Bench, build, generation, lineage, promoted, protected, tools};
use slipway_runner::layers::{MOUNT, Wall};
use slipway_spec::job::Tier;
use std::fs;

fn unprotected() -> slipway_runner::layers::Lineage {
    lineage(1, "build_image", Tier::Unprotected)
}

#[test]
fn unprotected_reads_protected_only_where_the_project_says_so() {
    let bench = Bench::new();
    let store = bench.store();
    let first = promoted(&store, &protected(), "release", 60.0);
    let closed = store.clone_for(&unprotected(), "e-closed", false).expect("a clone");
    assert!(closed.is_cold(), "closed by default");
    assert!(closed.layers.ends_with("layers/1/unprotected"), "it is not even shown the folder");
    let open = store.clone_for(&unprotected(), "e-open", true).expect("a clone");
    assert_eq!(open.generation, Some(first));
    assert!(open.layers.ends_with("layers/1"));
    assert_eq!(tools(&open).into_values().collect::<Vec<_>>(), ["tool of release"]);
}

#[test]
fn unprotected_writes_its_own_tier_and_only_that() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "release", 60.0);
    let before = fs::read_dir(bench.root.join("layers/1/protected")).expect("layers").count();
    let open = store.clone_for(&unprotected(), "e-open", true).expect("a clone");
    let own = generation(build(&store, open, "branch", 5.0));
    assert_eq!(own.lineage, unprotected().key());
    assert_eq!(fs::read_dir(bench.root.join("layers/1/protected")).expect("layers").count(), before);
    assert_eq!(fs::read_dir(bench.root.join("layers/1/unprotected")).expect("layers").count(), 2);

    let clone = store.clone_for(&protected(), "e-protected", true).expect("a clone");
    assert_eq!(clone.generation.expect("warm").lineage, protected().key(), "protected never reads unprotected");

    let warm = store.clone_for(&unprotected(), "e-warm", true).expect("a clone");
    assert_eq!(warm.generation.as_ref(), Some(&own));
    assert_eq!(tools(&warm).into_values().collect::<Vec<_>>(), ["tool of release", "tool of branch"]);
    let shut = store.clone_for(&unprotected(), "e-shut", false).expect("a clone");
    assert!(shut.is_cold(), "the project closed it again: a generation over protected layers is not used");
}

#[test]
fn protected_without_a_generation_is_cold_however_warm_the_branches_are() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &unprotected(), "branch", 60.0);
    let clone = store.clone_for(&protected(), "e-1", true).expect("a clone");
    assert!(clone.is_cold());
    assert!(clone.layers.ends_with("layers/1/protected"));
}

#[test]
fn nothing_crosses_projects_or_kinds_of_engine() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "ours", 60.0);
    let other = store.clone_for(&lineage(2, "build_image", Tier::Protected), "e-1", true).expect("a clone");
    assert!(other.is_cold());
    assert!(other.layers.ends_with("layers/2/protected"));
    let mut walled = protected();
    walled.kind.wall = Wall::Container;
    assert!(store.clone_for(&walled, "e-2", true).expect("a clone").is_cold());
}

#[test]
fn job_without_a_generation_falls_back_to_the_newest_of_its_project_and_tier() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &lineage(1, "old", Tier::Protected), "old", 60.0);
    let newest = promoted(&store, &lineage(1, "new", Tier::Protected), "new", 1.0);
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    assert_eq!(clone.generation, Some(newest.clone()));
    let own = generation(build(&store, clone, "own", 2.0));
    assert_eq!((own.lineage, own.number), (protected().key(), 1), "it begins its own lineage");
    let listing = store.list().expect("a listing");
    let line = listing.lineages.iter().find(|l| l.lineage == protected().key()).expect("the lineage");
    assert_eq!(line.generations[0].parent, Some(newest));
}

#[test]
fn links_an_engine_has_made_up_are_refused() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "release", 60.0);
    let secret = fs::read_dir(bench.root.join("layers/1/protected"))
        .expect("layers")
        .map(|e| e.expect("an entry").file_name().into_string().expect("a name"))
        .next()
        .expect("a layer");
    let targets = [
        format!("{MOUNT}/{secret}"),
        format!("{MOUNT}/../protected/{secret}"),
        format!("{MOUNT}/protected/{secret}"),
        "/etc".to_owned(),
    ];
    for (n, target) in targets.iter().enumerate() {
        let clone = store.clone_for(&unprotected(), &format!("e-{n}"), false).expect("a clone");
        crate::engine_tree::databases(&clone.data, "x");
        crate::engine_tree::snapshot(&clone.data, 1, "own");
        let link = clone.data.join(crate::engine_tree::SNAPSHOTS).join("2");
        std::os::unix::fs::symlink(target, link).expect("a link");
        let infos = vec![crate::engine_tree::committed("1"), crate::engine_tree::committed("2")];
        let why = crate::engine_tree::kept(
            store.promote(clone, &crate::engine_tree::finished(1.0, infos)).expect("an outcome"),
        );
        assert!(why.ends_with("leads out of the engine's own folder"), "{target}: {why}");
    }
    assert!(store.verify().expect("verified").is_sound());
}
