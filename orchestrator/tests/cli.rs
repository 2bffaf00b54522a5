//! The commands that ask root, as a user types them: the real program against a root with a cluster
//! and a worker. The roles themselves are `roles`'.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use orchestrator::roles::{
    self, ClusterOptions, RootOptions, RunningCluster, RunningRoot, RunningWorker, WorkerOptions,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weald_proto::id::Organisation;

use start::{any, cluster_options, join_munich, join_worker, label, root_options, worker_options};

#[path = "site/start.rs"]
mod start;
#[path = "cli/tokens.rs"]
mod tokens;

const WEALD: &str = env!("CARGO_BIN_EXE_weald");
const SOON: Duration = Duration::from_secs(20);
/// How soon the revoked must be cut.
const CUT: Duration = Duration::from_secs(5);
const PASSWORD: &str = "a password of some length";

/// Root, cluster `munich` and node `munich/a1`.
struct Site {
    root: RunningRoot,
    cluster: RunningCluster,
    worker: RunningWorker,
}

async fn start(folder: &Path) -> Site {
    let [own, of_cluster, of_worker] = ["root", "cluster", "worker"].map(|name| folder.join(name));
    let options = RootOptions {
        owner: Organisation(label("root")),
        ..root_options(&own)
    };
    let root = roles::root(&options).await.unwrap();
    join_munich(&root, &of_cluster).await;
    let cluster = roles::cluster(&ClusterOptions {
        metrics: Some(any()),
        ..cluster_options(&of_cluster)
    })
    .unwrap();
    join_worker(&cluster, "a1", &of_worker).await;
    let worker = roles::worker(&WorkerOptions {
        metrics: Some(any()),
        ..worker_options(&of_worker)
    })
    .unwrap();
    Site {
        root,
        cluster,
        worker,
    }
}

/// What a command has said.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }
}

/// A user with a session of its own.
struct User(PathBuf);

impl User {
    /// Runs `weald` with words and a standard input.
    async fn types(&self, words: &[&str], input: &str) -> Said {
        let mut command = tokio::process::Command::new(WEALD);
        command.args(words).env("WEALD_SESSION", &self.0);
        command.env_remove("WEALD_PASSWORD");
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // One that wants no input may have closed it.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        Said {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    async fn weald(&self, words: &[&str]) -> Said {
        self.types(words, "").await
    }

    /// Types it again until the answer is as wanted.
    async fn until(&self, words: &[&str], wanted: impl Fn(&Said) -> bool) -> Said {
        let since = Instant::now();
        loop {
            let said = self.weald(words).await;
            if wanted(&said) {
                return said;
            }
            assert!(since.elapsed() < SOON, "{words:?}: {said:?}");
        }
    }
}

fn sla(folder: &Path, name: &str, service: &Value) -> String {
    let file = folder.join(name);
    let text = json!({
        "sla_version": "v2.0", "customerID": "admin",
        "applications": [{
            "applicationID": "", "application_name": "shop", "application_namespace": "prod",
            "application_desc": "a shop", "microservices": [service],
        }],
    });
    std::fs::write(&file, text.to_string()).unwrap();
    file.display().to_string()
}

