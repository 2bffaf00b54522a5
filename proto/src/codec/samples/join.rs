//! What is said by and to somebody who joins, or whose certificate is renewed.

use super::label;
use crate::join::{JoinRequest, JoinResponse, JoinRole, JoinSecret, RenewRequest, RenewResponse};

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

/// The requests for renewal as one kind of message.
pub(in crate::codec) fn renewing<M>(message: fn(RenewRequest) -> M) -> Vec<M> {
    [JoinRole::Cluster, JoinRole::Worker]
        .map(|role| RenewRequest {
            role,
            name: label("a1"),
            csr: vec![1, 2],
        })
        .map(message)
        .into()
}

/// The answers to them as one kind of message.
pub(in crate::codec) fn renewed<M>(message: fn(RenewResponse) -> M) -> Vec<M> {
    let chain = vec![vec![1], vec![2, 3]];
    let text = "the key was revoked".to_owned();
    vec![
        message(RenewResponse::Renewed { chain }),
        message(RenewResponse::Refused { text }),
    ]
}
