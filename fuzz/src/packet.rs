//! Targets on inner packets: parsing, rewriting, refusing.

use std::net::IpAddr;

use netmanager_core::packet::{Packet, PacketInfo};
use netmanager_core::reject::{Reject, reject};
use netmanager_core::vnet::{VNET_HEADER_LEN, VnetHeader};

/// A virtio-net header and a packet, as the TUN device gives them: parses, checks, rewrites both
/// addresses and those of a quoted packet, and refuses it.
///
/// # Panics
/// If a rewrite leaves a packet that is read differently, or a refusal is not well-formed.
pub fn packet(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<VNET_HEADER_LEN>() else {
        return;
    };
    let vnet = VnetHeader::parse(head);
    let mut written = [0; VNET_HEADER_LEN];
    vnet.write(&mut written);
    assert_eq!(*head, written);
    refuse(rest);
    let mut bytes = rest.to_vec();
    let Ok(mut packet) = Packet::parse(&mut bytes) else {
        assert!(PacketInfo::parse(rest).is_err());
        return;
    };
    // A lying header must not do more than leave a wrong checksum.
    let _ = vnet.check(packet.info());
    for ip in ["10.30.1.2", "fdff::1:2"].map(str::parse::<IpAddr>) {
        let Ok(ip) = ip else { continue };
        rewrite(&mut packet, ip, &vnet);
    }
}

fn rewrite(packet: &mut Packet<'_>, ip: IpAddr, vnet: &VnetHeader) {
    let before = *packet.info();
    packet.set_src(ip, vnet);
    packet.set_dst(ip, vnet);
    let fits = before.src.is_ipv4() == ip.is_ipv4();
    let expected = PacketInfo {
        src: if fits { ip } else { before.src },
        dst: if fits { ip } else { before.dst },
        ..before
    };
    assert_eq!(*packet.info(), expected);
    assert_eq!(PacketInfo::parse(packet.bytes()), Ok(expected));
    let Some(quoted) = packet.embedded() else {
        return;
    };
    packet.set_embedded_src(ip);
    packet.set_embedded_dst(ip);
    let fits = quoted.src.is_ipv4() == ip.is_ipv4();
    let expected = PacketInfo {
        src: if fits { ip } else { quoted.src },
        dst: if fits { ip } else { quoted.dst },
        ..quoted
    };
    assert_eq!(packet.embedded(), Some(expected));
}

fn refuse(packet: &[u8]) {
    for why in [
        Reject::NoInstance,
        Reject::PeerUnreachable,
        Reject::Prohibited,
    ] {
        let Some(answer) = reject(packet, why) else {
            continue;
        };
        let asked = PacketInfo::parse(packet);
        let answered = PacketInfo::parse(&answer);
        let (Ok(asked), Ok(answered)) = (asked, answered) else {
            panic!("a refusal of, or that is, no packet: {asked:?}, {answered:?}");
        };
        assert_eq!(answered.src, asked.dst);
        assert_eq!(answered.dst, asked.src);
        assert_eq!(usize::from(answered.total_len), answer.len());
        assert!(answer.len() <= 1280);
    }
}
