//! The command `git`, as it is run on the node: with settings of ours alone, and killed when the job is cancelled.

use super::error::WorkspaceError;
use super::url::Remote;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;

/// Settings for every call, in a file of their own: neither the node's nor a user's configuration is read.
///
/// `safe.directory` is about the owner of a repository on this node that is fetched from; `unpackLimit` keeps what a
/// fetch brings as one pack; the speed limit ends a fetch from a server that sends less than 1 kB/s for a minute.
pub(super) const CONFIG: &str = "\
[safe]
	directory = *
[core]
	hooksPath = /dev/null
	fsmonitor = false
[http]
	lowSpeedLimit = 1000
	lowSpeedTime = 60
[fetch]
	unpackLimit = 1
[uploadpack]
	allowAnySHA1InWant = true
[gc]
	auto = 0
[maintenance]
	auto = false
[init]
	defaultBranch = main
";

/// How much of what git says about a failure is kept.
const DETAIL_BYTES_MAX: usize = 4096;

/// Variables of the runner's own environment that a fetch needs: ways out of the network, and whom to trust.
const PASSED: [&str; 12] = [
    "PATH",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "SSH_AUTH_SOCK",
];

/// One call.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// What it is for, in messages.
    pub verb: &'static str,
    /// The repository on our disk.
    pub folder: &'a Path,
    /// The other repository.
    pub remote: &'a Remote,
    /// Our settings.
    pub config: &'a Path,
}

impl Call<'_> {
    /// Runs git with `arguments`.
    ///
    /// The login is in the environment of this one process, readable by its own user alone; a redirect to another host
    /// does not get it (curl drops the header).
    pub(super) async fn run<A: AsRef<OsStr>>(
        &self,
        arguments: &[A],
        cancel: &CancellationToken,
    ) -> Result<(), WorkspaceError> {
        let mut command = tokio::process::Command::new("git");
        command.env_clear();
        for name in PASSED {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", self.config.parent().unwrap_or(Path::new("/")))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", self.config)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=30")
            .env("GIT_ALLOW_PROTOCOL", self.remote.protocols())
            .current_dir(self.folder)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some((key, value)) = self.remote.login_setting() {
            command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", key).env("GIT_CONFIG_VALUE_0", value);
        }
        let mut child = command.spawn().map_err(WorkspaceError::NoGit)?;
        let errors = child.stderr.take();
        let ended = async {
            let said = match errors {
                Some(errors) => tail(errors).await,
                None => String::new(),
            };
            (child.wait().await, said)
        };
        let (status, said) = tokio::select! {
            ended = ended => ended,
            () = cancel.cancelled() => return Err(WorkspaceError::Canceled),
        };
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.failed(if said.is_empty() { status.to_string() } else { said })),
            Err(error) => Err(self.failed(error.to_string())),
        }
    }

    fn failed(&self, detail: String) -> WorkspaceError {
        WorkspaceError::Git { verb: self.verb, url: self.remote.shown(), detail }
    }
}

/// The last bytes of a stream, as text.
async fn tail(mut stream: impl AsyncRead + Unpin) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 4096];
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..read]);
        let over = kept.len().saturating_sub(DETAIL_BYTES_MAX);
        kept.drain(..over);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// Writes [`CONFIG`] into `folder` and returns its path.
pub(super) fn write_config(folder: &Path) -> Result<PathBuf, WorkspaceError> {
    let path = folder.join("gitconfig");
    std::fs::write(&path, CONFIG).map_err(WorkspaceError::io("write", &path))?;
    Ok(path)
}
