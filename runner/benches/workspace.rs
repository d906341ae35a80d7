//! Sources, artifacts and caches against what does the same elsewhere.
//!
//! `SLIPWAY_BENCH_MB` sets the size of the repository (100), `SLIPWAY_BENCH_FILES` the files of the cache (50000).

use slipway_runner::artifacts::{Bounds, Level, Rules, pack, select};
use slipway_runner::cache::{Cache, Caches, Limits, Policy, SaveFrom, Scope};
use slipway_runner::confined::Folder;
use slipway_runner::workspace::{Mirrors, Request, Settings, TrackedPaths};
use slipway_spec::ids::ProjectId;
use slipway_spec::job::{ArtifactFormat, Source, Tier, When};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn row(what: &str, took: Duration) {
    println!("| {what} | {:.0} ms |", took.as_secs_f64() * 1e3);
}

/// Bytes that compress about as text does, different in each file.
fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut x = seed as u64 | 1;
    let mut next = move || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        b"etaoin shrdlu\n{}();"[(x % 19) as usize]
    };
    (0..length).map(|_| next()).collect()
}

fn fill(folder: &Path, files: usize, bytes: usize) {
    for n in 0..files {
        let path = folder.join(format!("{}/{}/file-{n}.js", n % 50, n % 400));
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, noise(n, bytes)).expect("a file");
    }
}

fn run(folder: &Path, command: &str) -> Option<Duration> {
    let began = Instant::now();
    let status = Command::new("sh").args(["-c", command]).current_dir(folder).status().ok()?;
    status.success().then(|| began.elapsed())
}

async fn sources(root: &Path) {
    let megabytes = number("SLIPWAY_BENCH_MB", 100);
    let origin = root.join("origin");
    std::fs::create_dir_all(&origin).expect("a folder");
    fill(&origin, megabytes * 8, 1 << 17);
    let identity = "-c user.name=a -c user.email=a@example.org";
    let made = run(&origin, &format!("git init -q . && git add -A && git {identity} commit -q -m all"));
    made.expect("a repository");
    let output = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(&origin).output().expect("git");
    let source = Source {
        url: origin.display().to_string(),
        login: None,
        ref_name: "master".into(),
        is_tag: false,
        sha: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        before_sha: String::new(),
        refspecs: Vec::new(),
        depth: 20,
    };
    let mirrors = Mirrors::open(root).expect("mirrors");
    let cancel = CancellationToken::new();
    let whole = Settings::default();
    let bare = Settings { checkout: false, ..Settings::default() };
    for (what, settings) in [
        ("first job", &whole),
        ("second job", &whole),
        ("third job without the work tree's files (GIT_CHECKOUT: false)", &bare),
    ] {
        let tree = root.join(format!("tree-{}", what.len()));
        let request = Request {
            project: ProjectId(1),
            source: &source,
            tree: &tree,
            settings,
            cancel: &cancel,
            local_submodules: false,
        };
        let began = Instant::now();
        mirrors.prepare(request, &|_: &str| {}).await.expect("sources");
        row(&format!("sources of {megabytes} MB, {what}"), began.elapsed());
    }
    if let Some(took) = run(root, "git clone -q --no-hardlinks origin clone") {
        row("`git clone --no-hardlinks`", took);
    }
}

fn artifacts(root: &Path) {
    let tree = root.join("dist");
    fill(&tree, 2000, 32 << 10);
    let folder = Folder::open(&tree).expect("the tree");
    let paths = vec![".".to_owned()];
    let rules = Rules { paths: &paths, ..Rules::default() };
    let began = Instant::now();
    let selected = select(&folder, &rules, Bounds::default()).expect("a selection");
    let file = std::fs::File::create(root.join("ours.zip")).expect("a file");
    pack(&folder, &selected, ArtifactFormat::Zip, Level::Default, Bounds::default(), file).expect("a zip");
    row("artifacts: 2,000 files, 64 MB into a zip", began.elapsed());
    match run(&tree, "zip -qry ../theirs.zip .") {
        Some(took) => row("`zip -qry`", took),
        None => println!("| `zip -qry` | not installed |"),
    }
}

fn caches(root: &Path) {
    let files = number("SLIPWAY_BENCH_FILES", 50_000);
    let tree = root.join("npm");
    fill(&tree.join("node_modules"), files, 2 << 10);
    run(&tree, "zip -qr1 ../npm.zip node_modules");
    run(&tree, "tar -cf ../npm.tar.zst -I 'zstd -1' node_modules");
    let caches = Caches::open(root, Limits::default()).expect("caches");
    let scope = Scope { project: ProjectId(1), tier: Tier::Unprotected, read_protected: false };
    let cache = Cache {
        key: "npm".into(),
        fallback_keys: Vec::new(),
        paths: vec!["node_modules/".into()],
        untracked: false,
        policy: Policy::PullPush,
        when: When::OnSuccess,
    };
    let tracked = TrackedPaths::default();
    let folder = Folder::open(&tree).expect("the tree");
    let from = SaveFrom { tree: &folder, tracked: &tracked, project_dir: "/p", succeeded: true, may_move: true };
    let began = Instant::now();
    caches.save(&scope, std::slice::from_ref(&cache), from, &mut |_| {});
    row(&format!("cache of {files} files kept"), began.elapsed());
    let began = Instant::now();
    caches.replenish();
    row("its ready copy made, after the job", began.elapsed());
    for n in 0..2 {
        let target = root.join(format!("restored-{n}"));
        std::fs::create_dir(&target).expect("a folder");
        let folder = Folder::open(&target).expect("the folder");
        let restored = caches.restore(&scope, &cache, &folder, &mut |_| {});
        row(if restored.moved { "restored, ready copy" } else { "restored, copied" }, restored.took);
    }
    for (what, command) in [
        ("`unzip -q`", "mkdir u && unzip -q npm.zip -d u"),
        ("`tar -x` with zstd", "mkdir t && tar -xf npm.tar.zst -C t"),
    ] {
        match run(root, command) {
            Some(took) => row(what, took),
            None => println!("| {what} | not installed |"),
        }
    }
}

fn main() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder on a disk");
    println!("| what | time |\n|---|---|");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(sources(root.path()));
    artifacts(root.path());
    caches(root.path());
}
