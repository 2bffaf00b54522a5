//! Root, a cluster and a worker that runs one instance, and all of them that a stranger might change.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orchestrator::roles::{self, RunningCluster, RunningRoot, RunningWorker};
use orchestrator_core::cluster::Cluster;
use orchestrator_core::root::{Command, Root, Scope};
use orchestrator_core::worker::Worker;
use serde_json::Value;
use weald_proto::control::{InstanceReport, Phase, Standing};
use weald_proto::id::{Identity, NodeId};
use weald_proto::name::InstanceId;
use weald_trust::pki::folder::{load_cluster, load_root};
use weald_trust::pki::{ClusterAuthority, RootAuthority};

use super::shop::{acme, draft};
use super::start::{
    cluster_options, join_munich, join_worker, label, root_options, worker_options,
};

pub(super) const SOON: Duration = Duration::from_secs(20);

pub(super) fn node(cluster: &str, name: &str) -> Identity {
    Identity::Node(NodeId::new(label(cluster), label(name)))
}

pub(super) fn control(cluster: &str) -> Identity {
    Identity::Control(label(cluster))
}

/// Root, cluster `munich` and node `munich/a1`, which runs one instance.
pub(super) struct Site {
    pub(super) root: RunningRoot,
    pub(super) cluster: RunningCluster,
    pub(super) worker: RunningWorker,
    pub(super) instance: InstanceId,
    pub(super) folder: tempfile::TempDir,
}

impl Site {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [own, of_cluster, of_worker] =
            ["root", "cluster", "worker"].map(|name| folder.path().join(name));
        let root = roles::root(&root_options(&own)).await.unwrap();
        join_munich(&root, &of_cluster).await;
        let cluster = roles::cluster(&cluster_options(&of_cluster)).unwrap();
        join_worker(&cluster, "a1", &of_worker).await;
        let worker = roles::worker(&worker_options(&of_worker)).unwrap();
        let instance = deploy(&root).await;
        let site = Self {
            root,
            cluster,
            worker,
            instance,
            folder,
        };
        site.honest_traffic_flows().await;
        site
    }

    /// The log of the instance is read by root, by way of its cluster and its worker.
    pub(super) async fn honest_traffic_flows(&self) {
        let since = Instant::now();
        loop {
            match self.root.handle.logs(self.instance.clone(), 10).await {
                Ok(lines) if lines == ["ready"] => return,
                other => assert!(since.elapsed() < SOON, "{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All that strangers might change.
    pub(super) async fn shown(&self) -> Seen {
        let look = |root: &Root, _| {
            let clusters: Vec<_> = root
                .clusters()
                .map(|(state, standing, _, nodes)| {
                    let nodes: Vec<_> = nodes.iter().map(|it| (&it.node, it.standing)).collect();
                    format!("{state:?} {standing:?} {nodes:?}")
                })
                .collect();
            let instances: Vec<_> = root
                .instances()
                .map(|it| format!("{} {:?} {:?} {:?}", it.id, it.life, it.cluster, it.node))
                .collect();
            format!("{clusters:#?}\n{instances:#?}")
        };
        let known = self.root.handle.look(look).await.unwrap();
        let look = |cluster: &Cluster, _| {
            let nodes: Vec<_> = cluster
                .node_reports()
                .map(|it| {
                    let lease = cluster.lease(&it.node.name);
                    let lease = lease.map(|it| (it.epoch, it.node_ip, it.instances));
                    format!("{} {:?} {:?} {lease:?}", it.node, it.standing, it.reserved)
                })
                .collect();
            let instances = reported(cluster.instances());
            let addresses: Vec<_> = cluster.owners_of_addresses().collect();
            format!("{nodes:#?}\n{instances:#?}\n{addresses:#?}")
        };
        let of_cluster = self.cluster.handle.look(look).await.unwrap();
        let look = |worker: &Worker| format!("{:#?}", reported(worker.instances()));
        let of_worker = self.worker.handle.look(look).await.unwrap();
        let book = |of: &str| {
            let kept = std::fs::read(self.folder.path().join(of).join("join.json"));
            serde_json::from_slice(&kept.unwrap()).unwrap()
        };
        Seen {
            tiers: format!("{known}\n{of_cluster}\n{of_worker}"),
            of_root: book("root"),
            of_cluster: book("cluster"),
        }
    }

    pub(super) fn root_authority(&self) -> RootAuthority {
        load_root(&self.folder.path().join("root")).unwrap()
    }

    pub(super) fn munich(&self) -> ClusterAuthority {
        load_cluster(&self.folder.path().join("cluster")).unwrap()
    }
}

/// What root, the cluster and the worker know, and who has joined with which token on disk.
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) tiers: String,
    pub(super) of_root: Value,
    pub(super) of_cluster: Value,
}

/// Whoever was told so was told why, and nothing has changed: honest traffic flows, and all that was
/// shown before is so.
pub(super) async fn must_change_nothing(
    site: &Site,
    before: &Seen,
    told: &str,
    (what, text): (&str, &str),
) {
    assert!(told.contains(text), "{what}: {told}");
    site.honest_traffic_flows().await;
    assert_eq!(site.shown().await, *before, "{what}: {text}");
}

/// What a tier says of its instances, without what they use.
fn reported<'a>(instances: impl Iterator<Item = &'a InstanceReport>) -> Vec<String> {
    let said = instances.map(|it| {
        format!(
            "{} {:?} {:?} {:?}",
            it.instance, it.generation, it.phase, it.node
        )
    });
    said.collect()
}

/// Instances outlive their worker: the one of the site is ended with it.
impl Drop for Site {
    fn drop(&mut self) {
        let marker = self.folder.path().to_str().unwrap_or_default();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let is_supervisor = String::from_utf8_lossy(&words).contains(marker);
            if let (true, Ok(pid)) = (is_supervisor, entry.file_name().to_string_lossy().parse()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
    }
}

/// Deploys an instance that says `ready`, and waits until it runs.
async fn deploy(root: &RunningRoot) -> InstanceId {
    let apply = Command::Apply(draft("echo ready; exec sleep 1000"), acme());
    let done = root.handle.command(apply, Scope::All).await.unwrap();
    let service = done.services[0].clone();
    let done = root
        .handle
        .command(Command::Deploy(service), Scope::All)
        .await;
    let id = done.unwrap().instances[0].clone();
    let since = Instant::now();
    loop {
        let look = |root: &Root, _| {
            let alive = root.clusters().all(|(_, standing, _, nodes)| {
                let up = |it: &weald_proto::control::NodeReport| it.standing == Standing::Alive;
                standing == Standing::Alive && !nodes.is_empty() && nodes.iter().all(up)
            });
            alive && root.instances().all(|it| it.phase() == Phase::Running)
        };
        if root.handle.look(look).await.unwrap() {
            return id;
        }
        assert!(since.elapsed() < SOON, "it does not run");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
