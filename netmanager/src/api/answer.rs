//! Answers requests from what the daemon knows and what the packet thread says.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use netmanager_core::dns::{Caller, NotResolved, resolve};
use netmanager_core::table::{Host, Instance, Snapshot};
use tokio::sync::oneshot;
use weald_proto::id::NodeId;
use weald_proto::name::Policy;

use crate::dns_server::DnsCounters;
use crate::env::NftCounters;
use crate::figures;
use crate::userspace::{self, Echo};

use super::hosting::{Attacher, Attachment, Hosting};
use super::inspect::{ExplainQuery, FlowFilter, Inspect, Inspector, Reply, Unavailable};
use super::message::{Answer, ApiError, ErrorCode, Request};
use super::report::{
    ClusterReport, DropCounter, Explanation, GatewayReport, PolicyExplanation, QueryCounter,
    Status, TableReport,
};

/// How long the packet thread may take to answer; it does so between two batches of packets.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the daemon's thread may take to make or remove an instance's network: some tens of
/// milliseconds, more on a busy machine, and others may be before it.
const HOSTING_TIMEOUT: Duration = Duration::from_secs(8);

/// How long the outcome of an echo is waited for at the most: less than clients wait for an answer.
const ECHO_TIMEOUT: Duration = Duration::from_secs(8);

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct About {
    /// Who the node is.
    pub node: NodeId,
    /// The overlay's name.
    pub overlay: String,
    /// What the data socket is bound to.
    pub listen: SocketAddr,
    /// When the daemon started.
    pub started: Instant,
}

/// What requests are answered from.
pub struct ApiContext {
    /// What does not change.
    pub about: About,
    /// The table in use.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Where the table in use comes from.
    pub table: Arc<ArcSwap<TableReport>>,
    /// How the session with the cluster is; none with a static table.
    pub cluster: Option<Arc<ArcSwap<ClusterReport>>>,
    /// How things are with the host's gateways; none if they are not asked for ports.
    pub gateways: Option<Arc<ArcSwap<Vec<GatewayReport>>>>,
    /// The packet thread.
    pub inspector: Arc<dyn Inspector>,
    /// The daemon's thread, which hosts instances.
    pub host: Arc<dyn Attacher>,
    /// How queries for names ended.
    pub names: Arc<DnsCounters>,
    /// What the overlay's nft rules have dropped; none without an overlay namespace.
    pub nft: Option<Arc<NftCounters>>,
    /// Userspace mode; none with a TUN.
    pub userspace: Option<Arc<userspace::Shared>>,
}

