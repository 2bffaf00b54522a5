//! Fragments follow the first one.
//!
//! Only the first fragment of a packet has ports. It belongs to a flow like any packet; what comes
//! after it is found by identification and goes the same way. Nothing is put together here, and a
//! fragment that overtakes the first one is dropped.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::flow::{Direction, FlowId};
use crate::packet::PacketInfo;
use crate::table::Host;

/// How long the fragments of a packet may take: what Linux waits when it puts them together.
const LIFETIME: Duration = Duration::from_secs(30);
/// When the table is full, the place of a packet that began this long ago is given away: fragments
/// are sent back to back, so what is missing by then was lost.
const MIN_AGE: Duration = Duration::from_secs(1);
/// How many places are looked at for one to give away. Places are given out in turn, so the next
/// ones are the oldest.
const PROBES: usize = 8;

/// Runs of bytes without a gap that are kept of a packet: fragments are sent in order, and only what
/// is reordered makes a second one.
const MAX_RUNS: usize = 8;

/// No place for another fragmented packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many fragmented packets at once")]
pub struct FragmentTableFull;

/// Remembers to which flow the fragments of a packet belong.
#[derive(Debug)]
pub struct FragmentTable {
    places: Vec<Option<Entry>>,
    index: HashMap<Key, usize, foldhash::fast::FixedState>,
    next: usize,
    limit: usize,
}

/// What the fragments of one packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    from: Host,
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    /// Of IPv4 only: identifications of IPv6 are not by protocol (RFC 8200, section 4.5).
    protocol: Option<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: Key,
    flow: FlowId,
    direction: Direction,
    began: Instant,
    come: Runs,
    total: Option<u32>,
}

/// Which bytes of a packet have come, each counted once: runs from and to, which do not touch. An
/// empty one is a free place.
#[derive(Debug, Clone, Copy, Default)]
struct Runs([(u32, u32); MAX_RUNS]);

impl FragmentTable {
    /// An empty table for at most `limit` packets.
    #[must_use]
    pub fn new(limit: usize, seed: u64) -> Self {
        Self {
            places: Vec::new(),
            index: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
            next: 0,
            limit,
        }
    }

    /// Whether [`FragmentTable::begin`] would find a place for the packet.
    #[must_use]
    pub fn has_place(&self, from: Host, info: &PacketInfo, now: Instant) -> bool {
        let Some(key) = key(from, info) else {
            return true;
        };
        self.index.contains_key(&key) || self.free_place(now).is_some()
    }

    /// Takes note of the first fragment of a packet, which belongs to that flow.
    ///
    /// # Errors
    /// When too many packets are incomplete.
    pub fn begin(
        &mut self,
        from: Host,
        info: &PacketInfo,
        flow: FlowId,
        direction: Direction,
        now: Instant,
    ) -> Result<(), FragmentTableFull> {
        let Some(key) = key(from, info) else {
            return Ok(());
        };
        let place = match self.index.get(&key) {
            Some(place) => *place,
            None => self.free_place(now).ok_or(FragmentTableFull)?,
        };
        let entry = Entry {
            key,
            flow,
            direction,
            began: now,
            come: Runs::default().with(0, payload(info)),
            total: None,
        };
        if place == self.places.len() {
            self.places.push(None);
        }
        if let Some(slot) = self.places.get_mut(place) {
            if let Some(old) = slot.replace(entry) {
                self.index.remove(&old.key);
            }
            self.index.insert(key, place);
            self.next = place + 1;
        }
        Ok(())
    }

    /// The flow that a later fragment belongs to. Its packet is forgotten once all of it has come;
    /// a fragment that came twice does not stand for another one.
    pub fn follow(
        &mut self,
        from: Host,
        info: &PacketInfo,
        now: Instant,
    ) -> Option<(FlowId, Direction)> {
        let key = key(from, info)?;
        let fragment = info.fragment?;
        let place = *self.index.get(&key)?;
        let entry = self.places.get_mut(place)?.as_mut()?;
        if now.saturating_duration_since(entry.began) >= LIFETIME {
            self.forget(place);
            return None;
        }
        let found = (entry.flow, entry.direction);
        let from = u32::from(fragment.offset);
        let to = from + payload(info);
        entry.come = entry.come.with(from, to);
        if !fragment.more {
            entry.total = Some(to);
        }
        if entry.total.is_some_and(|total| entry.come.is_all(total)) {
            self.forget(place);
        }
        Some(found)
    }

