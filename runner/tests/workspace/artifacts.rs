//! Artifacts on real trees.

use slipway_runner::artifacts::{ArtifactError, Bounds, Level, Rules, Selected, extract, file_name, pack, select};
use slipway_runner::confined::{Folder, Kind};
use slipway_runner::workspace::TrackedPaths;
use slipway_spec::job::ArtifactFormat;
use std::fs;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

struct Tree {
    folder: tempfile::TempDir,
}

impl Tree {
    fn new(files: &[&str]) -> Tree {
        let tree = Tree { folder: tempfile::tempdir().expect("a temporary folder") };
        for file in files {
            tree.write(file, file.as_bytes());
        }
        tree
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }

    fn open(&self) -> Folder {
        Folder::open(self.path()).expect("the folder")
    }

    fn select(&self, paths: &[&str], exclude: &[&str]) -> Selected {
        let owned = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<String>>();
        let (paths, exclude) = (owned(paths), owned(exclude));
        let rules = Rules { paths: &paths, exclude: &exclude, untracked: None, project_dir: "/builds/g/p" };
        select(&self.open(), &rules, Bounds::default()).expect("a selection")
    }

    fn zip(&self, selected: &Selected) -> fs::File {
        let mut file = tempfile::tempfile().expect("a file");
        pack(&self.open(), selected, ArtifactFormat::Zip, Level::Default, Bounds::default(), &mut file).expect("a zip");
        file.seek(SeekFrom::Start(0)).expect("a seek");
        file
    }
}

fn names(selected: &Selected) -> Vec<String> {
    selected.files().map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect()
}

#[test]
fn selection_follows_the_rules() {
    let tree = Tree::new(&["dist/a.js", "dist/sub/b.js", "dist/sub/c.map", "src/x.js", "top.txt", ".hidden/h"]);
    assert_eq!(names(&tree.select(&["dist"], &[])), ["dist/a.js", "dist/sub/b.js", "dist/sub/c.map"]);
    assert_eq!(names(&tree.select(&["dist/"], &["dist/**/*.map"])), ["dist/a.js", "dist/sub/b.js"]);
    assert_eq!(names(&tree.select(&["**/*.js"], &[])), ["dist/a.js", "dist/sub/b.js", "src/x.js"]);
    assert_eq!(names(&tree.select(&["*.txt", "/builds/g/p/src"], &[])), ["src/x.js", "top.txt"]);
    // Not recursive: the folder itself goes, not what is in it.
    assert_eq!(names(&tree.select(&["dist"], &["dist/sub/"])), ["dist/a.js", "dist/sub/b.js", "dist/sub/c.map"]);
    assert_eq!(tree.select(&["."], &[]).files().count(), 6);
    let lines = tree.select(&["dist", "nope/*"], &[]).lines;
    assert_eq!(lines[0], "dist: found 5 matching artifact files and directories");
    assert!(lines[1].starts_with("WARNING: nope/*: no matching files. Ensure that the artifact path"), "{lines:?}");
}

#[test]
fn nothing_outside_the_project_is_selected_or_read() {
    let outside = Tree::new(&["secret"]);
    let tree = Tree::new(&["in/file"]);
    symlink(outside.path(), tree.path().join("out")).expect("a link");
    symlink(outside.path().join("secret"), tree.path().join("in/secret")).expect("a link");
    for pattern in ["../secret", "/etc/passwd", "in/../../x", "/builds/g/project2/x"] {
        let selected = tree.select(&[pattern], &[]);
        assert!(selected.is_empty(), "{pattern}");
        assert!(selected.lines[0].contains("outside of the project directory"), "{:?}", selected.lines);
    }
    // Links are links; what they lead to is not seen.
    for pattern in ["out/secret", "out/*", "out/**"] {
        assert_eq!(
            names(&tree.select(&[pattern], &[])).iter().filter(|n| n.contains("secret")).count(),
            0,
            "{pattern}"
        );
    }
    let all = tree.select(&["."], &[]);
    assert_eq!(names(&all), ["in/file", "in/secret", "out"]);
    let bytes = read_all(tree.zip(&all));
    assert!(!bytes.windows(6).any(|w| w == b"secret\n"));
    // The job swaps a folder for a link between selection and packing.
    let selected = tree.select(&["in/file"], &[]);
    fs::remove_dir_all(tree.path().join("in")).expect("removed");
    symlink(outside.path(), tree.path().join("in")).expect("a link");
    outside.write("file", b"not yours");
    let mut sink = Cursor::new(Vec::new());
    let result = pack(&tree.open(), &selected, ArtifactFormat::Zip, Level::Default, Bounds::default(), &mut sink);
    assert!(result.is_err(), "{result:?}");
    assert!(!sink.into_inner().windows(9).any(|w| w == b"not yours"));
}

