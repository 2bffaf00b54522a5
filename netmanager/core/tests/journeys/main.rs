//! Journeys of packets: data planes joined by an in-memory wire, told in the order of the life of
//! a conversation.
//!
//! `world` holds the nodes, the table and the wire, `packets` makes and reads packets with code of
//! its own. Nothing here knows how the data plane works inside.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod packets;
mod world;

mod again;
mod changes;
mod chunks;
mod closest;
mod drops;
mod errors;
mod fragments;
mod services;
mod streams;
