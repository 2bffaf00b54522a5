//! A gateway of each kind, and ones that lie, against the mapper; the layouts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::mapper::{Event, Fault, Ignored, LOOK, PAUSES, RENEWAL_MIN, RESTS};
use super::natpmp::Answer;
use super::pcp::{MapReply, Question};
use super::*;

const PORT: u16 = 10260;
const NONCE: pcp::Nonce = *b"twelve bytes";
const GATEWAY: Gateway = Gateway {
    ip: Ipv4Addr::new(192, 168, 1, 1),
    client: Ipv4Addr::new(192, 168, 1, 7),
};
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// A router that speaks some of the protocols.
#[derive(Debug, Clone)]
struct Router {
    speaks: Vec<Protocol>,
    outside: Ipv4Addr,
    /// The outside ports that it has led to the client, each with the seconds granted.
    mapped: Vec<(u16, u32)>,
    /// Ports that others have.
    taken: Vec<u16>,
    life: u32,
    refuses: bool,
    only_permanent: bool,
    up_since: Instant,
    asked: usize,
}

impl Router {
    fn new(speaks: &[Protocol], now: Instant) -> Self {
        Self {
            speaks: speaks.to_vec(),
            outside: OUTSIDE,
            mapped: Vec::new(),
            taken: Vec::new(),
            life: LIFETIME,
            refuses: false,
            only_permanent: false,
            up_since: now.checked_sub(Duration::from_secs(5000)).unwrap(),
            asked: 0,
        }
    }

    fn epoch(&self, now: Instant) -> u32 {
        u32::try_from((now - self.up_since).as_secs()).unwrap()
    }

    fn grant(&mut self, wished: u16, lifetime: u32) -> (u16, u32) {
        let mut port = if wished == 0 { PORT } else { wished };
        while self.taken.contains(&port) {
            port += 1;
        }
        self.mapped.retain(|(known, _)| *known != port);
        let life = lifetime.min(self.life);
        if life > 0 {
            self.mapped.push((port, life));
        }
        (port, life)
    }

    fn answer(&mut self, port: u16, datagram: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.asked += 1;
        if port == upnp::SSDP_PORT {
            let is_one = self.speaks.contains(&Protocol::Upnp);
            let found = "HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\n\
                LOCATION: http://192.168.1.1:5000/rootDesc.xml\r\n\r\n";
            return is_one.then(|| found.into());
        }
        assert_eq!(port, MAPPING_PORT);
        let epoch = self.epoch(now);
        if let Some(request) = pcp::Request::decode(datagram) {
            assert_eq!(request.client, GATEWAY.client);
            if !self.speaks.contains(&Protocol::Pcp) {
                let unknown = natpmp::Answer::Refused {
                    map: datagram[1] == 1,
                    result: natpmp::UNSUPPORTED_VERSION,
                };
                let answer = unknown;
                let speaks = self.speaks.contains(&Protocol::NatPmp);
                return speaks.then(|| natpmp::Reply { epoch, answer }.encode());
            }
            return Some(self.pcp(request.question, epoch).encode());
        }
        let request = natpmp::Request::decode(datagram)?;
        if !self.speaks.contains(&Protocol::NatPmp) {
            return None;
        }
        let answer = match request {
            natpmp::Request::Address => Answer::Address(self.outside),
            natpmp::Request::Map { .. } if self.refuses => Answer::Refused {
                map: true,
                result: 2,
            },
            natpmp::Request::Map {
                internal,
                external,
                lifetime,
            } => {
                let (external, lifetime) = self.grant(external, lifetime);
                Answer::Mapped {
                    internal,
                    external,
                    lifetime,
                }
            }
        };
        Some(natpmp::Reply { epoch, answer }.encode())
    }

    fn pcp(&mut self, question: Question, epoch: u32) -> pcp::Reply {
        let mut reply = pcp::Reply {
            result: 0,
            lifetime: 0,
            epoch,
            map: None,
        };
        if let Question::Map {
            nonce,
            internal,
            external,
            lifetime,
        } = question
        {
            assert_eq!(nonce, NONCE);
            let (port, life) = self.grant(external.1, lifetime);
            reply.result = if self.refuses { 2 } else { 0 };
            reply.lifetime = life;
            reply.map = Some(MapReply {
                nonce,
                internal,
                external: (self.outside, port).into(),
            });
        }
        reply
    }

