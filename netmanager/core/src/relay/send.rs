//! The sending side of the relay: which frames go next, sealed for their receivers and in batches.

use std::net::SocketAddr;
use std::time::Instant;

use weald_proto::frame::{RELAY_HEADER_LEN, RelayHeader};

use super::link::Link;
use super::queue::{OrganisationKey, Queued};
use super::{Relay, RelayDrop};

/// Bytes of one batch: what the kernel takes in one call, IP and UDP header included.
pub const MAX_BATCH_BYTES: usize = 65_535 - 48;

/// Frames to send to one address in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayTransmit {
    /// Where to.
    pub to: SocketAddr,
    /// Bytes of all frames.
    pub size: usize,
    /// Bytes of each frame but the last, which may be shorter.
    pub segment_size: usize,
    organisation: OrganisationKey,
}

impl Relay {
    /// The frames whose turn it is, appended to `out`: at most `max_segments` for one address, all
    /// of one size but the last. None if nothing waits or the rate is used up.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        out: &mut Vec<u8>,
    ) -> Option<RelayTransmit> {
        while self.pacer.is_ready(now) {
            let (organisation, _) = self.queue.peek()?;
            if let Some(transmit) = self.batch(organisation, max_segments, out) {
                self.pacer.spend(transmit.size, now);
                return Some(transmit);
            }
        }
        None
    }

    /// Takes back frames of what [`Relay::poll_transmit`] gave that could not be sent: they are
    /// dropped for this reason.
    pub fn handle_lost(
        &mut self,
        transmit: &RelayTransmit,
        frames: usize,
        bytes: usize,
        reason: RelayDrop,
    ) {
        if let Some(tenant) = self.tenants.get_mut(&transmit.organisation) {
            let frames = frames as u64;
            tenant.counters.sent.remove(frames, bytes);
            tenant.counters.drop_frames(reason, frames, bytes);
        }
    }

    /// One batch of an organisation whose turn it is; none if its first frame has to be dropped.
    fn batch(
        &mut self,
        organisation: OrganisationKey,
        max_segments: usize,
        out: &mut Vec<u8>,
    ) -> Option<RelayTransmit> {
        let first = self.queue.pop(organisation)?;
        let (receiver, segment_size) = (first.receiver, first.frame.len());
        let start = out.len();
        let to = self.emit(organisation, first, out)?;
        let mut segments = 1;
        let mut last_size = segment_size;
        while segments < max_segments && last_size == segment_size {
            let room = MAX_BATCH_BYTES.saturating_sub(out.len() - start);
            let fits = self.queue.peek_more(organisation).is_some_and(|next| {
                let size = next.frame.len();
                next.receiver == receiver && size <= segment_size && size <= room
            });
            if !fits {
                break;
            }
            let Some(next) = self.queue.pop(organisation) else {
                break;
            };
            last_size = next.frame.len();
            if self.emit(organisation, next, out).is_none() {
                break;
            }
            segments += 1;
        }
        Some(RelayTransmit {
            to,
            size: out.len() - start,
            segment_size,
            organisation,
        })
    }

    /// Seals one frame for its receiver and appends it; none if it is dropped.
    fn emit(
        &mut self,
        organisation: OrganisationKey,
        mut queued: Queued,
        out: &mut Vec<u8>,
    ) -> Option<SocketAddr> {
        let length = queued.frame.len();
        let to = self
            .links
            .get_mut(&queued.receiver)
            .and_then(|link| readdress(&mut queued, link));
        if let Some(tenant) = self.tenants.get_mut(&organisation) {
            tenant.counters.queued.remove(1, length);
            if to.is_some() {
                tenant.counters.sent.add(1, length);
            } else {
                let reason = RelayDrop::ReceiverGone;
                tenant.counters.drop_frame(reason, length);
            }
        }
        if to.is_some() {
            out.extend_from_slice(&queued.frame);
        }
        self.queue.recycle(queued);
        to
    }
}

/// Turns a frame from its sender into one for its receiver, and says where that one is.
fn readdress(queued: &mut Queued, link: &mut Link) -> Option<SocketAddr> {
    let header = RelayHeader {
        link: queued.receiver,
        peer: queued.sender,
        counter: 0,
    };
    queued
        .frame
        .get_mut(..RELAY_HEADER_LEN)?
        .copy_from_slice(&header.encode());
    // Used up after 2^48 frames: the link is as good as gone until it registers again.
    link.sealer.seal(&mut queued.frame, RelayHeader::TAG).ok()?;
    Some(link.address)
}
