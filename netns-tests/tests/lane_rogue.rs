//! Streams of the L4 lane from a node that has papers and does not keep to the rules: each is
//! refused with its code, at its time, and nothing else of the daemon changes.
//!
//! What programs hear of one another's faults is `lane_faults`'s; who may dial at all, `strangers`'s.

#[path = "strangers/papers.rs"]
#[expect(dead_code, reason = "wrong papers are the strangers'")]
mod papers;
#[path = "lane_rogue/rogue.rs"]
mod rogue;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use netns_tests::fleet::DATA_PORT;
use netns_tests::pair::{self, ON_ALPHA, TABLE};
use netns_tests::{Fleet, Lab, wait};
use weald_proto::id::{Identity, Label, NodeId};

use self::papers::{Fault, Papers};
use self::rogue::{Outcome, Rogue, hello};

const SOON: Duration = Duration::from_secs(10);
/// How long a stream may take to say what it wants, and a target to accept.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long each refusal may take that needs nobody else.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Alpha's data socket, as the rogue reaches it.
const ALPHA: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    DATA_PORT,
);
/// The rogue's instance, alpha's, beta's, the other organisation's on alpha, and nobody's.
const GHOST: Ipv4Addr = Ipv4Addr::new(10, 30, 1, 3);
const ECHO: Ipv4Addr = Ipv4Addr::new(10, 30, 1, 1);
const ON_BETA: Ipv4Addr = Ipv4Addr::new(10, 30, 1, 2);
const VAULT: Ipv4Addr = Ipv4Addr::new(10, 30, 1, 4);
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 30, 1, 77);
/// The byte that says that the target has accepted, and the codes of resets.
const CONNECTED: u8 = 0;
const RESET: u64 = 1;
const PORT_CLOSED: u64 = 2;
const NO_ANSWER: u64 = 3;
const NOT_LEASED: u64 = 4;
const NOT_HOSTED: u64 = 5;
const POLICY_DENIED: u64 = 6;
const MALFORMED: u64 = 7;

#[test]
fn what_a_stream_may_not_is_refused_with_its_code_and_counted() -> Result<()> {
    let lab = pair::lab()?;
    let site = Site::start(&lab)?;
    let mut rogue = site.rogue()?;
    let service = Ipv4Addr::new(10, 30, 100, 1);
    let outside = Ipv4Addr::new(192, 0, 2, 1);
    let (client, echo) = ((GHOST, 40_000), (ECHO, pair::PORT));
    let cases = [
        (
            "not hosted",
            hello(client, (ON_BETA, pair::PORT)),
            NOT_HOSTED,
            "not_hosted",
        ),
        (
            "a service",
            hello(client, (service, pair::PORT)),
            NOT_HOSTED,
            "not_hosted",
        ),
        (
            "outside",
            hello(client, (outside, pair::PORT)),
            NOT_HOSTED,
            "not_hosted",
        ),
        (
            "forbidden",
            hello(client, (VAULT, pair::PORT)),
            POLICY_DENIED,
            "policy_denied",
        ),
        (
            "beta's client",
            hello((ON_BETA, 1), echo),
            NOT_LEASED,
            "not_leased",
        ),
        (
            "alpha's client",
            hello((ECHO, 1), echo),
            NOT_LEASED,
            "not_leased",
        ),
        (
            "nobody's client",
            hello((NOBODY, 1), echo),
            NOT_LEASED,
            "not_leased",
        ),
        (
            "client port 0",
            hello((GHOST, 0), echo),
            MALFORMED,
            "malformed",
        ),
        (
            "target port 0",
            hello(client, (ECHO, 0)),
            MALFORMED,
            "malformed",
        ),
        ("another version", vec![2, 4, 0, 0], MALFORMED, "malformed"),
        ("another family", vec![1, 5, 0, 0], MALFORMED, "malformed"),
        (
            "a closed port",
            hello(client, (ECHO, 9)),
            PORT_CLOSED,
            "port_closed",
        ),
    ];
    for (what, bytes, code, word) in cases {
        let before = site.refused(word)?;
        let stream = rogue.open(&bytes)?;
        let outcome = rogue.outcome(stream, AT_ONCE).context(what)?;
        ensure!(outcome == Outcome::Reset(code), "{what}: {outcome:?}");
        ensure!(site.refused(word)? == before + 1, "{what} is not counted");
    }
    ensure!(site.nobody_came()?, "a program has heard of it");
    // One that is right gets through, however slowly it speaks, and the server sees the client.
    let (first, rest) = hello(client, echo)
        .split_first()
        .map(|(a, b)| (*a, b.to_vec()))
        .context("empty")?;
    let stream = rogue.open(&[first])?;
    for byte in rest {
        rogue.say(stream, &[byte])?;
    }
    let outcome = rogue.outcome(stream, AT_ONCE)?;
    ensure!(outcome == Outcome::Bytes(vec![CONNECTED]), "{outcome:?}");
    let (mut server, from) = site.listener.accept()?;
    ensure!(
        from.ip().to_canonical() == GHOST && from.port() == 40_000,
        "{from}"
    );
    rogue.say(stream, b"ping")?;
    server.read_exact(&mut [0; 4])?;
    server.write_all(b"pong")?;
    ensure!(rogue.outcome(stream, AT_ONCE)? == Outcome::Bytes(b"pong".to_vec()));
    Ok(())
}

