//! Warm starts on real engines: what one job built, the next one finds; what it did to its engine, nobody does.

use crate::yard::{Yard, docker};
use slipway_runner::engine::{Choice, Ending, Lent, Limits};
use slipway_runner::layers::{GenerationRef, Promotion};
use slipway_spec::job::Tier;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A build of four steps over `alpine`, of which the last two change with `content`.
fn build(content: &str, tag: &str) -> String {
    format!(
        "mkdir -p /tmp/src && cd /tmp/src && echo '{content}' >content && cat >Dockerfile <<'END'\n\
         FROM alpine:latest\n\
         RUN --network=none echo heavy >/heavy && date +%N >/when\n\
         RUN --network=none --mount=type=cache,target=/cache cat /cache/log 2>/dev/null; echo '{content}' >>/cache/log\n\
         COPY content /content\n\
         RUN --network=none cat /content >/copied\n\
         END\n\
         docker build --progress=plain -t {tag} . 2>&1"
    )
}

/// How many steps of a build came from the cache.
fn cached(output: &str) -> usize {
    output.lines().filter(|l| l.ends_with(" CACHED")).count()
}

async fn keep(lent: Lent, build_seconds: f64) -> GenerationRef {
    let returned = lent.give_back(Ending::Keep { build_seconds }).await;
    eprintln!("{returned}");
    match returned.promotion {
        Some(Promotion::Promoted { generation, .. }) => generation,
        other => panic!("not promoted: {other:?}"),
    }
}

