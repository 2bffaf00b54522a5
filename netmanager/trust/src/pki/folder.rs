//! The authority of one process in its folder: root's, or a cluster's.
//!
//! ```text
//! DIR/ca.pem                            root's certificate, with every authority
//! DIR/ca.key                            root's key, with root only
//! DIR/cluster.pem  DIR/cluster.key      a cluster's intermediate and its key
//! DIR/upper.txt                         where whoever has joined dials, one `host:port` a line
//! ```
//!
//! Keys have mode 0600. Folders with several clusters, for `netmanager pki`, are [`super::store`]'s.

use std::path::Path;

use anyhow::Context;
use rcgen::KeyPair;

use super::files::{self, Existing, PUBLIC, SECRET};
use super::store::{CA_KEY_FILE, read_authority, read_key};
use super::{Certificate, ClusterAuthority, RootAuthority, new_key};
use crate::tls::{CA_FILE, TrustRoot};

/// The file with a cluster's intermediate.
pub const CLUSTER_FILE: &str = "cluster.pem";
/// The file with a cluster's private key.
pub const CLUSTER_KEY_FILE: &str = "cluster.key";

/// The file with the addresses of whoever is dialled, one a line; who joins writes it last of all.
pub const UPPER_FILE: &str = "upper.txt";

/// Whom a process dials that has joined in a folder.
///
/// # Errors
/// The file cannot be read; none has joined there.
pub fn read_upper(directory: &Path) -> anyhow::Result<Vec<String>> {
    let path = directory.join(UPPER_FILE);
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read {}; join first, or say whom to dial",
            path.display()
        )
    })?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Reads root's authority.
///
/// # Errors
/// A file is missing or cannot be used.
pub fn load_root(directory: &Path) -> anyhow::Result<RootAuthority> {
    let (certificate, key) =
        read_authority(&directory.join(CA_FILE), &directory.join(CA_KEY_FILE))?;
    RootAuthority::from_parts(certificate, key)
        .with_context(|| format!("cannot use the root in {}", directory.display()))
}

/// Reads a cluster's authority.
///
/// # Errors
/// A file is missing or cannot be used.
pub fn load_cluster(directory: &Path) -> anyhow::Result<ClusterAuthority> {
    let path = directory.join(CA_FILE);
    let pem = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let ca =
        Certificate::from_pem(pem).with_context(|| format!("cannot use {}", path.display()))?;
    let trust = TrustRoot::new(ca.der)?;
    let (certificate, key) = read_authority(
        &directory.join(CLUSTER_FILE),
        &directory.join(CLUSTER_KEY_FILE),
    )?;
    ClusterAuthority::from_parts(trust, certificate, key)
        .with_context(|| format!("cannot use the cluster in {}", directory.display()))
}

/// Writes a cluster's authority; what is there is replaced, the certificate last.
///
/// # Errors
/// A file cannot be written.
pub fn save_cluster(cluster: &ClusterAuthority, directory: &Path) -> anyhow::Result<()> {
    files::make_directory(directory)?;
    let ca = Certificate::from_der(cluster.trust().certificate().clone());
    for (name, text, mode) in [
        (CLUSTER_KEY_FILE, cluster.key_pem(), SECRET),
        (CA_FILE, ca.pem, PUBLIC),
        (CLUSTER_FILE, cluster.certificate().pem.clone(), PUBLIC),
    ] {
        let path = directory.join(name);
        files::write(&path, text.as_bytes(), mode, Existing::Replace)?;
    }
    Ok(())
}

/// The key in a file, made and kept there if there is none: who joins asks again with the same key
/// if the answer was lost.
///
/// # Errors
/// It cannot be read or written.
pub fn key_in(path: &Path) -> anyhow::Result<KeyPair> {
    if path.exists() {
        return read_key(path);
    }
    let key = new_key()?;
    if let Some(directory) = path.parent() {
        files::make_directory(directory)?;
    }
    files::write(path, key.serialize_pem().as_bytes(), SECRET, Existing::Keep)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use weald_proto::id::Label;

    use super::*;
    use crate::pki::store::Store;

    #[test]
    fn a_key_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub").join("a.key");
        let made = key_in(&path).unwrap().serialize_pem();
        assert_eq!(key_in(&path).unwrap().serialize_pem(), made);
    }

    #[test]
    fn authorities_are_read_back() {
        let label = |text| Label::new(text).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        drop(Store::init(directory.path(), &label("main"), now).unwrap());
        let root = load_root(directory.path()).unwrap();
        assert_eq!(root.name(), &label("main"));
        let cluster = root.cluster(&label("munich"), now).unwrap();
        let other = tempfile::tempdir().unwrap();
        let error = load_cluster(other.path()).unwrap_err();
        assert!(error.to_string().contains("ca.pem"), "{error}");
        save_cluster(&cluster, other.path()).unwrap();
        let read = load_cluster(other.path()).unwrap();
        assert_eq!(read.name(), cluster.name());
        assert_eq!(read.key_pem(), cluster.key_pem());
    }
}
