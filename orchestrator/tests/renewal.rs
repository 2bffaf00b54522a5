//! Certificates that live for seconds: root, a cluster, a worker and a netmanager's session live on
//! beyond their first ones, and nobody gets another's.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use orchestrator::join::JoinDesk;
use orchestrator::keys::{Authority, ClusterKeys};
use orchestrator::link::{self, Dialled};
use orchestrator::renewal::Issuer;
use orchestrator::roles;
use quinn::Endpoint;
use weald_proto::codec::{MAX_MESSAGE_LEN, Message as _};
use weald_proto::control::Standing;
use weald_proto::id::{Identity, NodeId, RelayId};
use weald_proto::join::{JoinRequest, JoinRole, RenewRequest, RenewResponse};
use weald_proto::session::{ALPN, ClusterToNet, NetToCluster, VERSION};
use weald_proto::stream::{Deframer, framed};
use weald_trust::join::JoinToken;
use weald_trust::pki::folder::load_cluster;
use weald_trust::pki::{Lives, RootAuthority, new_key, request};
use weald_trust::renewal::Renewal;
use weald_trust::tls::{Clock, Credentials, Peer, RevocationSet};

use start::{
    ONCE, cluster_options, join, join_munich, join_worker, label, root_options, worker_options,
};

#[path = "site/start.rs"]
mod start;

const SOON: Duration = Duration::from_secs(30);
/// Long enough for a handshake under load, short enough for a test.
const LIVES: Lives = Lives {
    member: Duration::from_secs(9),
    cluster: Duration::from_secs(12),
};

