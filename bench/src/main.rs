//! Weald's macro benchmarks.

fn main() {}
