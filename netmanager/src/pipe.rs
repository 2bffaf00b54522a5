//! A device within the process: packets both ways between the packet thread and a stack of ours.
//!
//! Two bounded queues, each with an eventfd for whoever reads it. Nothing blocks: towards the stack
//! a packet without room is lost, as in the queue of a TUN; towards the packet thread the stack
//! keeps it and is told when there is room. A reader that is awake is not woken.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use netmanager_core::vnet::VNET_HEADER_LEN;
use rustix::event::{EventfdFlags, eventfd};

/// Packets that wait for the stack: some may be super-packets of 64 KiB, so 32 MiB at worst.
const TO_STACK: usize = 512;
/// Packets of the stack that wait for the packet thread.
const FROM_STACK: usize = 512;

/// Both ends of a new pipe.
///
/// # Errors
/// The kernel has no descriptors for it.
pub fn pipe() -> io::Result<(PacketEnd, StackEnd)> {
    let (to_stack, at_stack) = sync_channel(TO_STACK);
    let (from_stack, at_packets) = sync_channel(FROM_STACK);
    let stack = Arc::new(Bell::new()?);
    let packets = Arc::new(Bell::new()?);
    let starved = Arc::new(AtomicBool::new(false));
    let near = PacketEnd {
        sender: to_stack,
        receiver: at_packets,
        own: Arc::clone(&packets),
        other: Arc::clone(&stack),
        starved: Arc::clone(&starved),
    };
    let far = StackEnd {
        sender: from_stack,
        receiver: at_stack,
        own: stack,
        other: packets,
        starved,
    };
    Ok((near, far))
}

/// What wakes a reader: an eventfd that is rung once for any number of packets.
#[derive(Debug)]
struct Bell {
    event: OwnedFd,
    /// Whether the reader has emptied its queue since it was rung last.
    is_armed: AtomicBool,
}

impl Bell {
    fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            event: eventfd(0, flags)?,
            is_armed: AtomicBool::new(true),
        })
    }

    fn ring(&self) {
        // What is in the queue is there before it is looked whether its reader sleeps, and the
        // other way round below: one of the two sees the other.
        fence(Ordering::SeqCst);
        if self.is_armed.swap(false, Ordering::SeqCst) {
            self.ring_always();
        }
    }

    fn ring_always(&self) {
        // A full counter means that it has been rung already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Has the next packet ring again. What has come before must be looked for once more.
    fn arm(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.event, &mut count);
        self.is_armed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

/// The packet thread's end.
#[derive(Debug)]
pub struct PacketEnd {
    sender: SyncSender<Vec<u8>>,
    receiver: Receiver<Vec<u8>>,
    own: Arc<Bell>,
    other: Arc<Bell>,
    starved: Arc<AtomicBool>,
}

impl PacketEnd {
    /// Reads one packet behind its virtio header.
    ///
    /// # Errors
    /// `WouldBlock` when none waits.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(packet) = next(&self.receiver, &self.own) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        if self.starved.load(Ordering::SeqCst) && self.starved.swap(false, Ordering::SeqCst) {
            self.other.ring_always();
        }
        let room = buffer
            .get_mut(..packet.len())
            .ok_or(io::ErrorKind::InvalidInput)?;
        room.copy_from_slice(&packet);
        Ok(packet.len())
    }

    /// Hands a packet to the stack.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room for it, `BrokenPipe` when the stack is gone.
    pub fn send(&self, header: &[u8; VNET_HEADER_LEN], packet: &[u8]) -> io::Result<()> {
        let whole = [header, packet].concat();
        match self.sender.try_send(whole) {
            Ok(()) => {
                self.other.ring();
                Ok(())
            }
            Err(TrySendError::Full(_)) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TrySendError::Disconnected(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl AsFd for PacketEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own.event.as_fd()
    }
}

/// The stack's end.
#[derive(Debug)]
pub struct StackEnd {
    sender: SyncSender<Vec<u8>>,
    receiver: Receiver<Vec<u8>>,
    own: Arc<Bell>,
    other: Arc<Bell>,
    starved: Arc<AtomicBool>,
}

impl StackEnd {
    /// The next packet behind its virtio header. When there is none, the descriptor tells of the
    /// next.
    pub fn recv(&self) -> Option<Vec<u8>> {
        next(&self.receiver, &self.own)
    }

    /// Hands a packet behind its virtio header to the packet thread; the packet comes back if there
    /// is no room, and the descriptor tells of it when there is.
    ///
    /// # Errors
    /// The packet.
    pub fn send(&self, packet: Vec<u8>) -> Result<(), Vec<u8>> {
        let refused = match self.sender.try_send(packet) {
            Ok(()) => None,
            Err(TrySendError::Full(packet)) => {
                self.starved.store(true, Ordering::SeqCst);
                // Room may have been made before the other end could know that it is wanted.
                self.sender.try_send(packet).err()
            }
            Err(error @ TrySendError::Disconnected(_)) => Some(error),
        };
        self.other.ring();
        match refused {
            None => Ok(()),
            Some(TrySendError::Full(packet)) => Err(packet),
            // Nobody is left to want it.
            Some(TrySendError::Disconnected(_)) => Ok(()),
        }
    }
}

impl AsFd for StackEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own.event.as_fd()
    }
}

