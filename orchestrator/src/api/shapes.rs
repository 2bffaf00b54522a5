//! What clients of Oakestra read: applications, services, instances and clusters in its shapes.
//!
//! Clients are strict about types: what is a number there is a number here, and what is a text is a
//! text even if it holds a number.

mod cluster;

use std::collections::BTreeMap;

use orchestrator_core::root::{Application, Instance, Root, Scope, Service};
use orchestrator_core::sla::unheeded;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use weald_proto::control::Phase;
use weald_proto::id::Label;

pub(super) use cluster::ClusterView;

/// An id as MongoDB writes it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ObjectId {
    /// 24 hexadecimal digits.
    #[serde(rename = "$oid")]
    oid: String,
}

impl From<&str> for ObjectId {
    fn from(id: &str) -> Self {
        Self { oid: id.to_owned() }
    }
}

/// That something was done.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Message {
    /// What was done.
    message: String,
}

impl Message {
    pub(super) fn new(message: &str) -> axum::Json<Self> {
        axum::Json(Self {
            message: message.to_owned(),
        })
    }
}

/// An application.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ApplicationView {
    #[serde(rename = "_id")]
    object: ObjectId,
    #[serde(rename = "applicationID")]
    id: String,
    application_name: String,
    application_namespace: String,
    application_desc: String,
    /// The name of the user who made it.
    #[serde(rename = "userId")]
    user: String,
    /// The ids of its services.
    microservices: Vec<String>,
    /// What of its SLA was accepted, and is not acted on or in part only: service, field and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl ApplicationView {
    pub(super) fn new(root: &Root, application: &Application) -> Self {
        let services = root.services();
        let services = services.filter(|it| it.application == application.id);
        let services: Vec<&Service> = services.collect();
        let warnings = services.iter().flat_map(|it| {
            let name = &it.spec.name;
            let warnings = warnings(it).into_iter();
            warnings.map(move |text| format!("{name}: {text}"))
        });
        Self {
            object: application.id.as_str().into(),
            id: application.id.clone(),
            application_name: application.name.name.to_string(),
            application_namespace: application.name.namespace.to_string(),
            application_desc: application.description.clone(),
            user: application.customer.clone(),
            microservices: services.iter().map(|it| it.id.clone()).collect(),
            warnings: warnings.collect(),
        }
    }
}

/// What of a service's SLA was accepted, and is not acted on or in part only.
fn warnings(service: &Service) -> Vec<String> {
    let fields = unheeded(&service.written).into_iter();
    fields
        .map(|(field, why)| format!("{field}: {why}"))
        .collect()
}

/// The applications that somebody may see.
pub(super) fn applications<'a>(
    root: &'a Root,
    scope: &Scope,
) -> impl Iterator<Item = &'a Application> {
    root.applications()
        .filter(move |it| scope.has(&it.organisation))
}

/// A service: every field of its SLA, and what became of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct ServiceView {
    #[serde(rename = "_id")]
    object: ObjectId,
    #[serde(rename = "microserviceID")]
    id: String,
    #[serde(rename = "applicationID")]
    application: String,
    /// `app.appns.service.servicens`.
    job_name: String,
    microservice_name: String,
    microservice_namespace: String,
    app_name: String,
    app_ns: String,
    service_name: String,
    service_ns: String,
    /// What is run.
    image: String,
    code: String,
    /// What runs it; containers are called `docker`.
    virtualization: String,
    next_instance_progressive_number: u32,
    /// One of Oakestra's status words.
    status: String,
    status_detail: String,
    #[serde(rename = "RR_ip", skip_serializing_if = "Option::is_none")]
    round_robin_v4: Option<String>,
    #[serde(rename = "RR_ip_v6", skip_serializing_if = "Option::is_none")]
    round_robin_v6: Option<String>,
    instance_list: Vec<InstanceView>,
    /// What of its SLA was accepted, and is not acted on or in part only: field and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// The other fields of the SLA, as they were written.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    written: Map<String, Value>,
}

/// An instance.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct InstanceView {
    instance_number: u32,
    /// The id of the cluster that has it, or is asked to.
    cluster_id: String,
    /// `latitude,longitude,radius in m`; empty if unknown.
    cluster_location: String,
    /// One of Oakestra's status words.
    status: String,
    status_detail: String,
    publicip: String,
    host_ip: String,
    host_port: u16,
    /// The node that it is on, as `cluster/node`.
    worker_id: String,
    /// Per cent of a processor, as a text.
    cpu_percent: String,
    /// Per cent of the memory that the SLA asks for, as a text; 0 if it asks for none.
    memory_percent: String,
    disk: String,
    /// Empty: logs are read from `/api/v1/instances/{name}/logs`.
    logs: String,
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    cpu_history: [Value; 0],
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    memory_history: [Value; 0],
    /// Seconds since 1970 of the last attempt at placing it.
    last_modified_timestamp: f64,
    /// Its own address.
    instance_ip: Option<String>,
    /// Its own address.
    instance_ip_v6: Option<String>,
    exit_status: Option<i32>,
}

/// What of clusters is shown with instances.
struct Sites(BTreeMap<Label, (String, String)>);

impl Sites {
    fn new(root: &Root) -> Self {
        let sites = root.clusters().map(|(state, ..)| {
            let location = cluster::location(state.place.as_ref());
            (state.name.clone(), (cluster::id(state), location))
        });
        Self(sites.collect())
    }
}

