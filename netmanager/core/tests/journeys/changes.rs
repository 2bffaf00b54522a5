//! What changes of the table, of peers and of time do to conversations that are under way.

use std::time::Duration;

use netmanager_core::dataplane::{FlowLimits, LINGER};
use netmanager_core::flow::{FlowState, Lane, TcpState};
use netmanager_core::verdict::DropReason;
use weald_proto::id::{Label, Organisation};

use crate::packets::{ACK, RST, SYN, ip, see, tcp, tcp_at, udp};
use crate::world::{CLIENT, CLIENT6, End, WEB, WEB_RR, WEB_RR6, WEB6, World, node_id, shop, up};

#[test]
fn when_an_instance_is_gone_its_connections_are_reset_in_a_moment_and_udp_finds_another() {
    for (client, service, server) in [(CLIENT, WEB_RR, WEB[1]), (CLIENT6, WEB_RR6, WEB6[1])] {
        let mut world = without(&[1]);
        world.lose("alpha", "gamma");
        establish(&mut world, client, service, server);
        world
            .send("alpha", &udp((client, 4001), (service, 53), b"hello"))
            .arrived_at("beta");
        world.set_peer("alpha", "gamma", up(5));

        remove_instance(&mut world, 2);
        let moment = Duration::from_millis(1);
        world.pass(LINGER - moment);
        assert!(world.answers("alpha").is_empty(), "it may still answer");
        let request = tcp_at((client, 4000), (service, 80), ACK, 301, 701);
        world.send("alpha", &request).arrived_at("beta");
        world.pass(moment);
        let reset = world.only_answer("alpha");
        assert_eq!((reset.source, reset.destination), (ip(service), ip(client)));
        assert_eq!(reset.ports(), (80, 4000));
        assert_eq!(
            (reset.tcp_flags(), reset.tcp_numbers().0),
            (RST, 701),
            "what the client has acknowledged is what it takes a reset at"
        );
        let heard = world.send("alpha", &udp((client, 4001), (service, 53), b"hello"));
        heard.arrived_at("gamma");
    }
}

#[test]
fn a_connection_that_was_just_begun_with_an_instance_that_goes_finds_another() {
    let mut world = without(&[1]);
    let syn = tcp((CLIENT, 4000), (WEB_RR, 80), SYN);
    let (first, _) = world.send("alpha", &syn).arrived();
    let (last, other) = if first == "beta" {
        (2, "gamma")
    } else {
        (3, "beta")
    };
    remove_instance(&mut world, last);
    assert!(world.answers("alpha").is_empty(), "it is not refused");
    world.send("alpha", &syn).arrived_at(other);
}

#[test]
fn the_server_hears_too_when_its_client_is_gone() {
    let mut world = without(&[1, 3]);
    establish(&mut world, CLIENT, WEB_RR, WEB[1]);
    remove_instance(&mut world, 9);
    let reset = world.only_answer("beta");
    assert_eq!((reset.source, reset.destination), (ip(CLIENT), ip(WEB[1])));
    assert_eq!((reset.tcp_flags(), reset.tcp_numbers().0), (RST, 301));
    assert!(world.answers("alpha").is_empty(), "nobody is left there");
}

#[test]
fn a_connection_that_was_just_begun_is_refused() {
    let mut world = without(&[1, 3]);
    world
        .send("alpha", &tcp_at((CLIENT, 4000), (WEB_RR, 80), SYN, 300, 0))
        .arrived_at("beta");
    world.lose("alpha", "beta");
    let reset = world.only_answer("alpha");
    assert_eq!((reset.source, reset.destination), (ip(WEB_RR), ip(CLIENT)));
    assert_eq!(
        (reset.tcp_flags(), reset.tcp_numbers()),
        (RST | ACK, (0, 301))
    );
    assert_eq!(
        world.send("alpha", &tcp((CLIENT, 4001), (WEB[1], 80), SYN)),
        End::Rejected("alpha", DropReason::PeerUnreachable)
    );
}

