//! SOCKS5 (RFC 1928) as far as it is offered: no authentication, CONNECT.
//!
//! Both messages are read from the beginning of what has come; nothing is kept between two calls,
//! so a client that sends byte by byte costs no more than what its socket holds.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Target, TargetError};

/// The version of every message.
pub const VERSION: u8 = 5;
/// The longest greeting.
pub const MAX_GREETING_LEN: usize = 2 + 255;
/// The longest request: with a name of 255 bytes.
pub const MAX_REQUEST_LEN: usize = 4 + 1 + 255 + 2;
/// The answer to a greeting: no authentication.
pub const NO_AUTHENTICATION: [u8; 2] = [VERSION, METHOD_NONE];
/// The answer to a greeting without an acceptable method.
pub const NO_METHOD: [u8; 2] = [VERSION, 0xff];

const METHOD_NONE: u8 = 0;
const COMMAND_CONNECT: u8 = 1;
const ADDRESS_V4: u8 = 1;
const ADDRESS_NAME: u8 = 3;
const ADDRESS_V6: u8 = 4;

/// What is wrong with a client's message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Socks5Error {
    /// It does not speak this version; what it speaks is not answered.
    #[error("version {0}, where SOCKS 5 is spoken")]
    Version(u8),
    /// It wants to authenticate itself by all means.
    #[error("no method without authentication is offered")]
    NoMethod,
    /// It wants something else than CONNECT.
    #[error("command {0}; only CONNECT is offered")]
    Command(u8),
    /// It names its target in a form that does not exist.
    #[error("address type {0}")]
    AddressType(u8),
    /// What it names is no target.
    #[error(transparent)]
    Target(#[from] TargetError),
}

impl Socks5Error {
    /// What to answer before the connection is closed; nothing to one that speaks another protocol.
    #[must_use]
    pub fn answer(&self) -> Vec<u8> {
        match self {
            Self::Version(_) => Vec::new(),
            Self::NoMethod => NO_METHOD.to_vec(),
            Self::Command(_) => Reply::Command.encode(None),
            Self::AddressType(_) => Reply::AddressType.encode(None),
            Self::Target(_) => Reply::HostUnreachable.encode(None),
        }
    }
}

/// How a request ended (RFC 1928, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// It is connected.
    Succeeded = 0,
    /// This node cannot serve it now.
    Failed = 1,
    /// It must not go there.
    NotAllowed = 2,
    /// There is no such host, or it does not answer.
    HostUnreachable = 4,
    /// The target has refused.
    Refused = 5,
    /// Only CONNECT is offered.
    Command = 7,
    /// There is no such form of addresses.
    AddressType = 8,
}

impl Reply {
    /// The reply's bytes; `bound` is this node's end of the connection.
    #[must_use]
    pub fn encode(self, bound: Option<SocketAddr>) -> Vec<u8> {
        let bound = bound.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let mut bytes = vec![VERSION, self as u8, 0];
        match bound.ip() {
            IpAddr::V4(ip) => {
                bytes.push(ADDRESS_V4);
                bytes.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes.push(ADDRESS_V6);
                bytes.extend(ip.octets());
            }
        }
        bytes.extend(bound.port().to_be_bytes());
        bytes
    }
}

