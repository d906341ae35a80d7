//! `verify`, sizes, format stamps.

use crate::engine_tree::{
    BLOBS, Bench, SNAPSHOTS, committed, databases, finished, generation, promoted, protected, snapshot, write,
};
use slipway_runner::layers::verify::FaultKind;
use slipway_runner::layers::{LayersError, Store};
use std::collections::HashSet;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn kinds(store: &Store) -> Vec<FaultKind> {
    store.verify().expect("verified").faults.into_iter().map(|f| f.kind).collect()
}

fn flip(path: &Path) {
    let before = fs::read(path).expect("the file");
    let mut file = fs::File::options().write(true).open(path).expect("the file");
    let at = before.len() / 2;
    file.seek(SeekFrom::Start(at as u64)).expect("there");
    file.write_all(&[before[at] ^ 0x10]).expect("flipped");
}

fn layers(root: &Path) -> Vec<PathBuf> {
    let folder = fs::read_dir(root.join("layers/1/protected")).expect("layers");
    folder.map(|e| e.expect("an entry").path()).collect()
}

#[test]
fn verify_finds_a_flipped_byte_of_a_snapshot() {
    let bench = Bench::new();
    let store = bench.store();
    let first = promoted(&store, &protected(), "one", 1.0);
    let sound = store.verify().expect("verified");
    assert_eq!((sound.is_sound(), sound.generations, sound.layers, sound.sealed), (true, 1, 2, 0));
    let tool = layers(&bench.root).into_iter().find(|p| p.is_dir()).expect("the snapshot").join("fs/bin/tool");
    flip(&tool);
    let faults = store.verify().expect("verified").faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!((faults[0].kind, &faults[0].generations), (FaultKind::Changed, &vec![first]));
}

#[test]
fn verify_finds_a_flipped_byte_of_a_blob_and_of_a_database() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "one", 1.0);
    flip(&layers(&bench.root).into_iter().find(|p| p.is_file()).expect("the blob"));
    assert_eq!(kinds(&store), [FaultKind::Changed]);
    let generation = bench.root.join("generations").join(protected().key().as_str()).join("1");
    flip(&generation.join("tree/buildkit/cache.db"));
    assert_eq!(kinds(&store), [FaultKind::Changed, FaultKind::Changed]);
}

#[test]
fn verify_finds_a_changed_mode_a_lost_file_and_one_more() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "one", 1.0);
    let folder = layers(&bench.root).into_iter().find(|p| p.is_dir()).expect("the snapshot");
    let mode = |m| fs::set_permissions(folder.join("fs/bin/tool"), std::os::unix::fs::PermissionsExt::from_mode(m));
    mode(0o4755).expect("changed");
    assert_eq!(kinds(&store), [FaultKind::Changed]);
    mode(0o644).expect("changed back");
    assert_eq!(kinds(&store), []);
    fs::write(folder.join("planted"), "").expect("planted");
    assert_eq!(kinds(&store), [FaultKind::Changed]);
    fs::remove_file(folder.join("planted")).expect("removed");
    fs::rename(folder.join("fs/bin/tool"), folder.join("fs/bin/tool2")).expect("renamed");
    assert_eq!(kinds(&store), [FaultKind::Changed]);
}

#[test]
fn verify_finds_a_missing_layer_and_an_orphan_and_gc_takes_the_orphan() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "one", 1.0);
    let orphan = bench.root.join("layers/1/protected").join("0".repeat(32));
    write(orphan.join("file"), "nobody's");
    let missing = layers(&bench.root).into_iter().find(|p| p.is_file()).expect("the blob");
    fs::remove_file(&missing).expect("removed");
    let faults = store.verify().expect("verified").faults;
    let found: Vec<_> = faults.iter().map(|f| (f.kind, f.path.clone())).collect();
    assert_eq!(found, [(FaultKind::Missing, missing), (FaultKind::Orphan, orphan.clone())]);
    assert_eq!(store.gc().expect("collected").generations, []);
    assert!(!orphan.exists());
    assert_eq!(kinds(&store), [FaultKind::Missing]);
}

#[test]
fn verify_seals_what_a_crash_left_unsealed() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "one", 1.0);
    fs::remove_dir_all(bench.root.join("sums/1")).expect("removed");
    let verified = store.verify().expect("verified");
    assert_eq!((verified.is_sound(), verified.sealed), (true, 1));
    flip(&layers(&bench.root).into_iter().find(|p| p.is_dir()).expect("the snapshot").join("fs/bin/tool"));
    assert_eq!(kinds(&store), [FaultKind::Changed]);
}

/// Bytes on disk beneath `path`, each inode once: what `du` says.
fn disk_usage(path: &Path, seen: &mut HashSet<u64>) -> u64 {
    let stat = fs::symlink_metadata(path).expect("an entry");
    let own = if seen.insert(stat.ino()) { stat.blocks() * 512 } else { 0 };
    if !stat.is_dir() {
        return own;
    }
    own + fs::read_dir(path).expect("a folder").map(|e| disk_usage(&e.expect("entry").path(), seen)).sum::<u64>()
}

