//! A thousand who redeem one token at the same moment: exactly one is let in.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use orchestrator::link::{self, Dialled};
use quinn::{ClientConfig, Connection, Endpoint};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use weald_proto::codec::Message as _;
use weald_proto::join::{JoinResponse, JoinRole};
use weald_trust::join::{JoinToken, client_config};
use weald_trust::pki::{new_key, request};
use weald_trust::tls::Clock;

use super::joining::asked;
use super::site::{Seen, Site};
use super::start::{ONCE, label};

const CROWD: usize = 1000;
/// How many shake hands at the same time: more of them keep each other from ending in time.
const SHAKING: usize = 16;
/// How long it may take until all are connected at once, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A thousand ask a cluster, each for a name of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_workers_that_redeem_a_token_at_once_one_is_let_in() {
    let site = Site::start().await;
    let token = site.cluster.inviter().invite(JoinRole::Worker, ONCE);
    let before = site.shown().await;
    let crowd = Crowd::new(&site.cluster.joining, &token.unwrap());
    let name = |number| format!("w{number}");
    let admitted = crowd.ask(
        JoinRole::Worker,
        name,
        "was used 1 of 1 times; ask for a new one",
    );
    let admitted = admitted.await;
    site.honest_traffic_flows().await;
    let after = site.shown().await;
    let of_cluster = joined(
        &before.of_cluster,
        &after.of_cluster,
        &format!("worker/{admitted}"),
    );
    assert_eq!(
        after,
        Seen {
            of_cluster,
            ..before
        }
    );
}

/// A thousand with keys of their own ask root to be the cluster that it has invited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_clusters_that_redeem_a_token_at_once_one_is_let_in() {
    let site = Site::start().await;
    let token = site.root.invite(label("paris"), ONCE).unwrap();
    let before = site.shown().await;
    let crowd = Crowd::new(&site.root.joining, &token);
    let refused = "cluster paris has joined already with another key";
    crowd
        .ask(JoinRole::Cluster, |_| "paris".to_owned(), refused)
        .await;
    site.honest_traffic_flows().await;
    let mut after = site.shown().await;
    // Root knows the one that it has let in.
    let (of_paris, others): (Vec<_>, Vec<_>) =
        after.tiers.lines().partition(|line| line.contains("paris"));
    assert_eq!(of_paris.len(), 1, "{of_paris:?}");
    after.tiers = others.join("\n");
    let of_root = joined(&before.of_root, &after.of_root, "cluster/paris");
    assert_eq!(after, Seen { of_root, ..before });
}

/// A book of tokens after its newest one was used once, by this member.
fn joined(before: &Value, after: &Value, member: &str) -> Value {
    let mut book = before.clone();
    book["members"][member] = after["members"][member].clone();
    let tokens = book["book"]["tokens"].as_array_mut().unwrap();
    tokens.last_mut().unwrap()["used"] = 1.into();
    book
}

/// Those who have one token, and where they stand.
#[derive(Clone)]
struct Crowd {
    token: Arc<JoinToken>,
    port: [String; 1],
    endpoint: Endpoint,
    config: ClientConfig,
    shaking: Arc<Semaphore>,
    /// Passed when all are connected, and then when all have begun to ask.
    connected: Arc<Gate>,
    begun: Arc<Gate>,
}

impl Crowd {
    fn new(port: &Endpoint, token: &str) -> Self {
        let token: JoinToken = token.parse().unwrap();
        Self {
            port: [port.local_addr().unwrap().to_string()],
            endpoint: Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap(),
            config: link::client_config(client_config(&token, Clock::system()).unwrap()),
            token: Arc::new(token),
            shaking: Arc::new(Semaphore::new(SHAKING)),
            connected: Arc::default(),
            begun: Arc::default(),
        }
    }

    /// All of them ask, each with a key of its own; returns the name of the only one that is let in.
    /// The others hear `refused`.
    async fn ask(self, role: JoinRole, name: impl Fn(usize) -> String, refused: &str) -> String {
        let mut crowd = JoinSet::new();
        for number in 0..CROWD {
            let (own, name) = (self.clone(), name(number));
            let csr = request(&new_key().unwrap()).unwrap();
            let wanted = asked(&self.token, role, &name, csr);
            crowd.spawn(async move { (name, own.one(&wanted).await) });
        }
        let answers = tokio::time::timeout(PATIENCE, crowd.join_all()).await;
        let mut admitted = Vec::new();
        for (name, answer) in answers.unwrap() {
            match answer {
                JoinResponse::Admitted { .. } => admitted.push(name),
                JoinResponse::Refused { text } => assert!(text.contains(refused), "{text}"),
            }
        }
        assert_eq!(admitted.len(), 1, "{admitted:?}");
        admitted.remove(0)
    }

    /// One of them asks. The port does not wait for ever for those who say nothing: whom it has cut
    /// off comes again, and asks with the same key.
    async fn one(&self, wanted: &[u8]) -> JoinResponse {
        loop {
            let dialled = self.connect().await;
            if let Ok(answer) = self.answer(dialled, wanted).await {
                return answer;
            }
        }
    }

    /// The last byte is said when all are about to say it.
    async fn answer(&self, dialled: Dialled, wanted: &[u8]) -> anyhow::Result<JoinResponse> {
        let Dialled {
            connection,
            streams: (mut send, mut recv),
        } = dialled;
        let (last, first) = wanted.split_last().context("nothing to say")?;
        self.connected.pass(&connection).await?;
        send.write_all(first).await?;
        self.begun.pass(&connection).await?;
        send.write_all(&[*last]).await?;
        send.finish()?;
        let answer = recv.read_to_end(1 << 16).await?;
        let message = answer.get(4..).context("no message")?;
        Ok(JoinResponse::decode(message)?)
    }

    async fn connect(&self) -> Dialled {
        loop {
            let turn = self.shaking.acquire().await.unwrap();
            let dialled = link::dial_once(&self.endpoint, &self.port, &self.config).await;
            drop(turn);
            if let Ok(dialled) = dialled {
                return dialled;
            }
        }
    }
}

/// Opens for good as soon as all of the crowd stand before it.
#[derive(Default)]
struct Gate {
    standing: AtomicUsize,
    open: watch::Sender<bool>,
}

impl Gate {
    /// Waits until it is open, or the connection is lost.
    async fn pass(&self, connection: &Connection) -> anyhow::Result<()> {
        if self.standing.fetch_add(1, Ordering::SeqCst) + 1 == CROWD {
            self.open.send_replace(true);
        }
        let mut open = self.open.subscribe();
        tokio::select! {
            opened = open.wait_for(|open| *open) => drop(opened?),
            lost = connection.closed() => {
                self.standing.fetch_sub(1, Ordering::SeqCst);
                return Err(lost.into());
            }
        }
        Ok(())
    }
}
