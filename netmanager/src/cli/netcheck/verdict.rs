//! What follows from what relays saw and what came back: the kind of NAT, and what it is good for.
//!
//! Pure; the words are those of RFC 4787.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use netmanager_core::peer::candidates::{Interface, Surroundings};
use serde::Serialize;
use weald_proto::session::NatMapping;

use crate::api::report::GatewayReport;
use crate::cli::table::{Table, or_dash, rtt};

/// What was found.
#[derive(Debug, Clone, Default)]
pub(super) struct Findings {
    /// The host's own addresses with the lengths of their prefixes.
    pub(super) own: Vec<(SocketAddr, u8)>,
    /// The port of the socket that relays were asked from.
    pub(super) port: u16,
    /// What each port of each relay saw of that socket.
    pub(super) seen: Vec<(SocketAddr, SocketAddr)>,
    /// Whether a datagram came from a port that was never sent to.
    pub(super) other_port: Option<bool>,
    /// Whether one came from a host that was never sent to.
    pub(super) other_host: Option<bool>,
    /// Whether one came back that was sent to the own outside address.
    pub(super) hairpin: Option<bool>,
    /// Whether a relay answers over IPv6; none if none has such an address.
    pub(super) v6: Option<bool>,
    /// The largest packet that was answered.
    pub(super) packet_bytes: Option<u16>,
    /// What the daemon has heard from gateways; none if it asks none.
    pub(super) gateways: Option<Vec<GatewayReport>>,
    /// Every relay.
    pub(super) relays: Vec<RelayFinding>,
}

/// What was found of one relay.
#[derive(Debug, Clone, Default)]
pub(super) struct RelayFinding {
    pub(super) relay: String,
    pub(super) address: Option<SocketAddr>,
    pub(super) rtt: Option<Duration>,
    pub(super) seen: Option<SocketAddr>,
    pub(super) reason: Option<String>,
    /// It is reached, but over TCP only.
    pub(super) over_tcp: bool,
}

impl Findings {
    pub(super) fn is_own(&self, ip: IpAddr) -> bool {
        self.own.iter().any(|(own, _)| own.ip() == ip)
    }

    fn mapping(&self) -> NatMapping {
        let mut here = Surroundings::default();
        here.set_interfaces(self.own.iter().map(|(own, prefix_len)| Interface {
            address: SocketAddr::new(own.ip(), self.port),
            prefix_len: *prefix_len,
        }));
        for (observer, seen) in &self.seen {
            here.observe(*observer, *seen);
        }
        here.mapping()
    }
}

/// The result, with stable names and words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct NetcheckReport {
    /// `works`, `blocked` (relays are reached over TCP, and do not answer over UDP), `no_answer` or
    /// `no_relay`.
    udp: &'static str,
    /// Whether there is a NAT in front of this host.
    nat: Option<bool>,
    /// `independent`, `sequential`, `random` or `unknown`.
    mapping: &'static str,
    /// `none`, `address`, `address_and_port`, `none_or_address` or `unknown`.
    filtering: &'static str,
    hairpin: Option<bool>,
    /// `works`, `no_answer`, `no_relay` or `no_address`.
    ipv6: &'static str,
    path_mtu: Option<u16>,
    /// Where this host is seen.
    outside: Vec<SocketAddr>,
    /// `works`, `refused` (a gateway speaks, and maps nothing of use), `no_gateway_speaks` or `off`.
    port_mapping: &'static str,
    /// What gateways speak, and what they have mapped.
    gateways: Vec<GatewayReport>,
    relays: Vec<RelayLine>,
    /// What an operator could change; empty if nothing is in the way.
    advice: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RelayLine {
    relay: String,
    address: Option<SocketAddr>,
    rtt_us: Option<u64>,
    seen: Option<SocketAddr>,
    nearest: bool,
    /// `relay`, `relay-tcp` if it is reached over TCP only, or `none`.
    way: &'static str,
    reason: Option<String>,
}