    fn fetch(&mut self, port: u16, request: &[u8]) -> Vec<u8> {
        assert_eq!(port, 5000);
        let request = std::str::from_utf8(request).unwrap();
        let text = |name| xml::text(request, name).unwrap().to_owned();
        let (status, body) = if request.starts_with("GET /rootDesc.xml ") {
            let service = |kind: &str, url: &str| {
                format!(
                    "<service><serviceType>{kind}</serviceType><controlURL>{url}</controlURL></service>"
                )
            };
            let body = [
                service("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3f"),
                service(
                    "urn:schemas-upnp-org:service:WANIPConnection:1",
                    "/ctl/IPConn",
                ),
            ];
            (200, format!("<root>{}</root>", body.concat()))
        } else if request.contains("#GetExternalIPAddress\"") {
            let ip = self.outside;
            (
                200,
                format!("<u:R><NewExternalIPAddress>{ip}</NewExternalIPAddress></u:R>"),
            )
        } else if request.contains("#AddPortMapping\"") {
            assert!(request.starts_with("POST /ctl/IPConn HTTP/1.1\r\nHost: 192.168.1.1:5000\r\n"));
            assert_eq!(text("NewInternalClient"), "192.168.1.7");
            assert_eq!(text("NewInternalPort"), PORT.to_string());
            assert_eq!(text("NewProtocol"), "UDP");
            let port: u16 = text("NewExternalPort").parse().unwrap();
            let lifetime: u32 = text("NewLeaseDuration").parse().unwrap();
            let error = if self.refuses {
                Some(606)
            } else if self.taken.contains(&port) {
                Some(upnp::CONFLICT)
            } else if self.only_permanent && lifetime != 0 {
                Some(upnp::ONLY_PERMANENT)
            } else {
                self.mapped.push((port, lifetime));
                None
            };
            match error {
                Some(code) => (500, format!("<e><errorCode>{code}</errorCode></e>")),
                None => (200, "<u:AddPortMappingResponse/>".to_owned()),
            }
        } else {
            assert!(request.contains("#DeletePortMapping\""), "{request}");
            let port: u16 = text("NewExternalPort").parse().unwrap();
            self.mapped.retain(|(known, _)| *known != port);
            (200, String::new())
        };
        let length = body.len();
        format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}").into()
    }
}

/// A mapper and a router, and time.
struct World {
    mapper: Mapper,
    router: Router,
    now: Instant,
}

impl World {
    fn new(speaks: &[Protocol]) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
        let now = Instant::now();
        Self {
            mapper: Mapper::new(GATEWAY, PORT, NONCE, now),
            router: Router::new(speaks, now),
            now,
        }
    }

    /// Carries everything over, at once.
    fn settle(&mut self) {
        while let Some(event) = self.mapper.poll_event() {
            match event {
                Event::Send { port, datagram } => {
                    if let Some(answer) = self.router.answer(port, &datagram, self.now) {
                        let from = SocketAddr::new(GATEWAY.ip.into(), port);
                        let taken = self.mapper.handle_datagram(from, &answer, self.now);
                        assert_eq!(taken, Ok(()));
                    }
                }
                Event::Fetch { port, request } => {
                    let answer = self.router.fetch(port, &request);
                    self.mapper.handle_fetched(Some(&answer), self.now);
                }
            }
        }
    }

    /// Lets time pass.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let due = self.mapper.poll_timeout().filter(|at| *at <= end);
            self.now = due.unwrap_or(end).max(self.now);
            self.mapper.handle_timeout(self.now);
            if due.is_none() {
                return self.settle();
            }
        }
    }

    fn external(&self) -> Option<(Protocol, SocketAddr)> {
        let mapped = self.mapper.view().mapped?;
        Some((mapped.with, mapped.external))
    }

    fn end(&mut self) {
        self.mapper.end(self.now);
        self.run(Duration::from_secs(1));
        assert!(self.mapper.is_ended());
        assert_eq!(self.mapper.poll_timeout(), None);
    }
}

fn outside(port: u16) -> SocketAddr {
    (OUTSIDE, port).into()
}

#[test]
fn each_protocol_maps_within_half_a_second_and_unmaps_at_the_end() {
    use Protocol::{NatPmp, Pcp, Upnp};
    for (speaks, with) in [
        (&[Pcp][..], Pcp),
        (&[NatPmp], NatPmp),
        (&[Upnp], Upnp),
        (&[Upnp, NatPmp], NatPmp),
        (&[Upnp, NatPmp, Pcp], Pcp),
    ] {
        let mut world = World::new(speaks);
        world.run(PAUSES[0]);
        assert_eq!(world.external(), Some((with, outside(PORT))), "{speaks:?}");
        assert_eq!(world.router.mapped, [(PORT, LIFETIME)]);
        let view = world.mapper.view();
        assert_eq!((view.state, view.fault), ("mapped", None));
        let spoken: Vec<Protocol> = Protocol::ALL
            .into_iter()
            .filter(|one| speaks.contains(one))
            .collect();
        assert_eq!(view.speaks, spoken);
        world.end();
        assert_eq!(world.router.mapped, [], "{with:?}");
    }
}

