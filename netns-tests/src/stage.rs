//! What both demos stand on: two sites behind NAT routers, the machine compared before and after,
//! and the large file that must cross the sites unread. Some tests stand on it as well.
//!
//! Not a demo itself: what is shown on it is `demo`'s and `overlay_demo`'s.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::capture::Captured;
use crate::emulator::Impairment;
use crate::fleet::RELAY_PORT;
use crate::lab::Lab;
use crate::machine_state::{MachineState, Scope};
use crate::node::Node;
use crate::process::command;
use crate::{Description, Link, Machine, Nat, Segment};

/// Bytes of the file.
pub const FILE_BYTES: usize = 100_000_000;
/// What the file is full of, and what is looked for in captures.
pub const PATTERN: &[u8] = b"The quick brown fox carries no secret. ";
/// Bytes of the text that is fetched without the tunnel, and where.
const PLAIN_BYTES: usize = 1_000_000;
const PLAIN_PORT: u16 = 8099;
/// How long a program of a step may take, and the machine to be as before.
pub const STEP_TIME: Duration = Duration::from_secs(20);
/// How long the file may take on a machine that others keep busy, through programs with all checks.
pub const TRANSFER_TIME: Duration = Duration::from_secs(60);

/// An internet with the machine `relay`, and two sites behind NAT routers that drop what nobody
/// asked for.
#[must_use]
pub fn two_sites() -> Description {
    let wan = Impairment::delay(Duration::from_millis(1));
    let router = |name: &str, site: &str, seed| {
        Machine::router(name, "internet", site)
            .link("internet", Link::emulated(wan, seed))
            .nat(Nat::PortRestricted)
            .drop_unsolicited()
    };
    Description::new()
        .segment(Segment::new("internet").v4("203.0.113.0/24"))
        .segment(Segment::new("site-a").v4("192.168.1.0/24"))
        .segment(Segment::new("site-b").v4("192.168.2.0/24"))
        .machine(Machine::host("relay").at("internet", 10))
        .machine(router("router-a", "site-a", 1))
        .machine(router("router-b", "site-b", 2))
}

/// Builds the lab, runs the demo in it, and fails unless the machine is as before afterwards and
/// all of it took at most `limit`.
///
/// # Errors
/// The lab cannot be built, or what [`leaves_nothing`] says; the demo's, and that it took longer.
pub fn run(
    description: &Description,
    limit: Duration,
    out: &mut dyn Write,
    demo: impl FnOnce(&Lab, &mut dyn Write) -> Result<()>,
) -> Result<()> {
    let started = Instant::now();
    let lab = Lab::new(description)?;
    let compared = leaves_nothing(&lab, STEP_TIME, || demo(&lab, out))?;
    writeln!(
        out,
        "  namespaces, links, addresses, routes, rules, nft tables, mounts, cgroups and\n  files are as before ({compared} things compared)"
    )?;
    let took = started.elapsed();
    writeln!(out, "\ndone in {:.1} s", took.as_secs_f64())?;
    ensure!(took <= limit, "the demo took longer than {limit:?}");
    Ok(())
}

/// Does some work in a lab, and says how many things are as they were before; all must be, soon.
///
/// # Errors
/// The work fails, or something is left behind: in the lab's machines; anywhere on this one what has
/// a name that the lab's programs give; or of instances, in the folders of their workers.
pub fn leaves_nothing(
    lab: &Lab,
    patience: Duration,
    work: impl FnOnce() -> Result<()>,
) -> Result<usize> {
    let before = MachineState::take(&scope(lab)?)?;
    work()?;
    // Only now it is known what names the lab's programs give.
    before
        .wait_restored(&scope(lab)?, patience)
        .context("teardown left something behind")?;
    Ok(before.lines().count())
}

/// Where something of a lab could be.
fn scope(lab: &Lab) -> Result<Scope> {
    let mut paths = vec![PathBuf::from("/run/weald")];
    for node in lab.nodes() {
        // A worker keeps a folder for each life of an instance, and nothing else there.
        let lives = node.dir()?.join("worker/instances");
        for life in fs::read_dir(lives).into_iter().flatten() {
            paths.push(life?.path());
        }
    }
    Ok(Scope {
        namespaces: lab.nodes().map(|node| node.name().to_owned()).collect(),
        names: lab.names(),
        paths,
    })
}

/// What the internet saw of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Bytes of all packets between the sites.
    pub bytes: usize,
    /// Bytes that UDP has carried from and to the relay.
    pub relayed: u64,
    /// Bytes that UDP has carried between the sites' routers.
    pub direct: u64,
}

