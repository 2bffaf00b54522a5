//! TCP load by iperf3: its command lines, and what its reports say.
//!
//! The congestion control is always named, because the default differs between machines.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use netns_tests::{Namespace, Process, command};
use serde_json::Value;

/// What programs have where nothing else is said.
pub const CUBIC: &str = "cubic";
/// iperf3's port.
const PORT: u16 = 5201;
/// How much longer than its load a run may take.
const SLACK: Duration = Duration::from_secs(20);
/// What a client prints while its server is at the end of the run before.
const BUSY: [&str; 2] = ["the server is busy", "Connection reset by peer"];
/// How long a server may be busy with the end of the run before.
const BUSY_TIME: Duration = Duration::from_secs(10);

/// How the load runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flows {
    /// So many from the client to the server.
    Forward(u32),
    /// One from the server to the client.
    Reverse,
    /// One each way at once.
    Both,
}

/// What a run found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Bits per second that arrived, of all flows.
    pub bits_per_second: f64,
    /// Bytes that arrived.
    pub bytes: f64,
    /// Seconds of CPU that both ends of the load used themselves.
    pub load_cpu_seconds: f64,
}

/// Starts a server, which runs until it is dropped.
///
/// # Errors
/// It cannot be started, or does not listen in time.
pub fn serve(namespace: &Namespace) -> Result<Process> {
    let server = namespace.spawn(command("iperf3 -s"))?;
    namespace.wait_tcp_listening(PORT, SLACK)?;
    Ok(server)
}

/// The options that all runs share.
fn options(from: IpAddr, to: IpAddr, time: Duration, control: &str) -> String {
    // It takes whole seconds, and 0 for ever.
    let seconds = time.as_secs_f64().ceil().max(1.0);
    format!("iperf3 -J -C {control} --connect-timeout 5000 -t {seconds:.0} -B {from} -c {to}")
}

/// Runs load through a tunnel and waits for its end.
///
/// # Errors
/// iperf3 fails; the error shows what it wrote.
pub fn run(
    client: &Namespace,
    ends: [IpAddr; 2],
    flows: Flows,
    time: Duration,
) -> Result<Measured> {
    run_with(client, ends, flows, time, CUBIC)
}

/// The same with a congestion control of the kernel's by its name.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    client: &Namespace,
    [from, to]: [IpAddr; 2],
    flows: Flows,
    time: Duration,
    control: &str,
) -> Result<Measured> {
    let how = match flows {
        Flows::Forward(flows) => format!("-P {flows}"),
        Flows::Reverse => "-R".to_owned(),
        Flows::Both => "--bidir".to_owned(),
    };
    let line = format!("{} {how}", options(from, to, time, control));
    let deadline = Instant::now() + BUSY_TIME;
    loop {
        let output = client.run(command(&line), time + SLACK)?;
        let printed = String::from_utf8_lossy(&output.stdout);
        // The server may still be at the end of the run before.
        let is_busy = BUSY.iter().any(|words| printed.contains(words));
        if is_busy && Instant::now() < deadline {
            continue;
        }
        return parse(&printed).with_context(|| format!("{line} printed:\n{printed}"));
    }
}

/// Starts one flow of at most `bits_per_second`, which runs until it is dropped or `time` is over.
///
/// # Errors
/// iperf3 cannot be started.
pub fn start_capped(
    client: &Namespace,
    [from, to]: [IpAddr; 2],
    bits_per_second: f64,
    time: Duration,
) -> Result<Process> {
    let line = format!("{} -b {bits_per_second:.0}", options(from, to, time, CUBIC));
    client.spawn(command(&line))
}

/// Starts one flow that sends as fast as it can, which runs until it is dropped or `time` is over.
///
/// # Errors
/// iperf3 cannot be started.
pub fn start_unbounded(
    client: &Namespace,
    [from, to]: [IpAddr; 2],
    time: Duration,
    control: &str,
) -> Result<Process> {
    client.spawn(command(&options(from, to, time, control)))
}

/// Reads what iperf3 printed.
fn parse(printed: &str) -> Result<Measured> {
    let report: Value = serde_json::from_str(printed).context("no JSON")?;
    let end = &report["end"];
    let number = |value: &Value| value.as_f64();
    let received = &end["sum_received"];
    let bits = number(&received["bits_per_second"]).context("no rate")?;
    let bytes = number(&received["bytes"]).context("no bytes")?;
    let seconds = number(&end["sum_sent"]["seconds"]).context("no time")?;
    let back = &end["sum_received_bidir_reverse"];
    let back_bits = number(&back["bits_per_second"]).unwrap_or(0.0);
    let back_bytes = number(&back["bytes"]).unwrap_or(0.0);
    let cpu = &end["cpu_utilization_percent"];
    let percent = |key: &str| number(&cpu[key]).unwrap_or(0.0);
    let percent = percent("host_total") + percent("remote_total");
    Ok(Measured {
        bits_per_second: bits + back_bits,
        bytes: bytes + back_bytes,
        load_cpu_seconds: percent / 100.0 * seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_summed() -> Result<()> {
        let measured = parse(
            r#"{"end": {
                "sum_sent": {"seconds": 2.0},
                "sum_received": {"bits_per_second": 8e9, "bytes": 2e9},
                "sum_received_bidir_reverse": {"bits_per_second": 4e9, "bytes": 1e9},
                "cpu_utilization_percent": {"host_total": 50.0, "remote_total": 75.0}
            }}"#,
        )?;
        let expected = Measured {
            bits_per_second: 12e9,
            bytes: 3e9,
            load_cpu_seconds: 2.5,
        };
        assert_eq!(measured, expected);
        Ok(())
    }

    #[test]
    fn a_failed_run_is_an_error() {
        assert!(parse(r#"{"error": "unable to connect"}"#).is_err());
        assert!(parse("").is_err());
    }
}
