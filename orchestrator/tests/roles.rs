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
use orchestrator_core::sla::{ApplicationDraft, Context, check_value};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout};
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
fn sla(command: &str) -> Value {
    json!({
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
    })
}

fn draft(command: &str) -> ApplicationDraft {
    let text = sla(command);
    let context = Context {
        pools: &Pools::default(),
        zones: &Zone::defaults(),
        organisation: &acme(),
        application: None,
    };
    check_value(&text, context).unwrap().pop().unwrap()
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
    let token = root.invite(label("munich"), ONCE).unwrap();
    join(&token, None, &cluster_folder, &root.control)
        .await
        .unwrap();
    // Its worker joins while the cluster is in this process, which then lets go of its folder.
    let joining = std::thread::scope(|scope| {
        let joined = scope.spawn(|| {
            let own = tokio::runtime::Runtime::new().unwrap();
            own.block_on(async {
                let cluster = start_cluster(&cluster_folder);
                let token = cluster.inviter().invite(JoinRole::Worker, ONCE).unwrap();
                join(&token, Some("a1"), &worker_folder, &cluster.control)
                    .await
                    .unwrap();
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
