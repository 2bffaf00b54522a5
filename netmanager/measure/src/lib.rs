//! What benches share: `make bench`, its kin, and `netmanager bench`.
//!
//! Datagrams at a rate and how many of them arrive ([`stream`]), round trips ([`prober`]), what
//! processes cost ([`usage`]), the list of figures with its medians and spreads ([`results`]), a
//! page of plots ([`page`]), and whether two runs differ ([`compare`]). It knows no tunnel, and
//! opens no socket itself.

pub mod prober;
pub mod stream;
pub mod usage;

pub mod results;

pub mod compare;
pub mod page;