#[test]
fn a_reset_in_every_state_ends_the_connection_and_leaves_nothing() -> Result<()> {
    let lab = pair::lab()?;
    let site = Site::start(&lab)?;
    let mut rogue = site.rogue()?;
    let opening = |port| hello((GHOST, port), (ECHO, pair::PORT));
    // While it says what it wants.
    let stream = rogue.open(&opening(1000)[..7])?;
    rogue.reset(stream, 1)?;
    site.wait_open(0)?;
    // While the target connects: the server sees a connection that is reset, or none.
    for port in 1001..1011 {
        let stream = rogue.open(&opening(port))?;
        rogue.reset(stream, 1)?;
    }
    site.wait_open(0)?;
    site.listener.set_nonblocking(true)?;
    while let Ok((server, _)) = site.listener.accept() {
        server.set_nonblocking(false)?;
        hears_a_reset(server)?;
    }
    site.listener.set_nonblocking(false)?;
    // When it is open, with bytes on the way in both directions or none, by a reset or a stop.
    for (port, says, stops) in [
        (1011, false, false),
        (1012, true, false),
        (1013, true, true),
    ] {
        let (stream, mut server) = site.connect(&mut rogue, port)?;
        if says {
            rogue.say(stream, b"half a ")?;
            server.read_exact(&mut [0; 7])?;
            server.write_all(b"half an ")?;
        }
        if stops {
            rogue.stop(stream, 1)?;
        } else {
            rogue.reset(stream, 1)?;
        }
        hears_a_reset(server).with_context(|| format!("{says} {stops}"))?;
        site.wait_open(0)?;
    }
    // And the other way around: the program resets.
    let (stream, server) = site.connect(&mut rogue, 1014)?;
    socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
    drop(server);
    let outcome = rogue.outcome(stream, AT_ONCE)?;
    ensure!(outcome == Outcome::Reset(RESET), "{outcome:?}");
    site.wait_open(0)
}

