//! The control ports of root and of a cluster.

use std::time::{Duration, Instant, SystemTime};

use orchestrator::roles;
use orchestrator_core::root::{Command, Distrusted, Root, Scope};
use weald_proto::codec::Message as _;
use weald_proto::control::{CLUSTER_ALPN, ClusterToRoot, ROOT_ALPN, Standing, WorkerToCluster};
use weald_proto::id::{Identity, RelayId};
use weald_proto::session::{ALPN as SESSION_ALPN, NetToCluster};
use weald_proto::stream::framed;
use weald_trust::pki::RootAuthority;
use weald_trust::pki::folder::load_cluster;
use weald_trust::tls::Clock;

use super::shown::{Port, Shown, dial, forged, refusal, shown, stolen};
use super::site::{SOON, Site, control, must_change_nothing, node};
use super::start::{ONCE, cluster_options, join, label};

/// Longer than any certificate of a member lives.
const LONG_AGO: Duration = Duration::from_hours(40 * 24);

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
        must_change_nothing(&site, &before, &told, (what, text)).await;
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
            must_change_nothing(&site, &before, &told, (what, text)).await;
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
            let what = format!("{:?}", upper.0);
            must_change_nothing(&site, &before, &told, (&what, text)).await;
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
        must_change_nothing(&site, &before, &told, ("paris", text)).await;
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
    let before = site.shown().await;
    let told = refusal(&a2, upper, &[0xff; 4]).await;
    must_change_nothing(&site, &before, &told, ("munich/a2", "it is revoked")).await;
}
