//! The authorities in a directory, for `netmanager pki`.
//!
//! ```text
//! DIR/ca.pem  DIR/ca.key                        the root
//! DIR/clusters/<c>.pem  DIR/clusters/<c>.key    one intermediate per cluster
//! OUT/ca.pem  OUT/node.pem  OUT/node.key  OUT/relay.token    what a node or relay needs
//! ```
//!
//! Directories are made for their owner only and keys have mode 0600. A lock on DIR keeps two
//! runs from making the same cluster twice.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use rcgen::KeyPair;
use rustls::pki_types::UnixTime;
use weald_proto::id::{Identity, Label, Organisation};

use super::files::{self, Existing, PUBLIC, SECRET};
use super::{Certificate, ClusterAuthority, Issued, RootAuthority, new_key};
use crate::tls::{CA_FILE, CHAIN_FILE, Facts, KEY_FILE, TOKEN_FILE};
use crate::token;

#[cfg(test)]
mod tests;

/// The file with the root's private key.
pub const CA_KEY_FILE: &str = "ca.key";
/// The directory with the intermediates.
pub const CLUSTERS: &str = "clusters";

/// The authorities kept in a directory, locked as long as this lives.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    root: RootAuthority,
    _lock: File,
}

/// What [`Store::issue`] is to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// A node or relay.
    pub identity: Identity,
    /// The organisation in the relay token; relays have none.
    pub organisation: Option<Organisation>,
    /// The directory to write to.
    pub out: PathBuf,
    /// What to do about credentials that are there already.
    pub renewal: Renewal,
    /// How long the relay token lives.
    pub token_life: Duration,
}

/// What happens to credentials that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// They stay, and nothing is issued.
    Refuse,
    /// They are replaced, the key too.
    Replace,
    /// The key stays; certificate and token are made anew.
    KeepKey,
}

/// What was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The URI name in the certificate.
    pub uri: String,
    /// Whether the cluster's intermediate was made as well.
    pub new_cluster: bool,
    /// When the certificate's life ends.
    pub certificate_end: UnixTime,
    /// When the relay token's life ends, if there is one.
    pub token_end: Option<UnixTime>,
    /// The files that were written.
    pub files: Vec<PathBuf>,
}

impl Store {
    /// Makes a new root in a directory.
    ///
    /// # Errors
    /// There is a root already, which is never replaced, or the directory cannot be written.
    pub fn init(directory: &Path, name: &Label, now: SystemTime) -> anyhow::Result<Self> {
        files::make_directory(directory)?;
        // Before the lock so that nobody waits in vain, and behind it so that only one is made.
        ensure_no_root(directory)?;
        let lock = lock(directory)?;
        ensure_no_root(directory)?;
        let root = RootAuthority::create(name, now)?;
        let keep = Existing::Keep;
        let key = root.key_pem();
        files::write(&directory.join(CA_KEY_FILE), key.as_bytes(), SECRET, keep)?;
        let pem = &root.certificate().pem;
        files::write(&directory.join(CA_FILE), pem.as_bytes(), PUBLIC, keep)?;
        Ok(Self {
            directory: directory.to_owned(),
            root,
            _lock: lock,
        })
    }