fn sound(yard: &Yard) {
    let verified = yard.store.verify().expect("verified");
    assert!(verified.is_sound(), "{:#?}", verified.faults);
    assert!(verified.layers > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_job_finds_every_step_of_the_first() {
    let yard = Yard::new(Choice::Userns).await;
    let lent = yard.lend(1).await;
    assert_eq!(lent.generation, None);
    let cold = yard.sh(&lent, &build("one", "app:1"));
    assert_eq!(cached(&cold), 0, "{cold}");
    let when = yard.sh(&lent, "docker run --rm app:1 cat /when");
    let first = keep(lent, 5.0).await;
    sound(&yard);

    let lent = yard.lend(2).await;
    assert_eq!(lent.generation, Some(first.to_string()));
    let warm = yard.sh(&lent, &build("one", "app:2"));
    assert_eq!(cached(&warm), 4, "{warm}");
    assert_eq!(yard.sh(&lent, "docker run --rm app:2 cat /when"), when, "the very layer");
    let changed = yard.sh(&lent, &build("two", "app:3"));
    assert_eq!(cached(&changed), 1, "{changed}");
    assert!(yard.sh(&lent, "docker run --rm app:3 cat /copied /heavy").contains("two\nheavy"));
    let second = keep(lent, 1.0).await;
    assert_eq!(second.number, 2);
    sound(&yard);

    let lent = yard.lend(3).await;
    let images = yard.sh(&lent, "docker images --format '{{.Repository}}:{{.Tag}}'");
    for image in ["app:1", "app:2", "app:3"] {
        assert!(images.contains(image), "{images}");
    }
    let warm = yard.sh(&lent, &build("two", "app:4"));
    assert_eq!(cached(&warm), 4, "{warm}");
    lent.give_back(Ending::Discard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_inside_and_rm_as_root_inside_leave_the_store_intact() {
    let yard = Yard::new(Choice::Userns).await;
    let lent = yard.lend(1).await;
    yard.sh(&lent, &build("one", "app:1"));
    keep(lent, 5.0).await;

    let lent = yard.lend(2).await;
    let pruned = yard.sh(&lent, "docker system prune -af --volumes && docker builder prune -af && docker images -q");
    assert!(pruned.contains("Total reclaimed space"), "{pruned}");
    let rebuilt = yard.sh(&lent, &build("two", "app:2"));
    assert_eq!(cached(&rebuilt), 0, "{rebuilt}");
    let returned = lent.give_back(Ending::Keep { build_seconds: 5.0 }).await;
    eprintln!("{returned}");
    assert!(matches!(returned.promotion, Some(Promotion::Promoted { .. })), "{returned}");
    sound(&yard);

    let lent = yard.lend(3).await;
    let warm = yard.sh(&lent, &build("two", "app:3"));
    assert_eq!(cached(&warm), 4, "what was built after the prune is a generation like any other: {warm}");
    let attack = "docker run --rm --privileged --network none --pid host -v /:/host alpine:latest \
                  sh -c 'rm -rf /host/var/lib/docker/* /host/var/lib/slipway/layers/* 2>&1 | tail -3'";
    eprintln!("{}", yard.try_sh(&lent, attack).text);
    let returned = lent.give_back(Ending::Keep { build_seconds: 900.0 }).await;
    eprintln!("{returned}");
    assert!(matches!(returned.promotion, Some(Promotion::Kept(_))), "{returned}");
    sound(&yard);

    let lent = yard.lend(4).await;
    let warm = yard.sh(&lent, &build("two", "app:4"));
    assert_eq!(cached(&warm), 4, "{warm}");
    lent.give_back(Ending::Discard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_at_once_see_the_same_past_and_nothing_of_each_other() {
    let yard = Yard::new(Choice::Userns).await;
    let lent = yard.lend(1).await;
    yard.sh(&lent, &build("base", "base:1"));
    keep(lent, 5.0).await;

    let (a, b) = (yard.lend(2).await, yard.lend(3).await);
    for (lent, name) in [(&a, "a"), (&b, "b")] {
        let built = yard.sh(lent, &build(name, &format!("{name}:1")));
        assert_eq!(cached(&built), 1, "{built}");
        yard.sh(
            lent,
            &format!(
                "docker network create net-{name} && docker volume create volume-{name} && \
                 docker run -d --name box-{name} --network none -v volume-{name}:/v base:1 sleep 600"
            ),
        );
    }
    for (lent, own, other) in [(&a, "a", "b"), (&b, "b", "a")] {
        let seen = yard.sh(
            lent,
            "docker images --format '{{.Repository}}'; docker ps -a --format '{{.Names}}'; docker volume ls -q; \
             docker network ls --format '{{.Name}}'",
        );
        let words: Vec<&str> = seen.split_whitespace().collect();
        for kind in ["", "box-", "volume-", "net-"] {
            assert!(words.contains(&format!("{kind}{own}").as_str()), "{seen}");
            assert!(!words.contains(&format!("{kind}{other}").as_str()), "{seen}");
        }
        assert!(words.contains(&"base"), "{seen}");
    }
    keep(a, 2.0).await;
    let b = keep(b, 60.0).await;
    sound(&yard);

    let lent = yard.lend(4).await;
    assert_eq!(lent.generation, Some(b.to_string()), "whose layers took longer");
    let left = yard.sh(&lent, "docker ps -aq; docker volume ls -q");
    assert_eq!(left.trim(), "", "containers and volumes end with their job");
    let warm = yard.sh(&lent, &build("b", "b:2"));
    assert_eq!(cached(&warm), 4, "{warm}");
    lent.give_back(Ending::Discard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_mounts_live_on_and_are_isolated_between_jobs() {
    let yard = Yard::new(Choice::Userns).await;
    let step = |line: &str| {
        format!(
            "mkdir -p /tmp/src && cd /tmp/src && cat >Dockerfile <<'END'\n\
             FROM alpine:latest\n\
             RUN --network=none --mount=type=cache,target=/cache echo {line} >>/cache/log && cat /cache/log\n\
             END\n\
             docker build --progress=plain . 2>&1"
        )
    };
    let lines = |output: &str| -> Vec<String> {
        let words = output.lines().filter_map(|l| l.split_whitespace().nth(2)).map(str::to_owned);
        words.filter(|w| w.starts_with("line-")).collect()
    };
    let lent = yard.lend(1).await;
    assert_eq!(lines(&yard.sh(&lent, &step("line-1"))), ["line-1"]);
    keep(lent, 1.0).await;
    let (a, b) = (yard.lend(2).await, yard.lend(3).await);
    assert_eq!(lines(&yard.sh(&a, &step("line-a"))), ["line-1", "line-a"]);
    assert_eq!(lines(&yard.sh(&b, &step("line-b"))), ["line-1", "line-b"]);
    keep(a, 1.0).await;
    keep(b, 9.0).await;
    sound(&yard);
    let lent = yard.lend(4).await;
    assert_eq!(lines(&yard.sh(&lent, &step("line-2"))), ["line-1", "line-b", "line-2"], "the successor's");
    lent.give_back(Ending::Discard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_volumes_and_contexts_do_not_pile_up_from_job_to_job() {
    let yard = Yard::new(Choice::Userns).await;
    let mut private = Vec::new();
    for job in 1..=3 {
        let lent = yard.lend(job).await;
        let built = build(&format!("content {job}"), "app:1");
        let leave = "dd if=/dev/urandom of=context bs=1M count=4 2>/dev/null && \
                     docker build -q . >/dev/null && \
                     docker run -d --network none app:1 sleep 600 && \
                     docker run --network none -v data:/data app:1 \
                     dd if=/dev/urandom of=/left bs=1M count=4 2>/dev/null";
        yard.sh(&lent, &format!("{built} && {leave}"));
        keep(lent, 1.0).await;
        let listing = yard.store.list().expect("a listing");
        let generation = listing.lineages[0].generations.last().expect("the generation");
        let folder = yard.store.root().join("generations").join(listing.lineages[0].lineage.as_str());
        let snapshots = folder.join(generation.number.to_string()).join("tree/containerd/daemon");
        let snapshots = snapshots.join("io.containerd.snapshotter.v1.overlayfs/snapshots");
        private.push(fs::read_dir(snapshots).map_or(0, Iterator::count));
    }
    assert_eq!(private, [1, 1, 1], "the cache mount is all that is written in place and kept");
    let lent = yard.lend(4).await;
    assert_eq!(yard.sh(&lent, "docker ps -aq; docker volume ls -q"), "");
    lent.give_back(Ending::Discard).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupted_generation_costs_one_start_and_its_parent_is_used() {
    let yard = Yard::new(Choice::Userns).await;
    let lent = yard.lend(1).await;
    yard.sh(&lent, &build("one", "app:1"));
    let first = keep(lent, 5.0).await;
    let lent = yard.lend(2).await;
    yard.sh(&lent, &build("two", "app:2"));
    let second = keep(lent, 5.0).await;
    let tree = |generation: &GenerationRef| -> PathBuf {
        let lineage = yard.store.root().join("generations").join(generation.lineage.as_str());
        lineage.join(generation.number.to_string()).join("tree")
    };
    let database = "containerd/daemon/io.containerd.metadata.v1.bolt/meta.db";
    fs::write(tree(&second).join(database), vec![0xa5; 65_536]).expect("corrupted");
    assert_eq!(yard.store.verify().expect("verified").faults.len(), 1);

    let lent = yard.lend(3).await;
    assert_eq!(lent.generation, Some(first.to_string()), "dropped, and its parent used");
    let warm = yard.sh(&lent, &build("one", "app:3"));
    assert_eq!(cached(&warm), 4, "{warm}");
    lent.give_back(Ending::Discard).await;
    fs::write(tree(&first).join(database), vec![0x5a; 65_536]).expect("corrupted");
    let lent = yard.lend(4).await;
    assert_eq!(lent.generation, None, "then cold");
    yard.sh(&lent, &build("one", "app:4"));
    assert_eq!(keep(lent, 5.0).await.number, 3);
    assert_eq!(yard.store.list().expect("a listing").lineages[0].condemned, 2);
    sound(&yard);
}

#[tokio::test(flavor = "multi_thread")]
async fn branch_starts_from_protected_layers_only_where_the_project_says_so() {
    let yard = Yard::new(Choice::Userns).await;
    let lent = yard.lend(1).await;
    yard.sh(&lent, &build("release", "app:1"));
    keep(lent, 5.0).await;

    let mut request = yard.request(2);
    request.tier = Tier::Unprotected;
    let lent = yard.lender.lend(request.clone()).await.expect("lent");
    assert_eq!(lent.generation, None);
    let inside = "docker pull -q alpine:latest >/dev/null && docker run --rm --network none -v /:/host alpine:latest \
                  ls /host/var/lib/slipway/layers";
    assert_eq!(yard.sh(&lent, inside), "", "it is not shown the folder either");
    lent.give_back(Ending::Discard).await;

    request.read_protected = true;
    request.job = slipway_spec::ids::JobId(3);
    let lent = yard.lender.lend(request.clone()).await.expect("lent");
    let warm = yard.sh(&lent, &build("release", "app:2"));
    assert_eq!(cached(&warm), 4, "{warm}");
    yard.sh(&lent, &build("branch", "app:3"));
    let own = keep(lent, 5.0).await;
    assert!(own.lineage.as_str().contains("-unprotected-"), "{own}");

    request.job = slipway_spec::ids::JobId(4);
    let lent = yard.lender.lend(request).await.expect("lent");
    assert_eq!(lent.generation, Some(own.to_string()));
    let warm = yard.sh(&lent, &build("branch", "app:4"));
    assert_eq!(cached(&warm), 4, "{warm}");
    lent.give_back(Ending::Discard).await;

    let lent = yard.lend(5).await;
    let protected = yard.sh(&lent, &build("branch", "app:5"));
    assert_eq!(cached(&protected), 1, "protected never reads what a branch built: {protected}");
    lent.give_back(Ending::Discard).await;
    sound(&yard);
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_export_and_import_still_work() {
    let yard = Yard::new(Choice::Userns).await;
    let lent = yard.lend(1).await;
    let script = format!(
        "{} && docker buildx build --progress=plain --cache-to type=local,dest=/tmp/cache,mode=max . 2>&1 && \
         docker builder prune -af >/dev/null && \
         docker buildx build --progress=plain --cache-from type=local,src=/tmp/cache . 2>&1",
        build("one", "app:1")
    );
    let output = yard.sh(&lent, &script);
    assert!(output.contains("importing cache manifest"), "{output}");
    assert_eq!(cached(output.split("importing cache manifest").last().expect("the end")), 4, "{output}");
    lent.give_back(Ending::Discard).await;
}

/// A small ext4 filesystem on a loop device; gone when dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn new(megabytes: u64) -> SmallDisk {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let (image, at) = (folder.path().join("image"), folder.path().join("disk"));
        fs::File::create(&image).and_then(|f| f.set_len(megabytes << 20)).expect("an image");
        fs::create_dir(&at).expect("a folder");
        for command in [
            vec!["mkfs.ext4", "-q", "-F", image.to_str().expect("ascii")],
            vec!["mount", "-o", "loop", image.to_str().expect("ascii"), at.to_str().expect("ascii")],
        ] {
            let output = Command::new(command[0]).args(&command[1..]).output().expect("run as root");
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        SmallDisk { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        eprintln!("unmounted: {unmounted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_fails_the_build_with_a_message_and_the_next_job_works() {
    let disk = SmallDisk::new(300);
    let yard = Yard::within(&disk.path(), Choice::Userns, Limits::default()).await;
    let lent = yard.lend(1).await;
    yard.sh(&lent, &build("one", "app:1"));
    keep(lent, 5.0).await;

    let lent = yard.lend(2).await;
    let fill = "mkdir /tmp/src && cd /tmp/src && printf 'FROM alpine:latest\\nRUN --network=none dd if=/dev/zero of=/big bs=1M count=400\\n' \
                >Dockerfile && docker build --progress=plain . 2>&1";
    let said = yard.try_sh(&lent, fill);
    assert!(!said.ok && said.text.to_lowercase().contains("no space left on device"), "{}", said.text);
    let returned = lent.give_back(Ending::Keep { build_seconds: 900.0 }).await;
    eprintln!("{returned}");
    assert!(returned.promotion.is_some(), "an outcome, whatever it is: {returned}");

    let lent = yard.lend(3).await;
    assert!(lent.generation.is_some());
    let warm = yard.sh(&lent, &build("one", "app:3"));
    assert_eq!(cached(&warm), 4, "{warm}");
    lent.give_back(Ending::Discard).await;
    sound(&yard);
}

#[test]
fn clients_image_is_there() {
    assert!(docker(&["image", "inspect", "docker:stable"]).ok, "run scripts/images first");
}
