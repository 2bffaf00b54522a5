//! The file in which it outlives the process where connections to services go.
//!
//! It lies beside the overlay's own state, in memory, and goes with the overlay: after a restart of
//! the host there are no connections. A place is written when a connection is opened, so a crash
//! loses none. What it says is netmanager-core's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use netmanager_core::flow::{CHOICES_LEN, PLACE_LEN};

use super::Driver;

/// Read at once; whole places.
const BLOCK: usize = 64 << 10;

/// The file; none if it could not be opened.
#[derive(Debug, Default)]
pub struct ChoiceFile {
    file: Option<File>,
    /// Whether a failure was said already.
    failed: bool,
}

impl ChoiceFile {
    /// Opens it, or makes an empty one. Without it connections to services are reset after a
    /// restart, so that it cannot be opened is a warning only.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path);
        let opened = opened.and_then(|file| {
            if file.metadata()?.len() != CHOICES_LEN as u64 {
                file.set_len(0)?;
                file.set_len(CHOICES_LEN as u64)?;
            }
            Ok(file)
        });
        let mut choices = Self::default();
        match opened {
            Ok(file) => choices.file = Some(file),
            Err(error) => choices.warn(&error, &path.display().to_string()),
        }
        choices
    }

    fn warn(&mut self, error: &io::Error, what: &str) {
        if !std::mem::replace(&mut self.failed, true) {
            tracing::warn!(%error, what, "connections to services will not outlive this daemon");
        }
    }

    /// Calls `take` with each place that is not empty, and its offset.
    fn each(&mut self, mut take: impl FnMut(usize, &[u8])) {
        let Some(mut file) = self.file.as_ref() else {
            return;
        };
        let (mut block, mut at) = (vec![0; BLOCK], 0);
        while at < CHOICES_LEN {
            if let Err(error) = file.read_exact(&mut block) {
                self.warn(&error, "read");
                return;
            }
            for place in block.chunks(PLACE_LEN) {
                if place.iter().any(|byte| *byte != 0) {
                    take(at, place);
                }
                at += PLACE_LEN;
            }
        }
    }

    fn write(&mut self, at: usize, place: &[u8]) {
        let written = self
            .file
            .as_ref()
            .map(|file| file.write_all_at(place, at as u64));
        if let Some(Err(error)) = written {
            self.warn(&error, "write");
        }
    }
}

impl Driver {
    /// Takes up what a former process has kept.
    pub(super) fn restore_choices(&mut self) {
        let plane = &mut self.plane;
        self.choices
            .each(|at, place| plane.restore_choice(at, place));
    }

    /// Keeps what the next process takes up.
    pub(super) fn keep_choices(&mut self) {
        while let Some((at, place)) = self.plane.poll_choice() {
            self.choices.write(at, &place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_there_when_it_is_opened_again() {
        let folder = std::env::temp_dir().join(format!("weald-choices-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("connections");
        std::fs::write(&path, b"of another layout").unwrap();
        let (first, last) = (3 * PLACE_LEN, CHOICES_LEN - PLACE_LEN);
        let mut choices = ChoiceFile::open(&path);
        choices.each(|at, _| panic!("a place at {at}"));
        choices.write(first, &[7; PLACE_LEN]);
        choices.write(last, &[8; PLACE_LEN]);
        drop(choices);
        let mut found = Vec::new();
        ChoiceFile::open(&path).each(|at, place| found.push((at, place[0])));
        assert_eq!(found, [(first, 7), (last, 8)]);
        // A folder is no file: nothing is kept, and nothing fails.
        let mut none = ChoiceFile::open(&folder);
        none.write(first, &[7; PLACE_LEN]);
        none.each(|at, _| panic!("a place at {at}"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
