//! Which instances the connections to services went to, in a form that outlives the process: packets
//! in mid-stream go on to the instance that knows them after a restart.
//!
//! Fixed places, a few for each key; what comes later takes the place of the oldest. Nothing is taken
//! out when a connection ends, because whoever asks is in the middle of one: what is found is right,
//! or its instance resets it. Connections of the L4 lane are never here; they end with the process.
//! The shell keeps the bytes, which are the same for every process.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::FlowKey;

/// Bytes of a place.
pub const PLACE_LEN: usize = 64;
/// Places of keys with the same hash.
const WAYS: usize = 4;
/// Sets of such places: 16,384 connections, 1 MiB.
const SETS: usize = 1 << 12;
/// Bytes of all places.
pub const CHOICES_LEN: usize = SETS * WAYS * PLACE_LEN;
/// Changes that wait for the shell; those beyond are not kept.
const MAX_WRITTEN: usize = SETS * WAYS;
/// The first byte of a place that is taken; another layout has another one.
const TAKEN: u8 = 1;
/// Where the parts of a place are: the sequence, behind what the key is compared by, and the sum.
const KEY: std::ops::Range<usize> = 0..38;
const RESPONDER: std::ops::Range<usize> = 38..54;
const SEQUENCE: std::ops::Range<usize> = 54..58;
const SUM: std::ops::Range<usize> = 58..62;

/// A place, as its bytes.
type Place = [u8; PLACE_LEN];

/// The choices of one node. Every place in memory was written to its end.
#[derive(Debug)]
pub struct Choices {
    places: Vec<u8>,
    sequence: u32,
    /// Places that have changed since the shell has asked.
    written: VecDeque<usize>,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            places: vec![0; CHOICES_LEN],
            sequence: 0,
            written: VecDeque::new(),
        }
    }
}

impl Choices {
    /// Takes up a place that a former process has left; one that is not whole is none.
    pub fn restore(&mut self, at: usize, place: &[u8]) {
        if let Some(bytes) = self.places.get_mut(at..at.saturating_add(PLACE_LEN))
            && place.len() == PLACE_LEN
            && is_whole(place)
        {
            bytes.copy_from_slice(place);
            self.sequence = self.sequence.max(sequence_of(place));
        }
    }

    /// Takes note of where a connection goes.
    pub fn note(&mut self, key: &FlowKey, responder: IpAddr) {
        let head = head(key);
        let set = set(&head);
        let at = self.place_in(set.clone(), &head);
        let at = at.unwrap_or_else(|| self.oldest(set));
        self.sequence = self.sequence.wrapping_add(1);
        let mut place = [0; PLACE_LEN];
        let parts: [(_, &[u8]); 3] = [
            (KEY, &head),
            (RESPONDER, &octets(responder)),
            (SEQUENCE, &self.sequence.to_be_bytes()),
        ];
        for (range, bytes) in parts {
            if let Some(part) = place.get_mut(range) {
                part.copy_from_slice(bytes);
            }
        }
        let sum = sum(place.get(..SUM.start).unwrap_or_default());
        if let Some(part) = place.get_mut(SUM) {
            part.copy_from_slice(&sum.to_be_bytes());
        }
        self.put(at, &place);
    }

    /// Forgets where a connection went.
    pub fn forget(&mut self, key: &FlowKey) {
        if let Some(at) = self.place_of(&head(key)) {
            self.put(at, &[0; PLACE_LEN]);
        }
    }

    /// Where a connection went.
    #[must_use]
    pub fn find(&self, key: &FlowKey) -> Option<IpAddr> {
        let at = self.place_of(&head(key))?;
        let responder = self.at(at)?.get(RESPONDER)?;
        let v6 = Ipv6Addr::from(*responder.first_chunk::<16>()?);
        let is_v4 = key.source().is_ipv4();
        let v4 = v6.to_ipv4_mapped().filter(|_| is_v4);
        Some(v4.map_or(IpAddr::V6(v6), IpAddr::V4))
    }

    /// The next place that has changed, by its offset, and its bytes.
    pub fn poll_write(&mut self) -> Option<(usize, Place)> {
        let at = self.written.pop_front()?;
        Some((at, *self.at(at)?.first_chunk()?))
    }

    fn at(&self, at: usize) -> Option<&[u8]> {
        self.places.get(at..at + PLACE_LEN)
    }

    fn put(&mut self, at: usize, place: &Place) {
        if let Some(bytes) = self.places.get_mut(at..at + PLACE_LEN) {
            bytes.copy_from_slice(place);
            if self.written.len() >= MAX_WRITTEN {
                self.written.pop_front();
            }
            self.written.push_back(at);
        }
    }

    fn place_of(&self, head: &[u8]) -> Option<usize> {
        self.place_in(set(head), head)
    }

    fn place_in(&self, mut set: impl Iterator<Item = usize>, head: &[u8]) -> Option<usize> {
        set.find(|at| self.at(*at).and_then(|place| place.get(KEY)) == Some(head))
    }

    /// A place that is free, or the one that was written first.
    fn oldest(&self, set: impl Iterator<Item = usize>) -> usize {
        let age = |at: &usize| match self.at(*at) {
            Some(place) if is_taken(place) => self.sequence.wrapping_sub(sequence_of(place)),
            Some(_) | None => u32::MAX,
        };
        set.max_by_key(age).unwrap_or(0)
    }
}

/// The offsets of the places that a key may have.
fn set(head: &[u8]) -> impl Iterator<Item = usize> + Clone + use<> {
    let first = sum(head) as usize % SETS * WAYS;
    (first..first + WAYS).map(|place| place * PLACE_LEN)
}

