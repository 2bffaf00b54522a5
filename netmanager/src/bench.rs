//! `netmanager bench`: how fast the way to a peer is, and what it costs.
//!
//! The near end drives: it is the command, [`run`], with the load of [`load`] over connections of
//! [`far`]. The far end is the peer's daemon, whose [`responder`] takes and gives load at the node's
//! overlay address, for as long as a bench lasts that was asked for over the session of the two
//! daemons, and only where the configuration lets it. What they say to each other is [`wire`]'s.
//! How figures are kept, compared and drawn is `weald_measure`'s.

pub mod far;
pub mod load;
pub mod responder;
pub mod run;
pub mod wire;

use std::net::IpAddr;

use weald_proto::addr::Dual;

/// The longest that a responder serves one bench.
pub const MAX_SECONDS: u32 = 3600;

/// The addresses that two nodes measure between: of IPv4 if both have it, else of IPv6.
#[must_use]
pub fn common(own: &Dual, theirs: &Dual) -> Option<[IpAddr; 2]> {
    let v4 = own.v4.zip(theirs.v4);
    let v6 = own.v6.zip(theirs.v6);
    v4.map(|(own, theirs)| [own.into(), theirs.into()])
        .or_else(|| v6.map(|(own, theirs)| [own.into(), theirs.into()]))
}

#[cfg(test)]
mod tests;
