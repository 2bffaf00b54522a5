//! A TAP device: one end of an emulated link, without offloads.
//!
//! The device has no virtio header, so the kernel announces no offloads on it and cuts every
//! large packet into frames of its MTU before they reach us.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result};
use nix::libc;

use crate::namespace::Namespace;

nix::ioctl_write_int!(set_interface, b'T', 202);

/// One TAP device; it vanishes when dropped.
#[derive(Debug)]
pub(crate) struct Tap {
    file: File,
}

impl Tap {
    /// Makes a TAP device called `name` inside a namespace.
    pub(crate) fn create(namespace: &Namespace, name: &str) -> Result<Self> {
        namespace.in_ns(|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")
                .context("open /dev/net/tun")?;
            attach(&file, name).with_context(|| format!("make tap {name:?}"))?;
            Ok(Self { file })
        })
    }

    /// Reads one frame; `WouldBlock` when none waits.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one frame.
    pub(crate) fn write(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write(frame).map(drop)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn attach(file: &File, name: &str) -> io::Result<()> {
    // SAFETY: an ifreq of zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The plan keeps names shorter than the array, so the closing zero stays.
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    unsafe { set_interface(file.as_raw_fd(), (&raw mut request) as libc::c_ulong) }?;
    Ok(())
}