#[test]
fn a_connection_that_was_just_begun_finds_another_instance_at_its_next_try() {
    let mut world = without(&[1]);
    let syn = tcp((CLIENT, 4000), (WEB_RR, 80), SYN);
    let (first, _) = world.send("alpha", &syn).arrived();
    world.lose("alpha", first);
    assert!(world.answers("alpha").is_empty());
    assert!(matches!(world.send("alpha", &syn), End::Arrived(at, _) if at != first));
}

#[test]
fn an_established_connection_outlives_a_lost_session() {
    let mut world = without(&[1, 3]);
    establish(&mut world, CLIENT, WEB_RR, WEB[1]);
    world.lose("alpha", "beta");
    assert!(world.answers("alpha").is_empty());
    world.set_peer("alpha", "beta", up(9));
    world
        .send("alpha", &tcp((CLIENT, 4000), (WEB_RR, 80), ACK))
        .arrived_at("beta");
}

#[test]
fn a_lost_peer_is_asked_for_by_whatever_would_go_there() {
    let mut world = without(&[1]);
    world.lose("alpha", "beta");
    let beta = world.peer("alpha", "beta");
    let asked = |world: &mut World| world.plane("alpha").interests().collect::<Vec<_>>();
    world
        .send("alpha", &tcp((CLIENT, 4000), (WEB_RR, 80), SYN))
        .arrived_at("gamma");
    assert_eq!(asked(&mut world), [beta]);
    world.send("alpha", &tcp((CLIENT, 4000), (WEB[1], 80), SYN));
    assert_eq!(asked(&mut world), [beta]);
    world.send("alpha", &tcp((CLIENT, 4000), (WEB[2], 80), SYN));
    assert_eq!(asked(&mut world), []);
}

#[test]
fn a_connection_follows_its_instance_to_another_node_and_to_this_one() {
    let mut world = without(&[1, 3]);
    establish(&mut world, CLIENT, WEB_RR, WEB[1]);
    move_instance(&mut world, 2, "gamma");
    world
        .send("alpha", &tcp((CLIENT, 4000), (WEB_RR, 80), ACK))
        .arrived_at("gamma");
    let answer = tcp((WEB[1], 80), (CLIENT, 4000), ACK);
    let heard = see(&world.send("gamma", &answer).arrived_at("alpha"));
    assert_eq!(heard.source, ip(WEB_RR));
    assert_eq!(
        world.inject("beta", "alpha", &answer),
        End::Dropped("alpha", DropReason::SourceNotLeased),
        "the old node has no lease any more"
    );

    move_instance(&mut world, 2, "alpha");
    world
        .send("alpha", &tcp((CLIENT, 4000), (WEB_RR, 80), ACK))
        .arrived_at("alpha");
    let heard = see(&world.send("alpha", &answer).arrived_at("alpha"));
    assert_eq!(heard.source, ip(WEB_RR));
    let now = world.now;
    let lanes: Vec<_> = world
        .plane("alpha")
        .flows(now)
        .map(|view| view.lane)
        .collect();
    assert_eq!(lanes, [Lane::Local]);
    assert!(world.answers("alpha").is_empty());
}

#[test]
fn a_change_of_policy_ends_what_it_forbids() {
    let mut world = without(&[1, 3]);
    establish(&mut world, CLIENT, WEB_RR, WEB[1]);
    world.change(|table| {
        for row in &mut table.services {
            if row.name.name == Label::new("client").unwrap() {
                row.organisation = Organisation(Label::new("others").unwrap());
            }
        }
    });
    assert_eq!(world.only_answer("alpha").destination, ip(CLIENT));
    assert_eq!(world.only_answer("beta").destination, ip(WEB[1]));
    assert_eq!(
        world.send("alpha", &tcp((CLIENT, 4000), (WEB_RR, 80), ACK)),
        End::Rejected("alpha", DropReason::PolicyDenied)
    );
    let forged = tcp((CLIENT, 4000), (WEB[1], 80), ACK);
    assert_eq!(
        world.inject("alpha", "beta", &forged),
        End::Dropped("beta", DropReason::PolicyDenied),
        "both ends check"
    );
}

