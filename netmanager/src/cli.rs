//! Command line.

pub mod pki;
