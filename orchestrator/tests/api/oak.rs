//! The real `oak` from PyPI (oak-cli) against root: it logs in, lists clusters, creates and deploys
//! an application, looks at it and deletes it.
//!
//! `WEALD_OAK` names an `oak` that is there; without it one is installed beside the build, once.

use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::process::Command;

use crate::lab::{Lab, settings, sla};

const VERSION: &str = "oak-cli==0.5.5";
/// Its port is fixed, so it gets an address of loopback that nobody else uses.
const ADDRESS: &str = "127.66.10.5";

async fn installed() -> PathBuf {
    if let Some(path) = std::env::var_os("WEALD_OAK") {
        return path.into();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oak-cli");
    let oak = folder.join("bin/oak");
    if !oak.exists() {
        run(
            Path::new("python3"),
            Path::new("/"),
            &["-m", "venv", folder.to_str().unwrap()],
        )
        .await;
        // This may take a minute: it brings ansible with it.
        let pip = folder.join("bin/pip");
        run(&pip, Path::new("/"), &["install", "--quiet", VERSION]).await;
    }
    oak
}

/// Runs a program, whose home is this folder, to its good end; returns what it printed.
async fn run(program: &Path, home: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("HOME", home)
        .env("COLUMNS", "200")
        .env("NO_COLOR", "1")
        .output()
        .await
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && !text.contains("Traceback") && !errors.contains("Traceback"),
        "{} {arguments:?} (set WEALD_OAK if PyPI is out of reach): {text}{errors}",
        program.display()
    );
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_oak_drives_root() {
    let oak = installed().await;
    let mut told = settings();
    told.compat_login = true;
    let address = format!("{ADDRESS}:10000").parse().unwrap();
    let mut lab = Lab::bare_at(told, address).await;
    lab.cluster("munich", "root", None).await;
    let body = json!({"username": "Admin", "password": "Admin"});
    let token = lab.post("/api/auth/login", "", &body).await.json(200);
    lab.ada = token["token"].as_str().unwrap().to_owned();

    let home = tempfile::tempdir().unwrap();
    let oak = async |arguments: &[&str]| run(&oak, home.path(), arguments).await;
    oak(&["version"]).await;
    let setting = [
        "c",
        "key-vars",
        "configure",
        "system_manager_ip",
        "--value",
        ADDRESS,
    ];
    oak(&setting).await;
    let slas = home.path().join("oak_cli/SLAs");
    let mut two = sla("hello", &["web", "db"]);
    two["applications"][0]["microservices"][1]["port"] = json!("");
    std::fs::write(slas.join("hello.json"), two.to_string()).unwrap();

    assert!(oak(&["cl", "list"]).await.contains("munich"));
    let info = oak(&["cl", "info", "munich"]).await;
    assert!(info.contains("munich"), "{info}");
    oak(&["a", "create", "--sla-file-name", "hello", "-d"]).await;
    lab.until("/api/v1/status", |it| {
        it["instances"] == json!({"RUNNING": 2})
    })
    .await;
    let applications = lab.get("/api/applications", &lab.ada).await.json(200);
    let id = applications[0]["applicationID"].as_str().unwrap();
    let shown = oak(&["a", "show", "-v", "detailed"]).await;
    assert!(shown.contains("hello") && shown.contains(id), "{shown}");
    let shown = oak(&["s", "show", id]).await;
    assert!(
        shown.contains("web") && shown.contains("RUNNING"),
        "{shown}"
    );
    let services = lab.get("/api/services", &lab.ada).await.json(200);
    let service = services[0]["microserviceID"].as_str().unwrap();
    let inspected = oak(&["s", "inspect", service]).await;
    assert!(inspected.contains("RUNNING"), "{inspected}");
    oak(&["s", "deploy", service]).await;
    lab.until("/api/v1/status", |it| {
        it["instances"] == json!({"RUNNING": 3})
    })
    .await;
    oak(&["s", "undeploy", "--service-id", service]).await;
    lab.until("/api/v1/status", |it| {
        it["instances"] == json!({"RUNNING": 1})
    })
    .await;
    oak(&["a", "delete", id, "-y"]).await;
    lab.until("/api/v1/instances", |it| it == &json!([])).await;

    // The SLAs that it brings along are taken as they are.
    let mut own = 0;
    for entry in std::fs::read_dir(&slas).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != "hello.json" {
            oak(&["a", "create", "--sla-file-name", &name]).await;
            own += 1;
        }
    }
    let applications = lab.get("/api/applications", &lab.ada).await.json(200);
    assert_eq!((own, applications.as_array().unwrap().len()), (3, 3));
    oak(&["a", "delete", "-y"]).await;
    assert_eq!(
        lab.get("/api/applications", &lab.ada).await.json(200),
        json!([])
    );
}
