//! What comes from a gateway, and what follows.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::epoch::Epoch;
use super::{
    Fault, Ignored, LIFE_MAX, LOOK, Mapped, Mapper, NatPmp, PORTS_TRIED, RENEWAL_MIN, Stage,
    UPNP_RENEWAL, Upnp,
};
use crate::portmap::http::{self, Progress};
use crate::portmap::natpmp::Answer;
use crate::portmap::upnp::{self, Outcome, Service};
use crate::portmap::{LIFETIME, MAPPING_PORT, Protocol, natpmp, pcp};

/// The first port that is taken instead of one that another host has.
const FIRST_PORT: u16 = 1024;

impl Mapper {
    /// Takes a datagram that came from `from`.
    ///
    /// # Errors
    /// It is not looked at, and counted.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), Ignored> {
        let result = self.take(from, datagram, now);
        if result.is_err() {
            self.counts.ignored += 1;
        }
        result
    }

    fn take(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Result<(), Ignored> {
        if from.ip() != IpAddr::V4(self.gateway.ip) {
            return Err(Ignored::Stranger);
        }
        if from.port() != MAPPING_PORT {
            let found = upnp::location(self.gateway.ip, datagram);
            return self.hear_upnp(found.ok_or(Ignored::Malformed)?);
        }
        if let Some(reply) = pcp::Reply::decode(datagram) {
            return self.hear_pcp(reply, now);
        }
        match natpmp::Reply::decode(datagram) {
            Some(reply) => self.hear_natpmp(reply, now),
            None => Err(Ignored::Malformed),
        }
    }

    fn hear_upnp(&mut self, description: http::Place) -> Result<(), Ignored> {
        let is_asked = match self.stage {
            Stage::Asking { .. } | Stage::Wanting { .. } | Stage::Holding { .. } => true,
            Stage::Resting { .. } | Stage::Ending { .. } | Stage::Ended => false,
        };
        if self.upnp.is_some() || !is_asked {
            return Err(Ignored::Unasked);
        }
        self.spoken.insert(Protocol::Upnp);
        self.upnp = Some(Upnp {
            description,
            service: None,
            address: None,
            external: self.port,
            conflicts: 0,
            permanent: false,
        });
        Ok(())
    }

    fn hear_pcp(&mut self, reply: pcp::Reply, now: Instant) -> Result<(), Ignored> {
        let is_ours = |map: pcp::MapReply| map.nonce == self.nonce && map.internal == self.port;
        let is_wanted = match self.stage {
            Stage::Wanting { with, .. } => with == Protocol::Pcp,
            Stage::Ending { .. } => true,
            Stage::Asking { .. } | Stage::Holding { .. } | Stage::Resting { .. } | Stage::Ended => {
                false
            }
        };
        if reply.map.is_some_and(|map| !is_ours(map) || !is_wanted) {
            return Err(Ignored::Unasked);
        }
        if reply.result == pcp::UNSUPPORTED_VERSION {
            self.refuse_pcp(reply, now);
            return Ok(());
        }
        self.spoken.insert(Protocol::Pcp);
        let has_forgotten = match &mut self.pcp {
            Some(epoch) => epoch.follow(reply.epoch, now),
            None => {
                self.pcp = Some(Epoch::new(reply.epoch, now));
                false
            }
        };
        match (reply.map, self.stage) {
            (Some(_), Stage::Ending { .. }) => self.stage = Stage::Ended,
            (Some(_), _) if reply.result != 0 => self.refuse_pcp(reply, now),
            (Some(map), _) => self.hold(Protocol::Pcp, map.external, reply.lifetime, now),
            (None, _) if has_forgotten => self.forgotten(Protocol::Pcp, now),
            (None, _) => {}
        }
        Ok(())
    }

    fn refuse_pcp(&mut self, reply: pcp::Reply, now: Instant) {
        let is_wanted = matches!(
            self.stage,
            Stage::Wanting {
                with: Protocol::Pcp,
                ..
            }
        );
        if is_wanted {
            let fault = Fault::Refused(Protocol::Pcp, reply.result.into());
            self.give_up(Protocol::Pcp, fault, now);
        } else {
            self.pcp = None;
        }
    }

    fn hear_natpmp(&mut self, reply: natpmp::Reply, now: Instant) -> Result<(), Ignored> {
        let is_wanted = matches!(
            self.stage,
            Stage::Wanting {
                with: Protocol::NatPmp,
                ..
            }
        );
        let is_ending = matches!(self.stage, Stage::Ending { .. });
        if let Answer::Mapped { internal, .. } = reply.answer
            && (internal != self.port || !(is_wanted || is_ending))
        {
            return Err(Ignored::Unasked);
        }
        self.spoken.insert(Protocol::NatPmp);
        let known = self.natpmp.get_or_insert_with(|| NatPmp {
            epoch: Epoch::new(reply.epoch, now),
            address: None,
            granted: None,
        });
        let has_forgotten = known.epoch.follow(reply.epoch, now);
        match reply.answer {
            Answer::Address(ip) => {
                let has_moved = known.address.is_some_and(|former| former != ip);
                known.address = Some(ip);
                if is_wanted {
                    self.hold_natpmp(now);
                } else if has_forgotten || has_moved {
                    self.forgotten(Protocol::NatPmp, now);
                }
            }
            Answer::Mapped { .. } if is_ending => self.stage = Stage::Ended,
            Answer::Mapped {
                external, lifetime, ..
            } => {
                known.granted = Some((external, lifetime));
                self.hold_natpmp(now);
            }
            // Answers that PCP is not spoken are of this kind, too.
            Answer::Refused { result, .. }
                if is_wanted && result != natpmp::UNSUPPORTED_VERSION =>
            {
                let fault = Fault::Refused(Protocol::NatPmp, result);
                self.give_up(Protocol::NatPmp, fault, now);
            }
            Answer::Refused { .. } => {}
        }
        Ok(())
    }

    fn hold_natpmp(&mut self, now: Instant) {
        let Some(known) = &self.natpmp else {
            return;
        };
        if let (Some(ip), Some((port, lifetime))) = (known.address, known.granted) {
            self.hold(Protocol::NatPmp, (ip, port).into(), lifetime, now);
        }
    }

    /// Takes what came over TCP; none if nothing did.
    pub fn handle_fetched(&mut self, answer: Option<&[u8]>, now: Instant) {
        match self.stage {
            Stage::Ending { .. } => self.stage = Stage::Ended,
            Stage::Wanting {
                with: Protocol::Upnp,
                ..
            } => {
                let response = match answer.map(http::read) {
                    Some(Progress::Done(response) | Progress::More(Some(response))) => response,
                    Some(Progress::Wrong | Progress::More(None)) => return self.senseless(now),
                    None => {
                        let fault = Fault::Unanswered(Protocol::Upnp);
                        return self.give_up(Protocol::Upnp, fault, now);
                    }
                };
                self.hear_fetched(&response, now);
            }
            Stage::Wanting { .. }
            | Stage::Asking { .. }
            | Stage::Holding { .. }
            | Stage::Resting { .. }
            | Stage::Ended => {}
        }
    }

    fn hear_fetched(&mut self, response: &http::Response, now: Instant) {
        let gateway = self.gateway.ip;
        let Some(upnp) = &mut self.upnp else {
            return;
        };
        if upnp.service.is_none() {
            upnp.service = Service::find(gateway, &upnp.description, &response.body);
            if upnp.service.is_none() {
                return self.senseless(now);
            }
            return self.ask_for(Protocol::Upnp, 0, now);
        }
        match (upnp::outcome(response), upnp.address) {
            (Outcome::Done(Some(ip)), None) => {
                upnp.address = Some(ip);
                self.ask_for(Protocol::Upnp, 0, now);
            }
            (Outcome::Done(None), None) => self.senseless(now),
            (Outcome::Done(_), Some(ip)) => {
                let external = (ip, upnp.external).into();
                self.hold(Protocol::Upnp, external, LIFETIME, now);
            }
            (Outcome::Refused(upnp::CONFLICT), Some(_)) if upnp.conflicts < PORTS_TRIED => {
                upnp.conflicts += 1;
                let [.., high, low] = self.nonce;
                let step = u16::from_be_bytes([high, low]) | 1;
                upnp.external = upnp.external.wrapping_add(step).max(FIRST_PORT);
                self.ask_for(Protocol::Upnp, 0, now);
            }
            (Outcome::Refused(upnp::ONLY_PERMANENT), Some(_)) if !upnp.permanent => {
                upnp.permanent = true;
                self.ask_for(Protocol::Upnp, 0, now);
            }
            (Outcome::Refused(code), _) => {
                let fault = Fault::Refused(Protocol::Upnp, code);
                self.give_up(Protocol::Upnp, fault, now);
            }
        }
    }

    fn senseless(&mut self, now: Instant) {
        let fault = Fault::Senseless(Protocol::Upnp);
        self.give_up(Protocol::Upnp, fault, now);
    }

    fn hold(&mut self, with: Protocol, external: SocketAddr, lifetime: u32, now: Instant) {
        let is_senseless = external.port() == 0
            || external.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            || lifetime == 0;
        if is_senseless {
            return self.give_up(with, Fault::Senseless(with), now);
        }
        let life = Duration::from_secs(lifetime.into()).min(LIFE_MAX);
        self.mapped = Some(Mapped {
            with,
            external,
            life,
            until: now + life,
        });
        self.fault = None;
        self.failures = 0;
        self.counts.granted += 1;
        let renewal = match with {
            Protocol::Pcp | Protocol::NatPmp => life / 2,
            Protocol::Upnp => (life / 2).min(UPNP_RENEWAL),
        };
        self.stage = Stage::Holding {
            look_at: now + LOOK,
            renew_at: now + renewal.max(RENEWAL_MIN),
        };
    }

    /// The gateway has forgotten everything, or has another address outside.
    fn forgotten(&mut self, with: Protocol, now: Instant) {
        let is_held = self.mapped.is_some_and(|mapped| mapped.with == with);
        if is_held && matches!(self.stage, Stage::Holding { .. }) && self.may_react(now) {
            self.counts.restarts += 1;
            self.want(with, now);
        }
    }
}
