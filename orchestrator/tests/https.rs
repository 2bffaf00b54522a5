//! The command line against a root whose API has a certificate: by its authority, by a fingerprint,
//! and not at all without either.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use orchestrator::roles::{self, RootOptions, RunningRoot};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use weald_proto::id::{Label, Organisation};
use weald_trust::join::fingerprint;

const WEALD: &str = env!("CARGO_BIN_EXE_weald");

/// Whoever issues root's certificate, and what root shows.
struct Papers {
    ca: PathBuf,
    files: (PathBuf, PathBuf),
    own: String,
    issuer: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A certificate for `localhost` behind that of its authority.
fn papers(folder: &Path) -> Papers {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_ca_cert_der(ca.der(), &ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let own = params.signed_by(&key, &issuer).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    Papers {
        files: (
            file("chain.pem", own.pem() + &ca.pem()),
            file("key.pem", key.serialize_pem()),
        ),
        own: hex(&fingerprint(own.der())),
        issuer: hex(&fingerprint(ca.der())),
        ca: file("ca.pem", ca.pem()),
    }
}

async fn start(folder: &Path, papers: &Papers) -> RunningRoot {
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    roles::root(&RootOptions {
        folder: folder.join("root"),
        name: Label::new("main").unwrap(),
        listen: any,
        join: any,
        advertise: Vec::new(),
        owner: Organisation(Label::new("root").unwrap()),
        api: any,
        api_tls: Some(papers.files.clone()),
        names: Vec::new(),
        compat_login: false,
        renew_secret: false,
    })
    .await
    .unwrap()
}

/// Runs `weald` with a session's file; gives its exit code and what it says.
async fn weald(session: &Path, words: &[&str]) -> (i32, String, String) {
    let output = tokio::process::Command::new(WEALD)
        .args(words)
        .env("WEALD_SESSION", session)
        .env("WEALD_PASSWORD", "a password of some length")
        // What this machine trusts is nobody of this test.
        .env("SSL_CERT_FILE", "/nonexistent")
        .output()
        .await
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_logs_in_over_https() {
    let folder = tempfile::tempdir().unwrap();
    let papers = papers(folder.path());
    let root = start(folder.path(), &papers).await;
    let at = format!("https://localhost:{}", root.api.port());
    let session = folder.path().join("session.json");
    let login = ["login", "--root", &at];
    let secret = ["--secret", root.first_secret.as_deref().unwrap()];

    // Nobody whom one has not named is told the secret, which is still good afterwards.
    let (code, _, said) = weald(&session, &[&login[..], &secret].concat()).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("--ca FILE"), "{said}");
    let other = hex(&[7; 32]);
    let pin = ["--fingerprint", &other];
    let (code, _, said) = weald(&session, &[&login[..], &secret, &pin].concat()).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("is not trusted"), "{said}");
    assert!(said.contains(&papers.own), "the one that is shown: {said}");
    assert!(!session.exists());

    let ca = papers.ca.display().to_string();
    let named = [&login[..], &secret, &["--ca", &ca]].concat();
    let (code, _, said) = weald(&session, &named).await;
    assert_eq!(code, 0, "{said}");
    // What was named is kept, without the file.
    std::fs::remove_file(&papers.ca).unwrap();
    let (code, status, said) = weald(&session, &["status", "--json"]).await;
    assert_eq!(code, 0, "{said}");
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["applications"], 0);

    // By the certificate itself whatever the host is called, by its issuer only under its name.
    let by_address = format!("https://127.0.0.1:{}", root.api.port());
    for (root, pin, code) in [
        (&at, &papers.own, 0),
        (&by_address, &papers.own, 0),
        (&at, &papers.issuer, 0),
        (&by_address, &papers.issuer, 1),
    ] {
        let words = ["login", "--root", root, "--fingerprint", pin];
        let (ended, _, said) = weald(&session, &words).await;
        assert_eq!(ended, code, "{root} {pin}: {said}");
    }
    let (code, _, said) = weald(&session, &["status"]).await;
    assert_eq!(code, 0, "{said}");

    // In clear there is nothing, and a fingerprint is of no use there.
    let clear = format!("http://localhost:{}", root.api.port());
    let (code, _, said) = weald(&session, &["login", "--root", &clear]).await;
    assert_eq!(code, 3, "{said}");
    let (code, _, said) = weald(
        &session,
        &["login", "--root", &clear, "--fingerprint", &papers.own],
    )
    .await;
    assert_eq!(code, 2, "{said}");
}
