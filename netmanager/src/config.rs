//! Configuration: `net.toml`, which is the same on every node, and the static table.
//!
//! Files are read into checked types here and nowhere else. Every fault is reported at once, each
//! with file, line and column, what is wrong and what to write instead. Called by the daemon, at
//! start and when the table's file changes, and by commands that look for the API socket.

mod document;
mod net;
mod table_file;

pub use document::{ConfigError, ConfigErrors, read_file};
pub use net::{
    BenchConfig, DnsConfig, NetConfig, OverlayConfig, PathsConfig, PkiConfig, RowSource,
};
pub use table_file::{load_table, parse_table};

/// Where `netmanager` looks for its configuration unless told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/weald/net.toml";

/// Where `netmanager relay` looks for its configuration unless told otherwise.
pub const DEFAULT_RELAY_CONFIG: &str = "/etc/weald/relay.toml";

/// The path of the API socket unless the configuration names another.
pub const DEFAULT_SOCKET: &str = "/run/weald/netmanager.sock";

/// Where the daemon keeps what must outlive it, unless the configuration names another place.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/weald";

/// The port of the data socket unless the configuration names another.
pub const DEFAULT_DATA_PORT: u16 = 10260;

#[cfg(test)]
mod tests;
