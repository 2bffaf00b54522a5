//! Whether an instance listens: which TCP ports somebody listens on in a network namespace, as the
//! kernel lists them, and a thread that looks until all of the wanted ones are among them.
//!
//! A program says nobody that it listens, so this looks again and again, ever more rarely. Nothing
//! is sent to the ports: a server sees no connection that is not a client's.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// The pause between the first two looks; it doubles from look to look.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause between two looks while the instance may still be starting.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an instance may take before it is said that it does not listen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two looks from then on.
const LONG_PAUSE: Duration = Duration::from_secs(1);

/// What is seen of the wanted ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Somebody listens on each.
    All,
    /// Not on all of them, or it cannot be seen; in words for a user, and not for the first time in
    /// the same words.
    Missing(String),
}

/// A thread that looks; it ends soon after this is dropped.
#[derive(Debug)]
pub(crate) struct Looking {
    _end: Sender<()>,
}

impl Looking {
    /// Looks until somebody listens on all ports, and says so; says as well when that takes longer
    /// than an instance may take to start. Without a namespace it looks into the worker's own.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(
        netns: Option<PathBuf>,
        ports: BTreeSet<u16>,
        say: impl Fn(Seen) + Send + 'static,
    ) -> io::Result<Self> {
        let (end, ended) = mpsc::channel();
        // A thread of its own, because it stays in the namespace.
        thread::Builder::new()
            .name("listening".to_owned())
            .spawn(move || {
                let pause = |time| ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
                look(netns.as_deref(), &ports, PATIENCE, pause, say);
            })?;
        Ok(Self { _end: end })
    }
}

/// Looks until all is seen or `pause` says to end.
fn look(
    netns: Option<&Path>,
    ports: &BTreeSet<u16>,
    patience: Duration,
    pause: impl Fn(Duration) -> bool,
    say: impl Fn(Seen),
) {
    let since = Instant::now();
    let mut between = FIRST_PAUSE;
    let mut said = None;
    let mut inside = netns.is_none();
    loop {
        let listeners = match netns {
            Some(netns) if !inside => enter(netns).and_then(|()| {
                inside = true;
                listeners()
            }),
            Some(_) | None => listeners(),
        };
        let missing = match listeners {
            // What listens on the instance's loopback alone is reached by nobody else.
            Ok(all) => missing(ports, &all, netns.is_some()),
            Err(error) => Some(format!("it cannot be seen whether it listens: {error}")),
        };
        let Some(missing) = missing else {
            return say(Seen::All);
        };
        if since.elapsed() >= patience {
            between = LONG_PAUSE;
            if said.as_ref() != Some(&missing) {
                say(Seen::Missing(missing.clone()));
                said = Some(missing);
            }
        }
        if !pause(between) {
            return;
        }
        between = between.saturating_mul(2).min(PAUSE);
    }
}

fn enter(netns: &Path) -> io::Result<()> {
    Ok(setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?)
}

