//! What root answers, as far as commands look at it. `docs/openapi.json` describes all of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Of `POST /api/v1/apply`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Applied {
    pub(super) applications: Vec<String>,
    pub(super) services: Vec<String>,
    /// The instances that were made.
    pub(super) instances: Vec<String>,
    /// What was accepted, and is not acted on or in part only.
    #[serde(default)]
    pub(super) warnings: Vec<Warning>,
}

/// Something that is to be known of an SLA that was accepted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Warning {
    pub(super) path: String,
    pub(super) message: String,
}

/// Of `POST /api/v1/services/{id}/scale`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Scaled {
    /// The instances that were made.
    pub(super) instances: Vec<String>,
}

/// Of `GET /api/applications`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Application {
    #[serde(rename = "applicationID")]
    pub(super) id: String,
    application_name: String,
    application_namespace: String,
    #[serde(rename = "application_desc")]
    pub(super) description: String,
    #[serde(rename = "userId")]
    pub(super) user: String,
}

impl Application {
    /// `app.appns`.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.application_name, self.application_namespace)
    }

    /// Whether somebody who names an application means this one.
    pub(super) fn is(&self, wanted: &str) -> bool {
        self.id == wanted || self.name().eq_ignore_ascii_case(wanted)
    }
}

/// Of `GET /api/services`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Service {
    #[serde(rename = "microserviceID")]
    pub(super) id: String,
    #[serde(rename = "applicationID")]
    pub(super) application: String,
    /// `app.appns.svc.svcns`.
    #[serde(rename = "job_name")]
    pub(super) name: String,
    pub(super) virtualization: String,
    #[serde(rename = "RR_ip")]
    pub(super) ipv4: Option<String>,
    #[serde(rename = "RR_ip_v6")]
    pub(super) ipv6: Option<String>,
}

/// Of `GET /api/v1/instances`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Instance {
    /// `app.appns.svc.svcns.number`.
    pub(super) name: String,
    pub(super) status: String,
    pub(super) detail: String,
    pub(super) withdrawn: bool,
    pub(super) fits_nowhere: bool,
    generation: u64,
    cluster: Option<String>,
    pub(super) node: Option<String>,
    pub(super) ipv4: Option<String>,
    ipv6: Option<String>,
    exit_status: Option<i32>,
    cpu_percent: f32,
    memory_mib: u32,
}

impl Instance {
    /// The name of its service.
    pub(super) fn service(&self) -> &str {
        let parts = self.name.rsplit_once('.');
        parts.map_or(self.name.as_str(), |(service, _)| service)
    }

    /// Whether it does what it was deployed for, or has done it.
    pub(super) fn serves(&self) -> bool {
        ["RUNNING", "COMPLETED"].contains(&self.status.as_str())
    }

    /// Whether nothing more comes of it.
    pub(super) fn has_failed(&self) -> bool {
        self.status == "FAILED"
    }
}

/// Of `GET /api/v1/instances/{name}/logs`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Log {
    pub(super) lines: Vec<String>,
}

/// Of `GET /api/v1/status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) applications: usize,
    pub(super) services: usize,
    pub(super) instances: BTreeMap<String, usize>,
    pub(super) clusters: BTreeMap<String, usize>,
    pub(super) nodes: BTreeMap<String, usize>,
}

/// Of `GET /api/v1/nodes`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Node {
    /// `cluster/node`.
    pub(super) name: String,
    cluster: String,
    pub(super) standing: String,
    pub(super) ipv4: Option<String>,
    ipv6: Option<String>,
    pub(super) runtimes: Vec<String>,
    pub(super) millicpus: u32,
    pub(super) reserved_millicpus: u32,
    pub(super) memory_mib: u32,
    pub(super) reserved_memory_mib: u32,
    pub(super) cpu_percent: f32,
    used_memory_mib: u32,
}

/// Of `GET /api/v1/clusters`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Cluster {
    pub(super) name: String,
    pub(super) standing: String,
    pub(super) owner: Option<String>,
    organisations: Option<Vec<String>>,
    pub(super) blocks: Vec<String>,
    pub(super) nodes: u32,
    pub(super) millicpus: u32,
    pub(super) free_millicpus: u32,
    pub(super) memory_mib: u32,
    pub(super) free_memory_mib: u32,
}

/// Of `GET` and `POST /api/v1/revocations`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Revocations {
    epoch: u64,
    pub(super) keys: Vec<String>,
    pub(super) organisations: Vec<String>,
}
