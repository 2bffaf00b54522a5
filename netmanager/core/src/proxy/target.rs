//! Where a client wants to go, and which address of the overlay that is.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use weald_proto::addr::Dual;
use weald_proto::name::{ApplicationName, Policy, ServiceName};

use super::socks5::Reply;
use crate::dns::{Caller, MAX_NAME_TEXT_LEN, NotResolved, SemanticName, resolve};
use crate::table::Snapshot;

/// A host and a port, as a client writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: TargetHost,
    /// The port; never zero.
    pub port: u16,
}

/// The host of a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetHost {
    /// An address.
    Ip(IpAddr),
    /// A name of printable ASCII, which may or may not mean something.
    Name(String),
}

/// Why a text or some bytes are no [`Target`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// There is no port behind the host.
    #[error("there is no port; write name:port, or [address]:port with IPv6")]
    NoPort,
    /// The port is no number from 1 to 65535.
    #[error("the port is no number from 1 to 65535")]
    Port,
    /// The host is neither a name nor an address.
    #[error("the host has 1 to {MAX_NAME_TEXT_LEN} printable characters of ASCII, without spaces")]
    Host,
}

impl Target {
    /// A host, as a client names it, with its port.
    ///
    /// # Errors
    /// Says which of the two is wrong.
    pub fn new(host: &[u8], port: u16) -> Result<Self, TargetError> {
        if port == 0 {
            return Err(TargetError::Port);
        }
        let host = std::str::from_utf8(host).map_err(|_| TargetError::Host)?;
        // With a final dot it is one longer.
        let fits = (1..=MAX_NAME_TEXT_LEN + 1).contains(&host.len());
        if !fits || !host.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TargetError::Host);
        }
        let host = match host.parse::<IpAddr>() {
            Ok(ip) => TargetHost::Ip(ip.to_canonical()),
            // Only addresses have colons and brackets.
            Err(_) if host.contains([':', '[', ']', '/', '@']) => return Err(TargetError::Host),
            Err(_) => TargetHost::Name(host.to_owned()),
        };
        Ok(Self { host, port })
    }

    /// Reads `name:port`, `192.0.2.1:port` or `[2001:db8::1]:port`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::NoPort)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = Some(port).filter(|_| digits);
        let port = port.and_then(|port| port.parse().ok());
        let port = port.ok_or(TargetError::Port)?;
        let bracketed = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        match bracketed {
            Some(inner) if inner.contains(':') => Self::new(inner.as_bytes(), port),
            Some(_) => Err(TargetError::Host),
            None if host.contains(':') => Err(TargetError::NoPort),
            None => Self::new(host.as_bytes(), port),
        }
    }
}

/// Writes it as [`Target::parse`] reads it.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            TargetHost::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            TargetHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Where in the overlay a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The address to connect to: a service's, an instance's or a node's.
    pub address: SocketAddr,
    /// The service whose distance should be known, because the nearest instance is asked for.
    pub closest: Option<ServiceName>,
    /// The application whose rows should stay known, if the table does not hold everything.
    pub application: Option<ApplicationName>,
}

/// Why a client is not connected to its target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The address is not the overlay's.
    #[error("{0} is not an address of the overlay, and this proxy leads nowhere else")]
    Outside(IpAddr),
    /// The name is not the overlay's, or means nothing there.
    #[error("{0}; only names of the overlay are looked up here, and nobody else is asked")]
    Name(NotResolved),
    /// The application is not known here yet: the cluster must be asked.
    #[error("nothing is known yet of application {0}, and the cluster does not answer")]
    Unasked(ApplicationName),
    /// The node and the target have no address of one family.
    #[error("{0} and this node have no addresses of one family")]
    Family(String),
    /// The target, or the node on its behalf, has refused the connection: nobody listens at the
    /// port, no instance is there, or policy forbids it.
    #[error("{0} refuses the connection: nobody listens there, or no instance is to be reached")]
    Connection(SocketAddr),
    /// The target has not answered in time.
    #[error("{0} does not answer")]
    NoAnswer(SocketAddr),
    /// There are as many connections as there may be.
    #[error("this node has no room for another connection")]
    NoRoom,
}

impl Refused {
    /// What a SOCKS5 client is told.
    #[must_use]
    pub const fn reply(&self) -> Reply {
        match self {
            Self::Outside(_) => Reply::NotAllowed,
            Self::Name(_) | Self::Unasked(_) | Self::Family(_) | Self::NoAnswer(_) => {
                Reply::HostUnreachable
            }
            Self::Connection(_) => Reply::Refused,
            Self::NoRoom => Reply::Failed,
        }
    }
}

/// Finds the address that a target has for the programs of the host, whose addresses in the overlay
/// are `own`. A short name means `application`'s, if there is one.
///
/// # Errors
/// Says why there is no such address; [`Refused::Unasked`] if that may change as soon as the
/// cluster has told of the application.
pub fn locate(
    target: &Target,
    own: Dual,
    application: Option<&ApplicationName>,
    table: &Snapshot,
) -> Result<Located, Refused> {
    let name = match &target.host {
        TargetHost::Ip(ip) if !table.pools().contains(*ip) => return Err(Refused::Outside(*ip)),
        TargetHost::Ip(ip) if own.of_family(*ip).is_none() => {
            return Err(Refused::Family(ip.to_string()));
        }
        TargetHost::Ip(ip) => {
            let address = SocketAddr::new(*ip, target.port);
            let closest = table.service_at(*ip);
            let closest = closest.filter(|(_, policy)| *policy == Policy::Closest);
            return Ok(Located {
                address,
                closest: closest.map(|(service, _)| table.service(service).name.clone()),
                application: None,
            });
        }
        TargetHost::Name(name) => name,
    };
    let own_ip = own.iter().next();
    let ip = own_ip.ok_or_else(|| Refused::Family(name.clone()))?;
    let caller = Caller { ip };
    let resolved = match (resolve(name, &caller, table), application) {
        (Err(NotResolved::NoApplication { .. }), Some(application)) => {
            resolve(&format!("{application}.{name}"), &caller, table)
        }
        (resolved, _) => resolved,
    };
    let resolved = resolved.map_err(|error| {
        match asked_about(name, application, table).filter(|asked| !table.knows(asked)) {
            Some(asked) if matches!(error, NotResolved::UnknownService { .. }) => {
                Refused::Unasked(asked)
            }
            _ => Refused::Name(error),
        }
    })?;
    let mut fitting = resolved.addresses.iter();
    let fitting = fitting.find(|ip| own.of_family(*ip).is_some());
    let ip = fitting.ok_or_else(|| Refused::Family(name.clone()))?;
    let is_closest = resolved.policy == Policy::Closest;
    let service = &table.service(resolved.service).name;
    Ok(Located {
        address: SocketAddr::new(ip, target.port),
        closest: is_closest.then(|| service.clone()),
        application: (!table.is_whole()).then(|| service.application.clone()),
    })
}

/// The application that a name is about, if it is well-formed.
fn asked_about(
    name: &str,
    application: Option<&ApplicationName>,
    table: &Snapshot,
) -> Option<ApplicationName> {
    let asked = SemanticName::parse(name, table.zones()).ok()?;
    asked.application.or_else(|| application.cloned())
}

#[cfg(test)]
mod tests;
