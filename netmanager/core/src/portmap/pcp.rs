//! Layouts of PCP (RFC 6887), as much of it as a mapping needs: MAP and ANNOUNCE, over IPv4.
//!
//! Both directions are read and written here, so that tests can be gateways.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{UDP, array};

/// The version in the first byte.
pub const VERSION: u8 = 2;
/// The result that says that the version asked for is not spoken.
pub const UNSUPPORTED_VERSION: u8 = 1;
/// Bytes of the longest message (RFC 6887, section 7).
pub const MAX_LEN: usize = 1100;

const ANNOUNCE: u8 = 0;
const MAP: u8 = 1;
/// What a gateway adds to the number of what was asked.
const ANSWER: u8 = 0x80;
/// Bytes before what is said about the mapping.
const HEADER_LEN: usize = 24;
/// Bytes of what is said about the mapping.
const MAP_LEN: usize = 36;

/// What makes a mapping this node's: whoever does not know it can neither change it nor answer.
pub type Nonce = [u8; 12];

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The address that it comes from, so that the gateway sees a NAT between.
    pub client: Ipv4Addr,
    /// What of it.
    pub question: Question,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Whether the gateway is there, and since when.
    Announce,
    /// A mapping for a UDP port; lifetime 0 removes it.
    Map {
        /// The mapping's nonce.
        nonce: Nonce,
        /// The own port.
        internal: u16,
        /// The outside address and port that are wished for.
        external: (Ipv4Addr, u16),
        /// Seconds.
        lifetime: u32,
    },
}

impl Request {
    /// Writes it.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let (operation, lifetime) = match self.question {
            Question::Announce => (ANNOUNCE, 0),
            Question::Map { lifetime, .. } => (MAP, lifetime),
        };
        let mut out = vec![VERSION, operation, 0, 0];
        out.extend(lifetime.to_be_bytes());
        out.extend(self.client.to_ipv6_mapped().octets());
        if let Question::Map {
            nonce,
            internal,
            external,
            ..
        } = self.question
        {
            put_map(&mut out, nonce, internal, external);
        }
        out
    }

    /// Reads one, as a gateway does.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [version, operation] = array(bytes, 0)?;
        let client = Ipv6Addr::from(array::<16>(bytes, 8)?).to_ipv4_mapped()?;
        let question = match (version, operation) {
            (VERSION, ANNOUNCE) => Question::Announce,
            (VERSION, MAP) => {
                let (nonce, internal, external) = take_map(bytes)?;
                let IpAddr::V4(ip) = external.ip() else {
                    return None;
                };
                Question::Map {
                    nonce,
                    internal,
                    external: (ip, external.port()),
                    lifetime: u32::from_be_bytes(array(bytes, 4)?),
                }
            }
            _ => return None,
        };
        Some(Self { client, question })
    }
}

/// What a gateway answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// 0 if it is done, else why not (RFC 6887, section 7.4).
    pub result: u8,
    /// Seconds: of the mapping, or for how long it is refused.
    pub lifetime: u32,
    /// Seconds since the gateway's mappings were new.
    pub epoch: u32,
    /// The mapping, if one was asked for.
    pub map: Option<MapReply>,
}

/// What an answer says of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapReply {
    /// The nonce that was asked with.
    pub nonce: Nonce,
    /// The own port.
    pub internal: u16,
    /// The address and port outside.
    pub external: SocketAddr,
}

impl Reply {
    /// Writes it, as a gateway does.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let operation = if self.map.is_some() { MAP } else { ANNOUNCE };
        let mut out = vec![VERSION, ANSWER | operation, 0, self.result];
        out.extend(self.lifetime.to_be_bytes());
        out.extend(self.epoch.to_be_bytes());
        out.resize(HEADER_LEN, 0);
        if let Some(map) = self.map {
            put(&mut out, map.nonce, map.internal, map.external);
        }
        out
    }

    /// Reads one; none if it is anything else. Options behind it are not looked at.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [version, operation, _, result] = array(bytes, 0)?;
        let is_whole = (HEADER_LEN..=MAX_LEN).contains(&bytes.len());
        if version != VERSION || !is_whole {
            return None;
        }
        let map = match operation.checked_sub(ANSWER)? {
            ANNOUNCE => None,
            MAP => {
                let (nonce, internal, external) = take_map(bytes)?;
                Some(MapReply {
                    nonce,
                    internal,
                    external,
                })
            }
            _ => return None,
        };
        Some(Self {
            result,
            lifetime: u32::from_be_bytes(array(bytes, 4)?),
            epoch: u32::from_be_bytes(array(bytes, 8)?),
            map,
        })
    }
}

fn put_map(out: &mut Vec<u8>, nonce: Nonce, internal: u16, external: (Ipv4Addr, u16)) {
    put(out, nonce, internal, external.into());
}

fn put(out: &mut Vec<u8>, nonce: Nonce, internal: u16, external: SocketAddr) {
    let ip = match external.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out.extend(nonce);
    out.extend([UDP, 0, 0, 0]);
    out.extend(internal.to_be_bytes());
    out.extend(external.port().to_be_bytes());
    out.extend(ip.octets());
}

fn take_map(bytes: &[u8]) -> Option<(Nonce, u16, SocketAddr)> {
    let map: [u8; MAP_LEN] = array(bytes, HEADER_LEN)?;
    let ip = match Ipv6Addr::from(array::<16>(&map, 20)?) {
        ip if ip.to_ipv4_mapped().is_some() => ip.to_canonical(),
        ip => ip.into(),
    };
    let external = SocketAddr::new(ip, u16::from_be_bytes(array(&map, 18)?));
    let internal = u16::from_be_bytes(array(&map, 16)?);
    (map[12] == UDP).then_some((array(&map, 0)?, internal, external))
}
