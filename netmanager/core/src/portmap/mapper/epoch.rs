//! Whether a gateway has forgotten its mappings: it counts seconds from when it had none.

use std::time::Instant;

/// What a gateway has counted up to, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch {
    counted: u32,
    at: Instant,
}

impl Epoch {
    pub(super) const fn new(counted: u32, at: Instant) -> Self {
        Self { counted, at }
    }

    /// Takes what it has counted up to now; true if it cannot have counted on from what it was (RFC
    /// 6887, section 8.5): clocks may differ by a sixteenth and by two seconds.
    pub(super) fn follow(&mut self, counted: u32, now: Instant) -> bool {
        let here = now.saturating_duration_since(self.at).as_secs();
        let there = u64::from(counted.saturating_sub(self.counted));
        let is_back = counted.saturating_add(1) < self.counted;
        *self = Self::new(counted, now);
        is_back || here + 2 < there - there / 16 || there + 2 < here - here / 16
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_gateway_that_counts_anew_has_forgotten() {
        #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let is_new =
            |before, counted, seconds| Epoch::new(before, now).follow(counted, after(seconds));
        assert!(!is_new(1000, 1060, 60));
        assert!(!is_new(1000, 999, 0), "a packet that was overtaken");
        assert!(!is_new(1000, 1058, 60));
        assert!(!is_new(1000, 1000 + 3600 - 200, 3600), "a slow clock");
        assert!(is_new(1000, 998, 0));
        assert!(is_new(1000, 3, 60));
        assert!(
            is_new(10, 40, 60),
            "restarted, and up for longer than before"
        );
        assert!(is_new(1000, 5000, 60), "another gateway at the address");
        assert!(!is_new(u32::MAX, u32::MAX, 1));
    }
}
