//! Under which addresses the data socket may be dialled on the node's own networks.
//!
//! Which of them a peer reaches is found by trying; what others see is said by the cluster and by
//! relays.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use netmanager_core::peer::candidates::Interface;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

/// Where the kernel lists devices.
const DEVICES: &str = "/sys/class/net";

/// How the kernel names the links from a device to those that it stands on.
const LOWER: &str = "lower_";
/// How many layers of bonds, VLANs and bridges are looked through: three are common.
const MAX_LAYERS: usize = 8;

/// The most addresses that are told: a host has a few, and each is dialled.
const MAX_ADDRESSES: usize = 16;

/// The addresses that the operator has named, then those of the host's interfaces with the port of
/// `listen`, or that address itself if it is one; without loopback and link-local ones and what
/// `is_overlay` says is the overlay's.
pub(super) fn own(
    listen: SocketAddr,
    advertised: &[SocketAddr],
    is_overlay: impl Fn(IpAddr) -> bool,
) -> Vec<SocketAddr> {
    let interfaces = interfaces(listen, is_overlay).into_iter();
    let own = interfaces.map(|interface| interface.address);
    let own = own.filter(|at| !advertised.contains(at));
    let all = advertised.iter().copied().chain(own);
    all.take(MAX_ADDRESSES).collect()
}

/// Like [`own`], with the length of each one's prefix. Bridges that no device of the machine is a
/// port of, itself or below a bond or VLAN, are left out: behind them are containers, which are no
/// way to anywhere.
pub(super) fn interfaces(
    listen: SocketAddr,
    is_overlay: impl Fn(IpAddr) -> bool,
) -> Vec<Interface> {
    if !listen.ip().is_unspecified() {
        return vec![Interface {
            address: listen,
            prefix_len: if listen.is_ipv4() { 32 } else { 128 },
        }];
    }
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "the host's addresses cannot be listed");
            return Vec::new();
        }
    };
    let found = interfaces.filter_map(|interface| {
        let ip = ip_of(&interface.address?)?;
        let mask = interface.netmask.as_ref().and_then(ip_of);
        Some((interface.interface_name, ip, prefix_len(mask)))
    });
    let mut own: Vec<Interface> = found
        .filter(|(_, ip, _)| listen.is_ipv6() || ip.is_ipv4())
        .filter(|(_, ip, _)| is_global_enough(*ip) && !is_overlay(*ip))
        .filter(|(name, ..)| !is_inner_bridge(&Path::new(DEVICES).join(name)))
        .map(|(_, ip, prefix_len)| Interface {
            address: SocketAddr::new(ip, listen.port()),
            prefix_len,
        })
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

fn prefix_len(mask: Option<IpAddr>) -> u8 {
    let ones = match mask {
        Some(IpAddr::V4(mask)) => u32::from(mask).count_ones(),
        Some(IpAddr::V6(mask)) => u128::from(mask).count_ones(),
        None => 128,
    };
    u8::try_from(ones).unwrap_or(u8::MAX)
}

/// Whether a device is a bridge without a port that leads to a device of the machine.
fn is_inner_bridge(device: &Path) -> bool {
    if !device.join("bridge").exists() {
        return false;
    }
    let ports = names_in(&device.join("brif"));
    let mut paths = ports.filter_map(|name| Some(device.parent()?.join(name)));
    !paths.any(|port| is_of_machine(&port, MAX_LAYERS))
}

/// Whether a device is one of the machine, or stands on one: as a bond on its ports, or a VLAN on
/// the device whose frames it tags, in as many layers.
fn is_of_machine(device: &Path, layers: usize) -> bool {
    if device.join("device").exists() {
        return true;
    }
    let Some(layers) = layers.checked_sub(1) else {
        return false;
    };
    let mut lower = names_in(device).filter_map(|name| {
        let name = name.to_str()?.strip_prefix(LOWER)?;
        Some(device.parent()?.join(name))
    });
    lower.any(|below| is_of_machine(&below, layers))
}

fn names_in(folder: &Path) -> impl Iterator<Item = OsString> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.file_name()))
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
    fn bridges_of_containers_are_left_out() {
        let devices = tempfile::tempdir().unwrap();
        let make = |path: &str| fs::create_dir_all(devices.path().join(path)).unwrap();
        for path in [
            "eth0/device",
            "veth1",
            "docker0/bridge",
            "docker0/brif/veth1",
            "br0/bridge",
            "br0/brif/eth0",
            "br0/brif/veth1",
            // A hypervisor: a bridge on a bond, and one on a VLAN of that bond.
            "bond0/lower_eth0",
            "vmbr0/bridge",
            "vmbr0/brif/bond0",
            "vmbr0/brif/tap1",
            "tap1",
            "bond0.100/lower_bond0",
            "vmbr1/bridge",
            "vmbr1/brif/bond0.100",
            // A VLAN of what only containers are behind, and a circle, which no kernel makes.
            "veth1.7/lower_veth1",
            "inner/bridge",
            "inner/brif/veth1.7",
            "odd/lower_odd",
            "circle/bridge",
            "circle/brif/odd",
        ] {
            make(path);
        }
        let is_inner = |name: &str| is_inner_bridge(&devices.path().join(name));
        assert!(is_inner("docker0"));
        assert!(!is_inner("br0"), "the LAN is behind it");
        assert!(!is_inner("vmbr0"), "it is behind the bond");
        assert!(!is_inner("vmbr1"), "it is behind the bond's VLAN");
        assert!(is_inner("inner") && is_inner("circle"));
        assert!(!is_inner("eth0") && !is_inner("veth1"));
    }

    #[test]
    fn a_bound_address_is_the_only_one() {
        let listen = "192.0.2.1:10260".parse().unwrap();
        assert_eq!(own(listen, &[], |_| false), [listen]);
        let forwarded = "203.0.113.7:443".parse().unwrap();
        assert_eq!(
            own(listen, &[forwarded, listen], |_| false),
            [forwarded, listen]
        );
    }

    #[test]
    fn neither_loopback_nor_the_overlay_is_told() {
        let listen = "0.0.0.0:10260".parse().unwrap();
        let all = own(listen, &[], |_| false);
        assert!(all.iter().all(|at| at.is_ipv4() && !at.ip().is_loopback()));
        assert!(all.iter().all(|at| at.port() == 10260));
        assert_eq!(own(listen, &[], |_| true), []);
    }
}
