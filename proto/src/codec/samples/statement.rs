//! Everything that is signed.

use super::{both, instance, label, node, organisation};
use crate::id::RelayId;
use crate::statement::{
    Grant, InstanceStatement, Lease, LeasedInstance, NodeStatement, RelayStatement, Revocations,
    ServiceStatement, Statement,
};
use crate::table::{AcceptPolicy, LanePolicy};

pub(in crate::codec) fn statements() -> Vec<Statement> {
    vec![
        Statement::Grant(Grant {
            cluster: label("munich"),
            key: [7; 32],
            generation: 3,
            blocks: vec![
                "10.30.1.0/26".parse().unwrap(),
                "fdff:1::/64".parse().unwrap(),
                "10.30.9.9/32".parse().unwrap(),
            ],
            organisations: vec![organisation()],
            owner: organisation(),
            expires: 1_800_000_000,
        }),
        Statement::Revocations(Revocations {
            epoch: 4,
            keys: vec![[1; 32], [2; 32]],
            organisations: vec![organisation()],
        }),
        Statement::Service(ServiceStatement {
            name: instance().service,
            organisation: organisation(),
            generation: 5,
            removed: false,
            round_robin: both(),
            closest: both(),
            lane: LanePolicy::Auto,
            accept: AcceptPolicy::Late,
        }),
        Statement::Instance(InstanceStatement {
            instance: instance(),
            organisation: organisation(),
            generation: 6,
            removed: true,
            node: node(),
            instance_ip: both(),
        }),
        Statement::Node(NodeStatement {
            node: node(),
            generation: 1,
            removed: false,
            node_ip: both(),
            addresses: vec!["192.0.2.1:4433".parse().unwrap()],
        }),
        Statement::Relay(RelayStatement {
            relay: RelayId::new(label("munich"), label("r1")),
            generation: 1,
            removed: false,
            addresses: vec!["192.0.2.2:4433".parse().unwrap()],
        }),
        Statement::Lease(Lease {
            node: node(),
            epoch: 12,
            expires: 1_800_000_000,
            node_ip: both(),
            instances: vec![LeasedInstance {
                instance: instance(),
                organisation: organisation(),
                generation: 7,
                instance_ip: both(),
            }],
        }),
    ]
}
