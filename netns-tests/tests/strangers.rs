//! Peers that a running daemon must refuse, whether they dial it or it dials them: it says why, and
//! nothing else of it changes. How each fault is found is tested beside weald-trust's `tls`.

#[path = "strangers/papers.rs"]
mod papers;
#[path = "strangers/quic.rs"]
mod quic;
#[path = "strangers/revoked.rs"]
mod revoked;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use etherparse::PacketBuilder;
use netns_tests::fleet::DATA_PORT;
use netns_tests::pair::{self, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::{EchoServer, Fleet, Lab, wait};
use serde_json::{Value, json};
use weald_proto::chunk::DatagramKind;
use weald_proto::codec::Message as _;
use weald_proto::id::{Identity, Label, NodeId, RelayId};
use weald_proto::session::{CandidateKind, NatMapping, PeerCandidate, PeerToPeer};
use weald_proto::stream::framed;
use weald_trust::tls::PEER_ALPN;

use self::papers::{Fault, Papers};

const SOON: Duration = Duration::from_secs(10);
/// Alpha's data socket, as the strangers reach it.
const ALPHA: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    DATA_PORT,
);
/// The names of the strangers, each a node of the table with an address and an instance; a
/// stranger's number in addresses and ports is its place here and [`FIRST`].
const NAMES: [&str; 7] = [
    "bare", "liar", "foreign", "expired", "relay", "other", "honest",
];
const FIRST: u8 = 20;

#[test]
fn strangers_who_dial_are_refused_and_nothing_changes() -> Result<()> {
    let cases = [
        ("bare", None, "peer sent no certificates"),
        (
            "liar",
            Some(Fault::Signer),
            "certificate of node home/liar: it names cluster home, but cluster hub signed it",
        ),
        (
            "foreign",
            Some(Fault::Root),
            "certificate of node home/foreign: a signature in its chain is not by the key of root lab",
        ),
        (
            "expired",
            Some(Fault::Expired),
            "certificate of node home/expired: it expired on ",
        ),
        (
            "relay",
            Some(Fault::None),
            "certificate of relay home/relay: only nodes may dial here",
        ),
    ];
    let lab = pair::lab()?;
    let mut site = Site::start(&lab)?;
    for (name, fault, text) in cases {
        let before = site.shown()?;
        let refused = site.refused_handshakes()?;
        let crypto = match fault {
            None => site.papers.none(&node("alpha")?)?,
            Some(fault) => site.client(&identity(name)?, fault)?,
        };
        let met = site.dial(name, crypto)?;
        ensure!(met.datagram.is_none(), "{name} is answered: {met:?}");
        let lost = met.lost.context("the connection lives")?;
        ensure!(lost.contains(text), "{name}: {lost}");
        let line = site.fleet.daemon("alpha").wait_for_line(text, SOON)?;
        ensure!(line.contains("handshake failed"), "{line}");
        let after = site.shown()?;
        ensure!(after == before, "{name}: {before:#}\nthen {after:#}");
        ensure!(site.refused_handshakes()? == refused + 1, "{name}");
        site.honest_traffic_flows()?;
    }
    // The same with nothing wrong: its datagram reaches the instance, and is answered.
    let honest = site.client(&identity("honest")?, Fault::None)?;
    let heard = site.server.requests();
    let met = site.dial("honest", honest)?;
    ensure!(met.datagram.is_some(), "honest: {met:?}");
    ensure!(site.server.requests() == heard + 1);
    Ok(())
}

#[test]
fn strangers_who_are_dialled_are_refused_and_nothing_reaches_them() -> Result<()> {
    let cases = [
        (
            "liar",
            Fault::Signer,
            "certificate of node home/liar: it names cluster home, but cluster hub signed it",
        ),
        (
            "foreign",
            Fault::Root,
            "certificate of node home/foreign: a signature in its chain is not by the key of root lab",
        ),
        (
            "expired",
            Fault::Expired,
            "certificate of node home/expired: it expired on ",
        ),
        (
            "other",
            Fault::None,
            "certificate of node home/somebody: node home/other was dialled, this is somebody else",
        ),
    ];
    let lab = pair::lab()?;
    let site = Site::start(&lab)?;
    let alpha = site.fleet.instance("alpha", ON_ALPHA)?;
    let sender = alpha.udp_bind(SocketAddr::from(([0; 4], 0)))?;
    let up = site.status()?["packets"]["peers_up"].clone();
    for (name, fault, text) in cases {
        let who = if name == "other" { "somebody" } else { name };
        let shown = site.papers.forge(&node(who)?, fault)?;
        let socket = lab
            .node("relay")
            .udp_bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port(name)?))?;
        sender.send_to(b"secret", instance(name)?)?;
        let met = quic::answer(&socket, shown.server_config(&[PEER_ALPN])?, SOON)?;
        ensure!(met.datagram.is_none(), "{name} hears something: {met:?}");
        let lost = met.lost.context("the connection lives")?;
        ensure!(lost.contains(text), "{name}: {lost}");
        let id = format!("home/{name}");
        let peer = wait::until("alpha says why", SOON, || {
            let peer = site.fleet.peer("alpha", &id)?;
            ensure!(peer["state"] == "down", "{peer}");
            Ok(peer)
        })?;
        let reason = peer["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains(text), "{peer}");
        ensure!(
            peer["path"]["kind"] == "none" && peer["sent_bytes"] == 0,
            "{peer}"
        );
        ensure!(site.status()?["packets"]["peers_up"] == up);
        site.honest_traffic_flows()?;
    }
    Ok(())
}

