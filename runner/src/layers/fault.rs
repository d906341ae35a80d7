//! Where a test may interrupt a change of the store. Production passes [`Faults::none`].

use std::fmt;
use std::io;
use std::sync::Arc;

/// A point between two changes on disk. A crash at any of them leaves a store that opens, verifies and is warm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Clone: the engine's folder and its record exist, so the generation is pinned; nothing is copied yet.
    ClonePinned,
    /// Clone: the private tree is complete.
    CloneCopied,
    /// Promotion: the engine's tree was examined; nothing has changed.
    Examined,
    /// Promotion: the manifest is written and the private files are in the staging folder.
    Staged,
    /// Promotion: new layers are in the store under minted names, named by the staged manifest only.
    LayersMoved,
    /// Promotion: everything so far is on the disk itself.
    Synced,
    /// Promotion: the generation's folder has its final name; the pointer still names the old one.
    Placed,
    /// Promotion: the pointer names the new generation.
    Swapped,
    /// Promotion: generations beyond what is kept are gone.
    Retired,
    /// Promotion: digests of the new layers are recorded.
    Sealed,
    /// Promotion or discard: the engine's folder is in the trash, not yet deleted.
    Trashed,
    /// Collection: generations to be dropped are in the trash; their layers are still there.
    GenerationsTrashed,
    /// Collection: unreferenced layers are in the trash, not yet deleted.
    LayersTrashed,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Step; 13] = [
        Step::ClonePinned,
        Step::CloneCopied,
        Step::Examined,
        Step::Staged,
        Step::LayersMoved,
        Step::Synced,
        Step::Placed,
        Step::Swapped,
        Step::Retired,
        Step::Sealed,
        Step::Trashed,
        Step::GenerationsTrashed,
        Step::LayersTrashed,
    ];
}

type Hook = dyn Fn(Step) -> io::Result<()> + Send + Sync;

/// What happens at each [`Step`].
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Hook>>);

impl Faults {
    /// Nothing happens.
    #[must_use]
    pub fn none() -> Faults {
        Faults(None)
    }

    /// `hook` is called at each step; an error from it is taken as the disk's.
    pub fn with(hook: impl Fn(Step) -> io::Result<()> + Send + Sync + 'static) -> Faults {
        Faults(Some(Arc::new(hook)))
    }

    pub(crate) fn at(&self, step: Step) -> io::Result<()> {
        match &self.0 {
            Some(hook) => hook(step),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Faults(hook)" } else { "Faults(none)" })
    }
}
