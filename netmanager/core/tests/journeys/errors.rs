//! ICMP errors find the way back, whoever sends them and whatever they are about.

use netmanager_core::verdict::DropReason;

use crate::packets::{SYN, echo, ip, port_unreachable, see, tcp, udp};
use crate::world::{BETA_NODE, CLIENT, CLIENT6, End, WEB, WEB_RR, WEB_RR6, WEB6, World, shop};

/// Leaves web 2 as the only instance.
fn only_beta() -> World {
    let mut table = shop();
    table.instances.retain(|row| {
        ![1, 3]
            .map(|last| Some([10, 30, 0, last].into()))
            .contains(&row.instance_ip.v4)
    });
    World::with(table, netmanager_core::dataplane::FlowLimits::default())
}

#[test]
fn an_instance_says_that_its_port_is_closed() {
    for (client, service, server) in [(CLIENT, WEB_RR, WEB[1]), (CLIENT6, WEB_RR6, WEB6[1])] {
        let mut world = only_beta();
        let heard = world
            .send("alpha", &udp((client, 4000), (service, 53), b"question"))
            .arrived_at("beta");
        let error = port_unreachable(server, &heard);
        let told = see(&world.send("beta", &error).arrived_at("alpha"));
        assert_eq!((told.source, told.destination), (ip(service), ip(client)));
        let quoted = told.quoted();
        assert_eq!(
            (quoted.source, quoted.destination, quoted.ports()),
            (ip(client), ip(service), (4000, 53)),
            "the client knows its own packet again"
        );
    }
}

#[test]
fn the_far_node_itself_reports_under_its_own_address() {
    let mut world = only_beta();
    let heard = world
        .send("alpha", &tcp((CLIENT, 4000), (WEB_RR, 80), SYN))
        .arrived_at("beta");
    let told = see(&world
        .send("beta", &port_unreachable(BETA_NODE, &heard))
        .arrived_at("alpha"));
    assert_eq!(told.source, ip(BETA_NODE));
    assert_eq!(told.quoted().destination, ip(WEB_RR));
}

#[test]
fn a_client_says_that_it_no_longer_listens_for_the_answer() {
    for (client, service, server) in [(CLIENT, WEB_RR, WEB[1]), (CLIENT6, WEB_RR6, WEB6[1])] {
        let mut world = only_beta();
        world
            .send("alpha", &udp((client, 4000), (service, 53), b"question"))
            .arrived_at("beta");
        let answer = world
            .send("beta", &udp((server, 53), (client, 4000), b"answer"))
            .arrived_at("alpha");
        let error = port_unreachable(client, &answer);
        assert_eq!(see(&error).destination, ip(service));
        let told = see(&world.send("alpha", &error).arrived_at("beta"));
        assert_eq!((told.source, told.destination), (ip(client), ip(server)));
        let quoted = told.quoted();
        assert_eq!(
            (quoted.source, quoted.destination, quoted.ports()),
            (ip(server), ip(client), (53, 4000))
        );
    }
}

#[test]
fn errors_within_one_node_find_their_way_too() {
    let mut world = World::new();
    for other in ["beta", "gamma"] {
        world.lose("alpha", other);
    }
    for client in [CLIENT, WEB[0]] {
        let heard = world
            .send("alpha", &udp((client, 4000), (WEB_RR, 53), b"question"))
            .arrived_at("alpha");
        let told = see(&world
            .send("alpha", &port_unreachable(WEB[0], &heard))
            .arrived_at("alpha"));
        assert_eq!((told.source, told.destination), (ip(WEB_RR), ip(client)));
        let quoted = told.quoted();
        assert_eq!(
            (quoted.source, quoted.destination),
            (ip(client), ip(WEB_RR))
        );
    }
}

#[test]
fn an_error_about_an_echo_is_translated_as_well() {
    let mut world = only_beta();
    let heard = world
        .send("alpha", &echo(CLIENT, WEB_RR, 77, false))
        .arrived_at("beta");
    let told = see(&world
        .send("beta", &port_unreachable(WEB[1], &heard))
        .arrived_at("alpha"));
    assert_eq!(told.quoted().destination, ip(WEB_RR));
}

#[test]
fn an_error_of_somebody_who_had_no_part_in_it_is_dropped() {
    let mut world = World::new();
    world.lose("alpha", "gamma");
    let mut heard = Vec::new();
    for port in 4000..4002 {
        if let End::Arrived("beta", packet) =
            world.send("alpha", &tcp((CLIENT, port), (WEB_RR, 80), SYN))
        {
            heard = packet;
        }
    }
    assert_eq!(
        world.send("beta", &port_unreachable("10.30.0.8", &heard)),
        End::Dropped("beta", DropReason::IcmpErrorWithoutFlow),
        "another instance of the node"
    );
    assert_eq!(
        world.inject("gamma", "alpha", &port_unreachable(WEB[2], &heard)),
        End::Dropped("alpha", DropReason::SourceNotLeased),
        "another node, about a flow that is not with it"
    );
    assert_eq!(
        world.inject("gamma", "alpha", &port_unreachable(WEB[1], &heard)),
        End::Dropped("alpha", DropReason::SourceNotLeased),
        "another node, in the instance's name"
    );
}
