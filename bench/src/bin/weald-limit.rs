//! What a tunnel could reach: TUN and UDP offloads, AES-128-GCM, and nothing else.
//!
//! Reads whole super-packets from a TUN, cuts them into equal chunks, seals each and sends them as
//! UDP GSO batches; the far end receives GRO batches, opens, puts together and writes the whole
//! back. One thread a direction, blocking calls, one key that is the same for everyone: no
//! handshake, no loss recovery, no replay window, no congestion control. A measure for
//! `make bench`, not a tunnel.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::thread;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt;
use tun_rs::{DeviceBuilder, SyncDevice};

/// The inner MTU, Weald's.
const MTU: u16 = 1400;
/// UDP payload of a packet on a wire of MTU 1500.
const MAX_DATAGRAM: usize = 1472;
/// Nonce counter (8), super-packet (4), offset (4), length of the whole (4).
const HEADER: usize = 20;
/// What AES-GCM adds.
const TAG: usize = 16;
/// The most that a chunk carries.
const MAX_CHUNK: usize = MAX_DATAGRAM - HEADER - TAG;
/// A virtio header and the largest packet.
const MAX_PACKET: usize = 10 + 65_535;
/// The most that one GSO call carries.
const MAX_BATCH: usize = 65_507;
/// Kernel buffers of the socket.
const BUFFER_BYTES: usize = 7 << 20;
/// The one key: this forwarder keeps nothing secret.
const KEY: [u8; 16] = *b"not for secrets!";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, side, local, remote] = arguments.as_slice() else {
        bail!("usage: weald-limit DEVICE 0|1 LOCAL:PORT REMOTE:PORT");
    };
    let side: u8 = side.parse().context("the side is 0 or 1")?;
    let remote: SocketAddr = remote.parse().context("REMOTE:PORT")?;
    let tun = DeviceBuilder::new()
        .name(device)
        .mtu(MTU)
        .offload(true)
        .packet_information(false)
        .tx_queue_len(1000)
        .build_sync()
        .with_context(|| format!("make the TUN {device}"))?;
    let socket = UdpSocket::bind(local).with_context(|| format!("bind {local}"))?;
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)?;
    sockopt::set_socket_send_buffer_size_force(&socket, BUFFER_BYTES)?;
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    let key = || -> Result<LessSafeKey> {
        let key = UnboundKey::new(&AES_128_GCM, &KEY).ok().context("a key")?;
        Ok(LessSafeKey::new(key))
    };
    let (seal, open) = (key()?, key()?);
    thread::scope(|scope| {
        let out = scope.spawn(|| outwards(&tun, &socket, &state, &seal, side, remote));
        let back = inwards(&tun, &socket, &state, &open, 1 - side);
        match out.join() {
            Ok(out) => back.and(out),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A nonce that neither side uses twice while it runs.
fn nonce(side: u8, counter: u64) -> Nonce {
    let mut nonce = [side; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// From the TUN to the wire, for ever.
fn outwards(
    tun: &SyncDevice,
    socket: &UdpSocket,
    state: &UdpSocketState,
    key: &LessSafeKey,
    side: u8,
    destination: SocketAddr,
) -> Result<()> {
    let mut packet = vec![0; MAX_PACKET];
    let mut batch = Vec::with_capacity(MAX_BATCH);
    let (mut counter, mut number) = (0_u64, 0_u32);
    let most = state.max_gso_segments();
    loop {
        let length = tun.recv(&mut packet).context("read the TUN")?;
        let whole = &packet[..length];
        let chunks = length.div_ceil(MAX_CHUNK).max(1);
        let size = length.div_ceil(chunks);
        let segment = HEADER + size + TAG;
        number = number.wrapping_add(1);
        for (index, chunk) in whole.chunks(size).enumerate() {
            counter += 1;
            let begin = batch.len();
            batch.extend_from_slice(&counter.to_be_bytes());
            batch.extend_from_slice(&number.to_be_bytes());
            batch.extend_from_slice(&((index * size) as u32).to_be_bytes());
            batch.extend_from_slice(&(length as u32).to_be_bytes());
            batch.extend_from_slice(chunk);
            let (header, body) = batch[begin..].split_at_mut(HEADER);
            let tag = key
                .seal_in_place_separate_tag(nonce(side, counter), Aad::from(&*header), body)
                .ok()
                .context("seal a chunk")?;
            batch.extend_from_slice(tag.as_ref());
            let full = batch.len() + segment > MAX_BATCH || batch.len() >= most * segment;
            if full || index + 1 == chunks {
                send(socket, state, destination, &batch, segment)?;
                batch.clear();
            }
        }
    }
}

fn send(
    socket: &UdpSocket,
    state: &UdpSocketState,
    destination: SocketAddr,
    contents: &[u8],
    segment: usize,
) -> Result<()> {
    let transmit = Transmit {
        destination,
        ecn: None,
        contents,
        segment_size: (contents.len() > segment).then_some(segment),
        src_ip: None,
    };
    loop {
        match state.try_send(UdpSockRef::from(socket), &transmit) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(socket, PollFlags::OUT)?;
            }
            // The far end may not be there yet; the network might have lost the packet as well.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) => return Err(error).context("send a batch"),
        }
    }
}

/// A super-packet of which some chunks have come.
struct Partial {
    number: u32,
    filled: usize,
    packet: Vec<u8>,
}

/// From the wire to the TUN, for ever.
fn inwards(
    tun: &SyncDevice,
    socket: &UdpSocket,
    state: &UdpSocketState,
    key: &LessSafeKey,
    side: u8,
) -> Result<()> {
    let mut buffers = vec![vec![0; 65_535]; quinn_udp::BATCH_SIZE];
    let mut metas = [RecvMeta::default(); quinn_udp::BATCH_SIZE];
    let mut partial = Partial {
        number: 0,
        filled: 0,
        packet: vec![0; MAX_PACKET],
    };
    loop {
        let batches = {
            let mut slices: Vec<IoSliceMut<'_>> =
                buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
            match state.recv(UdpSockRef::from(socket), &mut slices, &mut metas) {
                Ok(batches) => batches,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(socket, PollFlags::IN)?;
                    continue;
                }
                Err(error) => return Err(error).context("receive a batch"),
            }
        };
        for (buffer, meta) in buffers.iter_mut().zip(&metas).take(batches) {
            for datagram in buffer[..meta.len].chunks_mut(meta.stride.max(1)) {
                if let Some(whole) = partial.take(key, side, datagram)
                    && let Err(error) = tun.send(whole)
                {
                    eprintln!("not written to the TUN: {error}");
                }
            }
        }
    }
}

impl Partial {
    /// Takes in a datagram; the whole packet if it was the last one missing.
    fn take(&mut self, key: &LessSafeKey, side: u8, datagram: &mut [u8]) -> Option<&[u8]> {
        let (header, body) = datagram.split_at_mut_checked(HEADER)?;
        let counter = u64::from_be_bytes(header.get(..8)?.try_into().ok()?);
        let field = |at: usize| {
            let bytes = header.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_be_bytes(bytes))
        };
        let (number, offset) = (field(8)?, field(12)? as usize);
        let length = field(16)? as usize;
        let opened = key.open_in_place(nonce(side, counter), Aad::from(&*header), body);
        let chunk = opened.ok()?;
        if number != self.number {
            self.number = number;
            self.filled = 0;
        }
        let end = offset.checked_add(chunk.len())?;
        if end > length {
            return None;
        }
        self.packet.get_mut(offset..end)?.copy_from_slice(chunk);
        self.filled += chunk.len();
        if self.filled != length {
            return None;
        }
        self.filled = 0;
        self.packet.get(..length)
    }
}

fn wait(socket: &UdpSocket, what: PollFlags) -> Result<()> {
    match poll(&mut [PollFd::new(socket, what)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
