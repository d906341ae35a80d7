//! Caches on a real file system.

use slipway_runner::cache::{Cache, Caches, Limits, Policy, SaveFrom, Scope};
use slipway_runner::confined::Folder;
use slipway_runner::workspace::TrackedPaths;
use slipway_spec::ids::ProjectId;
use slipway_spec::job::{Tier, When};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

struct Node {
    root: tempfile::TempDir,
    caches: Caches,
}

const SCOPE: Scope = Scope { project: ProjectId(3), tier: Tier::Unprotected, read_protected: false };

impl Node {
    fn new(limits: Limits) -> Node {
        let root = tempfile::tempdir().expect("a temporary folder");
        let caches = Caches::open(root.path(), limits).expect("caches");
        Node { root, caches }
    }

    fn tree(&self, name: &str, files: &[&str]) -> PathBuf {
        let tree = self.root.path().join("jobs").join(name);
        fs::create_dir_all(&tree).expect("a folder");
        for file in files {
            let path = tree.join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, format!("{name}:{file}")).expect("a file");
        }
        tree
    }

    fn save(&self, scope: Scope, caches: &[Cache], tree: &Path, may_move: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let folder = Folder::open(tree).expect("the tree");
        let tracked = TrackedPaths::default();
        let from = SaveFrom { tree: &folder, tracked: &tracked, project_dir: "/p", succeeded: true, may_move };
        self.caches.save(&scope, caches, from, &mut |line| lines.push(line.to_owned()));
        lines
    }

    fn restore(&self, scope: Scope, cache: &Cache, tree: &Path) -> (Option<String>, bool, Vec<String>) {
        let mut lines = Vec::new();
        let folder = Folder::open(tree).expect("the tree");
        let restored = self.caches.restore(&scope, cache, &folder, &mut |line| lines.push(line.to_owned()));
        (restored.key, restored.moved, lines)
    }
}

fn cache(key: &str, paths: &[&str]) -> Cache {
    Cache {
        key: key.into(),
        fallback_keys: Vec::new(),
        paths: paths.iter().map(|&path| path.into()).collect(),
        untracked: false,
        policy: Policy::PullPush,
        when: When::OnSuccess,
    }
}

