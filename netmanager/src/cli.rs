//! The command line: what `netmanager` and `weald net` understand.
//!
//! Commands that show something ask the running daemon over its socket; `up` is the daemon;
//! `run` and `down` work without one. Every command takes `--json`. Results go to standard output,
//! everything else to standard error.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::api::client::Client;
use crate::api::message::{Answer, Request};
use crate::config::{DEFAULT_CONFIG, DEFAULT_RELAY_CONFIG, DEFAULT_SOCKET, NetConfig};
use failure::Failure;

pub mod pki;
pub mod relay;

mod attach;
mod bench;
mod daemon;
mod dig;
mod failure;
mod netcheck;
mod ping;
mod run;
mod show;
mod table;
mod userspace;
mod why;

#[cfg(test)]
mod tests;

/// What is shown below the list of commands.
const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed; the message says why
  2  the command line is wrong
  3  no netmanager runs at the socket
  4  no such name or instance
  5  this user may not ask
  6  a configuration file is wrong
  7  ping: no reply came";

/// Weald's data-plane daemon and network tools.
#[derive(Debug, Parser)]
#[command(name = "netmanager", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
struct Options {
    /// Print JSON, one value a line, with stable field names
    #[arg(long, global = true)]
    json: bool,
    /// The daemon's socket, instead of the one that the configuration names
    #[arg(long, global = true, value_name = "PATH", env = "NETMANAGER_SOCKET")]
    socket: Option<PathBuf>,
    /// The configuration
    #[arg(long, global = true, value_name = "PATH", env = "NETMANAGER_CONFIG", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// What to log to standard error, as in `debug` or `netmanager::env=debug`
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "NETMANAGER_LOG",
        default_value = "info"
    )]
    log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: make the overlay and carry its packets until stopped
    Up(UpArgs),
    /// Stop the daemon and remove the overlay from this host, instances' namespaces too
    Down,
    /// Run a program in an instance's namespace
    Run(RunArgs),
    /// Host an instance: make its namespace and lead its addresses there
    Attach(AttachArgs),
    /// Host an instance no more: remove its namespace
    Detach(DetachArgs),
    /// Show which instances are attached
    Attached,
    /// Show how the daemon is
    Status,
    /// Show the other nodes and the paths to them
    Peers,
    /// Show why a peer is reached the way it is: what was tried, what is in the way of a direct path
    Why(WhyArgs),
    /// Show what the network around this host lets through: its NATs, UDP, IPv6, MTU, relays
    Netcheck,
    /// Show the open flows
    Flows(FlowsArgs),
    /// Send ICMP echos through the overlay, and show who answers over which path
    Ping(PingArgs),
    /// Show what a name means, what each policy would pick now, and why
    Dig(DigArgs),
    /// Measure how fast the way to a peer is and what it costs, or compare two measurements
    ///
    /// The load goes between the two nodes' overlay addresses. The peer's configuration must say
    /// `[bench] respond = true`; with `bare = true` the bare path is measured as well.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Bench(BenchArgs),
    /// Make certificates without a control plane
    Pki(pki::PkiArgs),
    /// Run a relay, or show how a running one is
    Relay(relay::RelayArgs),
}

