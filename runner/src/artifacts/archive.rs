//! One archive of the selected files.

use super::{ArtifactError, Bounds, Selected};
use crate::confined::{Entry, Folder, Kind};
use flate2::{Compression, GzBuilder};
use slipway_spec::job::ArtifactFormat;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use zip::write::{SimpleFileOptions, ZipFileBuilder};
use zip::{CompressionMethod, DateTime, ZipWriter};

/// Files up to this size are compressed in parallel, in memory; larger ones one after the other, streamed.
const SMALL_BYTES_MAX: u64 = 4 << 20;
/// Files, and bytes, that are compressed before they are written: what a pack needs of memory.
const BATCH_FILES_MAX: usize = 256;
const BATCH_BYTES_MAX: u64 = 32 << 20;

/// `ARTIFACT_COMPRESSION_LEVEL`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// 1.
    Fastest,
    /// 3.
    Fast,
    /// 6.
    #[default]
    Default,
    /// 8.
    Slow,
    /// 9.
    Slowest,
}

impl Level {
    /// The word's level; an unknown word is the default.
    #[must_use]
    pub fn parse(word: &str) -> Level {
        match word {
            "fastest" => Level::Fastest,
            "fast" => Level::Fast,
            "slow" => Level::Slow,
            "slowest" => Level::Slowest,
            _ => Level::Default,
        }
    }

    fn deflate(self) -> u32 {
        match self {
            Level::Fastest => 1,
            Level::Fast => 3,
            Level::Default => 6,
            Level::Slow => 8,
            Level::Slowest => 9,
        }
    }
}

/// What was packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// The archive's size.
    pub bytes: u64,
    /// Files and links in it.
    pub files: u64,
}

/// The archive's file name: the last component of `name` (variables expanded), with the format's ending.
///
/// A raw report keeps the name of its file.
#[must_use]
pub fn file_name(name: Option<&str>, format: ArtifactFormat) -> String {
    let base = name.unwrap_or("artifacts").rsplit('/').next().unwrap_or("").trim();
    let clean: String = base.chars().filter(|c| !c.is_control()).take(200).collect();
    let base = if clean.is_empty() || clean == "." || clean == ".." { "default" } else { &clean };
    match format {
        ArtifactFormat::Zip => format!("{base}.zip"),
        ArtifactFormat::Gzip => format!("{base}.gz"),
        ArtifactFormat::Raw => base.to_owned(),
    }
}

/// Packs the selected files into `out`.
///
/// A file that the job changes meanwhile is packed as it is found, up to the size it was seen with; one that is gone
/// is left out.
///
/// # Errors
/// The archive would be larger than `bounds.bytes`, or a raw report is not one file.
pub fn pack<W: Write + Seek>(
    tree: &Folder,
    selected: &Selected,
    format: ArtifactFormat,
    level: Level,
    bounds: Bounds,
    out: W,
) -> Result<Packed, ArtifactError> {
    let mut out = Bounded { inner: BufWriter::with_capacity(1 << 18, out), at: 0, limit: bounds.bytes };
    let files = match format {
        ArtifactFormat::Zip => pack_zip(tree, selected, level, &mut out),
        ArtifactFormat::Gzip => pack_gzip(tree, selected, level, &mut out),
        ArtifactFormat::Raw => pack_raw(tree, selected, &mut out),
    };
    let files = match files {
        Err(ArtifactError::Output(error)) if is_over(&error) => {
            return Err(ArtifactError::TooLarge { limit: bounds.bytes });
        }
        other => other?,
    };
    let end = out.seek(SeekFrom::End(0)).and_then(|end| out.flush().map(|()| end)).map_err(ArtifactError::Output)?;
    Ok(Packed { bytes: end, files })
}

fn pack_raw(tree: &Folder, selected: &Selected, out: &mut impl Write) -> Result<u64, ArtifactError> {
    let files: Vec<&Entry> = selected.entries.iter().filter(|e| matches!(e.kind, Kind::File { .. })).collect();
    let [entry] = files[..] else { return Err(ArtifactError::NotOneFile { count: files.len() }) };
    copy_file(tree, entry, out)?;
    Ok(1)
}

fn pack_gzip(tree: &Folder, selected: &Selected, level: Level, out: &mut impl Write) -> Result<u64, ArtifactError> {
    let mut files = 0;
    for entry in selected.entries.iter().filter(|e| matches!(e.kind, Kind::File { .. })) {
        let name = entry.path.rsplit(|b| *b == b'/').next().unwrap_or(&entry.path);
        let mut member = GzBuilder::new()
            .filename(name)
            .comment(&entry.path[..])
            .mtime(u32::try_from(entry.modified).unwrap_or(0))
            .write(&mut *out, Compression::new(level.deflate()));
        if copy_file(tree, entry, &mut member)? {
            files += 1;
        }
        member.finish().map_err(ArtifactError::Output)?;
    }
    Ok(files)
}

/// Copies a file's bytes, as many as it had when it was seen; `false` when it is gone.
fn copy_file(tree: &Folder, entry: &Entry, out: &mut impl Write) -> Result<bool, ArtifactError> {
    let Kind::File { bytes } = entry.kind else { return Ok(false) };
    let mut file = match tree.read(&entry.path) {
        Ok(file) => file.take(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(ArtifactError::file("read", &entry.path)(error)),
    };
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer).map_err(ArtifactError::file("read", &entry.path))?;
        if read == 0 {
            return Ok(true);
        }
        out.write_all(&buffer[..read]).map_err(ArtifactError::Output)?;
    }
}

