//! The flow table against a Vec.

use std::time::{Duration, Instant};

use netmanager_core::flow::{
    Direction, FlowKey, FlowState, FlowTable, Lane, LaneReason, OpenError, Opening, Side,
    Usefulness,
};
use netmanager_core::packet::{L4, PacketInfo, TcpFlags};
use netmanager_core::table::{Host, PeerId};
use proptest::prelude::*;

/// Small enough to be full often.
const LIMIT: usize = 6;
const PEER: Host = Host::Peer(PeerId(0));

#[derive(Debug, Clone)]
enum Step {
    Open {
        tuple: Tuple,
        responder: u8,
        force: bool,
    },
    Packet {
        tuple: Tuple,
    },
    Remove {
        tuple: Tuple,
    },
    Pass {
        seconds: u16,
    },
}

/// A packet out of a small universe, so that tuples meet often.
#[derive(Debug, Clone, Copy)]
struct Tuple {
    side: Side,
    source: u8,
    destination: u8,
    ports: (u16, u16),
    kind: u8,
    flags: u8,
}

struct ModelFlow {
    forward: FlowKey,
    reply: FlowKey,
    state: FlowState,
    expires: Instant,
    /// When it came to its present usefulness.
    order: u64,
}

#[derive(Default)]
struct Model {
    flows: Vec<ModelFlow>,
    clock: u64,
    next_sweep: Option<Instant>,
}

proptest! {
    #[test]
    fn the_table_does_what_a_vec_of_tuples_does(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        #[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
        let mut now = Instant::now();
        let mut table = FlowTable::new(LIMIT, 7);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Open { tuple, responder, force } => {
                    let Some(opening) = opening(tuple, responder) else { continue };
                    let opened = table.open(opening, force, now).map(|_| ());
                    prop_assert_eq!(opened, model.open(&opening, force, now));
                }
                Step::Packet { tuple } => {
                    let info = info(tuple);
                    let key = FlowKey::of(tuple.side, &info).unwrap();
                    let found = table.find(&key, now);
                    prop_assert_eq!(found.map(|(_, direction)| direction), model.packet(&key, &info, now));
                    if let Some((id, direction)) = found {
                        table.note(id, direction, &info, &[], now);
                    }
                }
                Step::Remove { tuple } => {
                    let key = FlowKey::of(tuple.side, &info(tuple)).unwrap();
                    if let Some((id, _)) = table.find(&key, now) {
                        prop_assert!(table.remove(id).is_some());
                        prop_assert!(table.remove(id).is_none(), "an id means one flow only");
                        model.flows.retain(|flow| flow.forward != key && flow.reply != key);
                    }
                }
                Step::Pass { seconds } => {
                    now += Duration::from_secs(seconds.into());
                    table.sweep(now);
                    model.sweep(now);
                }
            }
            prop_assert!(table.len() <= LIMIT);
            prop_assert_eq!(table.len(), model.flows.len());
            for flow in model.flows.iter().filter(|flow| now < flow.expires) {
                for (key, direction) in [
                    (&flow.forward, Direction::Forward),
                    (&flow.reply, Direction::Reply),
                ] {
                    let (id, found) = table.find(key, now).unwrap();
                    prop_assert_eq!(found, direction);
                    let real = table.flow(id).unwrap();
                    prop_assert_eq!(real.state(), flow.state);
                    prop_assert_eq!(real.expires(), flow.expires);
                    prop_assert_eq!(*real.key(Direction::Forward), flow.forward);
                    prop_assert_eq!(*real.key(Direction::Reply), flow.reply);
                }
            }
            let live = model.flows.iter().filter(|flow| now < flow.expires).count();
            prop_assert_eq!(table.iter(now).count(), live);
            prop_assert_eq!(table.next_sweep().is_some(), !table.is_empty() || model.next_sweep.is_some());
        }
    }
}

