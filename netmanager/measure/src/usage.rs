//! What processes cost: CPU time of daemons and memory, from `/proc`.
//!
//! Ratios of rates vary with whatever else the machine does; CPU time per byte hardly does.

use std::fs;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

/// Seconds of CPU that all threads of a process have used, in user and kernel mode.
///
/// The scheduler's own count in nanoseconds, of the threads that are there: daemons keep theirs.
///
/// # Errors
/// There is no such process.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    thread_seconds_of(pid, "")
}

/// The same of those threads whose names begin with `name`.
///
/// # Errors
/// There is no such process.
pub fn thread_seconds_of(pid: u32, name: &str) -> Result<f64> {
    let folder = format!("/proc/{pid}/task");
    let mut nanoseconds = 0.0;
    for thread in fs::read_dir(&folder).with_context(|| format!("no process {pid}"))? {
        let path = thread?.path();
        // A thread may end between the listing and the look.
        let Ok(text) = fs::read_to_string(path.join("schedstat")) else {
            continue;
        };
        let own_name = || fs::read_to_string(path.join("comm")).unwrap_or_default();
        if !name.is_empty() && !own_name().starts_with(name) {
            continue;
        }
        let used = text.split_whitespace().next().unwrap_or_default();
        nanoseconds += used.parse::<f64>().context("schedstat")?;
    }
    Ok(nanoseconds / 1e9)
}

/// Seconds of CPU that this process has used, threads that are gone among them.
#[must_use]
pub fn own_seconds() -> f64 {
    seconds_of(ClockId::ProcessCPUTime)
}

/// Seconds of CPU that the calling thread has used.
#[must_use]
pub fn thread_seconds() -> f64 {
    seconds_of(ClockId::ThreadCPUTime)
}

fn seconds_of(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds of CPU that the kernel's own network threads (ksoftirqd) have used, of all cores.
///
/// # Errors
/// `/proc` cannot be read.
pub fn softirq_seconds() -> Result<f64> {
    let mut seconds = 0.0;
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with("ksoftirqd/") {
            seconds += cpu_seconds(pid).unwrap_or(0.0);
        }
    }
    Ok(seconds)
}

/// Resident memory of a process in megabytes (10^6 bytes): now, and the most it ever was.
///
/// # Errors
/// There is no such process.
pub fn memory(pid: u32) -> Result<[f64; 2]> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("no process {pid}"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes = line.split_whitespace().next()?.parse::<f64>().ok()?;
        Some(kibibytes * 1024.0 / 1e6)
    };
    let both = field("VmRSS:").zip(field("VmHWM:"));
    let (now, most) = both.with_context(|| format!("no memory of process {pid}: {status}"))?;
    Ok([now, most])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() -> Result<()> {
        let pid = std::process::id();
        let before = cpu_seconds(pid)?;
        let mut sum = 0_u64;
        // Work until it shows, not for a time.
        while cpu_seconds(pid)? - before < 0.001 {
            sum = sum.wrapping_add((0..10_000_u64).sum());
        }
        assert!(sum > 0);
        assert!(own_seconds() > 0.0 && thread_seconds() > 0.0);
        let [now, most] = memory(pid)?;
        assert!(now > 0.5 && most >= now * 0.9, "{now} {most}");
        assert!(softirq_seconds()? >= 0.0);
        Ok(())
    }
}
