//! Packet captures on an interface: kept in memory, searched for bytes, counted by UDP flow.
//!
//! A capture on a segment's [`crate::BRIDGE`] sees everything that crosses the segment, once.
//! On a veth with offloads one captured packet may be a super-packet of up to 64 KiB.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::libc;
use nix::sys::socket::{LinkAddr, recvfrom};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::namespace::Namespace;
use crate::packet_socket;
use crate::wait;

/// The most that a capture keeps; later packets are counted as dropped.
pub const MAX_CAPTURE_BYTES: usize = 1 << 30;

/// The largest packet that an interface can hand over, with its frame header.
const MAX_PACKET_BYTES: usize = (1 << 16) + 64;

/// pcap's numbers for captures with and without an Ethernet header.
const PCAP_ETHERNET: u32 = 1;
const PCAP_RAW_IP: u32 = 101;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Mutex<Captured>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What was captured.
#[derive(Debug, Default)]
pub struct Captured {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    ethernet: bool,
    dropped: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    time: SystemTime,
    start: usize,
    length: usize,
}

/// The addresses of one direction of a UDP flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UdpFlow {
    /// Where the packets come from.
    pub source: SocketAddr,
    /// Where they go.
    pub destination: SocketAddr,
}

/// A captured UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// When it was captured.
    pub time: SystemTime,
    /// Between which addresses.
    pub flow: UdpFlow,
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// The datagram in an Ethernet frame that has just been captured; none if it carries another
    /// protocol or is a fragment after the first.
    pub fn of_frame(frame: &'a [u8]) -> Option<Self> {
        let (flow, payload) = udp(frame, true)?;
        Some(Self {
            time: SystemTime::now(),
            flow,
            payload,
        })
    }
}

/// How much was seen of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Captured packets, super-packets counted as one.
    pub packets: u64,
    /// Bytes of UDP payload.
    pub payload_bytes: u64,
}

impl Namespace {
    /// Starts to capture all packets of an interface.
    ///
    /// # Errors
    /// Fails if there is no such interface.
    pub fn capture(&self, interface: &str) -> Result<Capture> {
        let socket = packet_socket::open_capture(self, interface)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let shared = Arc::new(Mutex::new(Captured::default()));
        let (packets, stopped) = (Arc::clone(&shared), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || receive(&socket, &packets, &stopped))
            .context("start the thread of a capture")?;
        Ok(Capture {
            shared,
            stop,
            thread: Some(thread),
        })
    }
}

impl Capture {
    /// Waits until a packet is captured that `wanted` accepts, and returns a copy.
    ///
    /// # Errors
    /// Fails when `timeout` has passed.
    pub fn wait_for(
        &self,
        what: &str,
        timeout: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<u8>> {
        let mut seen = 0;
        wait::until(&format!("{what} is captured"), timeout, || {
            let captured = lock(&self.shared);
            let found = captured.packets().skip(seen).find(|packet| wanted(packet));
            seen = captured.len();
            found
                .map(<[u8]>::to_vec)
                .with_context(|| format!("{seen} packets were not"))
        })
    }

    /// Looks at what was captured so far.
    pub fn look<T>(&self, look: impl FnOnce(&Captured) -> T) -> T {
        look(&lock(&self.shared))
    }

    /// Stops after taking in what has already arrived, and returns it.
    ///
    /// # Errors
    /// Fails if receiving did, for instance because the interface is gone.
    pub fn stop(mut self) -> Result<Captured> {
        self.halt()?;
        Ok(std::mem::take(&mut *lock(&self.shared)))
    }

    fn halt(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        rustix::io::write(&*self.stop, &1_u64.to_ne_bytes())?;
        match thread.join() {
            Ok(result) => result.context("receive captured packets"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // A capture that is dropped unread has nobody to tell.
        let _ = self.halt();
    }
}

impl Captured {
    /// The number of packets.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was captured.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The packets in order, with their Ethernet headers if the interface has them.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.entries
            .iter()
            .map(|entry| &self.bytes[entry.start..entry.start + entry.length])
    }

    /// The UDP datagrams in order; of a super-packet, as if it were one.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let timed = self.entries.iter().zip(self.packets());
        timed.filter_map(|(entry, packet)| {
            let (flow, payload) = udp(packet, self.ethernet)?;
            Some(Datagram {
                time: entry.time,
                flow,
                payload,
            })
        })
    }

    /// How many packets were missed; a proof of absence needs zero.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many packets contain `pattern`.
    pub fn count_containing(&self, pattern: &[u8]) -> usize {
        self.packets()
            .filter(|packet| contains(packet, pattern))
            .count()
    }

    /// Counts packets and payload bytes by UDP flow and direction.
    ///
    /// Fragments after the first one are left out: they name no ports.
    pub fn udp_flows(&self) -> BTreeMap<UdpFlow, Tally> {
        let mut flows: BTreeMap<UdpFlow, Tally> = BTreeMap::new();
        for packet in self.packets() {
            if let Some((flow, payload)) = udp(packet, self.ethernet) {
                let tally = flows.entry(flow).or_default();
                tally.packets += 1;
                tally.payload_bytes += payload.len() as u64;
            }
        }
        flows
    }

    /// The UDP payload bytes from and to an address, as (from, to).
    pub fn udp_bytes_of(&self, address: SocketAddr) -> (u64, u64) {
        let flows = self.udp_flows();
        let sum = |matches: &dyn Fn(&UdpFlow) -> bool| {
            flows
                .iter()
                .filter(|(flow, _)| matches(flow))
                .map(|(_, tally)| tally.payload_bytes)
                .sum()
        };
        (
            sum(&|flow| flow.source == address),
            sum(&|flow| flow.destination == address),
        )
    }

    /// Writes a pcap file that tcpdump and others read.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn write_pcap(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("create {path:?}"))?;
        let mut file = BufWriter::new(file);
        let link = if self.ethernet {
            PCAP_ETHERNET
        } else {
            PCAP_RAW_IP
        };
        // Magic for microseconds, version 2.4, no zone, no accuracy, longest packet, link type.
        for word in [
            0xa1b2_c3d4,
            0x0004_0002,
            0,
            0,
            MAX_PACKET_BYTES as u32,
            link,
        ] {
            file.write_all(&word.to_ne_bytes())?;
        }
        for (entry, packet) in self.entries.iter().zip(self.packets()) {
            let time = entry
                .time
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            let length = packet.len() as u32;
            for word in [time.as_secs() as u32, time.subsec_micros(), length, length] {
                file.write_all(&word.to_ne_bytes())?;
            }
            file.write_all(packet)?;
        }
        file.flush().with_context(|| format!("write {path:?}"))
    }

