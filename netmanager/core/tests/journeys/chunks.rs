//! What hostile peers send in place of chunks: each datagram is counted under one reason, nothing
//! comes of it, and what one peer sends completes nothing of another's.

use std::time::Duration;

use netmanager_core::chunk::{ChunkDrop, Chunker, Reassembler, ReassemblyLimits};
use netmanager_core::packet::PacketInfo;
use netmanager_core::verdict::{Counters, DropReason};
use netmanager_core::vnet::VnetHeader;
use weald_proto::chunk::{CHUNK_HEADER_LEN, ChunkHeader};

use crate::packets::{see, udp};
use crate::world::{CLIENT, End, WEB, World};

/// The session of alpha with another node: as the packet thread has it, without QUIC.
struct Session {
    from: &'static str,
    reassembler: Reassembler,
    counters: Counters,
}

impl Session {
    fn with(from: &'static str) -> Self {
        Self {
            from,
            reassembler: Reassembler::new(ReassemblyLimits::default()),
            counters: Counters::default(),
        }
    }

    /// Takes a datagram; where the packets that are complete with it ended.
    fn take(&mut self, world: &mut World, datagram: &[u8]) -> Vec<End> {
        let (from, now) = (self.from, world.now);
        let mut ends = Vec::new();
        let taken = self.reassembler.handle(datagram, now, &mut |vnet, packet| {
            ends.push(world.carry(from, "alpha", &vnet, packet));
        });
        if let Err(drop) = taken {
            self.counters.count(drop.reason());
        }
        self.count_late();
        ends
    }

    /// Lets all that waits have waited for too long.
    fn expire(&mut self, world: &mut World) -> Vec<End> {
        world.pass(Duration::from_secs(1));
        let (from, now) = (self.from, world.now);
        let mut ends = Vec::new();
        self.reassembler.handle_timeout(now, &mut |vnet, packet| {
            ends.push(world.carry(from, "alpha", &vnet, packet));
        });
        self.count_late();
        ends
    }

    fn count_late(&mut self) {
        while let Some((reason, count)) = self.reassembler.poll_drop() {
            self.counters.add(reason, count);
        }
    }

