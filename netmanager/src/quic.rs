//! How QUIC is set up on the data socket: transport limits, connection ids, addresses.
//!
//! The driver owns the endpoint and the connections. quinn-proto sees one made-up IPv6 address per
//! connection, which never changes ([`VirtualAddresses`]); which path packets really take is the
//! driver's choice per packet, so that a change of path is none for QUIC.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use netmanager_core::peer::paths::Path;
use quinn_proto::congestion::{Controller, ControllerFactory};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, InvalidCid,
    MtuDiscoveryConfig, TransportConfig, VarInt,
};

pub mod agreement;
pub mod control;

/// Bytes of our connection ids: the session's slot and randomness.
pub const CONNECTION_ID_LEN: usize = 8;
/// A session that hears nothing for this long is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// NAT mappings of active IPv4 paths stay open with one packet in this time.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A cluster that is silent for this long is gone; it acknowledges a keep-alive every few seconds.
const CLUSTER_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of the cluster's messages that may be on their way.
const CLUSTER_WINDOW: u32 = 1 << 20;
/// The largest UDP payload that MTU discovery tries: 1500 less IPv4 and UDP headers.
const MTU_UPPER_BOUND: u16 = 1472;
/// Datagrams that wait in quinn-proto; our own queue, which can be cut anew, is before it.
pub const DATAGRAM_SEND_BUFFER: usize = 1 << 20;
/// Datagrams that wait for the driver, which empties them after every batch.
const DATAGRAM_RECEIVE_BUFFER: usize = 8 << 20;
/// Bytes in flight on a datagram connection. Inner TCP does congestion control end to end
/// (RFC 9484, section 5, permits to leave it to inner traffic); this only bounds memory.
const DATAGRAM_WINDOW: u64 = 16 << 20;
/// The application protocol of connections of the L4 lane.
pub const LANE_ALPN: &[u8] = b"weald-lane/1";
/// How the first connection id of such a connection begins, and its length, which no id of ours
/// has.
const LANE_MARK: &[u8] = b"lane";
const LANE_ID_LEN: usize = 20;
/// Streams of one peer at once; quinn-proto keeps some bytes for each that may come.
const LANE_STREAMS: u32 = 16_384;
/// Bytes per second that a stream's window is made for.
const LANE_RATE: f64 = 125e6;
/// The least and the most that one stream's reader may leave unread: the most fills a path of
/// 300 ms at that rate.
const LANE_MIN_WINDOW: u32 = 1 << 20;
const LANE_MAX_WINDOW: u32 = 64 << 20;
/// What all streams of a connection may leave unread together: the memory that a peer can take.
const LANE_CONNECTION_WINDOW: u32 = 256 << 20;
/// A peer that is silent for this long is gone: its connections are reset rather than left hanging.
/// Longer than a path takes to be replaced.
const LANE_IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Handshakes in progress beyond which new ones must first prove their address by a Retry.
pub const HALF_OPEN_RETRY: usize = 64;
/// Handshakes in progress beyond which new ones are ignored; about 30 kB each.
pub const HALF_OPEN_MAX: usize = 1024;

/// Endpoint settings: our connection ids, the kept stateless-reset key, no greased fixed bit
/// (frames beside QUIC are told apart by it).
#[must_use]
pub fn endpoint_config(reset_key: &[u8; 32], slot: &CurrentSlot) -> EndpointConfig {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, reset_key);
    let mut config = EndpointConfig::new(Arc::new(key));
    let generator = slot.clone();
    config.cid_generator(move || Box::new(SlotConnectionIds::new(generator.clone())));
    config.grease_quic_bit(false);
    config
}

/// Server settings around the TLS part: no migration (our own layer moves paths).
#[must_use]
pub fn server_config(crypto: QuicServerConfig) -> quinn_proto::ServerConfig {
    let mut config = quinn_proto::ServerConfig::with_crypto(Arc::new(crypto));
    config.migration(false);
    config.transport_config(Arc::new(datagram_transport()));
    config.max_incoming(HALF_OPEN_MAX);
    config
}

