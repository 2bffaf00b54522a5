//! The overlay's environment on a real kernel: needs CAP_NET_ADMIN and fails without it.
//!
//! Every test has a host of its own: a fresh network namespace that its thread lives in. The
//! packet thread's part is played by a reflector that writes back what it reads from the TUN,
//! which is the path of a packet between two instances of one node.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking, as tests do"
)]

#[path = "env/host.rs"]
mod host;

#[path = "env/failure.rs"]
mod failure;
#[path = "env/life.rs"]
mod life;
#[path = "env/outside.rs"]
mod outside;
#[path = "env/run.rs"]
mod run;
#[path = "env/spoof.rs"]
mod spoof;
#[path = "env/traffic.rs"]
mod traffic;
