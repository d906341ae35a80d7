//! `slipway doctor`: what this machine can do as a node, and what it lacks.

use crate::End;
use crate::config;
use crate::table::bytes;
use anyhow::Result;
use slipway_runner::config::RunnerConfig;
use slipway_runner::engine::wall;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of `slipway doctor`.
#[derive(clap::Args)]
pub(crate) struct Doctor {
    /// The configuration whose `[runner]` is looked at; without it, the defaults.
    #[arg(long)]
    config: Option<PathBuf>,
}

/// How a finding weighs.
enum Finding {
    Good(String),
    /// Works, with less.
    Less(String),
    /// Jobs that need it fail.
    Bad(String),
}

impl Doctor {
    pub(crate) async fn execute(self) -> Result<End> {
        let runner = match &self.config {
            Some(path) => config::runner(&config::read(path)?, path)?,
            None => RunnerConfig::default(),
        };
        let findings = [
            ("root", root()),
            (
                "docker",
                command("docker", &["info", "-f", "{{.ServerVersion}}, {{.Driver}} on cgroup v{{.CgroupVersion}}"]),
            ),
            ("git", command("git", &["--version"])),
            ("runc", command("runc", &["--version"])),
            ("ip", command("ip", &["-V"])),
            ("cache", cache(&runner.cache_root)),
            ("wall", the_wall(&runner)),
            ("pressure", pressure()),
        ];
        let mut bad = false;
        for (what, finding) in findings {
            let (mark, text) = match finding {
                Finding::Good(text) => ("ok  ", text),
                Finding::Less(text) => ("less", text),
                Finding::Bad(text) => {
                    bad = true;
                    ("BAD ", text)
                }
            };
            println!("{mark}  {what:<9} {text}");
        }
        Ok(if bad { End::Failed } else { End::Ok })
    }
}

fn root() -> Finding {
    if nix::unistd::geteuid().is_root() {
        Finding::Good("running as root".into())
    } else {
        Finding::Bad("not root: a runner makes mounts, cgroups and network devices for engines".into())
    }
}

fn command(program: &str, args: &[&str]) -> Finding {
    match Command::new(program).args(args).output() {
        Ok(out) if out.status.success() => {
            Finding::Good(String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or("").to_owned())
        }
        Ok(out) => Finding::Bad(String::from_utf8_lossy(&out.stderr).lines().next().unwrap_or("it failed").to_owned()),
        Err(e) => Finding::Bad(format!("cannot run {program}: {e}; install the Debian package that has it")),
    }
}

/// The nearest folder above a path that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"))
}

fn cache(root: &Path) -> Finding {
    let at = existing(root);
    match nix::sys::statvfs::statvfs(at) {
        Ok(fs) => {
            let free = fs.blocks_available() * fs.fragment_size();
            let text = format!("{}: {} free", root.display(), bytes(free));
            if free < 10_000_000_000 {
                Finding::Less(text + "; a few projects' layers take 10 GB")
            } else {
                Finding::Good(text)
            }
        }
        Err(e) => Finding::Bad(format!("cannot look at {}: {e}", at.display())),
    }
}

fn the_wall(runner: &RunnerConfig) -> Finding {
    // The probe tries things for real, beneath a folder of its own on the cache's file system.
    let folder = match tempfile::Builder::new().prefix("slipway-doctor-").tempdir_in(existing(&runner.cache_root)) {
        Ok(folder) => folder,
        Err(e) => return Finding::Bad(format!("cannot try a wall beneath {}: {e}", runner.cache_root.display())),
    };
    match wall::probe(runner.wall, folder.path()) {
        Ok(found) if found.wall == slipway_runner::layers::Wall::Userns => {
            Finding::Good(format!("userns: {}", found.why))
        }
        Ok(found) => Finding::Less(format!("container, as strong as --privileged: {}", found.why)),
        Err(e) => Finding::Bad(e.to_string()),
    }
}

fn pressure() -> Finding {
    let missing: Vec<&str> =
        ["/proc/pressure/io", "/proc/diskstats", "/proc/stat"].into_iter().filter(|p| !Path::new(p).exists()).collect();
    if missing.is_empty() {
        Finding::Good("I/O wait, queue depth and PSI can be read".into())
    } else {
        Finding::Less(format!("this kernel has no {}: placement goes by the others", missing.join(", ")))
    }
}
