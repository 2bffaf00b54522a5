//! Connections that one instance does not take, and that another one is asked for.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use netmanager_core::dataplane::{PeerState, Target};
use netmanager_core::flow::{FlowState, Lane, TcpState};
use netmanager_core::verdict::DropReason;
use weald_proto::table::{InstanceRow, LanePolicy};

use crate::packets::{ACK, RST, SYN, Seen, ip, packet, see, tcp, tcp_at, udp};
use crate::world::{
    BETA_NODE, CLIENT, CLIENT6, End, WEB, WEB_CLOSEST, WEB_RR, WEB_RR6, WEB6, World,
};

/// Where a connection is, as alpha sees it.
fn goes_to(world: &mut World) -> IpAddr {
    let now = world.now;
    let flows: Vec<_> = world.plane("alpha").flows(now).collect();
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert_eq!(flows[0].state, FlowState::Tcp(TcpState::SynSent));
    flows[0].instance_ip
}

/// What the server at the end of a journey answers who has no listener: carried back.
fn refuse(world: &mut World, end: End) -> End {
    let (node, packet) = end.arrived();
    let seen = see(&packet);
    let (client, server) = seen.ports();
    let (server_ip, client_ip) = (seen.destination.to_string(), seen.source.to_string());
    let (asked, _) = seen.tcp_numbers();
    let (from, to) = ((&*server_ip, server), (&*client_ip, client));
    world.send(node, &tcp_at(from, to, RST | ACK, 0, asked + 1))
}

fn is_passed_over(end: &End) -> bool {
    matches!(end, End::Dropped("alpha", DropReason::RefusedByInstance))
}

