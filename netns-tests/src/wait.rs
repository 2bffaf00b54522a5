//! Waiting for things to be so: by asking them, with a deadline, never by sleeping for luck.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::namespace::Namespace;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(2);

/// The longest single connection attempt while waiting.
const ATTEMPT: Duration = Duration::from_millis(250);

/// Calls `look` until it finds something.
///
/// # Errors
/// Fails when `timeout` has passed, with the last reason that `look` gave.
pub fn until<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let error = match look() {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        if start.elapsed() >= timeout {
            return Err(error.context(format!("{what}: not so within {timeout:?}")));
        }
        thread::sleep(PAUSE);
    }
}

/// Waits until a path exists.
///
/// # Errors
/// Fails when `timeout` has passed.
pub fn file(path: &Path, timeout: Duration) -> Result<()> {
    until(&format!("{path:?} exists"), timeout, || {
        Ok(path.metadata().map(drop)?)
    })
}

/// Waits until a file has a line that contains `pattern`, and returns the line.
///
/// # Errors
/// Fails when `timeout` has passed; the error shows the file.
pub fn line_in_file(path: &Path, pattern: &str, timeout: Duration) -> Result<String> {
    until(
        &format!("a line with {pattern:?} in {path:?}"),
        timeout,
        || {
            let text = std::fs::read_to_string(path)?;
            let line = text
                .lines()
                .find(|line| line.contains(pattern))
                .map(str::to_owned);
            line.with_context(|| format!("the file has:\n{text}"))
        },
    )
}

/// Waits until a unix socket accepts a connection, and returns it.
///
/// # Errors
/// Fails when `timeout` has passed.
pub fn unix_socket(path: &Path, timeout: Duration) -> Result<UnixStream> {
    until(&format!("{path:?} answers"), timeout, || {
        Ok(UnixStream::connect(path)?)
    })
}

impl Namespace {
    /// Waits until a program inside the namespace listens on a TCP port, without connecting.
    ///
    /// # Errors
    /// Fails when `timeout` has passed.
    pub fn wait_tcp_listening(&self, port: u16, timeout: Duration) -> Result<()> {
        self.wait_in_table(&["tcp", "tcp6"], port, Some("0A"), timeout)
    }

    /// Waits until a program inside the namespace has a UDP socket on a port.
    ///
    /// # Errors
    /// Fails when `timeout` has passed.
    pub fn wait_udp_bound(&self, port: u16, timeout: Duration) -> Result<()> {
        self.wait_in_table(&["udp", "udp6"], port, None, timeout)
    }

    /// Waits until a TCP connection from inside the namespace succeeds, and returns it.
    ///
    /// # Errors
    /// Fails when `timeout` has passed.
    pub fn wait_tcp_connect(&self, to: SocketAddr, timeout: Duration) -> Result<TcpStream> {
        self.in_ns(|| {
            until(&format!("tcp {to} accepts"), timeout, || {
                Ok(TcpStream::connect_timeout(&to, ATTEMPT)?)
            })
        })
    }

    /// Waits until an address answers at all: it may refuse, as a closed TCP port does.
    ///
    /// # Errors
    /// Fails when `timeout` has passed.
    pub fn wait_reachable(&self, address: IpAddr, timeout: Duration) -> Result<()> {
        let to = SocketAddr::new(address, CLOSED_PORT);
        self.in_ns(|| {
            until(
                &format!("{address} answers {}", self.name()),
                timeout,
                || match TcpStream::connect_timeout(&to, ATTEMPT) {
                    Err(error) if error.kind() != io::ErrorKind::ConnectionRefused => {
                        Err(error.into())
                    }
                    Ok(_) | Err(_) => Ok(()),
                },
            )
        })
    }

    /// Looks for a local port in the namespace's socket tables.
    fn wait_in_table(
        &self,
        tables: &[&str],
        port: u16,
        state: Option<&str>,
        timeout: Duration,
    ) -> Result<()> {
        let what = format!("{} port {port} is open in {}", tables[0], self.name());
        self.in_ns(|| {
            until(&what, timeout, || {
                for table in tables {
                    let path = format!("/proc/thread-self/net/{table}");
                    let text = std::fs::read_to_string(&path).context(path)?;
                    if text.lines().any(|line| is_open(line, port, state)) {
                        return Ok(());
                    }
                }
                bail!("no such socket")
            })
        })
    }
}

/// tcpmux: nothing in a lab listens there, so that a living address refuses at once.
const CLOSED_PORT: u16 = 1;

/// Whether a line of `/proc/net/tcp` or `udp` shows this local port, in this state if one is
/// asked for.
fn is_open(line: &str, port: u16, state: Option<&str>) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next().and_then(|address| address.rsplit_once(':'));
    let found = local.and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
    found == Some(port) && state.is_none_or(|state| fields.nth(1) == Some(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_table_lines_are_read() {
        let line = "   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        assert!(is_open(line, 80, Some("0A")));
        assert!(is_open(line, 80, None));
        assert!(!is_open(line, 80, Some("01")));
        assert!(!is_open(line, 81, None));
        assert!(!is_open("  sl  local_address rem_address   st", 80, None));
    }

    #[test]
    fn a_wait_ends_with_the_last_reason() {
        let error = until("rain", Duration::ZERO, || -> Result<()> { bail!("sun") }).unwrap_err();
        assert_eq!(format!("{error:#}"), "rain: not so within 0ns: sun");
    }
}
