//! The roles as processes: what each needs in its folder, and everything that it runs.
//!
//! A role's folder holds its keys, its state and, where others may join, the book of invitations.
//! The command line reads options and calls this; so do tests that run all roles in one process.

mod cluster;
mod join;
mod root;
mod worker;

use std::path::Path;

use aws_lc_rs::digest;
use weald_trust::pki::folder::{UPPER_FILE, read_upper};

pub use cluster::{
    ClusterOptions, Inviter, RunningCluster, cluster, cluster_name, cluster_with_lives,
};
pub use join::{CLUSTER_PORT, JoinOptions, ROOT_PORT, join};
pub use root::{RootOptions, RunningRoot, root, root_with_lives};
pub use worker::{RunningWorker, WorkerOptions, worker};

/// What an authority signs for its reset key, and for nothing else: statements, tokens and TLS all
/// begin otherwise.
const RESET_PURPOSE: &[u8] = b"weald stateless reset v1\0";

/// The key of stateless resets: a hash of what only the authority can sign, and the same after each
/// restart (Ed25519 signatures are; RFC 8032, section 5.1.6).
fn reset_key(signature: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    key.copy_from_slice(digest::digest(&digest::SHA256, signature).as_ref());
    key
}

/// Whether a cluster, worker or relay has joined in a folder.
#[must_use]
pub fn has_joined(folder: &Path) -> bool {
    // Written last of all.
    folder.join(UPPER_FILE).exists()
}

/// The addresses to dial: those given, or those that were kept when joining.
fn upper(folder: &Path, given: &[String]) -> anyhow::Result<Vec<String>> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    read_upper(folder)
}
