//! Files that appear whole or not at all, and secrets that are never open to others.
//!
//! Keys and certificates are written with this, and whatever else a role keeps in single files;
//! nothing here knows what is in them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, bail};

/// The mode of files that everybody may read.
pub const PUBLIC: u32 = 0o644;
/// The mode of files that only their owner may read.
pub const SECRET: u32 = 0o600;

/// What happens to a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and writing fails.
    Keep,
    /// It is replaced.
    Replace,
}

/// Writes a file so that it is there whole or not at all, also after a power cut.
///
/// # Errors
/// It cannot be written, or is there and shall stay.
pub fn write(path: &Path, text: &[u8], mode: u32, existing: Existing) -> anyhow::Result<()> {
    let directory = path.parent().context("not a file in a directory")?;
    let name = path.file_name().context("not a file name")?;
    let fresh = directory.join(format!(
        ".{}.{}.new",
        name.to_string_lossy(),
        std::process::id()
    ));
    let written =
        write_fresh(&fresh, text, mode).and_then(|()| put_in_place(&fresh, path, existing));
    if written.is_err() {
        // What failed is reported; a left-over has no name that anybody reads.
        let _ = fs::remove_file(&fresh);
    }
    written.with_context(|| format!("cannot write {}", path.display()))?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("cannot sync {}", directory.display()))
}

/// Makes a directory, open to its owner only, if it is not there.
///
/// # Errors
/// It cannot be made.
pub fn make_directory(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make directory {}", path.display()))
}

fn write_fresh(fresh: &Path, text: &[u8], mode: u32) -> anyhow::Result<()> {
    match fs::remove_file(fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(fresh)?;
    file.write_all(text)?;
    file.sync_all()?;
    Ok(())
}

fn put_in_place(fresh: &Path, path: &Path, existing: Existing) -> anyhow::Result<()> {
    match existing {
        Existing::Replace => fs::rename(fresh, path)?,
        Existing::Keep => {
            // A link, unlike a rename, fails if somebody was faster.
            match fs::hard_link(fresh, path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    bail!("it exists already")
                }
                linked => linked?,
            }
            fs::remove_file(fresh)?;
        }
    }
    Ok(())
}
