//! Target on the messages of the control plane, and on statements.

use std::fmt::Debug;

use weald_proto::codec::Message;
use weald_proto::control::{ClusterToRoot, ClusterToWorker, RootToCluster, WorkerToCluster};
use weald_proto::session::{ClusterToNet, NetToCluster};
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
    match kind % 7 {
        0 => again::<ClusterToRoot>(message),
        1 => again::<RootToCluster>(message),
        2 => again::<WorkerToCluster>(message),
        3 => again::<ClusterToWorker>(message),
        4 => again::<NetToCluster>(message),
        5 => again::<ClusterToNet>(message),
        _ => again::<Statement>(message),
    }
}

fn again<M: Message + Debug + PartialEq>(bytes: &[u8]) {
    if let Ok(read) = M::decode(bytes) {
        let written = read.encode();
        assert!(written.is_ok(), "{read:?}");
        assert_eq!(written.and_then(|bytes| M::decode(&bytes)), Ok(read));
    }
}
