//! The pure core of Weald's overlay network.
//!
//! It decides what happens to a packet, a name, a path and a relay frame, and does nothing itself:
//! no sockets, no files, no clock, no threads. The `netmanager` crate is its shell. Everything
//! follows one calling convention: `handle_*` feeds an input, `poll_*` drains outputs,
//! `handle_timeout(now)` ticks, `poll_timeout()` says when to tick next and why.
//!
//! The modules stand in the order in which a packet meets them.

pub mod rate;
pub mod verdict;

pub mod packet;
pub mod reject;
pub mod vnet;

pub mod rows;
pub mod table;

pub mod lane;

pub mod balance;
pub mod dataplane;
pub mod flow;
pub mod fragment;
pub mod translate;

pub mod chunk;

pub mod peer;
pub mod portmap;
pub mod seal;

pub mod awake;
pub mod fast;

pub mod relay;

pub mod congestion;

pub mod dns;

pub mod proxy;
