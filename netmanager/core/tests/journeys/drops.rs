//! What is not let through: each with the reason that is counted, and nothing else changed.

use netmanager_core::dataplane::FlowLimits;
use netmanager_core::verdict::DropReason;
use netmanager_core::vnet::VnetHeader;

use crate::packets::{ACK, RST, SYN, echo, fragments, ip, packet, port_unreachable, tcp, udp};
use crate::world::{
    BETA_NODE, BETA_NODE6, CLIENT, CLIENT6, EMPTY_RR, EMPTY_RR6, End, RIVAL, RIVAL_RR, RIVAL_RR6,
    RIVAL6, WEB, WEB_CLOSEST, WEB_CLOSEST6, WEB_RR, WEB_RR6, WEB6, World, shop,
};

/// What both address families call the same: the client, web 1 to 3, the service, and an address that
/// nothing has.
type Family = (&'static str, [&'static str; 3], &'static str, &'static str);
const FAMILIES: [Family; 2] = [
    (CLIENT, WEB, WEB_RR, "10.30.0.77"),
    (CLIENT6, WEB6, WEB_RR6, "fdff::77"),
];

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
    let whole6 = udp((CLIENT6, 4000), (WEB_RR6, 53), b"question");
    for broken in [
        &[][..],
        &[0],
        &whole[..19],
        &whole[..27],
        &whole6[..39],
        &whole6[..47],
        &[0x45; 20],
        &[0x60; 40],
    ] {
        drops_from_tun(broken, DropReason::Malformed);
        drops_from_beta(broken, DropReason::Malformed);
    }
}

#[test]
fn virtio_headers_that_lie() {
    for ((client, web, rr, _), csum_start) in FAMILIES.into_iter().zip([24, 44]) {
        let vnet = VnetHeader {
            flags: 1,
            csum_start,
            csum_offset: 6,
            ..VnetHeader::default()
        };
        let packet = udp((client, 4000), (rr, 53), b"question");
        let mut world = World::new();
        counts(&mut world, "alpha", DropReason::LyingVnetHeader, |world| {
            assert_eq!(
                world.send_with("alpha", &vnet, &packet),
                End::Dropped("alpha", DropReason::LyingVnetHeader)
            );
        });
        let packet = udp((web[1], 4000), (client, 53), b"question");
        counts(&mut world, "alpha", DropReason::LyingVnetHeader, |world| {
            assert_eq!(
                world.carry("beta", "alpha", &vnet, &packet),
                End::Dropped("alpha", DropReason::LyingVnetHeader)
            );
        });
    }
}

#[test]
fn sources_that_are_not_here() {
    let foreign = [[BETA_NODE, "192.0.2.1"], [BETA_NODE6, "2001:db8::1"]];
    for ((client, web, rr, nobody), foreign) in FAMILIES.into_iter().zip(foreign) {
        for source in [web[1], rr, nobody, foreign[0], foreign[1]] {
            for packet in [
                udp((source, 4000), (rr, 53), b"question"),
                tcp((source, 4000), (web[0], 80), ACK),
                echo(source, client, 7, true),
                port_unreachable(source, &udp((client, 1), (source, 2), b"")),
                packet(ip(source), ip(client), 132, vec![0; 12]),
            ] {
                drops_from_tun(&packet, DropReason::SourceNotLocal);
            }
        }
    }
}

#[test]
fn sources_that_the_peer_does_not_host() {
    let foreign = [["192.0.2.1", "127.0.0.1"], ["2001:db8::1", "::1"]];
    for ((client, web, rr, nobody), foreign) in FAMILIES.into_iter().zip(foreign) {
        for source in [web[2], web[0], client, rr, nobody, foreign[0], foreign[1]] {
            for packet in [
                udp((source, 4000), (client, 53), b"question"),
                tcp((source, 80), (client, 4000), SYN),
                echo(source, client, 7, false),
                packet(ip(source), ip(client), 132, vec![0; 12]),
                fragments(&udp((source, 1), (client, 2), &[0; 99]), 5, 48).remove(1),
            ] {
                drops_from_beta(&packet, DropReason::SourceNotLeased);
            }
        }
    }
}

#[test]
fn a_peer_cannot_speak_in_a_conversation_with_another() {
    for (client, web, ..) in FAMILIES {
        let mut world = World::new();
        let question = udp((client, 4000), (web[2], 53), b"question");
        world.send("alpha", &question).arrived_at("gamma");
        let forged = udp((web[2], 53), (client, 4000), b"answer");
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
}

#[test]
fn destinations_that_are_not_here() {
    let others = [[WEB_CLOSEST, "192.0.2.1"], [WEB_CLOSEST6, "2001:db8::1"]];
    for ((_, web, rr, nobody), others) in FAMILIES.into_iter().zip(others) {
        for destination in [web[2], web[1], rr, nobody, others[0], others[1]] {
            for packet in [
                udp((web[1], 4000), (destination, 53), b"question"),
                tcp((web[1], 4000), (destination, 80), SYN),
                echo(web[1], destination, 7, false),
            ] {
                drops_from_beta(&packet, DropReason::DestinationNotHosted);
            }
        }
    }
}

#[test]
fn other_organisations() {
    let rivals = [[RIVAL, RIVAL_RR], [RIVAL6, RIVAL_RR6]];
    for ((client, ..), rivals) in FAMILIES.into_iter().zip(rivals) {
        let mut world = World::new();
        for destination in rivals {
            rejects(
                &mut world,
                &tcp((client, 4000), (destination, 80), SYN),
                DropReason::PolicyDenied,
            );
            rejects(
                &mut world,
                &udp((client, 4000), (destination, 80), b"x"),
                DropReason::PolicyDenied,
            );
        }
        drops_from_beta(
            &tcp((rivals[0], 4000), (client, 80), SYN),
            DropReason::PolicyDenied,
        );
        drops_from_beta(&echo(rivals[0], client, 7, false), DropReason::PolicyDenied);
    }
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
        echo(CLIENT6, EMPTY_RR6, 7, false),
    ] {
        rejects(&mut world, &packet, DropReason::NoInstance);
    }
}