/// Looks again until it is so.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let since = Instant::now();
    while !is_so().await {
        assert!(since.elapsed() < SOON, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A session as a netmanager has one, with a handshake of its own.
struct Session {
    dialled: Dialled,
    deframer: Deframer,
    _endpoint: Endpoint,
}

impl Session {
    /// One that says Hello, as a netmanager does.
    async fn dial(own: &Credentials, cluster: &Endpoint) -> anyhow::Result<Self> {
        let mut session = Self::connect(own, cluster).await?;
        let hello = NetToCluster::Hello {
            version: VERSION,
            addresses: Vec::new(),
            lease: 0,
            revocations: 0,
        };
        session.say(&hello).await?;
        Ok(session)
    }

    /// One that has said nothing yet.
    async fn connect(own: &Credentials, cluster: &Endpoint) -> anyhow::Result<Self> {
        let endpoint = Endpoint::client((Ipv6Addr::UNSPECIFIED, 0).into())?;
        let upper = Identity::Control(label("munich"));
        let config = link::client_config(own.client_config(&upper, ALPN)?);
        let names = [cluster.local_addr()?.to_string()];
        Ok(Self {
            dialled: link::dial_once(&endpoint, &names, &config).await?,
            deframer: Deframer::new(MAX_MESSAGE_LEN),
            _endpoint: endpoint,
        })
    }

    async fn say(&mut self, message: &NetToCluster) -> anyhow::Result<()> {
        let (send, _) = &mut self.dialled.streams;
        Ok(send.write_all(&framed(&message.encode()?)).await?)
    }

    /// Looks again until it is so, and keeps the connection alive meanwhile, as a netmanager does:
    /// one that is silent for seconds is closed.
    async fn until(&mut self, what: &str, is_so: impl Fn() -> bool) {
        let since = Instant::now();
        while !is_so() {
            assert!(since.elapsed() < SOON, "{what}: not within {SOON:?}");
            self.say(&NetToCluster::KeepAlive).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ask(&mut self, request: RenewRequest) -> anyhow::Result<RenewResponse> {
        self.say(&NetToCluster::Renew(request)).await?;
        let (_, recv) = &mut self.dialled.streams;
        let mut buffer = vec![0; 4096];
        loop {
            while let Some(message) = self.deframer.next_message()? {
                if let ClusterToNet::Renewed(answer) = ClusterToNet::decode(message)? {
                    return Ok(answer);
                }
            }
            let read = recv.read(&mut buffer).await?;
            let len = read.ok_or_else(|| anyhow::anyhow!("the stream ended"))?;
            self.deframer.feed(&buffer[..len]);
        }
    }
}

fn text(answer: &RenewResponse) -> &str {
    match answer {
        RenewResponse::Refused { text } => text,
        RenewResponse::Renewed { .. } => panic!("renewed"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_lives_on_beyond_the_first_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let [root_folder, cluster_folder, worker_folder, net_folder] =
        ["root", "cluster", "worker", "net"].map(|name| folder.path().join(name));
    let options = root_options(&root_folder);
    let root = roles::root_with_lives(&options, LIVES).await.unwrap();
    join_munich(&root, &cluster_folder).await;
    let first_cluster = load_cluster(&cluster_folder).unwrap().not_after().unwrap();
    let cluster = roles::cluster_with_lives(&cluster_options(&cluster_folder), LIVES).unwrap();
    for (name, folder) in [("a1", &worker_folder), ("a2", &net_folder)] {
        join_worker(&cluster, name, folder).await;
    }
    let worker = roles::worker(&worker_options(&worker_folder)).unwrap();

    let net = Credentials::load(&net_folder).unwrap();
    let renewal = Renewal::new(net.clone(), net_folder.clone());
    let first_net = net.not_after().unwrap();
    let mut session = Session::dial(&net, &cluster.control).await.unwrap();
    // Nobody gets another's, nor one for another key.
    let key = new_key().unwrap();
    let ask = |name: &str| RenewRequest {
        role: JoinRole::Worker,
        name: label(name),
        csr: request(&key).unwrap(),
    };
    let refused = session.ask(ask("a1")).await.unwrap();
    assert_eq!(
        text(&refused),
        "node munich/a2 may ask for a new certificate of its own only, not for worker a1"
    );
    let refused = session.ask(ask("a2")).await.unwrap();
    assert!(
        text(&refused).contains("of another key than it has shown"),
        "{refused:?}"
    );
    assert_eq!(
        Credentials::load(&net_folder).unwrap().not_after().unwrap(),
        first_net
    );

    let due = || renewal.wanted().unwrap().is_some();
    session.until("the session's certificate is due", due).await;
    let wanted = renewal.wanted().unwrap().unwrap();
    let answer = session.ask(wanted.clone()).await.unwrap();
    assert!(renewal.take(answer).unwrap() > first_net);
    // The connection goes on.
    let refused = session.ask(ask("a1")).await.unwrap();
    assert!(text(&refused).contains("of its own only"));

    // Beyond the life of every first certificate.
    let last = first_cluster.as_secs().max(first_net.as_secs());
    let over = || Clock::system().now().as_secs() > last;
    session
        .until("the first certificates have ended", over)
        .await;
    assert!(load_cluster(&cluster_folder).unwrap().not_after().unwrap() > first_cluster);
    let shown = Credentials::load(&worker_folder).unwrap();
    assert!(shown.not_after().unwrap() > first_net);
    let again = session
        .ask(renewal.wanted().unwrap().unwrap_or(wanted))
        .await
        .unwrap();
    renewal.take(again).unwrap();
    drop(session);
    let mut session = Session::dial(&net, &cluster.control).await.unwrap();
    until("the worker is alive", async || {
        let nodes = |root: &orchestrator_core::root::Root, _| {
            let mut nodes = root.clusters().flat_map(|(_, _, _, nodes)| nodes.to_vec());
            nodes.any(|node| node.node.name == label("a1") && node.standing == Standing::Alive)
        };
        root.handle.look(nodes).await.unwrap()
    })
    .await;

    // Root's own end lives on as well: whoever joins checks it.
    let token = root.invite(label("paris"), ONCE).unwrap();
    let paris = folder.path().join("paris");
    join(&token, None, &paris, &root.control).await.unwrap();

    // Whoever was removed gets none.
    cluster.desk.forget(JoinRole::Worker, &label("a2")).unwrap();
    let csr = request(&weald_trust::pki::folder::key_in(&net_folder.join("node.key")).unwrap());
    let csr = csr.unwrap();
    let refused = session
        .ask(RenewRequest { csr, ..ask("a2") })
        .await
        .unwrap();
    assert_eq!(
        text(&refused),
        "no worker a2 has joined here, or it was removed; it may join again, with a new token"
    );
    drop(worker);
}

/// It dials for that only; the rest of it is netmanager's `relay_server`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_gets_its_next_certificate_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let [root, cluster, relay, stranger] =
        ["root", "cluster", "relay", "stranger"].map(|name| folder.path().join(name));
    let options = root_options(&root);
    let root = roles::root_with_lives(&options, LIVES).await.unwrap();
    join_munich(&root, &cluster).await;
    let munich = load_cluster(&cluster).unwrap();
    let cluster = roles::cluster_with_lives(&cluster_options(&cluster), LIVES).unwrap();
    let token = cluster.inviter().invite(JoinRole::Relay, ONCE).unwrap();
    join(&token, Some("r1"), &relay, &cluster.control)
        .await
        .unwrap();

    let own = Credentials::load(&relay).unwrap();
    let renewal = Renewal::new(own.clone(), relay.clone());
    let first = own.not_after().unwrap();
    until("it is due", async || renewal.wanted().unwrap().is_some()).await;
    let wanted = renewal.wanted().unwrap().unwrap();
    let mut session = Session::connect(&own, &cluster.control).await.unwrap();
    let answer = session.ask(wanted.clone()).await.unwrap();
    assert!(renewal.take(answer).unwrap() > first);
    assert!(Credentials::load(&relay).unwrap().not_after().unwrap() > first);
    let asked = |role, name: &str| RenewRequest {
        role,
        name: label(name),
        csr: wanted.csr.clone(),
    };
    for (role, name) in [(JoinRole::Worker, "r1"), (JoinRole::Relay, "r2")] {
        let refused = session.ask(asked(role, name)).await.unwrap();
        assert_eq!(
            text(&refused),
            format!(
                "relay munich/r1 may ask for a new certificate of its own only, not for {role} {name}"
            )
        );
    }
    // One with a certificate of the cluster that has not joined there.
    let r2 = Identity::Relay(RelayId::new(label("munich"), label("r2")));
    let issued = munich.issue(&r2, SystemTime::now()).unwrap();
    let key = issued.key_pem();
    std::fs::create_dir(&stranger).unwrap();
    std::fs::write(stranger.join("node.key"), key).unwrap();
    let r2 = issued.credentials(None, Clock::system()).unwrap();
    let mut session = Session::connect(&r2, &cluster.control).await.unwrap();
    let key = weald_trust::pki::folder::key_in(&stranger.join("node.key")).unwrap();
    let refused = session
        .ask(RenewRequest {
            csr: request(&key).unwrap(),
            ..asked(JoinRole::Relay, "r2")
        })
        .await
        .unwrap();
    assert_eq!(
        text(&refused),
        "no relay r2 has joined here, or it was removed; it may join again, with a new token"
    );
}

/// What an issuer knows counts, not what the handshake once accepted.
#[test]
fn whoever_was_revoked_since_it_connected_gets_none() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let root = RootAuthority::create(&label("main"), now).unwrap();
    let keys = ClusterKeys::new(root.cluster(&label("munich"), now).unwrap());
    let control = keys.now().issue(&Identity::Control(label("munich")), now);
    let control = control.unwrap().credentials(None, Clock::system()).unwrap();
    let desk = Arc::new(JoinDesk::open(folder.path()).unwrap());
    let addresses = ["192.0.2.1:1".to_owned()];
    let (_, token) = desk
        .issue(JoinRole::Worker, label("munich"), [1; 32], &addresses, ONCE)
        .unwrap();
    let token: JoinToken = token.parse().unwrap();
    let key = new_key().unwrap();
    let csr = request(&key).unwrap();
    let wanted = JoinRequest {
        secret: token.secret,
        role: JoinRole::Worker,
        name: label("a1"),
        csr: csr.clone(),
    };
    desk.redeem(&wanted, || Ok(())).unwrap();
    let peer = Peer {
        identity: Identity::Node(NodeId::new(label("munich"), label("a1"))),
        spki_sha256: weald_trust::pki::key_hash(&csr).unwrap(),
    };
    let issuer = Issuer::new(Authority::Cluster(keys), Arc::clone(&desk), control.clone());
    let wanted = RenewRequest {
        role: JoinRole::Worker,
        name: label("a1"),
        csr,
    };
    let answer = issuer.answer(&peer, &wanted);
    assert!(
        matches!(answer, RenewResponse::Renewed { .. }),
        "{answer:?}"
    );
    let mut revoked = RevocationSet::default();
    revoked.keys.insert(peer.spki_sha256);
    control.set_revoked(revoked);
    assert_eq!(
        text(&issuer.answer(&peer, &wanted)),
        "the key of node munich/a1 was revoked; it may join again, with a new token and a new key"
    );
}