    fn counted(&self) -> Vec<(DropReason, u64)> {
        let counted = self.counters.iter();
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

/// Cuts a packet that is larger than a datagram; all of its pieces are needed.
fn pieces(packet: &[u8]) -> Vec<Vec<u8>> {
    let info = PacketInfo::parse(packet).unwrap();
    let mut pieces = Vec::new();
    Chunker::new()
        .split(
            &VnetHeader::plain(&info, false),
            packet,
            600,
            &mut |parts| {
                pieces.push(parts.concat());
            },
        )
        .unwrap();
    assert!(pieces.len() > 4, "{} pieces", pieces.len());
    pieces
}

fn change(chunk: &[u8], change: impl FnOnce(&mut ChunkHeader)) -> Vec<u8> {
    let (mut header, rest) = ChunkHeader::decode(chunk).unwrap();
    change(&mut header);
    [&header.encode()[..], rest].concat()
}

#[test]
fn hostile_datagrams_are_counted_each_under_its_reason_and_complete_nothing() {
    let mut world = World::new();
    let mut beta = Session::with("beta");
    let packet = udp((WEB[1], 53), (CLIENT, 4000), &[7; 3000]);
    let pieces = pieces(&packet);
    let mut other_bytes = pieces[0].clone();
    *other_bytes.last_mut().unwrap() ^= 1;
    assert!(beta.take(&mut world, &pieces[0]).is_empty());
    for (what, datagram, reason) in [
        ("nothing", vec![], DropReason::ChunkUnknownKind),
        (
            "a kind of its own",
            vec![0x0f; 99],
            DropReason::ChunkUnknownKind,
        ),
        (
            "half a header",
            pieces[1][..CHUNK_HEADER_LEN - 1].to_vec(),
            DropReason::ChunkTruncated,
        ),
        (
            "a batch that ends early",
            vec![2, 0, 99, 0x45],
            DropReason::ChunkTruncated,
        ),
        (
            "a chunk behind the end",
            change(&pieces[1], |header| header.index = 99),
            DropReason::ChunkOutOfRange,
        ),
        (
            "chunks of no bytes",
            change(&pieces[1], |header| header.chunk_len = 0),
            DropReason::ChunkOutOfRange,
        ),
        (
            "the same again",
            pieces[0].clone(),
            DropReason::ChunkDuplicate,
        ),
        ("other bytes", other_bytes, DropReason::ChunkConflict),
        (
            "another length",
            change(&pieces[1], |header| header.total -= 1),
            DropReason::ChunkConflict,
        ),
        ("no packet", vec![1, 0, 0, 0], DropReason::Malformed),
    ] {
        let before = beta.counters.clone();
        let (changed, flows) = world.changed("alpha", |world| {
            assert_eq!(beta.take(world, &datagram), [], "{what}");
        });
        assert_eq!((changed, flows), (vec![], 0), "{what}");
        for (counted, count) in beta.counters.iter() {
            let expected = before.of(counted) + u64::from(counted == reason);
            assert_eq!(count, expected, "{what}: {counted}");
        }
    }
    // None of it has spoilt the packet that is under way.
    let ends: Vec<End> = pieces[1..]
        .iter()
        .flat_map(|piece| beta.take(&mut world, piece))
        .collect();
    let [End::Arrived("alpha", arrived)] = ends.as_slice() else {
        panic!("{ends:?}");
    };
    assert_eq!(see(arrived), see(&packet));
    let before = beta.counters.clone();
    assert_eq!(beta.take(&mut world, &pieces[2]), [], "it is done with");
    let late = beta.counters.of(DropReason::ChunkLate);
    assert_eq!((before.of(DropReason::ChunkLate), late), (0, 1));
}

#[test]
fn too_many_beginnings_and_what_never_ends_are_counted() {
    let mut world = World::new();
    let mut beta = Session::with("beta");
    let pieces = pieces(&udp((WEB[1], 53), (CLIENT, 4000), &[7; 3000]));
    let most = u32::try_from(ReassemblyLimits::default().max_incomplete).unwrap();
    for packet in 0..=most {
        let first = change(&pieces[0], |header| header.packet = packet);
        assert_eq!(beta.take(&mut world, &first), []);
    }
    // The reassembler also gives up what many later packets have overtaken.
    let given_up = beta.counters.of(DropReason::ChunkIncomplete);
    assert!(given_up > 0);
    assert_eq!(beta.expire(&mut world), []);
    let all = u64::from(most) + 1;
    assert_eq!(beta.counters.of(DropReason::ChunkIncomplete), all);
    assert_eq!(beta.reassembler.incomplete(), 0);
    assert_eq!(beta.reassembler.poll_timeout(), None);
}

#[test]
fn the_chunks_of_one_peer_complete_no_packet_of_another() {
    let mut world = World::new();
    let (mut beta, mut gamma) = (Session::with("beta"), Session::with("gamma"));
    let packet = udp((WEB[1], 53), (CLIENT, 4000), &[7; 3000]);
    let pieces = pieces(&packet);
    // The same packet number, and each has what the other lacks.
    let (changed, flows) = world.changed("alpha", |world| {
        for (number, piece) in pieces.iter().enumerate() {
            let session = if number % 2 == 0 {
                &mut beta
            } else {
                &mut gamma
            };
            assert_eq!(session.take(world, piece), [], "piece {number}");
        }
    });
    assert_eq!((changed, flows), (vec![], 0));
    assert_eq!((beta.counted(), gamma.counted()), (vec![], vec![]));
    let halves = [&beta, &gamma].map(|session| session.reassembler.waiting());
    let all = pieces.len() as u64;
    assert_eq!(
        halves,
        [all.div_ceil(2), all / 2],
        "lost if the sessions end"
    );
    // Gamma's part comes to nothing, and beta's packet to what beta has said.
    assert_eq!(gamma.expire(&mut World::new()), []);
    let in_vain = vec![(DropReason::ChunkIncomplete, all / 2)];
    assert_eq!(gamma.counted(), in_vain);
    let rest = pieces.iter().skip(1).step_by(2);
    let ends: Vec<End> = rest
        .flat_map(|piece| beta.take(&mut world, piece))
        .collect();
    let [End::Arrived("alpha", arrived)] = ends.as_slice() else {
        panic!("{ends:?}");
    };
    assert_eq!(see(arrived), see(&packet));
    assert_eq!((beta.counted(), beta.reassembler.waiting()), (vec![], 0));
    // A whole one in its name is dropped for its source.
    let mut gamma = Session::with("gamma");
    let (changed, flows) = world.changed("alpha", |world| {
        let ends: Vec<End> = pieces
            .iter()
            .flat_map(|piece| gamma.take(world, piece))
            .collect();
        let dropped = End::Dropped("alpha", DropReason::SourceNotLeased);
        assert_eq!(ends, [dropped]);
    });
    let leased = vec![(DropReason::SourceNotLeased, 1)];
    assert_eq!((changed, flows), (leased, 0));
}

#[test]
fn every_fault_of_a_datagram_has_its_reason() {
    let (packet, index) = (1, 2);
    for (drop, reason) in [
        (ChunkDrop::UnknownKind, DropReason::ChunkUnknownKind),
        (ChunkDrop::Truncated, DropReason::ChunkTruncated),
        (
            ChunkDrop::OutOfRange {
                index,
                chunk_len: 3,
                total: 4,
            },
            DropReason::ChunkOutOfRange,
        ),
        (
            ChunkDrop::Duplicate { packet, index },
            DropReason::ChunkDuplicate,
        ),
        (
            ChunkDrop::Conflict { packet, index },
            DropReason::ChunkConflict,
        ),
        (ChunkDrop::Late { packet }, DropReason::ChunkLate),
    ] {
        assert_eq!(drop.reason(), reason, "{drop}");
    }
}
