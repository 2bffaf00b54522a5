//! What a node without a TUN offers to the programs of its host: SOCKS5, HTTP CONNECT, ports that
//! are forwarded, and servers that are published.
//!
//! Bytes and texts in, checked values and answers out; sockets are the shell's (`netmanager`'s
//! `userspace`). A name means what it means to the resolver ([`crate::dns`]), asked on behalf of
//! the node itself. What is neither a name nor an address of the overlay is refused: a proxy is no
//! way to anywhere else, and nobody outside is asked for a name.

pub use self::published::{NotPublished, Servers, published};
pub use self::spec::{Forward, Publish, SpecError};
pub use self::target::{Located, Refused, Target, TargetError, TargetHost, locate};

pub mod connect;
pub mod socks5;

mod published;
mod spec;
mod target;
