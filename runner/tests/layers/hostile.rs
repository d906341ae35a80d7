//! Trees that no engine makes, only an attacker with root in one.

use crate::engine_tree::{
    BLOBS, Bench, METADATA, SNAPSHOTS, SNAPSHOTTER, active, build, committed, databases, finished, generation, kept,
    promoted, protected, snapshot, tools, write,
};
use rustix::fs::{FileType, Mode};
use slipway_runner::layers::untrusted_tree::{Tree, remove};
use slipway_runner::layers::{Budget, Store};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Lets `attack` change a plain engine's tree; the reason why it was not promoted.
fn attacked(store: &Store, attack: impl FnOnce(&Path)) -> String {
    let clone = store.clone_for(&protected(), "e-attack", false).expect("a clone");
    databases(&clone.data, "x");
    snapshot(&clone.data, 1, "own");
    attack(&clone.data);
    kept(store.promote(clone, &finished(1.0, vec![committed("1")])).expect("an outcome"))
}

#[test]
fn symlinks_for_folders_are_not_followed() {
    let bench = Bench::new();
    let store = bench.store();
    let outside = tempfile::tempdir().expect("a folder");
    write(outside.path().join("fs/secret"), "of the host");
    write(outside.path().join("metadata.db"), "of the host");
    let places = [
        "containerd",
        "containerd/daemon",
        SNAPSHOTTER,
        SNAPSHOTS,
        METADATA,
        "buildkit",
        BLOBS,
        &format!("{SNAPSHOTS}/1"),
        &format!("{SNAPSHOTS}/1/fs"),
    ];
    for place in places {
        let why = attacked(&store, |data| {
            let path = data.join(place);
            if path.exists() {
                fs::remove_dir_all(&path).expect("removed");
            }
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            symlink(outside.path(), &path).expect("a link");
        });
        assert!(why.contains("leads out of the engine's own folder"), "{place}: {why}");
        assert_eq!(fs::read_to_string(outside.path().join("fs/secret")).expect("still there"), "of the host");
    }
}

#[test]
fn symlinks_for_databases_are_not_followed() {
    let bench = Bench::new();
    let store = bench.store();
    for file in [format!("{SNAPSHOTTER}/metadata.db"), format!("{METADATA}/meta.db")] {
        let why = attacked(&store, |data| {
            fs::remove_file(data.join(&file)).expect("removed");
            symlink("/etc/shadow", data.join(&file)).expect("a link");
        });
        assert!(why.ends_with("is not of the expected type"), "{why}");
    }
    // One of the build cache's is simply not kept.
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    databases(&clone.data, "x");
    snapshot(&clone.data, 1, "tool");
    symlink("/etc/shadow", clone.data.join("buildkit/history.db")).expect("a link");
    generation(store.promote(clone, &finished(1.0, vec![committed("1")])).expect("an outcome"));
    let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
    assert!(fs::symlink_metadata(clone.data.join("buildkit/history.db")).is_err());
}

#[test]
fn fifos_for_files_do_not_block_and_devices_are_refused() {
    let bench = Bench::new();
    let store = bench.store();
    let make = |path: &Path, kind: FileType, device: u64| {
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::RWXU, device).expect("made (the tests run as root)");
    };
    let why = attacked(&store, |data| {
        let path = data.join(SNAPSHOTTER).join("metadata.db");
        fs::remove_file(&path).expect("removed");
        make(&path, FileType::Fifo, 0);
    });
    assert!(why.ends_with("is not of the expected type"), "{why}");
    let why = attacked(&store, |data| {
        let blobs = data.join(BLOBS);
        fs::create_dir_all(&blobs).expect("folders");
        make(&blobs.join("a".repeat(64)), FileType::Fifo, 0);
    });
    assert!(why.ends_with("is not of the expected type"), "{why}");
    for (kind, device) in [
        (FileType::BlockDevice, rustix::fs::makedev(8, 0)),
        (FileType::CharacterDevice, rustix::fs::makedev(1, 1)),
        (FileType::CharacterDevice, rustix::fs::makedev(10, 229)),
    ] {
        let why = attacked(&store, |data| make(&data.join(SNAPSHOTS).join("1/fs/node"), kind, device));
        assert!(why.ends_with("is a device node"), "{why}");
    }
}

