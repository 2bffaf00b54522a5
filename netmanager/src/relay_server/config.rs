//! `relay.toml`: the configuration of a relay.
//!
//! ```toml
//! listen = ["0.0.0.0:10250", "[::]:10250"]
//! tcp_listen = ["0.0.0.0:443"]         # TLS for nodes without UDP; left out: port 443 of the above
//!                                      # if it is free; [] for none
//! rate_bits_per_second = 200_000_000   # what it sends at most; left out: unlimited
//! status = "/run/weald/relay.sock"     # left out: none
//!
//! [pki]
//! dir = "pki"                          # ca.pem, node.pem and node.key of the relay; what nodes tell
//!                                      # of the revoked is kept there as well
//!
//! [cluster]                            # left out: what joining has kept in that folder, if it has
//! addresses = ["192.0.2.1:10110"]      # who renews the certificate, as host:port
//! ```
//!
//! Paths are relative to the file. Unknown keys are refused.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::Deserialize;

/// Where nodes expect a relay unless told otherwise.
const DEFAULT_PORT: u16 = 10250;

/// The slowest rate that can be configured: below it, one packet takes a tenth of a second.
const MIN_RATE: u64 = 100_000;

/// The checked configuration of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayConfig {
    /// What the sockets are bound to: at most one address per family, at least one in all.
    pub listen: Vec<SocketAddr>,
    /// What the TCP sockets are bound to. None is the usual port at the addresses of `listen`, if it
    /// is to be had; an empty list is no TCP.
    pub tcp_listen: Option<Vec<SocketAddr>>,
    /// The folder of the relay's credentials.
    pub pki_dir: PathBuf,
    /// Who renews its certificate, as `host:port`; empty for what joining has kept in the folder.
    pub cluster: Vec<String>,
    /// What it sends at most; 0 is unlimited.
    pub rate_bits_per_second: u64,
    /// The unix socket on which it tells its status.
    pub status: Option<PathBuf>,
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "default_listen")]
    listen: Vec<SocketAddr>,
    tcp_listen: Option<Vec<SocketAddr>>,
    rate_bits_per_second: Option<u64>,
    status: Option<PathBuf>,
    pki: Pki,
    cluster: Option<Cluster>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pki {
    dir: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    addresses: Vec<String>,
}

fn default_listen() -> Vec<SocketAddr> {
    vec![
        (Ipv4Addr::UNSPECIFIED, DEFAULT_PORT).into(),
        (Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into(),
    ]
}

impl RelayConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// Says file, line and what is wrong.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        Self::parse(&text, folder).with_context(|| path.display().to_string())
    }

    /// Reads the text of a file in `folder`.
    ///
    /// # Errors
    /// Says line and what is wrong.
    pub fn parse(text: &str, folder: &Path) -> anyhow::Result<Self> {
        let file: File = toml::from_str(text)?;
        ensure!(
            is_one_of_each(&file.listen) && !file.listen.is_empty(),
            "listen: give one IPv4 address, one IPv6 address, or one of each"
        );
        ensure!(
            file.tcp_listen.as_deref().is_none_or(is_one_of_each),
            "tcp_listen: give one IPv4 address, one IPv6 address, one of each, or an empty list"
        );
        let rate = file.rate_bits_per_second;
        ensure!(
            rate.is_none_or(|rate| rate >= MIN_RATE),
            "rate_bits_per_second: give at least {MIN_RATE}, or leave it out for no limit"
        );
        let cluster = file.cluster.map_or_else(Vec::new, |it| it.addresses);
        for address in &cluster {
            let port = address
                .rsplit_once(':')
                .map(|(_, port)| port.parse::<u16>());
            ensure!(
                matches!(port, Some(Ok(_))),
                "cluster.addresses: {address:?} is not host:port, as in 192.0.2.1:10110"
            );
        }
        Ok(Self {
            listen: file.listen,
            cluster,
            tcp_listen: file.tcp_listen,
            pki_dir: folder.join(file.pki.dir),
            rate_bits_per_second: rate.unwrap_or(0),
            status: file.status.map(|path| folder.join(path)),
        })
    }
}

/// Whether there is at most one address of each family.
fn is_one_of_each(addresses: &[SocketAddr]) -> bool {
    let of_v4 = addresses.iter().filter(|at| at.is_ipv4()).count();
    of_v4 <= 1 && addresses.len() - of_v4 <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(text: &str) -> String {
        let error = RelayConfig::parse(text, Path::new("/etc")).unwrap_err();
        format!("{error:#}")
    }

    #[test]
    fn little_is_needed() {
        let config = RelayConfig::parse("pki.dir = \"pki\"", Path::new("/etc")).unwrap();
        assert_eq!(
            config,
            RelayConfig {
                listen: vec![
                    "0.0.0.0:10250".parse().unwrap(),
                    "[::]:10250".parse().unwrap()
                ],
                tcp_listen: None,
                pki_dir: "/etc/pki".into(),
                cluster: Vec::new(),
                rate_bits_per_second: 0,
                status: None,
            }
        );
    }

    #[test]
    fn faults_say_where_and_what_to_do() {
        let unknown = refuse("colour = 1\npki.dir = \"pki\"");
        assert!(unknown.contains("line 1"), "{unknown}");
        assert!(unknown.contains("unknown field `colour`"), "{unknown}");
        assert!(refuse("").contains("missing field `pki`"));
        let twice = refuse("listen = [\"0.0.0.0:1\", \"0.0.0.0:2\"]\npki.dir = \"x\"");
        assert!(twice.contains("one IPv4 address"), "{twice}");
        let tcp = "tcp_listen = [\"0.0.0.0:1\", \"0.0.0.0:2\"]\npki.dir = \"x\"";
        assert!(refuse(tcp).contains("an empty list"));
        let none = refuse("listen = []\npki.dir = \"x\"");
        assert!(none.contains("one IPv4 address"), "{none}");
        let port = refuse("listen = [\"0.0.0.0:65536\"]\npki.dir = \"x\"");
        assert!(port.contains("line 1"), "{port}");
        let slow = refuse("rate_bits_per_second = 0\npki.dir = \"x\"");
        assert!(slow.contains("leave it out"), "{slow}");
        let cluster = refuse("pki.dir = \"x\"\ncluster.addresses = [\"munich\"]");
        assert_eq!(
            cluster,
            "cluster.addresses: \"munich\" is not host:port, as in 192.0.2.1:10110"
        );
    }
}
