//! `relay.toml`: the configuration of a relay.
//!
//! ```toml
//! listen = ["0.0.0.0:10250", "[::]:10250"]
//! rate_bits_per_second = 200_000_000   # what it sends at most; left out: unlimited
//! status = "/run/weald/relay.sock"     # left out: none
//!
//! [pki]
//! dir = "pki"                          # ca.pem, node.pem and node.key of the relay
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
    /// The folder of the relay's credentials.
    pub pki_dir: PathBuf,
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
    rate_bits_per_second: Option<u64>,
    status: Option<PathBuf>,
    pki: Pki,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pki {
    dir: PathBuf,
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
        let of_v4 = file.listen.iter().filter(|at| at.is_ipv4()).count();
        ensure!(
            of_v4 <= 1 && file.listen.len() - of_v4 <= 1 && !file.listen.is_empty(),
            "listen: give one IPv4 address, one IPv6 address, or one of each"
        );
        let rate = file.rate_bits_per_second;
        ensure!(
            rate.is_none_or(|rate| rate >= MIN_RATE),
            "rate_bits_per_second: give at least {MIN_RATE}, or leave it out for no limit"
        );
        Ok(Self {
            listen: file.listen,
            pki_dir: folder.join(file.pki.dir),
            rate_bits_per_second: rate.unwrap_or(0),
            status: file.status.map(|path| folder.join(path)),
        })
    }
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
                pki_dir: "/etc/pki".into(),
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
        let none = refuse("listen = []\npki.dir = \"x\"");
        assert!(none.contains("one IPv4 address"), "{none}");
        let port = refuse("listen = [\"0.0.0.0:65536\"]\npki.dir = \"x\"");
        assert!(port.contains("line 1"), "{port}");
        let slow = refuse("rate_bits_per_second = 0\npki.dir = \"x\"");
        assert!(slow.contains("leave it out"), "{slow}");
    }
}
