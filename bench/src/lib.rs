//! Holds the benches under `benches/`: the core's hot functions, measured in process.
//!
//! They run once as tests; `cargo bench -p bench` measures.
