//! The text that is given to whoever is to join.
//!
//! `weald-join-` and base32 of: version (1 byte), role (1), the cluster's name behind its length,
//! the secret (32), SHA-256 of root's certificate (32), the number of addresses (1), each behind its
//! length, and the first 4 bytes of SHA-256 over all that, so that a typo is told as one. All of it
//! together is a secret: it is never shown but by [`JoinToken::to_text`].

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use weald_proto::id::Label;
use weald_proto::join::{JoinRole, JoinSecret};

use super::{base32, sha256};

/// What every token's text starts with.
pub const PREFIX: &str = "weald-join-";
/// Characters of the longest text that is read.
pub const MAX_TEXT_LEN: usize = 4096;
/// How many addresses a token may have.
pub const MAX_ADDRESSES: usize = 8;

/// The version that is written and read.
const VERSION: u8 = 1;
const CHECKSUM_LEN: usize = 4;
/// Characters of the longest address: a DNS name has at most 253.
const MAX_ADDRESS_LEN: usize = 255;

/// Where to dial: an address or a DNS name, with a port. It is never the unspecified address, nor
/// port 0.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DialAddress(Box<str>);

impl DialAddress {
    /// The address as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DialAddress {
    type Err = JoinTokenFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || JoinTokenFault::Address(text.chars().take(MAX_ADDRESS_LEN).collect());
        let address = text.parse::<SocketAddr>();
        if let Ok(address) = address
            && (address.ip().to_canonical().is_unspecified() || address.port() == 0)
        {
            return Err(JoinTokenFault::Undialable(address));
        }
        let good = address.is_ok()
            || text.rsplit_once(':').is_some_and(|(host, port)| {
                host.split('.').all(|label| Label::new(label).is_ok())
                    && port.parse::<u16>().is_ok_and(|port| port != 0)
            });
        if good && text.len() <= MAX_ADDRESS_LEN {
            Ok(Self(text.into()))
        } else {
            Err(shown())
        }
    }
}

impl TryFrom<String> for DialAddress {
    type Error = JoinTokenFault;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DialAddress> for String {
    fn from(address: DialAddress) -> Self {
        address.0.into()
    }
}

impl fmt::Display for DialAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DialAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// An invitation: as what, where, and how both ends prove themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// As what one may join.
    pub role: JoinRole,
    /// The cluster to join, or the name of the new one.
    pub cluster: Label,
    /// What proves that one was invited.
    pub secret: JoinSecret,
    /// SHA-256 of root's certificate, see [`super::fingerprint`].
    pub root: [u8; 32],
    /// Where to dial, 1 to [`MAX_ADDRESSES`].
    pub addresses: Vec<DialAddress>,
}

/// Why a text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenFault {
    /// It starts otherwise.
    #[error("this is no join token: one starts with {PREFIX}")]
    Prefix,
    /// It is longer than any token.
    #[error("the join token has {0} characters, at most {MAX_TEXT_LEN} are read")]
    TooLong(usize),
    /// A character that no token has.
    #[error("the join token has {0:?}; only letters a-z and digits 2-7 follow {PREFIX}")]
    Character(char),
    /// The checksum does not match.
    #[error("the join token has a typo or is not complete; copy it again, as one line")]
    Checksum,
    /// A version that this program does not know.
    #[error("the join token has version {0}, this program reads version {VERSION}; update it")]
    Version(u8),
    /// It is complete, but makes no sense.
    #[error("the join token cannot be read; let a new one be made")]
    Malformed,
    /// It has no address or too many.
    #[error("the join token has {0} addresses to dial; 1 to {MAX_ADDRESSES} are allowed")]
    Addresses(usize),
    /// Something is no address.
    #[error("{0:?} is not of the form address:port or name:port")]
    Address(String),
    /// An address that one can listen on, but nobody can dial.
    #[error(
        "{0} says where to listen, but cannot be dialled; let whoever issues the join token be \
         started with --advertise and an address or name, and a port, that others reach"
    )]
    Undialable(SocketAddr),
}