/// A peer with a right certificate names addresses that are not its own: of this host, of the overlay,
/// of everybody, of sites that this host is not at, of a family that it does not have, more than anybody
/// has; and of a third party, which gets few packets that live for two hops, whatever is named.
#[test]
fn a_peer_that_names_third_parties_makes_no_storm_there() -> Result<()> {
    let third = |port| SocketAddr::from(([203, 0, 113, 10], port));
    let beyond = (100..110).map(third);
    let listed: Vec<SocketAddr> = pair::NEVER_SENT_TO
        .iter()
        .map(|at| at.parse())
        .collect::<Result<_, _>>()?;
    let refused = listed.len() as u64;
    let listed = listed.into_iter().chain((1..=6).map(third)).chain(beyond);
    let list = PeerToPeer::Candidates {
        generation: 1,
        mapping: NatMapping::Independent,
        candidates: listed
            .map(|address| PeerCandidate {
                kind: CandidateKind::Reflexive,
                address,
            })
            .collect(),
    };
    let lab = pair::lab()?;
    let site = Site::start_with(&lab, "")?;
    let before = site.fleet.all_drops("alpha")?;
    let capture = lab.node("alpha").capture("eth0")?;
    let honest = site.client(&identity("honest")?, Fault::None)?;
    let any = SocketAddr::from(([0; 4], 0));
    let socket = lab.node("relay").udp_bind(any)?;
    let words = framed(&list.encode()?);
    // It answers no probes, so it is sent away as unreachable after a while, and not before.
    let met = quic::stay(&socket, ALPHA, honest, words, Duration::from_secs(5))?;
    ensure!(met.lost.is_none_or(|why| why.contains("no path answers")));

    let after = site.fleet.all_drops("alpha")?;
    let more = |reason: &str| {
        let of = |drops: &std::collections::BTreeMap<String, u64>| {
            drops.get(reason).copied().unwrap_or(0)
        };
        of(&after) - of(&before)
    };
    ensure!(
        more("candidate_refused") == refused,
        "{before:?} then {after:?}"
    );
    ensure!(
        more("candidate_list_too_long") == 10,
        "{before:?} then {after:?}"
    );
    let captured = capture.stop()?;
    for one in captured.datagrams().filter(|one| one.flow.source == ALPHA) {
        let to = one.flow.destination;
        let known = to.port() > 1024 && to.ip() == third(1).ip();
        ensure!(known || (1..=6).any(|port| to == third(port)), "{to}");
    }
    for port in 1..=6 {
        let sent = captured
            .datagrams()
            .filter(|one| one.flow.destination == third(port));
        let sent = sent.count();
        // At most two short-lived ones in each of three rounds, of which nobody says that it has begun.
        ensure!(sent <= 6, "{sent} to port {port}");
    }
    site.honest_traffic_flows()
}

/// Alpha and beta with a session and a flow, and the strangers' papers.
struct Site<'lab> {
    lab: &'lab Lab,
    fleet: Fleet<'lab>,
    papers: Papers,
    server: EchoServer,
    _echo: EchoServer,
}

impl<'lab> Site<'lab> {
    fn start(lab: &'lab Lab) -> Result<Self> {
        Self::start_with(lab, pair::NO_PUNCHING)
    }

    fn start_with(lab: &'lab Lab, config: &str) -> Result<Self> {
        let mut fleet = pair::start_nodes(lab, TABLE, &pair::NODES, config)?;
        fleet.write_table(&table()?)?;
        let papers = Papers::open(&fleet.authority())?;
        let beta = fleet.instance("beta", ON_BETA)?;
        let alpha = fleet.instance("alpha", ON_ALPHA)?;
        let site = Self {
            lab,
            papers,
            server: alpha.udp_echo(pair::anywhere())?,
            _echo: beta.udp_echo(pair::anywhere())?,
            fleet,
        };
        site.honest_traffic_flows()?;
        pair::wait_path(&site.fleet, "direct", SOON)?;
        wait::until("the table is new", SOON, || {
            site.fleet.peer("alpha", "home/honest").map(drop)
        })?;
        Ok(site)
    }

    fn client(
        &self,
        who: &Identity,
        fault: Fault,
    ) -> Result<quinn_proto::crypto::rustls::QuicClientConfig> {
        let shown = self.papers.forge(who, fault)?;
        shown.client_config(&node("alpha")?, PEER_ALPN)
    }

    /// Dials alpha and says a packet for its instance as soon as QUIC allows it, which for a
    /// client is before the server has judged it.
    fn dial(
        &self,
        name: &str,
        crypto: quinn_proto::crypto::rustls::QuicClientConfig,
    ) -> Result<quic::Met> {
        let any = SocketAddr::from(([0; 4], 0));
        let socket = self.lab.node("relay").udp_bind(any)?;
        quic::dial(&socket, ALPHA, crypto, packet(name)?, SOON)
    }

