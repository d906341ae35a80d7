//! The store: SQLite in WAL mode, one writer thread, many readers.
//!
//! A batch of [`Write`]s is accepted when its transaction is on disk (`synchronous = FULL`). The writer takes all
//! batches that wait into one transaction: one fsync for all of them. Readers see the last commit.

pub mod read;
pub mod schema;
mod write;

pub use write::Write;

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Batches that may wait for the writer.
const WAITING_BATCHES: usize = 256;
/// Connections kept for readers.
const KEPT_READERS: usize = 4;

/// What can go wrong with the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// SQLite.
    #[error("cannot use the store {path}: {source}; check space, permissions and the disk")]
    Sqlite {
        /// Its file.
        path: PathBuf,
        /// What SQLite says.
        source: Arc<rusqlite::Error>,
    },
    /// The folder.
    #[error("cannot use the state folder {path}: {source}; check that it can be written")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: Arc<std::io::Error>,
    },
    /// Another process has it.
    #[error("the state folder {path} is used by another scheduler; stop it first, or name another state_dir")]
    Locked {
        /// Which.
        path: PathBuf,
    },
    /// Made by a newer build.
    #[error("the store {path} has format {found}, this build knows {known}: it was made by a newer slipway; use that")]
    Newer {
        /// Its file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The writer thread has ended.
    #[error("the store {path} is closed")]
    Closed {
        /// Its file.
        path: PathBuf,
    },
}

impl StoreError {
    pub(crate) fn at(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError + '_ {
        |source| StoreError::Sqlite { path: path.to_owned(), source: Arc::new(source) }
    }
}

struct Batch {
    writes: Vec<Write>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// A handle of the store.
#[derive(Clone)]
pub struct Store {
    writer: mpsc::Sender<Batch>,
    readers: Arc<Readers>,
}

struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    /// `None` once the store is closed.
    lock: Mutex<Option<Flock<File>>>,
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, flags).map_err(StoreError::at(path))?;
    connection.busy_timeout(std::time::Duration::from_secs(10)).map_err(StoreError::at(path))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

impl Store {
    /// Opens, or makes, the store of a state folder, and starts its writer.
    ///
    /// # Errors
    /// When the folder cannot be used, another scheduler has it, or a newer build made the store.
    pub fn open(folder: &Path) -> Result<Store, StoreError> {
        let failed = |source| StoreError::Folder { path: folder.to_owned(), source: Arc::new(source) };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| StoreError::Locked { path: folder.to_owned() })?;
        let path = folder.join("slipway.db");
        let mut connection = connect(&path, OpenFlags::default())?;
        let set = |name: &str, value: &str| connection.pragma_update(None, name, value).map_err(StoreError::at(&path));
        set("journal_mode", "WAL")?;
        set("synchronous", "FULL")?;
        set("wal_autocheckpoint", "4000")?;
        schema::migrate(&mut connection, &path)?;
        let (writer, batches) = mpsc::channel(WAITING_BATCHES);
        let readers =
            Arc::new(Readers { path: path.clone(), idle: Mutex::new(Vec::new()), lock: Mutex::new(Some(lock)) });
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || write_batches(&mut connection, batches, &path))
            .map_err(failed)?;
        Ok(Store { writer, readers })
    }

    /// Writes a batch in one transaction; it is on disk when this returns.
    ///
    /// # Errors
    /// When nothing of it was written. Cancel-safety: once called, the batch may be written although nobody waits.
    pub async fn commit(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let closed = || StoreError::Closed { path: self.readers.path.clone() };
        if self.readers.lock.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return Err(closed());
        }
        let (done, answer) = oneshot::channel();
        self.writer.send(Batch { writes, done }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Writes what waits, and gives the folder free for another scheduler. Handles that are left write nothing more.
    pub async fn close(&self) {
        let _closed = self.commit(Vec::new()).await;
        let lock = self.readers.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(lock);
    }

    /// Reads in a thread that may block.
    ///
    /// # Errors
    /// When SQLite fails.
    pub async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let readers = self.readers.clone();
        let path = readers.path.clone();
        match tokio::task::spawn_blocking(move || readers.with(query)).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Closed { path }),
        }
    }

    /// Reads in the calling thread: for start-up.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn read_now<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.readers.with(query)
    }
}

impl Readers {
    fn with<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?,
        };
        let result = query(&connection).map_err(StoreError::at(&self.path));
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT_READERS {
            idle.push(connection);
        }
        result
    }
}

fn write_batches(connection: &mut Connection, mut batches: mpsc::Receiver<Batch>, path: &Path) {
    while let Some(first) = batches.blocking_recv() {
        let mut writes = first.writes;
        let mut waiting = vec![first.done];
        while let Ok(batch) = batches.try_recv() {
            writes.extend(batch.writes);
            waiting.push(batch.done);
        }
        let result = write(connection, writes).map_err(StoreError::at(path));
        if let Err(error) = &result {
            tracing::error!(%error, "a batch was not written");
        }
        for done in waiting {
            let _gone = done.send(result.clone());
        }
    }
}

fn write(connection: &mut Connection, writes: Vec<Write>) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    for write in writes {
        write.execute(&transaction)?;
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_spec::ids::PipelineId;

    #[tokio::test]
    async fn batch_is_there_after_the_store_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.commit(vec![Write::Request { id: "r".into(), pipeline: PipelineId(7) }]).await.unwrap();
        store.close().await;
        let closed = store.commit(vec![Write::Counter("job", 1)]).await.unwrap_err();
        assert!(matches!(closed, StoreError::Closed { .. }));
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.read(|c| read::request(c, "r")).await.unwrap(), Some(PipelineId(7)));
    }

    #[tokio::test]
    async fn second_scheduler_and_newer_store_are_refused_with_a_reason() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let second = Store::open(folder.path()).map(drop).unwrap_err().to_string();
        assert!(second.contains("another scheduler"), "{second}");
        store.close().await;
        let path = folder.path().join("slipway.db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", schema::FORMAT + 1).unwrap();
        let newer = Store::open(folder.path()).map(drop).unwrap_err().to_string();
        assert!(newer.contains("newer slipway"), "{newer}");
    }

    #[tokio::test]
    async fn counter_never_falls() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.commit(vec![Write::Counter("job", 9), Write::Counter("job", 4)]).await.unwrap();
        assert_eq!(store.read(|c| read::counter(c, "job")).await.unwrap(), 9);
    }
}
