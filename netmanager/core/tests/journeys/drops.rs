//! What is not let through: each with the reason that is counted, and nothing else changed.

use netmanager_core::dataplane::FlowLimits;
use netmanager_core::verdict::DropReason;
use netmanager_core::vnet::VnetHeader;

use crate::packets::{ACK, RST, SYN, echo, fragments, ip, packet, port_unreachable, tcp, udp};
use crate::world::{
    BETA_NODE, CLIENT, CLIENT6, EMPTY_RR, EMPTY_RR6, End, RIVAL, RIVAL_RR, WEB, WEB_CLOSEST,
    WEB_RR, WEB6, World, shop,
};

/// Lets `act` happen, and checks that it counted this one reason at `node` and opened no flow.
#[track_caller]
fn counts(world: &mut World, node: &str, reason: DropReason, act: impl FnOnce(&mut World)) {
    let (changed, flows) = world.changed(node, act);
    assert_eq!((changed, flows), (vec![(reason, 1)], 0));
}

#[track_caller]
fn drops_from_tun(packet: &[u8], reason: DropReason) {
    let mut world = World::new();
    counts(&mut world, "alpha", reason, |world| {
        assert_eq!(world.send("alpha", packet), End::Dropped("alpha", reason));
    });
    assert!(world.answers("alpha").is_empty());
}

#[track_caller]
fn drops_from_beta(packet: &[u8], reason: DropReason) {
    let mut world = World::new();
    counts(&mut world, "alpha", reason, |world| {
        assert_eq!(
            world.inject("beta", "alpha", packet),
            End::Dropped("alpha", reason)
        );
    });
    assert!(world.answers("alpha").is_empty());
}

#[track_caller]
fn rejects(world: &mut World, packet: &[u8], reason: DropReason) {
    counts(world, "alpha", reason, |world| {
        assert_eq!(world.send("alpha", packet), End::Rejected("alpha", reason));
    });
    let sent = crate::packets::see(packet);
    let answer = world.only_answer("alpha");
    assert_eq!(
        (answer.source, answer.destination),
        (sent.destination, sent.source)
    );
}

#[test]
fn what_cannot_be_read() {
    let whole = udp((CLIENT, 4000), (WEB_RR, 53), b"question");
    for broken in [
        &[][..],
        &[0],
        &whole[..19],
        &whole[..27],
        &[0x45; 20],
        &[0x60; 40],
    ] {
        drops_from_tun(broken, DropReason::Malformed);
        drops_from_beta(broken, DropReason::Malformed);
    }
}

#[test]
fn virtio_headers_that_lie() {
    let vnet = VnetHeader {
        flags: 1,
        csum_start: 24,
        csum_offset: 6,
        ..VnetHeader::default()
    };
    let packet = udp((CLIENT, 4000), (WEB_RR, 53), b"question");
    let mut world = World::new();
    counts(&mut world, "alpha", DropReason::LyingVnetHeader, |world| {
        assert_eq!(
            world.send_with("alpha", &vnet, &packet),
            End::Dropped("alpha", DropReason::LyingVnetHeader)
        );
    });
    let packet = udp((WEB[1], 4000), (CLIENT, 53), b"question");
    counts(&mut world, "alpha", DropReason::LyingVnetHeader, |world| {
        assert_eq!(
            world.carry("beta", "alpha", &vnet, &packet),
            End::Dropped("alpha", DropReason::LyingVnetHeader)
        );
    });
}

#[test]
fn sources_that_are_not_here() {
    for source in [WEB[1], BETA_NODE, WEB_RR, "10.30.0.77", "192.0.2.1"] {
        for packet in [
            udp((source, 4000), (WEB_RR, 53), b"question"),
            tcp((source, 4000), (WEB[0], 80), ACK),
            echo(source, CLIENT, 7, true),
            port_unreachable(source, &udp((CLIENT, 1), (source, 2), b"")),
            packet(ip(source), ip(CLIENT), 132, vec![0; 12]),
        ] {
            drops_from_tun(&packet, DropReason::SourceNotLocal);
        }
    }
}

#[test]
fn sources_that_the_peer_does_not_host() {
    for source in [
        WEB[2],
        WEB[0],
        CLIENT,
        WEB_RR,
        "10.30.0.77",
        "192.0.2.1",
        "127.0.0.1",
    ] {
        for packet in [
            udp((source, 4000), (CLIENT, 53), b"question"),
            tcp((source, 80), (CLIENT, 4000), SYN),
            echo(source, CLIENT, 7, false),
            packet(ip(source), ip(CLIENT), 132, vec![0; 12]),
            fragments(&udp((source, 1), (CLIENT, 2), &[0; 99]), 5, 48).remove(1),
        ] {
            drops_from_beta(&packet, DropReason::SourceNotLeased);
        }
    }
}