    fn honest_traffic_flows(&self) -> Result<()> {
        let alpha = self.fleet.instance("alpha", ON_ALPHA)?;
        let echoed = alpha.udp_exchange(pair::at("10.30.1.2"), b"honest", SOON)?;
        ensure!(echoed == b"honest");
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        let status = self.fleet.tool_json("alpha", &["status"])?;
        status.into_iter().next().context("no status")
    }

    fn refused_handshakes(&self) -> Result<u64> {
        let status = self.status()?;
        let refused = status["packets"]["refused_handshakes"].as_u64();
        refused.context("the status does not count refused handshakes")
    }

    /// All that alpha shows of itself and that a stranger could have changed.
    fn shown(&self) -> Result<Value> {
        let status = self.status()?;
        let packets = &status["packets"];
        // The kernel's own, which nobody has to cause.
        let noise = ["link_local", "multicast"];
        let drops = status["nft_drops"].as_array().context("no nft_drops")?;
        let is_noise = |drop: &&Value| noise.iter().any(|noise| drop["reason"] == *noise);
        let drops: Vec<&Value> = drops.iter().filter(|drop| !is_noise(drop)).collect();
        let pick = |value: &Value, fields: &[&str]| -> Value {
            let fields = fields.iter().map(|field| (*field).to_owned());
            fields
                .map(|field| (field.clone(), value[&field].clone()))
                .collect()
        };
        let of_each = |tool: &str, fields: &[&str]| -> Result<Vec<Value>> {
            let values = self.fleet.tool_json("alpha", &[tool])?;
            let values = values.iter().flat_map(netns_tests::fleet::elements);
            Ok(values.map(|value| pick(value, fields)).collect())
        };
        let flow = [
            "protocol",
            "source",
            "source_port",
            "destination",
            "opened_here",
            "node",
        ];
        let peer = [
            "node",
            "state",
            "path",
            "reason",
            "sent_bytes",
            "received_bytes",
        ];
        Ok(json!({
            "status": pick(&status, &["table", "instances", "names"]),
            "nft_drops": drops,
            "packets": pick(packets, &["flows", "peers_up", "peers", "drops"]),
            "written": pick(&packets["traffic"], &["tun_out_packets", "tun_out_bytes"]),
            "flows": of_each("flows", &flow)?,
            "peers": of_each("peers", &peer)?,
            "heard": self.server.requests(),
        }))
    }
}

/// The table of the pair and a node with an instance for each stranger.
fn table() -> Result<String> {
    let mut table = TABLE.to_owned();
    for name in NAMES {
        let (n, port) = (number(name)?, port(name)?);
        write!(
            table,
            "\n[[node]]\nid = \"home/{name}\"\norganisation = \"acme\"\n\
             addresses = [\"203.0.113.10:{port}\"]\nipv4 = \"10.30.0.{n}\"\nipv6 = \"fdff::{n}\"\n\
             [[service]]\napplication = \"home.lab\"\nname = \"{name}.lab\"\n\
             organisation = \"acme\"\n\
             rr = {{ ipv4 = \"10.30.100.{n}\", ipv6 = \"fdff:2000::{n}\" }}\n\
             closest = {{ ipv4 = \"10.30.101.{n}\", ipv6 = \"fdff:1000::{n}\" }}\n\
             [[service.instance]]\nnumber = 0\nnode = \"home/{name}\"\n\
             ipv4 = \"10.30.1.{n}\"\nipv6 = \"fdff::1:{n}\"\n"
        )?;
    }
    Ok(table)
}

/// A QUIC DATAGRAM with a packet from the stranger's instance to alpha's.
fn packet(name: &str) -> Result<Bytes> {
    let builder =
        PacketBuilder::ipv4([10, 30, 1, number(name)?], [10, 30, 1, 1], 64).udp(4000, pair::PORT);
    let mut datagram = vec![DatagramKind::One { needs_csum: false }.first_byte()];
    builder.write(&mut datagram, b"let me in")?;
    Ok(datagram.into())
}

fn number(name: &str) -> Result<u8> {
    let place = NAMES.iter().position(|known| *known == name);
    Ok(FIRST + u8::try_from(place.context("an unknown stranger")?)?)
}

fn port(name: &str) -> Result<u16> {
    Ok(DATA_PORT + u16::from(number(name)?))
}

fn instance(name: &str) -> Result<SocketAddr> {
    Ok(pair::at(&format!("10.30.1.{}", number(name)?)))
}

fn node(name: &str) -> Result<Identity> {
    Ok(Identity::Node(NodeId::new(
        Label::new("home")?,
        Label::new(name)?,
    )))
}

/// Who a stranger says it is.
fn identity(name: &str) -> Result<Identity> {
    match name {
        "relay" => Ok(Identity::Relay(RelayId::new(
            Label::new("home")?,
            Label::new(name)?,
        ))),
        _ => node(name),
    }
}
