//! A cluster, as clients of Oakestra read it.

use orchestrator_core::root::ClusterState;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use weald_proto::control::{Aggregate, Standing};
use weald_proto::spec::Place;

/// A cluster. Each of several fields stands twice, under the older and the newer name.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::api) struct ClusterView {
    /// 24 hexadecimal digits.
    #[serde(rename = "_id")]
    id: String,
    candidate_name: String,
    cluster_name: String,
    /// `latitude,longitude,radius in m`; empty if unknown.
    candidate_location: String,
    cluster_location: String,
    ip: String,
    port: String,
    pub(in crate::api) active: bool,
    active_nodes: u32,
    cpu_percent: f64,
    aggregated_cpu_percent: f64,
    /// MiB in all.
    memory: u32,
    memory_in_mb: u32,
    memory_percent: f64,
    vcpus: u32,
    total_cpu_cores: u32,
    vgpus: u32,
    total_gpu_cores: u32,
    vram: u32,
    vram_percent: f64,
    gpu_temp: f64,
    gpu_percent: f64,
    #[schema(value_type = Vec<String>)]
    gpu_drivers: [String; 0],
    /// What can run there; containers are called `docker`.
    virtualization: Vec<String>,
    supported_addons: Vec<String>,
    #[schema(value_type = Vec<String>)]
    csi_drivers: [String; 0],
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    cpu_history: [Value; 0],
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    memory_history: [Value; 0],
    /// Seconds since 1970.
    /// Seconds since 1970 of what it said last.
    last_modified_timestamp: f64,
}

impl ClusterView {
    pub(in crate::api) fn new(
        state: &ClusterState,
        standing: Standing,
        aggregate: Option<&Aggregate>,
        last_known: u64,
    ) -> Self {
        let name = state.name.to_string();
        let location = location(state.place.as_ref());
        let sums = aggregate.cloned().unwrap_or_default();
        let (cpu, memory) = (f64::from(sums.cpu_percent), f64::from(sums.memory_percent));
        let cores = sums.total.millicpus / 1000;
        let runtimes = sums.runtimes.iter().map(|it| match it.word() {
            "container" => "docker".to_owned(),
            other => other.to_owned(),
        });
        Self {
            id: id(state),
            candidate_name: name.clone(),
            cluster_name: name,
            candidate_location: location.clone(),
            cluster_location: location,
            // Clusters dial root; there is no port of theirs to name.
            ip: String::new(),
            port: String::new(),
            active: matches!(standing, Standing::Alive | Standing::Suspect),
            active_nodes: sums.nodes,
            cpu_percent: cpu,
            aggregated_cpu_percent: cpu,
            memory: sums.total.memory_mib,
            memory_in_mb: sums.total.memory_mib,
            memory_percent: memory,
            vcpus: cores,
            total_cpu_cores: cores,
            vgpus: sums.total.gpus,
            total_gpu_cores: sums.total.gpus,
            vram: 0,
            vram_percent: 0.0,
            gpu_temp: 0.0,
            gpu_percent: 0.0,
            gpu_drivers: [],
            virtualization: runtimes.collect(),
            supported_addons: sums.addons,
            csi_drivers: [],
            cpu_history: [],
            memory_history: [],
            last_modified_timestamp: super::seconds(last_known),
        }
    }
}

/// The id of a cluster: it has a name, and clients want 24 hexadecimal digits.
pub(super) fn id(state: &ClusterState) -> String {
    crate::api::hexadecimal(state.key.get(..12).unwrap_or_default())
}

pub(super) fn location(place: Option<&Place>) -> String {
    place.map_or_else(String::new, |place| {
        let metres = place.radius_km * 1000.0;
        format!("{},{},{metres}", place.latitude, place.longitude)
    })
}
