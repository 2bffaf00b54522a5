//! What the daemon's own thread is asked to do: attach instances to this node and detach them, and
//! ask a peer to answer a bench.
//!
//! A worker asks over the local API; the daemon's own thread makes namespaces and rules, because it
//! owns the overlay. An [`Attachment`] is also how an attached instance is kept on disk.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use netmanager_core::rows::Attached;
use serde::{Deserialize, Serialize};
use weald_proto::addr::Dual;
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::InstanceId;

use super::inspect::{Reply, Unavailable};
use super::message::ApiError;

/// An instance that this node is to host, or hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Which instance, as `appname.appns.servicename.servicens.number`.
    pub instance: String,
    /// Which of its lives; a higher one replaces a lower one.
    pub generation: u64,
    /// The IPv4 address of the interface in its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address of the interface in its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// The tenant, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organisation: Option<String>,
    /// Ports of the host that lead to it, as `8080:80/tcp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
}

/// An instance that this node hosts, and where its network is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedReport {
    /// The instance as it was attached.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// Its network namespace.
    pub netns: PathBuf,
    /// The resolv.conf that its programs are to see.
    pub resolv_conf: PathBuf,
}

/// Where a peer answers load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchOffer {
    /// Which peer, as `cluster/name`.
    pub peer: String,
    /// This node's address in the overlay: the only one that the peer answers there.
    pub own: IpAddr,
    /// The peer's address in the overlay.
    pub address: IpAddr,
    /// The port there, of TCP and UDP.
    pub port: u16,
    /// The port at the peer's other addresses; none if it offers no comparison.
    pub bare_port: Option<u16>,
    /// What load must show.
    pub token: Vec<u8>,
}

/// What the daemon's thread is asked to do.
#[derive(Debug)]
pub enum Hosting {
    /// Host an instance; the same again changes nothing.
    Attach(Attached, Reply<Result<AttachedReport, ApiError>>),
    /// Host an instance no more, if it is attached in that life or an older one; without a
    /// generation in any. The answer is whether that changed anything.
    Detach(InstanceId, Option<u64>, Reply<Result<bool, ApiError>>),
    /// Which instances are attached?
    List(Reply<Vec<AttachedReport>>),
    /// Ask a peer to answer load for so many seconds.
    Bench(NodeId, u32, Reply<Result<BenchOffer, ApiError>>),
}

/// Takes requests to the daemon's thread.
pub trait Attacher: Send + Sync + 'static {
    /// Queues a request. Never blocks.
    ///
    /// # Errors
    /// The daemon is stopping.
    fn submit(&self, request: Hosting) -> Result<(), Unavailable>;
}

impl Attachment {
    /// The checked form.
    ///
    /// # Errors
    /// Says which field is wrong.
    pub fn check(&self) -> Result<Attached, String> {
        let instance = self.instance.parse::<InstanceId>();
        let organisation = self.organisation.as_deref().map(Label::new).transpose();
        let ports = self.ports.iter().map(|text| text.parse());
        Ok(Attached {
            instance: instance.map_err(|error| format!("instance: {error}"))?,
            generation: self.generation,
            instance_ip: Dual {
                v4: self.ipv4,
                v6: self.ipv6,
            },
            organisation: organisation
                .map_err(|error| format!("organisation: {error}"))?
                .map(Organisation),
            ports: ports
                .collect::<Result<_, weald_proto::table::PortMappingError>>()
                .map_err(|error| format!("ports: {error}"))?,
        })
    }
}

impl From<&Attached> for Attachment {
    fn from(attached: &Attached) -> Self {
        Self {
            instance: attached.instance.to_string(),
            generation: attached.generation,
            ipv4: attached.instance_ip.v4,
            ipv6: attached.instance_ip.v6,
            organisation: attached.organisation.as_ref().map(ToString::to_string),
            ports: attached.ports.iter().map(ToString::to_string).collect(),
        }
    }
}
