//! A service as it was checked and accepted: what root schedules and a worker runs.
//!
//! The SLA that a user writes is [`crate::sla`]'s; orchestrator-core turns it into this, or into
//! all of its errors. Everything here is already valid.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::addr::Dual;
use crate::id::{Label, Organisation};
use crate::name::ServiceName;
use crate::table::{AcceptPolicy, LanePolicy, PortMapping, Transport};

/// A checked service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// The service's name.
    pub name: ServiceName,
    /// The tenant that the service belongs to.
    pub organisation: Organisation,
    /// What `rr` names resolve to; root assigns what the SLA does not pin.
    pub round_robin: Dual,
    /// What `closest` names resolve to; root assigns what the SLA does not pin.
    pub closest: Dual,
    /// Which lane its flows take.
    pub lane: LanePolicy,
    /// When its connections on the L4 lane are accepted.
    #[serde(default)]
    pub accept: AcceptPolicy,
    /// What runs an instance.
    pub runtime: Runtime,
    /// What is run: a path, an image or archives, as the runtime reads it.
    pub code: String,
    /// The command and its arguments; empty means the code's own.
    pub command: Vec<String>,
    /// Environment variables, in order.
    pub environment: Vec<(String, String)>,
    /// What each instance needs; reserved when scheduled, and enforced.
    pub resources: Resources,
    /// Ports of the host that lead to the instance.
    pub ports: Vec<PortMapping>,
    /// TCP ports that the instance listens on besides those that ports of the host lead to.
    #[serde(default)]
    pub listens: Vec<u16>,
    /// Whether an instance that ends with status 0 is Completed and not started again.
    pub one_shot: bool,
    /// What a place must satisfy.
    pub constraints: Vec<Constraint>,
    /// The scheduler to use; none means the cluster's default.
    pub scheduler: Option<Label>,
    /// How long scheduling may take before it has failed.
    pub convergence: Duration,
}

impl ServiceSpec {
    /// The TCP ports that an instance listens on as soon as it serves.
    #[must_use]
    pub fn tcp_ports(&self) -> BTreeSet<u16> {
        let mapped = self.ports.iter();
        let mapped = mapped.filter(|it| it.transport == Transport::Tcp);
        let mapped = mapped.map(|it| it.instance);
        mapped.chain(self.listens.iter().copied()).collect()
    }
}

/// What runs an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// A command on the host, in the instance's namespaces and a cgroup.
    Process,
    /// An OCI image.
    Container,
    /// A unikernel image.
    Unikernel,
    /// A virtual machine.
    Microvm,
    /// A WebAssembly component.
    Wasm,
}

impl Runtime {
    /// The runtime's word in an SLA.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Container => "container",
            Self::Unikernel => "unikernel",
            Self::Microvm => "microvm",
            Self::Wasm => "wasm",
        }
    }
}

/// An amount of what a node has. Zero means that nothing of it is asked for or there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a processor.
    pub millicpus: u32,
    /// MiB of memory.
    pub memory_mib: u32,
    /// Whole GPUs.
    pub gpus: u32,
    /// Whole TPUs.
    pub tpus: u32,
    /// MiB of storage.
    pub storage_mib: u32,
    /// kbit/s towards the instance.
    pub bandwidth_in_kbit: u32,
    /// kbit/s from the instance.
    pub bandwidth_out_kbit: u32,
}

/// What a place must satisfy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Constraint {
    /// On this cluster, and on this node of it.
    Direct {
        /// The only cluster.
        cluster: Option<Label>,
        /// The only node.
        node: Option<Label>,
    },
    /// On one of these clusters.
    Clusters {
        /// The clusters.
        allowed: Vec<Label>,
    },
    /// Where these addons are.
    Addons {
        /// The addons.
        needs: Vec<String>,
    },
    /// Within so many km of one of these places; several geo constraints are alternatives.
    Geo {
        /// Where.
        places: Vec<Place>,
    },
    /// Within so many ms of an area.
    Latency {
        /// The area's name.
        area: String,
        /// At most this round-trip time, in ms.
        threshold_ms: f64,
    },
}

/// A circle on the earth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Degrees, north positive.
    pub latitude: f64,
    /// Degrees, east positive.
    pub longitude: f64,
    /// km around it.
    pub radius_km: f64,
}