    /// How many packets are incomplete.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no packet is incomplete.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn free_place(&self, now: Instant) -> Option<usize> {
        if self.places.len() < self.limit && self.index.len() == self.places.len() {
            return Some(self.places.len());
        }
        let count = self.places.len();
        let probes = PROBES.min(count);
        let place = (self.next..self.next + probes)
            .map(|place| place % count)
            .find(|place| {
                self.places
                    .get(*place)
                    .copied()
                    .flatten()
                    .is_none_or(|entry| now.saturating_duration_since(entry.began) >= MIN_AGE)
            });
        place.or_else(|| (count < self.limit).then_some(count))
    }

    fn forget(&mut self, place: usize) {
        if let Some(entry) = self.places.get_mut(place).and_then(Option::take) {
            self.index.remove(&entry.key);
        }
    }
}

impl Runs {
    /// These bytes too. Without a place for another run they are left out, and the packet stays
    /// incomplete until it is forgotten for its age.
    fn with(mut self, mut from: u32, mut to: u32) -> Self {
        for run in &mut self.0 {
            let touches = run.0 <= to && from <= run.1;
            if run.0 < run.1 && touches {
                (from, to) = (from.min(run.0), to.max(run.1));
                *run = (0, 0);
            }
        }
        if let Some(free) = self.0.iter_mut().find(|run| run.0 >= run.1) {
            *free = (from, to);
        }
        self
    }

    /// Whether all bytes up to the last one have come.
    fn is_all(&self, total: u32) -> bool {
        self.0.iter().any(|run| run.0 == 0 && run.1 >= total)
    }
}

fn key(from: Host, info: &PacketInfo) -> Option<Key> {
    let fragment = info.fragment?;
    Some(Key {
        from,
        source: info.src,
        destination: info.dst,
        id: fragment.id,
        protocol: info.src.is_ipv4().then_some(info.protocol),
    })
}

