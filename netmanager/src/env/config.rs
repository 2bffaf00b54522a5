//! What an overlay is to look like: the part of table and config that the kernel must know.
//!
//! [`EnvConfig`] is built by the shell from the service table; `desired` turns it into items.
//! Every name that reaches the kernel is derived here from checked labels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use netmanager_core::rows::Attached;
use weald_proto::addr::{Dual, Pools};
use weald_proto::id::{Label, NodeId};
use weald_proto::name::InstanceId;
use weald_proto::table::{PortMapping, Table, Transport};

/// The MTU of everything inside the overlay, whatever the path below can carry.
pub const INNER_MTU: u32 = 1400;
/// Segments of a super-packet at most, on every device of the overlay: as many datagrams as one call
/// to the data socket takes (65,507 bytes of 1,444, or of 1,467 in relay frames). With 48, as many
/// as 64 KiB have, each super-packet takes a second call for three of them.
pub const MAX_SEGMENTS: u32 = 44;

/// The IPv4 address that answers DNS inside every overlay, on every instance's veth and on the
/// host's.
pub const RESOLVER_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The IPv6 address that answers DNS inside every overlay.
pub const RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0xfdfe, 0xffff, 0, 0, 0, 0, 0, 0x53);

/// The port that answers DNS.
pub const RESOLVER_PORT: u16 = 53;

/// What overlays' names begin with unless the config says otherwise.
pub const DEFAULT_PREFIX: &str = "weald";

/// Where the state of overlays is kept: one directory for each.
pub const STATE_ROOT: &str = "/run/weald";

/// The longest name of a network device that Linux takes (IFNAMSIZ without the final zero).
const MAX_DEVICE_LEN: usize = 15;

/// The longest file name that Linux takes.
const MAX_FILE_NAME_LEN: usize = 255;

/// What is wrong with an [`EnvConfig`], or stands in its way on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// The overlay's name does not start with a letter, which nft wants.
    #[error("overlay name {0:?} must start with a letter")]
    Name(String),
    /// The table has no row for this node.
    #[error("node {0} is not in the table")]
    UnknownNode(NodeId),
    /// Two instances have the same name, or names that hash to the same device.
    #[error("instances {0} and {1} cannot both be here: their names collide")]
    Collision(String, String),
    /// A pool holds an address that the resolver needs.
    #[error("pool {0} holds {1}, where every node answers DNS; choose another pool")]
    Pool(String, IpAddr),
    /// A port of the host is mapped twice.
    #[error("port {port}/{} of the host is mapped twice, by {first} and {second}", transport.word())]
    PortTwice {
        /// The port.
        port: u16,
        /// TCP or UDP.
        transport: Transport,
        /// The instance listed first.
        first: String,
        /// The instance listed later.
        second: String,
    },
    /// Somebody else has a port of the host that is to be mapped.
    #[error(
        "port {port}/{} of the host cannot lead to {instance}: {holder} has it",
        transport.word()
    )]
    PortBusy {
        /// The port.
        port: u16,
        /// TCP or UDP.
        transport: Transport,
        /// The instance that wants it.
        instance: String,
        /// Who has it.
        holder: String,
    },
}

/// What an overlay is to look like on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvConfig {
    /// The overlay's name, unique on the machine: that of its namespace, its nft table on the
    /// host and its directory below [`STATE_ROOT`].
    pub name: Label,
    /// The prefixes that belong to the overlay.
    pub pools: Pools,
    /// The node's own addresses, for the programs of its host.
    pub node_ip: Dual,
    /// The instances that this node hosts.
    pub instances: Vec<InstanceEnv>,
    /// Whether instances reach the outside through the host, by masquerade.
    pub egress: bool,
}

/// What an instance is to look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceEnv {
    /// Which instance.
    pub id: InstanceId,
    /// The addresses of the interface in its namespace.
    pub instance_ip: Dual,
    /// Ports of the host that lead to it.
    pub ports: Vec<PortMapping>,
}

impl EnvConfig {
    /// The name of a node's overlay: `<prefix>-<node>`, shortened if it gets too long for a label.
    ///
    /// The prefix is the config's, [`DEFAULT_PREFIX`] if it says none; the config is the same on
    /// every node, so the node's name is what tells nodes of one machine apart.
    #[must_use]
    pub fn overlay_name(prefix: &Label, node: &NodeId) -> Label {
        let plain = format!("{prefix}-{}", node.name);
        let hashed = || format!("weald-{:016x}", fingerprint(&plain));
        // Both are made of labels; the second one is always short enough.
        Label::new(&plain)
            .or_else(|_| Label::new(&hashed()))
            .unwrap_or_else(|_| prefix.clone())
    }

    /// What the table says of node `me`, with the instances that are attached to it although the
    /// table does not have their services yet.
    ///
    /// # Errors
    /// Says so when the table has no such node.
    pub fn from_table(
        table: &Table,
        me: &NodeId,
        attached: &[Attached],
        name: Label,
        egress: bool,
    ) -> Result<Self, EnvError> {
        let node = table
            .node(me)
            .ok_or_else(|| EnvError::UnknownNode(me.clone()))?;
        Ok(Self::of(table, me, node.node_ip, attached, name, egress))
    }