#[test]
fn a_peer_cannot_speak_in_a_conversation_with_another() {
    let mut world = World::new();
    let question = udp((CLIENT, 4000), (WEB[2], 53), b"question");
    world.send("alpha", &question).arrived_at("gamma");
    let forged = udp((WEB[2], 53), (CLIENT, 4000), b"answer");
    counts(&mut world, "alpha", DropReason::SourceNotLeased, |world| {
        assert_eq!(
            world.inject("beta", "alpha", &forged),
            End::Dropped("alpha", DropReason::SourceNotLeased)
        );
    });
    let now = world.now;
    let received: Vec<u64> = world
        .plane("alpha")
        .flows(now)
        .map(|view| view.received.packets)
        .collect();
    assert_eq!(received, [0]);
}

#[test]
fn destinations_that_are_not_here() {
    for destination in [
        WEB[2],
        WEB[1],
        WEB_RR,
        WEB_CLOSEST,
        "10.30.0.77",
        "192.0.2.1",
    ] {
        for packet in [
            udp((WEB[1], 4000), (destination, 53), b"question"),
            tcp((WEB[1], 4000), (destination, 80), SYN),
            echo(WEB[1], destination, 7, false),
        ] {
            drops_from_beta(&packet, DropReason::DestinationNotHosted);
        }
    }
}

#[test]
fn other_organisations() {
    let mut world = World::new();
    for destination in [RIVAL, RIVAL_RR] {
        rejects(
            &mut world,
            &tcp((CLIENT, 4000), (destination, 80), SYN),
            DropReason::PolicyDenied,
        );
        rejects(
            &mut world,
            &udp((CLIENT, 4000), (destination, 80), b"x"),
            DropReason::PolicyDenied,
        );
    }
    drops_from_beta(
        &tcp((RIVAL, 4000), (CLIENT, 80), SYN),
        DropReason::PolicyDenied,
    );
    drops_from_beta(&echo(RIVAL, CLIENT, 7, false), DropReason::PolicyDenied);
}

#[test]
fn unknown_destinations_are_refused_at_once() {
    let mut world = World::new();
    for packet in [
        tcp((CLIENT, 4000), ("10.30.0.77", 80), SYN),
        udp((CLIENT, 4000), ("10.30.0.77", 80), b"x"),
        echo(CLIENT, "10.30.0.77", 7, false),
        tcp((CLIENT6, 4000), ("fdff::77", 80), SYN),
        udp((CLIENT6, 4000), ("fdff::77", 80), b"x"),
        echo(CLIENT6, "fdff::77", 7, false),
    ] {
        rejects(&mut world, &packet, DropReason::DestinationUnknown);
    }
}

#[test]
fn a_service_without_instances_refuses_at_once() {
    let mut world = World::new();
    let syn = tcp((CLIENT, 4000), (EMPTY_RR, 80), SYN);
    counts(&mut world, "alpha", DropReason::NoInstance, |world| {
        assert_eq!(
            world.send("alpha", &syn),
            End::Rejected("alpha", DropReason::NoInstance)
        );
    });
    let answer = world.only_answer("alpha");
    assert_eq!(
        (answer.tcp_flags(), answer.tcp_numbers()),
        (RST | ACK, (0, 1001))
    );
    for packet in [
        udp((CLIENT, 4000), (EMPTY_RR, 80), b"x"),
        echo(CLIENT, EMPTY_RR, 7, false),
        tcp((CLIENT6, 4000), (EMPTY_RR6, 80), SYN),
        udp((CLIENT6, 4000), (EMPTY_RR6, 80), b"x"),
    ] {
        rejects(&mut world, &packet, DropReason::NoInstance);
    }
}

#[test]
fn lost_nodes_refuse_at_once() {
    let mut world = World::new();
    world.lose("alpha", "beta");
    rejects(
        &mut world,
        &tcp((CLIENT, 4000), (WEB[1], 80), SYN),
        DropReason::PeerUnreachable,
    );
    rejects(
        &mut world,
        &udp((CLIENT6, 4000), (WEB6[1], 80), b"x"),
        DropReason::PeerUnreachable,
    );
}

#[test]
fn connections_in_mid_stream_that_nobody_knows() {
    let mut world = World::new();
    rejects(
        &mut world,
        &tcp((CLIENT, 4000), (WEB_RR, 80), ACK),
        DropReason::FlowUnknown,
    );
    // A reset is never answered.
    drops_from_tun(
        &tcp((CLIENT, 4000), (WEB_RR, 80), RST),
        DropReason::FlowUnknown,
    );
    drops_from_tun(&echo(CLIENT, WEB[0], 7, true), DropReason::FlowUnknown);
    drops_from_beta(&echo(WEB[1], CLIENT, 7, true), DropReason::FlowUnknown);
}

