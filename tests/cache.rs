//! `slipway cache` on a node's layer store, as people and scripts use it.

use slipway_runner::layers::{
    self, Budget, EngineKind, Finished, ImageStore, Lineage, Promotion, SnapshotInfo, SnapshotKind, Store, Wall,
};
use slipway_spec::ids::{JobId, PipelineId, ProjectId};
use slipway_spec::job::Tier;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Node {
    folder: tempfile::TempDir,
    store: Store,
}

impl Node {
    fn new() -> Node {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join(layers::FOLDER), Budget::default()).expect("the store opens");
        Node { folder, store }
    }

    fn lineage() -> Lineage {
        let kind =
            EngineKind { major: 26, store: ImageStore::Containerd, wall: Wall::Userns, arch: "amd64".to_owned() };
        Lineage { project: ProjectId(1), job: "build_image".to_owned(), tier: Tier::Protected, kind }
    }

    /// One more generation with one more layer, as an engine would leave it.
    fn promote(&self, n: u64) {
        let clone = self.store.clone_for(&Self::lineage(), &format!("e-{n}"), false).expect("a clone");
        let daemon = clone.data.join("containerd/daemon");
        let write = |path: PathBuf| {
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, format!("content {n}")).expect("a file");
        };
        write(daemon.join("io.containerd.metadata.v1.bolt/meta.db"));
        write(daemon.join("io.containerd.snapshotter.v1.overlayfs/metadata.db"));
        write(daemon.join(format!("io.containerd.snapshotter.v1.overlayfs/snapshots/{n}/fs/file")));
        let info = |n: u64| SnapshotInfo { id: None, key: n.to_string(), kind: SnapshotKind::Committed, parent: None };
        let finished = Finished {
            clean_stop: true,
            snapshots: (1..=n).map(info).collect(),
            build_seconds: 2.5,
            job: JobId(n),
            pipeline: PipelineId(1),
            commit: "0123456789abcdef".to_owned(),
        };
        let promotion = self.store.promote(clone, &finished).expect("an outcome");
        assert!(matches!(promotion, Promotion::Promoted { .. }), "{promotion}");
    }

    fn cache(&self, args: &[&str]) -> (i32, String) {
        cache(self.folder.path(), args)
    }

    fn json(&self, args: &[&str]) -> serde_json::Value {
        let (code, text) = self.cache(&[args, &["--json"]].concat());
        assert!(code < 2, "{text}");
        serde_json::from_str(&text).expect("one JSON document")
    }
}

fn cache(root: &Path, args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_slipway"))
        .arg("cache")
        .args(args)
        .arg("--cache-root")
        .arg(root)
        .env("SLIPWAY_LOG", "error")
        .output()
        .expect("slipway runs");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.code().expect("an exit code"), text)
}

#[test]
fn generations_are_listed_rolled_back_and_dropped_by_the_beginning_of_a_name() {
    let node = Node::new();
    for n in 1..=3 {
        node.promote(n);
    }
    let (code, text) = node.cache(&["ls"]);
    assert_eq!(code, 0, "{text}");
    let key = Node::lineage().key().to_string();
    let lines: Vec<&str> = text.lines().filter(|l| l.contains(&key)).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[2].contains("3 *") && lines[2].contains("01234567") && lines[2].contains("7.5"), "{text}");

    let listing = node.json(&["ls"]);
    assert_eq!(listing["bytes"].as_u64(), Some(node.store.bytes().expect("bytes")));
    assert_eq!(listing["lineages"][0]["generations"][2]["current"], true);

    let (code, text) = node.cache(&["rollback", "p1-build"]);
    assert_eq!((code, text.trim()), (0, format!("jobs start from {key}@2 now").as_str()));
    let (code, text) = node.cache(&["rollback", &format!("{key}@1")]);
    assert_eq!((code, text.trim()), (0, format!("jobs start from {key}@1 now").as_str()));
    let clone = node.store.clone_for(&Node::lineage(), "e-after", false).expect("a clone");
    assert_eq!(clone.generation.as_ref().map(|g| g.number), Some(1));
    node.store.discard(clone).expect("discarded");

    let (code, text) = node.cache(&["rollback", "p1-build@9"]);
    assert!(code == 1 && text.contains("has no generation 9; it has 1, 2, 3"), "{text}");
    let (code, text) = node.cache(&["drop", "nobody"]);
    assert!(code == 1 && text.contains("no lineage is named nobody"), "{text}");

    let dropped = node.json(&["drop", &format!("{key}@3")]);
    assert_eq!((&dropped["layers"], dropped["generations"].as_array().map(Vec::len)), (&1.into(), Some(1)));
    let (code, text) = node.cache(&["drop", "p1"]);
    assert!(code == 0 && text.starts_with("removed "), "{text}");
    assert_eq!(node.json(&["ls"])["bytes"], 0);
}

#[test]
fn verify_exits_with_one_and_names_what_is_wrong_and_gc_removes_an_orphan() {
    let node = Node::new();
    node.promote(1);
    let (code, text) = node.cache(&["verify"]);
    assert!(code == 0 && text.contains("1 generations, 1 layers") && text.trim().ends_with("sound"), "{text}");
    let layers = node.store.root().join("layers/1/protected");
    let layer = fs::read_dir(&layers).expect("layers").next().expect("one").expect("an entry").path();
    fs::write(layer.join("fs/file"), "content 2").expect("a flipped byte");
    let orphan = layers.join("f".repeat(32));
    fs::create_dir(&orphan).expect("an orphan");
    let (code, text) = node.cache(&["verify"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("its bytes are not what they were") && text.contains("@1)"), "{text}");
    // Opening the store for `verify` has removed the orphan already, as every opening does.
    assert!(!orphan.exists());
    let kinds = node.json(&["verify"])["faults"].as_array().map(Vec::len);
    assert_eq!(kinds, Some(1));
    assert_eq!(node.cache(&["gc"]).0, 0);
}

#[test]
fn folder_without_a_store_is_said_to_be_one_and_stays_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, text) = cache(folder.path(), &["ls"]);
    assert!(code == 1 && text.contains("holds no layer store"), "{text}");
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
}
