//! Conversations with services: TCP, UDP and echo, over both families, near and far.

use std::net::IpAddr;
use std::time::Duration;

use netmanager_core::dataplane::FlowView;
use netmanager_core::flow::{FlowState, Lane, LaneReason, TcpState, Traffic};
use netmanager_core::table::Host;
use netmanager_core::verdict::DropReason;
use netmanager_core::vnet::VnetHeader;
use weald_proto::name::Policy;
use weald_proto::table::{InstanceRow, LanePolicy};

use crate::packets::{ACK, FIN, RST, SYN, echo, ip, see, tcp, tcp_at, udp};
use crate::world::{
    ALPHA_NODE, BETA_NODE, CLIENT, CLIENT6, End, WEB, WEB_CLOSEST, WEB_RR, WEB_RR6, WEB6, World,
    service_name,
};

#[test]
fn a_connection_to_a_service_reaches_an_instance_and_comes_back() {
    let mut world = World::new();
    let node = open_far(&mut world, 4000, WEB_RR);
    let server = WEB[if node == "beta" { 1 } else { 2 }];

    // The server sees the client's own address, and answers to it.
    let answer = tcp((server, 80), (CLIENT, 4000), SYN | ACK);
    let heard = see(&world.send(node, &answer).arrived_at("alpha"));
    assert_eq!((heard.source, heard.destination), (ip(WEB_RR), ip(CLIENT)));
    assert_eq!(heard.ports(), (80, 4000));
    assert_eq!(heard.tcp_flags(), SYN | ACK);

    let data = tcp((CLIENT, 4000), (WEB_RR, 80), ACK);
    let heard = see(&world.send("alpha", &data).arrived_at(node));
    assert_eq!((heard.source, heard.destination), (ip(CLIENT), ip(server)));

    let view = only_flow(&mut world, "alpha");
    assert_eq!(view.service, Some(service_name("web")));
    assert_eq!(view.policy, Some(Policy::RoundRobin));
    assert_eq!((view.client, view.client_port), (ip(CLIENT), 4000));
    assert_eq!((view.asked, view.asked_port), (ip(WEB_RR), 80));
    assert_eq!(view.instance_ip, ip(server));
    assert_eq!(view.peer, Some(world.peer("alpha", node)));
    assert_eq!(view.state, FlowState::Tcp(TcpState::Established));
    assert_eq!(
        (view.lane, view.lane_reason),
        (Lane::L3, LaneReason::UnmeasuredPath)
    );
    let traffic = |packets| Traffic {
        packets,
        bytes: 40 * packets,
    };
    assert_eq!((view.sent, view.received), (traffic(2), traffic(1)));

    let view = only_flow(&mut world, node);
    assert_eq!(
        (view.asked, view.instance_ip),
        (ip(server), ip(server)),
        "only the opener's node translates"
    );
    assert_eq!(view.lane_reason, LaneReason::OpenersChoice);
    assert_eq!(view.state, FlowState::Tcp(TcpState::Established));

    // Both finish; a new connection from the same port is a new flow with its own pick.
    for (from, packet) in [
        (node, tcp((server, 80), (CLIENT, 4000), FIN | ACK)),
        ("alpha", tcp((CLIENT, 4000), (WEB_RR, 80), FIN | ACK)),
        (node, tcp((server, 80), (CLIENT, 4000), ACK)),
    ] {
        assert!(matches!(world.send(from, &packet), End::Arrived(..)));
    }
    let view = only_flow(&mut world, "alpha");
    assert_eq!(view.state, FlowState::Tcp(TcpState::Closed));
    let again = world.send("alpha", &tcp((CLIENT, 4000), (WEB_RR, 80), SYN));
    assert!(matches!(again, End::Arrived(at, _) if at != node));
}

#[test]
fn six_requests_hit_each_of_three_instances_twice_whatever_the_family_and_protocol() {
    let mut world = World::new();
    let mut hits: Vec<IpAddr> = Vec::new();
    for i in 0..6u16 {
        let packet = match i % 3 {
            0 => tcp((CLIENT, 5000 + i), (WEB_RR, 80), SYN),
            1 => tcp((CLIENT6, 5000 + i), (WEB_RR6, 80), SYN),
            _ => udp((CLIENT6, 5000 + i), (WEB_RR6, 53), b"hello"),
        };
        let (_, packet) = world.send("alpha", &packet).arrived();
        hits.push(see(&packet).destination);
    }
    for i in 0..3 {
        let count = hits
            .iter()
            .filter(|hit| **hit == ip(WEB[i]) || **hit == ip(WEB6[i]))
            .count();
        assert_eq!(count, 2, "{hits:?}");
    }
    let retry = tcp((CLIENT, 5000), (WEB_RR, 80), SYN);
    let (_, packet) = world.send("alpha", &retry).arrived();
    assert_eq!(
        see(&packet).destination,
        hits[0],
        "a repeated SYN is the same flow"
    );
}

