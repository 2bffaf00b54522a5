//! What both demos stand on: two sites behind NAT routers, the machine compared before and after,
//! and the large file that must cross the sites unread. Some tests stand on it as well.
//!
//! Not a demo itself: what is shown on it is `demo`'s and `overlay_demo`'s.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Write};
use std::net::SocketAddr;
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
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Bytes of all packets between the sites.
    pub bytes: usize,
    /// Bytes that UDP has carried to the relay.
    pub to_relay: u64,
}

/// Judges what was captured where a site meets the internet while the file was fetched.
///
/// # Errors
/// The capture is not complete, holds less than the file, or holds its text.
pub fn judge(captured: &Captured, relay: &Node) -> Result<Seen> {
    captured.ensure_complete()?;
    let bytes = captured.packets().map(<[u8]>::len).sum();
    ensure!(bytes >= FILE_BYTES, "only {bytes} bytes between the sites");
    let readable = captured.count_containing(PATTERN);
    ensure!(readable == 0, "{readable} packets hold the file's text");
    let address = SocketAddr::from((relay.v4(), RELAY_PORT));
    let (_, to_relay) = captured.udp_bytes_of(address);
    Ok(Seen { bytes, to_relay })
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