    /// Fails unless the capture is complete.
    ///
    /// # Errors
    /// Fails if packets were missed.
    pub fn ensure_complete(&self) -> Result<()> {
        ensure!(
            self.dropped == 0,
            "the capture missed {} packets",
            self.dropped
        );
        Ok(())
    }

    fn push(&mut self, packet: &[u8]) {
        if self.bytes.len() + packet.len() > MAX_CAPTURE_BYTES {
            self.dropped += 1;
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(packet);
        self.entries.push(Entry {
            time: SystemTime::now(),
            start,
            length: packet.len(),
        });
    }
}

/// Receives until told to stop, and then until nothing more waits.
fn receive(socket: &OwnedFd, shared: &Mutex<Captured>, stop: &OwnedFd) -> io::Result<()> {
    let mut buffer = vec![0; MAX_PACKET_BYTES];
    loop {
        let mut waits = [
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        match poll(&mut waits, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let stopping = !waits[1].revents().is_empty();
        loop {
            match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    let mut captured = lock(shared);
                    captured.ethernet = from.is_some_and(|from| has_ethernet(&from));
                    captured.push(&buffer[..length]);
                }
                Err(nix::Error::EAGAIN) => break,
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if stopping {
            lock(shared).dropped += u64::from(packet_socket::dropped(socket)?);
            return Ok(());
        }
    }
}

fn has_ethernet(from: &LinkAddr) -> bool {
    [libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK].contains(&from.hatype())
}

fn lock(shared: &Mutex<Captured>) -> MutexGuard<'_, Captured> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The flow and the payload of a UDP packet.
fn udp(packet: &[u8], ethernet: bool) -> Option<(UdpFlow, &[u8])> {
    let parsed = if ethernet {
        SlicedPacket::from_ethernet(packet)
    } else {
        SlicedPacket::from_ip(packet)
    };
    let parsed = parsed.ok()?;
    let (source, destination): (IpAddr, IpAddr) = match parsed.net? {
        NetSlice::Ipv4(v4) => (
            v4.header().source_addr().into(),
            v4.header().destination_addr().into(),
        ),
        NetSlice::Ipv6(v6) => (
            v6.header().source_addr().into(),
            v6.header().destination_addr().into(),
        ),
        NetSlice::Arp(_) => return None,
    };
    let Some(TransportSlice::Udp(udp)) = parsed.transport else {
        return None;
    };
    let flow = UdpFlow {
        source: SocketAddr::new(source, udp.source_port()),
        destination: SocketAddr::new(destination, udp.destination_port()),
    };
    Some((flow, udp.payload()))
}

/// Whether `bytes` contain `pattern`.
pub fn contains(bytes: &[u8], pattern: &[u8]) -> bool {
    let Some((first, rest)) = pattern.split_first() else {
        return true;
    };
    let mut from = 0;
    while let Some(offset) = bytes[from..].iter().position(|byte| byte == first) {
        from += offset + 1;
        if bytes[from..].starts_with(rest) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_found_wherever_they_stand() {
        assert!(contains(b"aab", b"ab"));
        assert!(contains(b"xyz", b"xyz"));
        assert!(contains(b"xyz", b""));
        assert!(!contains(b"xyz", b"zx"));
        assert!(!contains(b"xy", b"xyz"));
    }

    #[test]
    fn udp_flows_are_told_apart() {
        let packet = crate::raw::udp(
            "10.0.0.1:5".parse().unwrap(),
            "10.0.0.2:6".parse().unwrap(),
            b"hello",
        );
        let (flow, payload) = udp(&packet, false).unwrap();
        assert_eq!(flow.source, "10.0.0.1:5".parse().unwrap());
        assert_eq!(flow.destination, "10.0.0.2:6".parse().unwrap());
        assert_eq!(payload, b"hello");
        assert_eq!(udp(&packet[..10], false), None);
    }
}