impl ServiceView {
    fn new(root: &Root, service: &Service, sites: &Sites) -> Self {
        let spec = &service.spec;
        let name = &spec.name;
        let instances = root.instances();
        let instances = instances.filter(|it| it.id.service == *name && !it.withdrawn);
        let instances: Vec<&Instance> = instances.collect();
        let leading = instances.iter().max_by_key(|it| rank(it.phase()));
        let word = leading.map_or("CREATED", |it| status(it.phase()));
        let detail = leading.map_or_else(
            || "no instance is deployed".to_owned(),
            |it| it.detail.clone(),
        );
        let views = instances
            .iter()
            .map(|it| InstanceView::new(it, service, sites));
        Self {
            object: service.id.as_str().into(),
            id: service.id.clone(),
            application: service.application.clone(),
            job_name: name.to_string(),
            microservice_name: name.name.to_string(),
            microservice_namespace: name.namespace.to_string(),
            app_name: name.application.name.to_string(),
            app_ns: name.application.namespace.to_string(),
            service_name: name.name.to_string(),
            service_ns: name.namespace.to_string(),
            image: spec.code.clone(),
            code: spec.code.clone(),
            virtualization: match spec.runtime.word() {
                "container" => "docker",
                other => other,
            }
            .to_owned(),
            next_instance_progressive_number: service.next_instance,
            status: word.to_owned(),
            status_detail: detail,
            round_robin_v4: spec.round_robin.v4.map(|ip| ip.to_string()),
            round_robin_v6: spec.round_robin.v6.map(|ip| ip.to_string()),
            instance_list: views.collect(),
            warnings: warnings(service),
            written: others(service),
        }
    }
}

/// The fields of the SLA that the view does not say itself.
fn others(service: &Service) -> Map<String, Value> {
    const SAID: [&str; 5] = [
        "microserviceID",
        "microservice_name",
        "microservice_namespace",
        "code",
        "virtualization",
    ];
    let Ok(Value::Object(mut fields)) = serde_json::to_value(&service.written) else {
        return Map::new();
    };
    fields.retain(|key, _| !SAID.contains(&key.as_str()));
    fields
}

impl InstanceView {
    fn new(instance: &Instance, service: &Service, sites: &Sites) -> Self {
        let site = instance.cluster.as_ref().and_then(|it| sites.0.get(it));
        let (cluster_id, cluster_location) = site.cloned().unwrap_or_default();
        let (cpu_percent, memory_mib) = instance.usage;
        let wanted = service.spec.resources.memory_mib;
        let memory_percent = match wanted {
            0 => 0.0,
            wanted => f64::from(memory_mib) * 100.0 / f64::from(wanted),
        };
        let ip = instance.instance_ip;
        let last = instance.history.attempts().last();
        Self {
            instance_number: instance.id.number,
            cluster_id,
            cluster_location,
            status: status(instance.phase()).to_owned(),
            status_detail: instance.detail.clone(),
            publicip: String::new(),
            host_ip: String::new(),
            host_port: service.spec.ports.first().map_or(0, |it| it.host),
            worker_id: instance
                .node
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            cpu_percent: format!("{cpu_percent:.1}"),
            memory_percent: format!("{memory_percent:.1}"),
            disk: "0".to_owned(),
            logs: String::new(),
            cpu_history: [],
            memory_history: [],
            last_modified_timestamp: last.map_or(0.0, |it| seconds(it.at)),
            instance_ip: ip.v4.map(|ip| ip.to_string()),
            instance_ip_v6: ip.v6.map(|ip| ip.to_string()),
            exit_status: instance.exit_status,
        }
    }
}

/// The services that somebody may see, of one application or of all.
pub(super) fn services(root: &Root, scope: &Scope, application: Option<&str>) -> Vec<ServiceView> {
    let sites = Sites::new(root);
    root.services()
        .filter(|it| scope.has(&it.spec.organisation))
        .filter(|it| application.is_none_or(|id| it.application == id))
        .map(|it| ServiceView::new(root, it, &sites))
        .collect()
}

/// A service that somebody may see.
pub(super) fn service(root: &Root, scope: &Scope, id: &str) -> Option<ServiceView> {
    let service = root.services().find(|it| it.id == id)?;
    let seen = scope.has(&service.spec.organisation);
    seen.then(|| ServiceView::new(root, service, &Sites::new(root)))
}

/// Oakestra's word for a phase.
pub(crate) const fn status(phase: Phase) -> &'static str {
    match phase {
        Phase::Registered => "CREATED",
        Phase::Requested => "REQUESTED",
        Phase::ClusterScheduled => "CLUSTER_SCHEDULED",
        Phase::NodeScheduled => "NODE_SCHEDULED",
        Phase::Creating => "CREATING",
        Phase::Running => "RUNNING",
        Phase::Completed => "COMPLETED",
        Phase::Failed => "FAILED",
        Phase::Terminated => "UNDEPLOYED",
    }
}

/// Which of its instances' phases is a service's: that of the one that is farthest.
const fn rank(phase: Phase) -> u8 {
    match phase {
        Phase::Terminated => 0,
        Phase::Failed => 1,
        Phase::Registered => 2,
        Phase::Requested => 3,
        Phase::ClusterScheduled => 4,
        Phase::NodeScheduled => 5,
        Phase::Creating => 6,
        Phase::Completed => 7,
        Phase::Running => 8,
    }
}

/// Seconds as clients read times: exact until long after any clock of today.
pub(super) fn seconds(unix: u64) -> f64 {
    std::time::Duration::from_secs(unix).as_secs_f64()
}
