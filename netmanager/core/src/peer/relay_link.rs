//! What this node and one relay say to each other: registration, and whom it can reach there.
//!
//! With it goes who is revoked: the relay's epoch comes with its Welcome, and whoever of the two has
//! the newer list says it. Lists are judged elsewhere.
//!
//! Pure: bytes of the stream in, bytes of the stream and events out. The shell owns the QUIC
//! session and the keys of data frames; one [`RelayLink`] lives as long as one such session.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weald_proto::codec::Message as _;
use weald_proto::id::NodeId;
use weald_proto::relay::{
    Hello, MAX_LONG_MESSAGE_LEN, MessageError, NodeMessage, Open, Opened, RelayMessage, VERSION,
    Welcome,
};
use weald_proto::statement::{Signed, Statement};
use weald_proto::stream::Deframer;

use crate::table::PeerId;

/// Between two questions for a peer that is not registered: it may come any moment.
pub const OPEN_RETRY: Duration = Duration::from_millis(500);
/// A peer that nobody wants any more is not asked for any longer.
pub const WANT_LIFETIME: Duration = Duration::from_secs(30);

/// The conversation with one relay over one session.
#[derive(Debug)]
pub struct RelayLink {
    registered: bool,
    deframer: Deframer,
    outgoing: VecDeque<Vec<u8>>,
    events: VecDeque<LinkEvent>,
    peers: BTreeMap<PeerId, Target>,
    next_request: u32,
    revoked: Option<Revoked>,
    /// The epoch that the relay has; none before it has said so, and if it takes no lists.
    relay_epoch: Option<u64>,
}

/// The newest list of the revoked that this node has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Revoked {
    /// Its epoch; 0 for none.
    pub epoch: u64,
    /// As root has signed it.
    pub list: Option<Signed>,
}

#[derive(Debug)]
struct Target {
    node: NodeId,
    state: TargetState,
    wanted: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TargetState {
    /// To be asked for at this time.
    Due(Instant),
    Asked(u32),
    Open(u32),
}

/// What the shell has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Data frames with this link id may be sent from now on.
    Registered {
        /// This node's id in data frames.
        link: u32,
        /// This node's address as the relay sees it.
        observed: SocketAddr,
        /// The relay's port at which it tells what it sees there.
        observe_port: Option<u16>,
    },
    /// The answer to a question.
    Observed {
        /// The relay's port that was asked.
        asked_port: u16,
        /// This node's address as the relay sees it there.
        seen: SocketAddr,
    },
    /// Data frames to `id` reach the peer.
    Reachable {
        /// Which peer.
        peer: PeerId,
        /// Its id in data frames.
        id: u32,
    },
    /// Data frames to `id` reach nobody any more. No peer if it was never asked for.
    Gone {
        /// Which id.
        id: u32,
    },
    /// The relay says who is revoked; to be judged.
    Revocations(Signed),
    /// The relay ends the session, and why.
    Ended(String),
}

impl RelayLink {
    /// Starts the conversation by showing the token, and which list of the revoked this node has; none
    /// if it hears of no root that could sign one.
    #[must_use]
    pub fn new(token: Vec<u8>, revoked: Option<Revoked>) -> Self {
        let hello = NodeMessage::Hello(Hello {
            version: VERSION,
            token,
            revocations: revoked.as_ref().map(|revoked| revoked.epoch),
        });
        Self {
            registered: false,
            deframer: Deframer::new(MAX_LONG_MESSAGE_LEN),
            outgoing: VecDeque::from([hello.encode()]),
            events: VecDeque::new(),
            peers: BTreeMap::new(),
            next_request: 1,
            revoked,
            relay_epoch: None,
        }
    }

    /// Takes the newest list that this node believes, and tells the relay if its own is older.
    pub fn set_revoked(&mut self, revoked: Revoked) {
        self.revoked = Some(revoked);
        self.tell_revoked();
    }

    /// Notes that somebody wants to reach `node`, and asks for its id when it is time.
    pub fn want(&mut self, peer: PeerId, node: &NodeId, now: Instant) {
        let target = self.peers.entry(peer).or_insert_with(|| Target {
            node: node.clone(),
            state: TargetState::Due(now),
            wanted: now,
        });
        target.wanted = now;
        self.handle_timeout(now);
    }

    /// Forgets a peer that is in no table any more.
    pub fn forget(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
    }