/// Client settings around the TLS part, for a session with a peer.
#[must_use]
pub fn peer_client_config(crypto: QuicClientConfig) -> quinn_proto::ClientConfig {
    let mut config = quinn_proto::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(datagram_transport()));
    config
}

/// Client settings around the TLS part, for the session with a relay: one small stream.
#[must_use]
pub fn relay_client_config(crypto: QuicClientConfig) -> quinn_proto::ClientConfig {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    transport.receive_window(VarInt::from_u32(64 << 10));
    transport.stream_receive_window(VarInt::from_u32(64 << 10));
    transport.max_idle_timeout(Some(idle_timeout()));
    transport.keep_alive_interval(Some(KEEP_ALIVE / 2));
    let mut config = quinn_proto::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    config
}

/// Client settings around the TLS part, for the session with the own cluster: one stream, on which
/// rows of large applications come. The node says often enough that it is there.
#[must_use]
pub fn cluster_client_config(crypto: QuicClientConfig) -> quinn_proto::ClientConfig {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    transport.receive_window(VarInt::from_u32(CLUSTER_WINDOW));
    transport.stream_receive_window(VarInt::from_u32(CLUSTER_WINDOW));
    transport.max_idle_timeout(Some(cluster_idle_timeout()));
    let mut config = quinn_proto::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    config
}

/// Server settings around the TLS part, for connections of the L4 lane that others dial, before
/// their windows are known.
#[must_use]
pub fn lane_server_config(crypto: QuicServerConfig) -> quinn_proto::ServerConfig {
    let mut config = quinn_proto::ServerConfig::with_crypto(Arc::new(crypto));
    config.migration(false);
    config.transport_config(Arc::new(lane_transport(LANE_MIN_WINDOW)));
    config
}

/// Those settings for one connection; none if its first id does not say that it is for the lane.
/// What it may do is settled by the protocol that TLS agrees on.
#[must_use]
pub fn lane_server_for(
    id: &[u8],
    base: &quinn_proto::ServerConfig,
) -> Option<Arc<quinn_proto::ServerConfig>> {
    let exponent = id.strip_prefix(LANE_MARK)?.first()?;
    if id.len() != LANE_ID_LEN {
        return None;
    }
    let window = 1u32.checked_shl((*exponent).into()).unwrap_or(0);
    let window = window.clamp(LANE_MIN_WINDOW, LANE_MAX_WINDOW);
    let mut config = base.clone();
    config.transport_config(Arc::new(lane_transport(window)));
    Some(Arc::new(config))
}

/// Client settings around the TLS part, for a connection of the L4 lane with a peer that is so far
/// away.
#[must_use]
pub fn lane_client_config(crypto: QuicClientConfig, rtt: Duration) -> quinn_proto::ClientConfig {
    let window = (rtt.as_secs_f64() * LANE_RATE) as u32;
    let window = window.clamp(LANE_MIN_WINDOW, LANE_MAX_WINDOW);
    let window = window.next_power_of_two();
    let mut config = quinn_proto::ClientConfig::new(Arc::new(crypto));
    let mut transport = lane_transport(window);
    transport.initial_rtt(rtt.max(Duration::from_millis(1)));
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    config.transport_config(Arc::new(transport));
    config.initial_dst_cid_provider(Arc::new(move || lane_id(window)));
    config
}

/// Streams only, each with that window.
fn lane_transport(window: u32) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(LANE_STREAMS));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    transport.stream_receive_window(VarInt::from_u32(window));
    transport.receive_window(VarInt::from_u32(LANE_CONNECTION_WINDOW));
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_UPPER_BOUND);
    transport.mtu_discovery_config(Some(discovery));
    transport.congestion_controller_factory(Arc::new(control::RateControlled));
    // Thousands of milliseconds fit a QUIC varint.
    let idle = VarInt::from_u32(LANE_IDLE_TIMEOUT.as_secs() as u32 * 1000);
    transport.max_idle_timeout(Some(IdleTimeout::from(idle)));
    transport.keep_alive_interval(Some(LANE_IDLE_TIMEOUT / 4));
    transport
}

