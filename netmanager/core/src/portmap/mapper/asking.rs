//! What is said to a gateway: the questions themselves, and how long an answer may take.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::{Event, FETCH_TIME, Mapper, PAUSES, Stage};
use crate::portmap::pcp::{self, Question};
use crate::portmap::{Gateway, LIFETIME, MAPPING_PORT, Protocol, http, natpmp, upnp};

impl Mapper {
    /// Asks what is spoken, of what has not been yet.
    pub(super) fn ask(&mut self, asked: usize, now: Instant) {
        if self.pcp.is_none() {
            self.ask_pcp(Question::Announce);
        }
        if self.natpmp.is_none() {
            self.send(MAPPING_PORT, natpmp::Request::Address.encode());
        }
        if self.upnp.is_none() {
            self.send(upnp::SSDP_PORT, upnp::search(self.gateway.ip));
        }
        self.stage = Stage::Asking {
            asked: asked + 1,
            until: now + pause(asked),
        };
    }

    /// Asks for the mapping.
    pub(super) fn ask_for(&mut self, with: Protocol, asked: usize, now: Instant) {
        let held = self.mapped.map(|mapped| mapped.external);
        let mut wait = pause(asked);
        match with {
            Protocol::Pcp => {
                let external = match held {
                    Some(SocketAddr::V4(at)) => (*at.ip(), at.port()),
                    Some(SocketAddr::V6(_)) | None => (Ipv4Addr::UNSPECIFIED, self.port),
                };
                self.ask_pcp(Question::Map {
                    nonce: self.nonce,
                    internal: self.port,
                    external,
                    lifetime: LIFETIME,
                });
            }
            Protocol::NatPmp => {
                // Asked again each time, for it may be another one.
                self.send(MAPPING_PORT, natpmp::Request::Address.encode());
                let map = natpmp::Request::Map {
                    internal: self.port,
                    external: held.map_or(self.port, |at| at.port()),
                    lifetime: LIFETIME,
                };
                self.send(MAPPING_PORT, map.encode());
            }
            Protocol::Upnp => {
                wait = FETCH_TIME;
                self.fetch_next();
            }
        }
        self.stage = Stage::Wanting {
            with,
            asked: asked + 1,
            until: now + wait,
        };
    }

    /// The next thing to be asked of a UPnP gateway: its description, its address, the mapping.
    pub(super) fn fetch_next(&mut self) {
        let Some(upnp) = &self.upnp else {
            return;
        };
        let Gateway { ip, client } = self.gateway;
        let (port, request) = match (&upnp.service, upnp.address) {
            (None, _) => (upnp.description.port, http::get(ip, &upnp.description)),
            (Some(service), None) => (service.port(), service.address(ip)),
            (Some(service), Some(_)) => {
                let lifetime = if upnp.permanent { 0 } else { LIFETIME };
                let ports = (self.port, upnp.external);
                (service.port(), service.add(ip, client, ports, lifetime))
            }
        };
        self.counts.requests += 1;
        self.events.push_back(Event::Fetch { port, request });
    }

    /// Asks since when the gateway is up.
    pub(super) fn look(&mut self) {
        match self.mapped.map(|mapped| mapped.with) {
            Some(Protocol::Pcp) => self.ask_pcp(Question::Announce),
            Some(Protocol::NatPmp) => self.send(MAPPING_PORT, natpmp::Request::Address.encode()),
            Some(Protocol::Upnp) | None => {}
        }
    }

    /// Asks to remove the mapping, if there is one and it was not asked often enough.
    pub(super) fn ask_to_remove(&mut self, asked: usize, now: Instant) {
        let mapped = self.mapped.filter(|_| asked < PAUSES.len() - 1);
        let Some(mapped) = mapped else {
            self.stage = Stage::Ended;
            return;
        };
        let mut wait = pause(asked);
        match mapped.with {
            Protocol::Pcp => self.ask_pcp(Question::Map {
                nonce: self.nonce,
                internal: self.port,
                external: (Ipv4Addr::UNSPECIFIED, 0),
                lifetime: 0,
            }),
            Protocol::NatPmp => {
                let remove = natpmp::Request::Map {
                    internal: self.port,
                    external: 0,
                    lifetime: 0,
                };
                self.send(MAPPING_PORT, remove.encode());
            }
            Protocol::Upnp => {
                wait = FETCH_TIME;
                let upnp = self.upnp.as_ref();
                if let Some(service) = upnp.and_then(|upnp| upnp.service.as_ref()) {
                    let request = service.remove(self.gateway.ip, mapped.external.port());
                    let port = service.port();
                    self.counts.requests += 1;
                    self.events.push_back(Event::Fetch { port, request });
                }
            }
        }
        self.stage = Stage::Ending {
            asked: asked + 1,
            until: now + wait,
        };
    }

    fn ask_pcp(&mut self, question: Question) {
        let client = self.gateway.client;
        let request = pcp::Request { client, question };
        self.send(MAPPING_PORT, request.encode());
    }

    fn send(&mut self, port: u16, datagram: Vec<u8>) {
        self.counts.requests += 1;
        self.events.push_back(Event::Send { port, datagram });
    }
}

fn pause(asked: usize) -> Duration {
    PAUSES
        .get(asked)
        .or(PAUSES.last())
        .copied()
        .unwrap_or_default()
}
