//! Where the program is, and small helpers around files and JSON.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// The program next to the running test or demo, or what `WEALD_NETMANAGER` names.
///
/// # Errors
/// It is not built.
pub fn netmanager_binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("WEALD_NETMANAGER") {
        return Ok(named.into());
    }
    let own = std::env::current_exe()?;
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("netmanager"));
    beside.clone().find(|path| path.is_file()).with_context(|| {
        let places: Vec<String> = beside.map(|path| path.display().to_string()).collect();
        format!(
            "no netmanager at {}: build it first (cargo build -p netmanager)",
            places.join(", ")
        )
    })
}

/// The elements of a list, or the value itself.
pub fn elements(value: &Value) -> Vec<&Value> {
    match value.as_array() {
        Some(list) => list.iter().collect(),
        None => vec![value],
    }
}

/// Renames the new text into place, as editors do, so that nobody reads half of it.
pub(super) fn replace_file(path: &Path, text: &str) -> Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("write {}", path.display()))
}

pub(super) fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