impl fmt::Debug for ApiContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiContext")
            .field("about", &self.about)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl ApiContext {
    /// Answers one request of somebody who may change what the node hosts, or may not.
    pub async fn answer(&self, request: Request, may_change: bool) -> Answer {
        let answer = match request {
            Request::Status {} => Ok(Answer::Status(Box::new(self.status().await))),
            Request::Peers {} => self.ask(Inspect::Peers).await.map(Answer::Peers),
            Request::Flows { filter } => self.flows(filter).await,
            Request::Explain { name, from } => self.explain(&name, from.as_deref()).await,
            Request::Counters {} => self.ask(Inspect::Counters).await.map(Answer::Counters),
            Request::Network {} => {
                let network = self.ask(Inspect::Network).await;
                network.map(|mut network| {
                    network.gateways = self.gateways();
                    Answer::Network(network)
                })
            }
            Request::Knock(query) => {
                let knock = self.ask(|reply| Inspect::Knock(query, reply)).await;
                knock.map(Answer::Knock)
            }
            Request::Attach(_) | Request::Detach { .. } if !may_change => Err(ApiError::new(
                ErrorCode::Refused,
                "only root and the daemon's user may attach and detach instances",
            )),
            Request::Bench { .. } if !may_change => Err(ApiError::new(
                ErrorCode::Refused,
                "only root and the daemon's user may run benches",
            )),
            Request::Attach(attachment) => self.attach(&attachment).await,
            Request::Detach {
                instance,
                generation,
            } => self.detach(&instance, generation).await,
            Request::Bench { peer, seconds } => self.bench(&peer, seconds).await,
            Request::Echo {
                destination,
                id,
                sequence,
                timeout_ms,
            } => {
                let echo = Echo {
                    destination,
                    id,
                    sequence,
                };
                self.echo(echo, timeout_ms).await
            }
            Request::Attached {} => self.host(Hosting::List).await.map(Answer::Attachments),
        };
        answer.unwrap_or_else(Answer::Error)
    }

    async fn status(&self) -> Status {
        let snapshot = self.snapshot.load_full();
        let node_ip = node_addresses(&snapshot).next();
        let organisation = node_ip
            .and_then(|ip| snapshot.organisation_of(ip))
            .map(|index| snapshot.organisation(index).to_string());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            node: self.about.node.to_string(),
            organisation,
            overlay: self.about.overlay.clone(),
            listen: self.about.listen,
            uptime_ms: millis(self.about.started.elapsed()),
            table: TableReport::clone(&self.table.load()),
            cluster: self
                .cluster
                .as_ref()
                .map(|cluster| ClusterReport::clone(&cluster.load())),
            instances: local_instances(&snapshot)
                .map(|instance| instance.id.to_string())
                .collect(),
            names: self.queries(),
            nft_drops: self.nft_drops().await,
            gateways: self.gateways(),
            packets: self.ask(Inspect::Status).await.ok(),
            userspace: self.userspace.as_ref().map(|shared| shared.report()),
        }
    }

    /// What the daemon tells of itself to Prometheus.
    pub async fn figures(&self) -> String {
        let drops = self.ask(Inspect::Counters).await.unwrap_or_default();
        figures::of_daemon(&self.status().await, &drops)
    }

    fn gateways(&self) -> Option<Vec<GatewayReport>> {
        let gateways = self.gateways.as_ref()?;
        Some(Vec::clone(&gateways.load()))
    }

    async fn nft_drops(&self) -> Vec<DropCounter> {
        let Some(nft) = self.nft.clone() else {
            return Vec::new();
        };
        let read = tokio::task::spawn_blocking(move || nft.read()).await;
        match read {
            Ok(Ok(counters)) => counters
                .into_iter()
                .map(|(reason, packets)| DropCounter { reason, packets })
                .collect(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the nft counters cannot be read");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    fn queries(&self) -> Vec<QueryCounter> {
        self.names
            .iter()
            .filter(|(_, queries)| *queries > 0)
            .map(|(outcome, queries)| QueryCounter {
                outcome: outcome.word().to_owned(),
                queries,
            })
            .collect()
    }

    async fn flows(&self, filter: FlowFilter) -> Result<Answer, ApiError> {
        let flows = self.ask(|reply| Inspect::Flows(filter, reply)).await?;
        Ok(Answer::Flows(flows))
    }

    async fn explain(&self, name: &str, from: Option<&str>) -> Result<Answer, ApiError> {
        let snapshot = self.snapshot.load_full();
        let caller = caller(&snapshot, from)?;
        let resolved = resolve(name, &caller, &snapshot)
            .map_err(|error| ApiError::new(code_of(&error), error.to_string()))?;
        let service = snapshot.service(resolved.service);
        let query = ExplainQuery {
            service: service.name.clone(),
            policies: vec![Policy::RoundRobin, Policy::Closest],
        };
        let policies: Vec<PolicyExplanation> =
            self.ask(|reply| Inspect::Explain(query, reply)).await?;
        Ok(Answer::Explanation(Explanation {
            name: resolved.canonical,
            service: service.name.to_string(),
            policy: resolved.policy.word().to_owned(),
            instance: resolved
                .instance
                .map(|index| snapshot.instance(index).id.to_string()),
            addresses: resolved.addresses.iter().collect(),
            policies,
        }))
    }

    async fn attach(&self, attachment: &Attachment) -> Result<Answer, ApiError> {
        let wrong = |error| ApiError::new(ErrorCode::BadRequest, error);
        let instance = attachment.check().map_err(wrong)?;
        let report = self
            .host(|reply| Hosting::Attach(instance, reply))
            .await??;
        Ok(Answer::Attached(Box::new(report)))
    }

    async fn detach(&self, instance: &str, generation: Option<u64>) -> Result<Answer, ApiError> {
        let wrong = |error| ApiError::new(ErrorCode::BadRequest, format!("instance: {error}"));
        let instance = instance.parse().map_err(wrong)?;
        let detached = self
            .host(|reply| Hosting::Detach(instance, generation, reply))
            .await??;
        Ok(Answer::Detached(detached))
    }

    async fn bench(&self, peer: &str, seconds: u32) -> Result<Answer, ApiError> {
        let wrong = |error| ApiError::new(ErrorCode::BadRequest, format!("peer: {error}"));
        let peer = peer.parse().map_err(wrong)?;
        let offer = self
            .host(|reply| Hosting::Bench(peer, seconds, reply))
            .await??;
        Ok(Answer::Bench(Box::new(offer)))
    }

    async fn echo(&self, echo: Echo, timeout_ms: u32) -> Result<Answer, ApiError> {
        let Some(userspace) = &self.userspace else {
            let message = "this node has a TUN: programs send echos themselves";
            return Err(ApiError::new(ErrorCode::Conflict, message));
        };
        let (reply, answer) = Reply::channel();
        userspace.send_echo(echo, reply);
        let limit = Duration::from_millis(timeout_ms.into()).min(ECHO_TIMEOUT);
        let report = tokio::time::timeout(limit, answer).await;
        // Nobody answers what was not sent either.
        Ok(Answer::Echo(
            report.ok().and_then(Result::ok).unwrap_or_default(),
        ))
    }

    async fn host<T>(&self, request: impl FnOnce(Reply<T>) -> Hosting) -> Result<T, ApiError> {
        let (reply, answer): (_, oneshot::Receiver<T>) = Reply::channel();
        let unavailable = || ApiError::new(ErrorCode::Unavailable, "the daemon is stopping");
        self.host
            .submit(request(reply))
            .map_err(|Unavailable| unavailable())?;
        let busy = "the daemon takes too long; what was asked for may still happen";
        tokio::time::timeout(HOSTING_TIMEOUT, answer)
            .await
            .map_err(|_| ApiError::new(ErrorCode::Unavailable, busy))?
            .map_err(|_| unavailable())
    }

    async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Inspect) -> Result<T, ApiError> {
        let (reply, answer): (_, oneshot::Receiver<T>) = Reply::channel();
        let unavailable = |what: &str| ApiError::new(ErrorCode::Unavailable, what);
        self.inspector
            .submit(question(reply))
            .map_err(|error| unavailable(&error.to_string()))?;
        tokio::time::timeout(INSPECT_TIMEOUT, answer)
            .await
            .map_err(|_| unavailable("the packet thread takes too long to answer"))?
            .map_err(|_| unavailable("the packet thread has no answer"))
    }
}