#[test]
fn sizes_are_what_the_disk_says_shared_bytes_once() {
    let bench = Bench::new();
    let store = bench.store();
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    databases(&clone.data, "one");
    snapshot(&clone.data, 1, &"x".repeat(300_000));
    let folder = clone.data.join(SNAPSHOTS).join("1/fs/bin");
    for n in 0..5 {
        fs::hard_link(folder.join("tool"), folder.join(format!("link{n}"))).expect("a link");
    }
    fs::File::create(folder.join("hole")).and_then(|f| f.set_len(50 << 20)).expect("a hole");
    write(clone.data.join(BLOBS).join("b".repeat(64)), "y".repeat(100_000));
    generation(store.promote(clone, &finished(1.0, vec![committed("1")])).expect("an outcome"));
    for n in 2..=4 {
        promoted(&store, &protected(), &format!("commit {n}"), 1.0);
    }
    let mut seen = HashSet::new();
    let mut expected = 0;
    for layer in layers(&bench.root) {
        expected += disk_usage(&layer, &mut seen);
    }
    let lineage = bench.root.join("generations").join(protected().key().as_str());
    for n in 2..=4 {
        let files = [
            "buildkit/cache.db".to_owned(),
            "buildkit/containerd-overlayfs/metadata_v2.db".to_owned(),
            "buildkit/containerd-overlayfs/workerid".to_owned(),
            format!("{}/metadata.db", crate::engine_tree::SNAPSHOTTER),
            format!("{}/meta.db", crate::engine_tree::METADATA),
        ];
        for file in files {
            expected += disk_usage(&lineage.join(n.to_string()).join("tree").join(file), &mut seen);
        }
    }
    let listing = store.list().expect("a listing");
    assert_eq!(listing.bytes, expected);
    assert_eq!(store.bytes().expect("bytes"), expected);
    let generations = &listing.lineages[0].generations;
    assert!(generations.iter().map(|g| g.bytes).sum::<u64>() > expected, "each holds what it shares");
    let alone: u64 = generations.iter().map(|g| g.bytes_of_its_own).sum();
    assert!(alone < expected, "and says what is its own");
    let collected = store.drop(&protected().key(), None).expect("dropped");
    assert_eq!(collected.bytes, expected);
    assert_eq!(layers(&bench.root).len(), 0);
    assert_eq!(store.bytes().expect("bytes"), 0);
}

#[test]
fn dropped_lineage_is_found_by_the_beginning_of_its_name() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "one", 1.0);
    promoted(&store, &crate::engine_tree::lineage(1, "build_other", slipway_spec::job::Tier::Protected), "two", 1.0);
    assert_eq!(store.find("p1-build_image").expect("found"), protected().key());
    let many = store.find("p1-build").expect_err("two begin so").to_string();
    assert!(many.contains("2 lineages begin with p1-build"), "{many}");
    let none = store.find("p2").expect_err("none").to_string();
    assert!(none.contains("no lineage is named p2"), "{none}");
}

#[test]
fn newer_format_is_refused_older_is_cold() {
    let bench = Bench::new();
    drop(bench.store());
    fs::write(bench.root.join("FORMAT"), "slipway-layers 2\n").expect("stamped");
    let refused = Store::open(&bench.root, crate::engine_tree::budget()).expect_err("newer");
    assert!(matches!(refused, LayersError::NewerFormat { found: 2, .. }));
    assert!(refused.to_string().contains("upgrade it, or give it another cache folder"), "{refused}");
    fs::write(bench.root.join("FORMAT"), "slipway-layers 1\n").expect("stamped");
    let store = bench.store();
    promoted(&store, &protected(), "one", 1.0);
    drop(store);
    fs::write(bench.root.join("FORMAT"), "slipway-layers 0\n").expect("stamped");
    let store = bench.store();
    assert!(store.clone_for(&protected(), "e-1", false).expect("a clone").is_cold());
    assert_eq!(fs::read_to_string(bench.root.join("FORMAT")).expect("stamp"), "slipway-layers 1\n");
}

#[test]
fn folder_of_something_else_is_not_taken() {
    let bench = Bench::new();
    write(bench.root.join("photos/cat.jpg"), "meow");
    let refused = Store::open(&bench.root, crate::engine_tree::budget()).expect_err("not ours");
    assert!(refused.to_string().contains("is not empty and not a layer store"), "{refused}");
    assert!(bench.root.join("photos/cat.jpg").exists());
    assert!(!bench.root.join("layers").exists());
}

#[test]
fn root_is_closed_to_users_of_the_host() {
    let bench = Bench::new();
    fs::create_dir(&bench.root).expect("a folder");
    fs::set_permissions(&bench.root, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("open");
    drop(bench.store());
    let mode = fs::metadata(&bench.root).expect("the root").mode() & 0o7777;
    assert_eq!(mode, 0o700, "layers hold set-user-id files");
}
