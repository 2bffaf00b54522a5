//! What clients of the host connect to.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context as _, ensure};
use netmanager_core::proxy::Target;
use serde::Serialize;

use super::UserspaceConfig;

/// What a client speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Door {
    /// SOCKS5.
    Socks,
    /// HTTP CONNECT.
    Http,
    /// Nothing: where it goes is known.
    Forward(Target),
}

/// Where clients connect to, as bound.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Bound {
    /// SOCKS5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socks: Option<SocketAddr>,
    /// HTTP CONNECT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
    /// Forwarded ports, as they were named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<SocketAddr>,
}

/// Everything that listens.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) doors: Vec<(TcpListener, Door)>,
    bound: Bound,
}

impl Listeners {
    /// Binds everything that is wanted.
    pub(super) fn bind(config: &UserspaceConfig) -> anyhow::Result<Self> {
        let mut listeners = Self {
            doors: Vec::new(),
            bound: Bound::default(),
        };
        let mut open = |at: SocketAddr, door: Door, what: &str| -> anyhow::Result<SocketAddr> {
            ensure!(
                at.ip().is_loopback() || config.open_to_network,
                "{what} at {at} would let whoever reaches this machine into the overlay; bind it \
                 to loopback, or say --open-to-network"
            );
            let listener = TcpListener::bind(at)
                .with_context(|| format!("cannot listen at {at} for {what}"))?;
            listener.set_nonblocking(true)?;
            let bound = listener.local_addr()?;
            listeners.doors.push((listener, door));
            Ok(bound)
        };
        let mut bound = Bound::default();
        if let Some(at) = config.socks {
            bound.socks = Some(open(at, Door::Socks, "SOCKS5")?);
        }
        if let Some(at) = config.http {
            bound.http = Some(open(at, Door::Http, "HTTP CONNECT")?);
        }
        for forward in &config.forwards {
            let (at, target) = (forward.listen, forward.target.clone());
            let what = format!("{target}");
            bound.forwards.push(open(at, Door::Forward(target), &what)?);
        }
        listeners.bound = bound;
        Ok(listeners)
    }

    pub(super) fn bound(&self) -> Bound {
        self.bound.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 0)
    }

    #[test]
    fn only_loopback_is_bound_unless_said_otherwise() {
        for open_to_network in [false, true] {
            let config = UserspaceConfig {
                socks: Some(any("0.0.0.0")),
                open_to_network,
                ..UserspaceConfig::default()
            };
            let bound = Listeners::bind(&config);
            assert_eq!(bound.is_ok(), open_to_network);
            if let Err(error) = bound {
                assert!(error.to_string().contains("--open-to-network"), "{error}");
            }
        }
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind(any("127.0.0.1")).unwrap();
        let at = taken.local_addr().unwrap();
        let config = UserspaceConfig {
            http: Some(at),
            ..UserspaceConfig::default()
        };
        let error = Listeners::bind(&config).unwrap_err().to_string();
        assert!(error.contains(&at.to_string()), "{error}");
        assert!(error.contains("HTTP CONNECT"), "{error}");
    }

    #[test]
    fn what_is_bound_is_said() {
        let config = UserspaceConfig {
            socks: Some(any("127.0.0.1")),
            http: Some(any("::1")),
            forwards: vec!["127.0.0.1:0=web.prod.rr:80".parse().unwrap()],
            ..UserspaceConfig::default()
        };
        let listeners = Listeners::bind(&config).unwrap();
        let bound = listeners.bound();
        let all = [bound.socks.unwrap(), bound.http.unwrap(), bound.forwards[0]];
        assert!(all.iter().all(|at| at.port() != 0), "{bound:?}");
        assert_eq!(listeners.doors.len(), 3);
    }
}