    /// Opens the root in a directory.
    ///
    /// # Errors
    /// There is none, or its files do not belong together.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(CA_FILE);
        ensure!(
            exists(&path),
            "there is no root in {}; make one with `netmanager pki init`",
            directory.display()
        );
        let lock = lock(directory)?;
        let (certificate, key) = read_authority(&path, &directory.join(CA_KEY_FILE))?;
        let root = RootAuthority::from_parts(certificate, key)
            .with_context(|| format!("cannot use the root in {}", directory.display()))?;
        Ok(Self {
            directory: directory.to_owned(),
            root,
            _lock: lock,
        })
    }

    /// The root.
    #[must_use]
    pub const fn root(&self) -> &RootAuthority {
        &self.root
    }

    /// The intermediate of a cluster and whether it had to be made.
    ///
    /// # Errors
    /// Its files cannot be read or written, or do not belong together.
    pub fn cluster(
        &self,
        name: &Label,
        now: SystemTime,
    ) -> anyhow::Result<(ClusterAuthority, bool)> {
        let clusters = self.directory.join(CLUSTERS);
        files::make_directory(&clusters)?;
        let certificate_path = clusters.join(format!("{name}.pem"));
        let key_path = clusters.join(format!("{name}.key"));
        if exists(&certificate_path) {
            let (certificate, key) = read_authority(&certificate_path, &key_path)?;
            let trust = self.root.trust().clone();
            let cluster = ClusterAuthority::from_parts(trust, certificate, key)
                .with_context(|| format!("cannot use {}", certificate_path.display()))?;
            ensure!(
                cluster.name() == name,
                "{} is of cluster {}",
                certificate_path.display(),
                cluster.name()
            );
            return Ok((cluster, false));
        }
        let cluster = self.root.cluster(name, now)?;
        // A key without certificate is left by a run that was cut short; nothing uses it.
        let key = cluster.key_pem();
        files::write(&key_path, key.as_bytes(), SECRET, Existing::Replace)?;
        let pem = &cluster.certificate().pem;
        files::write(&certificate_path, pem.as_bytes(), PUBLIC, Existing::Keep)?;
        Ok((cluster, true))
    }

    /// Issues what a node or relay needs and writes it to the request's directory.
    ///
    /// # Errors
    /// Credentials are there already and may not be replaced, or something cannot be written.
    pub fn issue(&self, request: &Request, now: SystemTime) -> anyhow::Result<Receipt> {
        files::make_directory(&request.out)?;
        ensure!(
            fs::canonicalize(&request.out)? != fs::canonicalize(&self.directory)?,
            "{} holds the root's key, which no node may have; choose another directory",
            request.out.display()
        );
        let key = key_for(request)?;
        let own = request.identity.cluster();
        let own = own.with_context(|| format!("{} is not of a cluster", request.identity))?;
        let (cluster, new_cluster) = self.cluster(own, now)?;
        let issued = cluster.issue_for(&request.identity, key, now)?;
        let facts = Facts::parse(&issued.certificate().der)?;
        let token = match (&request.identity, &request.organisation) {
            (Identity::Node(node), Some(organisation)) => Some(token::issue(
                &cluster,
                node,
                facts.spki_sha256,
                organisation,
                now,
                request.token_life,
            )?),
            (Identity::Node(node), None) => bail!("node {node} needs an organisation"),
            (
                Identity::Root | Identity::Cluster(_) | Identity::Control(_) | Identity::Relay(_),
                _,
            ) => None,
        };
        let token_end = token
            .as_ref()
            .map(|_| super::unix_time(now + request.token_life));
        Ok(Receipt {
            uri: request.identity.uri(self.root.name()),
            new_cluster,
            certificate_end: facts.not_after,
            token_end,
            files: self.write(request, &issued, token.as_deref())?,
        })
    }

    fn write(
        &self,
        request: &Request,
        issued: &Issued,
        token: Option<&[u8]>,
    ) -> anyhow::Result<Vec<PathBuf>> {
        let existing = match request.renewal {
            Renewal::Refuse => Existing::Keep,
            Renewal::Replace | Renewal::KeepKey => Existing::Replace,
        };
        let key = issued.key_pem();
        let chain = issued.chain_pem();
        let own_key =
            (request.renewal != Renewal::KeepKey).then_some((KEY_FILE, key.as_bytes(), SECRET));
        let public = [
            (CA_FILE, self.root.certificate().pem.as_bytes(), PUBLIC),
            (CHAIN_FILE, chain.as_bytes(), PUBLIC),
        ];
        let token = token.map(|token| (TOKEN_FILE, token, SECRET));
        own_key
            .into_iter()
            .chain(public)
            .chain(token)
            .map(|(name, text, mode)| {
                let path = request.out.join(name);
                files::write(&path, text, mode, existing).map(|()| path)
            })
            .collect()
    }
}

/// The key that the certificate will be for; refuses to go on where it would destroy one.
fn key_for(request: &Request) -> anyhow::Result<KeyPair> {
    let key_path = request.out.join(KEY_FILE);
    match request.renewal {
        Renewal::Refuse => {
            let there: Vec<_> = [KEY_FILE, CHAIN_FILE, CA_FILE, TOKEN_FILE]
                .into_iter()
                .filter(|file| exists(&request.out.join(file)))
                .collect();
            ensure!(
                there.is_empty(),
                "{} has {} already; use --force to replace all of it, or --renew to keep the key",
                request.out.display(),
                there.join(", ")
            );
            new_key()
        }
        Renewal::Replace => new_key(),
        Renewal::KeepKey => read_key(&key_path),
    }
}

pub(super) fn read_authority(
    certificate: &Path,
    key: &Path,
) -> anyhow::Result<(Certificate, KeyPair)> {
    let pem = fs::read_to_string(certificate)
        .with_context(|| format!("cannot read {}", certificate.display()))?;
    let certificate = Certificate::from_pem(pem)
        .with_context(|| format!("cannot use {}", certificate.display()))?;
    Ok((certificate, read_key(key)?))
}

pub(crate) fn read_key(path: &Path) -> anyhow::Result<KeyPair> {
    let pem =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    KeyPair::from_pem(&pem).with_context(|| format!("{} holds no private key", path.display()))
}

/// Whether something has this name, a dangling link included.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn ensure_no_root(directory: &Path) -> anyhow::Result<()> {
    for file in [CA_FILE, CA_KEY_FILE] {
        let path = directory.join(file);
        ensure!(
            !exists(&path),
            "{} exists; a root is never replaced, choose another directory",
            path.display()
        );
    }
    Ok(())
}

fn lock(directory: &Path) -> anyhow::Result<File> {
    let file =
        File::open(directory).with_context(|| format!("cannot open {}", directory.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", directory.display()))?;
    Ok(file)
}
