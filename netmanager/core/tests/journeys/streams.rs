//! Connections of the L4 lane: through the stack of each node and back, or refused.

use std::net::SocketAddr;
use std::time::Duration;

use netmanager_core::dataplane::{LINGER, PeerState, Reachability};
use netmanager_core::flow::{FlowId, FlowState, Lane, LaneReason, TcpState};
use netmanager_core::lane::{DIAL_PORTS, Hello, LISTEN_PORT, stack};
use netmanager_core::table::Host;
use netmanager_core::verdict::DropReason;
use weald_proto::table::{AcceptPolicy, InstanceRow, LanePolicy};

use crate::packets::{ACK, RST, SYN, Seen, ip, port_unreachable, see, tcp, tcp_at, udp};
use crate::world::{BETA_NODE, CLIENT, CLIENT6, End, RIVAL, WEB, WEB_RR, WEB_RR6, WEB6, World};

/// The port that the stack connects from.
const STACK_PORT: u16 = *DIAL_PORTS.end();

#[test]
fn a_connection_goes_through_the_stack_of_both_nodes() {
    for (client, service, servers) in [(CLIENT, WEB_RR, WEB), (CLIENT6, WEB_RR6, WEB6)] {
        let mut world = world();
        let syn = tcp((client, 4000), (service, 80), SYN);
        let flow = waits(world.send("alpha", &syn));
        assert_eq!(
            waits(world.send("alpha", &syn)),
            flow,
            "sent again, it waits"
        );

        let wanted = world.plane("alpha").stream_wanted(flow).unwrap();
        let node = if wanted.peer == world.peer("alpha", "beta") {
            "beta"
        } else {
            "gamma"
        };
        let server = servers[if node == "beta" { 1 } else { 2 }];
        assert_eq!(
            wanted.hello,
            Hello {
                client: at(client, 4000),
                target: at(server, 80),
            }
        );

        // The far stack connects to the server, who sees the client.
        let (alpha, now) = (world.peer(node, "alpha"), world.now);
        let accepted = world
            .plane(node)
            .accept_stream(alpha, &wanted.hello, STACK_PORT, now);
        let (_, far) = accepted.unwrap();
        let dial = stack(far.is_ipv6(), STACK_PORT);
        let heard = cross(&mut world, node, tcp_between(dial, far, SYN));
        assert_eq!(ends(&heard), (at(client, 4000), at(server, 80)));
        let answer = tcp((server, 80), (client, 4000), SYN | ACK);
        let heard = cross(&mut world, node, answer);
        assert_eq!(ends(&heard), (far, dial));

        // The near stack accepts from a phantom, and the client hears the service.
        world.plane("alpha").admit_stream(flow);
        let heard = cross(&mut world, "alpha", syn);
        let (near, listener) = ends(&heard);
        assert_eq!(listener, stack(near.is_ipv6(), LISTEN_PORT));
        assert_eq!(heard.tcp_flags(), SYN);
        assert_eq!(world.plane("alpha").stream_of(near, now), Some(flow));
        let heard = cross(&mut world, "alpha", tcp_between(listener, near, SYN | ACK));
        assert_eq!(ends(&heard), (at(service, 80), at(client, 4000)));

        let view = only_flow(&mut world, "alpha");
        let lane = (view.lane, view.lane_reason);
        assert_eq!(lane, (Lane::L4, LaneReason::Policy));
        assert_eq!((view.client, view.client_port), (ip(client), 4000));
        assert_eq!((view.asked, view.asked_port), (ip(service), 80));
        assert_eq!(view.instance_ip, ip(server));
        assert_eq!(view.peer, Some(wanted.peer));
        assert_eq!(view.state, FlowState::Tcp(TcpState::SynReceived));

        let view = only_flow(&mut world, node);
        let lane = (view.lane, view.lane_reason);
        assert_eq!(lane, (Lane::L4, LaneReason::OpenersChoice));
        assert_eq!(view.accept, None, "only the near node knows");
        assert_eq!((view.client, view.client_port), (ip(client), 4000));
        assert_eq!((view.asked, view.asked_port), (ip(server), 80));
        assert_eq!(view.opener, Host::Peer(alpha));
        assert_eq!(view.responder, Host::Local);
    }
}