    /// The peer's id in data frames, if the relay has named one.
    #[must_use]
    pub fn id_of(&self, peer: PeerId) -> Option<u32> {
        match self.peers.get(&peer)?.state {
            TargetState::Open(id) => Some(id),
            TargetState::Due(_) | TargetState::Asked(_) => None,
        }
    }

    /// Whether the relay has said last that the peer is not there.
    #[must_use]
    pub fn lacks(&self, peer: PeerId) -> bool {
        let target = self.peers.get(&peer).filter(|_| self.registered);
        target.is_some_and(|target| matches!(target.state, TargetState::Due(_)))
    }

    /// Takes bytes of the stream.
    ///
    /// # Errors
    /// The relay does not keep to the protocol; the session has to be closed.
    pub fn handle_stream(&mut self, bytes: &[u8], now: Instant) -> Result<(), MessageError> {
        self.deframer.feed(bytes);
        while let Some(message) = self.deframer.next_message()? {
            let message = RelayMessage::decode(message)?;
            self.handle_message(message, now);
        }
        Ok(())
    }

    /// Asks again for peers that were not there.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.peers.retain(|_, target| {
            matches!(target.state, TargetState::Open(_)) || now < target.wanted + WANT_LIFETIME
        });
        if !self.registered {
            return;
        }
        for target in self.peers.values_mut() {
            if matches!(target.state, TargetState::Due(at) if at <= now) {
                let request = self.next_request;
                self.next_request = self.next_request.wrapping_add(1);
                target.state = TargetState::Asked(request);
                let open = NodeMessage::Open(Open {
                    request,
                    node: target.node.clone(),
                });
                self.outgoing.push_back(open.encode());
            }
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.peers.values().filter_map(|target| match target.state {
            TargetState::Due(at) if self.registered => Some(at),
            TargetState::Due(_) | TargetState::Asked(_) | TargetState::Open(_) => None,
        });
        due.min()
    }

    /// Bytes for the stream.
    pub fn poll_send(&mut self) -> Option<Vec<u8>> {
        self.outgoing.pop_front()
    }

    /// Puts back what the stream did not take.
    pub fn unsend(&mut self, rest: Vec<u8>) {
        self.outgoing.push_front(rest);
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    fn handle_message(&mut self, message: RelayMessage, now: Instant) {
        match message {
            RelayMessage::Welcome(welcome) => self.handle_welcome(&welcome, now),
            RelayMessage::Opened(opened) => self.handle_opened(&opened, now),
            RelayMessage::Gone { peer: id } => {
                for target in self.peers.values_mut() {
                    if target.state == TargetState::Open(id) {
                        // It was in use until now, so it is wanted.
                        target.wanted = now;
                        target.state = TargetState::Due(now);
                    }
                }
                self.events.push_back(LinkEvent::Gone { id });
                self.handle_timeout(now);
            }
            RelayMessage::Observed { asked_port, seen } => {
                self.events
                    .push_back(LinkEvent::Observed { asked_port, seen });
            }
            RelayMessage::Superseded => {
                let text = "this node has registered again on another session";
                self.events.push_back(LinkEvent::Ended(text.into()));
            }
            RelayMessage::Refused(refused) => {
                self.events.push_back(LinkEvent::Ended(refused.to_string()));
            }
            RelayMessage::Revocations(signed) => {
                if let Ok(Statement::Revocations(list)) = Statement::decode(&signed.statement) {
                    self.relay_epoch = self.relay_epoch.max(Some(list.epoch));
                }
                self.events.push_back(LinkEvent::Revocations(signed));
            }
        }
    }

    fn handle_welcome(&mut self, welcome: &Welcome, now: Instant) {
        self.registered = true;
        self.relay_epoch = welcome.revocations;
        self.events.push_back(LinkEvent::Registered {
            link: welcome.link,
            observed: welcome.observed,
            observe_port: welcome.observe_port,
        });
        self.tell_revoked();
        self.handle_timeout(now);
    }

    /// Says the own list to a relay that takes lists and has an older one.
    fn tell_revoked(&mut self) {
        let (Some(known), Some(own)) = (self.relay_epoch, &self.revoked) else {
            return;
        };
        if let Some(list) = own.list.as_ref().filter(|_| known < own.epoch) {
            let message = NodeMessage::Revocations(list.clone());
            self.outgoing.push_back(message.encode());
            self.relay_epoch = Some(own.epoch);
        }
    }

    fn handle_opened(&mut self, opened: &Opened, now: Instant) {
        let asked = TargetState::Asked(opened.request);
        let Some((peer, target)) = self.peers.iter_mut().find(|(_, t)| t.state == asked) else {
            return;
        };
        match opened.result {
            Ok(id) => {
                target.state = TargetState::Open(id);
                self.events
                    .push_back(LinkEvent::Reachable { peer: *peer, id });
            }
            Err(_) => target.state = TargetState::Due(now + OPEN_RETRY),
        }
    }
}