#[test]
fn an_address_that_stands_for_another_service_now_does_not_lead_to_the_old_one() {
    let mut world = without(&[1, 3]);
    establish(&mut world, CLIENT, WEB_RR, WEB[1]);
    world.change(|table| {
        let (first, rest) = table.services.split_at_mut(1);
        std::mem::swap(&mut first[0].round_robin, &mut rest[0].round_robin);
    });
    assert_eq!(world.only_answer("alpha").tcp_flags(), RST);
}

#[test]
fn turns_go_on_when_the_table_changes() {
    let mut world = World::new();
    let mut hits = Vec::new();
    for port in 4000..4006 {
        let (node, _) = world
            .send("alpha", &tcp((CLIENT, port), (WEB_RR, 80), SYN))
            .arrived();
        hits.push(node);
        world.change(|table| table.services.rotate_left(1));
    }
    hits.sort_unstable();
    assert_eq!(hits, ["alpha", "alpha", "beta", "beta", "gamma", "gamma"]);
}

#[test]
fn flows_age_by_what_they_have_shown() {
    let seconds = Duration::from_secs;
    let mut world = without(&[1, 3]);
    establish(&mut world, CLIENT, WEB_RR, WEB[1]);
    world
        .send("alpha", &tcp((CLIENT, 4001), (WEB_RR, 80), SYN))
        .arrived_at("beta");
    world
        .send("alpha", &udp((CLIENT, 4002), (WEB_RR, 53), b"a"))
        .arrived_at("beta");
    world
        .send("alpha", &udp((CLIENT, 4003), (WEB_RR, 53), b"b"))
        .arrived_at("beta");
    world
        .send("beta", &udp((WEB[1], 53), (CLIENT, 4003), b"c"))
        .arrived_at("alpha");
    let ports = |world: &mut World| {
        let now = world.now;
        let mut ports: Vec<u16> = world
            .plane("alpha")
            .flows(now)
            .map(|view| view.client_port)
            .collect();
        ports.sort_unstable();
        ports
    };
    let nearly = Duration::from_nanos(1);
    for (at, left) in [
        (seconds(30) - nearly, vec![4000, 4001, 4002, 4003]),
        (seconds(30), vec![4000, 4001, 4003]),
        (seconds(60) - nearly, vec![4000, 4001, 4003]),
        (seconds(60), vec![4000, 4003]),
        (seconds(180) - nearly, vec![4000, 4003]),
        (seconds(180), vec![4000]),
        (seconds(7200) - nearly, vec![4000]),
        (seconds(7200), vec![]),
    ] {
        let start = world.now;
        world.now = start + at;
        assert_eq!(ports(&mut world), left, "after {at:?}");
        world.now = start;
    }
    world.pass(seconds(7200));
    assert_eq!(
        world.plane("alpha").poll_timeout(),
        None,
        "nothing is left to sweep"
    );
}

#[test]
fn a_full_table_gives_up_the_least_useful_flow_and_never_an_established_connection() {
    let limits = FlowLimits {
        flows: 3,
        ..FlowLimits::default()
    };
    let mut table = shop();
    table.instances.retain(|row| {
        ![1, 3]
            .map(|last| Some([10, 30, 0, last].into()))
            .contains(&row.instance_ip.v4)
    });
    let mut world = World::with(table, limits);
    establish(&mut world, CLIENT, WEB_RR, WEB[1]);
    let question = |port| udp((CLIENT, port), (WEB_RR, 53), b"question");
    for port in 5000..5010 {
        assert!(matches!(
            world.send("alpha", &question(port)),
            End::Arrived("beta", _)
        ));
    }
    let now = world.now;
    let mut ports: Vec<u16> = world
        .plane("alpha")
        .flows(now)
        .map(|view| view.client_port)
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [4000, 5008, 5009], "the oldest unanswered went");

    for port in [5008, 5009] {
        world
            .send("beta", &udp((WEB[1], 53), (CLIENT, port), b"answer"))
            .arrived_at("alpha");
    }
    let (changed, flows) = world.changed("alpha", |world| {
        assert_eq!(
            world.send("alpha", &question(6000)),
            End::Rejected("alpha", DropReason::FlowTableFull)
        );
    });
    assert_eq!((changed, flows), (vec![(DropReason::FlowTableFull, 1)], 0));
    world.only_answer("alpha");

    world
        .send("alpha", &tcp((CLIENT, 4000), (WEB_RR, 80), RST))
        .arrived_at("beta");
    assert!(matches!(
        world.send("alpha", &question(6000)),
        End::Arrived("beta", _)
    ));
}

