//! Rows that another message goes on with, as both tiers say them.

use super::signed;
use crate::control::RootToCluster;
use crate::session::ClusterToNet;

pub(in crate::codec) fn in_parts() -> ([RootToCluster; 1], [ClusterToNet; 1]) {
    let of_root = RootToCluster::Rows {
        complete: Vec::new(),
        rows: vec![signed()],
        more: true,
    };
    let of_cluster = ClusterToNet::Rows {
        complete: Vec::new(),
        rows: vec![signed()],
        more: true,
    };
    ([of_root], [of_cluster])
}