#[test]
fn whiteouts_common_devices_fifos_and_sockets_are_what_images_have() {
    let bench = Bench::new();
    let store = bench.store();
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    databases(&clone.data, "x");
    for id in [1, 2] {
        snapshot(&clone.data, id, "tool");
        let fs_folder = clone.data.join(SNAPSHOTS).join(id.to_string()).join("fs");
        for (name, kind, device) in [
            ("whiteout", FileType::CharacterDevice, 0),
            ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
            ("pipe", FileType::Fifo, 0),
            ("socket", FileType::Socket, 0),
        ] {
            rustix::fs::mknodat(rustix::fs::CWD, fs_folder.join(name), kind, Mode::RWXU, device).expect("made");
        }
        symlink("/etc/passwd", fs_folder.join("absolute")).expect("a link");
    }
    generation(store.promote(clone, &finished(1.0, vec![committed("1"), active(2, "m")])).expect("an outcome"));
    assert!(store.verify().expect("verified without waiting for a writer").is_sound());
    let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
    let copy = clone.data.join(SNAPSHOTS).join("2/fs");
    let whiteout = fs::symlink_metadata(copy.join("whiteout")).expect("copied");
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&whiteout.file_type()));
    assert!(fs::symlink_metadata(copy.join("pipe")).is_err(), "nobody is at its other end");
    assert_eq!(fs::read_link(copy.join("absolute")).expect("as it is").to_str(), Some("/etc/passwd"));
}

#[test]
fn giants_are_refused_by_what_reading_them_would_take() {
    let bench = Bench::new();
    let small = Budget {
        promote_max_bytes: 1 << 30,
        promote_max_inodes: 200,
        private_max_bytes: 1 << 20,
        ..crate::engine_tree::budget()
    };
    let store = Store::open(&bench.root, small).expect("the store opens");
    let sparse = |path: &Path, length: u64| fs::File::create(path).and_then(|f| f.set_len(length)).expect("a hole");
    let why = attacked(&store, |data| sparse(&data.join(SNAPSHOTS).join("1/fs/giant"), 1 << 40));
    assert!(why.ends_with("goes beyond the bytes one engine may leave"), "{why}");
    let why = attacked(&store, |data| sparse(&data.join("buildkit/giant.db"), 1 << 21));
    assert!(why.ends_with("goes beyond the bytes one engine may leave"), "{why}");
    let why = attacked(&store, |data| {
        for n in 0..300 {
            write(data.join(SNAPSHOTS).join("1/fs").join(format!("file{n}")), "");
        }
    });
    assert!(why.ends_with("goes beyond the files one engine may leave"), "{why}");
    let mut infos = vec![committed("1")];
    infos.push(active(2, "mount"));
    let clone = store.clone_for(&protected(), "e-mount", false).expect("a clone");
    databases(&clone.data, "x");
    snapshot(&clone.data, 1, "own");
    snapshot(&clone.data, 2, "mount");
    sparse(&clone.data.join(SNAPSHOTS).join("2/fs/giant"), 1 << 21);
    let why = kept(store.promote(clone, &finished(1.0, infos)).expect("an outcome"));
    assert!(why.ends_with("goes beyond the bytes one engine may leave"), "a mount is copied for each engine: {why}");
}

#[test]
fn bottomless_folders_are_refused_and_removed() {
    let bench = Bench::new();
    let store = bench.store();
    let why = attacked(&store, |data| {
        // Beyond PATH_MAX: made by moving, as an attacker would.
        let top = data.join(SNAPSHOTS).join("1/fs");
        for n in 0..3000 {
            let (inner, outer) = (top.join("d"), top.join("e"));
            fs::create_dir(&outer).expect("a folder");
            if n > 0 {
                fs::rename(&inner, outer.join("d")).expect("moved");
            }
            fs::rename(&outer, &inner).expect("moved");
        }
    });
    assert!(why.ends_with("is nested too deep"), "{why}");
    assert_eq!(fs::read_dir(bench.root.join("trash")).expect("trash").count(), 0, "removed, deep as it was");
    assert_eq!(store.engines().expect("engines"), Vec::<String>::new());
}

