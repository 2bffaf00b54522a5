//! `netmanager relay`: runs a relay, or asks a running one for its status.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};

use crate::relay_server::{RelayConfig, RelayReport, RelayServer, ask_configured};

/// Runs a relay that forwards sealed packets between nodes which cannot reach one another.
///
/// It prints one line when it is ready and ends on SIGTERM or SIGINT with exit code 0.
#[derive(Debug, clap::Args)]
pub struct RelayArgs {
    /// Shows the status of the relay that runs with this configuration instead.
    #[arg(long)]
    status: bool,
}

/// Runs the command.
///
/// # Errors
/// The configuration or the credentials are wrong, an address is not to be had, or no relay
/// answers.
pub fn run(args: &RelayArgs, config: &Path, json: bool) -> anyhow::Result<()> {
    if args.status {
        let report = ask_configured(config)?;
        return show(&report, json);
    }
    let config = RelayConfig::load(config)?;
    // Blocked before there are threads, so that none of them gets the signals.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("cannot block signals")?;
    let server = RelayServer::start(&config)?;
    let handle = server.handle();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if signals.wait().is_ok() {
                handle.stop();
            }
        })
        .context("cannot start a thread")?;
    let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
    let addresses = addresses.join(" and ");
    let mut out = std::io::stdout();
    // Who started us may not read; that is no reason not to relay.
    let _ = if json {
        let line = serde_json::json!({
            "ready": true,
            "relay": server.identity().to_string(),
            "listen": server.addresses(),
        });
        writeln!(out, "{line}")
    } else {
        writeln!(out, "{} is ready on {addresses} (udp)", server.identity())
    };
    let _ = out.flush();
    server.wait()
}

fn show(report: &RelayReport, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
        return Ok(());
    }
    let listen: Vec<_> = report.listen.iter().map(ToString::to_string).collect();
    writeln!(out, "{} on {}", report.relay, listen.join(", "))?;
    writeln!(out, "registered nodes: {}", report.registrations)?;
    let row = |name: &str, nodes: String, counters: &crate::relay_server::CountersReport| {
        format!(
            "{name:<24} {nodes:>6} {:>16} {:>16} {:>16}",
            counters.received.bytes, counters.sent.bytes, counters.dropped.bytes
        )
    };
    writeln!(
        out,
        "{:<24} {:>6} {:>16} {:>16} {:>16}",
        "organisation", "nodes", "bytes in", "bytes out", "bytes dropped"
    )?;
    for (name, organisation) in &report.organisations {
        let nodes = organisation.registrations.to_string();
        writeln!(out, "{}", row(name, nodes, &organisation.counters))?;
    }
    writeln!(out, "{}", row("all", String::new(), &report.total))?;
    for (reason, tally) in &report.total.dropped_by_reason {
        if tally.frames > 0 {
            writeln!(out, "dropped {reason}: {} frames", tally.frames)?;
        }
    }
    Ok(())
}