    /// Like [`EnvConfig::from_table`], for a node that the table may not have yet.
    #[must_use]
    pub fn of(
        table: &Table,
        me: &NodeId,
        node_ip: Dual,
        attached: &[Attached],
        name: Label,
        egress: bool,
    ) -> Self {
        let instances = table
            .instances
            .iter()
            .filter(|row| row.node == *me)
            .map(|row| InstanceEnv {
                id: row.id.clone(),
                instance_ip: row.instance_ip,
                ports: row.ports.clone(),
            });
        let mut instances: Vec<InstanceEnv> = instances.collect();
        for attached in attached {
            if instances.iter().any(|other| other.id == attached.instance) {
                continue;
            }
            instances.push(InstanceEnv {
                id: attached.instance.clone(),
                instance_ip: attached.instance_ip,
                ports: attached.ports.clone(),
            });
        }
        Self {
            name,
            pools: table.pools.clone(),
            node_ip,
            instances,
            egress,
        }
    }

    /// Checks what can be checked without looking at the host.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(&self) -> Result<(), EnvError> {
        if !self
            .name
            .as_str()
            .starts_with(|c: char| c.is_ascii_alphabetic())
        {
            return Err(EnvError::Name(self.name.to_string()));
        }
        for ip in [IpAddr::V4(RESOLVER_V4), IpAddr::V6(RESOLVER_V6)] {
            if self.pools.contains(ip) {
                let pool = match ip {
                    IpAddr::V4(_) => self.pools.v4.to_string(),
                    IpAddr::V6(_) => self.pools.v6.to_string(),
                };
                return Err(EnvError::Pool(pool, ip));
            }
        }
        let mut devices: BTreeMap<String, &InstanceEnv> = BTreeMap::new();
        let mut ports: BTreeMap<(u16, Transport), &InstanceEnv> = BTreeMap::new();
        for instance in &self.instances {
            if let Some(first) = devices.insert(instance_device(&instance.id), instance) {
                let (first, second) = (first.id.to_string(), instance.id.to_string());
                return Err(EnvError::Collision(first, second));
            }
            for mapping in &instance.ports {
                let key = (mapping.host, mapping.transport);
                if let Some(first) = ports.insert(key, instance) {
                    return Err(EnvError::PortTwice {
                        port: mapping.host,
                        transport: mapping.transport,
                        first: first.id.to_string(),
                        second: instance.id.to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Every port of the host that leads to an instance.
    #[must_use]
    pub fn mapped_ports(&self) -> BTreeSet<(u16, Transport)> {
        let ports = self.instances.iter().flat_map(|instance| &instance.ports);
        ports.map(|port| (port.host, port.transport)).collect()
    }
}

/// The directory of an overlay's state.
#[must_use]
pub fn state_dir(overlay: &Label) -> PathBuf {
    PathBuf::from(STATE_ROOT).join(overlay.as_str())
}

/// The resolv.conf that programs of an instance see.
#[must_use]
pub fn resolv_conf_path(overlay: &Label, instance: &InstanceId) -> PathBuf {
    state_dir(overlay).join(format!("{}.resolv.conf", instance_device(instance)))
}

/// The name of an instance's namespace: `<overlay>.<instance>`.
///
/// The overlay's name has no dot, so that names of different overlays never meet.
#[must_use]
pub fn instance_namespace(overlay: &Label, instance: &InstanceId) -> String {
    let name = format!("{overlay}.{instance}");
    if name.len() <= MAX_FILE_NAME_LEN {
        return name;
    }
    let tail = format!("~{:016x}", fingerprint(&name));
    // Labels are ASCII, so any cut is between characters.
    format!("{}{tail}", &name[..MAX_FILE_NAME_LEN - tail.len()])
}

/// The device in the overlay namespace that leads to an instance.
#[must_use]
pub fn instance_device(instance: &InstanceId) -> String {
    device_name("i-", &instance.to_string(), false)
}

/// The device on the host that leads to the overlay.
#[must_use]
pub fn host_device(overlay: &Label) -> String {
    // Names that were given in place of the default are hashed, so that `weald-a` and `a` differ.
    match overlay.as_str().strip_prefix("weald-") {
        Some(node) => device_name("wl-", node, true),
        None => device_name("wl-", overlay.as_str(), false),
    }
}

/// A number made of the overlay's name, to tell apart what several nodes put on one host.
#[must_use]
pub fn overlay_number(overlay: &Label) -> u16 {
    #[expect(clippy::cast_possible_truncation, reason = "truncation is the purpose")]
    let number = fingerprint(overlay.as_str()) as u16;
    number
}

fn device_name(prefix: &str, name: &str, readable: bool) -> String {
    let plain = format!("{prefix}{name}");
    // A readable name is one digit shorter than a hashed one, so that the two never meet.
    if readable && plain.len() < MAX_DEVICE_LEN {
        return plain;
    }
    let digits = MAX_DEVICE_LEN - prefix.len();
    let hash = format!("{:016x}", fingerprint(name));
    format!("{prefix}{}", &hash[..digits])
}

/// FNV-1a of 64 bits: short names must be the same in every release and on every machine.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