/// The next packet of a queue; if there is none, the next one rings the bell.
fn next(queue: &Receiver<Vec<u8>>, bell: &Bell) -> Option<Vec<u8>> {
    if let Ok(packet) = queue.try_recv() {
        return Some(packet);
    }
    bell.arm();
    // Between the two others may have come, and found the bell rung already.
    let packet = queue.try_recv().ok();
    if packet.is_some() {
        bell.ring();
    }
    packet
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    const HEADER: [u8; VNET_HEADER_LEN] = [7; VNET_HEADER_LEN];
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn packets_cross_with_their_headers() {
        let (packets, stack) = pipe().unwrap();
        assert!(stack.recv().is_none() && !is_rung(&stack, Duration::ZERO));
        packets.send(&HEADER, b"one").unwrap();
        packets.send(&HEADER, b"two").unwrap();
        assert!(is_rung(&stack, Duration::ZERO));
        let one = stack.recv().unwrap();
        assert_eq!(one.split_at(VNET_HEADER_LEN), (&HEADER[..], &b"one"[..]));
        assert!(stack.recv().is_some() && stack.recv().is_none());
        assert!(!is_rung(&stack, Duration::ZERO));
        stack.send(b"answer".to_vec()).unwrap();
        assert!(is_rung(&packets, Duration::ZERO));
        let mut buffer = [0; 64];
        assert_eq!(packets.recv(&mut buffer).unwrap(), 6);
        let empty = packets.recv(&mut buffer).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        assert!(!is_rung(&packets, Duration::ZERO));
    }

    #[test]
    fn without_room_packets_are_lost_one_way_and_kept_the_other() {
        let (packets, stack) = pipe().unwrap();
        for _ in 0..TO_STACK {
            packets.send(&HEADER, b"x").unwrap();
        }
        let full = packets.send(&HEADER, b"x").unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        while stack.recv().is_some() {}
        for _ in 0..FROM_STACK {
            stack.send(b"y".to_vec()).unwrap();
        }
        assert_eq!(stack.send(b"kept".to_vec()), Err(b"kept".to_vec()));
        assert!(!is_rung(&stack, Duration::ZERO));
        packets.recv(&mut [0; 64]).unwrap();
        assert!(is_rung(&stack, Duration::ZERO), "there is room again");
        stack.send(b"kept".to_vec()).unwrap();
        let short = packets.recv(&mut []).unwrap_err();
        assert_eq!(short.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn no_packet_is_slept_through() {
        const PACKETS: u32 = 20_000;
        let (packets, stack) = pipe().unwrap();
        let sender = thread::spawn(move || {
            let mut mirrored = 0;
            let mut buffer = [0; 64];
            for number in 0..PACKETS {
                while packets.send(&HEADER, &number.to_ne_bytes()).is_err() {
                    mirrored += u32::from(packets.recv(&mut buffer).is_ok());
                }
            }
            while mirrored < PACKETS {
                assert!(is_rung(&packets, PATIENCE), "{mirrored} came back");
                while packets.recv(&mut buffer).is_ok() {
                    mirrored += 1;
                }
            }
        });
        let mut kept = None;
        let mut seen = 0;
        while seen < PACKETS || kept.is_some() {
            let packet = kept.take().or_else(|| {
                let packet = stack.recv();
                seen += u32::from(packet.is_some());
                packet
            });
            match packet.map(|packet| stack.send(packet)) {
                Some(Ok(())) => {}
                Some(Err(packet)) => {
                    kept = Some(packet);
                    assert!(is_rung(&stack, PATIENCE), "{seen}: no room");
                    // What rings for room rings for packets as well.
                    stack.own.arm();
                }
                None => assert!(is_rung(&stack, PATIENCE), "{seen}: no packet"),
            }
        }
        sender.join().unwrap();
    }

    fn is_rung(end: &impl AsFd, patience: Duration) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN)];
        let timeout = Timespec::try_from(patience).unwrap();
        poll(&mut fds, Some(&timeout)).unwrap() == 1
    }
}