fn options(entry: &Entry, level: Level) -> SimpleFileOptions {
    let large = matches!(entry.kind, Kind::File { bytes } if bytes >= u64::from(u32::MAX));
    SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(i64::from(level.deflate())))
        .unix_permissions(entry.mode)
        .large_file(large)
        .last_modified_time(date(entry.modified))
}

/// MS-DOS time, in UTC, from 1980 on.
fn date(seconds: i64) -> DateTime {
    let time = jiff::Timestamp::from_second(seconds).ok().map(|t| jiff::tz::TimeZone::UTC.to_datetime(t));
    let part = |value: i8| u8::try_from(value).unwrap_or(1);
    time.and_then(|t| {
        let year = u16::try_from(t.year()).ok()?;
        DateTime::from_date_and_time(
            year,
            part(t.month()),
            part(t.day()),
            part(t.hour()),
            part(t.minute()),
            part(t.second()),
        )
        .ok()
    })
    .unwrap_or_default()
}

fn pack_zip<W: Write + Seek>(
    tree: &Folder,
    selected: &Selected,
    level: Level,
    out: &mut W,
) -> Result<u64, ArtifactError> {
    let mut zip = ZipWriter::new(out);
    let mut files = 0;
    let mut batch: Vec<&Entry> = Vec::new();
    let mut batch_bytes = 0;
    for entry in &selected.entries {
        let small = matches!(entry.kind, Kind::File { bytes } if bytes <= SMALL_BYTES_MAX);
        if let (Kind::File { bytes }, true) = (&entry.kind, small) {
            batch.push(entry);
            batch_bytes += bytes;
            if batch.len() < BATCH_FILES_MAX && batch_bytes < BATCH_BYTES_MAX {
                continue;
            }
        }
        // In the order of their paths: everything small before a large file is written before it.
        files += write_batch(tree, &mut zip, &batch, level)?;
        batch.clear();
        batch_bytes = 0;
        let name = zip_name(entry);
        match &entry.kind {
            Kind::File { .. } if small => {}
            Kind::File { .. } => {
                zip.start_file(name, options(entry, level)).map_err(output)?;
                if copy_file(tree, entry, &mut zip)? {
                    files += 1;
                } else {
                    zip.abort_file().map_err(output)?;
                }
            }
            Kind::Folder => zip.add_directory(name, options(entry, level)).map_err(output)?,
            Kind::Link { target } => {
                zip.add_symlink(name, String::from_utf8_lossy(target), options(entry, level)).map_err(output)?;
                files += 1;
            }
            Kind::Special => {}
        }
    }
    files += write_batch(tree, &mut zip, &batch, level)?;
    zip.finish().map_err(output)?;
    Ok(files)
}

/// Zip wants text; bytes of a path that are none are written as `\xff`, so that no two paths become one.
fn zip_name(entry: &Entry) -> String {
    let chunks = entry.path.utf8_chunks().map(|chunk| format!("{}{}", chunk.valid(), chunk.invalid().escape_ascii()));
    chunks.collect()
}

fn output(error: zip::result::ZipError) -> ArtifactError {
    match error {
        zip::result::ZipError::Io(error) => ArtifactError::Output(error),
        other => ArtifactError::Output(io::Error::other(other)),
    }
}

/// Compresses small files on all processors and writes them in order.
fn write_batch<W: Write + Seek>(
    tree: &Folder,
    zip: &mut ZipWriter<W>,
    batch: &[&Entry],
    level: Level,
) -> Result<u64, ArtifactError> {
    if batch.is_empty() {
        return Ok(0);
    }
    let compress = |entry: &&Entry| -> Result<Option<zip::write::PreparedZipFile>, ArtifactError> {
        let mut builder = ZipFileBuilder::new(zip_name(entry), options(entry, level)).map_err(output)?;
        if !copy_file(tree, entry, &mut builder)? {
            return Ok(None);
        }
        builder.finish().map(Some).map_err(output)
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let share = batch.len().div_ceil(workers).max(8);
    let mut files = 0;
    let prepared: Vec<Result<Option<zip::write::PreparedZipFile>, ArtifactError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = batch
            .chunks(share)
            .skip(1)
            .map(|part| scope.spawn(move || part.iter().map(compress).collect::<Vec<_>>()))
            .collect();
        let mut all: Vec<_> = batch.iter().take(share).map(compress).collect();
        for thread in threads {
            match thread.join() {
                Ok(part) => all.extend(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    for file in prepared {
        if let Some(file) = file? {
            zip.add_prepared_file(file).map_err(output)?;
            files += 1;
        }
    }
    Ok(files)
}

/// Stops writing beyond a limit.
struct Bounded<W> {
    inner: W,
    at: u64,
    limit: u64,
}

const OVER: &str = "archive over its limit";

fn is_over(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.to_string().contains(OVER))
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.at.saturating_add(bytes.len() as u64) > self.limit {
            return Err(io::Error::other(OVER));
        }
        let written = self.inner.write(bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Seek> Seek for Bounded<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = self.inner.seek(to)?;
        Ok(self.at)
    }
}

/// The line that GitLab's runner prints when nothing matched; the job goes on.
#[must_use]
pub fn nothing_found() -> &'static str {
    "ERROR: No files to upload"
}
