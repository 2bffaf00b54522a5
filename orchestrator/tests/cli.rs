//! The commands that ask root, as a user types them: the real program against a root with a cluster
//! and a worker. The roles themselves are `roles`'.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use orchestrator::roles::{
    self, ClusterOptions, JoinOptions, RootOptions, RunningCluster, RunningRoot, RunningWorker,
    WorkerOptions,
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use weald_proto::id::{Label, Organisation};
use weald_proto::join::JoinRole;
use weald_proto::spec::Resources;

const WEALD: &str = env!("CARGO_BIN_EXE_weald");
const SOON: Duration = Duration::from_secs(20);
const PASSWORD: &str = "a password of some length";

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

/// Root, cluster `munich` and node `munich/a1`.
struct Site {
    root: RunningRoot,
    _cluster: RunningCluster,
    _worker: RunningWorker,
}

async fn join(token: &str, name: Option<&str>, folder: PathBuf, upper: String) {
    let options = JoinOptions {
        token: token.parse().unwrap(),
        name: name.map(label),
        folder,
        upper: vec![upper],
    };
    roles::join(&options).await.unwrap();
}

async fn start(folder: &Path) -> Site {
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let once = (1, Duration::from_secs(600));
    let root = roles::root(&RootOptions {
        folder: folder.join("root"),
        name: label("main"),
        listen: any,
        join: any,
        advertise: Vec::new(),
        owner: Organisation(label("root")),
        api: any,
        api_tls: None,
        names: Vec::new(),
        compat_login: false,
        renew_secret: false,
    })
    .await
    .unwrap();
    let token = root.invite(label("munich"), once).unwrap();
    let upper = root.control.local_addr().unwrap().to_string();
    join(&token, None, folder.join("cluster"), upper).await;
    let cluster = roles::cluster(&ClusterOptions {
        folder: folder.join("cluster"),
        root: Vec::new(),
        listen: any,
        join: any,
        advertise: Vec::new(),
        relays: Vec::new(),
        place: None,
    })
    .unwrap();
    let token = cluster.inviter().invite(JoinRole::Worker, once).unwrap();
    let upper = cluster.control.local_addr().unwrap().to_string();
    join(&token, Some("a1"), folder.join("worker"), upper).await;
    let worker = roles::worker(&WorkerOptions {
        folder: folder.join("worker"),
        cluster: Vec::new(),
        netmanager: None,
        offer: Some(Resources {
            millicpus: 1000,
            memory_mib: 500,
            ..Resources::default()
        }),
        supervisor: Some(WEALD.into()),
    })
    .unwrap();
    Site {
        root,
        _cluster: cluster,
        _worker: worker,
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

    let deleted = user
        .weald(&["app", "delete", "shop.prod", "--json"])
        .await
        .json();
    assert_eq!(deleted["name"], "shop.prod");
    assert_eq!(user.weald(&["app", "get", "shop.prod"]).await.code, 4);
    let gone = |it: &Said| it.json()["instances"] == json!({});
    user.until(&["status", "--json"], gone).await;
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
    let logs = ["app", "logs", "shop.prod.web.prod.0", "--lines", "5"];
    let logs = user.until(&logs, |it| !it.out.is_empty()).await;
    assert_eq!(logs.out, "ready\n");
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

    // One that fits nowhere waits, one that ends has failed; both say why.
    let large = service("large", &["/bin/sleep", "1"], 100_000);
    let file = sla(folder, "large.json", &large);
    let deploy = ["app", "apply", &file, "--deploy", "1", "--timeout", "2"];
    let said = user.weald(&deploy).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.err.contains("after 2 s, 0 of 1 instances run"),
        "{said:?}"
    );
    assert!(said.err.contains("100000 needed"), "the reasons: {said:?}");
    let fails = service("fails", &["/bin/sh", "-c", "sleep 0.5; exit 3"], 1);
    let file = sla(folder, "fails.json", &fails);
    let wait = ["app", "apply", &file, "--deploy", "1", "--no-wait"];
    assert_eq!(user.weald(&wait).await.code, 0);
    let get = ["app", "get", "shop.prod"];
    user.until(&get, |it| it.out.contains("FAILED")).await;
    let said = user.weald(&["app", "apply", &file, "--deploy", "1"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("1 of 1 instances failed"), "{said:?}");
    assert!(said.err.contains("FAILED: "), "the reason: {said:?}");

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