fn read_all(mut file: fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("bytes");
    bytes
}

#[test]
fn untracked_takes_what_git_does_not_know() {
    let tree = Tree::new(&["src/a.c", "src/a.o", "build/out", ".git/config", "README"]);
    let tracked = TrackedPaths::from_paths(["src/a.c", "README"]);
    let rules = Rules { untracked: Some(&tracked), project_dir: "/p", ..Rules::default() };
    let selected = select(&tree.open(), &rules, Bounds::default()).expect("a selection");
    assert_eq!(names(&selected), ["build/out", "src/a.o"]);
    assert_eq!(selected.lines, ["untracked: found 2 files"]);
}

#[test]
fn zip_is_what_info_zip_and_an_extraction_make_of_it() {
    let tree = Tree::new(&["a/one", "a/two", "ü/☃"]);
    tree.write("a/big", &(0..5_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<u8>>());
    tree.write("a/empty", b"");
    fs::create_dir(tree.path().join("a/none")).expect("a folder");
    fs::set_permissions(tree.path().join("a/one"), PermissionsExt::from_mode(0o755)).expect("mode");
    fs::set_permissions(tree.path().join("a/two"), PermissionsExt::from_mode(0o4711)).expect("mode");
    symlink("../ü", tree.path().join("a/link")).expect("a link");
    for n in 0..600 {
        tree.write(&format!("many/{}/{n:03}", n % 7), format!("file {n}").as_bytes());
    }
    let selected = tree.select(&["."], &[]);
    let archive = tree.zip(&selected);

    let listing = zip::ZipArchive::new(archive.try_clone().expect("a file")).expect("a zip");
    assert_eq!(listing.len(), selected.entries.len());
    let mut copy = tempfile::NamedTempFile::new().expect("a file");
    let mut reader = archive.try_clone().expect("a file");
    reader.seek(SeekFrom::Start(0)).expect("a seek");
    std::io::copy(&mut reader, &mut copy).expect("a copy");
    let info_zip = Command::new("unzip").arg("-tq").arg(copy.path()).output().expect("unzip runs (scripts/setup)");
    assert!(info_zip.status.success(), "{}", String::from_utf8_lossy(&info_zip.stdout));

    let target = Tree::new(&["a/one", "kept"]);
    let mut archive = archive;
    archive.seek(SeekFrom::Start(0)).expect("a seek");
    let extracted = extract(archive, &target.open(), Bounds::default()).expect("extracted");
    assert_eq!(extracted.files as usize, selected.files().count());
    assert_eq!(fs::read(target.path().join("a/big")).expect("big"), fs::read(tree.path().join("a/big")).expect("big"));
    assert_eq!(fs::read(target.path().join("many/5/012")).expect("small"), b"file 12");
    assert_eq!(fs::read(target.path().join("ü/☃")).expect("name"), "ü/☃".as_bytes());
    assert_eq!(fs::read_link(target.path().join("a/link")).expect("a link"), Path::new("../ü"));
    assert!(target.path().join("a/none").is_dir() && target.path().join("kept").exists());
    let mode = |path: &str| fs::metadata(target.path().join(path)).expect(path).mode() & 0o7777;
    assert_eq!((mode("a/one"), mode("a/two")), (0o755, 0o711), "set-user-id is gone");
}

#[test]
fn gzip_has_a_member_a_file_and_raw_is_one_file() {
    let tree = Tree::new(&["r/junit-1.xml", "r/junit-2.xml"]);
    let selected = tree.select(&["r/*.xml"], &[]);
    let packed = |format| {
        let mut out = Cursor::new(Vec::new());
        pack(&tree.open(), &selected, format, Level::Fast, Bounds::default(), &mut out).map(|_| out.into_inner())
    };
    let bytes = packed(ArtifactFormat::Gzip).expect("gzip");
    let mut members = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let mut member = flate2::bufread::GzDecoder::new(rest);
        let mut text = String::new();
        member.read_to_string(&mut text).expect("a member");
        let header = member.header().expect("a header");
        let word = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or(b"")).into_owned();
        members.push((word(header.filename()), word(header.comment()), text));
        rest = member.into_inner();
    }
    let member = |n: u8| (format!("junit-{n}.xml"), format!("r/junit-{n}.xml"), format!("r/junit-{n}.xml"));
    assert_eq!(members, [member(1), member(2)]);
    let two = packed(ArtifactFormat::Raw).expect_err("two files");
    assert!(matches!(two, ArtifactError::NotOneFile { count: 2 }), "{two}");
    let one = tree.select(&["r/junit-1.xml"], &[]);
    let mut out = Cursor::new(Vec::new());
    pack(&tree.open(), &one, ArtifactFormat::Raw, Level::Fast, Bounds::default(), &mut out).expect("raw");
    assert_eq!(out.into_inner(), b"r/junit-1.xml");
}

