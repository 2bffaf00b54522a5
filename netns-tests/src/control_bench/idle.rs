//! What everything costs while nothing happens: memory, processor time, and bytes on the wire.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};

use super::{SERVING, SYSTEM, pids};
use crate::lab::Lab;
use crate::process::command;
use crate::tiers::Tiers;
use weald_measure::results::Results;

/// The roles, in the order of [`pids`].
const ROLES: [&str; 4] = ["root", "cluster", "worker", "netmanager"];
/// For how long nothing is done before it is measured: what joining leads to is over by then.
const SETTLE: Duration = Duration::from_secs(5);
/// How long a program may take.
const SOON: Duration = Duration::from_secs(10);

/// What was counted up to a moment.
struct Counted {
    at: Instant,
    /// Seconds of processor time of each role.
    cpu: [f64; 4],
    /// Bytes that the node has sent and received, with their Ethernet headers.
    bytes: [u64; 2],
}

pub(super) fn measure(
    lab: &Lab,
    tiers: &mut Tiers<'_>,
    idle: Duration,
    round: u32,
    results: &mut Results,
) -> Result<()> {
    let pids = pids(tiers)?;
    // The figures are of time that passes and of nothing else, so there is nothing to wait for.
    std::thread::sleep(SETTLE.min(idle));
    let before = count(lab, pids)?;
    std::thread::sleep(idle);
    let after = count(lab, pids)?;
    let seconds = (after.at - before.at).as_secs_f64();

    let rss = memory(pids)?;
    let mut cpu = [0.0; 4];
    for (cpu, (before, after)) in cpu.iter_mut().zip(before.cpu.iter().zip(after.cpu)) {
        *cpu = 100.0 * (after - before) / seconds;
    }
    for (what, values, unit) in [("rss", rss, "MB"), ("cpu", cpu, "% of a core")] {
        for (role, value) in ROLES.iter().zip(values) {
            results.add(round, SYSTEM, &format!("{what} {role}"), value, unit);
        }
        let [root, cluster, worker, netmanager] = values;
        let upper = format!("{what} root + cluster");
        results.add(round, SYSTEM, &upper, root + cluster, unit);
        let node = format!("{what} worker + netmanager");
        results.add(round, SYSTEM, &node, worker + netmanager, unit);
    }
    let rate = |at: usize| {
        let bytes = |of: &Counted| of.bytes.get(at).copied().unwrap_or_default();
        let bits = bytes(&after).saturating_sub(bytes(&before)) * 8;
        #[expect(
            clippy::cast_precision_loss,
            reason = "far below 2^52 bits in a minute"
        )]
        let bits = bits as f64;
        bits / seconds / 1000.0
    };
    let (sent, received) = (rate(0), rate(1));
    results.add(round, SYSTEM, "control link, sent", sent, "kbit/s");
    results.add(round, SYSTEM, "control link, received", received, "kbit/s");
    results.add(round, SYSTEM, "control link", sent + received, "kbit/s");
    Ok(())
}

/// The memory of both pairs, as it is now.
pub(super) fn measure_memory(
    tiers: &mut Tiers<'_>,
    round: u32,
    results: &mut Results,
) -> Result<()> {
    let [root, cluster, worker, netmanager] = memory(pids(tiers)?)?;
    let pairs = [
        ("rss root + cluster, then", root + cluster),
        ("rss worker + netmanager, then", worker + netmanager),
    ];
    for (metric, value) in pairs {
        results.add(round, SYSTEM, metric, value, "MB");
    }
    Ok(())
}

/// MB of each process in memory.
fn memory(pids: [u32; 4]) -> Result<[f64; 4]> {
    let mut rss = [0.0; 4];
    for (rss, pid) in rss.iter_mut().zip(pids) {
        *rss = resident(pid)?;
    }
    Ok(rss)
}

fn count(lab: &Lab, pids: [u32; 4]) -> Result<Counted> {
    let mut cpu = [0.0; 4];
    for (cpu, pid) in cpu.iter_mut().zip(pids) {
        *cpu = processor_time(pid)?;
    }
    Ok(Counted {
        at: Instant::now(),
        cpu,
        bytes: wire_bytes(lab)?,
    })
}

/// MB of a process in memory.
fn resident(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    let kib: f64 = kib.context("no VmRSS")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// Seconds of processor time of a process, of all its threads, those that have ended too: to a tick,
/// which is a hundredth of a second on most machines.
fn processor_time(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after) = text.rsplit_once(')').context("no name")?;
    let field = |at: usize| -> Result<f64> {
        let text = after.split_whitespace().nth(at).context("too short")?;
        Ok(text.parse()?)
    };
    let hz = sysconf(SysconfVar::CLK_TCK)?.context("no ticks")?;
    #[expect(clippy::cast_precision_loss, reason = "a hundred or a thousand")]
    let hz = hz as f64;
    // The fields utime and stime are the 14th and 15th, and the third is the first here.
    Ok((field(11)? + field(12)?) / hz)
}

/// What the serving node's interface has sent and received.
fn wire_bytes(lab: &Lab) -> Result<[u64; 2]> {
    let node = lab.node(SERVING);
    let interface = node.interfaces().first().context("no interface")?;
    let text = node.run_ok(command("cat /proc/net/dev"), SOON)?;
    let prefix = format!("{}:", interface.name);
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(&prefix));
    let fields: Vec<&str> = line.context("no counters")?.split_whitespace().collect();
    let field =
        |at: usize| -> Result<u64> { Ok(fields.get(at).context("too few counters")?.parse()?) };
    Ok([field(8)?, field(0)?])
}
