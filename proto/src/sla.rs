//! The SLA as a user writes it: version 2.0's document, nothing of it checked yet.
//!
//! Every field is optional here, since a missing one is an error to report and not a document that
//! cannot be held. orchestrator-core's `sla` reads and checks it; what comes out is [`crate::spec`].
//! The slides' bare microservice is read into the same types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

macro_rules! written {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $key:literal $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $(
                $(#[$field_doc])*
                #[serde(rename = $key, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
        }

        impl $name {
            /// The keys that may stand here, as they are written.
            pub const KEYS: &[&str] = &[$($key),*];
        }
    };
}

written!(
    /// A whole document.
    Document {
        /// Always `v2.0`.
        "sla_version" version: String,
        /// Who sends it.
        "customerID" customer: String,
        /// The applications.
        "applications" applications: Vec<Application>,
        /// Not used.
        "args" args: Vec<String>,
    }
);

written!(
    /// An application.
    Application {
        /// The id that root gave it; empty when it is new.
        "applicationID" id: String,
        /// Its name.
        "application_name" name: String,
        /// Its namespace.
        "application_namespace" namespace: String,
        /// What it is, for people.
        "application_desc" description: String,
        /// Its services.
        "microservices" microservices: Vec<Microservice>,
    }
);

written!(
    /// A service.
    Microservice {
        /// Empty: root gives the id.
        "microserviceID" id: String,
        /// Its name.
        "microservice_name" name: String,
        /// Its namespace.
        "microservice_namespace" namespace: String,
        /// What runs it.
        "virtualization" virtualization: String,
        /// What is run.
        "code" code: String,
        /// Architectures of a unikernel's archives, in their order.
        "arch" arch: Vec<String>,
        /// The command and its arguments.
        "cmd" command: Vec<String>,
        /// Environment variables, `K=V`.
        "environment" environment: Vec<String>,
        /// MiB of memory.
        "memory" memory: u32,
        /// Processors.
        "vcpus" vcpus: u32,
        /// GPUs.
        "vgpus" vgpus: u32,
        /// TPUs.
        "vtpus" vtpus: u32,
        /// kbit/s towards an instance.
        "bandwidth_in" bandwidth_in: u32,
        /// kbit/s from an instance.
        "bandwidth_out" bandwidth_out: u32,
        /// MiB of storage.
        "storage" storage: u32,
        /// Port mappings, `80:80/udp;443:443/tcp`.
        "port" port: String,
        /// Whether it runs once.
        "one_shot" one_shot: bool,
        /// Whether it asks for all of the host's privileges.
        "privileged" privileged: bool,
        /// Volumes.
        "volumes" volumes: Vec<Volume>,
        /// Pinned addresses.
        "addresses" addresses: Addresses,
        /// What a place must satisfy.
        "constraints" constraints: Vec<Constraint>,
        /// What the way to other services must satisfy.
        "connectivity" connectivity: Vec<Connectivity>,
        /// What to do when the SLA is violated.
        "sla_violation_strategy" violation_strategy: String,
        /// The node to run on.
        "target_node" target_node: String,
        /// A state that clients echo.
        "state" state: String,
        /// Files to add, as URLs.
        "added_files" added_files: Vec<String>,
        /// Not used.
        "args" args: Vec<String>,
        /// Our extension: which lane flows take.
        "lane" lane: String,
        /// Our extension: when connections on the L4 lane are accepted.
        "accept" accept: String,
        /// Our extension: the scheduler to use.
        "scheduler" scheduler: String,
    }
);

written!(
    /// Addresses that a service pins.
    Addresses {
        /// IPv4 of `rr` names.
        "rr_ip" rr_v4: String,
        /// IPv6 of `rr` names.
        "rr_ip_v6" rr_v6: String,
        /// IPv4 of `closest` names.
        "closest_ip" closest_v4: String,
        /// IPv6 of `closest` names.
        "closest_ip_v6" closest_v6: String,
        /// Ranges of instance addresses.
        "instances" instances: Vec<BTreeMap<String, String>>,
    }
);

written!(
    /// A volume.
    Volume {
        /// Its id.
        "volume_id" id: String,
        /// What provides it.
        "csi_driver" driver: String,
        /// Where it is mounted.
        "mount_path" mount_path: String,
    }
);

written!(
    /// What a place must satisfy.
    Constraint {
        /// Which kind; it says which other fields are read.
        "type" kind: String,
        /// An area's name.
        "area" area: String,
        /// A cluster.
        "cluster" cluster: String,
        /// A node.
        "node" node: String,
        /// `lat,lon`, in degrees.
        "location" location: String,
        /// km or ms.
        "threshold" threshold: f64,
        /// 0 to 1.
        "rigidness" rigidness: f64,
        /// Seconds.
        "convergence_time" convergence_time: u32,
        /// Addons.
        "needs" needs: Vec<String>,
        /// Clusters.
        "allowed" allowed: Vec<String>,
    }
);

written!(
    /// What the way to another service must satisfy.
    Connectivity {
        /// The other service.
        "target_microservice_id" target: String,
        /// The constraints.
        "con_constraints" constraints: Vec<LinkConstraint>,
    }
);

written!(
    /// One constraint on the way to another service.
    LinkConstraint {
        /// Which kind.
        "type" kind: String,
        /// ms, kbit/s or km.
        "threshold" threshold: f64,
        /// 0 to 1.
        "rigidness" rigidness: f64,
        /// Seconds.
        "convergence_time" convergence_time: u32,
    }
);
