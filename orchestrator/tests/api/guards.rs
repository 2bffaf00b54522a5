//! What stands around every route: hosts, origins, sizes, types, TLS.

use std::sync::Arc;
use std::time::Duration;

use orchestrator::api::{self, Listener, ServeError};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{exchange, request, send};
use crate::lab::{Lab, sla};

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_host_or_origin_is_refused() {
    let lab = Lab::start().await;
    let port = lab.address.port();
    let ask = async |headers: &[(&str, &str)]| {
        send(
            lab.address,
            &request(("GET", "/api/clusters"), headers, None),
        )
        .await
    };
    for host in [
        "localhost",
        "LOCALHOST",
        "127.0.0.1",
        "127.9.9.9",
        "[::1]",
        "weald.example",
        "Weald.Example:10000",
    ] {
        let with_port = format!("{host}:{port}");
        let hosts = if host.ends_with(":10000") {
            vec![host]
        } else {
            vec![host, &with_port]
        };
        for host in hosts {
            assert_eq!(ask(&[("Host", host)]).await.status, 200, "{host}");
        }
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "192.0.2.7",
        "weald.example.",
        "[2001:db8::1]",
    ] {
        let refused = ask(&[("Host", host)]).await.refused(421);
        assert!(refused.contains("have root know that name"), "{refused}");
    }
    for host in ["", "a b", "http://localhost"] {
        ask(&[("Host", host)]).await.refused(400);
    }
    let without = b"GET /api/clusters HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_eq!(send(lab.address, without).await.status, 400);

    let host = format!("localhost:{port}");
    let same = format!("http://localhost:{port}");
    assert_eq!(ask(&[("Host", &host), ("Origin", &same)]).await.status, 200);
    let other_port = format!("http://localhost:{}", port ^ 1);
    let other_scheme = format!("https://localhost:{port}");
    for origin in [
        "null",
        "http://evil.example",
        "http://localhost",
        &other_port,
        &other_scheme,
        "",
    ] {
        let answer = ask(&[("Host", &host), ("Origin", origin)]).await;
        assert!(!answer.head.contains("access-control"), "{}", answer.head);
        answer.refused(403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_a_size_a_type_and_a_form() {
    let lab = Lab::start().await;
    let before = lab.everything().await;
    let bearer = format!("Bearer {}", lab.ada);
    let ask = async |headers: &[(&str, &str)], body: &str| {
        let mut all = vec![("Authorization", bearer.as_str())];
        all.extend(headers);
        send(
            lab.address,
            &request(("POST", "/api/v1/apply"), &all, Some(body)),
        )
        .await
    };
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    assert!(ask(&[], &long).await.refused(413).contains("1048576 bytes"));
    // Without saying its length before.
    let mut chunked = format!(
        "POST /api/v1/apply HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: {bearer}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    for _ in 0..17 {
        chunked += &format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    }
    chunked += "0\r\n\r\n";
    send(lab.address, chunked.as_bytes()).await.refused(413);
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "",
    ] {
        let refused = ask(&[("Content-Type", kind)], "{}").await.refused(415);
        assert!(refused.contains("application/json"), "{refused}");
    }
    let good = sla("typed", &["web"]).to_string();
    for body in ["", "{", "{\"a\":}", "nonsense", "[1,]", &"[".repeat(10_000)] {
        ask(&[], body).await.refused(400);
    }
    assert_eq!(lab.everything().await, before);
    let kind = [("Content-Type", "Application/JSON; charset=utf-8")];
    ask(&kind, &good).await.json(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_answered_as_json() {
    let lab = Lab::start().await;
    for path in [
        "/",
        "/api",
        "/api/",
        "/api/nothing",
        "/api/v1/apply/x",
        "//",
        "/api/v2/status",
        "/%00",
    ] {
        assert!(
            lab.get(path, &lab.ada)
                .await
                .refused(404)
                .contains("there is no route"),
            "{path}"
        );
    }
    for (method, path) in [
        ("PATCH", "/api/applications"),
        ("DELETE", "/api/v1/status"),
        ("BREW", "/api/clusters"),
        ("PUT", "/api/auth/login"),
    ] {
        let refused = lab.ask((method, path), &lab.ada, None).await.refused(405);
        assert!(refused.contains(method), "{refused}");
    }
    let head = lab.ask(("HEAD", "/api/clusters"), "", None).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let garbage = send(lab.address, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").await;
    assert_eq!(garbage.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_nothing_is_cut_off() {
    let lab = Lab::start().await;
    let mut silent = TcpStream::connect(lab.address).await.unwrap();
    let mut read = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), silent.read_to_end(&mut read)).await;
    assert!(ended.is_ok(), "the connection is still open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let lab = Lab::start().await;
    let mut bytes = request(("POST", "/api/auth/login"), &[], Some("{\"username\""));
    // More is promised than comes.
    let text = String::from_utf8(bytes).unwrap();
    bytes = text
        .replace("Content-Length: 11", "Content-Length: 99")
        .into_bytes();
    let answer = tokio::time::timeout(Duration::from_secs(20), send(lab.address, &bytes)).await;
    let refused = answer.expect("it is still waited for").refused(408);
    assert!(refused.contains("did not come within"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_there_is_tls_or_nothing() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:10000"] {
        let refused = Listener::bind(address.parse().unwrap(), None)
            .await
            .unwrap_err();
        assert!(matches!(refused, ServeError::Plain(_)), "{refused}");
        assert!(
            refused.to_string().contains("give it a certificate"),
            "{refused}"
        );
    }
    let lab = Lab::start().await;
    let taken = Listener::bind(lab.address, None).await.unwrap_err();
    assert!(
        taken.to_string().contains("is another root running there?"),
        "{taken}"
    );

    let (server, client) = configurations();
    let listener = Listener::bind("0.0.0.0:0".parse().unwrap(), Some(server))
        .await
        .unwrap();
    let port = listener.address().port();
    let serving = tokio::spawn(api::serve(listener, lab.state.clone()));
    let bearer = format!("Bearer {}", lab.ada);
    let origin = format!("https://weald.example:{port}");
    let host = format!("weald.example:{port}");
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Host", &host),
        ("Origin", &origin),
    ];
    let bytes = request(("GET", "/api/v1/status"), &headers, None);
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("weald.example").unwrap();
    let stream = TlsConnector::from(client)
        .connect(name, stream)
        .await
        .unwrap();
    exchange(stream, &bytes).await.json(200);
    // Whoever speaks in clear hears nothing.
    let mut plain = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, &bytes)
        .await
        .unwrap();
    let mut read = Vec::new();
    let _ = plain.read_to_end(&mut read).await;
    assert!(!String::from_utf8_lossy(&read).contains("HTTP"), "{read:?}");
    serving.abort();
}

fn configurations() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["weald.example".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let folder = tempfile::tempdir().unwrap();
    let (chain, key) = (
        folder.path().join("chain.pem"),
        folder.path().join("key.pem"),
    );
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let server = api::tls(&chain, &key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, Arc::new(client))
}

#[test]
fn a_wrong_certificate_or_key_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let make = || rcgen::generate_simple_self_signed(vec!["weald.example".to_owned()]).unwrap();
    let (one, other) = (make(), make());
    let chain = file("chain.pem", &one.cert.pem());
    let key = file("key.pem", &one.signing_key.serialize_pem());
    let foreign = file("foreign.pem", &other.signing_key.serialize_pem());
    let empty = file("empty.pem", "");
    let missing = folder.path().join("missing.pem");
    assert!(api::tls(&chain, &key).is_ok());
    for (chain, key, told) in [
        (&missing, &key, "cannot read certificates from"),
        (&empty, &key, "has no certificate"),
        (&chain, &missing, "cannot read a private key from"),
        (&chain, &chain, "cannot read a private key from"),
        (&chain, &foreign, "is not the key of"),
    ] {
        let refused = api::tls(chain, key).unwrap_err().to_string();
        assert!(refused.contains(told), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_requests_share_a_connection() {
    let lab = Lab::start().await;
    let first = "GET /api/clusters HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let second = request(("GET", "/api/clusters/active"), &[], None);
    let bytes = [first.as_bytes(), &second].concat();
    let answer = send(lab.address, &bytes).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.body.matches("HTTP/1.1 200").count(),
        1,
        "{}",
        answer.body
    );
    assert_eq!(
        lab.get("/api/v1/status", &lab.ada).await.json(200)["clusters"],
        json!({})
    );
}
