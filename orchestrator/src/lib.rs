//! Weald's orchestrator as a library: the shells of root, cluster and worker.
//!
//! What they decide is orchestrator-core's; here are stores, links, runtimes and the command line.

pub mod store;

pub mod keys;
pub mod machine;

pub mod metrics;

pub mod link;

pub mod join;

pub mod renewal;

pub mod desk;

pub mod api;

pub mod root;

pub mod cluster;

pub mod worker;

pub mod roles;

pub mod cli;

pub mod runtime;
