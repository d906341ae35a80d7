//! Real git repositories, made by the command git, and a server for them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A repository in a temporary folder.
pub(crate) struct Repository {
    pub(crate) folder: PathBuf,
    _temporary: tempfile::TempDir,
}

impl Repository {
    pub(crate) fn new() -> Repository {
        let temporary = tempfile::tempdir().expect("a temporary folder");
        let folder = temporary.path().join("project");
        std::fs::create_dir(&folder).expect("a folder");
        let repository = Repository { folder, _temporary: temporary };
        repository.git(&["init", "-q", "-b", "main"]);
        repository
    }

    pub(crate) fn url(&self) -> String {
        self.folder.display().to_string()
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        git(&self.folder, arguments)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    /// Commits everything and returns the commit's id.
    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }
}

/// Runs git as a person would, without this machine's configuration; its output.
pub(crate) fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(folder)
        .args(arguments)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_NAME", "A")
        .env("GIT_AUTHOR_EMAIL", "a@example.org")
        .env("GIT_COMMITTER_NAME", "A")
        .env("GIT_COMMITTER_EMAIL", "a@example.org")
        .output()
        .expect("git runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// A smart HTTP server for the repositories in a folder (`git http-backend`), which wants a login.
pub(crate) struct Server {
    pub(crate) address: String,
    /// Fetches that began: requests for the list of references with a good login.
    pub(crate) fetches: Arc<AtomicUsize>,
    /// Requests with a wrong login, or none.
    pub(crate) refused: Arc<AtomicUsize>,
}

impl Server {
    /// Serves `folder` to whoever sends `authorization`. The threads end with the process.
    pub(crate) fn start(folder: &Path, authorization: &'static str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (fetches, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let server = Server { address, fetches: fetches.clone(), refused: refused.clone() };
        let folder = folder.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (folder, fetches, refused) = (folder.clone(), fetches.clone(), refused.clone());
                std::thread::spawn(move || {
                    let _ = answer(stream, &folder, authorization, &fetches, &refused);
                });
            }
        });
        server
    }

    pub(crate) fn url(&self, repository: &str) -> String {
        format!("http://{}/{repository}", self.address)
    }
}

/// One request a connection.
fn answer(
    stream: TcpStream,
    folder: &Path,
    authorization: &str,
    fetches: &AtomicUsize,
    refused: &AtomicUsize,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
    let (mut length, mut kind, mut protocol, mut encoding, mut login) =
        (0, String::new(), String::new(), String::new(), String::new());
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((key, value)) = header.trim().split_once(": ") else { break };
        match key.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "content-type" => kind = value.to_owned(),
            "git-protocol" => protocol = value.to_owned(),
            "content-encoding" => encoding = value.to_owned(),
            "authorization" => login = value.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    if login != authorization {
        refused.fetch_add(1, Ordering::SeqCst);
        return out.write_all(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    if path.ends_with("/info/refs") {
        fetches.fetch_add(1, Ordering::SeqCst);
    }
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", kind)
        .env("CONTENT_LENGTH", length.to_string())
        .env("GIT_PROTOCOL", protocol)
        .env("HTTP_CONTENT_ENCODING", encoding)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().expect("a pipe").write_all(&body)?;
    let output = child.wait_with_output()?.stdout;
    let split = output.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(0);
    let headers = String::from_utf8_lossy(&output[..split]).into_owned();
    let status = headers.lines().find_map(|l| l.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    write!(
        out,
        "HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        output.len() - split - 4
    )?;
    out.write_all(&output[split + 4..])
}
