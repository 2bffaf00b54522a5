//! Logs of instances: bounded, in two files that take turns, and read from their end.
//!
//! Where a log is and who may read it is the runtimes' affair.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use orchestrator_core::words;

/// The newer file, in the folder of a life.
const NEW: &str = "log";
/// The older file.
const OLD: &str = "log.1";

/// How much of a log is read at most: several screens of long lines, in one answer.
pub(super) const MAX_TAIL_BYTES: u64 = 256 << 10;

/// A log that is written.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    file: Option<File>,
    written: u64,
    /// Bytes in a file before the other takes over.
    half: u64,
}

impl Log {
    /// Goes on with the log in `folder`; both files together have at most `bytes`.
    pub(super) fn open(folder: &Path, bytes: u64) -> io::Result<Self> {
        let file = append(&folder.join(NEW))?;
        Ok(Self {
            folder: folder.to_owned(),
            written: file.metadata()?.len(),
            file: Some(file),
            half: (bytes / 2).max(1),
        })
    }

    /// Adds what the instance wrote. What finds no room on the disk is lost: an instance does not
    /// wait for its log.
    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.written >= self.half && self.turn().is_err() {
                return;
            }
            let room = usize::try_from(self.half - self.written).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            let Some(file) = &mut self.file else {
                return;
            };
            if file.write_all(now).is_err() {
                return;
            }
            self.written += now.len() as u64;
            bytes = rest;
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        fs::rename(self.folder.join(NEW), self.folder.join(OLD))?;
        self.file = None;
        self.written = 0;
        self.file = Some(append(&self.folder.join(NEW))?);
        Ok(())
    }
}

/// The last lines of the log in `folder`, oldest first; of long ones their beginnings, and no more
/// than one message holds.
pub(super) fn tail(folder: &Path, lines: u32) -> io::Result<Vec<String>> {
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let (mut text, mut whole) = end_of(&folder.join(NEW), MAX_TAIL_BYTES)?;
    let enough = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count() > lines;
    if whole && !enough(&text) {
        let room = MAX_TAIL_BYTES - text.len() as u64;
        let (mut older, older_whole) = end_of(&folder.join(OLD), room)?;
        older.append(&mut text);
        (text, whole) = (older, older_whole);
    }
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    // The first line of a part is most likely not whole; alone, it is better than nothing.
    let cut = usize::from(!whole && all.len() > 1);
    let first = all.len().saturating_sub(lines).max(cut);
    let shown = all.into_iter().skip(first);
    let shown = shown.map(ToOwned::to_owned).collect();
    words::log(Ok(shown)).map_err(io::Error::other)
}

/// The last bytes of a file, and whether they are all of it; no file is an empty one.
fn end_of(path: &Path, bytes: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), true)),
        Err(error) => return Err(error),
    };
    let start = file.metadata()?.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    Ok((text, start == 0))
}

fn append(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use orchestrator_core::words::{MAX_LINE, MAX_LOG};
    use weald_proto::codec::Message as _;
    use weald_proto::control::WorkerToCluster;

    use super::*;

    fn size(folder: &Path) -> u64 {
        let files = [NEW, OLD].map(|name| folder.join(name));
        let sizes = files.iter().filter_map(|path| path.metadata().ok());
        sizes.map(|metadata| metadata.len()).sum()
    }

    #[test]
    fn a_log_is_bounded_and_keeps_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), 1_000).unwrap();
        for number in 0..10_000 {
            log.add(format!("line {number}\n").as_bytes());
            assert!(size(folder.path()) <= 1_000);
        }
        let lines = tail(folder.path(), 40).unwrap();
        assert_eq!(lines.len(), 40);
        assert_eq!(lines[0], "line 9960");
        assert_eq!(lines[39], "line 9999");
        // What comes in one piece is bounded as well.
        log.add(&[b'x'; 10_000]);
        let size = size(folder.path());
        assert!((500..=1_000).contains(&size), "{size}");
    }

    #[test]
    fn a_log_goes_on_where_it_was_left() {
        let folder = tempfile::tempdir().unwrap();
        Log::open(folder.path(), 100).unwrap().add(b"one\ntw");
        Log::open(folder.path(), 100).unwrap().add(b"o\n\xff\n");
        assert_eq!(tail(folder.path(), 9).unwrap(), ["one", "two", "\u{fffd}"]);
        assert_eq!(tail(folder.path(), 1).unwrap(), ["\u{fffd}"]);
        assert_eq!(tail(folder.path(), 0).unwrap(), [""; 0]);
    }

    /// Whether the worker can say so to its cluster.
    fn travels(lines: &[String]) {
        let lines = Ok(lines.to_vec());
        let request = u64::MAX;
        let answer = WorkerToCluster::Logs { request, lines };
        let bytes = answer.encode().unwrap();
        assert_eq!(WorkerToCluster::decode(&bytes), Ok(answer));
    }

    #[test]
    fn a_line_that_no_message_holds_is_cut() {
        for byte in [b'x', 0xff] {
            let folder = tempfile::tempdir().unwrap();
            let mut log = Log::open(folder.path(), 10 << 20).unwrap();
            log.add(b"first\n");
            log.add(&vec![byte; 300_000]);
            // What is read begins within the long line.
            let lines = tail(folder.path(), u32::MAX).unwrap();
            travels(&lines);
            assert_eq!(lines.len(), 1);
            assert!(lines[0].ends_with('…') && lines[0].len() <= MAX_LINE);
            log.add(b"\nlast\n");
            assert_eq!(tail(folder.path(), u32::MAX).unwrap(), ["last"]);
        }
    }

    #[test]
    fn lines_that_are_not_text_grow_and_still_fit_into_one_message() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), 10 << 20).unwrap();
        let mut line = vec![0xff; 200_000];
        line.push(b'\n');
        log.add(b"first\n");
        log.add(&line);
        let lines = tail(folder.path(), 2).unwrap();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].starts_with('\u{fffd}') && lines[1].ends_with('…'));
        travels(&lines);
        // As many lines as there can be: no message has so many.
        log.add(&vec![b'\n'; 200_000]);
        let lines = tail(folder.path(), u32::MAX).unwrap();
        assert!(lines.iter().map(String::len).sum::<usize>() <= MAX_LOG);
        travels(&lines);
    }

    #[test]
    fn of_a_long_log_only_the_end_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), 100 << 20).unwrap();
        let line = format!("{}\n", "y".repeat(1_023));
        for _ in 0..1_000 {
            log.add(line.as_bytes());
        }
        let lines = tail(folder.path(), u32::MAX).unwrap();
        assert_eq!(lines.len(), 255);
        assert!(lines.iter().all(|line| line.len() == 1_023));
        assert_eq!(tail(&folder.path().join("none"), 5).unwrap(), [""; 0]);
    }
}