impl NetcheckReport {
    pub(super) fn of(found: &Findings) -> Self {
        let answered = found.relays.iter().any(|relay| relay.rtt.is_some());
        let over_tcp = found.relays.iter().any(|relay| relay.over_tcp);
        let udp = match (answered, over_tcp, found.relays.is_empty()) {
            (true, _, _) => "works",
            (false, true, _) => "blocked",
            (false, false, false) => "no_answer",
            (false, false, true) => "no_relay",
        };
        let mapping = found.mapping();
        let filtering = match (found.other_port, found.other_host) {
            (None, _) => "unknown",
            (Some(false), _) => "address_and_port",
            (Some(true), None) => "none_or_address",
            (Some(true), Some(false)) => "address",
            (Some(true), Some(true)) => "none",
        };
        let has_v6 = found.own.iter().any(|(own, _)| own.is_ipv6());
        let ipv6 = match (found.v6, has_v6) {
            (Some(true), _) => "works",
            (_, false) => "no_address",
            (Some(false), true) => "no_answer",
            (None, true) => "no_relay",
        };
        let mut outside: Vec<SocketAddr> = found.seen.iter().map(|(_, seen)| *seen).collect();
        outside.sort();
        outside.dedup();
        let least = found.relays.iter().filter_map(|relay| relay.rtt).min();
        let relays = found.relays.iter().map(|relay| RelayLine {
            relay: relay.relay.clone(),
            address: relay.address,
            rtt_us: relay
                .rtt
                .and_then(|rtt| u64::try_from(rtt.as_micros()).ok()),
            seen: relay.seen,
            nearest: relay.rtt.is_some() && relay.rtt == least,
            way: match (relay.rtt, relay.over_tcp) {
                (Some(_), _) => "relay",
                (None, true) => "relay-tcp",
                (None, false) => "none",
            },
            reason: relay.reason.clone(),
        });
        let port_mapping = port_mapping(found.gateways.as_deref());
        let nat = outside.first().map(|seen| !found.is_own(seen.ip()));
        Self {
            udp,
            nat,
            mapping: word_of(mapping),
            filtering,
            hairpin: found.hairpin,
            ipv6,
            path_mtu: found.packet_bytes,
            outside,
            port_mapping,
            gateways: found.gateways.clone().unwrap_or_default(),
            relays: relays.collect(),
            advice: if port_mapping == "works" {
                ""
            } else {
                advice(udp, mapping)
            },
        }
    }

    pub(super) fn text(&self) -> String {
        let mut table = Table::default();
        let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
        let yes_or_no = |is: Option<bool>| match is {
            Some(true) => "yes".to_owned(),
            Some(false) => "no".to_owned(),
            None => "unknown".to_owned(),
        };
        row("UDP", self.udp.to_owned());
        row("NAT", yes_or_no(self.nat));
        row("mapping of ports", self.mapping.to_owned());
        row("filtering by", self.filtering.to_owned());
        row("hairpin", yes_or_no(self.hairpin));
        row("IPv6", self.ipv6.to_owned());
        let mtu = self.path_mtu.map(|mtu| format!("{mtu} bytes"));
        row("path MTU", or_dash(mtu.as_deref()));
        row("port mapping", self.port_mapping.to_owned());
        for gateway in &self.gateways {
            row("gateway", gateway.to_string());
        }
        for seen in &self.outside {
            row("seen at", seen.to_string());
        }
        for relay in &self.relays {
            let address = relay.address.map(|address| address.to_string());
            let address = or_dash(address.as_deref());
            let state = match (&relay.rtt_us, &relay.reason) {
                (Some(_), _) if relay.nearest => format!("rtt {}, nearest", rtt(relay.rtt_us)),
                (Some(_), _) => format!("rtt {}", rtt(relay.rtt_us)),
                (None, _) if relay.way == "relay-tcp" => "relay-tcp, no answer over UDP".to_owned(),
                (None, Some(reason)) => format!("no answer: {reason}"),
                (None, None) => "no answer".to_owned(),
            };
            row("relay", format!("{} at {address}: {state}", relay.relay));
        }
        let mut text = table.text();
        if !self.advice.is_empty() {
            text.push_str("\nTo be reached directly: ");
            text.push_str(self.advice);
            text.push_str(".\n");
        }
        text
    }
}

/// Whether gateways lead ports here, in a word.
fn port_mapping(gateways: Option<&[GatewayReport]>) -> &'static str {
    let Some(gateways) = gateways else {
        return "off";
    };
    let works = |it: &GatewayReport| it.external.is_some() && it.refused.is_none();
    if gateways.iter().any(works) {
        "works"
    } else if gateways.iter().any(|it| !it.speaks.is_empty()) {
        "refused"
    } else {
        "no_gateway_speaks"
    }
}

const fn word_of(mapping: NatMapping) -> &'static str {
    match mapping {
        NatMapping::Unknown => "unknown",
        NatMapping::Independent => "independent",
        NatMapping::Sequential => "sequential",
        NatMapping::Random => "random",
    }
}

