//! What netmanagers show each other.

use super::{by_root, signed};
use crate::session::{CandidateKind, NatMapping, PeerCandidate, PeerToPeer, VERSION};

/// A list with a port that a gateway leads to the node.
pub(in crate::codec) fn mapped() -> [PeerToPeer; 1] {
    let address = "203.0.113.2:10260".parse().unwrap();
    let kind = CandidateKind::Mapped;
    [PeerToPeer::Candidates {
        generation: 3,
        mapping: NatMapping::Independent,
        candidates: vec![PeerCandidate { kind, address }],
    }]
}

pub(in crate::codec) fn peer_to_peer() -> Vec<PeerToPeer> {
    let candidate = |kind, address: &str| PeerCandidate {
        kind,
        address: address.parse().unwrap(),
    };
    let list = |mapping, candidates| PeerToPeer::Candidates {
        generation: 3,
        mapping,
        candidates,
    };
    let all_kinds = vec![
        candidate(CandidateKind::Interface, "192.168.1.7:10260"),
        candidate(CandidateKind::Configured, "[2001:db8::7]:10260"),
        candidate(CandidateKind::Reflexive, "203.0.113.7:4660"),
    ];
    vec![
        PeerToPeer::Hello {
            version: VERSION,
            revocations: 2,
        },
        PeerToPeer::Grant(by_root()),
        PeerToPeer::Lease(signed()),
        PeerToPeer::Revocations(by_root()),
        list(NatMapping::Independent, all_kinds),
        list(NatMapping::Unknown, Vec::new()),
        list(NatMapping::Sequential, Vec::new()),
        list(NatMapping::Random, Vec::new()),
        PeerToPeer::Punch { round: 9 },
        PeerToPeer::PunchOpened { round: 9 },
        PeerToPeer::BenchAsk {
            number: 5,
            seconds: 60,
        },
        PeerToPeer::BenchAnswer {
            number: 5,
            refused: String::new(),
            token: vec![1, 2],
            port: 0x1234,
            bare_port: 0,
        },
        PeerToPeer::BenchAnswer {
            number: 5,
            refused: "no".to_owned(),
            token: Vec::new(),
            port: 0,
            bare_port: 0,
        },
    ]
}