/// Where somebody listens in the calling thread's network namespace.
fn listeners() -> io::Result<Vec<(IpAddr, u16)>> {
    let mut found = Vec::new();
    for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        match fs::read_to_string(file) {
            Ok(text) => found.extend(text.lines().filter_map(listener)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The address of a line of the kernel's list, if it is of a socket that listens.
fn listener(line: &str) -> Option<(IpAddr, u16)> {
    const LISTEN: &str = "0A";
    let mut words = line.split_whitespace().skip(1);
    let local = words.next()?;
    let state = words.nth(1)?;
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip = match ip.len() {
        8 => IpAddr::from(word(ip)?),
        32 => {
            let mut octets = [0; 16];
            for (at, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(ip.get(at * 8..at * 8 + 8)?)?);
            }
            IpAddr::from(octets)
        }
        _ => return None,
    };
    (state == LISTEN).then_some((ip.to_canonical(), port))
}

/// Four octets of an address: the kernel prints them as one number of the machine's own order.
fn word(hex: &str) -> Option<[u8; 4]> {
    u32::from_str_radix(hex, 16).ok().map(u32::to_ne_bytes)
}

/// Which wanted ports nobody listens on, in words; none if there are none.
fn missing(
    ports: &BTreeSet<u16>,
    listeners: &[(IpAddr, u16)],
    loopback_is_nobody: bool,
) -> Option<String> {
    let mut text = String::new();
    for port in ports {
        let mut there = listeners.iter().filter(|(_, at)| at == port).peekable();
        let only = if there.peek().is_none() {
            ""
        } else if loopback_is_nobody && there.all(|(ip, _)| ip.is_loopback()) {
            " (but on the loopback address, where nobody else reaches it)"
        } else {
            continue;
        };
        let between = if text.is_empty() { "" } else { ", " };
        // Writing into a text does not fail.
        let _ = write!(text, "{between}{port}{only}");
    }
    let seconds = PATIENCE.as_secs();
    (!text.is_empty()).then(|| {
        format!(
            "it runs, and after {seconds} s does not listen on TCP port {text}; have it listen there, \
             or leave the port out of the SLA: until then nobody is led to it"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = |local: &str, state: &str| {
            format!(
                "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 1 1 0"
            )
        };
        let local = u32::from_ne_bytes([127, 0, 0, 1]);
        let v4 = format!("{local:08X}:1F90");
        assert_eq!(
            listener(&line(&v4, "0A")),
            Some((Ipv4Addr::LOCALHOST.into(), 8080))
        );
        assert_eq!(listener(&line(&v4, "01")), None, "a connection");
        let any = "0".repeat(32);
        assert_eq!(
            listener(&line(&format!("{any}:0050"), "0A")),
            Some((Ipv6Addr::UNSPECIFIED.into(), 80))
        );
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt";
        for wrong in [
            heading,
            "",
            "0:",
            "0: é0000000:0050 0 0A",
            "0: 0:0 0 0A",
            "0: 0000000000000000000000000000000é:1 0 0A",
        ] {
            assert_eq!(listener(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_socket_that_listens_is_seen_and_its_connections_are_not() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = server.local_addr().unwrap();
        let there = (address.ip(), address.port());
        assert!(listeners().unwrap().contains(&there));
        let (_client, _accepted) = (
            TcpStream::connect(address).unwrap(),
            server.accept().unwrap(),
        );
        drop(server);
        assert!(!listeners().unwrap().contains(&there));
    }

    #[test]
    fn what_is_missing_is_said() {
        let listeners = [
            (IpAddr::from(Ipv4Addr::UNSPECIFIED), 80),
            (Ipv4Addr::LOCALHOST.into(), 81),
        ];
        let ports = |all: &[u16]| all.iter().copied().collect();
        assert_eq!(missing(&ports(&[80]), &listeners, true), None);
        assert_eq!(missing(&ports(&[80, 81]), &listeners, false), None);
        assert_eq!(
            missing(&ports(&[79, 80, 81]), &listeners, true).unwrap(),
            "it runs, and after 10 s does not listen on TCP port 79, 81 (but on the loopback \
             address, where nobody else reaches it); have it listen there, or leave the port out \
             of the SLA: until then nobody is led to it"
        );
    }

    /// What is said in three looks at a port of a namespace that is not there.
    fn said_in_three_looks(patience: Duration) -> Vec<Seen> {
        let (said, looks) = (RefCell::new(Vec::new()), Cell::new(0));
        let pause = |_| {
            looks.set(looks.get() + 1);
            looks.get() < 3
        };
        let nowhere = Path::new("/nowhere/netns");
        look(
            Some(nowhere),
            &BTreeSet::from([80]),
            patience,
            pause,
            |it| {
                said.borrow_mut().push(it);
            },
        );
        assert_eq!(looks.get(), 3);
        said.into_inner()
    }

    #[test]
    fn what_lasts_is_said_once_and_not_before_its_time() {
        assert_eq!(said_in_three_looks(PATIENCE), []);
        let said = said_in_three_looks(Duration::ZERO);
        assert!(
            matches!(&said[..], [Seen::Missing(why)] if why.contains("it cannot be seen")),
            "{said:?}"
        );
    }
}
