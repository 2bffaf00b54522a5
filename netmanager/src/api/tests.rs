//! The API over a real socket: who is let in, its bounds, and what it answers.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use netmanager_core::table::{Nodes, Snapshot};
use rustix::fs::{Gid, Uid};
use tokio::runtime::Runtime;

use super::access::Caller;
use super::client::{Client, ClientError};
use super::hosting::{AttachedReport, Attacher, Attachment, BenchOffer, Hosting};
use super::inspect::{FlowFilter, Inspect, Inspector, Unavailable};
use super::message::{Answer, ErrorCode, MAX_REQUEST_BYTES, Request};
use super::report::*;
use super::server::ApiServer;
use super::{About, ApiContext};
use crate::config::load_table;

/// A packet thread that answers at once, or never.
#[derive(Debug)]
struct Canned {
    answers: bool,
}

impl Inspector for Canned {
    fn submit(&self, question: Inspect) -> Result<(), Unavailable> {
        if !self.answers {
            return Err(Unavailable);
        }
        match question {
            Inspect::Status(reply) => reply.send(PacketStatus::default()),
            Inspect::Peers(reply) => reply.send(vec![PeerReport::default()]),
            Inspect::Flows(filter, reply) => {
                assert_eq!(filter.source_port, Some(7));
                reply.send(Vec::new());
            }
            Inspect::Explain(query, reply) => reply.send(
                query
                    .policies
                    .iter()
                    .map(|policy| PolicyExplanation {
                        policy: policy.word().to_owned(),
                        ..PolicyExplanation::default()
                    })
                    .collect(),
            ),
            // Dropped unanswered.
            Inspect::Counters(_) | Inspect::Network(_) | Inspect::Knock(..) => {}
        }
        Ok(())
    }
}

/// A daemon's thread that says what it was asked, or is stopping.
#[derive(Debug)]
struct CannedHost {
    answers: bool,
    changes: Arc<AtomicUsize>,
}