#[test]
fn a_mapping_is_renewed_at_half_of_its_life_with_the_port_that_it_has() {
    for with in [Protocol::Pcp, Protocol::NatPmp] {
        let mut world = World::new(&[with]);
        world.router.taken = vec![PORT];
        world.router.life = 600;
        world.run(PAUSES[0]);
        assert_eq!(world.external(), Some((with, outside(PORT + 1))));
        world.run(Duration::from_secs(300) - PAUSES[0]);
        assert_eq!(world.mapper.view().counts.granted, 1);
        world.run(PAUSES[0]);
        let counts = world.mapper.view().counts;
        assert_eq!((counts.granted, counts.restarts), (2, 0));
        assert_eq!(world.router.mapped, [(PORT + 1, 600)]);
    }
}

#[test]
fn a_gateway_that_was_restarted_or_has_another_address_is_asked_at_once() {
    for with in [Protocol::Pcp, Protocol::NatPmp] {
        let mut world = World::new(&[with]);
        world.run(Duration::from_secs(1));
        world.router.mapped.clear();
        world.router.up_since = world.now;
        world.run(LOOK);
        assert_eq!(world.router.mapped, [(PORT, LIFETIME)], "{with:?}");
        assert_eq!(world.mapper.view().counts.restarts, 1);
    }
    let mut world = World::new(&[Protocol::NatPmp]);
    world.run(Duration::from_secs(1));
    world.router.outside = Ipv4Addr::new(198, 51, 100, 4);
    world.run(LOOK);
    let moved = Some((Protocol::NatPmp, (world.router.outside, PORT).into()));
    assert_eq!(world.external(), moved);
    // Whoever says that the network has changed need not wait.
    world.router.outside = OUTSIDE;
    world.mapper.handle_network_change(world.now);
    world.run(Duration::ZERO);
    assert_eq!(world.external(), Some((Protocol::NatPmp, outside(PORT))));
}

#[test]
fn upnp_takes_another_port_and_a_permanent_mapping_if_need_be() {
    let mut world = World::new(&[Protocol::Upnp]);
    world.router.taken = vec![PORT];
    world.router.only_permanent = true;
    world.run(PAUSES[0]);
    let (_, external) = world.external().unwrap();
    assert_ne!(external.port(), PORT);
    assert_eq!(world.router.mapped, [(external.port(), 0)]);
    world.end();
    assert_eq!(world.router.mapped, []);
}

#[test]
fn who_refuses_is_not_asked_on_and_the_next_protocol_is_tried() {
    let mut world = World::new(&Protocol::ALL);
    world.router.refuses = true;
    world.run(Duration::from_secs(20));
    let view = world.mapper.view();
    assert_eq!((view.state, view.mapped), ("resting", None));
    assert_eq!(view.fault, Some(Fault::Refused(Protocol::Upnp, 606)));
    assert_eq!(view.fault.unwrap().words(), "refused_by_upnp: 606");
    assert_eq!(view.counts.refused, 3);
    assert_eq!(view.speaks, Protocol::ALL);
    let asked = world.mapper.view().counts.requests;
    world.run(RESTS[0] - Duration::from_secs(21));
    assert_eq!(world.mapper.view().counts.requests, asked);
    world.router.refuses = false;
    world.run(Duration::from_secs(22));
    assert_eq!(world.external(), Some((Protocol::Pcp, outside(PORT))));
}

#[test]
fn a_silent_gateway_is_left_alone_for_longer_and_longer() {
    let mut world = World::new(&[]);
    world.run(Duration::from_secs(2));
    assert_eq!(world.router.asked, 3 * PAUSES.len());
    assert_eq!(world.mapper.view().fault, Some(Fault::Silent));
    world.run(Duration::from_secs(24 * 3600));
    let rounds = 2 + 24;
    assert!(
        world.router.asked <= 3 * PAUSES.len() * rounds,
        "{}",
        world.router.asked
    );
    // A network that changes all the time makes no storm.
    let before = world.router.asked;
    for _ in 0..600 {
        world.mapper.handle_network_change(world.now);
        world.run(Duration::from_millis(100));
    }
    let rounds = 6 + 60 / 10;
    let asked = world.router.asked - before;
    assert!(asked <= 3 * PAUSES.len() * rounds, "{asked}");
}