impl Model {
    fn open(&mut self, opening: &Opening, force: bool, now: Instant) -> Result<(), OpenError> {
        let forward = opening.key;
        let answers_to = if opening.responder_ip == forward.source() {
            forward.destination()
        } else {
            forward.source()
        };
        let reply = forward
            .reversed(Side::of(opening.responder))
            .with_addresses(opening.responder_ip, answers_to);
        if forward == reply {
            return Err(OpenError::Collision);
        }
        let touches = |flow: &ModelFlow| {
            [flow.forward, flow.reply]
                .iter()
                .any(|key| *key == forward || *key == reply)
        };
        let stays = |flow: &&ModelFlow| now < flow.expires && !(force && flow.state.gives_way());
        if self
            .flows
            .iter()
            .filter(|flow| touches(flow))
            .any(|flow| stays(&flow))
        {
            return Err(OpenError::Collision);
        }
        self.flows.retain(|flow| !touches(flow));
        if self.flows.len() >= LIMIT {
            let victim = (0..self.flows.len())
                .filter(|i| self.flows[*i].state.usefulness() != Usefulness::Assured)
                .min_by_key(|i| (self.flows[*i].state.usefulness(), self.flows[*i].order))
                .ok_or(OpenError::Full)?;
            self.flows.remove(victim);
        }
        self.clock += 1;
        self.flows.push(ModelFlow {
            forward,
            reply,
            state: opening.state,
            expires: now + opening.state.lifetime(),
            order: self.clock,
        });
        self.next_sweep.get_or_insert(now + Duration::from_secs(1));
        Ok(())
    }

    fn packet(&mut self, key: &FlowKey, info: &PacketInfo, now: Instant) -> Option<Direction> {
        let flow = self
            .flows
            .iter_mut()
            .find(|flow| flow.forward == *key || flow.reply == *key)
            .filter(|flow| now < flow.expires)?;
        let direction = if flow.forward == *key {
            Direction::Forward
        } else {
            Direction::Reply
        };
        let before = flow.state.usefulness();
        let mut tcp_flags = None;
        if let L4::Tcp { flags, .. } = info.l4 {
            tcp_flags = Some(flags);
        }
        flow.state = flow.state.after(direction, tcp_flags);
        flow.expires = now + flow.state.lifetime();
        if flow.state.usefulness() != before {
            self.clock += 1;
            flow.order = self.clock;
        }
        Some(direction)
    }

    fn sweep(&mut self, now: Instant) {
        if self.next_sweep.is_none_or(|at| now < at) {
            return;
        }
        self.flows.retain(|flow| now < flow.expires);
        self.next_sweep = (!self.flows.is_empty()).then_some(now + Duration::from_secs(1));
    }
}

fn opening(tuple: Tuple, responder: u8) -> Option<Opening> {
    let info = info(tuple);
    Some(Opening {
        stream: None,
        key: FlowKey::of(tuple.side, &info)?,
        opener: match tuple.side {
            Side::Tun => Host::Local,
            Side::Peer => PEER,
        },
        responder_ip: [10, 30, 0, responder].into(),
        responder: match tuple.side {
            Side::Tun if responder.is_multiple_of(2) => PEER,
            Side::Tun | Side::Peer => Host::Local,
        },
        state: FlowState::opened_by(&info.l4)?,
        policy: None,
        lane: Lane::L3,
        lane_reason: LaneReason::Direct,
    })
}

fn info(tuple: Tuple) -> PacketInfo {
    let (src_port, dst_port) = tuple.ports;
    let (protocol, l4) = match tuple.kind {
        0 => (17, L4::Udp { src_port, dst_port }),
        1 => (
            1,
            L4::IcmpEcho {
                id: src_port,
                reply: dst_port == 1,
            },
        ),
        _ => (
            6,
            L4::Tcp {
                src_port,
                dst_port,
                flags: TcpFlags(tuple.flags),
                header_len: 20,
            },
        ),
    };
    PacketInfo {
        src: [10, 30, 0, tuple.source].into(),
        dst: [10, 30, 0, tuple.destination].into(),
        protocol,
        l4_offset: 20,
        total_len: 40,
        fragment: None,
        l4,
    }
}

fn tuple() -> impl Strategy<Value = Tuple> {
    let side = prop_oneof![Just(Side::Tun), Just(Side::Peer)];
    let flags = prop_oneof![Just(2u8), Just(18), Just(16), Just(16), Just(17), Just(4)];
    (side, 0..3u8, 0..3u8, (1..3u16, 1..3u16), 0..4u8, flags).prop_map(
        |(side, source, destination, ports, kind, flags)| Tuple {
            side,
            source,
            destination,
            ports,
            kind,
            flags,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (tuple(), 0..3u8, any::<bool>())
            .prop_map(|(tuple, responder, force)| Step::Open { tuple, responder, force }),
        6 => tuple().prop_map(|tuple| Step::Packet { tuple }),
        1 => tuple().prop_map(|tuple| Step::Remove { tuple }),
        1 => prop_oneof![Just(0u16), Just(1), Just(29), Just(30), Just(120), Just(7200)]
            .prop_map(|seconds| Step::Pass { seconds }),
    ]
}
