//! What a node has, and how busy it is, as Linux says in /proc.

use std::fs;
use std::num::NonZero;

use anyhow::Context;
use weald_proto::spec::Resources;

/// Processors and memory of this machine.
///
/// # Errors
/// /proc cannot be read.
pub fn total() -> anyhow::Result<Resources> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let processors = u32::try_from(processors).unwrap_or(u32::MAX);
    let (memory_mib, _) = memory(&fs::read_to_string("/proc/meminfo")?)?;
    Ok(Resources {
        millicpus: processors.saturating_mul(1000),
        memory_mib,
        ..Resources::default()
    })
}

/// Measures how busy the machine is, from one call to the next.
#[derive(Debug, Default)]
pub struct Load {
    last: (u64, u64),
}

impl Load {
    /// Per cent of all processors in use since the last call, and MiB of memory in use.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn measure(&mut self) -> anyhow::Result<(f32, u32)> {
        let (busy, all) = processors(&fs::read_to_string("/proc/stat")?)?;
        let before = std::mem::replace(&mut self.last, (busy, all));
        let (busy, all) = (busy.saturating_sub(before.0), all.saturating_sub(before.1));
        #[expect(
            clippy::cast_precision_loss,
            reason = "a percentage for people to read, told as an f32"
        )]
        let percent = if all == 0 {
            0.0
        } else {
            100.0 * busy as f32 / all as f32
        };
        let (total, free) = memory(&fs::read_to_string("/proc/meminfo")?)?;
        Ok((percent, total.saturating_sub(free)))
    }
}

/// Ticks that all processors were busy, and all ticks.
fn processors(stat: &str) -> anyhow::Result<(u64, u64)> {
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        // What guests use stands among the users' already.
        .take(8)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("/proc/stat: {line}"))?;
    let all: u64 = ticks.iter().sum();
    // Idle and waiting for disks.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

/// MiB that there are, and MiB that are available.
fn memory(meminfo: &str) -> anyhow::Result<(u32, u32)> {
    let amount = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next());
        let kib: u64 = kib
            .and_then(|kib| kib.parse().ok())
            .with_context(|| format!("/proc/meminfo says nothing of {name}"))?;
        anyhow::Ok(u32::try_from(kib / 1024).unwrap_or(u32::MAX))
    };
    Ok((amount("MemTotal:")?, amount("MemAvailable:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_understood() {
        let stat = "cpu  10 0 20 60 10 0 0 0 5 0\ncpu0 1 2 3\n";
        assert_eq!(processors(stat).unwrap(), (30, 100));
        assert!(processors("").is_err());
        let meminfo = "MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n";
        assert_eq!(memory(meminfo).unwrap(), (2, 1));
        let error = memory("MemTotal: x kB").unwrap_err().to_string();
        assert_eq!(error, "/proc/meminfo says nothing of MemTotal:");
    }

    #[test]
    fn this_machine_has_something() {
        let total = total().unwrap();
        assert!(total.millicpus >= 1000 && total.memory_mib > 0, "{total:?}");
        let (percent, used) = Load::default().measure().unwrap();
        assert!(
            (0.0..=100.0).contains(&percent) && used > 0,
            "{percent} {used}"
        );
    }
}