#[test]
fn streams_that_never_say_what_they_want_are_given_up_and_hold_nobody_up() -> Result<()> {
    const MANY: usize = 2000;
    let lab = pair::lab()?;
    let site = Site::start(&lab)?;
    let mut rogue = site.rogue()?;
    let before = site.refused("no_answer")?;
    let half = &hello((GHOST, 1), (ECHO, pair::PORT))[..9];
    let began = Instant::now();
    let streams: Vec<_> = (0..MANY).map(|_| rogue.open(half)).collect::<Result<_>>()?;
    site.wait_open(MANY as u64)?;
    // Another connection of the same peer is not held up by them.
    let (stream, mut server) = site.connect(&mut rogue, 2000)?;
    rogue.say(stream, b"x")?;
    server.read_exact(&mut [0])?;
    for stream in &streams {
        let outcome = rogue.outcome(*stream, OPEN_TIMEOUT + SOON)?;
        ensure!(
            outcome == Outcome::Reset(NO_ANSWER),
            "{stream}: {outcome:?}"
        );
    }
    let took = began.elapsed();
    ensure!(took >= OPEN_TIMEOUT, "given up after {took:?} already");
    ensure!(site.refused("no_answer")? == before + MANY as u64);
    site.wait_open(1)?;
    server.write_all(b"y")?;
    ensure!(rogue.outcome(stream, AT_ONCE)? == Outcome::Bytes(b"y".to_vec()));
    Ok(())
}

/// Alpha with a server, and beta, which does nothing.
struct Site<'lab> {
    lab: &'lab Lab,
    fleet: Fleet<'lab>,
    papers: Papers,
    listener: TcpListener,
}

impl<'lab> Site<'lab> {
    fn start(lab: &'lab Lab) -> Result<Self> {
        // The other organisation's instance is on alpha.
        let (before, vault) = TABLE.split_at(TABLE.find("bank.lab").context("no bank")?);
        let table = format!("{before}{}", vault.replace("home/beta", "home/alpha"));
        let fleet = pair::start_nodes(lab, &table, &pair::NODES, pair::NO_PUNCHING)?;
        let papers = Papers::open(&fleet.authority())?;
        let listener = fleet
            .instance("alpha", ON_ALPHA)?
            .tcp_listen(pair::anywhere())?;
        Ok(Self {
            lab,
            fleet,
            papers,
            listener,
        })
    }

    /// Gamma, which is in the table, has an instance, and does not run.
    fn rogue(&self) -> Result<Rogue> {
        let any = SocketAddr::from(([0; 4], 0));
        let socket = self.lab.node("relay").udp_bind(any)?;
        let papers = self.papers.forge(&node("gamma")?, Fault::None)?;
        Rogue::dial(socket, ALPHA, &papers, &node("alpha")?)
    }

    /// A connection that the server has accepted.
    fn connect(&self, rogue: &mut Rogue, port: u16) -> Result<(quinn_proto::StreamId, TcpStream)> {
        let stream = rogue.open(&hello((GHOST, port), (ECHO, pair::PORT)))?;
        let outcome = rogue.outcome(stream, AT_ONCE)?;
        ensure!(outcome == Outcome::Bytes(vec![CONNECTED]), "{outcome:?}");
        let (server, from) = self.listener.accept()?;
        ensure!(from.port() == port, "{from}");
        server.set_read_timeout(Some(SOON))?;
        Ok((stream, server))
    }

    fn streams(&self) -> Result<serde_json::Value> {
        let status = self.fleet.tool_json("alpha", &["status"])?;
        let status = status.first().context("no status")?;
        Ok(status["packets"]["streams"].clone())
    }

    fn refused(&self, word: &str) -> Result<u64> {
        Ok(self.streams()?["refused"][word].as_u64().unwrap_or(0))
    }

    fn wait_open(&self, count: u64) -> Result<()> {
        wait::until("so many connections are open", SOON, || {
            let streams = self.streams()?;
            ensure!(streams["open"] == count, "{streams}");
            Ok(())
        })
    }

    /// Whether the server was not connected to.
    fn nobody_came(&self) -> Result<bool> {
        self.listener.set_nonblocking(true)?;
        let came = self.listener.accept();
        self.listener.set_nonblocking(false)?;
        Ok(came.is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
    }
}

/// Waits for a reset; silence and an ordinary end are failures.
fn hears_a_reset(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(SOON))?;
    match stream.read(&mut [0; 16]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("no reset but {other:?}"),
    }
}

fn node(name: &str) -> Result<Identity> {
    Ok(Identity::Node(NodeId::new(
        Label::new("home")?,
        Label::new(name)?,
    )))
}
