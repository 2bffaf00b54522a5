//! The process of a worker.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use quinn::Endpoint;
use tokio::sync::mpsc::unbounded_channel;
use weald_metrics::Port;
use weald_proto::control::{CLUSTER_ALPN, NodeCapacity, WorkerToCluster};
use weald_proto::id::Identity;
use weald_proto::spec::{Resources, Runtime as RuntimeKind};
use weald_trust::renewal::Renewal;
use weald_trust::tls::Credentials;

use crate::link;
use crate::metrics::{self, Counted};
use crate::renewal;
use crate::runtime::cgroup::Cgroups;
use crate::runtime::process::{Config, ProcessRuntime};
use crate::store::SqliteStore;
use crate::worker::{self, Parts, Thread, WorkerHandle, load};

/// What a worker is started with.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Its folder, in which it has joined.
    pub folder: PathBuf,
    /// Where its cluster is; empty for what joining has kept.
    pub cluster: Vec<String>,
    /// The netmanager's socket; none for instances on the host's own network.
    pub netmanager: Option<PathBuf>,
    /// What instances may have together, where it is not all of the machine.
    pub offer: Option<Resources>,
    /// The program that supervises an instance; none for this program itself.
    pub supervisor: Option<PathBuf>,
    /// Where figures are read, on loopback; none for nowhere.
    pub metrics: Option<SocketAddr>,
}

/// A worker that runs.
#[derive(Debug)]
pub struct RunningWorker {
    /// Tells it what happens.
    pub handle: WorkerHandle,
    /// Where figures are read, if anywhere, until this is dropped.
    pub metrics: Option<Port>,
    /// Ends when the machine does.
    pub thread: Thread,
}

/// Starts a worker on the present tokio runtime.
///
/// # Errors
/// Its folder cannot be used, or the machine lacks something.
pub fn worker(options: &WorkerOptions) -> anyhow::Result<RunningWorker> {
    let own = Credentials::load(&options.folder).context("join first")?;
    let Identity::Node(node) = own.identity().clone() else {
        bail!("the certificate is of {}, not of a node", own.identity());
    };
    let cluster = super::upper(&options.folder, &options.cluster)?;
    let store = Box::new(SqliteStore::open(
        &options.folder,
        &format!("worker {node}"),
    )?);
    let total = match options.offer {
        Some(offer) => offer,
        None => load::total()?,
    };
    let cgroups = Cgroups::find(None).context("cannot find this machine's cgroups")?;
    for shortcoming in cgroups.shortcomings() {
        tracing::warn!("{shortcoming}");
    }
    let (sender, events) = unbounded_channel();
    let mut config = Config::new(options.folder.join("instances"), cgroups);
    if let Some(supervisor) = &options.supervisor {
        config.supervisor.clone_from(supervisor);
    }
    let runtime = ProcessRuntime::open(config, sender).context("cannot run processes")?;
    let parts = Parts {
        node: node.clone(),
        capacity: NodeCapacity {
            total,
            runtimes: vec![RuntimeKind::Process],
            addons: Vec::new(),
            place: None,
        },
        runtime: Arc::new(runtime),
        events,
        netmanager: options.netmanager.clone(),
    };
    let store = Counted::new(store);
    let commits = store.commits();
    let (handle, line, thread) = worker::start(parts, Box::new(store))?;
    let (told, seen) = (handle.clone(), Arc::clone(&line));
    let figures = move || {
        let (told, seen, commits) = (told.clone(), Arc::clone(&seen), Arc::clone(&commits));
        async move { Some(worker::figures(&told, &seen).await?.text(&commits)) }
    };
    let metrics = options.metrics.map(|at| metrics::serve(at, figures));
    let metrics = metrics.transpose()?;
    let endpoint = Endpoint::client((Ipv6Addr::UNSPECIFIED, 0).into())?;
    let told = handle.clone();
    let renewal = Renewal::new(own.clone(), options.folder.clone());
    let (kept, said) = (renewal.clone(), Arc::clone(&line));
    tokio::spawn(async move {
        let ask = |request| said.say(&WorkerToCluster::Renew(request));
        renewal::keep_member(&kept, ask).await;
    });
    tokio::spawn(async move {
        let config = || {
            let upper = Identity::Control(node.cluster.clone());
            let crypto = own.client_config(&upper, CLUSTER_ALPN)?;
            Ok(link::client_config(crypto))
        };
        worker::talk_to_cluster(&endpoint, &cluster, config, &told, (&line, &renewal)).await;
    });
    Ok(RunningWorker {
        handle,
        metrics,
        thread,
    })
}
