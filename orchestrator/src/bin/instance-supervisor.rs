//! The supervisor of instances alone. A worker has it built in; this is what the runtime's tests
//! run, and what a worker can be told to run instead of itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    orchestrator::runtime::supervisor::main().unwrap_or_else(|| {
        eprintln!("instance-supervisor is started by a worker, not by hand");
        ExitCode::FAILURE
    })
}
