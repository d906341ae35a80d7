//! The trace on disk until the scheduler holds it: an append-only file whose length is the offset.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The writing end.
pub(crate) struct Spool {
    file: File,
    length: u64,
}

impl Spool {
    /// Opens or makes the file; what is there is kept.
    pub(crate) fn open(path: &Path) -> io::Result<Spool> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let length = file.metadata()?.len();
        Ok(Spool { file, length })
    }

    /// Bytes in it.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Appends. A write that fails in the middle is taken back, so that offsets stay true.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(e) => {
                let _ = self.file.set_len(self.length);
                Err(e)
            }
        }
    }
}

/// The reading end.
pub(crate) struct Reader {
    file: File,
}

impl Reader {
    /// Opens the file.
    pub(crate) fn open(path: &Path) -> io::Result<Reader> {
        Ok(Reader { file: File::open(path)? })
    }

    /// The last bytes, at most `limit`.
    pub(crate) fn read_end(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let length = self.file.metadata()?.len();
        self.read(length.saturating_sub(limit as u64), limit)
    }

    /// At most `limit` bytes from `offset`; empty at the end.
    pub(crate) fn read(&mut self, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        (&mut self.file).take(limit as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spool_reopened_goes_on_at_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        Spool::open(&path).unwrap().append(b"one").unwrap();
        let mut spool = Spool::open(&path).unwrap();
        assert_eq!(spool.length(), 3);
        spool.append(b"two").unwrap();
        let mut reader = Reader::open(&path).unwrap();
        assert_eq!(reader.read(2, 3).unwrap(), b"etw");
        assert_eq!(reader.read(6, 3).unwrap(), b"");
    }
}
