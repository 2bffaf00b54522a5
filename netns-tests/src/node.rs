//! A machine of a built lab: a namespace, with the addresses that the plan gave it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;

/// A host or router of a running lab.
///
/// It dereferences to its [`Namespace`], which runs programs and opens sockets.
#[derive(Debug)]
pub struct Node {
    pub(crate) name: String,
    pub(crate) namespace: Namespace,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) dir: PathBuf,
}

/// An interface of a [`Node`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The name inside the node.
    pub name: String,
    /// The segment's name.
    pub segment: String,
    /// The IPv4 address, if the segment carries IPv4.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address, if the segment carries IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Node {
    /// The name in the description; [`Namespace::name`] is that of the namespace.
    pub fn machine(&self) -> &str {
        &self.name
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The interfaces, in the description's order.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The IPv4 address of the first interface.
    ///
    /// # Panics
    /// Panics if the node has none.
    #[track_caller]
    pub fn v4(&self) -> Ipv4Addr {
        match self.interfaces.first().and_then(|interface| interface.v4) {
            Some(address) => address,
            None => panic!(
                "node {} has no IPv4 address on its first interface",
                self.name
            ),
        }
    }

    /// The IPv6 address of the first interface.
    ///
    /// # Panics
    /// Panics if the node has none.
    #[track_caller]
    pub fn v6(&self) -> Ipv6Addr {
        match self.interfaces.first().and_then(|interface| interface.v6) {
            Some(address) => address,
            None => panic!(
                "node {} has no IPv6 address on its first interface",
                self.name
            ),
        }
    }

    /// The addresses of the first interface, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let first = self.interfaces.first();
        let v4 = first.and_then(|interface| interface.v4).map(IpAddr::V4);
        v4.into_iter()
            .chain(first.and_then(|interface| interface.v6).map(IpAddr::V6))
            .collect()
    }

    /// A directory of the node's own, made on first use and removed with the lab.
    ///
    /// # Errors
    /// Fails if it cannot be made.
    pub fn dir(&self) -> Result<&Path> {
        fs::create_dir_all(&self.dir).with_context(|| format!("make {:?}", self.dir))?;
        Ok(&self.dir)
    }

    /// Writes a file into the node's directory and returns its path.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub fn write_file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.dir()?.join(name);
        fs::write(&path, content).with_context(|| format!("write {path:?}"))?;
        Ok(path)
    }
}

impl Deref for Node {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}
