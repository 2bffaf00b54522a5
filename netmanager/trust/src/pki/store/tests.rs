//! What `netmanager pki` leaves on disk, and what it refuses.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;
use weald_proto::id::{NodeId, RelayId};

use super::*;
use crate::tls::Credentials;

#[test]
fn what_is_issued_can_be_loaded() {
    let pki = Pki::new();
    let receipt = pki.issue(&pki.node("a1")).unwrap();
    assert_eq!(receipt.uri, "weald://main/cluster/munich/node/a1");
    assert!(receipt.new_cluster);
    let names: Vec<_> = receipt
        .files
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(names, ["node.key", "ca.pem", "node.pem", "relay.token"]);

    let credentials = Credentials::load(&pki.out("a1")).unwrap();
    assert_eq!(*credentials.identity(), pki.node("a1").identity);
    assert_eq!(credentials.root_name().as_str(), "main");
    let token = credentials.relay_token().unwrap();
    let admission = credentials
        .admit_to_relay(token, &credentials.check().unwrap())
        .unwrap();
    assert_eq!(admission.organisation.to_string(), "shop");

    let relay = pki.relay("r1");
    assert!(!pki.issue(&relay).unwrap().new_cluster);
    let credentials = Credentials::load(&pki.out("r1")).unwrap();
    assert_eq!(*credentials.identity(), relay.identity);
    assert_eq!(credentials.relay_token(), None);
}

#[test]
fn secrets_are_their_owners() {
    let pki = Pki::new();
    pki.issue(&pki.node("a1")).unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let ca = pki.directory.path().join("ca");
    assert_eq!(mode(ca.clone()), 0o700);
    assert_eq!(mode(ca.join("ca.key")), 0o600);
    assert_eq!(mode(ca.join("clusters/munich.key")), 0o600);
    assert_eq!(mode(pki.out("a1").join("node.key")), 0o600);
    assert_eq!(mode(pki.out("a1").join("relay.token")), 0o600);

    let key = pki.out("a1").join("node.key");
    fs::set_permissions(key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = format!("{:#}", Credentials::load(&pki.out("a1")).unwrap_err());
    assert!(
        error.ends_with(
            "node.key is open to others than its owner (mode 0640); run chmod 600 on it"
        ),
        "{error}"
    );
}

#[test]
fn nothing_is_replaced_unasked() {
    let pki = Pki::new();
    let mut request = pki.node("a1");
    pki.issue(&request).unwrap();
    let before = contents(&pki.out("a1"));

    let error = pki.issue(&request).unwrap_err().to_string();
    assert!(
        error.ends_with(
            "has node.key, node.pem, ca.pem, relay.token already; use --force to replace all of it, or --renew to keep the key"
        ),
        "{error}"
    );
    assert_eq!(contents(&pki.out("a1")), before);

    request.renewal = Renewal::KeepKey;
    pki.issue(&request).unwrap();
    let renewed = contents(&pki.out("a1"));
    assert_eq!(renewed["node.key"], before["node.key"]);
    assert_ne!(renewed["node.pem"], before["node.pem"]);
    Credentials::load(&pki.out("a1")).unwrap();

    request.renewal = Renewal::Replace;
    pki.issue(&request).unwrap();
    assert_ne!(contents(&pki.out("a1"))["node.key"], before["node.key"]);
    Credentials::load(&pki.out("a1")).unwrap();
}

#[test]
fn a_root_is_never_replaced() {
    let pki = Pki::new();
    let ca = pki.directory.path().join("ca");
    let before = contents(&ca);
    let error = Store::init(&ca, &label("other"), SystemTime::now()).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("ca.pem exists; a root is never replaced, choose another directory"),
        "{error}"
    );
    assert_eq!(contents(&ca), before);
}

#[test]
fn mistakes_are_named() {
    let pki = Pki::new();
    let missing = Store::open(&pki.directory.path().join("none")).unwrap_err();
    assert!(
        missing
            .to_string()
            .ends_with("make one with `netmanager pki init`"),
        "{missing}"
    );

    let mut request = pki.node("a1");
    request.out = pki.directory.path().join("ca");
    let error = pki.issue(&request).unwrap_err().to_string();
    assert!(error.contains("holds the root's key"), "{error}");

    // One node's key beside another one's certificate.
    pki.issue(&pki.node("a1")).unwrap();
    pki.issue(&pki.node("a2")).unwrap();
    fs::copy(
        pki.out("a2").join("node.key"),
        pki.out("a1").join("node.key"),
    )
    .unwrap();
    let error = format!("{:#}", Credentials::load(&pki.out("a1")).unwrap_err());
    assert!(
        error.contains("the private key does not belong to node munich/a1"),
        "{error}"
    );
}

#[test]
fn expired_credentials_do_not_load() {
    let directory = TempDir::new().unwrap();
    let long_ago = SystemTime::now() - Duration::from_hours(24 * 60);
    let store = Store::init(&directory.path().join("ca"), &label("main"), long_ago).unwrap();
    let request = request(directory.path(), "a1");
    store.issue(&request, long_ago).unwrap();
    let error = format!("{:#}", Credentials::load(&request.out).unwrap_err());
    assert!(
        error.contains("node.pem: certificate of node munich/a1: it expired on "),
        "{error}"
    );
}

struct Pki {
    directory: TempDir,
    store: Store,
}

impl Pki {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let ca = directory.path().join("ca");
        Store::init(&ca, &label("main"), SystemTime::now()).unwrap();
        let store = Store::open(&ca).unwrap();
        Self { directory, store }
    }

    fn issue(&self, request: &Request) -> anyhow::Result<Receipt> {
        self.store.issue(request, SystemTime::now())
    }

    fn out(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn node(&self, name: &str) -> Request {
        request(self.directory.path(), name)
    }

    fn relay(&self, name: &str) -> Request {
        Request {
            identity: Identity::Relay(RelayId::new(label("munich"), label(name))),
            organisation: None,
            ..self.node(name)
        }
    }
}

fn request(directory: &Path, name: &str) -> Request {
    Request {
        identity: Identity::Node(NodeId::new(label("munich"), label(name))),
        organisation: Some(Organisation(label("shop"))),
        out: directory.join(name),
        renewal: Renewal::Refuse,
        token_life: token::TOKEN_LIFE,
    }
}

fn contents(directory: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}
