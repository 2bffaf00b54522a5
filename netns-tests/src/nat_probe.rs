//! What a router does to UDP, found out from both of its sides with plain sockets.
//!
//! The words are those of RFC 4787 (mapping, filtering); the method is RFC 5780's, except that both
//! ends are ours and nothing has to be guessed from silence: whoever may answer last is known to come
//! through, and what is not there by then was filtered. Labs are proven with it before anything is
//! measured in them; it knows nothing of netmanagers.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::nat::Nat;
use crate::node::Node;

/// How long an answer may take that must come.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The ports outside that are talked to.
const OUTSIDE_PORTS: [u16; 2] = [3000, 3001];
/// The first of the ports inside; every question takes the next one.
const INSIDE_PORT: u16 = 40_000;

/// What a router does to UDP that leaves and comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// Which address outsiders see.
    pub mapping: Mapping,
    /// Whom a mapping lets in.
    pub filtering: Filtering,
}

/// Which address outsiders see of one inside socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// The inside one.
    None,
    /// One for all destinations, with the inside port.
    EndpointIndependent,
    /// Another for every destination, each port one more than the last.
    Sequential,
    /// Another for every destination, without a pattern.
    Random,
    /// Nothing comes out.
    Blocked,
}

/// Who may send to a mapping, besides those who were sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    /// Everyone, and to ports that never sent as well: there is no filter.
    None,
    /// Everyone, once the port has sent.
    EndpointIndependent,
    /// Every port of an address that was sent to.
    AddressDependent,
    /// Nobody.
    AddressAndPortDependent,
}

impl Behaviour {
    /// What a router must do that translates like this; `filtered` says whether one without
    /// translation drops what nobody asked for.
    #[must_use]
    pub const fn of(nat: Nat, filtered: bool) -> Self {
        use Filtering::{AddressAndPortDependent, AddressDependent};
        let (mapping, filtering) = match nat {
            Nat::None if filtered => (Mapping::None, AddressAndPortDependent),
            Nat::None => (Mapping::None, Filtering::None),
            Nat::FullCone => (Mapping::EndpointIndependent, Filtering::EndpointIndependent),
            Nat::AddressRestricted => (Mapping::EndpointIndependent, AddressDependent),
            Nat::PortRestricted => (Mapping::EndpointIndependent, AddressAndPortDependent),
            Nat::SequentialSymmetric => (Mapping::Sequential, AddressAndPortDependent),
            Nat::Symmetric => (Mapping::Random, AddressAndPortDependent),
        };
        Self { mapping, filtering }
    }

    /// Finds out what all routers between `inside` and the two outside hosts do together.
    ///
    /// # Errors
    /// A socket cannot be made, or an answer does not come that must.
    pub fn observe(inside: &Node, outside: [&Node; 2], v6: bool) -> Result<Self> {
        let site = Site {
            inside,
            outside,
            v6,
        };
        let mapping = site.mapping()?;
        let filtering = if mapping == Mapping::Blocked {
            Filtering::AddressAndPortDependent
        } else {
            site.filtering()?
        };
        Ok(Self { mapping, filtering })
    }
}

struct Site<'a> {
    inside: &'a Node,
    outside: [&'a Node; 2],
    v6: bool,
}

impl Site<'_> {
    fn socket(&self, node: &Node, port: u16) -> Result<UdpSocket> {
        let address: IpAddr = if self.v6 {
            node.v6().into()
        } else {
            node.v4().into()
        };
        let socket = node.udp_bind(SocketAddr::new(address, port))?;
        socket.set_read_timeout(Some(ANSWER_TIME))?;
        Ok(socket)
    }

    fn mapping(&self) -> Result<Mapping> {
        let inside = self.socket(self.inside, INSIDE_PORT)?;
        let own = inside.local_addr()?;
        let [first, second] = self.outside;
        let [one, other] = OUTSIDE_PORTS;
        let outsiders = [
            self.socket(first, one)?,
            self.socket(first, other)?,
            self.socket(second, one)?,
        ];
        if self.is_blocked(&inside, &outsiders[0])? {
            return Ok(Mapping::Blocked);
        }
        let mut seen = Vec::new();
        for outsider in &outsiders {
            inside.send_to(b"hello", outsider.local_addr()?)?;
            seen.push(outsider.recv_from(&mut [0; 16])?.1);
        }
        let ports: Vec<u16> = seen.iter().map(SocketAddr::port).collect();
        let apart = ports.iter().collect::<BTreeSet<_>>().len();
        if seen.iter().all(|from| *from == own) {
            return Ok(Mapping::None);
        }
        if seen.iter().all(|from| *from == seen[0]) {
            ensure!(
                ports[0] == INSIDE_PORT,
                "port {INSIDE_PORT} became {ports:?}"
            );
            return Ok(Mapping::EndpointIndependent);
        }
        ensure!(apart == ports.len(), "a mapping of no kind: {seen:?}");
        let steps = ports.windows(2);
        let sequential = steps
            .into_iter()
            .all(|pair| pair[1] == pair[0].wrapping_add(1));
        Ok(if sequential {
            Mapping::Sequential
        } else {
            Mapping::Random
        })
    }

    /// Whether UDP to an outsider is lost, which an exchange over TCP after it shows without a wait.
    fn is_blocked(&self, inside: &UdpSocket, outsider: &UdpSocket) -> Result<bool> {
        let to = outsider.local_addr()?;
        let tcp = self.outside[0].tcp_echo(to)?;
        inside.send_to(b"is UDP let through?", to)?;
        self.inside
            .tcp_exchange(tcp.address(), b"TCP is", ANSWER_TIME)
            .context("not even TCP comes through")?;
        outsider.set_nonblocking(true)?;
        let blocked = outsider.recv_from(&mut [0; 32]).is_err();
        outsider.set_nonblocking(false)?;
        Ok(blocked)
    }

    /// Sends to one outsider, and has others answer; the one asked answers last.
    fn filtering(&self) -> Result<Filtering> {
        let inside = self.socket(self.inside, INSIDE_PORT + 1)?;
        let silent = self.socket(self.inside, INSIDE_PORT + 2)?;
        let [first, second] = self.outside;
        let [one, other] = OUTSIDE_PORTS;
        let asked = self.socket(first, one)?;
        inside.send_to(b"hello", asked.local_addr()?)?;
        let (_, mapping) = asked.recv_from(&mut [0; 16])?;
        let stranger = self.socket(second, one)?;
        stranger.send_to(
            b"never asked",
            SocketAddr::new(mapping.ip(), INSIDE_PORT + 2),
        )?;
        self.socket(first, other)?.send_to(b"other port", mapping)?;
        stranger.send_to(b"other address", mapping)?;
        asked.send_to(b"end", mapping)?;
        let mut got = BTreeSet::new();
        loop {
            let mut buffer = [0; 16];
            let length = inside.recv(&mut buffer)?;
            if &buffer[..length] == b"end" {
                break;
            }
            got.insert(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        silent.set_nonblocking(true)?;
        let unasked = silent.recv_from(&mut [0; 16]).is_ok();
        let (port, address) = (got.contains("other port"), got.contains("other address"));
        match (unasked, port, address) {
            (true, true, true) => Ok(Filtering::None),
            (false, true, true) => Ok(Filtering::EndpointIndependent),
            (false, true, false) => Ok(Filtering::AddressDependent),
            (false, false, false) => Ok(Filtering::AddressAndPortDependent),
            (true | false, _, _) => anyhow::bail!(
                "a filter of no kind: never asked {unasked}, other port {port}, other address {address}"
            ),
        }
    }
}