#[derive(Debug, Args)]
struct UpArgs {
    /// A TCP address of loopback, as in 127.0.0.1:9103, where Prometheus reads figures under
    /// /metrics; without it there are none
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    userspace: userspace::UserspaceArgs,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The instance, as appname.appns.servicename.servicens.number or a unique beginning or end of
    /// it, such as web.prod.0
    #[arg(long, value_name = "NAME")]
    instance: String,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct AttachArgs {
    /// The instance, as appname.appns.servicename.servicens.number
    instance: String,
    /// Which of its lives; a higher one replaces a lower one
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    generation: u64,
    /// Its IPv4 address
    #[arg(long, value_name = "IP")]
    ipv4: Option<std::net::Ipv4Addr>,
    /// Its IPv6 address
    #[arg(long, value_name = "IP")]
    ipv6: Option<std::net::Ipv6Addr>,
    /// Its organisation
    #[arg(long, value_name = "NAME")]
    organisation: Option<String>,
    /// A port of the host that leads to it, as in 8080:80/tcp; can be repeated
    #[arg(long = "port", value_name = "MAPPING")]
    ports: Vec<String>,
}

#[derive(Debug, Args)]
struct DetachArgs {
    /// The instance, as appname.appns.servicename.servicens.number
    instance: String,
    /// Only if it is attached in that life or an older one
    #[arg(long, value_name = "NUMBER")]
    generation: Option<u64>,
}

#[derive(Debug, Args)]
struct FlowsArgs {
    /// Only flows of this protocol
    #[arg(long, value_parser = ["tcp", "udp", "icmp"])]
    protocol: Option<String>,
    /// Only flows from this address
    #[arg(long, value_name = "IP")]
    source: Option<std::net::IpAddr>,
    /// Only flows to this address, be it the service's or the instance's
    #[arg(long, value_name = "IP")]
    destination: Option<std::net::IpAddr>,
}

#[derive(Debug, Args)]
struct WhyArgs {
    /// The peer, as cluster/name, or its name alone if only one peer has it
    peer: String,
}

#[derive(Debug, Args)]
struct PingArgs {
    /// A semantic name
    name: String,
    /// How many echos to send
    #[arg(short = 'c', long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,
    /// Stop as soon as a reply has come over a direct path, and fail if none does
    #[arg(long)]
    until_direct: bool,
    /// Use IPv6
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Seconds between two echos
    #[arg(short = 'i', long, default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    /// Seconds to wait for a reply
    #[arg(short = 'W', long, default_value_t = 2.0, value_parser = seconds)]
    timeout: f64,
}

#[derive(Debug, Args)]
struct DigArgs {
    /// A semantic name, with or without zone
    name: String,
    /// Ask on behalf of this local instance, whose application the short form means
    #[arg(long, value_name = "INSTANCE")]
    from: Option<String>,
}

#[derive(Debug, Args)]
struct BenchArgs {
    /// The peer, as cluster/name or its name alone; or a semantic name, for the node of the instance
    /// that it leads to now
    #[arg(required = true)]
    target: Option<String>,
    /// How often everything is measured; `compare` wants four at least
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds that each load lasts; a round takes about thirty times as long
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    time: f64,
    /// Only these parts, separated by commas
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    only: Vec<String>,
    /// Write a page with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Leave the bare path out
    #[arg(long)]
    no_bare: bool,
    #[command(subcommand)]
    command: Option<BenchCommand>,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Show whether the second of two measurements, kept with --json, is faster than the first
    Compare(CompareArgs),
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// The first measurement, as --json prints it
    first: PathBuf,
    /// The second
    second: PathBuf,
    /// What the draws of rounds begin with
    #[arg(long, value_name = "NUMBER", default_value_t = bench::SEED)]
    seed: u64,
}

/// Reads a number of seconds from 0.01 to an hour.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.01..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("write a number of seconds from 0.01 to 3600".to_owned())
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = dispatch(&cli);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(cli.options.json);
            failure.exit_code()
        }
    }
}

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    let options = &cli.options;
    match &cli.command {
        Command::Up(args) => daemon::up(options, args),
        Command::Down => daemon::down(options),
        Command::Run(args) => run::run(options, args),
        Command::Attach(args) => attach::attach(options, args),
        Command::Detach(args) => attach::detach(options, args),
        Command::Attached => attach::list(options),
        Command::Status => show::status(options),
        Command::Peers => show::peers(options),
        Command::Why(args) => why::why(options, &args.peer),
        Command::Netcheck => netcheck::netcheck(options),
        Command::Flows(args) => show::flows(options, args),
        Command::Ping(args) => ping::ping(options, args),
        Command::Dig(args) => dig::dig(options, args),
        Command::Bench(args) => bench::bench(options, args),
        Command::Pki(args) => Ok(pki::run(args.clone(), options.json)?),
        Command::Relay(args) => {
            daemon::start_logging(&options.log)?;
            Ok(relay::run(args, options.relay_config(), options.json)?)
        }
    }
}

impl Options {
    /// The daemon's socket: as told, or as configured, or the usual one without a configuration.
    fn socket(&self) -> Result<PathBuf, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        if self.config == Path::new(DEFAULT_CONFIG) && !self.config.exists() {
            return Ok(DEFAULT_SOCKET.into());
        }
        Ok(self.load()?.socket)
    }

    /// The configuration of a relay: as told, or the usual one of relays.
    fn relay_config(&self) -> &Path {
        if self.config == Path::new(DEFAULT_CONFIG) {
            Path::new(DEFAULT_RELAY_CONFIG)
        } else {
            &self.config
        }
    }

    /// The configuration, with the socket as told.
    fn load(&self) -> Result<NetConfig, Failure> {
        let mut config = NetConfig::load(&self.config)?;
        if let Some(socket) = &self.socket {
            config.socket.clone_from(socket);
        }
        Ok(config)
    }

    fn client(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.socket()?)?)
    }

    fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        Ok(self.client()?.ask(request)?)
    }
}
