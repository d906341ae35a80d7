//! A job on disk: `<cache root>/jobs/<id>/`. Written at every phase, synced, so that a restarted runner goes on.
//!
//! ```text
//! spec.json    the job, without its git login
//! record.json  phase, fence, container, offsets
//! trace        the spool
//! control/     gate and scripts, seen in the container as /slipway
//! builds/      seen in the container as /builds
//! certs/       what it sees of its engine's certificates
//! archives/    artifacts on their way in or out
//! ```

use super::state::State;
use crate::artifacts::junit::Summary;
use crate::workspace::Sources;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use slipway_spec::ids::{Fence, JobId};
use slipway_spec::job::JobSpec;
use slipway_spec::receipt::Receipt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Version of `record.json`; an unknown newer one is not adopted but ended.
pub(crate) const FORMAT: u32 = 1;

/// What a restarted runner needs to go on with a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) format: u32,
    pub(crate) fence: Fence,
    pub(crate) state: State,
    /// Of its markers.
    pub(crate) nonce: String,
    /// When the runner took it: its timeout counts from here.
    pub(crate) taken_at: Timestamp,
    /// The job's container.
    #[serde(default)]
    pub(crate) container: Option<String>,
    /// The image it was made of, and what is known of it.
    #[serde(default)]
    pub(crate) image: String,
    /// What its work tree was made of.
    #[serde(default)]
    pub(crate) sources: Option<Sources>,
    /// How many engines it asked for.
    #[serde(default)]
    pub(crate) engines: u8,
    /// Variables it gives to later jobs.
    #[serde(default)]
    pub(crate) dotenv: Vec<(String, String)>,
    /// What its tests said.
    #[serde(default)]
    pub(crate) tests: Option<Summary>,
    /// The step that runs, or ran last.
    #[serde(default)]
    pub(crate) step: Option<StepMark>,
    /// What it has used so far.
    #[serde(default)]
    pub(crate) receipt: Receipt,
}

/// Where a step's output begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepMark {
    /// Its number at the gate, from 1.
    pub(crate) number: u32,
    /// Raw bytes of the container's log before it.
    pub(crate) raw: u64,
    /// Bytes of the trace before it.
    pub(crate) trace: u64,
    /// The output limiter's head and tail left.
    pub(crate) room: (u64, u64),
    /// When it began.
    pub(crate) at: Timestamp,
}

/// The folder of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Of a job, below the cache root.
    pub(crate) fn of(cache_root: &Path, job: JobId) -> Folder {
        Folder { path: cache_root.join("jobs").join(job.to_string()) }
    }

    pub(crate) fn trace(&self) -> PathBuf {
        self.path.join("trace")
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.path.join("control")
    }

    pub(crate) fn builds(&self) -> PathBuf {
        self.path.join("builds")
    }

    /// Where sources are made, out of the containers' sight.
    pub(crate) fn sources(&self) -> PathBuf {
        self.path.join("sources")
    }

    /// What the job sees of an engine's certificates.
    pub(crate) fn certs(&self) -> PathBuf {
        self.path.join("certs")
    }

    /// Archives on their way in or out.
    pub(crate) fn archives(&self) -> PathBuf {
        self.path.join("archives")
    }

    /// Makes it, for root alone; what an earlier lease of the same job left is removed.
    pub(crate) fn create(&self) -> io::Result<()> {
        self.remove()?;
        fs::create_dir_all(self.builds())?;
        fs::create_dir(self.archives())?;
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700))?;
        fs::set_permissions(self.builds(), fs::Permissions::from_mode(0o777))
    }

    pub(crate) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Writes the spec; passwords that only the preparation needs are left out.
    pub(crate) fn save_spec(&self, spec: &JobSpec) -> io::Result<()> {
        let mut spec = spec.clone();
        spec.source.login = None;
        spec.credentials.clear();
        self.write("spec.json", &serde_json::to_vec(&spec)?)
    }

    pub(crate) fn save(&self, record: &Record) -> io::Result<()> {
        self.write("record.json", &serde_json::to_vec(record)?)
    }

    pub(crate) fn load(&self) -> io::Result<(JobSpec, Record)> {
        let spec = serde_json::from_slice(&fs::read(self.path.join("spec.json"))?)?;
        let record: Record = serde_json::from_slice(&fs::read(self.path.join("record.json"))?)?;
        if record.format > FORMAT {
            return Err(io::Error::other(format!(
                "its record has format {}, this build knows {FORMAT}",
                record.format
            )));
        }
        Ok((spec, record))
    }

    /// Old or new, never half: written beside, synced, renamed, the folder synced.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = self.path.join(format!("{name}.new"));
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&beside, self.path.join(name))?;
        File::open(&self.path)?.sync_data()
    }
}

/// Folders of all jobs below a cache root.
pub(crate) fn all(cache_root: &Path) -> Vec<(JobId, Folder)> {
    let Ok(entries) = fs::read_dir(cache_root.join("jobs")) else { return Vec::new() };
    let mut found: Vec<(JobId, Folder)> = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .map(|id| (id, Folder::of(cache_root, id)))
        .collect();
    found.sort_unstable_by_key(|(id, _)| *id);
    found
}