#[test]
fn bounds_end_in_a_clear_error() {
    let tree = Tree::new(&["a", "b", "c"]);
    tree.write(
        "noise",
        &(0..200_000u32).map(|n| (n.wrapping_mul(n).wrapping_mul(2_654_435_761) >> 11) as u8).collect::<Vec<u8>>(),
    );
    let paths = vec![".".to_owned()];
    let rules = Rules { paths: &paths, ..Rules::default() };
    let few = select(&tree.open(), &rules, Bounds { entries: 2, bytes: 100 }).expect_err("too many");
    assert!(matches!(few, ArtifactError::TooMany { limit: 2 }), "{few}");
    let selected = select(&tree.open(), &rules, Bounds::default()).expect("a selection");
    for format in [ArtifactFormat::Zip, ArtifactFormat::Gzip] {
        let bounds = Bounds { bytes: 20_000, ..Bounds::default() };
        let large = pack(&tree.open(), &selected, format, Level::Fastest, bounds, Cursor::new(Vec::new()));
        assert!(matches!(large, Err(ArtifactError::TooLarge { limit: 20_000 })), "{large:?}");
    }
}

/// A zip of one entry made by hand, with the mode and name given.
fn evil_zip(entries: &[(&str, u32, &[u8])]) -> fs::File {
    let mut writer = zip::ZipWriter::new(tempfile::tempfile().expect("a file"));
    for (name, mode, bytes) in entries {
        let options = zip::write::SimpleFileOptions::default();
        if mode & 0o170_000 == 0o120_000 {
            writer.add_symlink(*name, String::from_utf8_lossy(bytes), options).expect("a link");
        } else {
            writer.start_file(*name, options.unix_permissions(mode & 0o7777)).expect("an entry");
            writer.write_all(bytes).expect("bytes");
        }
    }
    let mut file = writer.finish().expect("a zip");
    // Types that the writer does not write: patched in the central directory.
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("a seek");
    file.read_to_end(&mut bytes).expect("bytes");
    // A name that is there twice, which the writer refuses to write.
    while let Some(at) = bytes.windows(4).position(|w| w == b"lin_") {
        bytes[at + 3] = b'k';
    }
    let mut wanted = entries.iter();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(4).position(|w| w == b"PK\x01\x02") {
        at += found;
        let (_, mode, _) = wanted.next().expect("an entry");
        if mode & 0o170_000 != 0 {
            bytes[at + 5] = 3;
            bytes[at + 38..at + 42].copy_from_slice(&(mode << 16).to_le_bytes());
        }
        at += 4;
    }
    file.seek(SeekFrom::Start(0)).expect("a seek");
    file.write_all(&bytes).expect("bytes");
    file.seek(SeekFrom::Start(0)).expect("a seek");
    file
}

