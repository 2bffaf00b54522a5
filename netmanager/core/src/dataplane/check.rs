//! What must hold before a packet is looked at any further: leases and addresses.

use std::net::IpAddr;

use crate::packet::{L4, PacketInfo};
use crate::reject::Reject;
use crate::table::{Host, Owner, PeerId, Snapshot};
use crate::verdict::DropReason;

/// Why a packet goes no further, and whether its sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is dropped quietly.
    Drop(DropReason),
    /// Its sender is told.
    Reject(DropReason, Reject),
    /// It goes no further now: how far away that peer is has to be known first.
    Await(PeerId),
}

/// The owner of a packet's source, who must be at the place that the packet comes from; and of one
/// from a peer the destination must be here.
pub(super) fn sender<'a>(
    table: Option<&'a Snapshot>,
    from: Host,
    info: &PacketInfo,
) -> Result<&'a Owner, Refusal> {
    let owner = table
        .and_then(|table| table.owner(info.src))
        .filter(|owner| owner.host == from);
    match from {
        Host::Local if is_unroutable(info.src) || is_unroutable(info.dst) => {
            Err(Refusal::Drop(DropReason::UnroutableAddress))
        }
        Host::Local => owner.ok_or(Refusal::Drop(DropReason::SourceNotLocal)),
        Host::Peer(_) => {
            let owner = owner.ok_or(Refusal::Drop(DropReason::SourceNotLeased))?;
            let here = table
                .and_then(|table| table.owner(info.dst))
                .is_some_and(|owner| owner.host == Host::Local);
            if here {
                Ok(owner)
            } else {
                Err(Refusal::Drop(DropReason::DestinationNotHosted))
            }
        }
    }
}

/// Whether a packet is for or from port 0, which no program can have asked for.
pub(super) const fn has_port_zero(l4: &L4) -> bool {
    match l4 {
        L4::Tcp {
            src_port, dst_port, ..
        }
        | L4::Udp { src_port, dst_port } => *src_port == 0 || *dst_port == 0,
        L4::IcmpEcho { .. } | L4::IcmpError { .. } | L4::Icmp | L4::Other | L4::LaterFragment => {
            false
        }
    }
}

/// Whether no unicast route can lead to the address: the noise that every interface makes.
fn is_unroutable(ip: IpAddr) -> bool {
    let special = ip.is_multicast() || ip.is_unspecified() || ip.is_loopback();
    special
        || match ip {
            IpAddr::V4(ip) => ip.is_broadcast() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        }
}
