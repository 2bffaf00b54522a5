//! The TUN device: whole super-packets in and out, each behind its 10-byte virtio header.
//!
//! Non-blocking; the caller polls the descriptor. It neither splits nor checks packets, that is
//! netmanager-core's. Made by [`crate::env::Overlay::open_tun`], used by the packet thread.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use tun_rs::{DeviceBuilder, SyncDevice};

/// The length of the virtio header in front of each packet.
pub const VNET_HEADER_LEN: usize = 10;

/// The most packets that wait in the kernel for the packet thread: with super-packets of 64 KiB
/// this is 64 MiB at worst, and a burst of small ones is not lost while the thread sleeps.
const QUEUE_LEN: u32 = 1000;

/// What the kernel may leave to us in packets that we read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offloads {
    /// Checksums and segmentation are ours: packets of up to 64 KiB come whole.
    #[default]
    On,
    /// Packets come segmented and with full checksums. The header is there all the same, all
    /// zeros, so callers know one way only.
    Off,
}

/// A queue of a TUN device, which goes away with its last queue.
pub struct Tun {
    device: SyncDevice,
}

mod ioctl {
    //! The one request that tun-rs does not offer.

    // TUNSETOFFLOAD takes its mask as the argument itself, not as a pointer to it.
    nix::ioctl_write_int!(set_offload, b'T', 208);
}

impl Tun {
    /// Makes a device in the namespace of the calling thread and takes it up.
    ///
    /// # Errors
    /// Says so when the kernel refuses, for instance for want of CAP_NET_ADMIN.
    pub fn open(name: &str, mtu: u32, offloads: Offloads) -> io::Result<Self> {
        let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "MTU above 65535");
        let device = DeviceBuilder::new()
            .name(name)
            .mtu(u16::try_from(mtu).map_err(|_| too_large())?)
            .offload(true)
            .multi_queue(true)
            .packet_information(false)
            .tx_queue_len(QUEUE_LEN)
            .build_sync()?;
        device.set_nonblocking(true)?;
        let tun = Self { device };
        if offloads == Offloads::Off {
            tun.refuse_offloads()?;
        }
        Ok(tun)
    }

    fn refuse_offloads(&self) -> io::Result<()> {
        // SAFETY: the descriptor is an open TUN's and the request takes a plain number.
        unsafe { ioctl::set_offload(self.device.as_raw_fd(), 0) }?;
        Ok(())
    }

    /// Reads one packet behind its virtio header.
    ///
    /// # Errors
    /// `WouldBlock` when none waits.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.device.recv(buffer)
    }

    /// Writes one packet behind its virtio header.
    ///
    /// # Errors
    /// `InvalidInput` when the kernel finds the header and the packet at odds.
    pub fn send(&self, packet: &[u8]) -> io::Result<usize> {
        self.device.send(packet)
    }

    /// Opens another queue of the same device, for another thread.
    ///
    /// # Errors
    /// Says so when the kernel refuses.
    pub fn another_queue(&self) -> io::Result<Self> {
        let device = self.device.try_clone()?;
        device.set_nonblocking(true)?;
        Ok(Self { device })
    }

    /// Whether the kernel leaves the segmentation of UDP to us as well (Linux 6.2).
    #[must_use]
    pub fn has_udp_segmentation(&self) -> bool {
        self.device.udp_gso()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as `self.device` lives.
        unsafe { BorrowedFd::borrow_raw(self.device.as_raw_fd()) }
    }
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let descriptor = self.device.as_raw_fd();
        f.debug_struct("Tun").field("fd", &descriptor).finish()
    }
}
