//! Benches: asks peers to answer load for the command here, and answers when peers ask.
//!
//! What is asked goes over the session of the two daemons, again every second until it is answered,
//! because the session may have to be made first. One bench at a time is answered.

use std::time::{Duration, Instant};

use weald_proto::codec::Message as _;
use weald_proto::id::NodeId;
use weald_proto::session::PeerToPeer;
use weald_proto::stream::framed;

use super::Daemon;
use crate::api::hosting::BenchOffer;
use crate::api::inspect::Reply;
use crate::api::message::{ApiError, ErrorCode};
use crate::bench::responder::{Place, Responder};
use crate::bench::{MAX_SECONDS, common};
use crate::env::config::host_device;

/// How long a peer may take to answer; less than whoever asks here waits.
const PATIENCE: Duration = Duration::from_secs(7);
/// How often it is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// Most questions that wait for their answers.
const MAX_ASKED: usize = 8;

/// The benches of this daemon.
#[derive(Debug, Default)]
pub(super) struct Benches {
    /// Counts what was asked. Starts anew with the daemon, as what it has asked for does.
    last: u64,
    asked: Vec<Asked>,
    answering: Option<Answering>,
}

/// A question to a peer.
#[derive(Debug)]
struct Asked {
    peer: NodeId,
    number: u64,
    seconds: u32,
    until: Instant,
    again: Instant,
    reply: Reply<Result<BenchOffer, ApiError>>,
}

/// The bench that is answered.
#[derive(Debug)]
struct Answering {
    asker: NodeId,
    number: u64,
    responder: Responder,
}

impl Daemon {
    /// Asks a peer to answer load.
    pub(super) fn ask_for_bench(
        &mut self,
        peer: &NodeId,
        seconds: u32,
        reply: Reply<Result<BenchOffer, ApiError>>,
    ) {
        let refused = |code, message: String| Err(ApiError::new(code, message));
        let table = self.keeper.table();
        if table.node(peer).is_none() || *peer == self.identified.node {
            let message = format!("there is no other node {peer}");
            return reply.send(refused(ErrorCode::NotFound, message));
        }
        if self.ground.userspace().is_some() {
            let message = "in userspace mode the host has no address in the overlay that a bench \
                           could use; run it on a node with a TUN";
            return reply.send(refused(ErrorCode::Conflict, message.to_owned()));
        }
        if self.bench_addresses(peer).is_none() {
            let message = format!("this node and {peer} have no addresses of one family");
            return reply.send(refused(ErrorCode::Conflict, message));
        }
        if self.benches.asked.len() >= MAX_ASKED {
            let message = format!("{MAX_ASKED} benches are being asked for; wait for them");
            return reply.send(refused(ErrorCode::Busy, message));
        }
        let now = Instant::now();
        self.benches.last += 1;
        self.benches.asked.push(Asked {
            peer: peer.clone(),
            number: self.benches.last,
            seconds,
            until: now + PATIENCE,
            again: now,
            reply,
        });
        self.handle_bench_timeouts(now);
    }

    /// Asks again, and gives up what was asked for too long.
    pub(super) fn handle_bench_timeouts(&mut self, now: Instant) {
        let mut asked = std::mem::take(&mut self.benches.asked);
        let late = asked.extract_if(.., |one| one.until <= now);
        for one in late {
            let message = format!(
                "{} does not answer; `netmanager why` says whether it is reached, and it must be \
                 of a version that has benches",
                one.peer
            );
            one.reply
                .send(Err(ApiError::new(ErrorCode::Unavailable, message)));
        }
        for one in asked.iter_mut().filter(|one| one.again <= now) {
            one.again = now + AGAIN;
            let ask = PeerToPeer::BenchAsk {
                number: one.number,
                seconds: one.seconds,
            };
            self.tell(&one.peer, &ask);
        }
        self.benches.asked = asked;
        let is_over = |answering: &mut Answering| answering.responder.is_over();
        if let Some(over) = self.benches.answering.take_if(is_over) {
            tracing::info!(peer = %over.asker, "a bench is over");
        }
    }

    /// When there is something to ask again.
    pub(super) fn bench_deadline(&self) -> Option<Instant> {
        let asked = self.benches.asked.iter();
        asked.map(|one| one.again.min(one.until)).min()
    }