#[test]
fn udp_goes_both_ways_over_both_families() {
    for (client, service, servers) in [(CLIENT, WEB_RR, WEB), (CLIENT6, WEB_RR6, WEB6)] {
        let mut world = World::new();
        for port in 6000..6003 {
            let question = udp((client, port), (service, 53), b"question");
            let (node, heard) = world.send("alpha", &question).arrived();
            let heard = see(&heard);
            let server = servers[["alpha", "beta", "gamma"]
                .iter()
                .position(|name| *name == node)
                .unwrap()];
            assert_eq!((heard.source, heard.destination), (ip(client), ip(server)));
            assert_eq!(&heard.l4[8..], b"question");
            let answer = udp((server, 53), (client, port), b"answer");
            let heard = see(&world.send(node, &answer).arrived_at("alpha"));
            assert_eq!((heard.source, heard.destination), (ip(service), ip(client)));
            assert_eq!(&heard.l4[8..], b"answer");
        }
    }
}

#[test]
fn an_echo_to_a_service_is_answered_by_an_instance() {
    for (client, service, servers) in [(CLIENT, WEB_RR, WEB), (CLIENT6, WEB_RR6, WEB6)] {
        let mut world = World::new();
        for id in [7, 8, 65535] {
            let (node, heard) = world
                .send("alpha", &echo(client, service, id, false))
                .arrived();
            let server = see(&heard).destination.to_string();
            assert!(servers.contains(&server.as_str()));
            let reply = echo(&server, client, id, true);
            let heard = see(&world.send(node, &reply).arrived_at("alpha"));
            assert_eq!((heard.source, heard.destination), (ip(service), ip(client)));
        }
    }
}

#[test]
fn two_who_ping_each_other_with_the_same_identifier_are_not_mixed_up() {
    let mut world = World::new();
    let (node, heard) = world
        .send("alpha", &echo(CLIENT, WEB_RR, 7, false))
        .arrived();
    let server = see(&heard).destination.to_string();
    let back = see(&world
        .send(node, &echo(&server, CLIENT, 7, false))
        .arrived_at("alpha"));
    let expected = if node == "alpha" { "alpha" } else { node };
    assert_eq!(back.source, ip(&server), "a request is not an answer");
    let reply = see(&world
        .send("alpha", &echo(CLIENT, &server, 7, true))
        .arrived_at(expected));
    assert_eq!(reply.destination, ip(&server));
}

#[test]
fn an_instance_on_the_same_node_is_reached_without_a_tunnel() {
    let mut world = World::new();
    for other in ["beta", "gamma"] {
        world.lose("alpha", other);
    }
    let heard = world.send("alpha", &tcp((CLIENT, 4000), (WEB_RR, 80), SYN));
    let heard = see(&heard.arrived_at("alpha"));
    assert_eq!((heard.source, heard.destination), (ip(CLIENT), ip(WEB[0])));
    let answer = tcp((WEB[0], 80), (CLIENT, 4000), SYN | ACK);
    let heard = see(&world.send("alpha", &answer).arrived_at("alpha"));
    assert_eq!((heard.source, heard.destination), (ip(WEB_RR), ip(CLIENT)));
    let view = only_flow(&mut world, "alpha");
    assert_eq!(
        (view.lane, view.lane_reason),
        (Lane::Local, LaneReason::SameNode)
    );
    assert_eq!((view.responder, view.peer), (Host::Local, None));
}

#[test]
fn an_instance_reaches_itself_through_its_own_service() {
    let mut world = World::new();
    for other in ["beta", "gamma"] {
        world.lose("alpha", other);
    }
    // It must not hear from its own address, or its kernel drops the packet.
    let heard = world.send("alpha", &tcp((WEB[0], 4000), (WEB_RR, 80), SYN));
    let heard = see(&heard.arrived_at("alpha"));
    assert_eq!((heard.source, heard.destination), (ip(WEB_RR), ip(WEB[0])));
    assert_eq!(heard.ports(), (4000, 80));
    let answer = tcp((WEB[0], 80), (WEB_RR, 4000), SYN | ACK);
    let heard = see(&world.send("alpha", &answer).arrived_at("alpha"));
    assert_eq!((heard.source, heard.destination), (ip(WEB_RR), ip(WEB[0])));
    assert_eq!(heard.ports(), (80, 4000));
}