/// Bytes that a fragment has of its packet.
fn payload(info: &PacketInfo) -> u32 {
    u32::from(info.total_len.saturating_sub(info.l4_offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowTable;
    use crate::packet::{Fragment, L4};

    const PEER: Host = Host::Peer(crate::table::PeerId(3));

    #[test]
    fn fragments_follow_the_first_until_all_have_come() {
        let (mut table, flow, now) = setup(4);
        let first = info(7, 0, true);
        table
            .begin(PEER, &first, flow, Direction::Reply, now)
            .unwrap();
        let found = Some((flow, Direction::Reply));
        assert_eq!(
            table.follow(Host::Local, &info(7, 80, true), now),
            None,
            "another sender"
        );
        assert_eq!(
            table.follow(PEER, &info(8, 80, true), now),
            None,
            "another packet"
        );
        assert_eq!(
            table.follow(PEER, &info(7, 160, false), now),
            found,
            "reordered"
        );
        assert_eq!(table.follow(PEER, &info(7, 80, true), now), found);
        assert!(table.is_empty(), "complete");
        assert_eq!(table.follow(PEER, &info(7, 80, true), now), None);
    }

    #[test]
    fn a_fragment_that_came_twice_stands_for_no_other() {
        let (mut table, flow, now) = setup(4);
        table
            .begin(PEER, &info(7, 0, true), flow, Direction::Reply, now)
            .unwrap();
        // Fragments 1, 1 again, 3, which is the last, and 2.
        for (offset, more) in [(80, true), (80, true), (240, false), (160, true)] {
            let found = table.follow(PEER, &info(7, offset, more), now);
            assert_eq!(found, Some((flow, Direction::Reply)), "at {offset}");
        }
        assert!(table.is_empty(), "complete");
    }

    #[test]
    fn fragments_in_any_order_are_complete_once_and_in_time() {
        // The last first, then every second one, then what lies between: more runs than are kept.
        let count: u16 = 2 * u16::try_from(MAX_RUNS).unwrap() + 3;
        let order = |from: u16| (from..count - 1).step_by(2);
        for (order, is_complete) in [
            ((1..count).rev().collect::<Vec<_>>(), true),
            (
                [count - 1]
                    .into_iter()
                    .chain(order(2))
                    .chain(order(1))
                    .collect(),
                false,
            ),
        ] {
            let (mut table, flow, now) = setup(4);
            table
                .begin(PEER, &info(7, 0, true), flow, Direction::Reply, now)
                .unwrap();
            for at in order {
                let fragment = info(7, at * 80, at + 1 < count);
                assert!(
                    table.follow(PEER, &fragment, now).is_some(),
                    "fragment {at}"
                );
            }
            assert_eq!(table.is_empty(), is_complete);
            let late = now + LIFETIME;
            assert_eq!(table.follow(PEER, &info(7, 80, true), late), None);
            assert!(table.is_empty(), "forgotten for its age");
        }
    }

    #[test]
    fn fragments_are_forgotten_after_30_s() {
        let (mut table, flow, now) = setup(4);
        table
            .begin(PEER, &info(7, 0, true), flow, Direction::Forward, now)
            .unwrap();
        let late = now + Duration::from_secs(30);
        assert!(
            table
                .follow(PEER, &info(7, 80, true), late - Duration::from_nanos(1))
                .is_some()
        );
        assert_eq!(table.follow(PEER, &info(7, 160, true), late), None);
        assert!(table.is_empty());
    }

    #[test]
    fn a_full_table_gives_away_only_what_is_old() {
        let (mut table, flow, now) = setup(3);
        for id in 0..3 {
            assert!(table.has_place(PEER, &info(id, 0, true), now));
            table
                .begin(PEER, &info(id, 0, true), flow, Direction::Forward, now)
                .unwrap();
        }
        let more = info(3, 0, true);
        assert!(!table.has_place(PEER, &more, now));
        assert_eq!(
            table.begin(PEER, &more, flow, Direction::Forward, now),
            Err(FragmentTableFull)
        );
        assert!(table.has_place(PEER, &info(1, 0, true), now), "known");
        let later = now + MIN_AGE;
        table
            .begin(PEER, &more, flow, Direction::Forward, later)
            .unwrap();
        assert_eq!(table.len(), 3);
        assert_eq!(
            table.follow(PEER, &info(0, 80, true), later),
            None,
            "the oldest went"
        );
        assert!(table.follow(PEER, &info(1, 80, true), later).is_some());
    }

    #[test]
    fn a_table_for_no_packet_has_no_place() {
        let (mut table, flow, now) = setup(0);
        assert_eq!(
            table.begin(PEER, &info(1, 0, true), flow, Direction::Forward, now),
            Err(FragmentTableFull)
        );
    }

    fn setup(limit: usize) -> (FragmentTable, FlowId, Instant) {
        #[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
        let now = Instant::now();
        let info = PacketInfo {
            l4: L4::Udp {
                src_port: 1,
                dst_port: 2,
            },
            fragment: None,
            ..info(0, 0, false)
        };
        let opening = crate::flow::Opening {
            stream: None,
            key: crate::flow::FlowKey::of(crate::flow::Side::Tun, &info).unwrap(),
            opener: Host::Local,
            responder_ip: info.dst,
            responder: PEER,
            state: crate::flow::FlowState::Udp { assured: false },
            policy: None,
            lane: crate::flow::Lane::L3,
            lane_reason: crate::flow::LaneReason::Direct,
        };
        let flow = FlowTable::new(8, 1).open(opening, false, now).unwrap();
        (FragmentTable::new(limit, 1), flow, now)
    }

    fn info(id: u32, offset: u16, more: bool) -> PacketInfo {
        PacketInfo {
            src: IpAddr::from([10, 30, 0, 1]),
            dst: IpAddr::from([10, 30, 0, 2]),
            protocol: 17,
            l4_offset: 20,
            total_len: 100,
            fragment: Some(Fragment { id, offset, more }),
            l4: L4::LaterFragment,
        }
    }
}