#[test]
fn hostile_archive_writes_nothing_outside() {
    let outer = Tree::new(&["victim"]);
    fs::create_dir(outer.path().join("tree")).expect("a folder");
    let inner = Folder::open(&outer.path().join("tree")).expect("the tree");
    let regular = 0o100_644;
    for name in ["../victim", "a/../../victim", "/tmp/slipway-victim", "..", "x/.."] {
        let error = extract(evil_zip(&[(name, regular, b"evil")]), &inner, Bounds::default()).expect_err(name);
        assert!(matches!(error, ArtifactError::Entry { .. }), "{name}: {error}");
    }
    let up = outer.path().display().to_string();
    for (target, entry) in [(up.as_str(), "link/victim"), ("..", "link/victim"), ("../victim", "lin_")] {
        let archive = evil_zip(&[("link", 0o120_777, target.as_bytes()), (entry, regular, b"evil")]);
        // Writing through the link is refused; in its place, the link alone is replaced. The reader may also refuse
        // the same name twice.
        let _ = extract(archive, &inner, Bounds::default());
        assert_eq!(fs::read(outer.path().join("victim")).expect("the victim"), b"victim", "{target} {entry}");
        assert!(!outer.path().join("tree/victim").exists());
        let _ = fs::remove_file(outer.path().join("tree/link"));
    }
    for kind in [0o020_666, 0o060_666, 0o010_666, 0o140_666] {
        let error = extract(evil_zip(&[("node", kind, b"")]), &inner, Bounds::default()).expect_err("a device");
        assert!(error.to_string().contains("a device, a FIFO or a socket"), "{kind:o}: {error}");
        assert!(!outer.path().join("tree/node").exists());
    }
    let archive = evil_zip(&[("su", 0o106_755, b"#!")]);
    extract(archive, &inner, Bounds::default()).expect("extracted");
    assert_eq!(fs::metadata(outer.path().join("tree/su")).expect("su").mode() & 0o7777, 0o755);
    assert!(!Path::new("/tmp/slipway-victim").exists());
}

#[test]
fn zip_bomb_ends_at_the_bound() {
    let target = Tree::new(&[]);
    let zeros = vec![0u8; 50 << 20];
    let archive = evil_zip(&[("bomb", 0o100_644, &zeros)]);
    assert!(archive.metadata().expect("a file").len() < 1 << 20);
    let bounds = Bounds { bytes: 1 << 20, entries: 100 };
    let error = extract(archive, &target.open(), bounds).expect_err("a bomb");
    assert!(matches!(error, ArtifactError::TooLarge { .. }), "{error}");
    assert!(fs::metadata(target.path().join("bomb")).map_or(0, |data| data.len()) <= 1 << 20);
    for junk in [&b"not an archive"[..], b"", b"PK\x03\x04 broken", b"\x1f\x8b\x08"] {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(junk).expect("bytes");
        let error = extract(file, &target.open(), bounds).expect_err("junk");
        assert!(matches!(error, ArtifactError::Archive(_)), "{error}");
    }
}

#[test]
fn names_of_archives_have_no_path() {
    for (name, format, expected) in [
        (None, ArtifactFormat::Zip, "artifacts.zip"),
        (Some("a/b/c"), ArtifactFormat::Zip, "c.zip"),
        (Some(""), ArtifactFormat::Gzip, "default.gz"),
        (Some(".."), ArtifactFormat::Zip, "default.zip"),
        (Some("gl-sast-report.json"), ArtifactFormat::Raw, "gl-sast-report.json"),
    ] {
        assert_eq!(file_name(name, format), expected);
    }
}

#[test]
fn special_files_are_never_opened() {
    let tree = Tree::new(&["file"]);
    nix::unistd::mkfifo(&tree.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let selected = tree.select(&["."], &[]);
    assert_eq!(names(&selected), ["file"]);
    assert!(selected.entries.iter().all(|entry| entry.kind != Kind::Special));
    // Swapped in after the selection: the open does not block, and is refused.
    fs::remove_file(tree.path().join("file")).expect("removed");
    nix::unistd::mkfifo(&tree.path().join("file"), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let result =
        pack(&tree.open(), &selected, ArtifactFormat::Zip, Level::Fast, Bounds::default(), Cursor::new(Vec::new()));
    assert!(matches!(result, Err(ArtifactError::File { .. })), "{result:?}");
}

#[test]
fn tree_whose_parent_became_a_link_is_not_opened() {
    let outside = Tree::new(&["project/secret"]);
    let builds = Tree::new(&["group/project/file"]);
    let open = || Folder::open(builds.path()).expect("the builds folder").folder(b"group/project");
    assert!(open().expect("the work tree").read(b"file").is_ok());
    fs::remove_dir_all(builds.path().join("group")).expect("removed");
    symlink(outside.path(), builds.path().join("group")).expect("a link");
    assert!(open().is_err());
    assert!(Folder::open(builds.path()).expect("the builds folder").folder(b"../x").is_err());
}
