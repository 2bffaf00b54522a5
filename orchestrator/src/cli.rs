//! The command line of `weald`: the roles, joining, and what one asks root for.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 root does not answer, 4 there is no such thing, 5
//! an instance fits nowhere.
//! With `--json` an answer is one JSON value on standard output, and an error one on standard error:
//! `{"error": {"code", "message"}}`, with `status` and `errors` (`path`, `message`) where root
//! refuses. Logs and progress go to standard error.

mod failure;

mod desk;
mod roles;

mod http;
mod session;
mod tls;

mod answers;
mod output;

mod apps;
mod login;
mod revoke;
mod show;
mod wait;

mod dev;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// What is shown below the list of commands.
const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed; the message says why
  2  the command line is wrong
  3  root does not answer
  4  there is no such thing
  5  an instance fits nowhere; the message says why";

/// An orchestrator for edge clusters, with its network.
#[derive(Debug, Parser)]
#[command(name = "weald", version, about, max_term_width = 100, after_help = EXIT_CODES)]
struct Arguments {
    /// Answer in JSON.
    #[arg(long, global = true)]
    json: bool,
    /// What is logged, as in `info` or `orchestrator=debug`.
    #[arg(long, global = true, env = "WEALD_LOG", default_value = "info")]
    log: String,
    /// The file that keeps who one is at which root, instead of the user's own.
    #[arg(long, global = true, env = "WEALD_SESSION", value_name = "FILE")]
    session: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the root orchestrator.
    Root(roles::RootArguments),
    /// Run a cluster's orchestrator, or list the clusters.
    Cluster(roles::ClusterArguments),
    /// Run a worker.
    Worker(roles::WorkerArguments),
    /// Join with a token: a cluster at root, a worker or relay at its cluster.
    Join(roles::JoinArguments),
    /// Invite others, on the machine where root or the cluster runs.
    Token(desk::TokenArguments),
    /// Log in at root.
    Login(login::LoginArguments),
    /// Applications: apply an SLA, show, read logs, delete.
    App(apps::AppArguments),
    /// Services: scale.
    Service(apps::ServiceArguments),
    /// Show how many of what there are, and how they stand.
    ///
    /// Fields with --json: those of GET /api/v1/status (docs/openapi.json, Status).
    Status,
    /// Show why an instance is where it is, or nowhere.
    ///
    /// Fields with --json: instance, text.
    Explain(show::ExplainArguments),
    /// Nodes: list.
    Node(show::NodeArguments),
    /// Have somebody not trusted any more, for ever: a node, a cluster, an organisation, a key.
    Revoke(revoke::RevokeArguments),
    /// All of it on this machine, to try things with.
    Dev(dev::DevArguments),
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
        Err(error) => failure::report(&error, json),
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&arguments.log)
        .map_err(|error| anyhow::anyhow!("--log {:?}: {error}", arguments.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot log: {error}"))?;
    weald_memory::set_up();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(dispatch(arguments))
}

async fn dispatch(arguments: Arguments) -> anyhow::Result<()> {
    let (json, session) = (arguments.json, arguments.session);
    let client = || session::Client::open(session::file(session.clone())?);
    match arguments.command {
        Command::Root(options) => roles::root(options).await,
        Command::Cluster(options) => match &options.ask {
            Some(question) => show::cluster(question, &mut client()?, json).await,
            None => roles::cluster(options).await,
        },
        Command::Worker(options) => roles::worker(options).await,
        Command::Join(options) => roles::join(options, json).await,
        Command::Token(options) => desk::token(options, json).await,
        Command::Login(options) => login::login(options, session::file(session)?, json).await,
        Command::App(options) => apps::app(options, &mut client()?, json).await,
        Command::Service(options) => apps::service(options, &mut client()?, json).await,
        Command::Status => show::status(&mut client()?, json).await,
        Command::Explain(options) => show::explain(options, &mut client()?, json).await,
        Command::Node(options) => show::node(options, &mut client()?, json).await,
        Command::Revoke(options) => revoke::revoke(options, &mut client()?, json).await,
        Command::Dev(options) => dev::dev(options, session, json).await,
    }
}