/// Judges what was captured at the internet's side of a router of [`two_sites`] while the file was
/// fetched.
///
/// # Errors
/// The capture is not complete, or holds the file's text. Less than the file was UDP between the
/// relay and the routers, or something came from or went to anybody else, or was no UDP.
pub fn judge(captured: &Captured, lab: &Lab) -> Result<Seen> {
    captured.ensure_complete()?;
    let readable = captured.count_containing(PATTERN);
    ensure!(readable == 0, "{readable} packets hold the file's text");
    let relay = SocketAddr::from((lab.node("relay").v4(), RELAY_PORT));
    let known: Vec<IpAddr> = ["relay", "router-a", "router-b"]
        .iter()
        .flat_map(|machine| lab.node(machine).addresses())
        .collect();
    let mut seen = Seen {
        bytes: captured.packets().map(<[u8]>::len).sum(),
        relayed: 0,
        direct: 0,
    };
    for (flow, tally) in captured.udp_flows() {
        let ends = [flow.source, flow.destination];
        let all_known = ends.iter().all(|end| known.contains(&end.ip()));
        ensure!(all_known, "UDP between strangers: {flow:?}, {tally:?}");
        if ends.contains(&relay) {
            seen.relayed += tally.payload_bytes;
        } else if ends.iter().all(|end| end.ip() != relay.ip()) {
            seen.direct += tally.payload_bytes;
        }
    }
    let carried = seen.relayed + seen.direct;
    ensure!(
        carried >= FILE_BYTES as u64,
        "UDP has carried only {carried} bytes of the file: {seen:?}"
    );
    let other = captured.packets().filter(|frame| !is_expected(frame));
    let other = other.count();
    ensure!(
        other == 0,
        "{other} packets are neither UDP nor ARP nor ICMP"
    );
    Ok(seen)
}

/// Whether an Ethernet frame holds UDP, or what links need for themselves: ARP and ICMP.
fn is_expected(frame: &[u8]) -> bool {
    let kind = frame.get(12..14).unwrap_or_default();
    let at = |offset: usize| frame.get(offset).copied();
    match kind {
        [0x08, 0x06] => true,
        // The protocol of an IPv4 packet: ICMP, UDP.
        [0x08, 0x00] => matches!(at(23), Some(1 | 17)),
        // What follows the IPv6 header: hop-by-hop options before MLD, UDP, ICMPv6.
        [0x86, 0xdd] => matches!(at(20), Some(0 | 17 | 58)),
        _ => false,
    }
}

/// How many packets hold the file's text where it crosses the internet without the tunnel, from the
/// relay's machine to another: the search of [`judge`] would find it.
///
/// # Errors
/// It is not fetched, or not found.
pub fn plain_is_found(relay: &Node, client: &Node) -> Result<usize> {
    let text: Vec<u8> = PATTERN.iter().copied().cycle().take(PLAIN_BYTES).collect();
    let listener = relay.tcp_listen(SocketAddr::from((relay.v4(), PLAIN_PORT)))?;
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        // Unread requests would turn the end of the answer into a reset.
        let _ = stream.read(&mut [0; 4096])?;
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n")?;
        stream.write_all(&text)
    });
    let capture = relay.capture("eth0")?;
    let fetch = format!("curl -sS -o /dev/null http://{}:{PLAIN_PORT}/", relay.v4());
    client.run_ok(command(&fetch), STEP_TIME)?;
    let seen = capture.stop()?.count_containing(PATTERN);
    let _ = server.join();
    ensure!(
        seen > 0,
        "the search does not find the text where it is plain"
    );
    Ok(seen)
}

/// Writes the file of [`FILE_BYTES`].
///
/// # Errors
/// It cannot be written.
pub fn write_file(path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for at in (0..FILE_BYTES).step_by(PATTERN.len()) {
        file.write_all(&PATTERN[..PATTERN.len().min(FILE_BYTES - at)])?;
    }
    file.flush()?;
    Ok(())
}

/// The SHA-256 of what was fetched, which must be that of the source.
///
/// # Errors
/// It is another.
pub fn same_sha256(node: &Node, source: &str, fetched: &str) -> Result<String> {
    let sum = |path: &str| -> Result<String> {
        let printed = node.run_ok(command(&format!("sha256sum {path}")), STEP_TIME)?;
        let sum = printed.split_whitespace().next();
        sum.map(str::to_owned).context("no sum")
    };
    let (sent, got) = (sum(source)?, sum(fetched)?);
    ensure!(sent == got, "sha256 {sent} became {got}");
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_links_need_is_told_from_what_programs_send() {
        let frame = |kind: [u8; 2], protocol_at: usize, protocol: u8| {
            let mut frame = vec![0; 14 + 40];
            frame[12..14].copy_from_slice(&kind);
            frame[protocol_at] = protocol;
            frame
        };
        let (v4, v6, arp) = ([0x08, 0x00], [0x86, 0xdd], [0x08, 0x06]);
        assert!(is_expected(&frame(arp, 0, 0)));
        assert!(is_expected(&frame(v4, 23, 17)));
        assert!(!is_expected(&frame(v4, 23, 6)));
        assert!(is_expected(&frame(v6, 20, 58)));
        assert!(!is_expected(&frame(v6, 20, 6)));
        assert!(!is_expected(&[]));
    }
}