#[test]
fn a_mapping_that_is_not_renewed_ends_when_it_was_said_to() {
    let mut world = World::new(&[Protocol::Pcp]);
    world.router.life = 600;
    world.run(Duration::from_secs(1));
    world.router.speaks.clear();
    world.run(Duration::from_secs(590));
    assert!(world.external().is_some());
    let fault = world.mapper.view().fault;
    assert!(
        matches!(fault, Some(Fault::Silent | Fault::Unanswered(_))),
        "{fault:?}"
    );
    world.run(Duration::from_secs(10));
    assert_eq!(world.external(), None);
}

#[test]
fn only_the_gateway_is_heard_and_only_what_was_asked_for() {
    let mut world = World::new(&[Protocol::Pcp]);
    let now = world.now;
    world.mapper.handle_timeout(now);
    while world.mapper.poll_event().is_some() {}
    let at_gateway = SocketAddr::new(GATEWAY.ip.into(), MAPPING_PORT);
    let external = (Ipv4Addr::new(198, 51, 100, 66), 666).into();
    let map = |nonce, internal| pcp::Reply {
        result: 0,
        lifetime: LIFETIME,
        epoch: 5000,
        map: Some(MapReply {
            nonce,
            internal,
            external,
        }),
    };
    let right = map(NONCE, PORT).encode();
    let mut hear =
        |from: SocketAddr, datagram: &[u8]| world.mapper.handle_datagram(from, datagram, now);
    let unasked = Err(Ignored::Unasked);
    assert_eq!(
        hear(at_gateway, &right),
        unasked,
        "no mapping was asked for yet"
    );
    for stranger in ["192.168.1.2:5351", "198.51.100.1:5351", "[::1]:5351"] {
        let heard = hear(stranger.parse().unwrap(), &right);
        assert_eq!(heard, Err(Ignored::Stranger), "{stranger}");
    }
    let announce = pcp::Reply {
        map: None,
        ..map(NONCE, PORT)
    };
    assert_eq!(hear(at_gateway, &announce.encode()), Ok(()));
    world.mapper.handle_timeout(now + PAUSES[0]);
    let mut hear = |datagram: &[u8]| world.mapper.handle_datagram(at_gateway, datagram, now);
    assert_eq!(hear(&map(*b"not the same", PORT).encode()), unasked);
    assert_eq!(hear(&map(NONCE, PORT + 1).encode()), unasked);
    let other = natpmp::Reply {
        epoch: 1,
        answer: Answer::Mapped {
            internal: PORT,
            external: 666,
            lifetime: LIFETIME,
        },
    };
    assert_eq!(hear(&other.encode()), unasked, "another protocol");
    assert_eq!(hear(b"\x02"), Err(Ignored::Malformed));
    assert_eq!(hear(b""), Err(Ignored::Malformed));
    assert_eq!(hear(&right), Ok(()));
    let ssdp = SocketAddr::new(GATEWAY.ip.into(), upnp::SSDP_PORT);
    let elsewhere = b"HTTP/1.1 200 OK\r\nLocation: http://198.51.100.1/d.xml\r\n\r\n";
    let heard = world.mapper.handle_datagram(ssdp, elsewhere, now);
    assert_eq!(heard, Err(Ignored::Malformed));
    assert_eq!(world.mapper.view().counts.ignored, 10);
    assert_eq!(world.external(), Some((Protocol::Pcp, external)));
}