/// On whose behalf a name is looked up: a local instance, or the node itself.
fn caller(snapshot: &Snapshot, from: Option<&str>) -> Result<Caller, ApiError> {
    let not_found = |message: String| ApiError::new(ErrorCode::NotFound, message);
    let Some(from) = from else {
        let ip = node_addresses(snapshot).next();
        let ip = ip.ok_or_else(|| not_found("the table has no row for this node".to_owned()))?;
        return Ok(Caller { ip });
    };
    let local: Vec<_> = local_instances(snapshot).collect();
    let found = local
        .iter()
        .find(|instance| instance.id.to_string() == from)
        .and_then(|instance| instance.instance_ip.iter().next());
    let ip = found.ok_or_else(|| {
        let names: Vec<String> = local
            .iter()
            .map(|instance| instance.id.to_string())
            .collect();
        not_found(format!(
            "this node has no instance {from:?}; it has {}",
            names.join(", ")
        ))
    })?;
    Ok(Caller { ip })
}

fn local_instances(snapshot: &Snapshot) -> impl Iterator<Item = &Instance> {
    let instances = snapshot.instances().map(|(_, instance)| instance);
    instances.filter(|instance| instance.host == Host::Local)
}

fn node_addresses(snapshot: &Snapshot) -> impl Iterator<Item = IpAddr> + '_ {
    let owners = snapshot.local_addresses().iter().copied();
    owners.filter(|ip| {
        snapshot
            .owner(*ip)
            .is_some_and(|owner| owner.instance.is_none())
    })
}

fn code_of(error: &NotResolved) -> ErrorCode {
    match error {
        NotResolved::UnknownCaller(_)
        | NotResolved::UnknownService { .. }
        | NotResolved::UnknownInstance { .. } => ErrorCode::NotFound,
        NotResolved::Name(_) | NotResolved::NoApplication { .. } => ErrorCode::BadRequest,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