/// Reads a greeting that offers to go without authentication; its length, or none if it is not all
/// here.
///
/// # Errors
/// What is wrong with it, as soon as that can be seen.
pub fn greeting(bytes: &[u8]) -> Result<Option<usize>, Socks5Error> {
    let Some((version, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    check_version(*version)?;
    let Some((count, methods)) = rest.split_first() else {
        return Ok(None);
    };
    let count = usize::from(*count);
    let Some(methods) = methods.get(..count) else {
        return Ok(None);
    };
    if methods.contains(&METHOD_NONE) {
        Ok(Some(2 + count))
    } else {
        Err(Socks5Error::NoMethod)
    }
}

/// Reads a request; its target and its length, or none if it is not all here.
///
/// # Errors
/// What is wrong with it, as soon as that can be seen.
pub fn request(bytes: &[u8]) -> Result<Option<(Target, usize)>, Socks5Error> {
    if let Some(version) = bytes.first() {
        check_version(*version)?;
    }
    if let Some(command) = bytes.get(1).filter(|command| **command != COMMAND_CONNECT) {
        return Err(Socks5Error::Command(*command));
    }
    let Some((kind, rest)) = bytes.get(3..).and_then(<[u8]>::split_first) else {
        return Ok(None);
    };
    let (host, rest) = match *kind {
        ADDRESS_V4 => match rest.split_first_chunk::<4>() {
            Some((octets, rest)) => (IpAddr::from(*octets).to_string().into_bytes(), rest),
            None => return Ok(None),
        },
        ADDRESS_V6 => match rest.split_first_chunk::<16>() {
            Some((octets, rest)) => (IpAddr::from(*octets).to_string().into_bytes(), rest),
            None => return Ok(None),
        },
        ADDRESS_NAME => {
            let Some((len, rest)) = rest.split_first() else {
                return Ok(None);
            };
            match rest.split_at_checked(usize::from(*len)) {
                Some((name, rest)) => (name.to_vec(), rest),
                None => return Ok(None),
            }
        }
        other => return Err(Socks5Error::AddressType(other)),
    };
    let Some((port, behind)) = rest.split_first_chunk::<2>() else {
        return Ok(None);
    };
    let target = Target::new(&host, u16::from_be_bytes(*port))?;
    Ok(Some((target, bytes.len() - behind.len())))
}

const fn check_version(version: u8) -> Result<(), Socks5Error> {
    if version == VERSION {
        Ok(())
    } else {
        Err(Socks5Error::Version(version))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::TargetHost;
    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_refused_or_part_of_one(
            head in prop::sample::select(vec![&[][..], &[5], &[5, 2, 0], &[5, 1, 0], &[5, 1, 0, 3]]),
            rest in prop::collection::vec(any::<u8>(), 0..MAX_REQUEST_LEN),
        ) {
            let bytes = [head, &rest].concat();
            for (len, longest) in [
                (greeting(&bytes), MAX_GREETING_LEN),
                (request(&bytes).map(|read| read.map(|(_, len)| len)), MAX_REQUEST_LEN),
            ] {
                match len {
                    Ok(Some(len)) => prop_assert!((2..=longest.min(bytes.len())).contains(&len)),
                    Ok(None) => prop_assert!(bytes.len() < longest, "waits for more"),
                    Err(error) => prop_assert!(error.answer().len() <= 10),
                }
            }
        }
    }

    fn name(text: &str, port: u16) -> Target {
        let host = TargetHost::Name(text.to_owned());
        Target { host, port }
    }

    fn named(text: &[u8], port: u16) -> Vec<u8> {
        let mut bytes = vec![5, 1, 0, 3, u8::try_from(text.len()).unwrap()];
        bytes.extend(text);
        bytes.extend(port.to_be_bytes());
        bytes
    }

    #[test]
    fn a_greeting_is_read_when_it_is_all_there() {
        for part in [&[][..], &[5], &[5, 2], &[5, 2, 2]] {
            assert_eq!(greeting(part), Ok(None), "{part:?}");
        }
        assert_eq!(greeting(&[5, 2, 2, 0]), Ok(Some(4)));
        assert_eq!(greeting(&[5, 1, 0, 5, 1]), Ok(Some(3)), "more follows");
        let mut all = vec![5, 255];
        all.extend((0..255).rev());
        assert_eq!(greeting(&all), Ok(Some(MAX_GREETING_LEN)));
    }

    #[test]
    fn greetings_that_are_none_are_refused() {
        assert_eq!(greeting(&[4, 1]), Err(Socks5Error::Version(4)));
        assert_eq!(greeting(b"GET / HTTP/1.1"), Err(Socks5Error::Version(b'G')));
        assert_eq!(greeting(&[5, 0]), Err(Socks5Error::NoMethod));
        assert_eq!(greeting(&[5, 2, 1, 2]), Err(Socks5Error::NoMethod));
    }

    #[test]
    fn requests_name_their_target_in_three_forms() {
        let by_name = named(b"web.prod.rr.local", 80);
        let expected = name("web.prod.rr.local", 80);
        let len = by_name.len();
        assert_eq!(request(&by_name), Ok(Some((expected, len))));
        for end in 0..len {
            assert_eq!(request(&by_name[..end]), Ok(None), "{end} bytes");
        }
        let v4 = [5, 1, 0, 1, 10, 30, 0, 1, 0x1f, 0x90, 0xff];
        let expected = Target::parse("10.30.0.1:8080").unwrap();
        assert_eq!(request(&v4), Ok(Some((expected, 10))));
        let mut v6 = vec![5, 1, 0, 4, 0xfd, 0xff];
        v6.extend([0; 13]);
        v6.extend([1, 0, 80]);
        let expected = Target::parse("[fdff::1]:80").unwrap();
        assert_eq!(request(&v6), Ok(Some((expected, 22))));
        // Some clients write addresses as names.
        let expected = Target::parse("10.30.0.1:80").unwrap();
        let written = named(b"10.30.0.1", 80);
        assert_eq!(request(&written), Ok(Some((expected, written.len()))));
    }

    #[test]
    fn malformed_requests_are_refused_with_a_reply_that_fits() {
        let reply_of = |bytes: &[u8]| request(bytes).unwrap_err().answer().get(1).copied();
        assert_eq!(reply_of(&[4]), None);
        assert_eq!(reply_of(&[5, 2]), Some(7), "BIND");
        assert_eq!(reply_of(&[5, 3, 0, 1]), Some(7), "UDP ASSOCIATE");
        assert_eq!(reply_of(&[5, 1, 0, 2]), Some(8));
        assert_eq!(reply_of(&named(b"", 80)), Some(4));
        assert_eq!(reply_of(&named(b"web.prod.rr", 0)), Some(4));
        assert_eq!(reply_of(&named(b"a b", 80)), Some(4));
        assert_eq!(reply_of(&named(&[0xff; 9], 80)), Some(4));
        assert_eq!(reply_of(&named(&[b'a'; 255], 80)), Some(4));
        assert_eq!(reply_of(&named(b"nul\0", 80)), Some(4));
    }

    #[test]
    fn replies_say_where_this_end_is() {
        let nothing = [5, 5, 0, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(Reply::Refused.encode(None), nothing);
        let bound = "10.30.0.1:258".parse().ok();
        let bytes = [5, 0, 0, 1, 10, 30, 0, 1, 1, 2];
        assert_eq!(Reply::Succeeded.encode(bound), bytes);
        let bound = "[fdff::1]:258".parse().ok();
        let bytes = Reply::Succeeded.encode(bound);
        assert_eq!((bytes.len(), bytes[3], bytes[19]), (22, 4, 1));
    }
}
