//! Root, a cluster and a worker with everything real but the overlay: they join, one SLA runs as a
//! process, and every one of them may be away for a while.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use orchestrator::roles::{self, RunningCluster, RunningRoot};
use orchestrator_core::root::{Command, Instance, Scope};
use orchestrator_core::sla::{self, ApplicationDraft};
use weald_proto::addr::Pools;
use weald_proto::control::{Phase, Standing};
use weald_proto::id::Organisation;
use weald_proto::join::JoinRole;
use weald_proto::name::Zone;

use site::{ONCE, cluster_options, join, label, root_options, worker_options};

#[path = "site/start.rs"]
mod site;

const SOON: Duration = Duration::from_secs(20);

fn acme() -> Organisation {
    Organisation(label("acme"))
}

/// An application `shop.prod` with one service that runs `command` in a shell.
fn draft(command: &str) -> ApplicationDraft {
    let text = serde_json::json!({
        "sla_version": "v2.0", "customerID": "admin",
        "applications": [{
            "applicationID": "", "application_name": "shop", "application_namespace": "prod",
            "application_desc": "", "microservices": [{
                "microserviceID": "", "microservice_name": "web",
                "microservice_namespace": "prod", "virtualization": "process",
                "code": "/bin/sh", "cmd": ["/bin/sh", "-c", command],
                "memory": 50, "vcpus": 0, "storage": 0,
            }],
        }],
    });
    let context = sla::Context {
        pools: &Pools::default(),
        zones: &Zone::defaults(),
        organisation: &acme(),
        application: None,
    };
    sla::check_value(&text, context).unwrap().pop().unwrap()
}

async fn start_root(folder: &Path) -> RunningRoot {
    roles::root(&root_options(folder)).await.unwrap()
}

fn start_cluster(folder: &Path) -> RunningCluster {
    roles::cluster(&cluster_options(folder)).unwrap()
}

/// Asks again until the answer is there.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(since.elapsed() < SOON, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn instance(root: &RunningRoot) -> Option<Instance> {
    let look = |root: &orchestrator_core::root::Root, _| root.instances().next().cloned();
    root.handle.look(look).await.unwrap()
}

async fn node_stands(root: &RunningRoot, wanted: Standing) -> bool {
    let look = move |root: &orchestrator_core::root::Root, _| {
        let mut nodes = root.clusters().flat_map(|(_, _, _, nodes)| nodes.to_vec());
        nodes.any(|node| node.standing == wanted)
    };
    root.handle.look(look).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sla_runs_as_a_process() {
    let folder = tempfile::tempdir().unwrap();
    let [root_folder, cluster_folder, worker_folder] =
        ["root", "cluster", "worker"].map(|name| folder.path().join(name));
    let root = start_root(&root_folder).await;
    let token = root.invite(label("munich"), ONCE).unwrap();
    join(&token, None, &cluster_folder, &root.control)
        .await
        .unwrap();
    // A token of one use is used up by another key.
    let other = folder.path().join("other");
    let refused = join(&token, None, &other, &root.control).await.unwrap_err();
    assert!(refused.to_string().contains("not let in"), "{refused:#}");

    let cluster = start_cluster(&cluster_folder);
    let token = cluster.inviter().invite(JoinRole::Worker, ONCE).unwrap();
    join(&token, Some("a1"), &worker_folder, &cluster.control)
        .await
        .unwrap();
    let worker = roles::worker(&worker_options(&worker_folder)).unwrap();
    until("the node is alive", || async {
        node_stands(&root, Standing::Alive).await.then_some(())
    })
    .await;

    let mark = folder.path().join("mark");
    let command = format!("echo ready; echo $$ >> {}; exec sleep 1000", mark.display());
    let apply = Command::Apply(draft(&command), acme());
    let done = root.handle.command(apply, Scope::All).await.unwrap();
    let service = done.services[0].clone();
    let deploy = Command::Deploy(service.clone());
    let done = root.handle.command(deploy, Scope::All).await.unwrap();
    let id = done.instances[0].clone();
    let running = |root| async move {
        instance(root)
            .await
            .filter(|instance| instance.phase() == Phase::Running)
    };
    let known = until("the instance runs", || running(&root)).await;
    assert_eq!(known.node.unwrap().to_string(), "munich/a1");
    assert!(known.instance_ip.v4.is_some());
    let lines = until("the log is there", || async {
        let lines = root.handle.logs(id.clone(), 10).await;
        lines.ok().filter(|lines| !lines.is_empty())
    })
    .await;
    assert_eq!(lines, ["ready"]);

    let undeploy = Command::Undeploy(service, None);
    root.handle.command(undeploy, Scope::All).await.unwrap();
    until("the instance is gone", || async {
        instance(&root).await.is_none().then_some(())
    })
    .await;
    let pid = std::fs::read_to_string(&mark).unwrap();
    assert_eq!(pid.lines().count(), 1, "started once: {pid}");
    assert!(!Path::new("/proc").join(pid.trim()).exists());
    drop(worker);
}
