//! The relay's certificate lives on: by its cluster, or by a file that somebody else has written,
//! and nodes that are registered notice nothing.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use weald_proto::codec::MAX_MESSAGE_LEN;
use weald_proto::codec::Message as _;
use weald_proto::join::RenewResponse;
use weald_proto::session::{ALPN, ClusterToNet, NetToCluster};
use weald_proto::stream::{Deframer, framed};
use weald_trust::pki::folder::key_in;
use weald_trust::pki::{Certificate, Lives, request};
use weald_trust::tls::{CA_FILE, CHAIN_FILE, Expected, KEY_FILE};

use super::*;

/// Of a member's certificate.
const LIFE: Duration = Duration::from_secs(36);
/// Such a certificate is due one to four seconds later: two thirds of its life have passed then,
/// and up to a twelfth more.
const AGE: Duration = Duration::from_secs(23);

/// A folder as joining leaves it, with a certificate that was issued so long ago.
fn folder(cluster: &ClusterAuthority, id: &Identity, age: Duration) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    key_in(&path.join(KEY_FILE)).unwrap();
    put(cluster, id, path, age);
    let root = Certificate::from_der(cluster.trust().certificate().clone()).pem;
    fs::write(path.join(CA_FILE), root).unwrap();
    folder
}

/// Puts a certificate for the folder's key into it.
fn put(cluster: &ClusterAuthority, id: &Identity, folder: &Path, age: Duration) {
    let csr = request(&key_in(&folder.join(KEY_FILE)).unwrap()).unwrap();
    let chain = cluster
        .issue_for_csr(id, &csr, SystemTime::now() - age)
        .unwrap();
    fs::write(folder.join(CHAIN_FILE), chain.pem()).unwrap();
}

fn start(folder: &Path, cluster: &[String]) -> RelayServer {
    RelayServer::start(&RelayConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        tcp_listen: Some(Vec::new()),
        pki_dir: folder.to_owned(),
        cluster: cluster.to_vec(),
        rate_bits_per_second: 0,
        status: None,
    })
    .unwrap()
}

#[test]
fn a_relay_lives_on_beyond_its_first_certificate() {
    let whole = cluster();
    let short = || {
        let same = whole.with_certificate(whole.certificate().clone()).unwrap();
        same.with_lives(Lives {
            member: LIFE,
            ..Lives::default()
        })
    };
    let identity = Identity::Relay(RelayId::new(label("munich"), label("r1")));
    let folder = folder(&short(), &identity, AGE);
    let issuer = Issuer::start(&whole, short());
    // Nobody is at the first address.
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gone = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let upper = [gone, issuer.address.to_string()];
    fs::write(folder.path().join("upper.txt"), upper.join("\n")).unwrap();
    let first = Credentials::load(folder.path())
        .unwrap()
        .not_after()
        .unwrap();
    let world = World {
        cluster: whole,
        identity,
        server: start(folder.path(), &[]),
    };
    assert_eq!(world.report().certificate_expires, first.as_secs());
    let mut a = world.join("a1", "shop");
    let mut b = world.join("b1", "shop");
    let peer = a.open(&node("b1")).result.unwrap();
    let mut number = 0_u32;
    let mut exchange = || {
        number += 1;
        a.send(peer, &number.to_be_bytes());
        assert_eq!(b.receive(), (a.link, number.to_be_bytes().to_vec()));
    };
    // Until the first certificate has ended: every packet arrives meanwhile.
    let clock = Clock::system();
    while clock.now() <= first {
        exchange();
        std::thread::sleep(Duration::from_millis(20));
    }
    let after = world.report_when(|report| report.certificate_expires > first.as_secs());
    exchange();
    assert_eq!(after.registrations, 2);
    assert_eq!(issuer.asked.load(Ordering::Relaxed), 1);
    let kept = Credentials::load(folder.path())
        .unwrap()
        .not_after()
        .unwrap();
    assert_eq!(kept.as_secs(), after.certificate_expires);
    // Whoever comes now sees the new one.
    drop(world.join("c1", "shop"));
    world.server.stop().unwrap();
}

#[test]
fn a_certificate_that_is_put_into_the_folder_is_shown_without_a_restart() {
    let authority = cluster();
    let identity = Identity::Relay(RelayId::new(label("munich"), label("r1")));
    let folder = folder(&authority, &identity, Duration::from_secs(3600));
    let first = Credentials::load(folder.path())
        .unwrap()
        .not_after()
        .unwrap();
    let world = World {
        cluster: authority,
        identity: identity.clone(),
        server: start(folder.path(), &[]),
    };
    let registered = world.join("a1", "shop");
    // What cannot be used changes nothing: another key's, and no certificate.
    let path = folder.path().join(CHAIN_FILE);
    let foreign = world.cluster.issue(&identity, SystemTime::now()).unwrap();
    for bytes in [foreign.chain().pem().into_bytes(), b"x".to_vec()] {
        fs::write(&path, bytes).unwrap();
    }
    put(&world.cluster, &identity, folder.path(), Duration::ZERO);
    let now = world.report_when(|report| report.certificate_expires > first.as_secs());
    let kept = Credentials::load(folder.path())
        .unwrap()
        .not_after()
        .unwrap();
    assert_eq!(now.certificate_expires, kept.as_secs());
    assert_eq!(now.registrations, 1);
    assert!(registered.lost.is_none());
    world.server.stop().unwrap();
}

/// A cluster that renews, and says nothing else.
struct Issuer {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Issuer {
    fn start(cluster: &ClusterAuthority, issuing: ClusterAuthority) -> Self {
        let control = Identity::Control(cluster.name().clone());
        let own = cluster.issue(&control, SystemTime::now()).unwrap();
        let own = own.credentials(None, Clock::system()).unwrap();
        let members = Expected::MemberOf(cluster.name().clone());
        let crypto = own.server_config_for(members, &[ALPN]).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let entered = runtime.enter();
        let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        drop(entered);
        let address = endpoint.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        runtime.spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let connection = incoming.await.unwrap();
                let (mut send, mut recv) = connection.accept_bi().await.unwrap();
                let mut deframer = Deframer::new(MAX_MESSAGE_LEN);
                let mut buffer = [0; 4096];
                let message = loop {
                    if let Some(message) = deframer.next_message().unwrap() {
                        break NetToCluster::decode(message).unwrap();
                    }
                    let len = recv.read(&mut buffer).await.unwrap().unwrap();
                    deframer.feed(&buffer[..len]);
                };
                let NetToCluster::Renew(wanted) = message else {
                    panic!("{message:?}");
                };
                count.fetch_add(1, Ordering::Relaxed);
                let relay = Identity::Relay(RelayId::new(label("munich"), wanted.name));
                let chain = issuing.issue_for_csr(&relay, &wanted.csr, SystemTime::now());
                let chain = chain
                    .unwrap()
                    .ders()
                    .iter()
                    .map(|der| der.to_vec())
                    .collect();
                let answer = ClusterToNet::Renewed(RenewResponse::Renewed { chain });
                send.write_all(&framed(&answer.encode().unwrap()))
                    .await
                    .unwrap();
                connection.closed().await;
            }
        });
        Self {
            address,
            asked,
            _runtime: runtime,
        }
    }
}
