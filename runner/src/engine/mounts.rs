//! Mounts of an engine. They are made in a mount namespace of a thread's own and live on only in the engine that is
//! started from it: the host never sees them, and nothing is left to unmount whatever ends the engine or the runner.

use super::error::{EngineError, Tried};
use super::idmap::{self, Flags};
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

/// Where they are, in that namespace. Every component of it can be searched by an engine's ids.
pub(super) const AT: &str = "/run/slipway/m";

/// What an engine sees of the host.
pub(super) struct Plan<'a> {
    /// The service image's layers, the topmost first.
    pub(super) image: &'a [PathBuf],
    /// A folder with `upper` and `work`: what the engine changes of its root filesystem.
    pub(super) root: &'a Path,
    /// Its data directory.
    pub(super) data: &'a Path,
    /// The layers it may see.
    pub(super) layers: Option<&'a Path>,
}

/// What [`Plan`] became.
pub(super) struct Mounted {
    pub(super) root: PathBuf,
    pub(super) data: PathBuf,
    pub(super) layers: Option<PathBuf>,
}

/// Runs `act` in a thread with a mount namespace of its own. Programs it starts see the same.
pub(super) fn apart<T: Send>(act: impl FnOnce() -> Result<T, EngineError> + Send) -> Result<T, EngineError> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::unshare(CloneFlags::CLONE_NEWNS).tried("leave the mount namespace of", "the host")?;
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).tried("make private", "/")?;
                act()
            })
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the thread panicked")).tried("mount", AT))
    })
}

impl Plan<'_> {
    /// Mounts all of it beneath [`AT`], owned by the ids of the user namespace `ids`, whose root is `base` outside. Call it in
    /// [`apart`].
    pub(super) fn mount(&self, ids: BorrowedFd<'_>, base: u32) -> Result<Mounted, EngineError> {
        let at = Path::new(AT);
        super::files::make_dir(at, 0o755)?;
        nix::mount::mount(Some("slipway"), at, Some("tmpfs"), MsFlags::empty(), Some("mode=755,size=1m"))
            .tried("mount a tmpfs on", at)?;
        // Relative names keep the options of the overlay mount below a page, however many layers there are.
        nix::unistd::chdir(at).tried("enter", at)?;
        let folder = |name: &str| -> Result<PathBuf, EngineError> {
            let path = at.join(name);
            std::fs::create_dir(&path).tried("make", &path)?;
            Ok(path)
        };

        let mut lower = Vec::new();
        for (n, layer) in self.image.iter().enumerate() {
            let name = format!("i{n}");
            let target = folder(&name)?;
            let flags = Flags { read_only: true, ..Flags::default() };
            idmap::bind(layer, &target, Some(ids), flags).tried("map the ids of the image's layer", layer)?;
            lower.push(name);
        }
        let rw = folder("rw")?;
        idmap::bind(self.root, &rw, Some(ids), Flags::default()).tried("map the ids of", self.root)?;
        let root = folder("root")?;
        let options = format!("lowerdir={},upperdir=rw/upper,workdir=rw/work,volatile", lower.join(":"));
        let overlay =
            || nix::mount::mount(Some("engine"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()));
        idmap::making_files_as(base, overlay).tried("act for", &root)?.tried("mount the service image on", &root)?;

        let data = folder("data")?;
        idmap::bind(self.data, &data, Some(ids), Flags::default()).tried("map the ids of", self.data)?;
        let layers = match self.layers {
            None => None,
            Some(source) => {
                let target = folder("layers")?;
                let flags = Flags { read_only: true, ..Flags::default() };
                idmap::bind(source, &target, Some(ids), flags).tried("map the ids of", source)?;
                Some(target)
            }
        };
        Ok(Mounted { root, data, layers })
    }
}
