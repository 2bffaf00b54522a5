//! What is said by and to somebody who joins.

use super::label;
use crate::join::{JoinRequest, JoinResponse, JoinRole, JoinSecret};

pub(in crate::codec) fn join_requests() -> Vec<JoinRequest> {
    [JoinRole::Cluster, JoinRole::Worker, JoinRole::Relay]
        .map(|role| JoinRequest {
            secret: JoinSecret([5; 32]),
            role,
            name: label("a1"),
            csr: vec![1, 2],
        })
        .to_vec()
}

pub(in crate::codec) fn join_responses() -> Vec<JoinResponse> {
    vec![
        JoinResponse::Admitted {
            chain: vec![vec![1], vec![2, 3]],
            ca: vec![4],
        },
        JoinResponse::Refused {
            text: "the token has expired".to_owned(),
        },
    ]
}
