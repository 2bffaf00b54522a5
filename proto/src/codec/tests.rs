//! The layout: golden bytes of every kind of message, round trips, and bytes that are no messages.

use std::fmt::Debug;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::samples;
use super::*;
use crate::control::{ClusterToRoot, ClusterToWorker, RootToCluster, WorkerToCluster};
use crate::join::{JoinRequest, JoinResponse};
use crate::session::{ClusterToNet, NetToCluster, PeerToPeer};
use crate::statement::Statement;

/// What every sample is laid out as; changed only together with a version.
const GOLDEN: &str = include_str!("golden.txt");

/// Encodes every sample, and says so in the lines of the golden file.
fn layout<M: Message + Debug + PartialEq>(kind: &str, samples: &[M]) -> String {
    let mut lines = String::new();
    for sample in samples {
        let bytes = sample.encode().unwrap();
        assert_eq!(M::decode(&bytes).as_ref(), Ok(sample));
        let debug = format!("{sample:?}");
        let variant = debug.split([' ', '(']).next().unwrap_or_default();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(lines, "{kind}::{variant} {hex}").unwrap();
    }
    lines
}

fn all_layouts() -> String {
    [
        layout("ClusterToRoot", &samples::cluster_to_root()),
        layout("RootToCluster", &samples::root_to_cluster()),
        layout("WorkerToCluster", &samples::worker_to_cluster()),
        layout("ClusterToWorker", &samples::cluster_to_worker()),
        layout("NetToCluster", &samples::net_to_cluster()),
        layout("ClusterToNet", &samples::cluster_to_net()),
        layout("JoinRequest", &samples::join_requests()),
        layout("JoinResponse", &samples::join_responses()),
        layout("PeerToPeer", &samples::peer_to_peer()),
        layout("Statement", &samples::statements()),
        layout("ClusterToRoot", &samples::renewing(ClusterToRoot::Renew)),
        layout("RootToCluster", &samples::renewed(RootToCluster::Renewed)),
        layout(
            "WorkerToCluster",
            &samples::renewing(WorkerToCluster::Renew),
        ),
        layout(
            "ClusterToWorker",
            &samples::renewed(ClusterToWorker::Renewed),
        ),
        layout("NetToCluster", &samples::renewing(NetToCluster::Renew)),
        layout("ClusterToNet", &samples::renewed(ClusterToNet::Renewed)),
        layout("ClusterToWorker", &samples::accepting_early().0),
        layout("Statement", &samples::accepting_early().1),
        layout("PeerToPeer", &samples::mapped()),
        layout("RootToCluster", &samples::in_parts().0),
        layout("ClusterToNet", &samples::in_parts().1),
    ]
    .concat()
}

#[test]
fn the_layout_is_kept() {
    let now = all_layouts();
    for (now, golden) in now.lines().zip(GOLDEN.lines()) {
        assert_eq!(now, golden);
    }
    let lines = |text: &str| text.lines().count();
    assert_eq!(lines(&now), lines(GOLDEN), "write into golden.txt:\n{now}");
}

/// Read by hand from the `.proto` files, so that golden.txt is not only what the code gave.
#[test]
fn a_layout_written_by_hand_is_read() {
    let instance = [&[0x0a, 20][..], b"shop.prod.web.prod.3"].concat();
    let stop = [&[0x1a, 25][..], &instance, &[0x10, 0x88, 0x0e]].concat();
    assert_eq!(
        ClusterToWorker::decode(&stop),
        Ok(ClusterToWorker::Stop {
            instance: samples::instance(),
            generation: 0x708,
        })
    );
}

fn fault<M: Message + Debug>(bytes: &[u8]) -> String {
    M::decode(bytes).unwrap_err().to_string()
}

#[test]
fn faults_are_told_with_their_place() {
    assert_eq!(
        fault::<ClusterToRoot>(&[]),
        "field message: of no kind that this version knows"
    );
    assert_eq!(
        fault::<ClusterToRoot>(&[0xff]),
        CodecError::Encoding.to_string()
    );
    // A kind of a later version.
    assert_eq!(
        fault::<ClusterToRoot>(&[0x7a, 0]),
        "field message: of no kind that this version knows"
    );
    // Stop of instance "x".
    assert_eq!(
        fault::<ClusterToWorker>(&[0x1a, 3, 0x0a, 1, b'x']),
        "field Stop.instance: \"x\" is not of the form appname.appns.servicename.servicens.number"
    );
    // Deploy without a spec.
    let deploy = [&[0x12, 22, 0x0a, 20][..], b"shop.prod.web.prod.3"].concat();
    assert_eq!(
        fault::<ClusterToWorker>(&deploy),
        "field Deploy.spec: missing"
    );
    let long = vec![0; MAX_MESSAGE_LEN + 1];
    assert_eq!(
        fault::<Statement>(&long),
        "a message of 4194305 bytes; at most 4194304 are allowed"
    );
}

