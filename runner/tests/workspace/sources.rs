//! Mirrors and work trees.

use crate::repository::{Repository, Server, git};
use slipway_runner::workspace::{Mirrors, Objects, Request, Settings, Sources, Strategy, Submodules, WorkspaceError};
use slipway_spec::ids::ProjectId;
use slipway_spec::job::{Login, Source};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Far more than anything here takes; a hang fails instead of lasting for ever.
const DEADLINE: Duration = Duration::from_secs(120);

struct Node {
    root: tempfile::TempDir,
    mirrors: Mirrors,
    lines: Mutex<Vec<String>>,
}

impl Node {
    fn new() -> Node {
        let root = tempfile::tempdir().expect("a temporary folder");
        let mirrors = Mirrors::open(root.path()).expect("mirrors");
        Node { root, mirrors, lines: Mutex::default() }
    }

    fn tree(&self, job: &str) -> PathBuf {
        self.root.path().join("jobs").join(job).join("build")
    }

    async fn try_prepare(&self, job: &str, source: &Source, settings: &Settings) -> Result<Sources, WorkspaceError> {
        let cancel = CancellationToken::new();
        let tree = self.tree(job);
        let request = Request {
            project: ProjectId(7),
            source,
            tree: &tree,
            settings,
            cancel: &cancel,
            local_submodules: job.starts_with("trusted"),
        };
        let say = |line: &str| self.lines.lock().expect("lines").push(line.to_owned());
        tokio::time::timeout(DEADLINE, self.mirrors.prepare(request, &say)).await.expect("an end within the deadline")
    }

    async fn prepare(&self, job: &str, source: &Source, settings: &Settings) -> (PathBuf, Sources) {
        let sources = self.try_prepare(job, source, settings).await.unwrap_or_else(|error| panic!("{job}: {error}"));
        (self.tree(job), sources)
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().expect("lines"))
    }
}

fn source(url: String, sha: &str) -> Source {
    Source {
        url,
        login: None,
        ref_name: "main".into(),
        is_tag: false,
        sha: sha.into(),
        before_sha: String::new(),
        refspecs: Vec::new(),
        depth: 0,
    }
}

fn with(objects: Objects) -> Settings {
    Settings { objects, ..Settings::default() }
}

#[tokio::test]
async fn work_tree_is_a_real_repository_of_its_own() {
    let repository = Repository::new();
    repository.write("a.txt", "one");
    repository.commit("first");
    repository.git(&["tag", "-a", "v1.0", "-m", "release"]);
    repository.write("bin/run", "#!/bin/sh\n");
    std::fs::set_permissions(repository.folder.join("bin/run"), PermissionsExt::from_mode(0o755)).expect("mode");
    let sha = repository.commit("second");
    let node = Node::new();

    let (tree, sources) = node.prepare("1", &source(repository.url(), &sha), &Settings::default()).await;

    assert_eq!(sources.mounts, Vec::<PathBuf>::new(), "a small repository is whole");
    let short = &sha[..8];
    assert_eq!(
        node.said(),
        [
            "Fetching changes...".to_owned(),
            format!("Checking out {short} as detached HEAD (ref is main)..."),
            "Skipping Git submodules setup".to_owned()
        ]
    );
    assert_eq!(git(&tree, &["rev-parse", "HEAD"]), sha);
    assert_eq!(git(&tree, &["log", "--format=%s"]), "second\nfirst");
    assert!(git(&tree, &["describe"]).starts_with("v1.0-1-g"), "{}", git(&tree, &["describe"]));
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
    assert_eq!(git(&tree, &["rev-parse", "origin/main"]), sha);
    assert_eq!(git(&tree, &["config", "remote.origin.url"]), repository.url());
    git(&tree, &["fsck", "--strict"]);
    // Any user of the container may write, and the executable bit is the repository's.
    let mode = |path: &str| std::fs::metadata(tree.join(path)).expect(path).permissions().mode() & 0o777;
    assert_eq!((mode("."), mode("bin"), mode("bin/run"), mode("a.txt")), (0o777, 0o777, 0o777, 0o666));
    // Nothing of it is shared with the mirror: a job that scribbles over its objects harms itself alone.
    for pack in std::fs::read_dir(tree.join(".git/objects/pack")).expect("packs").flatten() {
        std::fs::set_permissions(pack.path(), PermissionsExt::from_mode(0o666)).expect("mode");
        std::fs::write(pack.path(), "scribble").expect("a write");
    }
    let (again, _) = node.prepare("2", &source(repository.url(), &sha), &Settings::default()).await;
    assert_eq!(git(&again, &["log", "--format=%s"]), "second\nfirst");
}

