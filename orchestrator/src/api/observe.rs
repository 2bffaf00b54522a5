//! How things are: what runs where, why, and what it wrote; and figures for Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use orchestrator_core::explain::{History, present};
use orchestrator_core::root::{Instance, Root, Scope};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use weald_proto::control::{NodeReport, Standing};
use weald_proto::name::InstanceId;

use super::ApiState;
use super::caller::{Reader, User};
use super::error::ApiError;
use super::shapes::status as word;

/// How long a node may take to answer with a log.
const LOG_PATIENCE: Duration = Duration::from_secs(10);
/// How many lines of a log are read if nothing else is said, and at most.
const LINES: (u32, u32) = (100, 10_000);

/// How many there are of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Status {
    /// Root's version.
    version: &'static str,
    applications: usize,
    services: usize,
    /// Instances by status word.
    instances: BTreeMap<&'static str, usize>,
    /// Clusters by standing.
    clusters: BTreeMap<&'static str, usize>,
    /// Nodes by standing.
    nodes: BTreeMap<&'static str, usize>,
}

/// How many applications, services, instances, clusters and nodes there are, of those that one may
/// know of.
#[utoipa::path(get, path = "/api/v1/status", tag = "status",
    responses((status = 200, body = Status)))]
pub(super) async fn status(
    State(state): State<ApiState>,
    user: User,
) -> Result<Json<Status>, ApiError> {
    let status =
        state.look(move |root, _| count(root, &user.scope(), |cluster| user.0.sees(cluster)));
    status.await.map(Json)
}

fn count(
    root: &Root,
    scope: &Scope,
    sees: impl Fn(&orchestrator_core::root::ClusterState) -> bool,
) -> Status {
    let applications = root.applications().filter(|it| scope.has(&it.organisation));
    let services = root
        .services()
        .filter(|it| scope.has(&it.spec.organisation));
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION"),
        applications: applications.count(),
        services: services.count(),
        instances: BTreeMap::new(),
        clusters: BTreeMap::new(),
        nodes: BTreeMap::new(),
    };
    for instance in seen(root, scope) {
        *status.instances.entry(word(instance.phase())).or_default() += 1;
    }
    for (_, standing, _, nodes) in root.clusters().filter(|(it, ..)| sees(it)) {
        *status.clusters.entry(standing_word(standing)).or_default() += 1;
        for node in nodes {
            *status
                .nodes
                .entry(standing_word(node.standing))
                .or_default() += 1;
        }
    }
    status
}

/// The word for how somebody stands.
pub(crate) const fn standing_word(standing: Standing) -> &'static str {
    match standing {
        Standing::Alive => "alive",
        Standing::Suspect => "suspect",
        Standing::Dead => "dead",
        Standing::Gone => "gone",
    }
}

/// The instances that somebody may see, those among them whose service is gone and that are being
/// stopped.
fn seen<'a>(root: &'a Root, scope: &Scope) -> impl Iterator<Item = &'a Instance> {
    let mut owners = BTreeMap::new();
    for it in root.instances() {
        let service = &it.id.service;
        owners
            .entry(service)
            .or_insert_with(|| root.owner_of(service));
    }
    root.instances().filter(move |it| {
        let owner = owners.get(&it.id.service).copied().flatten();
        owner.map_or(*scope == Scope::All, |owner| scope.has(owner))
    })
}

/// An instance.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct InstanceStatus {
    /// `app.appns.service.servicens.number`.
    name: String,
    /// One of Oakestra's status words.
    status: &'static str,
    /// Why it is so, in words.
    detail: String,
    /// Whether it is being removed.
    withdrawn: bool,
    /// Whether it is nowhere because it fits nowhere: every cluster and node has refused it for what
    /// they have or are.
    fits_nowhere: bool,
    /// Grows with each life that it gets.
    generation: u64,
    cluster: Option<String>,
    /// `cluster/node`.
    node: Option<String>,
    ipv4: Option<String>,
    ipv6: Option<String>,
    exit_status: Option<i32>,
    /// Per cent of one processor.
    cpu_percent: f32,
    memory_mib: u32,
}

impl InstanceStatus {
    fn new(instance: &Instance) -> Self {
        let (cpu_percent, memory_mib) = instance.usage;
        Self {
            name: instance.id.to_string(),
            status: word(instance.phase()),
            detail: instance.detail.clone(),
            withdrawn: instance.withdrawn,
            fits_nowhere: instance.fits_nowhere(),
            generation: instance.life.generation(),
            cluster: instance.cluster.as_ref().map(ToString::to_string),
            node: instance.node.as_ref().map(ToString::to_string),
            ipv4: instance.instance_ip.v4.map(|ip| ip.to_string()),
            ipv6: instance.instance_ip.v6.map(|ip| ip.to_string()),
            exit_status: instance.exit_status,
            cpu_percent,
            memory_mib,
        }
    }
}

/// Every instance that one may see.
#[utoipa::path(get, path = "/api/v1/instances", tag = "status",
    responses((status = 200, body = Vec<InstanceStatus>)))]
pub(super) async fn instances(
    State(state): State<ApiState>,
    user: User,
) -> Result<Json<Vec<InstanceStatus>>, ApiError> {
    let scope = user.scope();
    let views = state.look(move |root, _| seen(root, &scope).map(InstanceStatus::new).collect());
    views.await.map(Json)
}

/// An instance's name, if there is one of it that somebody may see.
async fn find(state: &ApiState, user: &User, name: &str) -> Result<InstanceId, ApiError> {
    let unknown = || ApiError::unknown("instance", name);
    let id: InstanceId = name.parse().map_err(|_| unknown())?;
    let (scope, wanted) = (user.scope(), id.clone());
    let found = state.look(move |root, _| seen(root, &scope).any(|it| it.id == wanted));
    if found.await? { Ok(id) } else { Err(unknown()) }
}