impl Attacher for CannedHost {
    fn submit(&self, request: Hosting) -> Result<(), Unavailable> {
        if !self.answers {
            return Err(Unavailable);
        }
        if !matches!(request, Hosting::List(_)) {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        match request {
            Hosting::Attach(attached, reply) => reply.send(Ok(AttachedReport {
                attachment: Attachment::from(&attached),
                netns: "/run/netns/x".into(),
                resolv_conf: "/run/weald/x".into(),
            })),
            Hosting::Detach(instance, generation, reply) => {
                reply.send(Ok(instance.number == 1 && generation == Some(2)));
            }
            Hosting::List(reply) => reply.send(Vec::new()),
            Hosting::Bench(peer, seconds, reply) => reply.send(Ok(BenchOffer {
                peer: peer.to_string(),
                own: IpAddr::from([10, 30, 0, 1]),
                address: IpAddr::from([10, 30, 0, 2]),
                port: 7,
                bare_port: None,
                token: seconds.to_be_bytes().to_vec(),
            })),
        }
        Ok(())
    }
}

struct Daemon {
    _runtime: Runtime,
    changes: Arc<AtomicUsize>,
    folder: tempfile::TempDir,
}

impl Daemon {
    fn start(answers: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop.toml");
        let table = load_table(&examples).unwrap();
        let node = "site-a/a1".parse().unwrap();
        let snapshot = Snapshot::build(&table, &node, &mut Nodes::new(), 1);
        let changes = Arc::<AtomicUsize>::default();
        let context = Arc::new(ApiContext {
            about: About {
                node,
                overlay: "weald-a1".into(),
                listen: "0.0.0.0:10260".parse().unwrap(),
                started: Instant::now(),
            },
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            table: Arc::new(ArcSwap::from_pointee(TableReport::default())),
            cluster: None,
            gateways: None,
            inspector: Arc::new(Canned { answers }),
            host: Arc::new(CannedHost {
                answers,
                changes: Arc::clone(&changes),
            }),
            names: Arc::default(),
            nft: None,
            userspace: None,
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let entered = runtime.enter();
        let server = ApiServer::bind(&folder.path().join("api.sock")).unwrap();
        drop(entered);
        runtime.spawn(server.serve(context));
        Self {
            _runtime: runtime,
            changes,
            folder,
        }
    }

    /// How often it was asked to attach or detach.
    fn changes(&self) -> usize {
        self.changes.load(Ordering::Relaxed)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    fn ask(&self, request: &Request) -> Result<Answer, ClientError> {
        Client::connect(&self.socket())?.ask(request)
    }

    fn ask_raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(bytes).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    }
}

fn explain(name: &str, from: Option<&str>) -> Request {
    Request::Explain {
        name: name.to_owned(),
        from: from.map(ToOwned::to_owned),
    }
}

fn code(answer: Result<Answer, ClientError>) -> (ErrorCode, String) {
    match answer {
        Err(ClientError::Api(error)) => (error.code, error.message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_request_has_its_answer() {
    let daemon = Daemon::start(true);
    let Answer::Status(status) = daemon.ask(&Request::Status {}).unwrap() else {
        panic!("another answer")
    };
    assert_eq!(status.node, "site-a/a1");
    assert_eq!(status.organisation.as_deref(), Some("acme"));
    assert_eq!(status.packets, Some(PacketStatus::default()));
    let filter = FlowFilter {
        source_port: Some(7),
        ..FlowFilter::default()
    };
    assert_eq!(
        daemon.ask(&Request::Flows { filter }).unwrap(),
        Answer::Flows(Vec::new())
    );
    assert_eq!(
        daemon.ask(&Request::Peers {}).unwrap(),
        Answer::Peers(vec![PeerReport::default()])
    );
    assert_eq!(
        code(daemon.ask(&Request::Counters {})),
        (
            ErrorCode::Unavailable,
            "the packet thread has no answer".to_owned()
        )
    );
}

#[test]
fn instances_are_attached_and_detached() {
    let daemon = Daemon::start(true);
    let attachment = Attachment {
        instance: "shop.prod.web.prod.1".to_owned(),
        generation: 2,
        ipv4: Some("10.30.0.9".parse().unwrap()),
        ipv6: None,
        organisation: Some("acme".to_owned()),
        ports: vec!["8080:80/tcp".to_owned()],
    };
    let Answer::Attached(report) = daemon.ask(&Request::Attach(attachment.clone())).unwrap() else {
        panic!("another answer")
    };
    assert_eq!(report.attachment, attachment);
    for (field, wrong) in [
        (
            "ports: ",
            Attachment {
                ports: vec!["80".to_owned()],
                ..attachment.clone()
            },
        ),
        (
            "instance: ",
            Attachment {
                instance: "web".to_owned(),
                ..attachment.clone()
            },
        ),
        (
            "organisation: ",
            Attachment {
                organisation: Some("a b".to_owned()),
                ..attachment
            },
        ),
    ] {
        let (wrong, text) = code(daemon.ask(&Request::Attach(wrong)));
        assert_eq!(wrong, ErrorCode::BadRequest);
        assert!(text.starts_with(field), "{text}");
    }
    let detach = |number: u32| Request::Detach {
        instance: format!("shop.prod.web.prod.{number}"),
        generation: Some(2),
    };
    assert_eq!(daemon.ask(&detach(1)).unwrap(), Answer::Detached(true));
    assert_eq!(daemon.ask(&detach(2)).unwrap(), Answer::Detached(false));
    let list = daemon.ask(&Request::Attached {}).unwrap();
    assert_eq!(list, Answer::Attachments(Vec::new()));
    let stopping = Daemon::start(false);
    let (unavailable, text) = code(stopping.ask(&detach(1)));
    assert_eq!(unavailable, ErrorCode::Unavailable);
    assert_eq!(text, "the daemon is stopping");
}

#[test]
fn names_are_looked_up_for_the_host_or_for_an_instance() {
    let daemon = Daemon::start(true);
    let Answer::Explanation(found) = daemon
        .ask(&explain("Shop.prod.web.prod.any.rr.local", None))
        .unwrap()
    else {
        panic!("another answer")
    };
    assert_eq!(found.name, "shop.prod.web.prod.any.rr");
    assert_eq!(found.policies.len(), 2);
    assert_eq!(
        found.addresses,
        [
            "10.30.100.1".parse::<std::net::IpAddr>().unwrap(),
            "fdff:2000::1".parse().unwrap()
        ]
    );
    let (wrong, text) = code(daemon.ask(&explain("web.prod.rr", None)));
    assert_eq!(wrong, ErrorCode::BadRequest);
    assert!(text.contains("write appname.appns.web.prod"), "{text}");
    assert!(
        daemon
            .ask(&explain("web.prod.rr", Some("shop.prod.client.prod.0")))
            .is_ok()
    );
    assert_eq!(
        code(daemon.ask(&explain("web.prod.rr", Some("nobody")))),
        (
            ErrorCode::NotFound,
            "this node has no instance \"nobody\"; it has shop.prod.client.prod.0".to_owned()
        )
    );
    let (missing, text) = code(daemon.ask(&explain("shop.prod.wbe.prod.rr", None)));
    assert_eq!(missing, ErrorCode::NotFound);
    assert!(text.contains("did you mean"), "{text}");
}

#[test]
fn without_a_packet_thread_the_status_still_comes() {
    let daemon = Daemon::start(false);
    let Answer::Status(status) = daemon.ask(&Request::Status {}).unwrap() else {
        panic!("another answer")
    };
    assert_eq!(status.packets, None);
    assert_eq!(
        code(daemon.ask(&Request::Peers {})),
        (
            ErrorCode::Unavailable,
            "the packet thread does not answer".to_owned()
        )
    );
}

#[test]
fn what_is_no_request_gets_an_error() {
    let daemon = Daemon::start(true);
    let unknown = "{\"answer\":\"error\",\"data\":{\"code\":\"bad_request\",\"message\":\"this is not a request: unknown variant `reboot`, expected one of `status`, `peers`, `flows`, `explain`, `counters`, `network`, `knock`, `attach`, `detach`, `attached`, `echo`, `bench` at line 1 column 19\"}}\n";
    assert_eq!(daemon.ask_raw(b"{\"request\":\"reboot\"}\n"), unknown);
    for bytes in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\n",
        b"{\"request\":\"status\",\"extra\":1}\n",
        b"[[[[[[\n",
    ] {
        let line = daemon.ask_raw(bytes);
        assert!(line.contains("this is not a request"), "{line}");
    }
}

#[test]
fn a_request_without_end_is_cut_off() {
    let daemon = Daemon::start(true);
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let written = stream.write_all(&vec![b' '; MAX_REQUEST_BYTES + 8192]);
    let mut answer = String::new();
    // The server closes with input unread, so the rest of the write may fail.
    let read = stream.read_to_string(&mut answer);
    assert!(
        answer.contains("a request may have 65536 bytes") || written.is_err() || read.is_err(),
        "{answer}"
    );
    assert!(daemon.ask(&Request::Status {}).is_ok());
}

/// Garbage, wrong types, and half a message: each is told what is wrong or just ends, the daemon is asked
/// for nothing, and others that are connected go on.
#[test]
fn what_is_malformed_changes_nothing() {
    let daemon = Daemon::start(true);
    let mut other = Client::connect(&daemon.socket()).unwrap();
    let mut works = || assert!(other.ask(&Request::Status {}).is_ok());
    works();
    let told = |bytes: &[u8]| {
        let answer: Answer = serde_json::from_str(&daemon.ask_raw(bytes)).unwrap();
        let Answer::Error(error) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(error.code, ErrorCode::BadRequest);
        error.message
    };
    for (bytes, text) in [
        (
            &b"\x16\x03\x01\x02\x00\x01\n"[..],
            "this is not a request: expected value at line 1 column 1",
        ),
        (
            b"{\"request\":7}\n",
            "this is not a request: invalid type: integer `7`, expected variant identifier",
        ),
        (
            b"{\"request\":\"detach\",\"instance\":[]}\n",
            "this is not a request: invalid type: sequence, expected a string",
        ),
        (
            b"{\"request\":\"detach\",\"instance\":\"a.b.c.d.1\",\"generation\":-1}\n",
            "this is not a request: invalid value: integer `-1`, expected u64",
        ),
        (
            b"{\"request\":\"attach\",\"instance\":\"a.b.c.d.1\"}\n",
            "this is not a request: missing field `generation`",
        ),
    ] {
        let told = told(bytes);
        assert!(told.starts_with(text), "{told}");
        works();
    }
    // A message that ends in the middle, with its connection or with the client.
    for shutdown in [true, false] {
        let mut half = UnixStream::connect(daemon.socket()).unwrap();
        half.write_all(b"{\"request\":\"detach\",\"inst").unwrap();
        works();
        if shutdown {
            half.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            half.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "");
        }
        drop(half);
        works();
    }
    // One after another that was wrong is answered, on the same connection.
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream
        .write_all(b"[]\n{\"request\":\"attached\"}\n")
        .unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert!(
        lines
            .next()
            .unwrap()
            .unwrap()
            .contains("this is not a request")
    );
    let answer: Answer = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(answer, Answer::Attachments(Vec::new()));
    assert_eq!(daemon.changes(), 0, "nothing was attached or detached");
}

#[test]
fn more_connections_than_slots_are_told_so() {
    let daemon = Daemon::start(true);
    let held: Vec<_> = (0..64)
        .map(|_| {
            let mut client = Client::connect(&daemon.socket()).unwrap();
            client.ask(&Request::Status {}).unwrap();
            client
        })
        .collect();
    let (busy, text) = code(daemon.ask(&Request::Status {}));
    assert_eq!(busy, ErrorCode::Busy);
    assert_eq!(text, "64 connections are open; close some");
    drop(held);
}

#[test]
fn the_socket_is_for_owner_and_group() {
    let daemon = Daemon::start(true);
    let mode = fs::metadata(daemon.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

/// Asks as another user; needs root. Credentials are a thread's own in the kernel.
fn ask_as(socket: PathBuf, uid: u32, gid: u32, groups: &'static [u32]) -> String {
    ask_text_as(socket, "{\"request\":\"status\"}\n", uid, gid, groups)
}

fn ask_text_as(
    socket: PathBuf,
    request: &'static str,
    uid: u32,
    gid: u32,
    groups: &'static [u32],
) -> String {
    std::thread::spawn(move || {
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_groups(&groups).expect("this test needs root");
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        let mut line = String::new();
        let stream = UnixStream::connect(socket).unwrap();
        drop((&stream).write_all(request.as_bytes()));
        let mut reader = BufReader::new(stream);
        reader.read_line(&mut line).unwrap();
        let mut rest = Vec::new();
        if line.contains("may not use this netmanager") {
            // Closed after the refusal; the unread request may make that a reset.
            assert_eq!(reader.read_to_end(&mut rest).unwrap_or(0), 0);
        }
        line
    })
    .join()
    .unwrap()
}

#[test]
fn strangers_are_refused_even_if_the_mode_lets_them_in() {
    let daemon = Daemon::start(true);
    for (path, mode) in [
        (daemon.folder.path().to_owned(), 0o755),
        (daemon.socket(), 0o666),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let refusal = "{\"answer\":\"error\",\"data\":{\"code\":\"refused\",\"message\":\"user 65534 may not use this netmanager; be root, its user 0, or in the socket's group 4711\"}}\n";
    std::os::unix::fs::chown(daemon.socket(), None, Some(4711)).unwrap();
    assert_eq!(ask_as(daemon.socket(), 65534, 65534, &[65534]), refusal);
    let attach =
        "{\"request\":\"attach\",\"instance\":\"shop.prod.web.prod.1\",\"generation\":2}\n";
    let refused = ask_text_as(daemon.socket(), attach, 65534, 4711, &[]);
    assert_eq!(
        refused,
        "{\"answer\":\"error\",\"data\":{\"code\":\"refused\",\"message\":\"only root and the daemon's user may attach and detach instances\"}}\n"
    );
    let bench = "{\"request\":\"bench\",\"peer\":\"site-a/a2\",\"seconds\":1}\n";
    let refused = ask_text_as(daemon.socket(), bench, 65534, 4711, &[]);
    assert!(refused.contains("may run benches"), "{refused}");
    for (gid, groups) in [(4711, &[][..]), (65534, &[100, 4711][..])] {
        let line = ask_as(daemon.socket(), 65534, gid, groups);
        assert!(line.starts_with("{\"answer\":\"status\""), "{line}");
    }
}

#[test]
fn a_bench_is_asked_of_the_daemons_thread() {
    let daemon = Daemon::start(true);
    let ask = |peer: &str| {
        daemon.ask(&Request::Bench {
            peer: peer.to_owned(),
            seconds: 9,
        })
    };
    let Ok(Answer::Bench(offer)) = ask("site-a/a2") else {
        panic!("another answer")
    };
    assert_eq!(
        (offer.peer.as_str(), &*offer.token),
        ("site-a/a2", &[0, 0, 0, 9][..])
    );
    let error = ask("a2").unwrap_err();
    assert!(error.to_string().starts_with("peer: "), "{error}");
}

#[test]
fn the_groups_decide() {
    let caller = Caller {
        uid: 1000,
        gids: vec![100, 200],
    };
    assert!(caller.may_ask(1000, 0));
    assert!(caller.may_ask(0, 200));
    assert!(!caller.may_ask(0, 300));
    let root = Caller {
        uid: 0,
        gids: Vec::new(),
    };
    assert!(root.may_ask(5, 5));
}

#[test]
fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
    let daemon = Daemon::start(true);
    let bind = |path: &Path| {
        let runtime = Runtime::new().unwrap();
        let _entered = runtime.enter();
        ApiServer::bind(path).map_err(|error| error.to_string())
    };
    let living = bind(&daemon.socket()).unwrap_err();
    assert!(living.starts_with("another netmanager answers on "));
    let dead = daemon.folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert!(bind(&dead).is_ok());
    let file = daemon.folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    let refused = bind(&file).unwrap_err();
    assert!(refused.ends_with("is not a socket; remove it, or set another socket path"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn a_client_without_a_daemon_says_what_to_do() {
    let error = Client::connect(Path::new("/nowhere/api.sock")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no netmanager runs at /nowhere/api.sock: No such file or directory (os error 2); start one with `netmanager up`, or name its socket with --socket"
    );
}
