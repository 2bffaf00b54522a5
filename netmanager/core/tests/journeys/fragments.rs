//! Fragmented packets: the later fragments go where the first one went.

use std::time::Duration;

use netmanager_core::verdict::DropReason;

use crate::packets::{fragments, ip, see, see_headers, udp};
use crate::world::{CLIENT, CLIENT6, End, WEB, WEB_RR, WEB_RR6, WEB6, World};

#[test]
fn fragments_follow_the_first_one_there_and_back_over_both_families() {
    for (client, service, servers) in [(CLIENT, WEB_RR, WEB), (CLIENT6, WEB_RR6, WEB6)] {
        let mut world = World::new();
        for port in 4000..4003 {
            let whole = udp((client, port), (service, 53), &[7; 3000]);
            let mut at = "";
            let mut payload = Vec::new();
            for fragment in fragments(&whole, port, 1280) {
                let (node, heard) = world.send("alpha", &fragment).arrived();
                assert!(at.is_empty() || at == node, "all at one node");
                at = node;
                let heard = see_headers(&heard);
                let server = servers[match node {
                    "alpha" => 0,
                    "beta" => 1,
                    _ => 2,
                }];
                assert_eq!((heard.source, heard.destination), (ip(client), ip(server)));
                let skip = if client.contains(':') { 8 } else { 0 };
                payload.extend(&heard.l4[skip..]);
                if payload.len() >= 3008 {
                    // Put together, its checksum is right.
                    let (from, to) = (heard.source, heard.destination);
                    let right = crate::packets::packet(from, to, 17, payload.clone());
                    assert_eq!(see(&right).l4, payload);
                    let back = udp((server, 53), (client, port), &[8; 2000]);
                    for fragment in fragments(&back, port, 1280) {
                        let heard = world.send(node, &fragment).arrived_at("alpha");
                        assert_eq!(see_headers(&heard).source, ip(service));
                    }
                }
            }
            assert_eq!(payload.len(), 3008);
        }
    }
}

#[test]
fn a_fragment_before_or_long_after_the_first_is_dropped() {
    let mut world = World::new();
    let whole = udp((CLIENT, 4000), (WEB_RR, 53), &[7; 4000]);
    let parts = fragments(&whole, 9, 1280);
    let (changed, flows) = world.changed("alpha", |world| {
        assert_eq!(
            world.send("alpha", &parts[1]),
            End::Dropped("alpha", DropReason::FragmentWithoutFirst)
        );
    });
    assert_eq!(
        (changed, flows),
        (vec![(DropReason::FragmentWithoutFirst, 1)], 0)
    );
    assert!(matches!(world.send("alpha", &parts[0]), End::Arrived(..)));
    assert!(matches!(world.send("alpha", &parts[1]), End::Arrived(..)));
    world.pass(Duration::from_secs(30));
    assert_eq!(
        world.send("alpha", &parts[2]),
        End::Dropped("alpha", DropReason::FragmentWithoutFirst)
    );
}

#[test]
fn a_peer_cannot_add_fragments_to_the_packet_of_another() {
    let mut world = World::new();
    let whole = udp((WEB[1], 53), (CLIENT, 4000), &[7; 4000]);
    let parts = fragments(&whole, 9, 1280);
    world.send("beta", &parts[0]).arrived_at("alpha");
    assert_eq!(
        world.inject("gamma", "alpha", &parts[1]),
        End::Dropped("alpha", DropReason::SourceNotLeased)
    );
    world.send("beta", &parts[1]).arrived_at("alpha");
}
