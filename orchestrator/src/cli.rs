//! The command line of `weald`: the roles, and joining.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. With `--json` answers and errors are JSON; logs go
//! to standard error.

mod desk;
mod roles;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// An orchestrator for edge clusters, with its network.
#[derive(Debug, Parser)]
#[command(name = "weald", version, about, max_term_width = 100)]
struct Arguments {
    /// Answer in JSON.
    #[arg(long, global = true)]
    json: bool,
    /// What is logged, as in `info` or `orchestrator=debug`.
    #[arg(long, global = true, env = "WEALD_LOG", default_value = "info")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the root orchestrator.
    Root(roles::RootArguments),
    /// Run a cluster's orchestrator.
    Cluster(roles::ClusterArguments),
    /// Run a worker.
    Worker(roles::WorkerArguments),
    /// Join with a token: a cluster at root, a worker or relay at its cluster.
    Join(roles::JoinArguments),
    /// Invite others, on the machine where root or the cluster runs.
    Token(desk::TokenArguments),
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed standard output is nobody's fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let json = arguments.json;
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("{error:#}");
            if json {
                let error =
                    serde_json::json!({ "error": { "code": "failed", "message": message } });
                eprintln!("{error}");
            } else {
                eprintln!("weald: {message}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let json = arguments.json;
    let filter = EnvFilter::try_new(&arguments.log)
        .map_err(|error| anyhow::anyhow!("--log {:?}: {error}", arguments.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot log: {error}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match arguments.command {
            Command::Root(options) => roles::root(options).await,
            Command::Cluster(options) => roles::cluster(options).await,
            Command::Worker(options) => roles::worker(options).await,
            Command::Join(options) => roles::join(options, json).await,
            Command::Token(options) => desk::token(options, json).await,
        }
    })
}
