//! The `netmanager` binary.

fn main() {}
