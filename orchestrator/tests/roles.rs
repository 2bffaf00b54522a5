//! Root, a cluster and a worker with everything real but the overlay: they join, one SLA runs as a
//! process, and every one of them may be away for a while. What is to be done once is done once,
//! whoever is killed behind it.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use orchestrator::roles::{self, RunningCluster, RunningRoot};
use orchestrator_core::root::{Command, Instance, Scope};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout};
use weald_proto::control::{Phase, Standing};

use shop::{acme, draft, sla};
use start::{cluster_options, join, join_munich, join_worker, root_options, worker_options};

#[path = "site/shop.rs"]
mod shop;
#[path = "site/start.rs"]
mod start;

const SOON: Duration = Duration::from_secs(20);

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
    let token = join_munich(&root, &cluster_folder).await;
    // A token of one use is used up by another key.
    let other = folder.path().join("other");
    let refused = join(&token, None, &other, &root.control).await.unwrap_err();
    assert!(refused.to_string().contains("not let in"), "{refused:#}");

    let cluster = start_cluster(&cluster_folder);
    join_worker(&cluster, "a1", &worker_folder).await;
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

/// A role as a process of its own, which can be killed.
struct Killable {
    child: Child,
    /// Kept open: it may say more.
    _said: Lines<BufReader<ChildStdout>>,
    /// What it said when it was ready.
    ready: Value,
}

impl Killable {
    async fn start(words: &[&str]) -> Self {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_weald"));
        let command = command.args(words).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(SOON, said.next_line()).await;
        let line = line.unwrap().unwrap().unwrap();
        Self {
            child,
            _said: said,
            ready: serde_json::from_str(&line).unwrap(),
        }
    }

    async fn cluster(folder: &Path) -> Self {
        let any = "127.0.0.1:0";
        let folder = folder.to_str().unwrap();
        Self::start(&[
            "cluster", "--folder", folder, "--listen", any, "--join", any,
        ])
        .await
    }

    /// A worker of a cluster that may be elsewhere than before.
    async fn worker(folder: &Path, cluster: &Self) -> Self {
        let at = cluster.ready["control"].as_str().unwrap();
        let folder = folder.to_str().unwrap();
        let own = ["worker", "--folder", folder, "--cluster", at];
        let offer = [
            "--netmanager",
            "none",
            "--millicpus",
            "1000",
            "--memory",
            "500",
        ];
        Self::start(&[&own[..], &offer].concat()).await
    }

