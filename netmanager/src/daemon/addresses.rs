//! Under which addresses the data socket may be dialled on the node's own networks.
//!
//! Which of them a peer reaches is found by trying; what others see is said by the cluster.

use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

/// The most addresses that are told: a host has a few, and each is dialled.
const MAX_ADDRESSES: usize = 16;

/// The addresses of the host's interfaces with the port of `listen`, or that address itself if it
/// is one; without loopback and link-local ones and what `is_overlay` says is the overlay's.
pub(super) fn own(listen: SocketAddr, is_overlay: impl Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
    if !listen.ip().is_unspecified() {
        return vec![listen];
    }
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "the host's addresses cannot be listed");
            return Vec::new();
        }
    };
    let ips = interfaces.filter_map(|interface| ip_of(&interface.address?));
    let mut own: Vec<SocketAddr> = ips
        .filter(|ip| listen.is_ipv6() || ip.is_ipv4())
        .filter(|ip| is_global_enough(*ip) && !is_overlay(*ip))
        .map(|ip| SocketAddr::new(ip, listen.port()))
        .collect();
    own.sort();
    own.dedup();
    own.truncate(MAX_ADDRESSES);
    own
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn is_global_enough(ip: IpAddr) -> bool {
    let special = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast();
    !special
        && match ip {
            IpAddr::V4(ip) => !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_address_is_the_only_one() {
        let listen = "192.0.2.1:10260".parse().unwrap();
        assert_eq!(own(listen, |_| false), [listen]);
    }

    #[test]
    fn neither_loopback_nor_the_overlay_is_told() {
        let listen = "0.0.0.0:10260".parse().unwrap();
        let all = own(listen, |_| false);
        assert!(all.iter().all(|at| at.is_ipv4() && !at.ip().is_loopback()));
        assert!(all.iter().all(|at| at.port() == 10260));
        assert_eq!(own(listen, |_| true), []);
    }
}
