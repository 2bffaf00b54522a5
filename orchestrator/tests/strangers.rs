//! Whoever has no business at a control port: wrong and replayed certificates, used tokens, bytes
//! that are no messages. Each is told why, and nothing else changes: an instance runs meanwhile on a
//! node of the cluster, and every link between it and root is used after each stranger.
//!
//! How each fault of a certificate is found is tested beside weald-trust's `tls`; what a netmanager
//! refuses of other nodes is netns-tests' `strangers`.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orchestrator::desk;
use orchestrator::link::{self, Dialled};
use orchestrator::roles::{self, RunningCluster, RunningRoot, RunningWorker};
use orchestrator_core::cluster::Cluster;
use orchestrator_core::root::{Command, Distrusted, Root, Scope};
use orchestrator_core::sla;
use orchestrator_core::worker::Worker;
use quinn::Endpoint;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_supported_type};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use weald_proto::addr::Pools;
use weald_proto::codec::Message as _;
use weald_proto::control::{
    CLUSTER_ALPN, ClusterToRoot, InstanceReport, Phase, ROOT_ALPN, Standing, WorkerToCluster,
};
use weald_proto::id::{Identity, Label, NodeId, Organisation, RelayId};
use weald_proto::join::{JoinRequest, JoinResponse, JoinRole};
use weald_proto::name::{InstanceId, Zone};
use weald_proto::session::{ALPN as SESSION_ALPN, NetToCluster};
use weald_proto::stream::framed;
use weald_trust::join::{JoinToken, client_config};
use weald_trust::pki::folder::{load_cluster, load_root};
use weald_trust::pki::{ClusterAuthority, Issued, RootAuthority, new_key, request};
use weald_trust::tls::{Clock, Credentials, Expected, TrustRoot, Verifier};

use site::{ONCE, cluster_options, join, label, root_options, worker_options};

#[path = "site/start.rs"]
mod site;

const SOON: Duration = Duration::from_secs(20);
/// Longer than any certificate of a member lives.
const LONG_AGO: Duration = Duration::from_hours(40 * 24);

fn organisation(name: &str) -> Organisation {
    Organisation(label(name))
}

fn node(cluster: &str, name: &str) -> Identity {
    Identity::Node(NodeId::new(label(cluster), label(name)))
}

fn control(cluster: &str) -> Identity {
    Identity::Control(label(cluster))
}

/// Root, cluster `munich` and node `munich/a1`, which runs one instance.
struct Site {
    root: RunningRoot,
    cluster: RunningCluster,
    worker: RunningWorker,
    instance: InstanceId,
    folder: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [own, of_cluster, of_worker] =
            ["root", "cluster", "worker"].map(|name| folder.path().join(name));
        let root = roles::root(&root_options(&own)).await.unwrap();
        let token = root.invite(label("munich"), ONCE).unwrap();
        join(&token, None, &of_cluster, &root.control)
            .await
            .unwrap();
        let cluster = roles::cluster(&cluster_options(&of_cluster)).unwrap();
        let token = cluster.inviter().invite(JoinRole::Worker, ONCE).unwrap();
        join(&token, Some("a1"), &of_worker, &cluster.control)
            .await
            .unwrap();
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
    async fn honest_traffic_flows(&self) {
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
    async fn shown(&self) -> String {
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
        let tokens = (self.root.desk.list(), self.cluster.desk.list());
        format!("{known}\n{of_cluster}\n{of_worker}\n{tokens:#?}")
    }

    fn root_authority(&self) -> RootAuthority {
        load_root(&self.folder.path().join("root")).unwrap()
    }

    fn munich(&self) -> ClusterAuthority {
        load_cluster(&self.folder.path().join("cluster")).unwrap()
    }
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
    let text = serde_json::json!({
        "sla_version": "v2.0", "customerID": "admin",
        "applications": [{
            "applicationID": "", "application_name": "shop", "application_namespace": "prod",
            "application_desc": "", "microservices": [{
                "microserviceID": "", "microservice_name": "web",
                "microservice_namespace": "prod", "virtualization": "process",
                "code": "/bin/sh", "cmd": ["/bin/sh", "-c", "echo ready; exec sleep 1000"],
                "memory": 50, "vcpus": 0, "storage": 0,
            }],
        }],
    });
    let context = sla::Context {
        pools: &Pools::default(),
        zones: &Zone::defaults(),
        organisation: &organisation("acme"),
        application: None,
    };
    let draft = sla::check_value(&text, context).unwrap().pop().unwrap();
    let apply = Command::Apply(draft, organisation("acme"));
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

/// A port: who is there, what is spoken, and its end.
type Port<'a> = (&'a Identity, &'a [u8], &'a Endpoint);

/// What somebody shows who dials.
enum Shown {
    /// A certificate, with its key.
    Own(Credentials),
    /// A certificate and a key that need not be its own, nor of the root that is trusted.
    Forged(TrustRoot, CertifiedKey),
    /// No certificate.
    Nothing(TrustRoot),
}

fn shown(issued: &Issued) -> Shown {
    Shown::Own(issued.credentials(None, Clock::system()).unwrap())
}

/// A certificate that others have seen, with another key.
fn stolen(issued: &Issued, root: &RootAuthority) -> Shown {
    let key = PrivateKeyDer::Pkcs8(new_key().unwrap().serialize_der().into());
    showing(issued, &key, root)
}

/// A certificate of another root, of somebody who takes this root's port for what it is.
fn forged(issued: &Issued, root: &RootAuthority) -> Shown {
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem().as_bytes()).unwrap();
    showing(issued, &key, root)
}

