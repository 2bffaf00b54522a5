//! What the relay counts: frames and bytes in, out, and dropped by reason.
//!
//! Only authenticated frames are charged to an organisation: nobody can run up the figures of
//! another. For the whole and for each organisation, bytes in are bytes out, plus dropped, plus
//! queued.

use std::fmt;
use std::ops::AddAssign;

/// Frames, and their bytes as UDP payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many frames.
    pub frames: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

impl Tally {
    /// Counts frames.
    pub(super) fn add(&mut self, frames: u64, bytes: usize) {
        self.frames += frames;
        self.bytes += bytes as u64;
    }

    /// Takes back what was counted before.
    pub(super) fn remove(&mut self, frames: u64, bytes: usize) {
        self.frames = self.frames.saturating_sub(frames);
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
    }
}

/// Why the relay drops a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RelayDrop {
    /// No frame that a relay knows, or one without a packet.
    Malformed,
    /// The packet is larger than the relay allows.
    Oversized,
    /// No registration has this link id.
    UnknownLink,
    /// The tag is wrong.
    Unauthenticated,
    /// The counter was seen before, or is too old to know.
    Replayed,
    /// No registration that the sender may reach has this peer id.
    UnknownPeer,
    /// The organisation's queue is full.
    QueueFull,
    /// The receiver's registration ended while the frame was queued.
    ReceiverGone,
    /// The socket could not send it.
    SendFailed,
    /// Its receiver, on a TCP connection, reads slower than others send to it.
    SlowReader,
    /// A node knocks more often than it may.
    KnocksTooOften,
}

impl RelayDrop {
    /// Every reason, in the order in which they are shown.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Oversized,
        Self::UnknownLink,
        Self::Unauthenticated,
        Self::Replayed,
        Self::UnknownPeer,
        Self::QueueFull,
        Self::ReceiverGone,
        Self::SendFailed,
        Self::SlowReader,
        Self::KnocksTooOften,
    ];

    /// The stable word that stands in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::UnknownLink => "unknown_link",
            Self::Unauthenticated => "unauthenticated",
            Self::Replayed => "replayed",
            Self::UnknownPeer => "unknown_peer",
            Self::QueueFull => "queue_full",
            Self::ReceiverGone => "receiver_gone",
            Self::SendFailed => "send_failed",
            Self::SlowReader => "slow_reader",
            Self::KnocksTooOften => "knocks_too_often",
        }
    }
}

impl fmt::Display for RelayDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The counters of an organisation, or of the whole relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayCounters {
    /// What came in.
    pub received: Tally,
    /// What went out.
    pub sent: Tally,
    /// What waits.
    pub queued: Tally,
    dropped: [Tally; RelayDrop::ALL.len()],
}

impl RelayCounters {
    /// What was dropped for one reason.
    #[must_use]
    pub fn dropped(&self, reason: RelayDrop) -> Tally {
        self.dropped
            .get(reason as usize)
            .copied()
            .unwrap_or_default()
    }

    /// What was dropped altogether.
    #[must_use]
    pub fn all_dropped(&self) -> Tally {
        let mut sum = Tally::default();
        for tally in self.dropped {
            sum += tally;
        }
        sum
    }

    /// Counts one dropped frame.
    pub(super) fn drop_frame(&mut self, reason: RelayDrop, bytes: usize) {
        self.drop_frames(reason, 1, bytes);
    }

    /// Counts several dropped frames.
    pub(super) fn drop_frames(&mut self, reason: RelayDrop, frames: u64, bytes: usize) {
        if let Some(tally) = self.dropped.get_mut(reason as usize) {
            tally.add(frames, bytes);
        }
    }
}

impl AddAssign<&Self> for RelayCounters {
    fn add_assign(&mut self, other: &Self) {
        self.received += other.received;
        self.sent += other.sent;
        self.queued += other.queued;
        for (mine, theirs) in self.dropped.iter_mut().zip(other.dropped) {
            *mine += theirs;
        }
    }
}
