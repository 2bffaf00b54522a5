//! What is measured of a running tunnel, and under which names.
//!
//! One call measures everything once; rounds, systems and ratios are [`crate::run`]'s.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::Namespace;
use weald_measure::prober::RoundTrips;
use weald_measure::stream::Stream;
use weald_measure::usage;

use crate::load;
use crate::systems::Tunnel;
use crate::tcp::{self, Flows};

/// The load that latencies of all systems are compared under, in bits per second: what the
/// slowest of them can carry.
const EQUAL_LOAD: f64 = 200e6;
/// The rate of small datagrams, per second: what every system can carry.
const SMALL_PER_SECOND: f64 = 30_000.0;
/// Payload of a small datagram.
const SMALL: usize = 64;
/// Payload of a large one.
const LARGE: usize = 1_200;
/// How much longer the load beside probes runs than they do.
const LEAD: Duration = Duration::from_millis(300);

/// A number that was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Which one, such as `tcp1`.
    pub metric: &'static str,
    /// The number.
    pub value: f64,
    /// What it counts.
    pub unit: &'static str,
}

/// How long things are measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// Each TCP load.
    pub tcp: Duration,
    /// Each try of the search for a rate of UDP.
    pub udp: Duration,
    /// Each series of probes.
    pub probes: Duration,
}

impl Times {
    /// For rounds that come to figures.
    pub const FULL: Self = Self {
        tcp: Duration::from_millis(2_000),
        udp: Duration::from_millis(400),
        probes: Duration::from_millis(1_000),
    };
    /// For a look within a minute.
    pub const SHORT: Self = Self {
        tcp: Duration::from_millis(1_000),
        udp: Duration::from_millis(150),
        probes: Duration::from_millis(400),
    };
}

/// One measuring of one tunnel.
struct Session<'a> {
    tunnel: &'a Tunnel,
    only: &'a [String],
    figures: Vec<Figure>,
    failures: Vec<String>,
}