#[test]
fn lost_nodes_refuse_at_once() {
    let mut world = World::new();
    world.lose("alpha", "beta");
    for (client, web, ..) in FAMILIES {
        for packet in [
            tcp((client, 4000), (web[1], 80), SYN),
            udp((client, 4000), (web[1], 80), b"x"),
        ] {
            rejects(&mut world, &packet, DropReason::PeerUnreachable);
        }
    }
}

#[test]
fn connections_in_mid_stream_that_nobody_knows() {
    for (client, web, rr, _) in FAMILIES {
        rejects(
            &mut World::new(),
            &tcp((client, 4000), (rr, 80), ACK),
            DropReason::FlowUnknown,
        );
        // A reset is never answered.
        drops_from_tun(&tcp((client, 4000), (rr, 80), RST), DropReason::FlowUnknown);
        drops_from_tun(&echo(client, web[0], 7, true), DropReason::FlowUnknown);
        drops_from_beta(&echo(web[1], client, 7, true), DropReason::FlowUnknown);
    }
}

#[test]
fn port_zero_is_dropped_and_port_65535_works() {
    for (client, web, rr, _) in FAMILIES {
        for (from, to) in [(0, 80), (4000, 0), (0, 0)] {
            for make in [
                |from: (&str, u16), to: (&str, u16)| tcp(from, to, SYN),
                |from: (&str, u16), to: (&str, u16)| udp(from, to, b"x"),
            ] {
                for destination in [rr, web[1]] {
                    drops_from_tun(
                        &make((client, from), (destination, to)),
                        DropReason::PortZero,
                    );
                }
                drops_from_beta(&make((web[1], from), (client, to)), DropReason::PortZero);
            }
        }
        let mut world = World::new();
        for packet in [
            tcp((client, 65535), (rr, 65535), SYN),
            udp((client, 65535), (rr, 65535), b""),
        ] {
            assert!(matches!(world.send("alpha", &packet), End::Arrived(..)));
        }
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
    // A timestamp request of ICMP, and a node information query of ICMPv6.
    let mut timestamp = vec![0; 20];
    (timestamp[0], timestamp[5], timestamp[7]) = (13, 1, 1);
    let mut query = vec![0; 20];
    query[0] = 139;
    for ((client, web, ..), (icmp, unknown)) in
        FAMILIES.into_iter().zip([(1, timestamp), (58, query)])
    {
        for (from, to, check) in [
            (client, web[1], drops_from_tun as fn(&[u8], DropReason)),
            (web[1], client, drops_from_beta),
        ] {
            check(
                &packet(ip(from), ip(to), icmp, unknown.clone()),
                DropReason::UnsupportedProtocol,
            );
            check(
                &packet(ip(from), ip(to), 132, vec![0; 12]),
                DropReason::UnsupportedProtocol,
            );
        }
    }
}

#[test]
fn errors_about_nothing_that_was_sent() {
    for (client, web, ..) in FAMILIES {
        let never_sent = udp((web[1], 53), (client, 4000), b"answer");
        drops_from_tun(
            &port_unreachable(client, &never_sent),
            DropReason::IcmpErrorWithoutFlow,
        );
        let never_sent = udp((client, 4000), (web[1], 53), b"question");
        drops_from_beta(
            &port_unreachable(web[1], &never_sent),
            DropReason::IcmpErrorWithoutFlow,
        );
    }
}

#[test]
fn too_many_fragmented_packets_at_once() {
    let limits = FlowLimits {
        fragmented_packets: 2,
        ..FlowLimits::default()
    };
    for (client, web, ..) in FAMILIES {
        let mut world = World::with(shop(), limits);
        let first = |id| fragments(&udp((client, 4000), (web[1], 53), &[0; 99]), id, 48).remove(0);
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
}

#[test]
fn answers_are_limited_per_source() {
    for (client, web, _, nobody) in FAMILIES {
        let mut world = World::new();
        let question = udp((client, 4000), (nobody, 53), b"x");
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
        let other = udp((web[0], 4000), (nobody, 53), b"x");
        rejects(&mut world, &other, DropReason::DestinationUnknown);
    }
}

#[test]
fn without_a_table_nothing_passes() {
    for (client, _, rr, _) in FAMILIES {
        let mut plane = netmanager_core::dataplane::DataPlane::new(FlowLimits::default(), 1);
        let now = World::new().now;
        let mut bytes = udp((client, 4000), (rr, 53), b"question");
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
}
