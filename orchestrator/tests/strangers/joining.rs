//! The ports at which others join: tokens that are used, expired, or redeemed by a thousand at once.

use std::net::Ipv4Addr;
use std::time::Duration;

use orchestrator::link;
use orchestrator_core::root::{Command, Scope};
use quinn::Endpoint;
use weald_proto::codec::Message as _;
use weald_proto::join::{JoinRequest, JoinResponse, JoinRole};
use weald_proto::stream::framed;
use weald_trust::join::{JoinToken, client_config};
use weald_trust::pki::{new_key, request};
use weald_trust::tls::Clock;

use super::site::{Site, must_change_nothing};
use super::start::{ONCE, label};

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
        let ask = |name, role| asked(&token, role, name, request(&new_key().unwrap()).unwrap());
        let answer = say(port, &token, &ask(name, role)).await;
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
                ask(name, role),
                "has joined already with another key",
            ),
            ("a used token", ask(again, role), used),
            ("another role", ask(name, wrong.0), wrong.1),
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
            let told = refused(port, &token, &bytes, what).await;
            must_change_nothing(&site, &before, &told, (what, text)).await;
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
        let wanted = asked(&token, role, "paris", csr);
        let told = refused(port, &token, &wanted, "an expired token").await;
        let start = format!("join token {id} expired at {expires}; it is now ");
        let now = told.strip_prefix(&start);
        let now = now.unwrap_or_else(|| panic!("{told}"));
        let now = now.strip_suffix(" (seconds since 1970); ask for a new one");
        assert!(now.unwrap().parse::<u64>().unwrap() >= expires, "{told}");
        must_change_nothing(&site, &before, &told, ("an expired token", &start)).await;
    }
}

/// A good token is of use still when a request for it was refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_ports_refuse_what_proves_no_key_and_take_no_token_for_it() {
    let site = Site::start().await;
    let clusters = site.root.invite(label("paris"), ONCE).unwrap();
    let workers = site.cluster.inviter().invite(JoinRole::Worker, ONCE);
    for (port, token, role) in [
        (&site.root.joining, clusters, JoinRole::Cluster),
        (&site.cluster.joining, workers.unwrap(), JoinRole::Worker),
    ] {
        let token: JoinToken = token.parse().unwrap();
        let good = request(&new_key().unwrap()).unwrap();
        let before = site.shown().await;
        let mut forged = good.clone();
        *forged.last_mut().unwrap() ^= 1;
        for (csr, text) in [
            (Vec::new(), "is not a readable PKCS#10 request"),
            (vec![0; 5000], "has 5000 bytes"),
            (forged, "is not signed by the key that it is for"),
        ] {
            let wanted = asked(&token, role, "paris", csr);
            let told = refused(port, &token, &wanted, text).await;
            must_change_nothing(&site, &before, &told, ("no key", text)).await;
        }
        let answer = say(port, &token, &asked(&token, role, "paris", good)).await;
        let admitted = matches!(answer, JoinResponse::Admitted { .. });
        assert!(admitted, "{answer:?}");
    }
}

/// Its name is free again, and the key that it had is revoked: with another one it joins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_cluster_joins_again_with_another_key_only() {
    let site = Site::start().await;
    let paris = label("paris");
    let token = || -> JoinToken {
        site.root
            .invite(paris.clone(), ONCE)
            .unwrap()
            .parse()
            .unwrap()
    };
    let ask =
        |token: &JoinToken, csr: &[u8]| asked(token, JoinRole::Cluster, "paris", csr.to_vec());
    let (port, csr) = (&site.root.joining, request(&new_key().unwrap()).unwrap());
    let first = token();
    let answer = say(port, &first, &ask(&first, &csr)).await;
    assert!(
        matches!(answer, JoinResponse::Admitted { .. }),
        "{answer:?}"
    );
    let remove = Command::RemoveCluster(paris.clone());
    site.root.handle.command(remove, Scope::All).await.unwrap();
    site.root.desk.forget(JoinRole::Cluster, &paris).unwrap();

    let second = token();
    let before = site.shown().await;
    let told = refused(port, &second, &ask(&second, &csr), "a revoked key").await;
    let why = "the key of cluster paris is revoked";
    must_change_nothing(&site, &before, &told, ("a revoked key", why)).await;
    let other = request(&new_key().unwrap()).unwrap();
    let answer = say(port, &second, &ask(&second, &other)).await;
    assert!(
        matches!(answer, JoinResponse::Admitted { .. }),
        "{answer:?}"
    );
}

/// What is said to redeem a token.
pub(super) fn asked(token: &JoinToken, role: JoinRole, name: &str, csr: Vec<u8>) -> Vec<u8> {
    let wanted = JoinRequest {
        secret: token.secret,
        role,
        name: label(name),
        csr,
    };
    framed(&wanted.encode().unwrap())
}

/// Says bytes at a port for joining, and hears why nobody is let in for them.
async fn refused(port: &Endpoint, token: &JoinToken, bytes: &[u8], what: &str) -> String {
    match say(port, token, bytes).await {
        JoinResponse::Refused { text } => text,
        JoinResponse::Admitted { .. } => panic!("{what}: admitted"),
    }
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