/// The names of a TCP load's figures: rate, CPU of the sending daemon, of the receiving one, of
/// everything.
type Names = [&'static str; 4];

const TCP: [(Flows, Names); 4] = [
    (
        Flows::Forward(1),
        [
            "tcp1",
            "tcp1_cpu_sender",
            "tcp1_cpu_receiver",
            "tcp1_cpu_all",
        ],
    ),
    (
        Flows::Forward(4),
        [
            "tcp4",
            "tcp4_cpu_sender",
            "tcp4_cpu_receiver",
            "tcp4_cpu_all",
        ],
    ),
    (
        Flows::Reverse,
        [
            "tcp_reverse",
            "tcp_reverse_cpu_client",
            "tcp_reverse_cpu_server",
            "tcp_reverse_cpu_all",
        ],
    ),
    (
        Flows::Both,
        [
            "tcp_both",
            "tcp_both_cpu_client",
            "tcp_both_cpu_server",
            "tcp_both_cpu_all",
        ],
    ),
];

/// What can be asked for by itself, each by the first of its figures.
pub const PARTS: [&str; 11] = [
    "rtt_idle_p50",
    "tcp1",
    "tcp4",
    "tcp_reverse",
    "tcp_both",
    "tcp1_service",
    "udp1200",
    "udp1200_gso",
    "udp64_cpu",
    "rtt_load_p50",
    "rtt_half_p50",
];

/// Measures the parts that `only` names, or everything if it names none; what fails is left out and
/// said.
///
/// # Errors
/// The load's own server does not start.
pub fn measure(
    tunnel: &Tunnel,
    times: &Times,
    only: &[String],
) -> Result<(Vec<Figure>, Vec<String>)> {
    let mut session = Session {
        tunnel,
        only,
        figures: Vec::new(),
        failures: Vec::new(),
    };
    let _server = tcp::serve(&tunnel.namespaces[1])?;
    session.memory("rss_idle", 0)?;
    session.attempt("rtt_idle_p50", |session| {
        let idle = session.probe(times.probes)?;
        session.round_trips(["rtt_idle_p50", "rtt_idle_p99"], idle);
        Ok(())
    });
    let mut one_flow = 0.0;
    for (flows, names) in TCP {
        session.attempt(names[0], |session| {
            let rate = session.tcp(flows, names, times.tcp)?;
            if flows == Flows::Forward(1) {
                one_flow = rate;
            }
            Ok(())
        });
    }
    session.attempt("tcp1_service", |session| session.by_service(times.tcp));
    for (batched, metric) in [(false, "udp1200"), (true, "udp1200_gso")] {
        session.attempt(metric, |session| {
            let time = times.udp;
            let stream = Stream {
                size: LARGE,
                batched,
                time,
            };
            let rate = load::search(session.namespaces(), tunnel.addresses, &stream)?;
            session.add(metric, rate / 1e9, "Gbit/s");
            Ok(())
        });
    }
    session.attempt("udp64_cpu", |session| session.small(times.tcp));
    session.attempt("rtt_load_p50", |session| {
        let found = session.probe_under(EQUAL_LOAD, times.probes)?;
        session.round_trips(["rtt_load_p50", "rtt_load_p99"], found);
        Ok(())
    });
    session.attempt("rtt_half_p50", |session| {
        let found = session.probe_under(one_flow / 2.0, times.probes)?;
        session.round_trips(["rtt_half_p50", "rtt_half_p99"], found);
        Ok(())
    });
    session.memory("rss_load", 1)?;
    Ok((session.figures, session.failures))
}

impl<'a> Session<'a> {
    fn add(&mut self, metric: &'static str, value: f64, unit: &'static str) {
        self.figures.push(Figure {
            metric,
            value,
            unit,
        });
    }

    /// Measures a part if it is asked for.
    fn attempt(&mut self, part: &str, work: impl FnOnce(&mut Self) -> Result<()>) {
        let wanted = self.only.is_empty() || self.only.iter().any(|name| name == part);
        if wanted && let Err(error) = work(self) {
            self.failures.push(format!("{part}: {error:#}"));
        }
    }

    fn namespaces(&self) -> [&'a Namespace; 2] {
        self.tunnel.namespaces.each_ref()
    }

    /// Seconds of CPU of both daemons so far; nothing where there are none.
    fn daemons(&self) -> Result<[f64; 2]> {
        let Some([sender, receiver]) = self.tunnel.daemons else {
            return Ok([0.0; 2]);
        };
        Ok([usage::cpu_seconds(sender)?, usage::cpu_seconds(receiver)?])
    }

    /// The larger of the daemons' memory: now (0) or at most (1).
    fn memory(&mut self, metric: &'static str, which: usize) -> Result<()> {
        if let Some(daemons) = self.tunnel.daemons {
            let [near, far] = daemons.map(usage::memory);
            let (near, far) = (near?, far?);
            self.add(metric, near[which].max(far[which]), "MB");
        }
        Ok(())
    }

    fn tcp(&mut self, flows: Flows, names: Names, time: Duration) -> Result<f64> {
        let before = self.daemons()?;
        let kernel_before = usage::softirq_seconds()?;
        let [client, _] = self.namespaces();
        let found = tcp::run(client, self.tunnel.addresses, flows, time)?;
        let after = self.daemons()?;
        let kernel = usage::softirq_seconds()? - kernel_before;
        let used = [after[0] - before[0], after[1] - before[1]];
        self.add(names[0], found.bits_per_second / 1e9, "Gbit/s");
        if self.tunnel.daemons.is_some() {
            self.add(names[1], used[0] * 1e9 / found.bytes, "ns/B");
            self.add(names[2], used[1] * 1e9 / found.bytes, "ns/B");
        }
        let all = used[0] + used[1] + found.load_cpu_seconds + kernel;
        self.add(names[3], all * 1e9 / found.bytes, "s/GB");
        Ok(found.bits_per_second)
    }

    fn by_service(&mut self, time: Duration) -> Result<()> {
        let Some(way) = &self.tunnel.by_service else {
            return Ok(());
        };
        let _server = tcp::serve(&way.namespaces[1])?;
        let found = tcp::run(&way.namespaces[0], way.addresses, Flows::Forward(1), time)?;
        self.add("tcp1_service", found.bits_per_second / 1e9, "Gbit/s");
        Ok(())
    }

    /// CPU per small datagram, at a rate that every system carries.
    fn small(&mut self, time: Duration) -> Result<()> {
        let stream = Stream {
            size: SMALL,
            batched: false,
            time,
        };
        let rate = SMALL_PER_SECOND * 8.0 * SMALL as f64;
        let before = self.daemons()?;
        let passed = load::pass(self.namespaces(), self.tunnel.addresses, &stream, rate)?;
        let after = self.daemons()?;
        let used = after[0] - before[0] + after[1] - before[1];
        let (sent, received) = (passed.sent as f64, passed.received as f64);
        ensure!(received > 0.0, "none of {sent} datagrams arrived");
        if self.tunnel.daemons.is_some() {
            self.add("udp64_cpu", used * 1e6 / received, "us/packet");
        }
        self.add("udp64_lost", (sent - received).max(0.0) / sent * 100.0, "%");
        Ok(())
    }

    fn probe(&self, time: Duration) -> Result<RoundTrips> {
        load::probe(self.namespaces(), self.tunnel.addresses, time)
    }

    fn probe_under(&self, load: f64, time: Duration) -> Result<RoundTrips> {
        let [client, _] = self.namespaces();
        let addresses: [IpAddr; 2] = self.tunnel.addresses;
        ensure!(
            load > 0.0,
            "there is no rate to take a part of: tcp1 gives it"
        );
        let flow = tcp::start_capped(client, addresses, load, time + LEAD)?;
        // The flow is under way once bytes of it have come, which iperf3 does not tell in time.
        std::thread::sleep(LEAD / 2);
        let found = self.probe(time)?;
        let output = flow.into_output(time + Duration::from_secs(10))?;
        ensure!(
            output.status.success(),
            "the load beside the probes failed: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(found)
    }

    fn round_trips(&mut self, names: [&'static str; 2], found: RoundTrips) {
        self.add(names[0], found.p50, "us");
        self.add(names[1], found.p99, "us");
    }
}
