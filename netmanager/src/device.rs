//! The device that the packet thread reads and writes: a TUN of the kernel, or one end of a pipe
//! within the process.
//!
//! Whole super-packets in and out, each behind its virtio header, without blocking; the caller
//! polls the descriptor. What is behind it, the overlay namespace or a stack of our own, is not
//! the packet path's business.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use netmanager_core::vnet::{VNET_HEADER_LEN, VnetHeader};

use crate::pipe::PacketEnd;
use crate::tun::Tun;

/// A device.
#[derive(Debug)]
pub enum Device {
    /// A TUN: the kernel is behind it.
    Tun(Tun),
    /// A pipe: a stack within this process is behind it.
    Pipe(PacketEnd),
}

impl Device {
    /// Reads one packet behind its virtio header.
    ///
    /// # Errors
    /// `WouldBlock` when none waits.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tun(tun) => tun.recv(buffer),
            Self::Pipe(pipe) => pipe.recv(buffer),
        }
    }

    /// Writes one packet behind its header.
    ///
    /// # Errors
    /// `InvalidInput` when the kernel finds the two at odds, `WouldBlock` when there is no room.
    pub fn send(&self, vnet: &VnetHeader, packet: &[u8]) -> io::Result<()> {
        let mut header = [0; VNET_HEADER_LEN];
        vnet.write(&mut header);
        match self {
            Self::Tun(tun) => {
                let parts = [IoSlice::new(&header), IoSlice::new(packet)];
                rustix::io::writev(tun.as_fd(), &parts)?;
                Ok(())
            }
            Self::Pipe(pipe) => pipe.send(&header, packet),
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tun(tun) => tun.as_fd(),
            Self::Pipe(pipe) => pipe.as_fd(),
        }
    }
}