fn showing(issued: &Issued, key: &PrivateKeyDer<'_>, root: &RootAuthority) -> Shown {
    let key = any_supported_type(key).unwrap();
    let certified = CertifiedKey::new(issued.chain().ders(), key);
    Shown::Forged(root.trust().clone(), certified)
}

impl Shown {
    fn config(&self, upper: &Identity, alpn: &[u8]) -> anyhow::Result<QuicClientConfig> {
        let (trust, certified) = match self {
            Self::Own(own) => return own.client_config(upper, alpn),
            Self::Forged(trust, certified) => (trust, Some(certified.clone())),
            Self::Nothing(trust) => (trust, None),
        };
        let expected = Expected::Exactly(upper.clone());
        let trust = Arc::new(trust.clone());
        let verifier = Verifier::new(trust, expected, Clock::system(), Arc::default());
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match certified {
            Some(certified) => {
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(QuicClientConfig::try_from(config)?)
    }
}

async fn dial(own: &Shown, upper: Port<'_>) -> anyhow::Result<Dialled> {
    let (identity, alpn, endpoint) = upper;
    let config = link::client_config(own.config(identity, alpn)?);
    let own = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    link::dial_once(&own, &[endpoint.local_addr()?.to_string()], &config).await
}

/// What is said to somebody who dials, and then says these bytes, before it is cut off.
async fn refusal(own: &Shown, upper: Port<'_>, bytes: &[u8]) -> String {
    let met = async {
        // The one who dials has shaken hands before the other one has judged it.
        let mut dialled = dial(own, upper).await?;
        dialled.streams.0.write_all(bytes).await?;
        let closed = tokio::time::timeout(SOON, dialled.connection.closed());
        anyhow::Ok(closed.await?.to_string())
    };
    met.await.unwrap_or_else(|error| format!("{error:#}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_control_port_lets_only_clusters_in() {
    let site = Site::start().await;
    let (root, munich, now) = (site.root_authority(), site.munich(), SystemTime::now());
    let foreign = RootAuthority::create(&label("main"), now).unwrap();
    let foreign = foreign.cluster(&label("munich"), now).unwrap();
    let paris = root.cluster(&label("paris"), now).unwrap();
    let upper = (&Identity::Root, ROOT_ALPN, &site.root.control);
    let before = site.shown().await;
    for (what, own, text) in [
        (
            "another role",
            shown(&munich.issue(&node("munich", "a1"), now).unwrap()),
            "certificate of node munich/a1: only orchestrators of clusters may dial here",
        ),
        (
            "another root's",
            forged(&foreign.issue(&control("munich"), now).unwrap(), &root),
            "certificate of control of cluster munich: a signature in its chain is not by the key of root main",
        ),
        (
            "expired",
            shown(&munich.issue(&control("munich"), now - LONG_AGO).unwrap()),
            "certificate of control of cluster munich: it expired on ",
        ),
        (
            "without its key",
            stolen(&munich.issue(&control("munich"), now).unwrap(), &root),
            "BadSignature",
        ),
        (
            "without a certificate",
            Shown::Nothing(root.trust().clone()),
            "peer sent no certificates",
        ),
        (
            "of a cluster that has not joined",
            shown(&paris.issue(&control("paris"), now).unwrap()),
            "root does not know cluster paris; have it join first",
        ),
    ] {
        let hello = ClusterToRoot::Interests(Vec::new()).encode().unwrap();
        let told = refusal(&own, upper, &framed(&hello)).await;
        assert!(told.contains(text), "{what}: {told}");
        site.honest_traffic_flows().await;
        assert_eq!(site.shown().await, before, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clusters_control_port_lets_only_its_members_in() {
    let site = Site::start().await;
    let (root, munich, now) = (site.root_authority(), site.munich(), SystemTime::now());
    let foreign = RootAuthority::create(&label("main"), now).unwrap();
    let foreign = foreign.cluster(&label("munich"), now).unwrap();
    let paris = root.cluster(&label("paris"), now).unwrap();
    let relay = Identity::Relay(RelayId::new(label("munich"), label("r1")));
    let keep_alive = framed(&NetToCluster::KeepAlive.encode().unwrap());
    let before = site.shown().await;
    for alpn in [CLUSTER_ALPN, SESSION_ALPN] {
        let munich_control = control("munich");
        let upper = (&munich_control, alpn, &site.cluster.control);
        for (what, own, text) in [
            (
                "another role",
                shown(&munich.issue(&control("munich"), now).unwrap()),
                "certificate of control of cluster munich: only nodes and relays of cluster munich may dial here",
            ),
            (
                "a relay's",
                shown(&munich.issue(&relay, now).unwrap()),
                if alpn == SESSION_ALPN {
                    "a relay may ask for its next certificate here, and for nothing else"
                } else {
                    "only the cluster's nodes are served here"
                },
            ),
            (
                "another cluster's",
                shown(&paris.issue(&node("paris", "a1"), now).unwrap()),
                "certificate of node paris/a1: only nodes and relays of cluster munich may dial here",
            ),
            (
                "another root's",
                forged(&foreign.issue(&node("munich", "a1"), now).unwrap(), &root),
                "certificate of node munich/a1: a signature in its chain is not by the key of root main",
            ),
            (
                "expired",
                shown(&munich.issue(&node("munich", "a1"), now - LONG_AGO).unwrap()),
                "certificate of node munich/a1: it expired on ",
            ),
            (
                "without its key",
                stolen(&munich.issue(&node("munich", "a1"), now).unwrap(), &root),
                "BadSignature",
            ),
            (
                "without a certificate",
                Shown::Nothing(root.trust().clone()),
                "peer sent no certificates",
            ),
        ] {
            let told = refusal(&own, upper, &keep_alive).await;
            assert!(told.contains(text), "{what}: {told}");
            site.honest_traffic_flows().await;
            assert_eq!(site.shown().await, before, "{what}");
        }
    }
}

/// Of members: each port closes the connection and says why, and hears nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_messages_end_only_the_connection_they_came_on() {
    let site = Site::start().await;
    let now = SystemTime::now();
    // Members beside the honest ones, whose own connections another one would replace.
    let paris = site.root_authority().cluster(&label("paris"), now).unwrap();
    let paris = shown(&paris.issue(&control("paris"), now).unwrap());
    let a2 = site.munich().issue(&node("munich", "a2"), now).unwrap();
    let a2 = shown(&a2);
    let control = control("munich");
    let heartbeat = WorkerToCluster::Heartbeat {
        sequence: 1,
        cpu_percent: 0.0,
        memory_mib: 0,
    };
    let cases: [(&Shown, Port<'_>, Vec<u8>, &str); 3] = [
        (
            &paris,
            (&Identity::Root, ROOT_ALPN, &site.root.control),
            ClusterToRoot::Interests(Vec::new()).encode().unwrap(),
            "root does not know cluster paris; have it join first",
        ),
        (
            &a2,
            (&control, CLUSTER_ALPN, &site.cluster.control),
            heartbeat.encode().unwrap(),
            "the first message of a worker must be Hello",
        ),
        (
            &a2,
            (&control, SESSION_ALPN, &site.cluster.control),
            NetToCluster::KeepAlive.encode().unwrap(),
            "the first message of a netmanager must be Hello",
        ),
    ];
    let before = site.shown().await;
    for (own, upper, early, first) in cases {
        for (bytes, text) in [
            (vec![0xff; 4], "a message of 4294967295 bytes"),
            (vec![0, 0, 0, 1, 0xff], "not a protobuf message"),
            (vec![0, 0, 0, 0], "of no kind that this version knows"),
            (framed(&early), first),
        ] {
            let told = refusal(own, upper, &bytes).await;
            assert!(told.contains(text), "{:?}: {told}", upper.0);
            site.honest_traffic_flows().await;
            assert_eq!(site.shown().await, before, "{text}");
        }
    }
}

/// Of a cluster that has joined: its link is closed, and it may come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_says_no_message_is_cut_off_and_may_come_again() {
    let site = Site::start().await;
    let now = SystemTime::now();
    let token = site.root.invite(label("paris"), ONCE).unwrap();
    let folder = site.folder.path().join("paris");
    join(&token, None, &folder, &site.root.control)
        .await
        .unwrap();
    let paris = load_cluster(&folder).unwrap();
    let own = shown(&paris.issue(&control("paris"), now).unwrap());
    let upper = (&Identity::Root, ROOT_ALPN, &site.root.control);
    let before = site.shown().await;
    for (bytes, text) in [
        (vec![0xff; 4], "a message of 4294967295 bytes"),
        (vec![0, 0, 0, 1, 0xff], "not a protobuf message"),
        (vec![0, 0, 0, 0], "of no kind that this version knows"),
    ] {
        let told = refusal(&own, upper, &bytes).await;
        assert!(told.contains(text), "{told}");
        site.honest_traffic_flows().await;
        assert_eq!(site.shown().await, before, "{text}");
    }
    // The cluster itself comes as if nothing had been.
    let cluster = roles::cluster(&cluster_options(&folder)).unwrap();
    let since = Instant::now();
    let alive = |root: &Root, _| {
        let mut clusters = root.clusters();
        clusters.any(|(state, standing, ..)| {
            format!("{state:?}").contains("paris") && standing == Standing::Alive
        })
    };
    while !site.root.handle.look(alive).await.unwrap() {
        assert!(since.elapsed() < SOON, "paris is not let in any more");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_revoked_is_let_in_nowhere() {
    let site = Site::start().await;
    let now = SystemTime::now();
    let a2 = site.munich().issue(&node("munich", "a2"), now).unwrap();
    let a2 = a2.credentials(None, Clock::system()).unwrap();
    let (key, a2) = (a2.spki_sha256().0, Shown::Own(a2));
    let upper = (&control("munich"), CLUSTER_ALPN, &site.cluster.control);
    dial(&a2, upper).await.unwrap();
    let revoke = Command::Revoke(Distrusted::Key(key));
    site.root.handle.command(revoke, Scope::All).await.unwrap();
    let since = Instant::now();
    loop {
        let told = refusal(&a2, upper, &[0xff; 4]).await;
        if told.contains("certificate of node munich/a2: it is revoked") {
            break;
        }
        // Until the cluster has heard of it.
        assert!(since.elapsed() < SOON, "{told}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    site.honest_traffic_flows().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_ports_take_a_token_once_and_requests_only() {
    let site = Site::start().await;
    let clusters = site.root.invite(label("paris"), ONCE).unwrap();
    let workers = site.cluster.inviter();
    let workers = workers.invite(JoinRole::Worker, ONCE).unwrap();
    for (port, token, role, (name, again), wrong) in [
        (
            &site.root.joining,
            &clusters,
            JoinRole::Cluster,
            ("paris", "paris"),
            (
                JoinRole::Worker,
                "only clusters join at root; a worker joins at its cluster",
            ),
        ),
        (
            &site.cluster.joining,
            &workers,
            JoinRole::Worker,
            ("a2", "a3"),
            (
                JoinRole::Cluster,
                "clusters join at root, not at another cluster",
            ),
        ),
    ] {
        let token: JoinToken = token.parse().unwrap();
        let ask = |name: &str, role, secret| {
            let request = JoinRequest {
                secret,
                role,
                name: label(name),
                csr: request(&new_key().unwrap()).unwrap(),
            };
            framed(&request.encode().unwrap())
        };
        let answer = say(port, &token, &ask(name, role, token.secret)).await;
        let admitted = matches!(answer, JoinResponse::Admitted { .. });
        assert!(admitted, "{answer:?}");
        let before = site.shown().await;
        let used = match role {
            JoinRole::Cluster => "has joined already with another key",
            JoinRole::Worker | JoinRole::Relay => "was used 1 of 1 times; ask for a new one",
        };
        for (what, bytes, text) in [
            (
                "its name, for another key",
                ask(name, role, token.secret),
                "has joined already with another key",
            ),
            ("a used token", ask(again, role, token.secret), used),
            ("another role", ask(name, wrong.0, token.secret), wrong.1),
            (
                "a length that is not so",
                vec![0, 0, 0, 9, 1],
                "the request cannot be read: a message of 9 bytes has 1",
            ),
            (
                "nothing",
                Vec::new(),
                "the request cannot be read: no message",
            ),
            (
                "no protobuf",
                vec![0, 0, 0, 1, 0xff],
                "the request cannot be read: not a protobuf message",
            ),
        ] {
            match say(port, &token, &bytes).await {
                JoinResponse::Refused { text: told } => {
                    assert!(told.contains(text), "{what}: {told}");
                }
                JoinResponse::Admitted { .. } => panic!("{what}: admitted"),
            }
            site.honest_traffic_flows().await;
            assert_eq!(site.shown().await, before, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_ports_take_no_token_that_has_expired() {
    const SHORT: (u32, Duration) = (1, Duration::from_secs(1));
    let site = Site::start().await;
    let of_root = site.root.invite(label("paris"), SHORT).unwrap();
    let of_cluster = site.cluster.inviter().invite(JoinRole::Worker, SHORT);
    let both = [&site.root.desk, &site.cluster.desk].map(|desk| {
        let listed = desk.list();
        let unused = listed.iter().find(|it| it.used == 0).unwrap();
        (unused.id, unused.expires)
    });
    while Clock::system().now().as_secs() <= both[0].1.max(both[1].1) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = site.shown().await;
    for (port, token, role, (id, expires)) in [
        (&site.root.joining, of_root, JoinRole::Cluster, both[0]),
        (
            &site.cluster.joining,
            of_cluster.unwrap(),
            JoinRole::Worker,
            both[1],
        ),
    ] {
        let token: JoinToken = token.parse().unwrap();
        let csr = request(&new_key().unwrap()).unwrap();
        let name = label("paris");
        let secret = token.secret;
        let wanted = JoinRequest {
            secret,
            role,
            name,
            csr,
        };
        match say(port, &token, &framed(&wanted.encode().unwrap())).await {
            JoinResponse::Refused { text } => {
                let start = format!("join token {id} expired at {expires}; it is now ");
                let now = text.strip_prefix(&start);
                let now = now.unwrap_or_else(|| panic!("{text}"));
                let now = now.strip_suffix(" (seconds since 1970); ask for a new one");
                assert!(now.unwrap().parse::<u64>().unwrap() >= expires, "{text}");
            }
            JoinResponse::Admitted { .. } => panic!("an expired token was taken"),
        }
        site.honest_traffic_flows().await;
        assert_eq!(site.shown().await, before);
    }
}

/// A thousand ask a cluster at once, each for a name of its own: exactly one is let in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_workers_that_redeem_a_token_at_once_one_is_let_in() {
    let site = Site::start().await;
    let token = site.cluster.inviter().invite(JoinRole::Worker, ONCE);
    let refused = "was used 1 of 1 times";
    let name = |number| label(&format!("w{number}"));
    let port = &site.cluster.joining;
    crowd(port, &token.unwrap(), JoinRole::Worker, name, refused).await;
    let listed = site.cluster.desk.list();
    assert_eq!(
        listed.iter().map(|it| it.used).sum::<u32>(),
        2,
        "{listed:?}"
    );
    site.honest_traffic_flows().await;
}

/// A thousand with keys of their own ask root to be the cluster that it has invited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_clusters_that_redeem_a_token_at_once_one_is_let_in() {
    let site = Site::start().await;
    let token = site.root.invite(label("paris"), ONCE).unwrap();
    let refused = "cluster paris has joined already with another key";
    let name = |_| label("paris");
    crowd(&site.root.joining, &token, JoinRole::Cluster, name, refused).await;
    let listed = site.root.desk.list();
    assert_eq!(
        listed.iter().map(|it| it.used).sum::<u32>(),
        2,
        "{listed:?}"
    );
    site.honest_traffic_flows().await;
}

/// A thousand redeem one token, each with a key of its own; all but one hear `refused`.
async fn crowd(
    port: &Endpoint,
    token: &str,
    role: JoinRole,
    name: impl Fn(usize) -> Label,
    refused: &str,
) {
    const CROWD: usize = 1000;
    let token: JoinToken = token.parse().unwrap();
    let config = link::client_config(client_config(&token, Clock::system()).unwrap());
    let names = [port.local_addr().unwrap().to_string()];
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    // They ask a hundred at a time, at the same moment; all of them are under way from the start.
    let gate = Arc::new(tokio::sync::Barrier::new(CROWD / 10));
    let started = Arc::new(tokio::sync::Semaphore::new(16));
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..CROWD {
        let wanted = JoinRequest {
            secret: token.secret,
            role,
            name: name(number),
            csr: request(&new_key().unwrap()).unwrap(),
        };
        let wanted = framed(&wanted.encode().unwrap());
        let (endpoint, names, config) = (endpoint.clone(), names.clone(), config.clone());
        let (gate, started) = (Arc::clone(&gate), Arc::clone(&started));
        crowd.spawn(async move {
            let turn = started.acquire().await.unwrap();
            let mut dialled = link::dial_once(&endpoint, &names, &config).await.unwrap();
            let (send, recv) = &mut dialled.streams;
            // The stream is open at the other end once something has come on it.
            send.write_all(&wanted[..1]).await.unwrap();
            drop(turn);
            gate.wait().await;
            send.write_all(&wanted[1..]).await.unwrap();
            send.finish().unwrap();
            let answer = recv.read_to_end(1 << 16).await.unwrap();
            JoinResponse::decode(&answer[4..]).unwrap()
        });
    }
    let (mut admitted, mut used) = (0, 0);
    while let Some(answer) = crowd.join_next().await {
        match answer.unwrap() {
            JoinResponse::Admitted { .. } => admitted += 1,
            JoinResponse::Refused { text } => {
                assert!(text.contains(refused), "{text}");
                used += 1;
            }
        }
    }
    assert_eq!((admitted, used), (1, CROWD - 1));
}

/// Says bytes at a port for joining, and hears the answer.
async fn say(port: &Endpoint, token: &JoinToken, bytes: &[u8]) -> JoinResponse {
    let config = link::client_config(client_config(token, Clock::system()).unwrap());
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let names = [port.local_addr().unwrap().to_string()];
    let mut dialled = link::dial_once(&endpoint, &names, &config).await.unwrap();
    let (send, recv) = &mut dialled.streams;
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    let answer = recv.read_to_end(1 << 16).await.unwrap();
    JoinResponse::decode(&answer[4..]).unwrap()
}

/// The socket at which root's machine makes tokens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_desk_answers_questions_only() {
    let site = Site::start().await;
    let desk_of = site.root.desk.clone();
    let folder = site.folder.path().join("desk");
    std::fs::create_dir(&folder).unwrap();
    let invite =
        |_: &desk::Invite| -> anyhow::Result<String> { anyhow::bail!("nobody is invited") };
    let _socket = desk::serve(&folder, desk_of, invite).unwrap();
    let before = site.shown().await;
    for (bytes, text) in [
        (&b"{\n"[..], "not a question: "),
        (b"\"Invite\"\n", "not a question: unknown variant"),
        (b"{\"revoke\": \"ffff\"}\n", "there is no join token ffff"),
        (
            b"{\"invite\": {\"role\": \"worker\", \"cluster\": null, \"uses\": 1, \"life_s\": 1, \"more\": 1}}\n",
            "not a question: unknown field `more`",
        ),
        (b"\xff\xfe\n", ""),
    ] {
        let path = folder.join("desk.sock");
        let bytes = bytes.to_vec();
        let told = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(&bytes).unwrap();
            let mut told = String::new();
            stream.read_to_string(&mut told).unwrap();
            told
        });
        let told = told.await.unwrap();
        assert!(told.contains(text) && told.is_empty() == text.is_empty(), "{told}");
        site.honest_traffic_flows().await;
        assert_eq!(site.shown().await, before);
    }
}
