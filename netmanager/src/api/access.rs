//! Who may use the local API: root, the daemon's own user and the socket's group. The group may
//! only ask.
//!
//! The socket's mode (0660) says the same to the kernel; this is checked again on every
//! connection, because a mode can be changed by mistake. The group is that of the socket's file,
//! so `chgrp` gives access to a group without a restart.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;
use tokio::net::UnixStream;

/// The socket option for the supplementary groups of the process that connected (Linux 4.13).
const SO_PEERGROUPS: libc::c_int = 59;

/// The most groups that are looked at; Linux allows 65536, people have a handful.
const MAX_GROUPS: usize = 1024;

/// The process at the other end of a connection, as it was when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group, and its supplementary ones.
    pub gids: Vec<u32>,
}

impl Caller {
    /// Asks the kernel who connected.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let mut gids = supplementary_groups(stream);
        gids.push(credentials.gid());
        Ok(Self {
            uid: credentials.uid(),
            gids,
        })
    }

    /// Whether it may ask, where the daemon runs as `daemon_uid` and the socket's file belongs to
    /// `socket_gid`.
    #[must_use]
    pub fn may_ask(&self, daemon_uid: u32, socket_gid: u32) -> bool {
        self.uid == 0 || self.uid == daemon_uid || self.gids.contains(&socket_gid)
    }

    /// Whether it may change what the node hosts.
    #[must_use]
    pub const fn may_change(&self, daemon_uid: u32) -> bool {
        self.uid == 0 || self.uid == daemon_uid
    }
}

/// The supplementary groups; none if the kernel does not say, or says more than we look at.
fn supplementary_groups(stream: &UnixStream) -> Vec<u32> {
    let mut groups = vec![0; MAX_GROUPS];
    let bytes = size_of::<libc::gid_t>();
    let capacity = u32::try_from(groups.len() * bytes).unwrap_or(0);
    let mut length: libc::socklen_t = capacity;
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, and `groups` has
    // `length` bytes that the kernel may write.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let count = if result == 0 {
        length as usize / bytes
    } else {
        0
    };
    groups.truncate(count);
    groups
}