#[test]
fn instances_and_nodes_are_reached_by_their_own_addresses() {
    let mut world = World::new();
    for (client, server) in [(CLIENT, WEB[1]), (ALPHA_NODE, WEB[1]), (CLIENT, BETA_NODE)] {
        let heard = world.send("alpha", &tcp((client, 4000), (server, 65535), SYN));
        let heard = see(&heard.arrived_at("beta"));
        assert_eq!((heard.source, heard.destination), (ip(client), ip(server)));
        let answer = tcp((server, 65535), (client, 4000), SYN | ACK);
        let heard = see(&world.send("beta", &answer).arrived_at("alpha"));
        assert_eq!((heard.source, heard.destination), (ip(server), ip(client)));
    }
    let now = world.now;
    let mut views: Vec<FlowView> = world.plane("alpha").flows(now).collect();
    views.sort_by_key(|view| (view.client, view.asked));
    let policies: Vec<_> = views
        .iter()
        .map(|view| (view.policy, view.lane_reason))
        .collect();
    assert_eq!(
        policies,
        [
            (Some(Policy::Instance), LaneReason::UnmeasuredPath),
            (None, LaneReason::Direct),
            (Some(Policy::Instance), LaneReason::UnmeasuredPath),
        ]
    );
}

#[test]
fn a_partial_checksum_stays_partial_and_right() {
    let mut world = World::new();
    let mut packet = udp((CLIENT6, 4000), (WEB_RR6, 53), b"0123456789");
    let pseudo = |packet: &[u8]| {
        let mut sum = 0u32;
        for pair in packet[8..40].chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        sum += u32::from(u16::from_be_bytes([packet[4], packet[5]])) + 17;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    };
    let partial = pseudo(&packet);
    packet[46..48].copy_from_slice(&partial.to_be_bytes());
    let vnet = VnetHeader {
        flags: 1,
        csum_start: 40,
        csum_offset: 6,
        ..VnetHeader::default()
    };
    let End::Arrived(_, heard) = world.send_with("alpha", &vnet, &packet) else {
        panic!("lost");
    };
    assert_eq!(
        u16::from_be_bytes([heard[46], heard[47]]),
        pseudo(&heard),
        "the sum of the pseudo-header that the packet has now"
    );
}

#[test]
fn after_a_restart_connections_go_on_to_the_instance_that_knows_them() {
    for service in [WEB_RR, WEB_CLOSEST] {
        let mut world = World::new();
        let node = open_far(&mut world, 4000, service);
        // Others, which would have taken its turn.
        for port in 4001..4005 {
            world.send("alpha", &tcp((CLIENT, port), (service, 80), SYN));
        }
        world.restart("alpha");
        let data = tcp((CLIENT, 4000), (service, 80), ACK);
        world.send("alpha", &data).arrived_at(node);
        let server = if node == "beta" { WEB[1] } else { WEB[2] };
        let answer = tcp((server, 80), (CLIENT, 4000), ACK);
        let heard = see(&world.send(node, &answer).arrived_at("alpha"));
        assert_eq!(heard.source, ip(service));
        let view = only_flow(&mut world, "alpha");
        assert_eq!(view.state, FlowState::Tcp(TcpState::Established));
        // And after one more.
        world.restart("alpha");
        world.send("alpha", &data).arrived_at(node);
        // Where that instance is gone, nobody else is given its conversation.
        world.restart("alpha");
        world.change(|table| {
            let gone = |row: &InstanceRow| row.instance_ip.iter().any(|one| one == ip(server));
            table.instances.retain(|row| !gone(row));
        });
        let end = world.send("alpha", &data);
        assert_eq!(end, End::Rejected("alpha", DropReason::FlowUnknown));
    }
}

#[test]
fn after_a_restart_a_connection_of_the_l4_lane_is_reset() {
    let mut world = World::new();
    open_far(&mut world, 4000, WEB_RR);
    world.change(|table| {
        for service in &mut table.services {
            service.lane = LanePolicy::L4;
        }
    });
    world.pass(Duration::from_secs(3 * 60 * 60));
    // The same client with the same port, until it is not for the instance here.
    while !matches!(
        world.send("alpha", &tcp((CLIENT, 4000), (WEB_RR, 80), SYN)),
        End::Waits(_)
    ) {
        world.pass(Duration::from_secs(3 * 60 * 60));
    }
    world.restart("alpha");
    let data = tcp((CLIENT, 4000), (WEB_RR, 80), ACK);
    let end = world.send("alpha", &data);
    assert_eq!(end, End::Rejected("alpha", DropReason::FlowUnknown));
}