#[test]
fn a_stream_is_wanted_with_the_time_of_acceptance_of_its_service() {
    for accept in [AcceptPolicy::Late, AcceptPolicy::Early] {
        let mut world = world();
        world.change(|table| {
            for service in &mut table.services {
                service.accept = accept;
            }
        });
        // Asked for by the service's address and by the instance's own.
        for (port, target) in [(4000, WEB_RR), (4001, WEB[1])] {
            let flow = waits(world.send("alpha", &tcp((CLIENT, port), (target, 80), SYN)));
            let wanted = world.plane("alpha").stream_wanted(flow).unwrap();
            assert_eq!(wanted.accept, accept);
        }
        let now = world.now;
        let views = world.plane("alpha").flows(now);
        assert!(views.map(|view| view.accept).eq([Some(accept); 2]));
    }
}

#[test]
fn auto_takes_the_lane_over_long_relayed_and_lossy_paths_and_counts_why() {
    let mut world = World::new();
    let open =
        |world: &mut World, port| world.send("alpha", &tcp((CLIENT, port), (WEB[1], 80), SYN));
    world.measure("alpha", "beta", 4);
    assert!(matches!(open(&mut world, 4000), End::Arrived(..)));
    let lossy = PeerState {
        loss_permille: Some(10),
        ..crate::world::up(4)
    };
    world.set_peer("alpha", "beta", lossy);
    waits(open(&mut world, 4001));
    world.measure("alpha", "beta", 5);
    let long = waits(open(&mut world, 4002));
    let relayed = PeerState {
        relayed: true,
        ..crate::world::up(1)
    };
    world.set_peer("alpha", "beta", relayed);
    waits(open(&mut world, 4003));
    // What has begun keeps its lane, whatever the path is by now.
    world.measure("alpha", "beta", 1);
    assert_eq!(waits(open(&mut world, 4002)), long);
    assert!(matches!(open(&mut world, 4004), End::Arrived(..)));
    let lanes = world.plane("alpha").lanes();
    let expected = [
        ((Lane::L3, LaneReason::ShortPath), 2),
        ((Lane::L4, LaneReason::LongPath), 1),
        ((Lane::L4, LaneReason::RelayedPath), 1),
        ((Lane::L4, LaneReason::LossyPath), 1),
    ];
    assert!(lanes.iter().map(|(why, count)| (*why, *count)).eq(expected));
    let now = world.now;
    let views = world.plane("alpha").flows(now);
    let mut reasons: Vec<_> = views.map(|view| view.lane_reason.word()).collect();
    reasons.sort_unstable();
    let expected = [
        "long path",
        "lossy path",
        "relayed path",
        "short direct path",
        "short direct path",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn auto_waits_for_a_path_that_is_being_measured_and_opens_nothing_meanwhile() {
    let mut world = World::new();
    let measuring = PeerState {
        measuring: true,
        ..PeerState::default()
    };
    world.set_peer("alpha", "beta", measuring);
    let beta = world.peer("alpha", "beta");
    let syn = tcp((CLIENT, 4000), (WEB[1], 80), SYN);
    let changed = world.changed("alpha", |world| {
        assert_eq!(world.send("alpha", &syn), End::Awaits(beta));
        assert_eq!(world.send("alpha", &syn), End::Awaits(beta));
    });
    assert_eq!(changed, (Vec::new(), 0));
    assert!(world.plane("alpha").lanes().is_empty());
    // Whatever the path is like, these go as packets.
    let arrives = |end: End| matches!(end, End::Arrived(..));
    let datagram = udp((CLIENT, 1), (WEB[1], 80), b"x");
    assert!(arrives(world.send("alpha", &datagram)));
    let later = tcp((CLIENT, 4001), (WEB[1], 80), ACK);
    assert!(arrives(world.send("alpha", &later)));
    world.measure("alpha", "beta", 20);
    waits(world.send("alpha", &syn));
    // A probe was lost: what the handshake took has to do.
    for (port, millis, is_long) in [(4005, 5, true), (4006, 4, false)] {
        let estimated = PeerState {
            reachable: Reachability::Up,
            estimated_rtt: Some(Duration::from_millis(millis)),
            ..PeerState::default()
        };
        assert_eq!(estimated.is_known(), !is_long, "it may have computed");
        world.set_peer("alpha", "beta", estimated);
        let end = world.send("alpha", &tcp((CLIENT, port), (WEB[1], 80), SYN));
        assert_eq!(matches!(end, End::Waits(_)), is_long, "{end:?}");
    }
    // In vain: there is nothing to choose by.
    world.set_peer("alpha", "beta", PeerState::default());
    let other = tcp((CLIENT, 4002), (WEB[1], 80), SYN);
    assert!(arrives(world.send("alpha", &other)));
    // A service that has chosen need not wait.
    for (port, lane) in [(4003, LanePolicy::L3), (4004, LanePolicy::L4)] {
        world.change(|table| {
            for service in &mut table.services {
                service.lane = lane;
            }
        });
        world.set_peer("alpha", "beta", measuring);
        let end = world.send("alpha", &tcp((CLIENT, port), (WEB[1], 80), SYN));
        assert!(!matches!(end, End::Awaits(_)), "{lane:?}: {end:?}");
    }
}

#[test]
fn who_waits_for_a_peer_in_vain_hears_so_or_finds_another() {
    let mut world = World::new();
    let measuring = PeerState {
        measuring: true,
        ..PeerState::default()
    };
    world.set_peer("alpha", "beta", measuring);
    let syn = tcp((CLIENT, 4000), (WEB[1], 80), SYN);
    assert!(matches!(world.send("alpha", &syn), End::Awaits(_)));
    world.lose("alpha", "beta");
    let end = world.send("alpha", &syn);
    assert_eq!(end, End::Rejected("alpha", DropReason::PeerUnreachable));
    // By service, the turn goes to instances that can be reached.
    for port in 4001..4004 {
        let (at, _) = world
            .send("alpha", &tcp((CLIENT, port), (WEB_RR, 80), SYN))
            .arrived();
        assert_ne!(at, "beta");
    }
}

#[test]
fn only_the_beginning_of_tcp_takes_the_lane() {
    let mut world = world();
    let arrives = |end: End| matches!(end, End::Arrived(..));
    assert!(arrives(
        world.send("alpha", &udp((CLIENT, 1), (WEB_RR, 80), b"x"))
    ));
    // In mid-stream, as after a restart.
    let later = tcp((CLIENT, 4000), (WEB[1], 80), ACK);
    assert!(arrives(world.send("alpha", &later)));
    // A node has no service that could ask for the lane.
    let to_node = tcp((CLIENT, 4000), (BETA_NODE, 22), SYN);
    assert!(arrives(world.send("alpha", &to_node)));
}

#[test]
fn a_stream_that_is_not_allowed_is_refused_and_counted() {
    let mut world = world();
    let hello = |client: (&str, u16), target: (&str, u16)| Hello {
        client: at(client.0, client.1),
        target: at(target.0, target.1),
    };
    for (hello, reason) in [
        // Of gamma's lease, of beta's own, and of nobody's.
        (
            hello((WEB[2], 1), (WEB[1], 80)),
            DropReason::SourceNotLeased,
        ),
        (
            hello((WEB[1], 1), (WEB[1], 80)),
            DropReason::SourceNotLeased,
        ),
        (
            hello(("10.30.7.7", 1), (WEB[1], 80)),
            DropReason::SourceNotLeased,
        ),
        (
            hello((CLIENT, 1), (WEB[2], 80)),
            DropReason::DestinationNotHosted,
        ),
        (
            hello((CLIENT, 1), (WEB_RR, 80)),
            DropReason::DestinationNotHosted,
        ),
        (
            hello((CLIENT, 1), ("192.0.2.1", 80)),
            DropReason::DestinationNotHosted,
        ),
        (hello((CLIENT, 0), (WEB[1], 80)), DropReason::PortZero),
        (hello((CLIENT, 1), (WEB[1], 0)), DropReason::PortZero),
        (hello((CLIENT, 1), (WEB6[1], 80)), DropReason::Malformed),
    ] {
        let changed = world.changed("beta", |world| {
            let (alpha, now) = (world.peer("beta", "alpha"), world.now);
            let refused = world
                .plane("beta")
                .accept_stream(alpha, &hello, STACK_PORT, now);
            assert_eq!(refused.map(drop), Err(reason), "{hello:?}");
        });
        assert_eq!(changed, (vec![(reason, 1)], 0), "{hello:?}");
    }
}

#[test]
fn a_stream_to_an_instance_that_has_just_gone_is_taken_for_a_moment() {
    let mut world = world();
    let hello = |port| Hello {
        client: at(CLIENT, port),
        target: at(WEB[1], 80),
    };
    world.change(|table| {
        let is_other = |row: &InstanceRow| row.instance_ip.iter().all(|one| one != ip(WEB[1]));
        table.instances.retain(is_other);
    });
    let accept = |world: &mut World, port| {
        let (alpha, now) = (world.peer("beta", "alpha"), world.now);
        let accepted = world
            .plane("beta")
            .accept_stream(alpha, &hello(port), STACK_PORT, now);
        accepted.map(drop)
    };
    let moment = Duration::from_millis(1);
    world.pass(LINGER - moment);
    assert_eq!(accept(&mut world, 1), Ok(()));
    world.pass(moment);
    let refused = accept(&mut world, 2);
    assert_eq!(refused, Err(DropReason::DestinationNotHosted));
}

#[test]
fn tenants_are_kept_apart_at_the_far_end_as_well() {
    let mut world = world();
    let node = ["alpha", "beta", "gamma"].into_iter().find(|node| {
        let rival = world.table.instances.iter();
        let mut rival = rival.filter(|row| row.instance_ip.iter().any(|one| one == ip(RIVAL)));
        rival.any(|row| row.node == crate::world::node_id(node))
    });
    let (node, other) = match node {
        Some("alpha") => ("alpha", "beta"),
        Some(node) => (node, "alpha"),
        None => panic!("nobody hosts the rival"),
    };
    let client = if other == "alpha" { CLIENT } else { WEB[1] };
    let hello = Hello {
        client: at(client, 1),
        target: at(RIVAL, 80),
    };
    let (peer, now) = (world.peer(node, other), world.now);
    let refused = world
        .plane(node)
        .accept_stream(peer, &hello, STACK_PORT, now);
    assert_eq!(refused.map(drop), Err(DropReason::PolicyDenied));
}

#[test]
fn a_refused_stream_is_a_reset_for_the_client_and_leaves_nothing() {
    let mut world = world();
    let syn = tcp_at((CLIENT, 4000), (WEB_RR, 80), SYN, 77, 0);
    let flow = waits(world.send("alpha", &syn));
    world.plane("alpha").refuse_stream(flow, &syn, false);
    let heard = world.only_answer("alpha");
    assert_eq!(ends(&heard), (at(WEB_RR, 80), at(CLIENT, 4000)));
    assert_eq!(heard.tcp_flags(), RST | ACK);
    let now = world.now;
    assert_eq!(world.plane("alpha").flows(now).count(), 0);
    // The next try is another connection.
    assert_ne!(waits(world.send("alpha", &syn)), flow);
}

#[test]
fn an_instance_that_goes_resets_the_client_and_the_stack() {
    let mut world = world();
    let (near, listener) = open(&mut world);
    let node = only_flow(&mut world, "alpha").instance_ip;
    world.change(|table| {
        table
            .instances
            .retain(|row| row.instance_ip.iter().all(|one| one != node));
    });
    world.pass(LINGER);
    let answers = world.answers("alpha");
    let mut heard: Vec<_> = answers.iter().map(ends).collect();
    heard.sort();
    let mut expected = vec![(at(WEB_RR, 80), at(CLIENT, 4000)), (near, listener)];
    expected.sort();
    assert_eq!(heard, expected);
    assert!(answers.iter().all(|one| one.tcp_flags() & RST != 0));
}

#[test]
fn an_instance_that_moves_to_another_node_ends_its_connections() {
    let mut world = world();
    open(&mut world);
    let server = only_flow(&mut world, "alpha").instance_ip;
    world.change(|table| {
        for row in &mut table.instances {
            if row.instance_ip.iter().any(|one| one == server) {
                let elsewhere = if row.node == crate::world::node_id("beta") {
                    "gamma"
                } else {
                    "beta"
                };
                row.node = crate::world::node_id(elsewhere);
            }
        }
    });
    assert_eq!(world.answers("alpha").len(), 2);
    let now = world.now;
    assert_eq!(world.plane("alpha").flows(now).count(), 0);
}

#[test]
fn nobody_else_reaches_the_stack_or_speaks_for_it() {
    let mut world = world();
    let (near, listener) = open(&mut world);
    // A program that names the phantom, or the listener.
    for target in [near, listener] {
        let packet = tcp_between(at(CLIENT, 5), target, SYN);
        let end = world.send("alpha", &packet);
        assert_eq!(end, End::Dropped("alpha", DropReason::UnroutableAddress));
    }
    // A peer that sends what looks like the stack's, or like the client's packets.
    for (from, to) in [(listener, near), (near, listener)] {
        let end = world.inject("beta", "alpha", &tcp_between(from, to, ACK));
        assert_eq!(end, End::Dropped("alpha", DropReason::SourceNotLeased));
    }
    // An error about the stack's packets is not passed on.
    let sent = tcp_between(at(WEB_RR, 80), at(CLIENT, 4000), ACK);
    let end = world.send("alpha", &port_unreachable(CLIENT, &sent));
    assert_eq!(end, End::Dropped("alpha", DropReason::IcmpErrorWithoutFlow));
}

fn world() -> World {
    let mut world = World::new();
    world.change(|table| {
        for service in &mut table.services {
            service.lane = LanePolicy::L4;
        }
    });
    world
}

/// Opens a connection up to the stack of the near node, to an instance elsewhere; its phantom and
/// the listener.
fn open(world: &mut World) -> (SocketAddr, SocketAddr) {
    let syn = tcp((CLIENT, 4000), (WEB_RR, 80), SYN);
    let flow = waits(world.send("alpha", &syn));
    world.plane("alpha").admit_stream(flow);
    let (near, listener) = ends(&cross(world, "alpha", syn));
    cross(world, "alpha", tcp_between(listener, near, SYN | ACK));
    cross(world, "alpha", tcp((CLIENT, 4000), (WEB_RR, 80), ACK));
    (near, listener)
}

#[track_caller]
fn waits(end: End) -> FlowId {
    let End::Waits(flow) = end else {
        panic!("it does not wait: {end:?}");
    };
    flow
}

/// Sends a packet on a node, which must give it back to its own TUN.
#[track_caller]
fn cross(world: &mut World, node: &'static str, packet: Vec<u8>) -> Seen {
    see(&world.send(node, &packet).arrived_at(node))
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

fn tcp_between(from: SocketAddr, to: SocketAddr, flags: u8) -> Vec<u8> {
    let (source, destination) = (from.ip().to_string(), to.ip().to_string());
    tcp((&source, from.port()), (&destination, to.port()), flags)
}

fn ends(seen: &Seen) -> (SocketAddr, SocketAddr) {
    let (source, destination) = seen.ports();
    (
        SocketAddr::new(seen.source, source),
        SocketAddr::new(seen.destination, destination),
    )
}

fn only_flow(world: &mut World, node: &str) -> netmanager_core::dataplane::FlowView {
    let now = world.now;
    let mut flows: Vec<_> = world.plane(node).flows(now).collect();
    assert_eq!(flows.len(), 1, "{flows:?}");
    flows.pop().unwrap()
}