#[test]
fn removal_takes_links_not_what_they_lead_to() {
    let outside = tempfile::tempdir().expect("a folder");
    write(outside.path().join("kept"), "kept");
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("x/y")).expect("folders");
    symlink(outside.path(), folder.path().join("x/link")).expect("a link");
    symlink(outside.path(), folder.path().join("x/y/link")).expect("a link");
    fs::hard_link(outside.path().join("kept"), folder.path().join("x/hard")).expect("a link");
    for n in 0..5000 {
        fs::write(folder.path().join("x/y").join(n.to_string()), "").expect("a file");
    }
    let tree = Tree::open(folder.path()).expect("open");
    remove(&tree, "x".as_ref()).expect("removed");
    remove(&tree, "x".as_ref()).expect("removed already");
    assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 0);
    assert_eq!(fs::read_to_string(outside.path().join("kept")).expect("kept"), "kept");
}

#[test]
fn colliding_and_malformed_names_are_not_adopted() {
    let bench = Bench::new();
    let store = bench.store();
    promoted(&store, &protected(), "one", 1.0);
    let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
    // The name of a layer that exists, as a snapshot's and as a blob's: the store mints its own.
    let taken = fs::read_dir(&clone.layers).expect("layers").next().expect("one").expect("entry").file_name();
    snapshot(&clone.data, 2, "tool of two");
    for odd in ["007", "-1", "+2", "18446744073709551616", "new-123", "rm-5", "2 ", taken.to_str().expect("ascii")] {
        write(clone.data.join(SNAPSHOTS).join(odd).join("fs/odd"), "odd");
    }
    for odd in ["abc".to_owned(), "A".repeat(64), "a".repeat(65), taken.into_string().expect("ascii")] {
        write(clone.data.join(BLOBS).join(odd), "odd");
    }
    generation(store.promote(clone, &finished(1.0, vec![committed("1"), committed("2")])).expect("an outcome"));
    let clone = store.clone_for(&protected(), "e-3", false).expect("a clone");
    assert_eq!(tools(&clone).into_values().collect::<Vec<_>>(), ["tool of one", "tool of two"]);
    assert_eq!(fs::read_dir(clone.data.join(BLOBS)).expect("blobs").count(), 1);
    let verified = store.verify().expect("verified");
    assert!(verified.is_sound(), "{:?}", verified.faults);
}

#[test]
fn hard_link_between_a_layer_and_a_mount_does_not_make_the_layer_writable() {
    let bench = Bench::new();
    let store = bench.store();
    let clone = store.clone_for(&protected(), "e-1", false).expect("a clone");
    databases(&clone.data, "x");
    snapshot(&clone.data, 1, "layer");
    snapshot(&clone.data, 2, "mount");
    let (layer, mount) = (clone.data.join(SNAPSHOTS).join("1/fs/bin/tool"), clone.data.join(SNAPSHOTS).join("2/fs/x"));
    fs::hard_link(layer, mount).expect("a link");
    generation(store.promote(clone, &finished(1.0, vec![committed("1"), active(2, "m")])).expect("an outcome"));
    let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
    fs::write(clone.data.join(SNAPSHOTS).join("2/fs/x"), "written by the next job").expect("its own copy");
    assert_eq!(tools(&clone)[&1], "layer");
    let verified = store.verify().expect("verified");
    assert!(verified.is_sound(), "{:?}", verified.faults);
}

#[test]
fn attack_leaves_the_lineage_warm() {
    let bench = Bench::new();
    let store = bench.store();
    let first = promoted(&store, &protected(), "one", 5.0);
    let clone = store.clone_for(&protected(), "e-2", false).expect("a clone");
    fs::remove_dir_all(clone.data.join("containerd")).expect("rm -rf as root inside");
    fs::remove_dir_all(clone.data.join("buildkit")).expect("rm -rf as root inside");
    let why = kept(store.promote(clone, &finished(1.0, Vec::new())).expect("an outcome"));
    assert!(why.contains("no known way"), "{why}");
    let clone = store.clone_for(&protected(), "e-3", false).expect("a clone");
    assert_eq!(clone.generation, Some(first));
    assert_eq!(tools(&clone)[&1], "tool of one");
    assert_eq!(generation(build(&store, clone, "two", 1.0)).number, 2);
}
