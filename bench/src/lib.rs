//! The comparison of tunnels that `make bench` runs, and the benches of the core's hot functions.
//!
//! Two namespaces and a veth ([`ground`]), a tunnel over it ([`systems`]), load through it
//! ([`tcp`], [`load`]), all of it in turn ([`run`]), and a table and a page ([`report`], [`page`]). The
//! programs are `weald-bench`, which drives, and `weald-limit`, the forwarder that shows what is
//! possible. How things are measured and in which form figures are kept is [`weald_measure`]'s, which
//! `netmanager bench` shares. Micro benches are under `benches/`.

pub mod ground;
pub mod load;
pub mod page;
pub mod report;
pub mod run;
pub mod scenarios;
pub mod systems;
pub mod tcp;
pub mod wan;
