//! Targets on the messages of the control plane, on statements, and on what is said at joining.

use std::fmt::Debug;

use weald_proto::codec::Message;
use weald_proto::control::{ClusterToRoot, ClusterToWorker, RootToCluster, WorkerToCluster};
use weald_proto::join::{JoinRequest, JoinResponse};
use weald_proto::session::{ClusterToNet, NetToCluster, PeerToPeer};
use weald_proto::statement::Statement;

/// The first byte says of which kind the message behind it is. No bytes panic, and what is read is
/// read again from what it is written as.
///
/// # Panics
/// If it is not.
pub fn control(bytes: &[u8]) {
    let Some((kind, message)) = bytes.split_first() else {
        return;
    };
    match kind % 8 {
        0 => again::<ClusterToRoot>(message),
        1 => again::<RootToCluster>(message),
        2 => again::<WorkerToCluster>(message),
        3 => again::<ClusterToWorker>(message),
        4 => again::<NetToCluster>(message),
        5 => again::<ClusterToNet>(message),
        6 => again::<Statement>(message),
        _ => again::<PeerToPeer>(message),
    }
}

/// What is said at the port where others join, before anybody is known: a request by an even first
/// byte, an answer by an odd one.
///
/// # Panics
/// As [`control`].
pub fn join(bytes: &[u8]) {
    let Some((kind, message)) = bytes.split_first() else {
        return;
    };
    match kind % 2 {
        0 => again::<JoinRequest>(message),
        _ => again::<JoinResponse>(message),
    }
}

fn again<M: Message + Debug + PartialEq>(bytes: &[u8]) {
    if let Ok(read) = M::decode(bytes) {
        let written = read.encode();
        assert!(written.is_ok(), "{read:?}");
        assert_eq!(written.and_then(|bytes| M::decode(&bytes)), Ok(read));
    }
}