/// What a key is compared by.
fn head(key: &FlowKey) -> [u8; 38] {
    let mut head = [0; 38];
    let ports = [key.source_port(), key.destination_port()];
    let addresses = [key.source(), key.destination()].map(octets);
    let bytes = [TAKEN, key.protocol()].into_iter();
    let bytes = bytes.chain(ports.into_iter().flat_map(u16::to_be_bytes));
    let bytes = bytes.chain(addresses.into_iter().flatten());
    for (place, byte) in head.iter_mut().zip(bytes) {
        *place = byte;
    }
    head
}

/// An address in 16 bytes; those of IPv4 are mapped.
const fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::to_ipv6_mapped(&ip).octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Whether a place is taken, and was written to its end.
fn is_whole(place: &[u8]) -> bool {
    let (Some(bytes), Some(read)) = (place.get(..SUM.start), place.get(SUM)) else {
        return false;
    };
    is_taken(place) && read == sum(bytes).to_be_bytes()
}

fn is_taken(place: &[u8]) -> bool {
    place.first() == Some(&TAKEN)
}

fn sequence_of(place: &[u8]) -> u32 {
    let bytes = place.get(SEQUENCE).and_then(|part| part.first_chunk());
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// The same in every process, of later versions as well, because an upgrade is a restart. Not to be
/// relied on against anybody who chooses keys, who can only make his own node forget his own choices.
fn sum(bytes: &[u8]) -> u32 {
    // Odd, with as many ones as zeros: the golden ratio's fraction in 64 bits.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let hash = bytes.chunks(8).fold(bytes.len() as u64, |hash: u64, part| {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(part) {
            *to = *from;
        }
        let mixed = (hash ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
        mixed ^ mixed >> 32
    });
    hash as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Side;
    use crate::packet::PROTOCOL_TCP;

    fn key(client: &str, port: u16) -> FlowKey {
        let client = format!("{client}:{port}").parse().unwrap();
        let service = if port == 6 {
            "[fdff:2000::1]:80"
        } else {
            "10.30.100.1:80"
        };
        FlowKey::between(PROTOCOL_TCP, Side::Tun, client, service.parse().unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// What another process finds.
    fn kept(choices: &mut Choices) -> Choices {
        let mut restored = Choices::default();
        while let Some((at, place)) = choices.poll_write() {
            restored.put(at, &place);
        }
        let mut again = Choices::default();
        for (number, place) in restored.places.chunks(PLACE_LEN).enumerate() {
            again.restore(number * PLACE_LEN, place);
        }
        again
    }

    #[test]
    fn another_process_finds_what_was_noted_and_nothing_that_was_forgotten() {
        let mut choices = Choices::default();
        let (first, second) = (key("10.30.1.1", 1), key("10.30.1.1", 2));
        let of_v6 = key("[fdff::1:1]", 6);
        assert_eq!(choices.find(&first), None);
        choices.note(&first, ip("10.30.1.8"));
        choices.note(&first, ip("10.30.1.9"));
        choices.note(&second, ip("10.30.1.10"));
        choices.note(&of_v6, ip("fdff::1:9"));
        choices.forget(&second);
        choices.forget(&key("10.30.1.1", 3));
        let restored = kept(&mut choices);
        for choices in [&choices, &restored] {
            assert_eq!(choices.find(&first), Some(ip("10.30.1.9")));
            assert_eq!(choices.find(&second), None);
            assert_eq!(choices.find(&of_v6), Some(ip("fdff::1:9")));
        }
        assert_eq!(choices.poll_write(), None, "all of it is written");
    }

    #[test]
    fn sums_are_those_of_every_version() {
        // Another one makes connections to services end with an upgrade.
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(b"weald"), 0x83db_09c2);
        let changed: std::collections::BTreeSet<u32> = (0..54 * 8)
            .map(|bit| {
                let mut bytes = [7; 54];
                bytes[bit / 8] ^= 1 << (bit % 8);
                sum(&bytes)
            })
            .collect();
        assert_eq!(changed.len(), 54 * 8, "each bit matters");
    }

    #[test]
    fn the_oldest_gives_way_and_a_torn_place_is_none() {
        let mut choices = Choices::default();
        let all: Vec<FlowKey> = (1..=60u8)
            .flat_map(|last| {
                let client = format!("10.30.1.{last}");
                (1000..2000).map(move |port| key(&client, port))
            })
            .collect();
        for key in &all {
            choices.note(key, ip("10.30.1.9"));
        }
        let left = all.iter().filter(|key| choices.find(key).is_some()).count();
        assert!(left > SETS * WAYS * 9 / 10, "{left}");
        let last = all.last().unwrap();
        assert_eq!(choices.find(last), Some(ip("10.30.1.9")));
        // Torn in the middle, or of another layout.
        let at = choices.place_of(&head(last)).unwrap();
        let mut place = choices.at(at).unwrap().to_vec();
        let mut restored = Choices::default();
        restored.restore(at, &place);
        assert_eq!(restored.find(last), Some(ip("10.30.1.9")));
        let mut restored = Choices::default();
        place[RESPONDER.start] ^= 1;
        restored.restore(at, &place);
        restored.restore(at, &[TAKEN; PLACE_LEN]);
        restored.restore(at, &[TAKEN; 7]);
        restored.restore(CHOICES_LEN, &[TAKEN; PLACE_LEN]);
        restored.restore(usize::MAX, &[TAKEN; PLACE_LEN]);
        assert!(restored.places.iter().all(|byte| *byte == 0));
    }
}