/// How an instance is, and why it is where it is, or nowhere: every attempt at placing it, with all
/// refusals.
#[utoipa::path(get, path = "/api/v1/instances/{name}/explain", tag = "status",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn explain(
    State(state): State<ApiState>,
    user: User,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let id = find(&state, &user, &name).await?;
    let text = state.look(move |root, now| {
        let instance = root.instance(&id);
        instance.map(|it| {
            let node = it.node.as_ref().map(ToString::to_string);
            let present = present(&id, word(it.phase()), node.as_deref(), &it.detail);
            present + &history_for(root, it, &user).explain(&id, now)
        })
    });
    let text = text.await?;
    let text = text.ok_or_else(|| ApiError::unknown("instance", &name))?;
    Ok(plain(text))
}

/// What of an instance's attempts its user may know: nothing of clusters that are not shown to it, and
/// of what others have there only that it is in the way.
fn history_for(root: &Root, instance: &Instance, user: &User) -> History {
    let scope = user.scope();
    if scope == Scope::All {
        return instance.history.clone();
    }
    let seen: BTreeSet<String> = root
        .clusters()
        .filter(|(cluster, ..)| user.0.sees(cluster))
        .map(|(cluster, ..)| cluster.name.to_string())
        .collect();
    let knows = |id: &InstanceId| {
        let owner = root.owner_of(&id.service);
        owner.is_some_and(|owner| scope.has(owner))
    };
    instance.history.told_to(|name| seen.contains(name), knows)
}

fn plain(text: String) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (kind, text).into_response()
}

/// How much of a log.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    /// How many lines, at most 10000; 100 if nothing is said.
    lines: Option<u32>,
}

/// The last lines of a log.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Log {
    /// Oldest first.
    lines: Vec<String>,
}

/// The last lines that an instance wrote.
#[utoipa::path(get, path = "/api/v1/instances/{name}/logs", tag = "status", params(LogQuery),
    responses((status = 200, body = Log)))]
pub(super) async fn logs(
    State(state): State<ApiState>,
    user: User,
    Path(name): Path<String>,
    query: Result<Query<LogQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Log>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::unprocessable(error.body_text()))?;
    let id = find(&state, &user, &name).await?;
    let lines = query.lines.unwrap_or(LINES.0).min(LINES.1);
    let answer = tokio::time::timeout(LOG_PATIENCE, state.root().logs(id, lines)).await;
    let cannot = |why: String| {
        let message = format!("the log of {name} cannot be read: {why}");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
    };
    match answer {
        Ok(Ok(lines)) => Ok(Json(Log { lines })),
        Ok(Err(why)) => Err(cannot(why)),
        Err(_) => Err(cannot(format!(
            "its node did not answer within {} s",
            LOG_PATIENCE.as_secs()
        ))),
    }
}

/// A node.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct NodeStatus {
    /// `cluster/node`.
    name: String,
    cluster: String,
    /// `alive`, `suspect`, `dead` or `gone`; dead if its cluster is.
    standing: &'static str,
    ipv4: Option<String>,
    ipv6: Option<String>,
    /// What can run there.
    runtimes: Vec<&'static str>,
    millicpus: u32,
    reserved_millicpus: u32,
    memory_mib: u32,
    reserved_memory_mib: u32,
    /// Per cent of all processors.
    cpu_percent: f32,
    used_memory_mib: u32,
}

impl NodeStatus {
    fn new(node: &NodeReport, cluster: Standing) -> Self {
        Self {
            name: node.node.to_string(),
            cluster: node.node.cluster.to_string(),
            // What a cluster said of its nodes is no newer than what it said last.
            standing: standing_word(node.standing.max(cluster)),
            ipv4: node.node_ip.v4.map(|ip| ip.to_string()),
            ipv6: node.node_ip.v6.map(|ip| ip.to_string()),
            runtimes: node.capacity.runtimes.iter().map(|it| it.word()).collect(),
            millicpus: node.capacity.total.millicpus,
            reserved_millicpus: node.reserved.millicpus,
            memory_mib: node.capacity.total.memory_mib,
            reserved_memory_mib: node.reserved.memory_mib,
            cpu_percent: node.cpu_percent,
            used_memory_mib: node.memory_mib,
        }
    }
}

/// Every node of the clusters that one may know of.
#[utoipa::path(get, path = "/api/v1/nodes", tag = "status",
    responses((status = 200, body = Vec<NodeStatus>)))]
pub(super) async fn nodes(
    State(state): State<ApiState>,
    user: User,
) -> Result<Json<Vec<NodeStatus>>, ApiError> {
    let views = state.look(move |root, _| {
        let clusters = root.clusters().filter(|(cluster, ..)| user.0.sees(cluster));
        let views = clusters.flat_map(|(_, standing, _, nodes)| {
            nodes
                .iter()
                .map(move |node| NodeStatus::new(node, standing))
        });
        views.collect()
    });
    views.await.map(Json)
}

/// Figures in the text form of Prometheus. On loopback this needs no token.
#[utoipa::path(get, path = "/metrics", tag = "status",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(
    State(state): State<ApiState>,
    _: Reader,
) -> Result<Response, ApiError> {
    let status = state
        .look(|root, _| count(root, &Scope::All, |_| true))
        .await?;
    let kinds = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    let groups = [
        ("instances", "phase", &status.instances),
        ("clusters", "standing", &status.clusters),
        ("nodes", "standing", &status.nodes),
    ];
    let sums = [
        ("applications", status.applications),
        ("services", status.services),
    ];
    Ok((kinds, state.0.metrics.text(&sums, &groups)).into_response())
}
