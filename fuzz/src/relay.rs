//! The relay: its messages, and the whole of it driven by bytes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use netmanager_core::relay::{Registration, Relay, RelayCounters};
use netmanager_core::seal::{SealKey, Sealer};
use weald_proto::datagram::{self, Datagrams};
use weald_proto::frame::RelayHeader;
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::relay::{MAX_LONG_MESSAGE_LEN, NodeMessage, RelayMessage};
use weald_proto::stream::{Deframer, LENGTH_LEN};

/// Nodes of the driven relay; those with odd numbers are of another organisation.
const NODES: u8 = 6;
/// Steps of one input: more say nothing new.
const MAX_STEPS: usize = 512;

/// Datagrams on a stream: no bytes panic, and what is read is written as it stood.
///
/// # Panics
/// If it is not.
pub fn relay_datagrams(bytes: &[u8]) {
    let mut datagrams = Datagrams::default();
    datagrams.feed(bytes);
    let mut again = Vec::new();
    while let Ok(Some(one)) = datagrams.next_datagram() {
        assert_eq!(datagram::append(&mut again, one), Ok(()));
    }
    assert!(bytes.starts_with(&again));
}

/// A stream in either direction: no bytes panic, and what is read is read again from what it is
/// written as.
///
/// # Panics
/// If it is not.
pub fn relay_messages(bytes: &[u8]) {
    let mut deframer = Deframer::new(MAX_LONG_MESSAGE_LEN);
    deframer.feed(bytes);
    while let Ok(Some(message)) = deframer.next_message() {
        if let Ok(read) = NodeMessage::decode(message) {
            let again = read.encode();
            assert_eq!(
                NodeMessage::decode(&again[LENGTH_LEN..]).as_ref(),
                Ok(&read)
            );
        }
        if let Ok(RelayMessage::Refused(refused)) = RelayMessage::decode(message) {
            // Long texts are cut when written.
            let _ = RelayMessage::Refused(refused).encode();
        } else if let Ok(read) = RelayMessage::decode(message) {
            let again = read.encode();
            assert_eq!(
                RelayMessage::decode(&again[LENGTH_LEN..]).as_ref(),
                Ok(&read)
            );
        }
    }
}

/// A relay with nodes that come, go, open, send good and bad frames: the books balance and nothing
/// crosses between organisations.
///
/// Each step is a byte that says what, a byte that says who, and for frames a byte of length and
/// as many bytes.
///
/// # Panics
/// If they do not, or something does.
pub fn relay(bytes: &[u8]) {
    let mut now = Instant::now();
    let mut relay = Relay::new(1_000_000, [1; 32], now);
    let mut nodes: Vec<Option<(u32, Sealer)>> = (0..NODES).map(|_| None).collect();
    let mut rest = bytes;
    for _ in 0..MAX_STEPS {
        let [what, who, ..] = rest else { break };
        let (what, who, other) = (*what, *who % NODES, *who / NODES % NODES);
        rest = &rest[2..];
        match what % 8 {
            0 => nodes[usize::from(who)] = register(&mut relay, who, now),
            1 => {
                if let Some((link, _)) = nodes[usize::from(who)].take() {
                    relay.unregister(link);
                }
            }
            2 => {
                if let Some((link, _)) = &nodes[usize::from(who)] {
                    let opened = relay.open(*link, &node(other));
                    assert!(opened.is_err() || who % 2 == other % 2);
                }
            }
            3 => now += Duration::from_millis(u64::from(who)),
            4 => relay.handle_timeout(now + Duration::from_secs(u64::from(what))),
            5 => {
                let mut frame = take(&mut rest).to_vec();
                relay.handle_frame(address(who), &mut frame, now);
            }
            6 => {
                let peer = nodes[usize::from(other)]
                    .as_ref()
                    .map_or(1, |(link, _)| *link);
                let packet = take(&mut rest);
                if let Some((link, sealer)) = &mut nodes[usize::from(who)] {
                    send(&mut relay, *link, sealer, peer, packet, who, now);
                }
            }
            _ => drain(&mut relay, now),
        }
        while relay.poll_notice().is_some() {}
        balanced(&relay.total());
    }
}

fn take<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let Some((length, after)) = rest.split_first() else {
        return &[];
    };
    let (taken, after) = after.split_at(usize::from(*length).min(after.len()));
    *rest = after;
    taken
}

fn node(number: u8) -> NodeId {
    let label = |text: String| Label::new(&text).unwrap_or_else(|error| panic!("{error}"));
    NodeId::new(label("c".to_owned()), label(format!("n{number}")))
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 1000))
}

fn register(relay: &mut Relay, number: u8, now: Instant) -> Option<(u32, Sealer)> {
    let organisation = if number.is_multiple_of(2) {
        "even"
    } else {
        "odd"
    };
    let registration = Registration {
        node: node(number),
        organisation: Organisation(Label::new(organisation).ok()?),
        address: address(number),
        up: SealKey::new([number; 16]),
        down: SealKey::new([number | 0x80; 16]),
        expires: now + Duration::from_secs(1),
    };
    let link = relay.register(registration).ok()?;
    Some((link, Sealer::new(SealKey::new([number; 16]))))
}

fn send(
    relay: &mut Relay,
    link: u32,
    sealer: &mut Sealer,
    peer: u32,
    packet: &[u8],
    number: u8,
    now: Instant,
) {
    let header = RelayHeader {
        link,
        peer,
        counter: 0,
    };
    let mut frame = [&header.encode()[..], packet].concat();
    // The first byte of the packet says who sent it, for `drain`.
    if let Some(first) = frame.get_mut(RelayHeader::TAG.end) {
        *first = number;
    }
    if sealer.seal(&mut frame, RelayHeader::TAG).is_ok() {
        relay.handle_frame(address(number), &mut frame, now);
    }
}

fn drain(relay: &mut Relay, now: Instant) {
    let mut out = Vec::new();
    while let Some(transmit) = relay.poll_transmit(now, 4, &mut out) {
        assert_eq!(out.len(), transmit.size);
        for frame in out.chunks(transmit.segment_size) {
            let sender = frame[RelayHeader::TAG.end];
            let SocketAddr::V4(to) = transmit.to else {
                panic!("{}", transmit.to);
            };
            let receiver = to.ip().octets()[3];
            assert_eq!(sender % 2, receiver % 2, "from {sender} to {receiver}");
        }
        out.clear();
    }
}

fn balanced(counters: &RelayCounters) {
    let (dropped, queued) = (counters.all_dropped(), counters.queued);
    let (received, sent) = (counters.received, counters.sent);
    assert_eq!(received.bytes, sent.bytes + dropped.bytes + queued.bytes);
    assert_eq!(
        received.frames,
        sent.frames + dropped.frames + queued.frames
    );
}
