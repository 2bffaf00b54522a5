//! The flow table, the balancer and the whole data plane against naive models.
//!
//! The models are written for being right at a glance: flows are a Vec of tuples, picks are
//! counted, and of the data plane only what must never happen is stated.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "journeys/packets.rs"]
#[allow(dead_code, reason = "the journeys use the rest")]
mod packets;
#[path = "journeys/world.rs"]
#[allow(dead_code, reason = "the journeys use the rest")]
mod world;

#[path = "model/balancer.rs"]
mod balancer;
#[path = "model/flows.rs"]
mod flows;
#[path = "model/leases.rs"]
mod leases;
