//! What an instance uses, between two measurements: from its cgroup, or process by process where
//! there is none.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};

use super::supervised::Running;
use crate::runtime::cgroup::Usage;

/// How many processes are looked at where there is no group.
const MAX_PROCESSES: usize = 4_096;

/// What was measured last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    at: Instant,
    processor: Duration,
}

impl Sample {
    pub(super) fn new(at: Instant, processor: Duration) -> Self {
        Self { at, processor }
    }

    /// Per cent of one processor since the last sample, which this one replaces.
    pub(super) fn advance(&mut self, now: Instant, processor: Duration) -> f32 {
        let time = now.saturating_duration_since(self.at);
        let used = processor.saturating_sub(self.processor);
        *self = Self::new(now, processor);
        if time.is_zero() {
            return 0.0;
        }
        100.0 * used.div_duration_f32(time)
    }
}

/// What a life has used so far. Reads files.
pub(super) fn measure(running: &Running) -> Usage {
    running
        .order
        .group
        .usage()
        .unwrap_or_else(|| of_descendants(running.supervisor.pid))
}

/// Everything below a process, itself left out. What has ended is counted with its parent, by
/// nobody once the parent has ended too; a group counts it all.
fn of_descendants(root: i32) -> Usage {
    let mut usage = Usage::default();
    let mut seen = BTreeSet::new();
    let mut next = children(root);
    while let Some(pid) = next.pop() {
        if seen.len() >= MAX_PROCESSES || !seen.insert(pid) {
            continue;
        }
        if let Some(one) = of_process(pid) {
            usage.processor += one.processor;
            usage.memory_bytes += one.memory_bytes;
        }
        next.extend(children(pid));
    }
    usage
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let files = threads.filter_map(|thread| Some(thread.ok()?.path().join("children")));
    let texts = files.filter_map(|file| fs::read_to_string(file).ok());
    texts
        .flat_map(|text| {
            let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<i32>>()
        })
        .collect()
}

fn of_process(pid: i32) -> Option<Usage> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; what follows begins with the third field.
    let (_, after) = text.rsplit_once(')')?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let number = |field: usize| -> Option<u64> { fields.get(field - 3)?.parse().ok() };
    // Own time, user and system, and that of children that have ended.
    let ticks = number(14)? + number(15)? + number(16)? + number(17)?;
    let ticks_per_second = u32::try_from(system(SysconfVar::CLK_TCK)?).ok()?;
    Some(Usage {
        processor: Duration::from_secs(ticks).checked_div(ticks_per_second)?,
        memory_bytes: number(24)?.saturating_mul(system(SysconfVar::PAGE_SIZE)?),
    })
}

fn system(figure: SysconfVar) -> Option<u64> {
    u64::try_from(sysconf(figure).ok()??).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn per_cent_is_of_the_time_between_two_samples() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut sample = Sample::new(start, Duration::ZERO);
        let used = Duration::from_millis(500);
        assert_eq!(
            sample.advance(after(1_000), used).to_bits(),
            50_f32.to_bits()
        );
        assert_eq!(
            sample.advance(after(1_000), used).to_bits(),
            0_f32.to_bits()
        );
        let used = Duration::from_millis(2_500);
        assert_eq!(
            sample.advance(after(2_000), used).to_bits(),
            200_f32.to_bits()
        );
    }

    #[test]
    fn descendants_are_counted_without_a_group() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sh -c 'echo; cat'; true"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The inner shell has written a line, so it has used memory.
        let mut line = [0];
        child.stdout.take().unwrap().read_exact(&mut line).unwrap();
        let usage = of_descendants(child.id().cast_signed());
        assert!(usage.memory_bytes > 0, "{usage:?}");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(of_descendants(-1), Usage::default());
    }
}