/// The first connection id of a connection of the L4 lane: who is dialled has to choose its limits
/// before it can read anything else.
fn lane_id(window: u32) -> ConnectionId {
    let mut id = [0; LANE_ID_LEN];
    if aws_lc_rs::rand::fill(&mut id).is_err() {
        tracing::error!("no randomness for a connection id");
    }
    id[..LANE_MARK.len()].copy_from_slice(LANE_MARK);
    id[LANE_MARK.len()] = window.trailing_zeros() as u8;
    ConnectionId::new(&id)
}

fn datagram_transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    // Beside datagrams one small stream, on which a peer shows its lease.
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport.max_concurrent_uni_streams(VarInt::from_u32(1));
    transport.receive_window(VarInt::from_u32(64 << 10));
    transport.datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER));
    transport.datagram_send_buffer_size(DATAGRAM_SEND_BUFFER);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_UPPER_BOUND);
    transport.mtu_discovery_config(Some(discovery));
    transport.congestion_controller_factory(Arc::new(InnerControlled));
    transport.max_idle_timeout(Some(idle_timeout()));
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    transport
}

fn cluster_idle_timeout() -> IdleTimeout {
    // Fifteen thousand milliseconds fit a QUIC varint.
    IdleTimeout::from(VarInt::from_u32(
        CLUSTER_IDLE_TIMEOUT.as_secs() as u32 * 1000,
    ))
}

fn idle_timeout() -> IdleTimeout {
    // Thirty thousand milliseconds fit a QUIC varint.
    IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT.as_secs() as u32 * 1000))
}

/// Leaves congestion control to what is inside the tunnel; only bounds what is in flight.
#[derive(Debug, Clone, Copy)]
struct InnerControlled;

impl ControllerFactory for InnerControlled {
    fn build(self: Arc<Self>, _now: Instant, _mtu: u16) -> Box<dyn Controller> {
        Box::new(*self)
    }
}

impl Controller for InnerControlled {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _new_mtu: u16) {}

    fn window(&self) -> u64 {
        DATAGRAM_WINDOW
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(*self)
    }

    fn initial_window(&self) -> u64 {
        DATAGRAM_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

/// The slot of the session for which quinn-proto makes connection ids right now.
///
/// The driver sets it before every call that may make one; both run on the packet thread.
#[derive(Debug, Clone)]
pub struct CurrentSlot(Arc<AtomicU32>);

/// The slot of no session: of connection ids in Retry packets and in refusals.
const NO_SLOT: u32 = 0xffff;

impl CurrentSlot {
    /// No session yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(AtomicU32::new(NO_SLOT)))
    }

    /// Connection ids made from now on belong to the session in `slot`.
    pub fn set(&self, slot: Slot) {
        self.0.store(u32::from(slot.0), Ordering::Relaxed);
    }

    /// Connection ids made from now on belong to no session.
    pub fn clear(&self) {
        self.0.store(NO_SLOT, Ordering::Relaxed);
    }
}

impl Default for CurrentSlot {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a session stands in the driver's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// The most sessions at once; one slot number means "none".
    pub const MAX: usize = NO_SLOT as usize;

    /// The slot that a packet's destination connection id names, if the packet is long enough and
    /// the id is one of ours.
    #[must_use]
    pub fn of_packet(packet: &[u8]) -> Option<Self> {
        let id = destination_connection_id(packet)?;
        let (slot, random) = id.split_first_chunk::<2>()?;
        (random.len() == CONNECTION_ID_LEN - 2)
            .then(|| u16::from_be_bytes(*slot))
            .filter(|slot| u32::from(*slot) != NO_SLOT)
            .map(Self)
    }
}

/// The destination connection id of a QUIC packet (RFC 8999, sections 5.1 and 5.2).
#[must_use]
pub fn destination_connection_id(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    if first & 0x80 == 0 {
        return packet.get(1..=CONNECTION_ID_LEN);
    }
    let len = usize::from(*packet.get(5)?);
    packet.get(6..6 + len)
}

