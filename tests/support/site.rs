//! A place of its own for one test: configuration, state, cache, repositories, and the processes started there. All of
//! it goes with the value, whatever the test's end.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Longest wait for anything on a busy machine of two cores: a deadline, no measure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// A folder with `slipway.toml`, and what runs from it.
pub(crate) struct Site {
    root: tempfile::TempDir,
    /// `[runner]` keys beside the standard ones.
    pub(crate) runner: String,
    /// `[scheduler]` keys beside the standard ones.
    pub(crate) scheduler: String,
    /// Tables after them: `[[project]]`, `[[upstream]]`.
    pub(crate) tables: String,
}

impl Site {
    /// # Panics
    /// When there is no Docker engine: a missing engine is a failure, never a skip.
    pub(crate) fn new() -> Site {
        let docker =
            Command::new("docker").args(["info", "-f", "{{.ServerVersion}}"]).output().expect("docker is there");
        assert!(docker.status.success(), "no Docker engine answers: run scripts/setup first");
        let root = tempfile::Builder::new().prefix("site-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Site { root, runner: String::new(), scheduler: String::new(), tables: String::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Where the scheduler listens.
    pub(crate) fn address(&self) -> String {
        format!("unix:{}", self.path("s.sock").display())
    }

    /// The registry on this machine as engines see it: the host's side of Docker's bridge.
    pub(crate) fn registry() -> String {
        let out = Command::new("docker")
            .args(["network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}"])
            .output()
            .unwrap();
        let gateway = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        let gateway = if gateway.is_empty() { "172.17.0.1".to_owned() } else { gateway };
        format!("{gateway}:5000")
    }

    /// Writes the configuration and gives its path.
    pub(crate) fn config(&self) -> PathBuf {
        let registry = Site::registry();
        let text = format!(
            r#"[scheduler]
socket = "{socket}"
state_dir = "{state}"
{scheduler}

[runner]
name = "node"
cache_root = "{cache}"
registry_mirrors = ["http://{registry}"]
insecure_registries = ["{registry}"]
ca_file = "/etc/ssl/certs/ca-certificates.crt"
build_disk_bytes = 300000000
{runner}

{tables}
"#,
            socket = self.path("s.sock").display(),
            state = self.path("state").display(),
            cache = self.path("cache").display(),
            scheduler = self.scheduler,
            runner = self.runner,
            tables = self.tables,
        );
        let path = self.path("slipway.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// A repository of these files (path, content), one commit on `master`.
    pub(crate) fn repository(&self, name: &str, files: &[(&str, &str)]) -> Repository {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        let repository = Repository { path };
        repository.git(&["init", "-q", "-b", "master"]);
        repository.commit(files, "first");
        repository
    }

    /// A repository with a copy of a folder.
    pub(crate) fn repository_of(&self, name: &str, folder: &Path) -> Repository {
        let path = self.path(name);
        let copied = Command::new("cp").arg("-a").arg(folder).arg(&path).status().unwrap();
        assert!(copied.success());
        let repository = Repository { path };
        repository.git(&["init", "-q", "-b", "master"]);
        repository.commit(&[], "first");
        repository
    }

    /// `slipway ARGS`, from this site's folder, with this site's scheduler as the default.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slipway"));
        command.args(args).current_dir(self.root.path()).env("SLIPWAY_SCHEDULER", self.address()).env("NO_COLOR", "1");
        command
    }

    /// Runs a command to its end.
    pub(crate) fn slipway(&self, args: &[&str]) -> Finished {
        Finished(self.command(args).stdin(Stdio::null()).output().unwrap())
    }

    /// `slipway run REPOSITORY ARGS`.
    pub(crate) fn run(&self, repository: &Repository, args: &[&str]) -> Finished {
        let config = self.config();
        let mut all = vec!["run", repository.path.to_str().unwrap(), "--config", config.to_str().unwrap()];
        all.extend(args);
        self.slipway(&all)
    }

    /// Starts a process of this site and waits until it says that it is ready on its error output.
    pub(crate) fn start(&self, args: &[&str], ready: &str) -> Process {
        let mut command = self.command(args);
        let process = Process::start(&mut command);
        process.wait_for(ready);
        process
    }

    /// `slipway up`.
    pub(crate) fn up(&self) -> Process {
        let config = self.config();
        self.start(&["up", "--config", config.to_str().unwrap()], "ready")
    }
}

/// A command that ended.
pub(crate) struct Finished(pub(crate) Output);

impl Finished {
    pub(crate) fn code(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// Everything, for a failed assertion.
    pub(crate) fn all(&self) -> String {
        format!("exit {}\n--- out\n{}\n--- err\n{}", self.code(), self.out(), self.err())
    }

    pub(crate) fn expect(self, code: i32) -> Finished {
        assert_eq!(self.code(), code, "{}", self.all());
        self
    }

    /// The JSON documents of the output, one a line.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        self.out()
            .lines()
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}\n{}", self.all())))
            .collect()
    }
}

/// A running process of a site; ended, with all it started, when dropped.
pub(crate) struct Process {
    child: Child,
    said: Arc<Said>,
}

#[derive(Default)]
struct Said {
    text: Mutex<String>,
    more: Condvar,
}

impl Said {
    fn listen(self: &Arc<Self>, from: impl Read + Send + 'static) {
        let to = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                eprintln!("{line}");
                let mut text = to.text.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
                to.more.notify_all();
            }
        });
    }
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Process {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Said::default());
        said.listen(child.stderr.take().unwrap());
        Process { child, said }
    }

    /// The same, its standard output heard too.
    pub(crate) fn start_showing_output(command: &mut Command) -> Process {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Said::default());
        said.listen(child.stderr.take().unwrap());
        said.listen(child.stdout.take().unwrap());
        Process { child, said }
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// Waits until its output has `what`.
    pub(crate) fn wait_for(&self, what: &str) {
        let text = self.said.text.lock().unwrap();
        let (text, timeout) = self.said.more.wait_timeout_while(text, PATIENCE, |t| !t.contains(what)).unwrap();
        assert!(!timeout.timed_out(), "it did not say {what:?} within {PATIENCE:?}; it said:\n{text}");
    }

    pub(crate) fn said(&self) -> String {
        self.said.text.lock().unwrap().clone()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal and waits for its end.
    pub(crate) fn signal(mut self, signal: &str) -> i32 {
        self.tell(signal);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// Sends a signal.
    pub(crate) fn tell(&self, signal: &str) {
        let sent = Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGTERM twice: the second time it does not wait for its jobs, but still cleans up after them.
        let id = self.child.id().to_string();
        for _ in 0..2 {
            let _ = Command::new("kill").args(["-TERM", &id]).stderr(Stdio::null()).status();
        }
        let _ = self.child.wait();
    }
}

/// A git repository of a test.
pub(crate) struct Repository {
    pub(crate) path: PathBuf,
}

impl Repository {
    pub(crate) fn git(&self, args: &[&str]) -> String {
        let out = Command::new("git")
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"])
            .args(args)
            .current_dir(&self.path)
            .output()
            .unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }

    /// Writes files and commits everything; gives the commit.
    pub(crate) fn commit(&self, files: &[(&str, &str)], message: &str) -> String {
        for (path, content) in files {
            let path = self.path.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.head()
    }

    pub(crate) fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }
}
