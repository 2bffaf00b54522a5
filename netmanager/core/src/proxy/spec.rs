//! What an operator writes: `LOCAL=TARGET` for a port that is forwarded, `INSTANCE:PORT=LOCAL` for a
//! server that is published.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use weald_proto::name::{InstanceId, NameError};

use super::{Target, TargetError};

/// A local port that leads to a target in the overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Where programs of the host connect to.
    pub listen: SocketAddr,
    /// Where that leads.
    pub target: Target,
}

/// A local server that other nodes reach as an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The instance, which the table has on this node.
    pub instance: InstanceId,
    /// The port at its addresses; never zero.
    pub port: u16,
    /// Where the server listens.
    pub server: SocketAddr,
}

/// What is wrong with a [`Forward`] or a [`Publish`] in text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// There are no two sides.
    #[error("{0:?} has no '='; write it as in {1}")]
    Sides(String, &'static str),
    /// The local side is no address with a port.
    #[error(
        "{0:?} is no local address with a port, as in 127.0.0.1:8080, [::1]:8080, or 8080 alone for 127.0.0.1"
    )]
    Local(String),
    /// The other side is no target.
    #[error("{0:?}: {1}")]
    Target(String, TargetError),
    /// What is published is no instance with a port.
    #[error("{0:?} is no instance with a port, as in shop.prod.web.prod.0:80")]
    Instance(String),
    /// The instance has no such name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// How a forward is written.
const FORWARD: &str = "[::1]:8080=shop.prod.web.prod.rr.local:80";
/// How a publication is written.
const PUBLISH: &str = "shop.prod.web.prod.0:80=127.0.0.1:8080";
/// The longest excerpt of a text that an error shows.
const SHOWN: usize = 128;

impl FromStr for Forward {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (local, target) = sides(text, FORWARD)?;
        Ok(Self {
            listen: local_address(local, true)?,
            target: Target::parse(target)
                .map_err(|error| SpecError::Target(shown(target), error))?,
        })
    }
}

impl FromStr for Publish {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (published, local) = sides(text, PUBLISH)?;
        let wrong = || SpecError::Instance(shown(published));
        let (instance, port) = published.rsplit_once(':').ok_or_else(wrong)?;
        let port = number(port).filter(|port| *port != 0).ok_or_else(wrong)?;
        Ok(Self {
            instance: instance.to_ascii_lowercase().parse()?,
            port,
            server: local_address(local, false)?,
        })
    }
}

fn sides<'a>(text: &'a str, example: &'static str) -> Result<(&'a str, &'a str), SpecError> {
    text.split_once('=')
        .ok_or_else(|| SpecError::Sides(shown(text), example))
}

/// An address with a port, or a port alone; zero, if it may be, is any free port.
fn local_address(text: &str, may_be_zero: bool) -> Result<SocketAddr, SpecError> {
    let wrong = || SpecError::Local(shown(text));
    let address = match number(text) {
        Some(port) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
        None => text.parse().map_err(|_| wrong())?,
    };
    let usable = may_be_zero || (address.port() != 0 && !address.ip().is_unspecified());
    Some(address).filter(|_| usable).ok_or_else(wrong)
}

/// A port, written with digits only.
fn number(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_name_both_ends() {
        for (text, listen, target) in [
            (
                "[::1]:8080=web.prod.rr.local:80",
                "[::1]:8080",
                "web.prod.rr.local:80",
            ),
            ("127.0.0.1:0=10.30.1.1:22", "127.0.0.1:0", "10.30.1.1:22"),
            ("8080=[fdff::1]:80", "127.0.0.1:8080", "[fdff::1]:80"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(forward.listen.to_string(), listen);
            assert_eq!(forward.target.to_string(), target);
        }
    }

    #[test]
    fn forwards_that_are_none_are_refused() {
        let error = |text: &str| text.parse::<Forward>().unwrap_err();
        assert!(matches!(error(""), SpecError::Sides(..)));
        assert!(matches!(error("127.0.0.1:80:web:80"), SpecError::Sides(..)));
        for local in ["", "localhost:80", "+80", "65536", "::1:80", "127.0.0.1"] {
            let error = error(&format!("{local}=web.prod.rr:80"));
            assert!(matches!(error, SpecError::Local(_)), "{local}: {error}");
        }
        for target in ["", "web.prod.rr", "web.prod.rr:", "a=b:0", "fdff::1:80"] {
            let error = error(&format!("8080={target}"));
            assert!(matches!(error, SpecError::Target(..)), "{target}: {error}");
        }
    }

    #[test]
    fn publications_name_an_instance_and_a_server() {
        let publish: Publish = "shop.prod.web.prod.0:80=127.0.0.1:8080".parse().unwrap();
        assert_eq!(publish.instance.to_string(), "shop.prod.web.prod.0");
        assert_eq!((publish.port, publish.server.port()), (80, 8080));
        let error = |text: &str| text.parse::<Publish>().unwrap_err();
        assert!(matches!(
            error("shop.prod.web.prod.0"),
            SpecError::Sides(..)
        ));
        assert!(matches!(
            error("shop.prod.web.prod.0=8080"),
            SpecError::Instance(_)
        ));
        assert!(matches!(
            error("shop.prod.web.prod.0:0=8080"),
            SpecError::Instance(_)
        ));
        assert!(matches!(error("web.prod:80=8080"), SpecError::Name(_)));
        for local in ["", "0", "127.0.0.1:0", "0.0.0.0:80", "host:80"] {
            let error = error(&format!("shop.prod.web.prod.0:80={local}"));
            assert!(matches!(error, SpecError::Local(_)), "{local}: {error}");
        }
    }
}
