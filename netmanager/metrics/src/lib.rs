//! Figures for Prometheus: how they are written ([`Text`]), and the port where they are read
//! ([`Port`]).
//!
//! What is counted is each role's. There is no runtime in here, because a relay has none, and
//! nothing is measured that nobody reads.

mod port;
mod text;

pub use port::{Bound, Port, PortError};
pub use text::{Text, samples};