    /// Takes what a peer says about benches; false if it is about something else.
    pub(super) fn hear_bench(&mut self, peer: &NodeId, message: &PeerToPeer) -> bool {
        match message {
            PeerToPeer::BenchAsk { number, seconds } => {
                let answer = self.answer_bench(peer, *number, *seconds);
                self.tell(peer, &answer);
                true
            }
            PeerToPeer::BenchAnswer {
                number,
                refused,
                token,
                port,
                bare_port,
            } => {
                let is_it = |one: &Asked| one.number == *number && one.peer == *peer;
                let place = self.benches.asked.iter().position(is_it);
                let asked = place.map(|place| self.benches.asked.swap_remove(place));
                let addresses = self.bench_addresses(peer);
                if let Some((asked, [own, address])) = asked.zip(addresses) {
                    let offer = BenchOffer {
                        peer: peer.to_string(),
                        own,
                        address,
                        port: *port,
                        bare_port: Some(*bare_port).filter(|port| *port != 0),
                        token: token.clone(),
                    };
                    asked.reply.send(if refused.is_empty() {
                        Ok(offer)
                    } else {
                        let message = format!("{peer} refuses: {refused}");
                        Err(ApiError::new(ErrorCode::Conflict, message))
                    });
                }
                true
            }
            PeerToPeer::Hello { .. }
            | PeerToPeer::Grant(_)
            | PeerToPeer::Lease(_)
            | PeerToPeer::Revocations(_)
            | PeerToPeer::Candidates { .. }
            | PeerToPeer::Punch { .. }
            | PeerToPeer::PunchOpened { .. } => false,
        }
    }

    /// Starts to answer load, or says why not.
    fn answer_bench(&mut self, asker: &NodeId, number: u64, seconds: u32) -> PeerToPeer {
        let refusal = |reason: String| PeerToPeer::BenchAnswer {
            number,
            refused: reason,
            token: Vec::new(),
            port: 0,
            bare_port: 0,
        };
        if self.ground.userspace().is_some() {
            return refusal("it is in userspace mode".to_owned());
        }
        if !self.config.bench.respond {
            return refusal("its configuration does not say [bench] respond = true".to_owned());
        }
        self.benches.answering.take_if(|answering| {
            let is_same = answering.asker == *asker;
            answering.responder.is_over() || is_same && answering.number != number
        });
        let answering = match self.benches.answering.take() {
            Some(answering) if answering.asker != *asker => {
                let reason = format!("{} has a bench with it now", answering.asker);
                self.benches.answering = Some(answering);
                return refusal(reason);
            }
            // Asked again because the answer was late.
            Some(answering) => answering,
            None => match self.start_answering(asker, number, seconds) {
                Ok(answering) => answering,
                Err(error) => return refusal(format!("{error:#}")),
            },
        };
        let answer = PeerToPeer::BenchAnswer {
            number,
            refused: String::new(),
            token: answering.responder.token().bytes().to_vec(),
            port: answering.responder.port(),
            bare_port: answering.responder.bare_port().unwrap_or(0),
        };
        self.benches.answering = Some(answering);
        answer
    }

    fn start_answering(
        &self,
        asker: &NodeId,
        number: u64,
        seconds: u32,
    ) -> anyhow::Result<Answering> {
        let addresses = self.bench_addresses(asker);
        let [address, theirs] =
            addresses.ok_or_else(|| anyhow::anyhow!("the two have no addresses of one family"))?;
        let place = Place {
            address,
            device: Some(host_device(&self.identified.overlay)),
            asker: theirs,
            bare: self.config.bench.bare,
        };
        let time = Duration::from_secs(seconds.min(MAX_SECONDS).into());
        let responder = Responder::start(&place, time)?;
        tracing::info!(peer = %asker, port = responder.port(), "answering a bench");
        Ok(Answering {
            asker: asker.clone(),
            number,
            responder,
        })
    }

    /// This node's address and the peer's.
    fn bench_addresses(&self, peer: &NodeId) -> Option<[std::net::IpAddr; 2]> {
        let table = self.keeper.table();
        let row = table.node(&self.identified.node).map(|row| row.node_ip);
        let own = row.or_else(|| self.keeper.candidate_in_use().node_ip())?;
        common(&own, &table.node(peer)?.node_ip)
    }

    fn tell(&self, peer: &NodeId, message: &PeerToPeer) {
        match message.encode() {
            // Without a packet thread the daemon ends soon.
            Ok(bytes) => drop(
                self.packets
                    .handle()
                    .tell_peer(peer.clone(), framed(&bytes)),
            ),
            Err(error) => tracing::error!(%error, "cannot say something to a peer"),
        }
    }
}
