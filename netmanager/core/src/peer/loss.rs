//! How many of a session's packets are lost on the path in use: what decides, beside its length,
//! whether TCP over it is better ended at each node.
//!
//! The shell tells totals now and then; older packets count ever less, and none of another path.

use super::paths::Path;

/// From so many packets on the share counts: ten lost ones then are 2 %.
const MIN_PACKETS: u64 = 500;
/// When so many are counted all of them count half, so that what was is forgotten.
const WINDOW_PACKETS: u64 = 4000;

/// The share of packets that the path in use has lost lately.
#[derive(Debug, Default)]
pub struct LossMeter {
    path: Option<Path>,
    /// The totals told last.
    told: (u64, u64),
    sent: u64,
    lost: u64,
}

impl LossMeter {
    /// Takes note of how many packets the session has sent and lost since it began, and of the
    /// path that it uses.
    pub fn note(&mut self, path: Option<Path>, sent: u64, lost: u64) {
        let (sent_before, lost_before) = self.told;
        self.told = (sent, lost);
        if self.path != path {
            // What is declared lost from now on may still be the former path's, once.
            (self.path, self.sent, self.lost) = (path, 0, 0);
            return;
        }
        self.sent += sent.saturating_sub(sent_before);
        self.lost += lost.saturating_sub(lost_before);
        while self.sent > WINDOW_PACKETS {
            self.sent /= 2;
            self.lost /= 2;
        }
    }

    /// Thousandths of the packets that were lost; none while too few were sent.
    #[must_use]
    pub fn permille(&self) -> Option<u16> {
        if self.sent < MIN_PACKETS {
            return None;
        }
        let share = self.lost.saturating_mul(1000) / self.sent;
        Some(u16::try_from(share.min(1000)).unwrap_or(1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> Option<Path> {
        Some(Path::Direct(([192, 0, 2, 1], port).into()))
    }

    #[test]
    fn a_share_is_known_after_enough_packets_and_follows_the_path() {
        let mut meter = LossMeter::default();
        meter.note(path(1), 100, 5);
        meter.note(path(1), 599, 15);
        assert_eq!(
            meter.permille(),
            None,
            "499 packets since the path is known"
        );
        meter.note(path(1), 600, 15);
        assert_eq!(meter.permille(), Some(20));
        // Loss that has ended is forgotten.
        for round in 1..=6 {
            meter.note(path(1), 600 + round * 2000, 15);
        }
        assert_eq!(meter.permille(), Some(0));
        // Another path has nothing of it.
        meter.note(path(1), 20_000, 1000);
        assert!(meter.permille() > Some(100));
        meter.note(path(2), 20_100, 1010);
        assert_eq!(meter.permille(), None);
        meter.note(path(2), 20_600, 1010);
        assert_eq!(meter.permille(), Some(0));
    }
}