fn ends(seen: &Seen) -> (SocketAddr, SocketAddr) {
    let (from, to) = seen.ports();
    let at = SocketAddr::new;
    (at(seen.source, from), at(seen.destination, to))
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

#[test]
fn each_instance_is_asked_once_and_then_the_client_is_told() {
    for (client, service, servers) in [
        (CLIENT, WEB_RR, WEB),
        (CLIENT, WEB_CLOSEST, WEB),
        (CLIENT6, WEB_RR6, WEB6),
    ] {
        let mut world = World::new();
        let syn = tcp_at((client, 4000), (service, 80), SYN, 77, 0);
        let mut end = world.send("alpha", &syn);
        let mut asked = Vec::new();
        let heard = loop {
            let server = goes_to(&mut world);
            asked.push(server);
            let refused = refuse(&mut world, end);
            if !is_passed_over(&refused) {
                break refused;
            }
            end = world.again("alpha").expect("nobody else is asked");
            assert!(world.again("alpha").is_none(), "asked twice");
        };
        // The last refusal is heard as if it came from the service.
        let heard = see(&heard.arrived_at("alpha"));
        assert_eq!(ends(&heard), (at(service, 80), at(client, 4000)));
        assert_eq!(heard.tcp_flags(), RST | ACK);
        let all: BTreeSet<IpAddr> = servers.iter().copied().map(ip).collect();
        assert_eq!(asked.len(), all.len(), "{asked:?}");
        assert_eq!(asked.into_iter().collect::<BTreeSet<_>>(), all);
    }
}

#[test]
fn the_next_instance_hears_what_the_first_one_heard() {
    let mut world = World::new();
    let syn = tcp_at((CLIENT, 4000), (WEB_RR, 80), SYN, 77, 0);
    let end = world.send("alpha", &syn);
    let first = goes_to(&mut world);
    refuse(&mut world, end);
    let (node, packet) = world.again("alpha").unwrap().arrived();
    let heard = see(&packet);
    let second = goes_to(&mut world);
    assert_ne!(first, second);
    assert_eq!(
        ends(&heard),
        (at(CLIENT, 4000), SocketAddr::new(second, 80))
    );
    assert_eq!(heard.l4[4..8], 77u32.to_be_bytes(), "the sequence number");
    // And its answer is the service's.
    let second = second.to_string();
    let answer = tcp((&second, 80), (CLIENT, 4000), SYN | ACK);
    let heard = see(&world.send(node, &answer).arrived_at("alpha"));
    assert_eq!(ends(&heard), (at(WEB_RR, 80), at(CLIENT, 4000)));
    // From now on a reset is the server's last word.
    let reset = tcp((&second, 80), (CLIENT, 4000), RST);
    let heard = see(&world.send(node, &reset).arrived_at("alpha"));
    assert_eq!(heard.tcp_flags(), RST);
    assert!(world.again("alpha").is_none());
}

#[test]
fn an_instance_that_was_named_is_the_only_one_that_may_answer() {
    let mut world = World::new();
    let end = world.send("alpha", &tcp((CLIENT, 4000), (WEB[1], 80), SYN));
    let heard = see(&refuse(&mut world, end).arrived_at("alpha"));
    assert_eq!(ends(&heard), (at(WEB[1], 80), at(CLIENT, 4000)));
    assert!(world.again("alpha").is_none());
    // As is the one instance that a service has, and a node.
    world.change(|table| {
        let stays = |row: &InstanceRow| {
            let mut ips = row.instance_ip.iter();
            ips.all(|one| one != ip(WEB[0]) && one != ip(WEB[2]))
        };
        table.instances.retain(stays);
    });
    for target in [WEB_RR, BETA_NODE] {
        let end = world.send("alpha", &tcp((CLIENT, 4001), (target, 80), SYN));
        let heard = see(&refuse(&mut world, end).arrived_at("alpha"));
        assert_eq!(ends(&heard), (at(target, 80), at(CLIENT, 4001)));
        assert!(world.again("alpha").is_none());
    }
}

#[test]
fn a_reset_that_answers_another_packet_is_no_refusal_of_this_one() {
    let mut world = World::new();
    let syn = tcp_at((CLIENT, 4000), (WEB_RR, 80), SYN, 77, 0);
    let (node, packet) = world.send("alpha", &syn).arrived();
    let server = see(&packet).destination.to_string();
    for (flags, acknowledged) in [(RST, 78), (RST | ACK, 77), (RST | ACK, 500)] {
        let mut world = World::new();
        world.send("alpha", &syn);
        let stale = tcp_at((&server, 80), (CLIENT, 4000), flags, 0, acknowledged);
        let heard = see(&world.send(node, &stale).arrived_at("alpha"));
        assert_eq!(heard.tcp_flags(), flags, "the client judges it");
        assert!(world.again("alpha").is_none());
    }
}

#[test]
fn who_begins_again_does_not_wait_until_a_node_is_measured() {
    let mut world = World::new();
    world.change(|table| {
        for service in &mut table.services {
            service.lane = LanePolicy::Auto;
        }
    });
    let mut asked = BTreeSet::new();
    let syn = tcp_at((CLIENT, 4000), (WEB_RR, 80), SYN, 77, 0);
    let mut end = world.send("alpha", &syn);
    for node in ["beta", "gamma"] {
        let state = PeerState {
            measuring: true,
            ..PeerState::default()
        };
        world.set_peer("alpha", node, state);
    }
    loop {
        asked.insert(goes_to(&mut world));
        let refused = refuse(&mut world, end);
        if !is_passed_over(&refused) {
            break;
        }
        end = world.again("alpha").unwrap();
    }
    assert_eq!(asked.len(), WEB.len());
}

#[test]
fn what_carries_data_does_not_begin_again() {
    let mut world = World::new();
    let mut segment = see(&tcp((CLIENT, 4000), (WEB_RR, 80), SYN)).l4;
    // Without its checksum, which is made anew.
    segment[16..18].fill(0);
    segment.extend([b'x'; 3]);
    let syn = packet(ip(CLIENT), ip(WEB_RR), 6, segment);
    let end = world.send("alpha", &syn);
    let heard = see(&refuse(&mut world, end).arrived_at("alpha"));
    assert_eq!(heard.tcp_flags(), RST | ACK);
}

#[test]
fn who_waits_for_an_instance_that_goes_or_a_node_that_is_lost_finds_another_at_once() {
    for is_lost in [false, true] {
        let mut world = World::new();
        let mut far = 4000;
        let (node, server) = loop {
            let syn = tcp((CLIENT, far), (WEB_RR, 80), SYN);
            let (node, packet) = world.send("alpha", &syn).arrived();
            if node != "alpha" {
                break (node, see(&packet).destination);
            }
            far += 1;
        };
        if is_lost {
            world.lose("alpha", node);
        } else {
            world.change(|table| {
                let stays = |row: &InstanceRow| row.instance_ip.iter().all(|one| one != server);
                table.instances.retain(stays);
            });
        }
        let (_, packet) = world.again("alpha").unwrap().arrived();
        let heard = see(&packet);
        assert_eq!(ends(&heard).0, at(CLIENT, far), "lost: {is_lost}");
        assert_ne!(heard.destination, server, "lost: {is_lost}");
        assert!(world.answers("alpha").is_empty(), "the client hears of it");
    }
}

#[test]
fn an_instance_that_drains_goes_on_with_what_it_has_and_takes_nothing_new() {
    let mut world = World::new();
    // A connection to an instance of beta's, and one to come that is to go there as well.
    let mut on_beta = (4000..).filter_map(|port| {
        let syn = tcp_at((CLIENT, port), (WEB_RR, 80), SYN, 77, 0);
        match world.send("alpha", &syn) {
            End::Arrived("beta", packet) => Some((port, see(&packet).destination)),
            End::Arrived(..)
            | End::Dropped(..)
            | End::Rejected(..)
            | End::Waits(_)
            | End::Awaits(_) => None,
        }
    });
    let (port, server) = on_beta.next().unwrap();
    let rows = &world.table.instances;
    let row = rows
        .iter()
        .find(|row| row.instance_ip.iter().any(|one| one == server));
    let id = row.unwrap().id.clone();
    let server_ip = server.to_string();
    let answer = tcp_at((&server_ip, 80), (CLIENT, port), SYN | ACK, 5, 78);
    world.send("beta", &answer).arrived_at("alpha");
    world.drain("beta", &id);

    let refused = End::Rejected("beta", DropReason::InstanceDrains);
    let is_refused = (5000..).any(|port| {
        let syn = tcp_at((CLIENT, port), (WEB_RR, 80), SYN, 77, 0);
        world.send("alpha", &syn) == refused
    });
    assert!(is_refused);
    let (target, refusal) = world.plane("beta").poll_packet().unwrap();
    assert!(matches!(target, Target::Peer(_)));
    let heard = world.inject("beta", "alpha", &refusal);
    assert!(is_passed_over(&heard), "{heard:?}");
    let (_, packet) = world.again("alpha").unwrap().arrived();
    assert_ne!(see(&packet).destination, server);
    // Who names it is refused as well.
    let named = tcp((CLIENT, 4001), (&server_ip, 80), SYN);
    assert_eq!(world.send("alpha", &named), refused);
    // The connection goes on, both ways.
    let data = tcp_at((CLIENT, port), (WEB_RR, 80), ACK, 78, 6);
    assert_eq!(
        see(&world.send("alpha", &data).arrived_at("beta")).destination,
        server
    );
    let data = tcp_at((&server_ip, 80), (CLIENT, port), ACK, 6, 78);
    world.send("beta", &data).arrived_at("alpha");
    // Its own node does not pick it.
    for port in 6000..6020 {
        let syn = tcp((BETA_NODE, port), (WEB_RR, 80), SYN);
        let (_, packet) = world.send("beta", &syn).arrived();
        assert_ne!(see(&packet).destination, server);
    }
}

#[test]
fn datagrams_leave_an_instance_that_drains() {
    let mut world = World::new();
    let datagram = udp((BETA_NODE, 4000), (WEB_RR, 53), b"who");
    let asked = |world: &mut World| {
        let (node, packet) = world.send("beta", &datagram).arrived();
        (node, see(&packet).destination)
    };
    let first = asked(&mut world);
    let rows = world.table.instances.clone();
    let is_first = |row: &&InstanceRow, ip| row.instance_ip.iter().any(|one| one == ip);
    let id = |ip| {
        rows.iter()
            .find(|row| is_first(row, ip))
            .unwrap()
            .id
            .clone()
    };
    assert_eq!(asked(&mut world), first);
    world.drain("beta", &id(first.1));
    let second = asked(&mut world);
    assert_ne!(second.1, first.1);
    assert_eq!(asked(&mut world), second);
}

#[test]
fn streams_begin_again_as_packets_do() {
    let mut world = World::new();
    world.change(|table| {
        for service in &mut table.services {
            service.lane = LanePolicy::L4;
        }
    });
    let syn = tcp_at((CLIENT, 4000), (WEB_RR, 80), SYN, 77, 0);
    let mut end = world.send("alpha", &syn);
    let mut asked = BTreeSet::new();
    loop {
        assert!(asked.insert(goes_to(&mut world)), "{asked:?}");
        if let End::Waits(flow) = end {
            world.plane("alpha").refuse_stream(flow, &syn, true);
            match world.again("alpha") {
                Some(next) => end = next,
                None => break,
            }
            continue;
        }
        // The instance of this node, which has no stream.
        let refused = refuse(&mut world, end);
        if !is_passed_over(&refused) {
            let heard = see(&refused.arrived_at("alpha"));
            assert_eq!(heard.tcp_flags(), RST | ACK);
            break;
        }
        end = world.again("alpha").unwrap();
    }
    assert_eq!(asked.len(), WEB.len());
    let now = world.now;
    let lanes: Vec<Lane> = world
        .plane("alpha")
        .flows(now)
        .map(|one| one.lane)
        .collect();
    assert!(!lanes.contains(&Lane::L4), "{lanes:?}");

    // A node that ends asks nobody.
    let mut world = World::new();
    world.change(|table| {
        for service in &mut table.services {
            service.lane = LanePolicy::L4;
        }
    });
    let mut port = 5000;
    let flow = loop {
        let syn = tcp((CLIENT, port), (WEB_RR, 80), SYN);
        if let End::Waits(flow) = world.send("alpha", &syn) {
            break flow;
        }
        port += 1;
    };
    world.plane("alpha").refuse_stream(flow, &syn, false);
    assert!(world.again("alpha").is_none());
    assert_eq!(world.answers("alpha").len(), 1);
}
