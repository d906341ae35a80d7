//! Placement by disk pressure: of two nodes, one whose disk is being saturated and one whose disk is quiet, builds go
//! to the quiet one, and `explain` says so.
//!
//! The loud disk is a loop device with direct I/O over a file, so that its queue is the disk's and not the page cache's;
//! the quiet one is a loop device over memory.

#[path = "support/site.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod site;

use site::{PATIENCE, Process, Site};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// What a disk lies on.
enum Beneath {
    /// A file: requests reach the machine's own disk.
    File,
    /// Memory.
    Memory,
}

/// An ext4 file system on a loop device; gone when dropped.
struct Disk {
    at: PathBuf,
    device: String,
    memory: Option<PathBuf>,
}

impl Disk {
    fn new(site: &Site, name: &str, beneath: &Beneath) -> Disk {
        let (folder, direct) = match beneath {
            Beneath::File => (site.path(""), "--direct-io=on"),
            Beneath::Memory => (site.path(&format!("{name}.memory")), "--direct-io=off"),
        };
        let memory = matches!(beneath, Beneath::Memory).then(|| folder.clone());
        if let Some(folder) = &memory {
            fs::create_dir_all(folder).unwrap();
            run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=5g", "tmpfs"]).arg(folder));
        }
        let file = folder.join(format!("{name}.img"));
        run(Command::new("truncate").args(["-s", "4G"]).arg(&file));
        let device = run(Command::new("losetup").args([direct, "-f", "--show"]).arg(&file));
        run(Command::new("mkfs.ext4").args(["-q", "-F", &device]));
        let at = site.path(name);
        fs::create_dir_all(&at).unwrap();
        run(Command::new("mount").arg(&device).arg(&at));
        Disk { at, device, memory }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for mount in [Some(&self.at), self.memory.as_ref()].into_iter().flatten() {
            let _ = Command::new("umount").arg("-l").arg(mount).status();
            let _ = Command::new("losetup").args(["-d", &self.device]).stderr(Stdio::null()).status();
        }
    }
}

/// `fio` writing to a folder until dropped.
struct Noise(Child);

impl Noise {
    fn on(folder: &Path) -> Noise {
        let child = Command::new("fio")
            .args([
                "--name=noise",
                "--thread",
                "--rw=randwrite",
                "--bs=256k",
                "--iodepth=64",
                "--ioengine=libaio",
                "--direct=1",
            ])
            .args(["--size=256m", "--time_based", "--runtime=600"])
            .arg(format!("--directory={}", folder.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("fio is installed (scripts/setup)");
        Noise(child)
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn node(site: &Site, name: &str, cache: &Path) -> Process {
    let text = fs::read_to_string(site.config()).unwrap();
    let standard = site.path("cache");
    let text = text
        .replace(&format!("cache_root = \"{}\"", standard.display()), &format!("cache_root = \"{}\"", cache.display()))
        .replace("name = \"node\"", &format!("name = \"{name}\""));
    let config = site.path(&format!("{name}.toml"));
    fs::write(&config, text).unwrap();
    site.start(&["runner", "--config", config.to_str().unwrap(), "--scheduler", &site.address()], "ready")
}

/// (queue depth, milliseconds of a request) of a node's disk.
fn disk(site: &Site, name: &str) -> Option<(f64, f64)> {
    let nodes = site.slipway(&["status", "--nodes", "--json"]).expect(0).json();
    let disk = &nodes.iter().find(|n| n["name"] == name)?["pressure"]["disk"];
    Some((disk["queue_depth"].as_f64()?, disk["await_ms"].as_f64().unwrap_or(0.0)))
}

#[test]
fn builds_go_to_the_node_whose_disk_is_quiet_and_explain_says_so() {
    let site = Site::new();
    let quiet = Disk::new(&site, "quiet", &Beneath::Memory);
    let loud = Disk::new(&site, "loud", &Beneath::File);
    let repository = site.repository(
        "repository",
        &[
            (
                ".gitlab-ci.yml",
                "build:\n  image: docker:stable\n  services: [docker:dind]\n  script: [docker build -t built .]\n",
            ),
            ("Dockerfile", "FROM alpine:latest\nRUN echo layer > /layer\n"),
        ],
    );
    let config = site.config();
    let _scheduler = site.start(&["scheduler", "--config", config.to_str().unwrap()], "ready");
    let _quiet = node(&site, "quiet", &quiet.at.join("cache"));
    let _loud = node(&site, "loud", &loud.at.join("cache"));
    let _noise = Noise::on(&loud.at);
    let begun = Instant::now();
    while !disk(&site, "loud").is_some_and(|(queue, milliseconds)| queue > 8.0 && milliseconds > 6.0) {
        assert!(begun.elapsed() < PATIENCE, "the loud disk does not choke: {:?}", disk(&site, "loud"));
    }
    for round in 1..=2 {
        let end = site.slipway(&["submit", repository.path.to_str().unwrap(), "--wait", "--json"]).expect(0);
        let pipeline = end.json().remove(0);
        let job = &pipeline["jobs"][0];
        let explained = site.slipway(&["explain", &job["id"].to_string()]).expect(0).out();
        assert_eq!(job["node"], "quiet", "round {round}: {explained}");
        for what in ["quiet", "loud", "I/O"] {
            assert!(explained.contains(what), "round {round}: {what:?} is not said: {explained}");
        }
    }
}