#[test]
fn answers_that_make_no_sense_are_no_mapping() {
    let mut world = World::new(&[Protocol::NatPmp]);
    world.router.outside = Ipv4Addr::UNSPECIFIED;
    world.run(Duration::from_secs(5));
    assert_eq!(world.external(), None);
    let fault = Some(Fault::Senseless(Protocol::NatPmp));
    assert_eq!(world.mapper.view().fault, fault);
    let mut world = World::new(&[Protocol::Pcp]);
    world.router.life = 1;
    world.run(Duration::from_secs(3600));
    let granted = world.mapper.view().counts.granted;
    assert!(
        granted <= 3600 / RENEWAL_MIN.as_secs() + 1,
        "{granted} in an hour"
    );
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<(u32, u16)>().prop_map(|(ip, port)| (Ipv4Addr::from(ip), port).into());
    let v6 = any::<(u128, u16)>().prop_map(|(ip, port)| (Ipv6Addr::from(ip), port).into());
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn pcp_is_read_as_it_is_written(
        (nonce, internal, external) in (any::<[u8; 12]>(), any::<u16>(), address()),
        (client, lifetime, epoch, result) in any::<(u32, u32, u32, u8)>(),
        has_map in any::<bool>(),
    ) {
        prop_assume!(!matches!(external.ip(), std::net::IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()));
        let map = has_map.then_some(MapReply { nonce, internal, external });
        let reply = pcp::Reply { result, lifetime, epoch, map };
        prop_assert_eq!(pcp::Reply::decode(&reply.encode()), Some(reply));
        let question = if has_map {
            let external = (Ipv4Addr::from(epoch), external.port());
            Question::Map { nonce, internal, external, lifetime }
        } else {
            Question::Announce
        };
        let request = pcp::Request { client: Ipv4Addr::from(client), question };
        let bytes = request.encode();
        prop_assert_eq!(bytes.len(), if has_map { 60 } else { 24 });
        prop_assert_eq!(pcp::Request::decode(&bytes), Some(request));
        for end in 0..bytes.len() {
            prop_assert_eq!(pcp::Request::decode(&bytes[..end]), None);
        }
    }

    #[test]
    fn natpmp_is_read_as_it_is_written(
        (internal, external, lifetime, epoch) in any::<(u16, u16, u32, u32)>(),
        (map, result, ip) in (any::<bool>(), 1_u16.., any::<u32>()),
    ) {
        for answer in [
            Answer::Refused { map, result },
            Answer::Address(ip.into()),
            Answer::Mapped { internal, external, lifetime },
        ] {
            let reply = natpmp::Reply { epoch, answer };
            prop_assert_eq!(natpmp::Reply::decode(&reply.encode()), Some(reply));
            prop_assert_eq!(pcp::Reply::decode(&reply.encode()), None);
        }
        for request in [
            natpmp::Request::Address,
            natpmp::Request::Map { internal, external, lifetime },
        ] {
            prop_assert_eq!(natpmp::Request::decode(&request.encode()), Some(request));
        }
    }

    /// Whatever comes, and from wherever: no more is asked than own time and bounded reactions allow,
    /// time always moves on, and the end is an end.
    #[test]
    fn no_gateway_makes_a_storm(
        inputs in proptest::collection::vec((any::<u8>(), any::<[u8; 4]>(), 0_u64..3000), 1..200),
    ) {
        let mut world = World::new(&[]);
        let begin = world.now;
        let mut asked = 0;
        for (what, [first, second, third, fourth], millis) in inputs {
            world.now += Duration::from_millis(millis);
            let epoch = u32::from_be_bytes([0, 0, third, fourth]);
            let map = (first % 2 == 0).then_some(MapReply {
                nonce: NONCE,
                internal: PORT,
                external: (Ipv4Addr::from([203, 0, 113, first]), u16::from(second)).into(),
            });
            let result = if second % 4 == 0 { third } else { 0 };
            let datagram = match what % 4 {
                0 => pcp::Reply { result, lifetime: fourth.into(), epoch, map }.encode(),
                1 => natpmp::Reply { epoch, answer: Answer::Address([203, 0, 113, first].into()) }.encode(),
                2 => {
                    let answer = Answer::Mapped { internal: PORT, external: second.into(), lifetime: fourth.into() };
                    natpmp::Reply { epoch, answer }.encode()
                }
                _ => b"HTTP/1.1 200 OK\r\nLocation: http://192.168.1.1:9/\r\n\r\n".to_vec(),
            };
            let port = if what % 4 == 3 { upnp::SSDP_PORT } else { MAPPING_PORT };
            let from = SocketAddr::new(GATEWAY.ip.into(), port);
            let _ = world.mapper.handle_datagram(from, &datagram, world.now);
            if what & 8 != 0 {
                world.mapper.handle_network_change(world.now);
            }
            world.mapper.handle_timeout(world.now);
            let next = world.mapper.poll_timeout();
            prop_assert!(next.is_some_and(|at| at > world.now), "{next:?} at {:?}", world.now);
            while let Some(event) = world.mapper.poll_event() {
                asked += 1;
                if let Event::Fetch { .. } = event {
                    world.mapper.handle_fetched((what & 16 != 0).then_some(&b"HTTP/1.1 200 X\r\n\r\n"[..]), world.now);
                }
            }
        }
        let seconds = usize::try_from((world.now - begin).as_secs()).unwrap();
        // Each reaction is at most a round of three protocols, three times, two datagrams each.
        let rounds = 6 + seconds / 10 + seconds / 30 + 2;
        prop_assert!(asked <= rounds * 18, "{asked} in {seconds} s");
        world.end();
    }
}
