//! Links between real endpoints on loopback.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::SystemTime;

use quinn::Endpoint;
use weald_proto::control::{ClusterToWorker, VERSION, WorkerToCluster};
use weald_proto::id::{Identity, Label, NodeId};
use weald_trust::pki::{ClusterAuthority, RootAuthority};
use weald_trust::tls::{Clock, Credentials, Expected};

use super::*;

const ALPN: &[u8] = weald_proto::control::CLUSTER_ALPN;

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn cluster() -> ClusterAuthority {
    let now = SystemTime::now();
    let root = RootAuthority::create(&label("main"), now).unwrap();
    root.cluster(&label("munich"), now).unwrap()
}

fn credentials(cluster: &ClusterAuthority, identity: &Identity) -> Credentials {
    let issued = cluster.issue(identity, SystemTime::now()).unwrap();
    issued.credentials(None, Clock::system()).unwrap()
}

fn node(name: &str) -> Identity {
    Identity::Node(NodeId::new(label("munich"), label(name)))
}

#[derive(Debug, PartialEq)]
enum Seen {
    Connected(String),
    Heard(WorkerToCluster),
    Disconnected,
}

/// A listener that answers Hello, and what it sees.
fn upper(cluster: &ClusterAuthority) -> (Endpoint, Receiver<Seen>, Arc<Switchboard<String>>) {
    let own = credentials(cluster, &Identity::Control(label("munich")));
    let members = Expected::MemberOf(label("munich"));
    let crypto = own.server_config_for(members, &[ALPN]).unwrap();
    let endpoint = listen(
        (Ipv4Addr::LOCALHOST, 0).into(),
        server_config(crypto),
        &[7; 32],
    )
    .unwrap();
    let board = Arc::new(Switchboard::<String>::default());
    let (seen, events) = channel();
    let (accepting, lines) = (endpoint.clone(), Arc::clone(&board));
    tokio::spawn(async move {
        accept(&accepting, move |accepted| {
            let (seen, board) = (seen.clone(), Arc::clone(&lines));
            async move {
                let peer = accepted.peer.unwrap().identity.to_string();
                let (outbox, waiting) = outbox();
                let connection = accepted.connection.clone();
                let number = board.connect(&peer, outbox, connection, || {
                    seen.send(Seen::Connected(peer.clone())).unwrap();
                });
                let hear = |message: WorkerToCluster| {
                    if matches!(message, WorkerToCluster::Hello { .. }) {
                        board.say(&peer, &ClusterToWorker::Welcome { version: VERSION });
                    }
                    board.hear(&peer, number, || seen.send(Seen::Heard(message)).unwrap())
                };
                converse(&accepted.connection, accepted.streams, waiting, hear).await;
                board.disconnect(&peer, number, || {
                    seen.send(Seen::Disconnected).unwrap();
                });
            }
        })
        .await;
    });
    (endpoint, events, board)
}

fn hello() -> WorkerToCluster {
    WorkerToCluster::Heartbeat {
        sequence: 7,
        cpu_percent: 1.0,
        memory_mib: 2,
    }
}

async fn lower(credentials: &Credentials, upper: &Endpoint) -> anyhow::Result<Dialled> {
    let crypto = credentials.client_config(&Identity::Control(label("munich")), ALPN)?;
    let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
    let names = [upper.local_addr()?.to_string()];
    dial_once(&endpoint, &names, &client_config(crypto)).await
}

async fn next(events: Receiver<Seen>) -> (Seen, Receiver<Seen>) {
    tokio::task::spawn_blocking(|| {
        let seen = events.recv_timeout(Duration::from_secs(20)).unwrap();
        (seen, events)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_pass_both_ways_until_the_link_is_closed() {
    let cluster = cluster();
    let (upper, events, board) = upper(&cluster);
    let own = credentials(&cluster, &node("a1"));
    let dialled = lower(&own, &upper).await.unwrap();
    let (outbox, waiting) = outbox();
    post(&outbox, &hello()).unwrap();
    let connection = dialled.connection.clone();
    let (heard, mut answers) = mpsc::unbounded_channel();
    let talk = tokio::spawn(async move {
        converse(
            &dialled.connection,
            dialled.streams,
            waiting,
            |it: ClusterToWorker| {
                heard.send(it).unwrap();
                true
            },
        )
        .await
    });
    let (seen, events) = next(events).await;
    assert_eq!(seen, Seen::Connected("node munich/a1".to_owned()));
    let (seen, events) = next(events).await;
    assert_eq!(seen, Seen::Heard(hello()));
    let peer = "node munich/a1".to_owned();
    board.say(&peer, &ClusterToWorker::Acknowledged { sequence: 3 });
    let answer = answers.recv().await.unwrap();
    assert_eq!(answer, ClusterToWorker::Acknowledged { sequence: 3 });
    board.close(&peer, "enough");
    let why = talk.await.unwrap();
    assert!(why.contains("enough"), "{why}");
    assert!(connection.close_reason().is_some());
    let (seen, _) = next(events).await;
    assert_eq!(seen, Seen::Disconnected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_connection_takes_the_place_of_the_first() {
    let cluster = cluster();
    let (upper, events, _board) = upper(&cluster);
    let own = credentials(&cluster, &node("a1"));
    let mut former = lower(&own, &upper).await.unwrap();
    let message = framed(&hello().encode().unwrap());
    former.streams.0.write_all(&message).await.unwrap();
    let (_, events) = next(events).await;
    let (_, events) = next(events).await;
    let mut later = lower(&own, &upper).await.unwrap();
    later.streams.0.write_all(&message).await.unwrap();
    // Nothing is said of the end of the first: it was replaced.
    let (seen, events) = next(events).await;
    assert_eq!(seen, Seen::Connected("node munich/a1".to_owned()));
    let (seen, _events) = next(events).await;
    assert_eq!(seen, Seen::Heard(hello()));
    let why = former.connection.closed().await.to_string();
    assert!(why.contains("another connection"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_malformed_messages_are_refused_with_a_reason() {
    let cluster = cluster();
    let (upper, events, _board) = upper(&cluster);
    // The same names under another root.
    let foreign = credentials(&self::cluster(), &node("a1"));
    lower(&foreign, &upper).await.unwrap_err();
    // The orchestrator itself is no worker.
    let control = credentials(&cluster, &Identity::Control(label("munich")));
    let refused = async {
        let mut dialled = lower(&control, &upper).await?;
        dialled.streams.0.write_all(b"x").await?;
        anyhow::Ok(dialled.connection.closed().await.to_string())
    };
    let refused = refused.await.unwrap_or_else(|error| format!("{error:#}"));
    assert!(refused.contains("munich"), "{refused}");

    let own = credentials(&cluster, &node("a1"));
    for (bytes, expected) in [
        (vec![0xff; 4], "a message of 4294967295 bytes"),
        (vec![0, 0, 0, 1, 0xff], "not a protobuf message"),
        (vec![0, 0, 0, 0], "of no kind that this version knows"),
    ] {
        let mut dialled = lower(&own, &upper).await.unwrap();
        dialled.streams.0.write_all(&bytes).await.unwrap();
        let why = dialled.connection.closed().await.to_string();
        assert!(why.contains(expected), "{why}");
    }
    let heard = events.try_iter().any(|seen| matches!(seen, Seen::Heard(_)));
    assert!(!heard, "something was heard of a stranger");
}