fn service(name: &str, command: &[&str], memory: u32) -> Value {
    json!({
        "microserviceID": "", "microservice_name": name, "microservice_namespace": "prod",
        "virtualization": "process", "code": command[0], "cmd": command,
        "memory": memory, "vcpus": 0, "storage": 0,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_deploys_looks_and_removes() {
    let folder = tempfile::tempdir().unwrap();
    let site = start(folder.path()).await;
    let root = format!("http://{}", site.root.api);
    let user = User(folder.path().join("session.json"));
    log_in(&user, &root, site.root.first_secret.as_deref().unwrap()).await;
    let ls = ["node", "ls", "--json"];
    let nodes = user.until(&ls, |it| it.out.contains("\"alive\"")).await;
    assert_eq!(nodes.json()[0]["name"], "munich/a1");

    // It says something and is then `/bin/sleep`.
    let command = ["/bin/sh", "-c", "echo ready; exec /bin/sleep 1000"];
    let file = sla(folder.path(), "sla.json", &service("web", &command, 50));
    let applied = user.weald(&["app", "apply", &file, "--json"]).await.json();
    assert_eq!(applied["instances"], json!([]));
    let applied = user
        .weald(&["app", "apply", &file, "--deploy", "1", "--json"])
        .await;
    let applied = applied.json();
    assert_eq!(applied["made"], json!(["shop.prod.web.prod.0"]));
    assert_eq!(applied["instances"][0]["status"], "RUNNING");
    looks(&user).await;
    figures(&site).await;

    let scale = ["service", "scale", "shop.prod.web.prod"];
    let two = user
        .weald(&[&scale[..], &["2", "--json"]].concat())
        .await
        .json();
    assert_eq!(two["instances"].as_array().unwrap().len(), 2);
    assert_eq!(two["made"], json!(["shop.prod.web.prod.1"]));
    let one = user.weald(&[&scale[..], &["1"]].concat()).await;
    assert!(one.out.contains("shop.prod.web.prod.0  RUNNING"), "{one:?}");
    wrong(&user, folder.path()).await;
    deaf(&user, folder.path()).await;

    let deleted = user
        .weald(&["app", "delete", "shop.prod", "--json"])
        .await
        .json();
    assert_eq!(deleted["name"], "shop.prod");
    assert_eq!(user.weald(&["app", "get", "shop.prod"]).await.code, 4);
    let gone = |it: &Said| it.json()["instances"] == json!({});
    user.until(&["status", "--json"], gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_node_and_a_revoked_cluster_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let site = start(folder.path()).await;
    let root = format!("http://{}", site.root.api);
    let user = User(folder.path().join("session.json"));
    log_in(&user, &root, site.root.first_secret.as_deref().unwrap()).await;
    let nodes = ["node", "ls", "--json"];
    user.until(&nodes, |it| it.out.contains("\"alive\"")).await;
    let none = user.weald(&["revoke", "ls"]).await;
    assert_eq!(none.out, "KIND  REVOKED\n", "{none:?}");
    let said = user.weald(&["revoke", "node", "munich/a2"]).await;
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("no node munich/a2"), "{said:?}");

    let links = |text: &str| text.contains("weald_links_up{peer=\"worker\"} 0");
    let since = Instant::now();
    let said = user.weald(&["revoke", "node", "munich/a1"]).await;
    assert_eq!(said.out, "node munich/a1 is revoked\n", "{said:?}");
    while !links(&scrape(site.cluster.metrics.as_ref().unwrap().address()).await) {
        assert!(since.elapsed() < CUT, "the worker is connected still");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // It dials again and again, and is let in no more.
    user.until(&nodes, |it| it.out.contains("\"dead\"")).await;
    let list = user.weald(&["revoke", "ls", "--json"]).await.json();
    assert_eq!(list["keys"].as_array().unwrap().len(), 1);

    let since = Instant::now();
    let list = user.weald(&["revoke", "cluster", "munich", "--json"]).await;
    assert_eq!(list.json()["keys"].as_array().unwrap().len(), 2);
    let up = "weald_links_up{peer=\"root\"} 0";
    while !scrape(site.cluster.metrics.as_ref().unwrap().address())
        .await
        .contains(up)
    {
        assert!(since.elapsed() < CUT, "the cluster is connected still");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let clusters = ["cluster", "ls", "--json"];
    user.until(&clusters, |it| it.out.contains("\"dead\""))
        .await;
}

/// With the secret, with the password, and with an access token that is over.
async fn log_in(user: &User, root: &str, secret: &str) {
    let none = user.weald(&["status"]).await;
    assert_eq!(none.code, 1, "{none:?}");
    assert!(none.err.contains("weald login"), "{none:?}");
    let login = ["login", "--root", root, "--json"];
    let typed = format!("{PASSWORD}\n");
    let first = [&login[..], &["--secret", secret]].concat();
    let said = user.types(&first, &typed).await.json();
    assert_eq!(
        (&said["user"], &said["root"]),
        (&json!("admin"), &json!(root))
    );
    // The secret is used up.
    let again = user.types(&first, &typed).await;
    assert_eq!(again.code, 1, "{again:?}");
    let wrong = user.types(&login, "another\n").await;
    assert!(
        wrong.err.contains("wrong user name or password"),
        "{wrong:?}"
    );
    assert_eq!(user.types(&login, "").await.code, 2);
    assert_eq!(user.types(&login, &typed).await.code, 0);

    let mut session: Value = serde_json::from_slice(&std::fs::read(&user.0).unwrap()).unwrap();
    session["token"] = "over".into();
    std::fs::write(&user.0, session.to_string()).unwrap();
    let status = user.weald(&["status", "--json"]).await.json();
    assert_eq!(status["applications"], 0);
    let kept = std::fs::read_to_string(&user.0).unwrap();
    assert!(!kept.contains("\"over\""), "the new token is kept");
}

/// What one sees of one instance that runs.
async fn looks(user: &User) {
    let all = user.weald(&["app", "get"]).await;
    assert!(all.out.contains("shop.prod"), "{all:?}");
    assert!(all.out.contains("1/1"), "{all:?}");
    let one = user
        .weald(&["app", "get", "shop.prod", "--json"])
        .await
        .json();
    assert_eq!(one[0]["services"][0]["name"], "shop.prod.web.prod");
    assert_eq!(one[0]["services"][0]["instances"][0]["node"], "munich/a1");
    let table = user.weald(&["app", "get", "shop.prod"]).await;
    assert!(table.out.contains("munich/a1"), "{table:?}");
    let why = user.weald(&["explain", "shop.prod.web.prod.0"]).await;
    assert!(why.out.contains("taken by"), "{why:?}");
    let told = user
        .weald(&["explain", "shop.prod.web.prod.0", "--json"])
        .await
        .json();
    assert_eq!(told["instance"], "shop.prod.web.prod.0");
    assert!(
        told["text"].as_str().unwrap().contains("taken by munich"),
        "{told}"
    );
    assert_eq!(told.as_object().unwrap().len(), 2, "{told}");
    let logs = ["app", "logs", "shop.prod.web.prod.0", "--lines", "5"];
    let logs = user.until(&logs, |it| !it.out.is_empty()).await;
    assert_eq!(logs.out, "ready\n");
    let logs = user
        .weald(&["app", "logs", "shop.prod.web.prod.0", "--json"])
        .await
        .json();
    assert_eq!(logs, json!({ "lines": ["ready"] }));
    let status = user.weald(&["status"]).await;
    assert!(status.out.contains("1: 1 RUNNING"), "{status:?}");
    let nodes = user.weald(&["node", "ls"]).await;
    assert!(nodes.out.contains("munich/a1  alive"), "{nodes:?}");
    let clusters = user.weald(&["cluster", "ls", "--json"]).await.json();
    assert_eq!(clusters[0]["name"], "munich");
    assert_eq!(clusters[0]["standing"], "alive");
    let clusters = user.weald(&["cluster", "ls"]).await;
    assert!(clusters.out.contains("munich"), "{clusters:?}");
}

/// What Prometheus reads of a cluster and a worker that run one instance.
async fn figures(site: &Site) {
    let cluster = scrape(site.cluster.metrics.as_ref().unwrap().address()).await;
    let worker = scrape(site.worker.metrics.as_ref().unwrap().address()).await;
    let is = |text: &str, line: &str| {
        assert!(text.lines().any(|it| it == line), "{line}: {text}");
    };
    let more_than_none = |text: &str, name: &str| {
        let line = text.lines().find_map(|it| it.strip_prefix(name));
        let value: f64 = line.unwrap().trim().parse().unwrap();
        assert!(value > 0.0, "{name}: {text}");
    };
    is(&cluster, "weald_nodes{standing=\"alive\"} 1");
    is(&cluster, "weald_nodes{standing=\"suspect\"} 0");
    is(&cluster, "weald_nodes{standing=\"dead\"} 0");
    is(&cluster, "weald_links_up{peer=\"root\"} 1");
    is(&cluster, "weald_links_up{peer=\"worker\"} 1");
    is(&cluster, "weald_links_up{peer=\"netmanager\"} 0");
    more_than_none(&cluster, "weald_heartbeats_received_total");
    more_than_none(&cluster, "weald_addresses_assigned");
    is(&worker, "weald_links_up{peer=\"cluster\"} 1");
    for text in [&cluster, &worker] {
        is(text, "weald_instances{phase=\"RUNNING\"} 1");
        is(text, "weald_instances{phase=\"FAILED\"} 0");
        more_than_none(text, "weald_heartbeats_sent_total");
        more_than_none(text, "weald_commits_total");
        more_than_none(text, "weald_commit_seconds_total");
    }
    more_than_none(&cluster, "weald_messages_sent_total{peer=\"worker\"}");
    more_than_none(&worker, "weald_messages_received_total{peer=\"cluster\"}");
}

async fn scrape(address: std::net::SocketAddr) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// One that cannot be started has failed, and the next that is deployed takes its place.
async fn recovers(user: &User, folder: &Path) {
    let program = folder.join("program");
    let repaired = service("repaired", &[program.to_str().unwrap()], 1);
    let file = sla(folder, "repaired.json", &repaired);
    let deploy = ["app", "apply", &file, "--deploy", "1"];
    let said = user.weald(&deploy).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("1 of 1 instances failed"), "{said:?}");
    assert!(
        said.err
            .contains("is FAILED on munich/a1: there is no file"),
        "the reason: {said:?}"
    );

    // By renaming: a file that is still open for writing cannot be run.
    let draft = folder.join("draft");
    std::fs::write(&draft, "#!/bin/sh\nexec /bin/sleep 1000\n").unwrap();
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&draft, &program).unwrap();
    let again = [&deploy[..], &["--json"]].concat();
    let again = user.weald(&again).await.json();
    assert_eq!(again["made"], json!(["shop.prod.repaired.prod.1"]));
    let only = again["instances"].as_array().unwrap();
    assert_eq!(only.len(), 1, "{only:?}");
    assert_eq!(only[0]["status"], "RUNNING");
    let scale = ["service", "scale", "shop.prod.repaired.prod", "0"];
    assert_eq!(user.weald(&scale).await.code, 0);
}

/// One that runs and does not listen where its SLA says: what is so, where, and what to do.
async fn deaf(user: &User, folder: &Path) {
    // Nobody listens at a port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut deaf = service("deaf", &["/bin/sleep", "1000"], 1);
    deaf["port"] = format!("{port}:{port}").into();
    let file = sla(folder, "deaf.json", &deaf);
    let deploy = ["app", "apply", &file, "--deploy", "1", "--no-wait"];
    let said = user.weald(&deploy).await;
    assert_eq!(said.code, 0, "{said:?}");
    let name = "shop.prod.deaf.prod.0";
    let why = format!(
        "it runs, and after 10 s does not listen on TCP port {port}; have it listen there, or leave \
         the port out of the SLA: until then nobody is led to it"
    );
    let line = format!("{name} is CREATING on munich/a1: {why}");
    let explained = user
        .until(&["explain", name], |it| it.out.contains("does not listen"))
        .await;
    assert_eq!(explained.out.lines().next(), Some(&line[..]));
    let status = user.weald(&["status"]).await;
    assert!(status.out.lines().any(|it| it == line), "{status:?}");
    let shown = user.weald(&["app", "get", "shop.prod"]).await;
    assert!(shown.out.contains(&why), "{shown:?}");
    let scale = ["service", "scale", "shop.prod.deaf.prod", "0"];
    assert_eq!(user.weald(&scale).await.code, 0);
}

/// Wrong uses, each with its exit code and what it says.
async fn wrong(user: &User, folder: &Path) {
    let mut bad = service("Web!", &["/bin/sleep", "1"], 1);
    bad["memory"] = "much".into();
    let file = sla(folder, "bad.json", &bad);
    let said = user.weald(&["app", "apply", &file]).await;
    assert_eq!(said.code, 1, "{said:?}");
    let faults = said
        .err
        .lines()
        .filter(|it| it.starts_with("  $.applications[0]"));
    assert_eq!(faults.count(), 2, "{said:?}");
    let said = user.weald(&["app", "apply", &file, "--json"]).await;
    let error: Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(error["error"]["status"], 422);

    // One that fits nowhere is told at once, or waits if that is wanted.
    let large = service("large", &["/bin/sleep", "1"], 100_000);
    let file = sla(folder, "large.json", &large);
    let deploy = ["app", "apply", &file, "--deploy", "1"];
    let said = user.weald(&deploy).await;
    assert_eq!(said.code, 5, "{said:?}");
    assert!(
        said.err.contains("1 of 1 instances fit nowhere"),
        "{said:?}"
    );
    assert!(said.err.contains("--wait"), "{said:?}");
    assert!(said.err.contains("100000 needed"), "the reasons: {said:?}");
    let said = user.weald(&[&deploy[..], &["--json"]].concat()).await;
    let error: Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(
        (said.code, &error["error"]["code"]),
        (5, &json!("fits_nowhere"))
    );
    let said = user
        .weald(&[&deploy[..], &["--wait", "--timeout", "2"]].concat())
        .await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.err.contains("after 2 s, 0 of 1 instances run"),
        "{said:?}"
    );
    assert!(said.err.contains("100000 needed"), "the reasons: {said:?}");
    recovers(user, folder).await;

    for words in [
        &["explain", "shop.prod.web.prod.7"][..],
        &["explain", "a/../b"],
        &["app", "logs", "shop.prod.web.prod.7"],
        &["app", "delete", "nothing.here"],
        &["service", "scale", "shop.prod.none.prod", "1"],
    ] {
        let said = user.weald(words).await;
        assert_eq!(said.code, 4, "{words:?}: {said:?}");
        assert!(said.err.contains("there is no"), "{said:?}");
    }
    let said = user.weald(&["app", "aply"]).await;
    assert_eq!(said.code, 2, "{said:?}");
    // Nobody is at port 1.
    let said = user
        .types(&["login", "--root", "http://127.0.0.1:1"], "x\n")
        .await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("weald root"), "{said:?}");
}