fn advice(udp: &str, mapping: NatMapping) -> &'static str {
    match (udp, mapping) {
        ("no_relay", _) => {
            "name a relay outside this network in the table, so that it can be examined"
        }
        ("blocked", _) => "allow outgoing UDP on the router",
        ("no_answer", _) => "allow outgoing UDP on the router, and look whether the relays run",
        (_, NatMapping::Random | NatMapping::Sequential) => {
            "have the router map ports (PCP, NAT-PMP or UPnP) or keep them (endpoint-independent \
             mapping), or forward the data port and name that address under advertise in [paths]"
        }
        (_, NatMapping::Independent | NatMapping::Unknown) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn found(seen: [&str; 2]) -> Findings {
        Findings {
            own: vec![(at("192.168.7.11:10260"), 24)],
            port: 4000,
            seen: vec![
                (at("198.51.100.1:10250"), at(seen[0])),
                (at("198.51.100.1:10251"), at(seen[1])),
            ],
            relays: vec![RelayFinding {
                relay: "hub/r1".to_owned(),
                address: Some(at("198.51.100.1:10250")),
                rtt: Some(Duration::from_micros(1234)),
                seen: Some(at(seen[0])),
                reason: None,
                over_tcp: false,
            }],
            ..Findings::default()
        }
    }

    #[test]
    fn the_kind_of_a_nat_follows_from_what_was_seen_and_what_came() {
        let cases = [
            ("203.0.113.2:4000", "203.0.113.2:4000", "independent"),
            ("203.0.113.2:4000", "203.0.113.2:4001", "sequential"),
            ("203.0.113.2:4000", "203.0.113.2:50001", "random"),
        ];
        for (first, second, mapping) in cases {
            let report = NetcheckReport::of(&found([first, second]));
            assert_eq!((report.udp, report.mapping), ("works", mapping));
            assert_eq!(report.nat, Some(true));
            assert_eq!(report.advice.is_empty(), mapping == "independent");
        }
        let filters = [
            (None, None, "unknown"),
            (Some(false), None, "address_and_port"),
            (Some(true), None, "none_or_address"),
            (Some(true), Some(false), "address"),
            (Some(true), Some(true), "none"),
        ];
        for (other_port, other_host, filtering) in filters {
            let report = NetcheckReport::of(&Findings {
                other_port,
                other_host,
                ..found(["203.0.113.2:4000"; 2])
            });
            assert_eq!(report.filtering, filtering);
        }
    }

    #[test]
    fn a_host_without_a_nat_sees_itself() {
        let report = NetcheckReport::of(&found(["192.168.7.11:4000"; 2]));
        assert_eq!(report.nat, Some(false));
        assert_eq!(report.mapping, "independent");
        assert_eq!(report.ipv6, "no_address");
    }

    #[test]
    fn silence_is_told_from_a_table_without_relays() {
        let mut silent = found(["203.0.113.2:4000"; 2]);
        silent.seen.clear();
        silent.relays[0].rtt = None;
        silent.relays[0].reason = Some("the relay did not answer".to_owned());
        let report = NetcheckReport::of(&silent);
        assert_eq!((report.udp, report.mapping), ("no_answer", "unknown"));
        let text = report.text();
        for part in [
            "no answer: the relay did not answer",
            "To be reached directly: allow outgoing UDP",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        silent.relays[0].over_tcp = true;
        let report = NetcheckReport::of(&silent);
        assert_eq!((report.udp, report.relays[0].way), ("blocked", "relay-tcp"));
        let text = report.text();
        assert!(text.contains("relay-tcp, no answer over UDP"), "{text}");
        silent.relays.clear();
        assert_eq!(NetcheckReport::of(&silent).udp, "no_relay");
    }

    #[test]
    fn the_nearest_relay_is_marked() {
        let mut two = found(["203.0.113.2:4000"; 2]);
        let mut far = two.relays[0].clone();
        far.relay = "hub/far".to_owned();
        far.rtt = Some(Duration::from_millis(80));
        two.relays.insert(0, far);
        let report = NetcheckReport::of(&two);
        let nearest: Vec<bool> = report.relays.iter().map(|relay| relay.nearest).collect();
        assert_eq!(nearest, [false, true]);
        assert!(report.text().contains("rtt 1.234 ms, nearest"));
    }

    #[test]
    fn what_gateways_speak_is_said() {
        let mut found = found(["203.0.113.2:4000", "203.0.113.2:50001"]);
        let said = |found: &Findings| NetcheckReport::of(found).port_mapping;
        assert_eq!(said(&found), "off");
        found.gateways = Some(Vec::new());
        assert_eq!(said(&found), "no_gateway_speaks");
        let gateway = GatewayReport {
            gateway: [192, 168, 7, 1].into(),
            own: [192, 168, 7, 11].into(),
            speaks: vec!["pcp".to_owned(), "nat_pmp".to_owned()],
            state: "resting".to_owned(),
            protocol: None,
            external: None,
            granted_s: None,
            refused: None,
            reason: Some("refused_by_pcp: 2".to_owned()),
            requests: 9,
            grants: 0,
            refusals: 1,
            ignored: 0,
            restarts: 0,
        };
        found.gateways = Some(vec![gateway.clone()]);
        assert_eq!(said(&found), "refused");
        let text = NetcheckReport::of(&found).text();
        let line = "192.168.7.1, speaks pcp, nat_pmp: resting, refused_by_pcp: 2";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("To be reached directly"), "{text}");
        let mapped = |refused: Option<&str>| GatewayReport {
            protocol: Some("pcp".to_owned()),
            external: Some(at("203.0.113.2:10260")),
            refused: refused.map(str::to_owned),
            reason: None,
            ..gateway.clone()
        };
        found.gateways = Some(vec![mapped(Some("private_address"))]);
        assert_eq!(said(&found), "refused");
        found.gateways = Some(vec![mapped(None)]);
        assert_eq!(said(&found), "works");
        let text = NetcheckReport::of(&found).text();
        assert!(text.contains(": 203.0.113.2:10260 by pcp\n"), "{text}");
        assert!(!text.contains("To be reached directly"), "{text}");
    }
}