#[cfg(test)]
mod tests {
    use weald_proto::relay::{HelloRefusal, Limits, OpenRefusal, Refused};
    use weald_proto::statement::Revocations;
    use weald_proto::stream::LENGTH_LEN;

    use super::*;

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
        Instant::now()
    }

    fn said(link: &mut RelayLink) -> Vec<NodeMessage> {
        let bytes = std::iter::from_fn(|| link.poll_send());
        bytes
            .map(|bytes| NodeMessage::decode(&bytes[LENGTH_LEN..]).unwrap())
            .collect()
    }

    fn registered(now: Instant) -> RelayLink {
        registered_with(now, None, None)
    }

    fn registered_with(now: Instant, own: Option<Revoked>, relays: Option<u64>) -> RelayLink {
        let hello = NodeMessage::Hello(Hello {
            version: VERSION,
            token: vec![1, 2, 3],
            revocations: own.as_ref().map(|own| own.epoch),
        });
        let mut link = RelayLink::new(vec![1, 2, 3], own);
        assert_eq!(said(&mut link), [hello]);
        let observed = "203.0.113.9:777".parse().unwrap();
        let limits = Limits {
            max_packet: 1500,
            idle_timeout: Duration::from_secs(30),
        };
        let welcome = RelayMessage::Welcome(Welcome {
            link: 5,
            observed,
            limits,
            observe_port: Some(10_251),
            revocations: relays,
        });
        link.handle_stream(&welcome.encode(), now).unwrap();
        let observe_port = Some(10_251);
        assert_eq!(
            link.poll_event(),
            Some(LinkEvent::Registered {
                link: 5,
                observed,
                observe_port
            })
        );
        let seen = "203.0.113.9:778".parse().unwrap();
        let asked_port = 10_251;
        let told = RelayMessage::Observed { asked_port, seen };
        link.handle_stream(&told.encode(), now).unwrap();
        assert_eq!(
            link.poll_event(),
            Some(LinkEvent::Observed { asked_port, seen })
        );
        link
    }

    fn node() -> NodeId {
        "b/b1".parse().unwrap()
    }

    /// A list as root would sign it; the signature is others' to look at.
    fn revoked(epoch: u64) -> Revoked {
        let statement = Statement::Revocations(Revocations {
            epoch,
            ..Revocations::default()
        });
        let list = Signed {
            statement: statement.encode().unwrap(),
            signature: vec![0; 64],
            cluster: None,
        };
        let list = Some(list).filter(|_| epoch > 0);
        Revoked { epoch, list }
    }

    fn told(epoch: u64) -> Vec<NodeMessage> {
        let list = revoked(epoch).list;
        list.map(NodeMessage::Revocations).into_iter().collect()
    }

    #[test]
    fn a_relay_that_knows_less_is_told_the_list_once() {
        let now = start();
        let mut link = registered_with(now, Some(revoked(3)), Some(2));
        assert_eq!(said(&mut link), told(3));
        link.set_revoked(revoked(3));
        assert_eq!(said(&mut link), []);
        link.set_revoked(revoked(4));
        assert_eq!(said(&mut link), told(4));
    }

    #[test]
    fn a_relay_that_knows_as_much_or_takes_no_lists_is_told_nothing() {
        let now = start();
        for relays in [None, Some(3), Some(4)] {
            let mut link = registered_with(now, Some(revoked(3)), relays);
            assert_eq!(said(&mut link), [], "{relays:?}");
        }
        let mut old = registered_with(now, Some(revoked(3)), None);
        old.set_revoked(revoked(4));
        assert_eq!(said(&mut old), []);
        let mut none = registered_with(now, Some(revoked(0)), Some(0));
        assert_eq!(said(&mut none), []);
        none.set_revoked(revoked(1));
        assert_eq!(said(&mut none), told(1));
    }

    #[test]
    fn a_list_is_not_told_before_the_relay_has_said_what_it_has() {
        let now = start();
        let mut link = RelayLink::new(vec![], Some(revoked(1)));
        assert_eq!(said(&mut link).len(), 1, "the hello only");
        link.set_revoked(revoked(2));
        assert_eq!(said(&mut link), []);
        link.handle_timeout(now);
        assert_eq!(said(&mut link), []);
    }

    #[test]
    fn what_a_relay_says_of_the_revoked_is_passed_on_and_not_said_back() {
        let now = start();
        let mut link = registered_with(now, Some(revoked(3)), Some(3));
        let list = revoked(5).list.unwrap();
        let message = RelayMessage::Revocations(list.clone()).encode();
        link.handle_stream(&message, now).unwrap();
        assert_eq!(link.poll_event(), Some(LinkEvent::Revocations(list)));
        link.set_revoked(revoked(5));
        assert_eq!(said(&mut link), []);
    }

    #[test]
    fn a_peer_is_asked_for_until_it_is_there() {
        let mut now = start();
        let mut link = registered(now);
        link.want(PeerId(1), &node(), now);
        assert_eq!(
            said(&mut link),
            [NodeMessage::Open(Open {
                request: 1,
                node: node()
            })]
        );
        link.want(PeerId(1), &node(), now);
        assert_eq!(said(&mut link), []);

        let refusal = Opened {
            request: 1,
            result: Err(OpenRefusal::UnknownNode),
        };
        link.handle_stream(&RelayMessage::Opened(refusal).encode(), now)
            .unwrap();
        assert_eq!(link.poll_timeout(), Some(now + OPEN_RETRY));
        assert!(link.lacks(PeerId(1)) && !link.lacks(PeerId(2)));
        now += OPEN_RETRY;
        link.handle_timeout(now);
        assert_eq!(
            said(&mut link),
            [NodeMessage::Open(Open {
                request: 2,
                node: node()
            })]
        );

        let opened = Opened {
            request: 2,
            result: Ok(77),
        };
        link.handle_stream(&RelayMessage::Opened(opened).encode(), now)
            .unwrap();
        let reachable = LinkEvent::Reachable {
            peer: PeerId(1),
            id: 77,
        };
        assert!(!link.lacks(PeerId(1)));
        assert_eq!(
            (link.poll_event(), link.id_of(PeerId(1))),
            (Some(reachable), Some(77))
        );
    }

    #[test]
    fn a_peer_that_went_is_asked_for_again_at_once() {
        let now = start();
        let mut link = registered(now);
        link.want(PeerId(1), &node(), now);
        let opened = Opened {
            request: 1,
            result: Ok(77),
        };
        link.handle_stream(&RelayMessage::Opened(opened).encode(), now)
            .unwrap();
        link.poll_event();
        said(&mut link);
        link.handle_stream(&RelayMessage::Gone { peer: 77 }.encode(), now)
            .unwrap();
        assert_eq!(link.poll_event(), Some(LinkEvent::Gone { id: 77 }));
        assert_eq!(
            said(&mut link),
            [NodeMessage::Open(Open {
                request: 2,
                node: node()
            })]
        );
    }

    #[test]
    fn nothing_is_asked_before_the_registration_and_all_after() {
        let now = start();
        let mut link = RelayLink::new(vec![], None);
        link.want(PeerId(1), &node(), now);
        assert_eq!(said(&mut link).len(), 1, "the hello only");
        assert_eq!(link.poll_timeout(), None);
    }

    #[test]
    fn a_peer_that_nobody_wants_is_forgotten() {
        let now = start();
        let mut link = registered(now);
        link.want(PeerId(1), &node(), now);
        let refusal = Opened {
            request: 1,
            result: Err(OpenRefusal::UnknownNode),
        };
        link.handle_stream(&RelayMessage::Opened(refusal).encode(), now)
            .unwrap();
        link.handle_timeout(now + WANT_LIFETIME);
        assert_eq!(link.poll_timeout(), None);
    }

    #[test]
    fn refusals_carry_the_relays_words() {
        let now = start();
        let mut link = RelayLink::new(vec![], None);
        let refused = Refused {
            reason: HelloRefusal::Token,
            text: "expired yesterday".into(),
        };
        link.handle_stream(&RelayMessage::Refused(refused).encode(), now)
            .unwrap();
        assert_eq!(
            link.poll_event(),
            Some(LinkEvent::Ended("expired yesterday".into()))
        );
    }

    #[test]
    fn garbage_is_an_error() {
        let now = start();
        let mut link = registered(now);
        assert!(link.handle_stream(&[0xff, 0xff, 0, 0], now).is_err());
    }
}
