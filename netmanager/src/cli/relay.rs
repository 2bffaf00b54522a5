//! `netmanager relay`: runs a relay, or asks a running one for its status.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use rustls::pki_types::UnixTime;
use weald_metrics::{Bound, Port, PortError};
use weald_trust::tls::day;

use crate::figures;
use crate::relay_server::{RelayConfig, RelayHandle, RelayReport, RelayServer, ask_configured};

/// Runs a relay that forwards sealed packets between nodes which cannot reach one another.
///
/// It prints one line when it is ready and ends on SIGTERM or SIGINT with exit code 0.
#[derive(Debug, clap::Args)]
pub struct RelayArgs {
    /// Shows the status of the relay that runs with this configuration instead.
    #[arg(long)]
    status: bool,
    /// A TCP address of loopback, as in 127.0.0.1:9104, where Prometheus reads figures under
    /// /metrics; without it there are none.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "status")]
    metrics: Option<SocketAddr>,
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
    let bound = args.metrics.map(Bound::take).transpose()?;
    let server = RelayServer::start(&config)?;
    let handle = server.handle();
    let port = bound.map(|bound| serve_figures(bound, server.handle()));
    let port = port.transpose()?;
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
            "tcp_listen": server.tcp_addresses(),
            "metrics": port.as_ref().map(Port::address),
        });
        writeln!(out, "{line}")
    } else {
        let tcp: Vec<_> = server
            .tcp_addresses()
            .iter()
            .map(ToString::to_string)
            .collect();
        let tcp = if tcp.is_empty() {
            String::new()
        } else {
            format!(" and {} (tcp)", tcp.join(" and "))
        };
        writeln!(
            out,
            "{} is ready on {addresses} (udp){tcp}",
            server.identity()
        )
    };
    let _ = out.flush();
    weald_memory::settle();
    server.wait()
}

fn serve_figures(bound: Bound, relay: RelayHandle) -> Result<Port, PortError> {
    bound.serve(move || Some(figures::of_relay(&relay.report().ok()?)))
}

fn life_left(report: &RelayReport) -> String {
    let end = UnixTime::since_unix_epoch(Duration::from_secs(report.certificate_expires));
    let left = report
        .certificate_expires
        .saturating_sub(UnixTime::now().as_secs());
    format!(
        "certificate until {}, {} days left",
        day(end),
        left / 86_400
    )
}

fn show(report: &RelayReport, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
        return Ok(());
    }
    let listen: Vec<_> = report.listen.iter().map(ToString::to_string).collect();
    writeln!(out, "{} on {}", report.relay, listen.join(", "))?;
    writeln!(out, "{}", life_left(report))?;
    writeln!(out, "registered nodes: {}", report.registrations)?;
    let revoked = &report.revocations;
    if revoked.epoch > 0 {
        let (epoch, cut) = (revoked.epoch, revoked.sessions_cut);
        writeln!(
            out,
            "list of the revoked: epoch {epoch}, {cut} sessions cut"
        )?;
    }
    if let Some(why) = &report.last_certificate_refused {
        let count = report.certificates_refused;
        writeln!(out, "certificates refused: {count}, the last: {why}")?;
    }
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
