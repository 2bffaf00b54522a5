//! What the local API tells of the fast lane.

use serde::{Deserialize, Serialize};

/// The fast lane with one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FastReport {
    /// Whether packets of TCP are sent this way now.
    pub up: bool,
    /// Frames sent.
    pub sent_frames: u64,
    /// Frames received.
    pub received_frames: u64,
    /// Handshakes that have given keys.
    pub agreements: u64,
}
