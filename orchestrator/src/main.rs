//! The `weald` binary: hands over to the command line of the library, or supervises an instance.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: a supervisor is to stay as small as a process can be.
    orchestrator::runtime::supervisor::main().unwrap_or_else(orchestrator::cli::main)
}
