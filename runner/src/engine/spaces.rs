//! An engine's user and network namespaces, made before it starts: the mounts need the one, the network is built in
//! the other while nothing runs there.

use super::error::{EngineError, Tried};
use nix::sched::CloneFlags;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Ids a user namespace has: as many as a Linux user database expects.
pub(super) const IDS: u32 = 65_536;

/// The two namespaces. They live as long as this does, or the engine in them.
#[derive(Debug)]
pub(super) struct Spaces {
    user: OwnedFd,
    net: OwnedFd,
    /// A process in both; `ip` needs a number to name a network namespace by. It ends with its pipe.
    holder: Child,
}

impl Spaces {
    /// Makes both, with uid and gid 0 to [`IDS`] inside being `base` and above outside.
    pub(super) fn new(base: u32) -> Result<Spaces, EngineError> {
        let mut holder = Command::new("unshare")
            .args(["--user", "--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .tried("start", "unshare (package util-linux)")?;
        match Spaces::enter(&mut holder, base) {
            Ok((user, net)) => Ok(Spaces { user, net, holder }),
            Err(e) => {
                let mut said = String::new();
                let _ = holder.kill();
                if let Some(stderr) = holder.stderr.take() {
                    let _ = stderr.take(2000).read_to_string(&mut said);
                }
                let _ = holder.wait();
                if said.trim().is_empty() {
                    Err(e)
                } else {
                    Err(EngineError::Program { doing: "make namespaces", program: "unshare", said })
                }
            }
        }
    }

    fn enter(holder: &mut Child, base: u32) -> Result<(OwnedFd, OwnedFd), EngineError> {
        let proc = PathBuf::from(format!("/proc/{}", holder.id()));
        // `cat` answers once the namespaces are there.
        let mut byte = [0];
        if let (Some(stdin), Some(stdout)) = (&mut holder.stdin, &mut holder.stdout) {
            stdin.write_all(b".").tried("talk to", "unshare")?;
            stdout.read_exact(&mut byte).tried("hear from", "unshare")?;
        }
        let map = format!("0 {base} {IDS}\n");
        for file in ["uid_map", "gid_map"] {
            let path = proc.join(file);
            std::fs::write(&path, &map).tried("map ids in", &path)?;
        }
        let open = |name: &str| {
            let path = proc.join("ns").join(name);
            File::open(&path).map(OwnedFd::from).tried("open", &path)
        };
        Ok((open("user")?, open("net")?))
    }

    /// The user namespace.
    pub(super) fn user(&self) -> BorrowedFd<'_> {
        self.user.as_fd()
    }

    /// A path to the user namespace, good while this lives.
    pub(super) fn user_path(&self) -> PathBuf {
        fd_path(&self.user)
    }

    /// A path to the network namespace, good while this lives.
    pub(super) fn net_path(&self) -> PathBuf {
        fd_path(&self.net)
    }

    /// A process in both.
    pub(super) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A socket that listens in the network namespace on all addresses.
    pub(super) fn listen(&self, port: u16) -> Result<TcpListener, EngineError> {
        listen_in(self.net.as_fd(), port)
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A socket that listens in another network namespace on all addresses.
pub(super) fn listen_in(net: BorrowedFd<'_>, port: u16) -> Result<TcpListener, EngineError> {
    // A thread that entered another namespace is of no use for anything else, so it is one of its own.
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::setns(net, CloneFlags::CLONE_NEWNET)?;
                TcpListener::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))
            })
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread panicked")))
    })
    .tried("listen in the engine's network on port", port.to_string())
}

fn fd_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()))
}