#[test]
fn nothing_is_sent_that_would_be_refused() {
    let told = |message: WorkerToCluster| message.encode().unwrap_err().to_string();
    let heartbeat = WorkerToCluster::Heartbeat {
        sequence: 1,
        cpu_percent: f32::NAN,
        memory_mib: 1,
    };
    assert_eq!(
        told(heartbeat),
        "field Heartbeat.cpu_percent: NaN is not a finite number"
    );
    let logs = |lines| WorkerToCluster::Logs { request: 1, lines };
    assert_eq!(
        told(logs(Ok(vec![String::new(); MAX_LIST_LEN + 1]))),
        "field Logs.lines.lines: 16385 values; at most 16384 are allowed"
    );
    assert_eq!(
        told(logs(Err("x".repeat(MAX_TEXT_LEN + 1)))),
        "field Logs.lines.error: 65537 bytes; at most 65536 are allowed"
    );
    let much = vec!["x".repeat(MAX_TEXT_LEN); 70];
    assert_eq!(
        told(logs(Ok(much))),
        format!(
            "a message of {} bytes; at most {MAX_MESSAGE_LEN} are allowed",
            2 + 3 + 4 + 1 + 2 + 70 * (1 + 3 + MAX_TEXT_LEN)
        )
    );
}

#[test]
fn values_out_of_range_are_refused() {
    let statement = |bytes: &[u8]| fault::<Statement>(bytes);
    // A grant with a key of one byte.
    assert_eq!(
        statement(&[0x0a, 6, 0x0a, 1, b'a', 0x12, 1, 7]),
        "field grant.key: 1 bytes instead of 32"
    );
    let block = |bytes: &[u8]| {
        let key = [&[0x12, 32][..], &[7; 32]].concat();
        let length = u8::try_from(bytes.len()).unwrap();
        let grant = [&[0x0a, 1, b'a'][..], &key, &[0x22, length], bytes].concat();
        let length = u8::try_from(grant.len()).unwrap();
        statement(&[&[0x0a, length][..], &grant].concat())
    };
    assert_eq!(
        block(&[10, 0, 0, 1, 8]),
        "field grant.blocks: 10.0.0.1/8 has bits behind its length"
    );
    assert_eq!(
        block(&[10, 0, 1, 8]),
        "field grant.blocks: an address of 3 bytes"
    );
    assert!(block(&[10, 0, 0, 0, 33]).starts_with("field grant.blocks: "));
    // A service of lane 9.
    let name = b"a.b.c.d";
    let service = [
        &[0x0a, 7][..],
        name,
        &[0x12, 1, b'o', 0x2a, 0, 0x32, 0, 0x38, 9],
    ]
    .concat();
    let length = u8::try_from(service.len()).unwrap();
    assert_eq!(
        statement(&[&[0x1a, length][..], &service].concat()),
        "field service.lane: 9 is none of the known values"
    );
}

#[test]
fn secrets_are_32_bytes_and_are_not_shown() {
    // A request with a secret of one byte.
    assert_eq!(
        fault::<JoinRequest>(&[0x0a, 1, 7]),
        "field secret: 1 bytes instead of 32"
    );
    let shown = format!("{:?}", samples::join_requests()[0]);
    assert!(shown.contains("JoinSecret(..)"), "{shown}");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = ClusterToRoot::decode(&bytes);
        let _ = RootToCluster::decode(&bytes);
        let _ = WorkerToCluster::decode(&bytes);
        let _ = ClusterToWorker::decode(&bytes);
        let _ = NetToCluster::decode(&bytes);
        let _ = ClusterToNet::decode(&bytes);
        let _ = JoinRequest::decode(&bytes);
        let _ = JoinResponse::decode(&bytes);
        let _ = PeerToPeer::decode(&bytes);
        let _ = Statement::decode(&bytes);
    }

    /// What is read after a change is written as what it is read from again.
    #[test]
    fn changed_bytes_are_refused_or_read_alike(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let samples = samples::statements();
        let mut bytes = which.get(&samples).encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = Statement::decode(&bytes) {
            let again = read.encode().unwrap();
            prop_assert_eq!(Statement::decode(&again), Ok(read));
        }
    }
}