#[test]
fn port_zero_is_dropped_and_port_65535_works() {
    for (from, to) in [(0, 80), (4000, 0), (0, 0)] {
        for make in [
            |from: (&str, u16), to: (&str, u16)| tcp(from, to, SYN),
            |from: (&str, u16), to: (&str, u16)| udp(from, to, b"x"),
        ] {
            for destination in [WEB_RR, WEB[1]] {
                drops_from_tun(
                    &make((CLIENT, from), (destination, to)),
                    DropReason::PortZero,
                );
            }
            drops_from_beta(&make((WEB[1], from), (CLIENT, to)), DropReason::PortZero);
        }
    }
    let mut world = World::new();
    for packet in [
        tcp((CLIENT, 65535), (WEB_RR, 65535), SYN),
        udp((CLIENT, 65535), (WEB_RR, 65535), b""),
    ] {
        assert!(matches!(world.send("alpha", &packet), End::Arrived(..)));
    }
}

#[test]
fn addresses_that_lead_nowhere() {
    for destination in [
        "224.0.0.251",
        "255.255.255.255",
        "127.0.0.1",
        "0.0.0.0",
        "169.254.1.1",
        "192.0.2.1",
    ] {
        drops_from_tun(
            &udp((CLIENT, 5353), (destination, 5353), b"x"),
            DropReason::UnroutableAddress,
        );
    }
    for destination in ["ff02::fb", "::1", "::", "fe80::1", "2001:db8::1"] {
        drops_from_tun(
            &udp((CLIENT6, 5353), (destination, 5353), b"x"),
            DropReason::UnroutableAddress,
        );
    }
    // What an interface that comes up says: a router solicitation, a multicast report.
    let router_solicitation = vec![133, 0, 0, 0, 0, 0, 0, 0];
    drops_from_tun(
        &packet(ip("fe80::1"), ip("ff02::2"), 58, router_solicitation),
        DropReason::UnroutableAddress,
    );
    let report = vec![143, 0, 0, 0, 0, 0, 0, 0];
    drops_from_tun(
        &packet(ip("::"), ip("ff02::16"), 58, report),
        DropReason::UnroutableAddress,
    );
}

#[test]
fn protocols_that_are_not_carried() {
    let timestamp_request = vec![13, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (from, to, check) in [
        (CLIENT, WEB[1], drops_from_tun as fn(&[u8], DropReason)),
        (WEB[1], CLIENT, drops_from_beta),
    ] {
        check(
            &packet(ip(from), ip(to), 1, timestamp_request.clone()),
            DropReason::UnsupportedProtocol,
        );
        check(
            &packet(ip(from), ip(to), 132, vec![0; 12]),
            DropReason::UnsupportedProtocol,
        );
    }
}

#[test]
fn errors_about_nothing_that_was_sent() {
    let never_sent = udp((WEB[1], 53), (CLIENT, 4000), b"answer");
    drops_from_tun(
        &port_unreachable(CLIENT, &never_sent),
        DropReason::IcmpErrorWithoutFlow,
    );
    let never_sent = udp((CLIENT, 4000), (WEB[1], 53), b"question");
    drops_from_beta(
        &port_unreachable(WEB[1], &never_sent),
        DropReason::IcmpErrorWithoutFlow,
    );
}

#[test]
fn too_many_fragmented_packets_at_once() {
    let limits = FlowLimits {
        fragmented_packets: 2,
        ..FlowLimits::default()
    };
    let mut world = World::with(shop(), limits);
    let first = |id| fragments(&udp((CLIENT, 4000), (WEB[1], 53), &[0; 99]), id, 48).remove(0);
    for id in [1, 2] {
        world.send("alpha", &first(id)).arrived_at("beta");
    }
    let reason = DropReason::FragmentTableFull;
    counts(&mut world, "alpha", reason, |world| {
        assert_eq!(
            world.send("alpha", &first(3)),
            End::Dropped("alpha", reason)
        );
    });
}

#[test]
fn answers_are_limited_per_source() {
    let mut world = World::new();
    let question = udp((CLIENT, 4000), ("10.30.0.77", 53), b"x");
    let (changed, flows) = world.changed("alpha", |world| {
        for _ in 0..1000 {
            world.send("alpha", &question);
        }
    });
    assert_eq!(flows, 0);
    assert_eq!(
        changed,
        [
            (DropReason::DestinationUnknown, 200),
            (DropReason::RejectRateLimited, 800)
        ]
    );
    assert_eq!(world.answers("alpha").len(), 200);
    let other = udp((WEB[0], 4000), ("10.30.0.77", 53), b"x");
    rejects(&mut world, &other, DropReason::DestinationUnknown);
}

#[test]
fn without_a_table_nothing_passes() {
    let mut plane = netmanager_core::dataplane::DataPlane::new(FlowLimits::default(), 1);
    let now = World::new().now;
    let mut bytes = udp((CLIENT, 4000), (WEB_RR, 53), b"question");
    let verdict = plane.handle_tun(&VnetHeader::default(), &mut bytes, now);
    assert_eq!(
        verdict,
        netmanager_core::verdict::Verdict::Drop(DropReason::SourceNotLocal)
    );
    let peer = netmanager_core::table::PeerId(0);
    let verdict = plane.handle_peer(peer, &VnetHeader::default(), &mut bytes, now);
    assert_eq!(
        verdict,
        netmanager_core::verdict::Verdict::Drop(DropReason::SourceNotLeased)
    );
}
