//! Layouts of NAT-PMP (RFC 6886): what is asked, and what a gateway answers.
//!
//! Both directions are read and written here, so that tests can be gateways.

use std::net::Ipv4Addr;

use super::array;

/// The version in the first byte.
pub const VERSION: u8 = 0;
/// The result that says that the version asked for is not spoken.
pub const UNSUPPORTED_VERSION: u16 = 1;

const ADDRESS: u8 = 0;
const MAP_UDP: u8 = 1;
/// What a gateway adds to the number of what was asked.
const ANSWER: u8 = 0x80;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The gateway's outside address.
    Address,
    /// A mapping for a UDP port; lifetime 0 removes it.
    Map {
        /// The own port.
        internal: u16,
        /// The outside port that is wished for.
        external: u16,
        /// Seconds.
        lifetime: u32,
    },
}

impl Request {
    /// Writes it.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::Address => vec![VERSION, ADDRESS],
            Self::Map {
                internal,
                external,
                lifetime,
            } => {
                let mut out = vec![VERSION, MAP_UDP, 0, 0];
                out.extend(internal.to_be_bytes());
                out.extend(external.to_be_bytes());
                out.extend(lifetime.to_be_bytes());
                out
            }
        }
    }

    /// Reads one, as a gateway does.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [VERSION, ADDRESS] => Some(Self::Address),
            [VERSION, MAP_UDP, ..] if bytes.len() == 12 => Some(Self::Map {
                internal: u16::from_be_bytes(array(bytes, 4)?),
                external: u16::from_be_bytes(array(bytes, 6)?),
                lifetime: u32::from_be_bytes(array(bytes, 8)?),
            }),
            _ => None,
        }
    }
}

/// What a gateway answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Seconds since the gateway's mappings were new.
    pub epoch: u32,
    /// What it says.
    pub answer: Answer,
}

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// What was asked is not done.
    Refused {
        /// Whether a mapping was asked for; if not, the address.
        map: bool,
        /// Why (RFC 6886, section 3.5).
        result: u16,
    },
    /// The gateway's outside address.
    Address(Ipv4Addr),
    /// There is a mapping, or, with lifetime 0, none any more.
    Mapped {
        /// The own port.
        internal: u16,
        /// The outside port.
        external: u16,
        /// Seconds.
        lifetime: u32,
    },
}

impl Reply {
    /// Writes it, as a gateway does.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let (operation, result) = match self.answer {
            Answer::Refused { map, result } => (if map { MAP_UDP } else { ADDRESS }, result),
            Answer::Address(_) => (ADDRESS, 0),
            Answer::Mapped { .. } => (MAP_UDP, 0),
        };
        let mut out = vec![VERSION, ANSWER | operation];
        out.extend(result.to_be_bytes());
        out.extend(self.epoch.to_be_bytes());
        match self.answer {
            Answer::Refused { .. } => {}
            Answer::Address(ip) => out.extend(ip.octets()),
            Answer::Mapped {
                internal,
                external,
                lifetime,
            } => {
                out.extend(internal.to_be_bytes());
                out.extend(external.to_be_bytes());
                out.extend(lifetime.to_be_bytes());
            }
        }
        out
    }

    /// Reads one; none if it is anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [version, operation] = array(bytes, 0)?;
        if version != VERSION || operation & ANSWER == 0 {
            return None;
        }
        let result = u16::from_be_bytes(array(bytes, 2)?);
        let epoch = u32::from_be_bytes(array(bytes, 4)?);
        let answer = match (operation ^ ANSWER, result) {
            (ADDRESS, 0) => Answer::Address(Ipv4Addr::from(array::<4>(bytes, 8)?)),
            (MAP_UDP, 0) => Answer::Mapped {
                internal: u16::from_be_bytes(array(bytes, 8)?),
                external: u16::from_be_bytes(array(bytes, 10)?),
                lifetime: u32::from_be_bytes(array(bytes, 12)?),
            },
            (ADDRESS | MAP_UDP, result) => Answer::Refused {
                map: operation ^ ANSWER == MAP_UDP,
                result,
            },
            _ => return None,
        };
        Some(Self { epoch, answer })
    }
}
