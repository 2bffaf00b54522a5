//! What a netmanager and its cluster, or another netmanager, say to each other.

use super::parts::{put, take, variants};
use crate::session::{ClusterToNet, NetToCluster, PeerToPeer};

variants!(NetToCluster as FromNet.message(from_net::Message):
    {
        Hello as NetHello { version: value, addresses: list, lease: value, revocations: value }
        KeepAlive as KeepAlive {}
    }
    { Interests: interests, Addresses: addresses }
);

variants!(ClusterToNet as ToNet.message(to_net::Message):
    {
        Welcome as NetWelcome {
            version: value, observed: value, pools: message, zones: list, node_ip: message,
            relay_token: value
        }
        Rows as Rows { complete: long, rows: long }
    }
    { Lease: lease, Grant: grant, Revocations: revocations, Unknown: unknown }
);

variants!(PeerToPeer as Peer.message(peer::Message):
    { Hello as PeerHello { version: value, revocations: value } }
    { Grant: grant, Lease: lease, Revocations: revocations }
);
