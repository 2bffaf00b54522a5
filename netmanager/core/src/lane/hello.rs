//! The first bytes of a stream: whose connection it is and where it goes.
//!
//! ```text
//! 0       1        2              4             8 (or 20)     10 (or 22)
//! version  family   client's port  client's IP   target's port  target's IP
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

/// The version of the layout.
const VERSION: u8 = 1;
/// The family byte of IPv4.
const V4: u8 = 4;
/// The family byte of IPv6.
const V6: u8 = 6;
/// Bytes before the addresses.
const HEAD_LEN: usize = 2;
/// Bytes of the longest opening.
pub const MAX_HELLO_LEN: usize = HEAD_LEN + 2 * (2 + 16);

/// The opening of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The address that the server shall see.
    pub client: SocketAddr,
    /// The instance's address and port.
    pub target: SocketAddr,
}

/// Why bytes are no opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HelloError {
    /// More bytes are needed.
    #[error("the opening of the stream is not all here")]
    Incomplete,
    /// A version that this node does not speak.
    #[error("version {0} of the opening of a stream")]
    Version(u8),
    /// Neither IPv4 nor IPv6.
    #[error("address family {0}")]
    Family(u8),
}

impl Hello {
    /// The bytes; both addresses must be of one family, which those of a flow are.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let family = if self.client.is_ipv4() { V4 } else { V6 };
        let mut bytes = vec![VERSION, family];
        for address in [self.client, self.target] {
            bytes.extend_from_slice(&address.port().to_be_bytes());
            match address.ip() {
                IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
            }
        }
        bytes
    }

    /// Reads an opening; the result is it and its length. What follows is the client's.
    ///
    /// # Errors
    /// It is not all there, or not understood.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), HelloError> {
        let (version, rest) = bytes.split_first().ok_or(HelloError::Incomplete)?;
        if *version != VERSION {
            return Err(HelloError::Version(*version));
        }
        let (family, rest) = rest.split_first().ok_or(HelloError::Incomplete)?;
        let v6 = match *family {
            V4 => false,
            V6 => true,
            other => return Err(HelloError::Family(other)),
        };
        let len = if v6 { 16 } else { 4 };
        let read = if v6 { read_v6 } else { read_v4 };
        let address = |at: usize| -> Option<SocketAddr> {
            let port = rest.get(at..)?.first_chunk::<2>()?;
            let ip = read(rest.get(at + 2..)?)?;
            Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
        };
        let (client, target) = (address(0), address(2 + len));
        let (Some(client), Some(target)) = (client, target) else {
            return Err(HelloError::Incomplete);
        };
        Ok((Self { client, target }, HEAD_LEN + 2 * (2 + len)))
    }
}

fn read_v4(bytes: &[u8]) -> Option<IpAddr> {
    let octets = bytes.first_chunk::<4>()?;
    Some(Ipv4Addr::from(*octets).into())
}

fn read_v6(bytes: &[u8]) -> Option<IpAddr> {
    let octets = bytes.first_chunk::<16>()?;
    Some(Ipv6Addr::from(*octets).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_as_they_would_be_written_or_refused(
            head in prop::option::of((Just(VERSION), prop_oneof![Just(V4), Just(V6)])),
            rest in prop::collection::vec(any::<u8>(), 0..MAX_HELLO_LEN + 4),
        ) {
            let head = head.map_or_else(Vec::new, |(version, family)| vec![version, family]);
            let bytes = [head, rest].concat();
            match Hello::decode(&bytes) {
                Ok((hello, len)) => prop_assert_eq!(&hello.encode()[..], &bytes[..len]),
                Err(HelloError::Incomplete) => prop_assert!(bytes.len() < MAX_HELLO_LEN),
                Err(HelloError::Version(version)) => prop_assert_eq!(version, bytes[0]),
                Err(HelloError::Family(family)) => prop_assert_eq!(family, bytes[1]),
            }
        }
    }

    fn hello(client: &str, target: &str) -> Hello {
        Hello {
            client: client.parse().unwrap(),
            target: target.parse().unwrap(),
        }
    }

    #[test]
    fn the_layout_is_fixed() {
        let bytes = hello("10.30.1.1:258", "10.30.1.2:7000").encode();
        assert_eq!(bytes, [1, 4, 1, 2, 10, 30, 1, 1, 0x1b, 0x58, 10, 30, 1, 2]);
    }

    #[test]
    fn what_is_written_is_read_and_every_shorter_piece_is_incomplete() {
        for hello in [
            hello("10.30.1.1:40000", "10.30.1.2:80"),
            hello("[fdff::1:1]:1", "[fdff::1:2]:65535"),
        ] {
            let mut bytes = hello.encode();
            let len = bytes.len();
            assert!(len <= MAX_HELLO_LEN);
            for short in 0..len {
                assert_eq!(Hello::decode(&bytes[..short]), Err(HelloError::Incomplete));
            }
            bytes.extend_from_slice(b"GET /");
            assert_eq!(Hello::decode(&bytes), Ok((hello, len)));
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(Hello::decode(&[2]), Err(HelloError::Version(2)));
        assert_eq!(Hello::decode(&[1, 5]), Err(HelloError::Family(5)));
    }
}
