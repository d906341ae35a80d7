//! A real repository behind `include`, `changes` and `exists`.

use slipway_scheduler::pipeline::fetch::{Fetch, FetchError, Location};
use slipway_scheduler::pipeline::git_tree::{Base, GitTree};

/// Commits files on a branch; gives the commit's id.
fn commit(repository: &git2::Repository, branch: &str, parent: Option<&str>, files: &[(&str, &str)]) -> String {
    let parent = parent.map(|p| repository.find_commit(git2::Oid::from_str(p).unwrap()).unwrap());
    let mut index = git2::Index::new().unwrap();
    repository.set_head_detached(parent.as_ref().map_or(git2::Oid::ZERO_SHA1, |p| p.id())).ok();
    let mut entries: Vec<(String, Vec<u8>)> =
        files.iter().map(|(p, t)| (p.to_string(), t.as_bytes().to_vec())).collect();
    entries.sort();
    for (path, text) in entries {
        let id = repository.blob(&text).unwrap();
        let zero = git2::IndexTime::new(0, 0);
        let entry = git2::IndexEntry {
            ctime: zero,
            mtime: zero,
            dev: 0,
            ino: 0,
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            file_size: 0,
            id,
            flags: 0,
            flags_extended: 0,
            path: path.into_bytes(),
        };
        index.add(&entry).unwrap();
    }
    let tree = repository.find_tree(index.write_tree_to(repository).unwrap()).unwrap();
    let who = git2::Signature::new("a", "a@b", &git2::Time::new(0, 0)).unwrap();
    let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
    let id = repository.commit(None, &who, &who, "m", &tree, &parents).unwrap();
    repository.reference(&format!("refs/heads/{branch}"), id, true, "").unwrap();
    id.to_string()
}

#[test]
fn git_tree_tells_files_and_changes_of_real_commits() {
    let dir = tempfile::tempdir().unwrap();
    let repository = git2::Repository::init_bare(dir.path()).unwrap();
    let first = commit(&repository, "main", None, &[("a", "1"), ("d/b", "1"), (".gitlab-ci.yml", "x: 1")]);
    let second = commit(&repository, "main", Some(&first), &[("a", "1"), ("d/c", "1"), (".gitlab-ci.yml", "x: 2")]);
    let topic = commit(&repository, "topic", Some(&first), &[("a", "9"), ("d/b", "1"), (".gitlab-ci.yml", "x: 1")]);
    let open = |revision: &str, base| GitTree::open(dir.path(), revision, base).unwrap();

    let main = open("main", Base::Commit(first.clone()));
    assert_eq!(main.commit(), second);
    assert_eq!(main.paths(None).unwrap(), [".gitlab-ci.yml", "a", "d/c"]);
    assert_eq!(main.changes(None).unwrap().unwrap(), [".gitlab-ci.yml", "d/b", "d/c"]);
    let file = |path: &str| Location::File { repository: None, path: path.into() };
    assert_eq!(main.fetch(&file(".gitlab-ci.yml")).unwrap().text, "x: 2");
    assert_eq!(main.fetch(&file("d")), Err(FetchError::Missing));
    assert_eq!(main.fetch(&file("../a")), Err(FetchError::Missing));

    assert_eq!(open(&topic, Base::MergeBase("main".into())).changes(None).unwrap().unwrap(), ["a"]);
    assert_eq!(open("topic", Base::Nothing).changes(Some("main")).unwrap().unwrap(), ["a"]);
    assert_eq!(open("topic", Base::Nothing).changes(None).unwrap(), None);
    assert_eq!(open("topic", Base::Commit("0".repeat(40))).changes(None).unwrap(), None);
    assert!(open("topic", Base::Nothing).changes(Some("nope")).is_err());
    assert!(open("topic", Base::Nothing).changes(Some("main~1")).is_err());
    assert!(GitTree::open(dir.path(), "nope", Base::Nothing).is_err());
}