#[test]
fn the_same_ports_twice_to_one_instance_cannot_be_told_apart() {
    let mut world = without(&[1, 3]);
    // By its own address first, then through the service.
    world
        .send("alpha", &tcp((CLIENT, 4000), (WEB[1], 80), SYN))
        .arrived_at("beta");
    let (changed, flows) = world.changed("alpha", |world| {
        assert_eq!(
            world.send("alpha", &tcp((CLIENT, 4000), (WEB_RR, 80), SYN)),
            End::Rejected("alpha", DropReason::FlowCollision)
        );
    });
    assert_eq!((changed, flows), (vec![(DropReason::FlowCollision, 1)], 0));
    world.only_answer("alpha");

    // With another instance there, that one is taken.
    let mut world = without(&[1]);
    world
        .send("alpha", &tcp((CLIENT, 4000), (WEB[1], 80), SYN))
        .arrived_at("beta");
    for port in [4000, 4001, 4002] {
        world
            .send("alpha", &tcp((CLIENT, port), (WEB[1], 80), SYN))
            .arrived_at("beta");
        world
            .send("alpha", &tcp((CLIENT, port), (WEB_RR, 80), SYN))
            .arrived_at("gamma");
    }

    // And what is over makes room.
    let mut world = without(&[1, 3]);
    world
        .send("alpha", &tcp((CLIENT, 4000), (WEB[1], 80), SYN))
        .arrived_at("beta");
    world
        .send("beta", &tcp((WEB[1], 80), (CLIENT, 4000), RST | ACK))
        .arrived_at("alpha");
    world
        .send("alpha", &tcp((CLIENT, 4000), (WEB_RR, 80), SYN))
        .arrived_at("beta");
}

/// The world without those instances of web.
fn without(numbers: &[u8]) -> World {
    let mut table = shop();
    table.instances.retain(|row| {
        !numbers
            .iter()
            .any(|last| row.instance_ip.v4 == Some([10, 30, 0, *last].into()))
    });
    World::with(table, FlowLimits::default())
}

/// Opens a connection from port 4000 to port 80; the client is at 301 then, the server at 701.
fn establish(world: &mut World, client: &str, service: &str, server: &str) {
    let (there, back) = ((client, 4000), (service, 80));
    world
        .send("alpha", &tcp_at(there, back, SYN, 300, 0))
        .arrived_at("beta");
    world
        .send("beta", &tcp_at((server, 80), there, SYN | ACK, 700, 301))
        .arrived_at("alpha");
    world
        .send("alpha", &tcp_at(there, back, ACK, 301, 701))
        .arrived_at("beta");
    let now = world.now;
    let established = world
        .plane("alpha")
        .flows(now)
        .any(|view| view.state == FlowState::Tcp(TcpState::Established));
    assert!(established);
}

fn remove_instance(world: &mut World, last: u8) {
    world.change(|table| {
        table
            .instances
            .retain(|row| row.instance_ip.v4 != Some([10, 30, 0, last].into()));
    });
}

fn move_instance(world: &mut World, last: u8, to: &str) {
    world.change(|table| {
        for row in &mut table.instances {
            if row.instance_ip.v4 == Some([10, 30, 0, last].into()) {
                row.node = node_id(to);
            }
        }
    });
}
