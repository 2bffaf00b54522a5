//! Weald's data-plane daemon as a library: what the `netmanager` and `weald` binaries run.
//!
//! The shell around netmanager-core: devices, namespaces, sockets, QUIC, the local API. Policy is
//! in the core; who is trusted, `weald_trust`'s; here is I/O. The packet path runs on a plain thread;
//! tokio carries names, the API and everything else that is not a packet.

pub mod config;
pub mod state;

pub mod device;
pub mod env;
pub mod pipe;
pub mod tun;

pub mod driver;
pub(crate) mod program_socket;
pub mod quic;
pub mod socket;
pub(crate) mod tunnel;

pub mod dns_server;

pub mod userspace;

pub mod relay_server;

pub mod api;
pub mod bench;
pub mod figures;

pub mod daemon;

pub mod cli;