#[tokio::test]
async fn large_repository_borrows_objects_from_the_mirror() {
    let repository = Repository::new();
    repository.write("a", "1");
    let sha = repository.commit("first");
    let node = Node::new();
    let (tree, sources) = node.prepare("1", &source(repository.url(), &sha), &with(Objects::Borrow)).await;
    let [mount] = &sources.mounts[..] else { panic!("{:?}", sources.mounts) };
    assert!(mount.ends_with("mirrors/7/repo.git/objects"), "{mount:?}");
    let alternates = std::fs::read_to_string(tree.join(".git/objects/info/alternates")).expect("alternates");
    assert_eq!(Path::new(alternates.trim()), mount);
    assert_eq!(git(&tree, &["log", "--format=%s"]), "first");
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn depth_cuts_the_history() {
    let repository = Repository::new();
    for n in 0..10 {
        repository.write("n", &n.to_string());
        repository.commit(&n.to_string());
    }
    let sha = repository.git(&["rev-parse", "HEAD"]);
    let node = Node::new();
    for (job, settings) in [("copied", with(Objects::Copy)), ("borrowed", with(Objects::Borrow))] {
        node.said();
        let shallow = Source { depth: 3, ..source(repository.url(), &sha) };
        let (tree, _) = node.prepare(job, &shallow, &settings).await;
        assert_eq!(node.said()[0], "Fetching changes with git depth set to 3...");
        assert_eq!(git(&tree, &["log", "--format=%s"]), "9\n8\n7");
        assert_eq!(git(&tree, &["rev-parse", "--is-shallow-repository"]), "true");
        // GIT_DEPTH wins over the source, and the mirror itself was never shallow.
        let whole = Settings { depth: Some(0), ..settings };
        let (tree, _) = node.prepare(&format!("{job}-whole"), &shallow, &whole).await;
        assert_eq!(git(&tree, &["rev-list", "--count", "HEAD"]), "10");
    }
}

#[tokio::test]
async fn refspecs_are_taken_verbatim_and_the_commit_outlives_its_branch() {
    let repository = Repository::new();
    repository.write("a", "1");
    let sha = repository.commit("kept by the pipeline");
    repository.git(&["update-ref", "refs/pipelines/41", &sha]);
    repository.git(&["commit", "-q", "--amend", "-m", "force-pushed"]);
    repository.git(&["branch", "other"]);
    let node = Node::new();
    let pipeline =
        Source { refspecs: vec!["+refs/pipelines/41:refs/pipelines/41".into()], ..source(repository.url(), &sha) };
    let (tree, _) = node.prepare("1", &pipeline, &Settings::default()).await;
    assert_eq!(git(&tree, &["log", "-1", "--format=%s"]), "kept by the pipeline");
    assert_eq!(git(&tree, &["for-each-ref", "--format=%(refname)"]), "refs/pipelines/41");

    // No ref leads to it any more, but the server has it still.
    let dangling = repository.commit("soon gone");
    repository.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let (tree, _) = node.prepare("2", &source(repository.url(), &dangling), &Settings::default()).await;
    assert_eq!(git(&tree, &["rev-parse", "HEAD"]), dangling);

    let nowhere = source(repository.url(), &"1".repeat(40));
    let error = node.try_prepare("3", &nowhere, &Settings::default()).await.expect_err("no such commit");
    assert!(matches!(error, WorkspaceError::MissingCommit { .. }) && error.is_users(), "{error}");
    let gone = source("/nowhere/at/all".into(), &sha);
    let node = Node::new();
    let error = node.try_prepare("4", &gone, &Settings::default()).await.expect_err("no such repository");
    assert!(matches!(error, WorkspaceError::Git { .. }) && !error.is_users(), "{error}");
}

#[tokio::test]
async fn second_fetch_brings_what_is_new_and_forgets_what_is_gone() {
    let repository = Repository::new();
    let first = repository.commit("first");
    repository.git(&["branch", "a"]);
    let node = Node::new();
    node.prepare("1", &source(repository.url(), &first), &Settings::default()).await;
    // A folder where a branch was: refs that stand in each other's way.
    repository.git(&["branch", "-D", "a"]);
    repository.git(&["branch", "a/b"]);
    let second = repository.commit("second");
    let (tree, _) = node.prepare("2", &source(repository.url(), &second), &Settings::default()).await;
    let refs = git(&tree, &["for-each-ref", "--format=%(refname)"]);
    assert_eq!(refs, "refs/remotes/origin/a/b\nrefs/remotes/origin/main");
}

#[tokio::test]
async fn strategies_without_sources_make_an_empty_folder() {
    let node = Node::new();
    let nowhere = source("/nowhere".into(), &"1".repeat(40));
    for strategy in [Strategy::None, Strategy::Empty] {
        let settings = Settings { strategy, ..Settings::default() };
        let (tree, _) = node.prepare(&format!("{strategy:?}"), &nowhere, &settings).await;
        assert_eq!(std::fs::read_dir(&tree).expect("a folder").count(), 0);
        assert_eq!(node.said()[0], "Skipping Git repository setup");
    }
    let repository = Repository::new();
    repository.write("a", "1");
    let sha = repository.commit("first");
    let settings = Settings { checkout: false, ..Settings::default() };
    let (tree, _) = node.prepare("bare", &source(repository.url(), &sha), &settings).await;
    assert!(!tree.join("a").exists());
    git(&tree, &["checkout", "-q", "-f", &sha]);
    assert!(tree.join("a").exists());
}

#[tokio::test]
async fn login_reaches_the_server_and_no_disk() {
    let repository = Repository::new();
    repository.write("a", "1");
    let sha = repository.commit("first");
    // user:tok-3n-secret
    let server = Server::start(repository.folder.parent().expect("a parent"), "Basic dXNlcjp0b2stM24tc2VjcmV0");
    let node = Node::new();
    let login = Login { username: "user".into(), password: "tok-3n-secret".into() };
    let right = Source { login: Some(login), ..source(server.url("project"), &sha) };
    let (tree, _) = node.prepare("1", &right, &Settings::default()).await;
    assert_eq!(git(&tree, &["log", "--format=%s"]), "first");
    for entry in walkdir::WalkDir::new(node.root.path()).into_iter().flatten().filter(|e| e.file_type().is_file()) {
        let bytes = std::fs::read(entry.path()).expect("a file");
        for secret in [&b"tok-3n-secret"[..], b"dXNlcjp0b2stM24tc2VjcmV0"] {
            assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{:?} holds the password", entry.path());
        }
    }
    let wrong = Login { username: "user".into(), password: "guess-9f".into() };
    let node = Node::new();
    let wrong = Source { login: Some(wrong), ..right };
    let error = node.try_prepare("2", &wrong, &Settings::default()).await.expect_err("a wrong password");
    assert!(!error.to_string().contains("guess-9f"), "{error}");
    assert!(server.refused.load(Ordering::SeqCst) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_jobs_of_one_push_share_one_fetch() {
    let repository = Repository::new();
    repository.write("a", "1");
    let sha = repository.commit("first");
    let server = Server::start(repository.folder.parent().expect("a parent"), "");
    let node = Node::new();
    let push = source(server.url("project"), &sha);
    let settings = Settings::default();
    let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let jobs = names.iter().map(|job| node.prepare(job, &push, &settings));
    let trees = futures_util::future::join_all(jobs).await;
    for (tree, _) in &trees {
        assert_eq!(git(tree, &["rev-parse", "HEAD"]), sha);
    }
    assert_eq!(server.fetches.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn cancelled_job_does_not_wait_for_a_server_that_says_nothing() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/project", silent.local_addr().expect("an address"));
    let node = Node::new();
    let (cancel, tree) = (CancellationToken::new(), node.tree("1"));
    let (source, settings) = (source(url, &"1".repeat(40)), Settings::default());
    let request = Request {
        project: ProjectId(1),
        source: &source,
        tree: &tree,
        settings: &settings,
        cancel: &cancel,
        local_submodules: false,
    };
    let accepted = tokio::task::spawn_blocking(move || silent.accept().map(|(stream, _)| stream));
    let fetch = node.mirrors.prepare(request, &|_: &str| {});
    let ended = async {
        let _held_open = accepted.await.expect("a thread").expect("git connects");
        cancel.cancel();
        std::future::pending::<()>().await;
    };
    let error = tokio::time::timeout(DEADLINE, async {
        tokio::select! { result = fetch => result.expect_err("cancelled"), () = ended => unreachable!() }
    });
    let error = error.await.expect("an end within the deadline");
    assert!(matches!(error, WorkspaceError::Canceled), "{error}");
}

#[tokio::test]
async fn submodules_are_checked_out_at_their_commits() {
    let library = Repository::new();
    library.write("lib.txt", "old");
    let pinned = library.commit("pinned");
    library.write("lib.txt", "new");
    library.commit("newer");
    let middle = Repository::new();
    middle.write("middle.txt", "m");
    submodule(&middle, "deep/lib", &library.url(), &pinned, "lib");
    middle.commit("with a library");
    let project = Repository::new();
    let commit = middle.git(&["rev-parse", "HEAD"]);
    // A name that would lead out of .git/modules: it is never used for a path.
    submodule(&project, "vendor/middle", &middle.url(), &commit, "../../../../escaped");
    let sha = project.commit("with submodules");
    let node = Node::new();

    let normal = Settings { submodules: Submodules::Normal, ..Settings::default() };
    let (tree, _) = node.prepare("trusted-1", &source(project.url(), &sha), &normal).await;
    assert!(tree.join("vendor/middle/middle.txt").exists());
    assert!(!tree.join("vendor/middle/deep/lib/lib.txt").exists());

    let recursive = Settings { submodules: Submodules::Recursive, objects: Objects::Borrow, ..Settings::default() };
    let (tree, sources) = node.prepare("trusted-2", &source(project.url(), &sha), &recursive).await;
    let text = std::fs::read_to_string(tree.join("vendor/middle/deep/lib/lib.txt")).expect("the library");
    assert_eq!(text, "old");
    assert_eq!(git(&tree.join("vendor/middle/deep/lib"), &["rev-parse", "HEAD"]), pinned);
    assert_eq!(git(&tree, &["status", "--porcelain"]), "");
    assert_eq!(sources.mounts.len(), 3, "project, middle, library: {:?}", sources.mounts);
    assert!(node.said().iter().any(|line| line.contains("'vendor/middle/deep/lib'")));

    let excluded = Settings { submodule_paths: vec![":(exclude)vendor".into()], ..recursive };
    let (tree, _) = node.prepare("trusted-3", &source(project.url(), &sha), &excluded).await;
    assert!(!tree.join("vendor/middle/middle.txt").exists());

    // Whoever may push must not read other repositories of the node.
    let error = node.try_prepare("4", &source(project.url(), &sha), &normal).await.expect_err("a path on the node");
    assert!(matches!(&error, WorkspaceError::Submodule { .. }) && error.is_users(), "{error}");
}

fn submodule(repository: &Repository, path: &str, url: &str, commit: &str, name: &str) {
    repository.write(".gitmodules", &format!("[submodule \"{name}\"]\n\tpath = {path}\n\turl = {url}\n"));
    repository.git(&["add", ".gitmodules"]);
    let entry = format!("160000,{commit},{path}");
    repository.git(&["update-index", "--add", "--cacheinfo", &entry]);
    repository.git(&["commit", "-q", "-m", "submodule"]);
    // So that `git add -A` does not take it out again.
    std::fs::create_dir_all(repository.folder.join(path)).expect("a folder");
}

#[tokio::test]
async fn hostile_repository_runs_nothing_and_leaves_nothing_outside() {
    let project = Repository::new();
    let pwned = project.folder.parent().expect("a parent").join("pwned");
    let touch = format!("touch {}", pwned.display());
    std::os::unix::fs::symlink("/etc", project.folder.join("etc")).expect("a link");
    std::os::unix::fs::symlink("../../../../../../etc/passwd", project.folder.join("passwd")).expect("a link");
    project.write(".gitattributes", "* filter=evil diff=evil\n");
    project.write("file", "text\n");
    project.write(
        ".gitmodules",
        "[submodule \"x\"]\n\tpath = x\n\turl = ext::sh -c touch% /tmp/pwned\n\tupdate = !touch /tmp/pwned\n",
    );
    let sha = project.commit("hostile");
    // What a person who can write the repository on the server side could leave there.
    for (key, value) in [
        ("filter.evil.smudge", touch.as_str()),
        ("uploadpack.packObjectsHook", touch.as_str()),
        ("core.fsmonitor", touch.as_str()),
        ("core.sshCommand", touch.as_str()),
    ] {
        project.git(&["config", key, value]);
    }
    for hook in ["post-checkout", "pre-auto-gc", "reference-transaction", "post-index-change"] {
        project.write(&format!(".git/hooks/{hook}"), &format!("#!/bin/sh\n{touch}\n"));
        std::fs::set_permissions(project.folder.join(".git/hooks").join(hook), PermissionsExt::from_mode(0o755))
            .expect("mode");
    }
    let node = Node::new();
    let settings = Settings { submodules: Submodules::Recursive, ..Settings::default() };
    let (tree, _) = node.prepare("1", &source(project.url(), &sha), &settings).await;
    assert!(!pwned.exists(), "something of the repository was run");
    assert!(tree.join("etc").symlink_metadata().expect("the link").is_symlink());
    assert_eq!(std::fs::read_link(tree.join("etc")).expect("a link"), Path::new("/etc"));
    assert!(!tree.join(".git/hooks").exists());

    // A submodule whose address is a command.
    let evil = Repository::new();
    submodule(&evil, "x", "ext::id", &sha, "x");
    let sha = evil.git(&["rev-parse", "HEAD"]);
    let error = node.try_prepare("trusted-2", &source(evil.url(), &sha), &settings).await.expect_err("a command");
    assert!(error.to_string().contains("only http, https, ssh"), "{error}");

    // Refspecs and ids that git would take for something else.
    for refspec in ["--upload-pack=touch /tmp/pwned", "--exec=x", "a b"] {
        let hostile = Source { refspecs: vec![refspec.into()], ..source(project.url(), &"2".repeat(40)) };
        let error = node.try_prepare("3", &hostile, &Settings::default()).await.expect_err(refspec);
        assert!(matches!(error, WorkspaceError::Refspec(_)), "{error}");
    }
    for sha in ["HEAD", "--all", "", "12345"] {
        let error = node.try_prepare("4", &source(project.url(), sha), &Settings::default()).await.expect_err(sha);
        assert!(matches!(error, WorkspaceError::CommitId(_)), "{error}");
    }
}

#[tokio::test]
async fn file_modes_and_names_survive_and_lfs_pointers_are_named() {
    let repository = Repository::new();
    repository.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    repository.write("big.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n");
    repository.write("with space/ü ☃.txt", "x");
    let sha = repository.commit("pointer");
    let node = Node::new();
    let skipped = Settings { lfs: false, ..Settings::default() };
    let (tree, sources) = node.prepare("1", &source(repository.url(), &sha), &skipped).await;
    assert!(tree.join("with space/ü ☃.txt").exists());
    assert!(!node.said().iter().any(|line| line.contains("LFS")));
    let paths = sources.tracked.paths().expect("the commit's files");
    assert!(paths.knows("with space/ü ☃.txt".as_bytes()) && paths.knows(b".git/config") && !paths.knows(b"other"));
    assert_eq!(paths.blob(b"big.bin").expect("an id"), repository.git(&["rev-parse", "HEAD:big.bin"]));
}

#[test]
fn settings_come_from_the_variables() {
    let read = |pairs: &[(&'static str, &'static str)]| {
        Settings::from_variables(|key| pairs.iter().rev().find(|(k, _)| *k == key).map(|(_, value)| *value))
    };
    assert_eq!(read(&[]).expect("defaults"), Settings::default());
    let all = read(&[
        ("GIT_STRATEGY", "clone"),
        ("GIT_DEPTH", "50"),
        ("GIT_CHECKOUT", "false"),
        ("GIT_SUBMODULE_STRATEGY", "recursive"),
        ("GIT_SUBMODULE_PATHS", "a/b :(exclude) a/b/c"),
        ("GIT_SUBMODULE_DEPTH", "1"),
        ("GIT_SUBMODULE_FORCE_HTTPS", "true"),
        ("GIT_LFS_SKIP_SMUDGE", "1"),
        ("SLIPWAY_GIT_OBJECTS", "borrow"),
        ("GIT_CLEAN_FLAGS", "-ffdx -e cache/"),
    ]);
    let expected = Settings {
        strategy: Strategy::Clone,
        depth: Some(50),
        checkout: false,
        submodules: Submodules::Recursive,
        submodule_paths: vec!["a/b".into(), ":(exclude)a/b/c".into()],
        submodule_depth: Some(1),
        submodule_force_https: true,
        lfs: false,
        objects: Objects::Borrow,
    };
    assert_eq!(all.expect("settings"), expected);
    for (key, value) in [("GIT_STRATEGY", "rsync"), ("GIT_DEPTH", "-1"), ("GIT_SUBMODULE_STRATEGY", "yes")] {
        let error = read(&[(key, value)]).expect_err(value);
        assert!(error.to_string().contains(key) && error.is_users(), "{error}");
    }
}

#[tokio::test]
async fn lfs_files_are_fetched_where_the_node_can() {
    let repository = Repository::new();
    let has_lfs = std::process::Command::new("git").args(["lfs", "version"]).output().is_ok_and(|o| o.status.success());
    repository.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    if has_lfs {
        repository.git(&["lfs", "install", "--local"]);
        repository.write("big.bin", "the real content");
    } else {
        eprintln!("git-lfs is not installed: only the warning is tested");
        repository
            .write("big.bin", &format!("version https://git-lfs.github.com/spec/v1\noid sha256:{:064}\nsize 3\n", 1));
    }
    let sha = repository.commit("large file");
    let node = Node::new();
    let (tree, _) = node.prepare("1", &source(repository.url(), &sha), &Settings::default()).await;
    let text = std::fs::read_to_string(tree.join("big.bin")).expect("the file");
    let said = node.said();
    if has_lfs {
        assert_eq!(text, "the real content", "{said:?}");
        assert!(said.contains(&"Fetching LFS files...".to_owned()), "{said:?}");
    } else {
        assert!(text.starts_with("version https://git-lfs"), "{text}");
        assert!(
            said.iter().any(|line| line.starts_with("WARNING") && line.contains("git-lfs is not installed")),
            "{said:?}"
        );
    }
}