impl JoinToken {
    /// The token as text, in one line of lower-case letters, digits and `-`.
    ///
    /// # Errors
    /// [`JoinTokenFault::Addresses`].
    pub fn to_text(&self) -> Result<String, JoinTokenFault> {
        let count = self.addresses.len();
        if !(1..=MAX_ADDRESSES).contains(&count) {
            return Err(JoinTokenFault::Addresses(count));
        }
        let mut bytes = vec![VERSION, role_byte(self.role)];
        put(&mut bytes, self.cluster.as_str());
        bytes.extend(self.secret.0);
        bytes.extend(self.root);
        bytes.extend(u8::try_from(count));
        for address in &self.addresses {
            put(&mut bytes, address.as_str());
        }
        bytes.extend(checksum(&bytes));
        Ok(format!("{PREFIX}{}", base32::encode(&bytes)))
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenFault;

    /// Reads a token's text, in either case, white space around it aside.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let start = text.get(..PREFIX.len());
        if !start.is_some_and(|start| start.eq_ignore_ascii_case(PREFIX)) {
            return Err(JoinTokenFault::Prefix);
        }
        if text.len() > MAX_TEXT_LEN {
            return Err(JoinTokenFault::TooLong(text.len()));
        }
        let rest = text.get(PREFIX.len()..).unwrap_or_default();
        let bytes = base32::decode(rest).map_err(JoinTokenFault::Character)?;
        let (bytes, sum) = bytes
            .split_last_chunk::<CHECKSUM_LEN>()
            .ok_or(JoinTokenFault::Checksum)?;
        if *sum != checksum(bytes) {
            return Err(JoinTokenFault::Checksum);
        }
        let mut reader = Reader(bytes);
        match reader.byte()? {
            VERSION => reader.token(),
            version => Err(JoinTokenFault::Version(version)),
        }
    }
}

/// What is left to be read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn token(&mut self) -> Result<JoinToken, JoinTokenFault> {
        let role = match self.byte()? {
            1 => JoinRole::Cluster,
            2 => JoinRole::Worker,
            3 => JoinRole::Relay,
            _ => return Err(JoinTokenFault::Malformed),
        };
        let cluster = Label::new(self.text()?).map_err(|_| JoinTokenFault::Malformed)?;
        let secret = JoinSecret(self.fixed()?);
        let root = self.fixed()?;
        let count = usize::from(self.byte()?);
        if !(1..=MAX_ADDRESSES).contains(&count) {
            return Err(JoinTokenFault::Addresses(count));
        }
        let addresses: Result<_, _> = (0..count).map(|_| self.text()?.parse()).collect();
        let addresses = addresses?;
        if !self.0.is_empty() {
            return Err(JoinTokenFault::Malformed);
        }
        Ok(JoinToken {
            role,
            cluster,
            secret,
            root,
            addresses,
        })
    }

    fn byte(&mut self) -> Result<u8, JoinTokenFault> {
        self.fixed::<1>().map(|[byte]| byte)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], JoinTokenFault> {
        let split = self.0.split_first_chunk::<N>();
        let (chunk, rest) = split.ok_or(JoinTokenFault::Malformed)?;
        self.0 = rest;
        Ok(*chunk)
    }

    fn text(&mut self) -> Result<&str, JoinTokenFault> {
        let len = usize::from(self.byte()?);
        let split = self.0.split_at_checked(len);
        let (text, rest) = split.ok_or(JoinTokenFault::Malformed)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| JoinTokenFault::Malformed)
    }
}

/// Puts a text of at most 255 bytes, as labels and addresses are.
fn put(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(u8::try_from(text.len()));
    bytes.extend(text.as_bytes());
}

const fn role_byte(role: JoinRole) -> u8 {
    match role {
        JoinRole::Cluster => 1,
        JoinRole::Worker => 2,
        JoinRole::Relay => 3,
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let [first, second, third, fourth, ..] = sha256(bytes);
    [first, second, third, fourth]
}
