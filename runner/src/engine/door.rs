//! What answers `tcp://docker:2375`: a process of its own that hands bytes to the engine's socket. It lives as long as
//! the engine, not as long as the runner.
//!
//! dockerd could listen there itself, but sleeps a second on purpose before it does without TLS. It gets the listening
//! socket as standard input, so nobody is ever refused: who comes early waits.
//!
//! It stands outside the engine, and what is inside is hostile: the engine's socket is opened beneath the engine's own
//! root, whatever links lie there, and by the engine's own powerless ids. It cannot be made to open a socket of the
//! host's.

use super::error::{EngineError, Tried};
use super::idmap;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Gid, Uid};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The engine's socket, beneath its root.
const SOCKET: &str = "var/run/docker.sock";
/// Callers at once; more wait their turn.
const CALLERS: usize = 512;
/// How long the first caller waits for the daemon; after that a daemon that does not answer is dead.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a door. `program` is what to run: this program with the words that lead to [`serve`].
pub(super) fn open(
    program: &[OsString],
    listener: TcpListener,
    engine: i32,
    user: Option<u32>,
    log: &Path,
) -> Result<Child, EngineError> {
    let (first, rest) = program
        .split_first()
        .ok_or(ErrorKind::InvalidInput)
        .map_err(io::Error::from)
        .tried("start a door:", "no program for it is configured")?;
    let log = File::options().create(true).append(true).mode(0o600).open(log).tried("open", log)?;
    Command::new(first)
        .args(rest)
        .arg(engine.to_string())
        .arg(user.unwrap_or(0).to_string())
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        // Ctrl-C in the runner's terminal is not for it.
        .process_group(0)
        .spawn()
        .tried("start", Path::new(first))
}

/// A door's whole life. `arguments`: the engine's process 1, and the user to become (0: stay).
///
/// # Errors
/// When it cannot begin; afterwards it ends well, with the engine.
pub fn serve(arguments: &[String]) -> io::Result<()> {
    let [engine, user] = arguments else { return Err(io::Error::other("a door needs a process and a user")) };
    let engine: i32 = engine.parse().map_err(io::Error::other)?;
    let user: u32 = user.parse().map_err(io::Error::other)?;
    let root = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(format!("/proc/{engine}/root"))?;
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    if user != 0 {
        nix::unistd::setgroups(&[])?;
        nix::unistd::setgid(Gid::from_raw(user))?;
        nix::unistd::setuid(Uid::from_raw(user))?;
    }
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let ended = idmap::watch(engine)?;
        let inside = Arc::new(Inside { root: root.into(), answered: AtomicBool::new(false) });
        let places = Arc::new(Semaphore::new(CALLERS));
        loop {
            let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
            tokio::select! {
                _ = ended.readable() => return Ok(()),
                caller = listener.accept() => {
                    // An error here is one caller's: it hung up before it was heard.
                    let Ok((caller, _)) = caller else { continue };
                    let inside = inside.clone();
                    tokio::spawn(async move {
                        inside.hand_over(caller).await;
                        drop(place);
                    });
                }
            }
        }
    })
}

struct Inside {
    root: OwnedFd,
    answered: AtomicBool,
}

impl Inside {
    async fn hand_over(&self, mut caller: TcpStream) {
        let _ = caller.set_nodelay(true);
        if let Ok(mut daemon) = self.connect().await {
            let _ = tokio::io::copy_bidirectional(&mut caller, &mut daemon).await;
        }
    }

    /// Until the daemon has answered once it is waited for: a socket that does not exist yet gives no event that could
    /// be had from outside its namespaces.
    async fn connect(&self) -> io::Result<UnixStream> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let tried = match self.socket() {
                // A path of ours, to the very socket that was just looked at.
                Ok(socket) => UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await,
                Err(e) => Err(e),
            };
            match tried {
                Ok(stream) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(stream);
                }
                Err(e) if self.answered.load(Ordering::Relaxed) || Instant::now() >= deadline => return Err(e),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    fn socket(&self) -> io::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let socket = openat2(&self.root, SOCKET, how)?;
        let kind = SFlag::from_bits_truncate(fstat(&socket)?.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFSOCK { Ok(socket) } else { Err(ErrorKind::NotFound.into()) }
    }
}