#[derive(Debug)]
struct SlotConnectionIds {
    slot: CurrentSlot,
}

impl SlotConnectionIds {
    const fn new(slot: CurrentSlot) -> Self {
        Self { slot }
    }
}

impl ConnectionIdGenerator for SlotConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID_LEN];
        if aws_lc_rs::rand::fill(&mut id).is_err() {
            // The generator cannot fail; ids that repeat only make quinn-proto ask again.
            tracing::error!("no randomness for a connection id");
        }
        let slot = self.slot.0.load(Ordering::Relaxed) as u16;
        id[..2].copy_from_slice(&slot.to_be_bytes());
        ConnectionId::new(&id)
    }

    fn validate(&self, _cid: &ConnectionId) -> Result<(), InvalidCid> {
        Ok(())
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Makes the addresses that quinn-proto sees. They are in the discard prefix `100::/64`
/// (RFC 6666), so that one that leaks into a socket call goes nowhere.
#[derive(Debug)]
pub struct VirtualAddresses {
    key: RandomState,
    dialled: u64,
}

impl VirtualAddresses {
    /// A fresh key.
    #[must_use]
    pub fn new() -> Self {
        Self {
            key: RandomState::new(),
            dialled: 0,
        }
    }

    /// The address of a session that this node dials: never used before.
    pub fn for_dial(&mut self) -> SocketAddr {
        self.dialled += 1;
        address(0, self.dialled)
    }

    /// The address of an unknown sender: a keyed function of where it is, so that nothing has to
    /// be remembered until its handshake is done, and a Retry token finds it again.
    #[must_use]
    pub fn for_unknown(&self, from: Path) -> SocketAddr {
        address(1, self.key.hash_one(from))
    }
}

impl Default for VirtualAddresses {
    fn default() -> Self {
        Self::new()
    }
}

fn address(class: u16, value: u64) -> SocketAddr {
    let high = 0x0100_0000_0000_0000_u128 << 64;
    // 100::/64 leaves 64 bits; the port takes the class, so that the two never meet.
    let ip = Ipv6Addr::from(high | u128::from(value));
    SocketAddr::new(IpAddr::V6(ip), 1 + class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_found_in_short_and_long_headers() {
        let current = CurrentSlot::new();
        let mut ids = SlotConnectionIds::new(current.clone());
        current.set(Slot(0x0102));
        let id = ids.generate_cid();
        let short: Vec<u8> = [&[0x41][..], &id, &[9; 20]].concat();
        assert_eq!(Slot::of_packet(&short), Some(Slot(0x0102)));
        let long: Vec<u8> = [&[0xc3, 0, 0, 0, 1, 8][..], &id, &[9; 20]].concat();
        assert_eq!(Slot::of_packet(&long), Some(Slot(0x0102)));
        current.clear();
        let id = ids.generate_cid();
        assert_eq!(Slot::of_packet(&[&[0x41][..], &id].concat()), None);
    }

    #[test]
    fn foreign_and_short_packets_have_no_slot() {
        assert_eq!(Slot::of_packet(&[]), None);
        assert_eq!(Slot::of_packet(&[0x41; 8]), None);
        assert_eq!(Slot::of_packet(&[0xc3, 0, 0, 0, 1, 20, 1, 2]), None);
        let initial: Vec<u8> = [&[0xc3, 0, 0, 0, 1, 20][..], &[7; 40]].concat();
        assert_eq!(Slot::of_packet(&initial), None);
    }

    #[test]
    fn virtual_addresses_of_dials_and_strangers_never_meet() {
        let mut addresses = VirtualAddresses::new();
        let from = Path::Direct(SocketAddr::from(([192, 0, 2, 1], 5)));
        assert_eq!(addresses.for_unknown(from), addresses.for_unknown(from));
        assert_ne!(addresses.for_dial(), addresses.for_dial());
        assert_ne!(
            addresses.for_dial().port(),
            addresses.for_unknown(from).port()
        );
    }
}
