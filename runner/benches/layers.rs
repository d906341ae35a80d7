//! `cargo bench -p slipway-runner --bench layers`: what a clone costs at 10, 100 and 400 layers. O(layers): the layers
//! of this bench hold little, those of a real generation hold ten thousand files and cost the same.

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use slipway_runner::layers::{
    Budget, EngineKind, Finished, ImageStore, Lineage, Promotion, SnapshotInfo, SnapshotKind, Store, Wall,
};
use slipway_spec::ids::{JobId, PipelineId, ProjectId};
use slipway_spec::job::Tier;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

const DAEMON: &str = "containerd/daemon";

/// Sizes of the databases of an engine that has built a Node service a few times, in bytes.
const DATABASES: [(&str, usize); 6] = [
    ("containerd/daemon/io.containerd.metadata.v1.bolt/meta.db", 512 << 10),
    ("containerd/daemon/io.containerd.snapshotter.v1.overlayfs/metadata.db", 128 << 10),
    ("buildkit/cache.db", 128 << 10),
    ("buildkit/history.db", 256 << 10),
    ("buildkit/containerd-overlayfs/metadata_v2.db", 512 << 10),
    ("buildkit/containerd-overlayfs/workerid", 25),
];

fn write(path: &Path, bytes: usize) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    fs::write(path, vec![b'x'; bytes]).expect("a file");
}

fn lineage(layers: u64) -> Lineage {
    let kind = EngineKind { major: 26, store: ImageStore::Containerd, wall: Wall::Userns, arch: "amd64".to_owned() };
    Lineage { project: ProjectId(layers), job: "build_image".to_owned(), tier: Tier::Protected, kind }
}

/// Promotes a generation of `layers` layers, half snapshots, half blobs.
fn promoted(store: &Store, layers: u64) {
    let clone = store.clone_for(&lineage(layers), &format!("make-{layers}"), false).expect("a clone");
    for (file, bytes) in DATABASES {
        write(&clone.data.join(file), bytes);
    }
    let daemon = clone.data.join(DAEMON);
    for n in 1..=layers / 2 {
        let snapshot = daemon.join(format!("io.containerd.snapshotter.v1.overlayfs/snapshots/{n}"));
        write(&snapshot.join("fs/bin/tool"), 100);
        fs::create_dir(snapshot.join("work")).expect("work");
        write(&daemon.join(format!("io.containerd.content.v1.content/blobs/sha256/{n:064x}")), 100);
    }
    let snapshots = (1..=layers / 2)
        .map(|n| SnapshotInfo { id: None, key: n.to_string(), kind: SnapshotKind::Committed, parent: None })
        .collect();
    let finished = Finished {
        clean_stop: true,
        snapshots,
        build_seconds: 1.0,
        job: JobId(1),
        pipeline: PipelineId(1),
        commit: "c".to_owned(),
    };
    let promotion = store.promote(clone, &finished).expect("an outcome");
    assert!(matches!(promotion, Promotion::Promoted { .. }), "{promotion}");
}

fn clone(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on the disk of the build");
    let store = Store::open(&folder.path().join("store"), Budget::default()).expect("the store opens");
    let number = AtomicU64::new(0);
    let mut group = criterion.benchmark_group("clone");
    for layers in [10, 100, 400] {
        promoted(&store, layers);
        group.bench_function(BenchmarkId::from_parameter(layers), |bencher| {
            bencher.iter_batched(
                || {
                    for engine in store.engines().expect("engines") {
                        let clone = store.adopt(&engine).expect("a record").expect("a clone");
                        store.discard(clone).expect("discarded");
                    }
                    format!("e-{}", number.fetch_add(1, Ordering::Relaxed))
                },
                |engine| {
                    let clone = store.clone_for(&lineage(layers), &engine, false).expect("a clone");
                    assert_eq!(clone.layer_count as u64, layers);
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, clone);
criterion_main!(benches);
