//! What Weald's processes say to one another, and nothing about how they say it.
//!
//! Every other crate depends on this one and it depends on none of ours. It holds the checked
//! types (ids, addresses, names, table rows) and the byte layouts of what crosses the network
//! between nodes. It does no I/O and has no clock.
//!
//! | who | says what | to whom | module |
//! |---|---|---|---|
//! | user | what is to run | root | [`sla`], checked: [`spec`] |
//! | operator | the static table | netmanager | [`table`] |
//! | netmanager | chunks of inner packets, in QUIC DATAGRAMs | netmanager | [`chunk`] |
//! | netmanager | path probes, beside QUIC on the data socket | netmanager | [`frame`] |
//! | netmanager | chunks of inner packets, sealed without QUIC | netmanager | [`fast`] |
//! | netmanager | sealed packets, in relay frames | relay | [`frame`] |
//! | netmanager | token, whom it wants to reach | relay | [`relay`] |
//! | a cluster | who may use its relays | relay | [`token`] |
//! | root, cluster, worker | what is wanted, what is | each other | [`control`] |
//! | netmanager | what it is interested in | its cluster | [`session`] |
//! | somebody new | its token's secret | root, cluster | [`join`] |
//! | root, cluster | who may claim what | everybody | [`statement`] |
//!
//! The last four are laid out as bytes by [`codec`]; messages are told apart by [`stream`].

pub mod id;

pub mod addr;

pub mod name;

pub mod slip;

pub mod table;

pub mod chunk;

pub mod frame;

pub mod fast;

pub mod stream;

pub mod relay;

pub mod datagram;

pub mod token;

pub mod sla;

pub mod spec;

pub mod control;

pub mod session;

pub mod join;

pub mod statement;

pub mod codec;
