//! What a netmanager and its cluster, or another netmanager, say to each other.

use super::parts::{fields, put, take, variants, words};
use crate::session::{
    CandidateKind, ClusterToNet, NatMapping, NetToCluster, PeerCandidate, PeerToPeer,
};

variants!(NetToCluster as FromNet.message(from_net::Message):
    {
        Hello as NetHello { version: value, addresses: list, lease: value, revocations: value }
        KeepAlive as KeepAlive {}
    }
    { Interests: interests, Addresses: addresses, Renew: renew }
);

variants!(ClusterToNet as ToNet.message(to_net::Message):
    {
        Welcome as NetWelcome {
            version: value, observed: value, pools: message, zones: list, node_ip: message,
            relay_token: value
        }
        Rows as Rows { complete: long, rows: long, more: value }
    }
    {
        Lease: lease, Grant: grant, Revocations: revocations, Unknown: unknown, Renewed: renewed
    }
);

variants!(PeerToPeer as Peer.message(peer::Message):
    {
        Hello as PeerHello { version: value, revocations: value }
        Candidates as PeerCandidates { generation: value, mapping: value, candidates: list }
        Punch as PeerPunch { round: value }
        PunchOpened as PeerPunchOpened { round: value }
        BenchAsk as PeerBenchAsk { number: value, seconds: value }
        BenchAnswer as PeerBenchAnswer {
            number: value, refused: value, token: value, port: value, bare_port: value
        }
    }
    { Grant: grant, Lease: lease, Revocations: revocations }
);

fields!(PeerCandidate as PeerCandidate { kind: value, address: value });

words!(CandidateKind as CandidateKind { Interface, Reflexive, Configured, Mapped });

words!(NatMapping as NatMapping { Unknown, Independent, Sequential, Random });
