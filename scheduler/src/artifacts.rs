//! Artifacts on the scheduler's disk: written beside, moved into place when whole, named by numbers of ours. What a
//! job calls its files is never part of a path.

use slipway_spec::ids::JobId;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncWriteExt;

/// The artifacts of a state folder.
#[derive(Clone)]
pub struct Artifacts {
    folder: Arc<PathBuf>,
    max_bytes: u64,
    next: Arc<AtomicU64>,
}

/// What can go wrong with an artifact.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Too large.
    #[error("the artifact is larger than {max} bytes (`artifact_max_bytes` of the scheduler)")]
    TooLarge {
        /// The limit.
        max: u64,
    },
    /// The disk.
    #[error("cannot store an artifact in {path}: {source}; check space and permissions of the state folder")]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// An artifact that is coming in; dropped before [`Incoming::keep`], nothing of it stays.
pub struct Incoming {
    temporary: temporary::Temporary,
    file: tokio::fs::File,
    bytes: u64,
    max_bytes: u64,
}

impl Artifacts {
    /// The artifacts of a folder. What a stop left half received goes.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(folder: PathBuf, max_bytes: u64) -> Result<Artifacts, ArtifactError> {
        let incoming = folder.join("incoming");
        let _absent = std::fs::remove_dir_all(&incoming);
        std::fs::create_dir_all(&incoming).map_err(|source| ArtifactError::Disk { path: incoming, source })?;
        // Numbers of this start cannot meet those of an earlier one.
        let first = jiff::Timestamp::now().as_microsecond().unsigned_abs();
        Ok(Artifacts { folder: Arc::new(folder), max_bytes, next: Arc::new(AtomicU64::new(first)) })
    }

    /// Begins to receive one.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn receive(&self) -> Result<Incoming, ArtifactError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join("incoming").join(number.to_string());
        let file = tokio::fs::File::create(&path)
            .await
            .map_err(|source| ArtifactError::Disk { path: path.clone(), source })?;
        Ok(Incoming { temporary: temporary::Temporary::new(path), file, bytes: 0, max_bytes: self.max_bytes })
    }

    /// The path of a stored file.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Removes a stored file; one that is gone is no error.
    pub async fn remove(&self, file: &str) {
        if let Err(error) = tokio::fs::remove_file(self.path(file)).await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file, %error, "an artifact could not be removed");
        }
    }
}

impl Incoming {
    /// Takes bytes.
    ///
    /// # Errors
    /// When there are too many, or the disk fails.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), ArtifactError> {
        self.bytes += data.len() as u64;
        if self.bytes > self.max_bytes {
            return Err(ArtifactError::TooLarge { max: self.max_bytes });
        }
        self.file.write_all(data).await.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> ArtifactError {
        ArtifactError::Disk { path: self.temporary.path().to_owned(), source }
    }

    /// How many bytes have come.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file as it is now, for somebody else to read.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn flushed(&mut self) -> Result<&Path, ArtifactError> {
        if let Err(source) = self.file.flush().await {
            return Err(self.failed(source));
        }
        Ok(self.temporary.path())
    }

    /// Moves it into place, on disk. Returns its name below the folder.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn keep(mut self, artifacts: &Artifacts, job: JobId) -> Result<String, ArtifactError> {
        let number = artifacts.next.fetch_add(1, Ordering::Relaxed);
        let folder = format!("{}/{job}", job.0 / 1000);
        let name = format!("{folder}/{number}");
        let target = artifacts.path(&name);
        let moved = async {
            self.file.flush().await?;
            self.file.sync_all().await?;
            tokio::fs::create_dir_all(artifacts.path(&folder)).await?;
            tokio::fs::rename(self.temporary.path(), &target).await
        };
        moved.await.map_err(|source| ArtifactError::Disk { path: target.clone(), source })?;
        self.temporary.moved();
        Ok(name)
    }
}

/// A file that goes when it is dropped.
mod temporary {
    use std::path::{Path, PathBuf};

    pub(super) struct Temporary(Option<PathBuf>);

    impl Temporary {
        pub(super) fn new(path: PathBuf) -> Self {
            Temporary(Some(path))
        }

        pub(super) fn path(&self) -> &Path {
            self.0.as_deref().unwrap_or(Path::new(""))
        }

        pub(super) fn moved(&mut self) {
            self.0 = None;
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            if let Some(path) = self.0.take() {
                let _gone = std::fs::remove_file(path);
            }
        }
    }
}