#[test]
fn with_nothing_kept_a_connection_to_a_service_is_reset_and_one_to_an_instance_goes_on() {
    let mut world = World::new();
    let node = open_far(&mut world, 4000, WEB_RR);
    assert!(matches!(
        world.send("alpha", &tcp((CLIENT, 4001), (WEB[1], 80), SYN)),
        End::Arrived(..)
    ));
    world.restart_empty("alpha");

    let data = tcp_at((CLIENT, 4000), (WEB_RR, 80), ACK, 1001, 2001);
    assert_eq!(
        world.send("alpha", &data),
        End::Rejected("alpha", DropReason::FlowUnknown)
    );
    let reset = world.only_answer("alpha");
    assert_eq!((reset.source, reset.destination), (ip(WEB_RR), ip(CLIENT)));
    assert_eq!((reset.tcp_flags(), reset.tcp_numbers().0), (RST, 2001));

    let data = tcp((CLIENT, 4001), (WEB[1], 80), ACK);
    assert!(matches!(
        world.send("alpha", &data),
        End::Arrived("beta", _)
    ));
    let view = only_flow(&mut world, "alpha");
    assert!(matches!(view.state, FlowState::Tcp(TcpState::PickedUp(_))));

    // What the server of the lost connection still sends is delivered, and refused by the client's
    // kernel; that ends it at the server as well, and makes room for the port's next connection.
    let server = if node == "beta" { WEB[1] } else { WEB[2] };
    let data = tcp((server, 80), (CLIENT, 4000), ACK);
    let heard = see(&world.send(node, &data).arrived_at("alpha"));
    assert_eq!(heard.source, ip(server));
    let refusal = tcp((CLIENT, 4000), (server, 80), RST);
    assert!(matches!(world.send("alpha", &refusal), End::Arrived(at, _) if at == node));
    for _ in 0..3 {
        let next = tcp((CLIENT, 4000), (WEB_RR, 80), SYN);
        assert!(matches!(world.send("alpha", &next), End::Arrived(..)));
    }
}

#[test]
fn after_a_restart_udp_goes_on_even_when_the_server_speaks_first() {
    let mut table = crate::world::shop();
    table
        .instances
        .retain(|row| row.instance_ip.v4 != Some([10, 30, 0, 1].into()));
    table
        .instances
        .retain(|row| row.instance_ip.v4 != Some([10, 30, 0, 3].into()));
    let mut world = World::with(table, netmanager_core::dataplane::FlowLimits::default());
    let question = udp((CLIENT, 4000), (WEB_RR, 53), b"question");
    world.send("alpha", &question).arrived_at("beta");
    world.restart("alpha");
    let answer = udp((WEB[1], 53), (CLIENT, 4000), b"answer");
    world.send("beta", &answer).arrived_at("alpha");
    world.send("alpha", &question).arrived_at("beta");
    let heard = see(&world.send("beta", &answer).arrived_at("alpha"));
    assert_eq!(heard.source, ip(WEB_RR));
}

#[test]
fn a_far_node_that_restarts_goes_on_with_what_it_finds() {
    let mut world = World::new();
    let node = open_far(&mut world, 4000, WEB_CLOSEST);
    let server = if node == "beta" { WEB[1] } else { WEB[2] };
    world.restart(node);
    let data = tcp((CLIENT, 4000), (WEB_CLOSEST, 80), ACK);
    world.send("alpha", &data).arrived_at(node);
    let answer = tcp((server, 80), (CLIENT, 4000), ACK);
    let heard = see(&world.send(node, &answer).arrived_at("alpha"));
    assert_eq!(heard.source, ip(WEB_CLOSEST));
}

/// Opens connections from the client until one goes to another node, forgets the others, and says
/// where it went.
fn open_far(world: &mut World, port: u16, service: &str) -> &'static str {
    for other in ["beta", "gamma"] {
        world.measure("alpha", other, 3);
    }
    world.change(|table| {
        table
            .instances
            .retain(|row| row.instance_ip.v4 != Some([10, 30, 0, 1].into()));
    });
    for other in ["beta", "gamma"] {
        let unmeasured = netmanager_core::dataplane::PeerState::default();
        world.set_peer("alpha", other, unmeasured);
    }
    let syn = tcp((CLIENT, port), (service, 80), SYN);
    world.send("alpha", &syn).arrived().0
}

fn only_flow(world: &mut World, node: &str) -> FlowView {
    let now = world.now;
    let mut flows: Vec<_> = world.plane(node).flows(now).collect();
    assert_eq!(flows.len(), 1, "{flows:?}");
    flows.pop().unwrap()
}
