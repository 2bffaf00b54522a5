//! Command line.

pub mod pki;
pub mod relay;
