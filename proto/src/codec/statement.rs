//! What is signed.

use super::parts::{fields, put, take, variants};
use crate::statement::{
    Grant, InstanceStatement, Lease, LeasedInstance, NodeStatement, RelayStatement, Revocations,
    ServiceStatement, Statement,
};

variants!(Statement as Statement.statement(statement::Statement):
    {}
    {
        Grant: grant, Revocations: revocations, Service: service, Instance: instance, Node: node,
        Relay: relay, Lease: lease
    }
);

fields!(Grant as Grant {
    cluster: value,
    key: value,
    generation: value,
    blocks: long,
    organisations: long,
    owner: value,
    expires: value,
});

fields!(Revocations as Revocations { epoch: value, keys: long, organisations: long });

fields!(ServiceStatement as Service {
    name: value,
    organisation: value,
    generation: value,
    removed: value,
    round_robin: message,
    closest: message,
    lane: value,
    accept: value,
});

fields!(InstanceStatement as Instance {
    instance: value,
    organisation: value,
    generation: value,
    removed: value,
    node: value,
    instance_ip: message,
});

fields!(NodeStatement as Node {
    node: value,
    generation: value,
    removed: value,
    node_ip: message,
    addresses: list,
});

fields!(RelayStatement as Relay {
    relay: value,
    generation: value,
    removed: value,
    addresses: list,
});

fields!(Lease as Lease {
    node: value,
    epoch: value,
    expires: value,
    node_ip: message,
    instances: long,
});

fields!(LeasedInstance as LeasedInstance {
    instance: value,
    organisation: value,
    generation: value,
    instance_ip: message,
});