fn read(tree: &Path, file: &str) -> String {
    fs::read_to_string(tree.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn cache_comes_back_as_it_was_kept() {
    let node = Node::new(Limits::default());
    let first = node.tree("one", &["node_modules/a/index.js", "node_modules/.bin/tool", "src/x"]);
    fs::set_permissions(first.join("node_modules/.bin/tool"), PermissionsExt::from_mode(0o755)).expect("mode");
    symlink("../a/index.js", first.join("node_modules/.bin/link")).expect("a link");
    let times = fs::metadata(first.join("node_modules/a/index.js")).expect("a file").modified().expect("a time");
    let npm = cache("npm", &["node_modules/"]);
    let lines = node.save(SCOPE, std::slice::from_ref(&npm), &first, false);
    assert_eq!(lines.first().map(String::as_str), Some("Creating cache npm..."));
    assert_eq!(lines.last().map(String::as_str), Some("Created cache"));

    let second = node.tree("two", &[]);
    let (key, _, lines) = node.restore(SCOPE, &npm, &second);
    assert_eq!(key.as_deref(), Some("npm"));
    assert_eq!(lines, ["Checking cache for npm...", "Successfully extracted cache"]);
    assert_eq!(read(&second, "node_modules/a/index.js"), "one:node_modules/a/index.js");
    assert!(!second.join("src").exists());
    assert_eq!(fs::read_link(second.join("node_modules/.bin/link")).expect("a link"), Path::new("../a/index.js"));
    assert_eq!(fs::metadata(second.join("node_modules/.bin/tool")).expect("a file").mode() & 0o777, 0o755);
    assert_eq!(
        fs::metadata(second.join("node_modules/a/index.js")).expect("a file").modified().expect("a time"),
        times
    );

    // No inode is shared: writing in place harms nobody.
    fs::write(second.join("node_modules/a/index.js"), "scribble").expect("a write");
    let third = node.tree("three", &[]);
    node.restore(SCOPE, &npm, &third);
    assert_eq!(read(&third, "node_modules/a/index.js"), "one:node_modules/a/index.js");

    // Nothing changed: nothing is written.
    assert_eq!(
        node.save(SCOPE, std::slice::from_ref(&npm), &third, false).last().map(String::as_str),
        Some("Archive is up to date!")
    );
    fs::write(third.join("node_modules/new"), "n").expect("a write");
    assert_eq!(
        node.save(SCOPE, std::slice::from_ref(&npm), &third, false).last().map(String::as_str),
        Some("Created cache")
    );
}

#[test]
fn moved_files_leave_the_tree_and_shared_ones_go_to_every_cache() {
    let node = Node::new(Limits::default());
    let tree = node.tree("one", &["both/x", "only/y"]);
    let caches = [cache("a", &["both", "only"]), cache("b", &["both"])];
    node.save(SCOPE, &caches, &tree, true);
    assert!(!tree.join("both/x").exists() && !tree.join("only/y").exists());
    for (cache, files) in caches.iter().zip([&["both/x", "only/y"][..], &["both/x"]]) {
        let other = node.tree(&cache.key, &[]);
        node.restore(SCOPE, cache, &other);
        for file in files {
            assert_eq!(read(&other, file), format!("one:{file}"));
        }
    }
}

#[test]
fn ready_copy_is_moved_in_by_the_first_and_made_again() {
    let node = Node::new(Limits { spare_entries: 3, ..Limits::default() });
    let tree = node.tree("one", &["d/1", "d/2", "d/sub/3"]);
    let kept = cache("k", &["d"]);
    node.save(SCOPE, std::slice::from_ref(&kept), &tree, true);
    assert_eq!(node.caches.replenish(), 1);
    assert_eq!(node.caches.replenish(), 0);
    // The tree has the folder already, with a file of its own and one that the cache replaces.
    let two = node.tree("two", &["d/own", "d/1"]);
    let (_, moved, _) = node.restore(SCOPE, &kept, &two);
    assert!(moved);
    assert_eq!(
        (read(&two, "d/own"), read(&two, "d/1"), read(&two, "d/sub/3")),
        ("two:d/own".into(), "one:d/1".into(), "one:d/sub/3".into())
    );
    let three = node.tree("three", &[]);
    let (_, moved, _) = node.restore(SCOPE, &kept, &three);
    assert!(!moved, "there was one copy");
    assert_eq!(read(&three, "d/sub/3"), "one:d/sub/3");
    assert_eq!(node.caches.replenish(), 1);
    let (_, moved, _) = node.restore(SCOPE, &kept, &node.tree("four", &[]));
    assert!(moved);
}

#[test]
fn fallbacks_are_tried_in_order_and_tiers_are_kept_apart() {
    let node = Node::new(Limits::default());
    let protected = Scope { tier: Tier::Protected, ..SCOPE };
    node.save(protected, &[cache("main", &["f"])], &node.tree("protected", &["f"]), true);
    node.save(SCOPE, &[cache("other", &["f"])], &node.tree("unprotected", &["f"]), true);
    let topic = Cache { fallback_keys: vec!["main".into(), "other".into()], ..cache("topic", &["f"]) };

    let tree = node.tree("1", &[]);
    let (key, _, lines) = node.restore(SCOPE, &topic, &tree);
    assert_eq!((key.as_deref(), read(&tree, "f").as_str()), (Some("other"), "unprotected:f"));
    let checked = ["Checking cache for topic...", "Checking cache for main...", "Checking cache for other..."];
    assert_eq!(lines[..3], checked);

    let tree = node.tree("2", &[]);
    let reader = Scope { read_protected: true, ..SCOPE };
    assert_eq!(node.restore(reader, &topic, &tree).0.as_deref(), Some("main"));
    assert_eq!(node.restore(protected, &cache("other", &[]), &node.tree("3", &[])).0, None, "never what others made");
    let elsewhere = Scope { project: ProjectId(4), read_protected: true, ..SCOPE };
    assert_eq!(node.restore(elsewhere, &topic, &node.tree("4", &[])).0, None, "nothing crosses projects");
}

#[test]
fn policy_and_outcome_decide() {
    let node = Node::new(Limits::default());
    let tree = node.tree("1", &["f"]);
    let pull = Cache { policy: Policy::Pull, ..cache("k", &["f"]) };
    assert_eq!(node.save(SCOPE, &[pull], &tree, false), ["Not uploading cache k due to policy"]);
    let failure = Cache { when: When::OnFailure, ..cache("k", &["f"]) };
    assert!(node.save(SCOPE, &[failure], &tree, false).is_empty());
    let push = Cache { policy: Policy::Push, ..cache("k", &["f"]) };
    node.save(SCOPE, std::slice::from_ref(&push), &tree, false);
    let (key, _, lines) = node.restore(SCOPE, &push, &node.tree("2", &[]));
    assert_eq!((key, lines), (None, vec!["Not downloading cache k due to policy".to_owned()]));
    assert_eq!(node.restore(SCOPE, &cache("k", &[]), &node.tree("3", &[])).0.as_deref(), Some("k"));
}

#[test]
fn damaged_or_too_large_caches_are_lines_in_the_trace() {
    let node = Node::new(Limits { cache_bytes: 10, ..Limits::default() });
    let lines = node.save(SCOPE, &[cache("big", &["f", "../x"])], &node.tree("job-with-long-name", &["f"]), false);
    assert!(lines.iter().any(|line| line.contains("outside of the project directory")), "{lines:?}");
    assert_eq!(lines.last().map(String::as_str), Some("Failed to create cache"));

    let node = Node::new(Limits::default());
    node.save(SCOPE, &[cache("k", &["f"])], &node.tree("1", &["f"]), false);
    for entry in walkdir::WalkDir::new(node.root.path().join("caches")).into_iter().flatten() {
        if entry.file_name() == "manifest.json" {
            fs::write(entry.path(), "{ broken").expect("a write");
        }
    }
    let (key, _, lines) = node.restore(SCOPE, &cache("k", &["f"]), &node.tree("2", &[]));
    assert_eq!((key, lines.last().map(String::as_str)), (None, Some("Failed to extract cache")));
    // And is replaced.
    node.save(SCOPE, &[cache("k", &["f"])], &node.tree("1", &["f"]), false);
    assert_eq!(node.restore(SCOPE, &cache("k", &["f"]), &node.tree("3", &[])).0.as_deref(), Some("k"));
}

#[test]
fn least_recently_used_cache_goes_first() {
    // Each cache is one file of 7 bytes ("a:a/f" and the like are 5; the content is the job's name and the path).
    let node = Node::new(Limits { total_bytes: 15, ..Limits::default() });
    for name in ["a", "b"] {
        node.save(SCOPE, &[cache(name, &["f"])], &node.tree(name, &["f"]), false);
        // Used long ago, one after the other.
        let age = if name == "a" { 2000 } else { 1000 };
        age_all(&node, name, age);
    }
    assert_eq!(node.restore(SCOPE, &cache("a", &[]), &node.tree("x", &[])).0.as_deref(), Some("a"));
    for n in 0..4 {
        node.save(SCOPE, &[cache(&format!("c{n}"), &["f"])], &node.tree(&format!("c{n}"), &["f"]), false);
    }
    assert!(node.caches.bytes() <= 15, "{}", node.caches.bytes());
    assert_eq!(node.restore(SCOPE, &cache("b", &[]), &node.tree("y", &[])).0, None);
    assert_eq!(node.restore(SCOPE, &cache("c3", &[]), &node.tree("z", &[])).0.as_deref(), Some("c3"));
}

/// Sets the last use of the cache whose manifest names `key`.
fn age_all(node: &Node, key: &str, seconds: u64) {
    for entry in walkdir::WalkDir::new(node.root.path().join("caches")).into_iter().flatten() {
        if entry.file_name() == "manifest.json"
            && fs::read_to_string(entry.path()).expect("a manifest").contains(&format!("\"key\":\"{key}\""))
        {
            let file = fs::File::options().append(true).open(entry.path()).expect("a file");
            let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000 - seconds);
            file.set_times(fs::FileTimes::new().set_modified(then)).expect("times");
        }
    }
}

#[test]
fn what_a_crash_left_is_swept_and_a_newer_format_refused() {
    let node = Node::new(Limits::default());
    node.save(SCOPE, &[cache("k", &["f"])], &node.tree("1", &["f"]), false);
    let tier = node.root.path().join("caches/3/unprotected");
    fs::create_dir_all(tier.join(".new-99-0/tree/x")).expect("a folder");
    fs::create_dir_all(tier.join("0123/tree")).expect("a folder without a manifest");
    let again = Caches::open(node.root.path(), Limits::default()).expect("caches");
    assert_eq!(fs::read_dir(&tier).expect("the tier").count(), 1);
    drop(again);
    assert_eq!(node.restore(SCOPE, &cache("k", &[]), &node.tree("2", &[])).0.as_deref(), Some("k"));
    fs::write(node.root.path().join("caches/FORMAT"), "99").expect("a stamp");
    let error = Caches::open(node.root.path(), Limits::default()).expect_err("a newer format");
    assert!(error.to_string().contains("99"), "{error}");
}

#[test]
fn many_jobs_restore_while_one_saves() {
    let node = Node::new(Limits { spare_entries: 2, ..Limits::default() });
    let kept = cache("k", &["d"]);
    node.save(SCOPE, std::slice::from_ref(&kept), &node.tree("seed", &["d/1", "d/2", "d/3"]), true);
    std::thread::scope(|scope| {
        for job in 0..8 {
            let (node, kept) = (&node, &kept);
            scope.spawn(move || {
                for round in 0..10 {
                    let name = format!("job-{job}-{round}");
                    let tree = node.tree(&name, &[]);
                    let (key, _, lines) = node.restore(SCOPE, kept, &tree);
                    assert_eq!(key.as_deref(), Some("k"), "{lines:?}");
                    // Whole, and all of one writer.
                    let owner = |file: &str| read(&tree, file).split(':').next().expect("a name").to_owned();
                    assert_eq!((owner("d/1"), owner("d/2")), (owner("d/2"), owner("d/3")));
                    if job == 0 {
                        let tree = node.tree(&format!("writer-{round}"), &["d/1", "d/2", "d/3"]);
                        node.save(SCOPE, std::slice::from_ref(kept), &tree, true);
                        node.caches.replenish();
                    }
                }
            });
        }
    });
}