    /// It is gone when this returns.
    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Asks root's REST API; the answer is 200 and JSON.
async fn ask(root: SocketAddr, way: &str, token: &str, body: &Value) -> Value {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let text = format!(
        "{way} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(root).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{way}: {answer}");
    serde_json::from_str(body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_be_done_once_is_completed_and_not_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let [root_folder, cluster_folder, worker_folder] =
        ["root", "cluster", "worker"].map(|name| folder.path().join(name));
    let root = start_root(&root_folder).await;
    join_munich(&root, &cluster_folder).await;
    // Its worker joins while the cluster is in this process, which then lets go of its folder.
    let joining = std::thread::scope(|scope| {
        let joined = scope.spawn(|| {
            let own = tokio::runtime::Runtime::new().unwrap();
            own.block_on(async {
                let cluster = start_cluster(&cluster_folder);
                join_worker(&cluster, "a1", &worker_folder).await;
                cluster.thread
            })
        });
        joined.join().unwrap()
    });
    joining.join().unwrap().unwrap();

    let cluster = Killable::cluster(&cluster_folder).await;
    let worker = Killable::worker(&worker_folder, &cluster).await;
    let secret = root.first_secret.clone().unwrap();
    let user =
        json!({"secret": secret, "username": "ada", "password": "a password of some length"});
    let session = ask(root.api, "POST /api/v1/auth/first", "", &user).await;
    let session = session["token"].as_str().unwrap();
    let mark = folder.path().join("mark");
    let command = format!("echo $WEALD_INSTANCE >> {}", mark.display());
    let mut sla = sla(&command);
    sla["customerID"] = json!("ada");
    sla["applications"][0]["microservices"][0]["one_shot"] = json!(true);
    let deploy = async |count: u32| {
        let way = format!("POST /api/v1/apply?deploy={count}");
        ask(root.api, &way, session, &sla).await
    };
    let completed = async |number: u32| {
        let name = format!("shop.prod.web.prod.{number}");
        until("it is completed", || async {
            let all = ask(root.api, "GET /api/v1/instances", session, &Value::Null).await;
            let mut all = all.as_array().unwrap().iter();
            let found = all.find(|it| it["name"] == name.as_str() && it["status"] == "COMPLETED");
            found.cloned()
        })
        .await
    };
    let done = || {
        let text = std::fs::read_to_string(&mark).unwrap();
        let numbers = text.lines().map(|it| it.rsplit('.').next().unwrap());
        numbers.map(|it| it.parse().unwrap()).collect::<Vec<u32>>()
    };
    deploy(1).await;
    let first = completed(0).await;
    assert_eq!(
        (&first["exit_status"], &first["node"]),
        (&json!(0), &json!("munich/a1"))
    );

    // The worker alone, then both. The next one shows that all of them are there again.
    worker.kill().await;
    let worker = Killable::worker(&worker_folder, &cluster).await;
    deploy(2).await;
    completed(1).await;
    assert_eq!(done(), [0, 1]);
    cluster.kill().await;
    worker.kill().await;
    let cluster = Killable::cluster(&cluster_folder).await;
    let _worker = Killable::worker(&worker_folder, &cluster).await;
    deploy(3).await;
    assert_eq!(completed(2).await["exit_status"], 0);
    assert_eq!(done(), [0, 1, 2]);
    // The first is in the life that it was in, and says the same.
    assert_eq!(completed(0).await, first);
}

/// What REST lists of everything that is so, without what is measured anew again and again.
async fn listed(root: SocketAddr, session: &str) -> Vec<Value> {
    const MEASURED: [&str; 6] = [
        "cpu_percent",
        "memory_percent",
        "cpu_history",
        "memory_history",
        "used_memory_mib",
        "last_modified_timestamp",
    ];
    let mut all = Vec::new();
    for path in [
        "/api/applications",
        "/api/services",
        "/api/v1/instances",
        "/api/v1/nodes",
        "/api/v1/clusters",
    ] {
        let mut list = ask(root, &format!("GET {path}"), session, &Value::Null).await;
        forget(&mut list, &MEASURED);
        if path.ends_with("instances") {
            forget(&mut list, &["memory_mib"]);
        }
        all.push(list);
    }
    all
}

/// Takes fields out of a value, at any depth.
fn forget(value: &mut Value, fields: &[&str]) {
    match value {
        Value::Object(all) => {
            all.retain(|name, _| !fields.contains(&name.as_str()));
            all.values_mut().for_each(|it| forget(it, fields));
        }
        Value::Array(all) => all.iter_mut().for_each(|it| forget(it, fields)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What is listed, without the application `vast` and what is its own.
fn without_vast(mut all: Vec<Value>) -> Vec<Value> {
    for list in &mut all {
        let list = list.as_array_mut().unwrap();
        list.retain(|it| {
            let is_its = |field: &str| {
                let name = it[field].as_str().unwrap_or_default();
                name == "vast" || name.starts_with("vast.")
            };
            !["name", "application_name", "app_name"]
                .into_iter()
                .any(is_its)
        });
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_that_nobody_has_are_told_and_nothing_else_changes() {
    let folder = tempfile::tempdir().unwrap();
    let [root_folder, cluster_folder, worker_folder] =
        ["root", "cluster", "worker"].map(|name| folder.path().join(name));
    let root = start_root(&root_folder).await;
    join_munich(&root, &cluster_folder).await;
    let cluster = start_cluster(&cluster_folder);
    join_worker(&cluster, "a1", &worker_folder).await;
    let _worker = roles::worker(&worker_options(&worker_folder)).unwrap();
    let secret = root.first_secret.clone().unwrap();
    let user =
        json!({"secret": secret, "username": "ada", "password": "a password of some length"});
    let session = ask(root.api, "POST /api/v1/auth/first", "", &user).await;
    let session = session["token"].as_str().unwrap();
    let deploy = async |sla: &Value| {
        let way = "POST /api/v1/apply?deploy=1";
        ask(root.api, way, session, sla).await
    };
    let mut small = sla("exec sleep 1000");
    small["customerID"] = json!("ada");
    let shop = deploy(&small).await;
    let before = until("it runs and its cluster says so", || async {
        let all = listed(root.api, session).await;
        let runs = all[2][0]["status"] == "RUNNING" && all[4][0]["free_memory_mib"] == 450;
        runs.then_some(all)
    })
    .await;
    for (what, much, reason) in [
        (
            "memory",
            501,
            "memory (MiB) on one node: 501 needed, 450 free",
        ),
        (
            "memory",
            451,
            "memory (MiB) on one node: 451 needed, 450 free",
        ),
        (
            "vcpus",
            2,
            "processors (1/1000) on one node: 2000 needed, 1000 free",
        ),
        ("vgpus", 1, "1 needed, 0 free"),
        ("storage", 1000, "1000 needed, 0 free"),
    ] {
        let mut vast = small.clone();
        vast["applications"][0]["application_name"] = json!("vast");
        vast["applications"][0]["microservices"][0][what] = json!(much);
        let applied = deploy(&vast).await;
        let name = applied["instances"][0].as_str().unwrap().to_owned();
        until(what, || async {
            let all = ask(root.api, "GET /api/v1/instances", session, &Value::Null).await;
            let mut all = all.as_array().unwrap().iter();
            let found = all.find(|it| it["name"] == name.as_str()).unwrap().clone();
            (found["fits_nowhere"] == true).then_some(())
        })
        .await;
        let why = root.handle.look({
            let id = name.parse().unwrap();
            move |root, now| root.instance(&id).unwrap().history.explain(&id, now)
        });
        let why = why.await.unwrap();
        assert!(why.contains(reason), "{what}: {why}");
        let all = listed(root.api, session).await;
        assert_ne!(all, before, "{what}: it is listed itself");
        assert_eq!(without_vast(all), before, "{what}");
        let delete = format!(
            "DELETE /api/application/{}",
            applied["applications"][0].as_str().unwrap()
        );
        ask(root.api, &delete, session, &Value::Null).await;
        assert_eq!(listed(root.api, session).await, before, "{what}");
    }
    let delete = format!(
        "DELETE /api/application/{}",
        shop["applications"][0].as_str().unwrap()
    );
    ask(root.api, &delete, session, &Value::Null).await;
    until("the instance is gone", || async {
        instance(&root).await.is_none().then_some(())
    })
    .await;
}
