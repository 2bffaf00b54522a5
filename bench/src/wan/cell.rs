//! What is measured of one system on one path.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Lab, Namespace};
use weald_measure::prober::RoundTrips;

use super::http::{self, Amount};
use super::plan::{Cell, Part};
use crate::systems::Tunnel;
use crate::tcp::{self, Flows};
use crate::{ground, load};

/// Programs' congestion control is cubic, but for this system.
const BBR: &str = "raw-bbr";
/// How long the transfer beside probes runs before they begin: until it saturates the path.
const LEAD: Duration = Duration::from_secs(3);
/// How much longer a transfer may take than it sends.
const SLACK: Duration = Duration::from_secs(20);

/// How long things are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// One TCP connection.
    pub tcp: Duration,
    /// A series of probes.
    pub probes: Duration,
    /// Fetches of one page.
    pub http: Amount,
}

/// A number that was measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    pub(super) metric: String,
    pub(super) value: f64,
    pub(super) unit: &'static str,
}

/// The two ends of load through a system.
#[derive(Debug)]
pub(super) struct Ends<'a> {
    pub(super) namespaces: [&'a Namespace; 2],
    pub(super) addresses: [IpAddr; 2],
    control: &'static str,
}

impl<'a> Ends<'a> {
    /// Those of a running system: by service, where it has any, because only services have lanes.
    pub(super) fn of(system: &str, tunnel: &'a Tunnel) -> Self {
        let (namespaces, addresses) = match &tunnel.by_service {
            Some(ways) => (&ways.namespaces, ways.addresses),
            None => (&tunnel.namespaces, tunnel.addresses),
        };
        Self {
            namespaces: namespaces.each_ref(),
            addresses,
            control: if system == BBR { "bbr" } else { tcp::CUBIC },
        }
    }

    /// One TCP connection from the client to the server, in Mbit/s.
    pub(super) fn bulk(&self, time: Duration) -> Result<f64> {
        let _server = tcp::serve(self.namespaces[1])?;
        let flows = Flows::Forward(1);
        let client = self.namespaces[0];
        let measured = tcp::run_with(client, self.addresses, flows, time, self.control)?;
        Ok(measured.bits_per_second / 1e6)
    }

    fn probe(&self, time: Duration) -> Result<RoundTrips> {
        // A service's address is nobody's to bind.
        let bound = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        load::probe_at(self.namespaces, self.addresses, bound, time)
    }

    /// Round trips alone, and beside one TCP connection.
    fn probe_twice(&self, time: Duration) -> Result<[RoundTrips; 2]> {
        let alone = self.probe(time)?;
        let _server = tcp::serve(self.namespaces[1])?;
        let whole = LEAD + time;
        let client = self.namespaces[0];
        let began = Instant::now();
        let flow = tcp::start_unbounded(client, self.addresses, whole, self.control)?;
        thread::sleep(LEAD.saturating_sub(began.elapsed()));
        let beside = self.probe(time)?;
        let output = flow.into_output(whole + SLACK)?;
        ensure!(
            output.status.success(),
            "the transfer beside the probes failed: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok([alone, beside])
    }
}

/// Measures the parts of a cell that suit the system; what fails is left out and said.
pub(super) fn measure(
    lab: &Lab,
    system: &str,
    tunnel: &Tunnel,
    cell: &Cell,
    parts: &[Part],
    times: &Times,
) -> (Vec<Figure>, Vec<String>) {
    let ends = Ends::of(system, tunnel);
    let (mut figures, mut failures) = (Vec::new(), Vec::new());
    for part in parts {
        let found = match part {
            Part::Bulk => bulk(&ends, times),
            Part::Ping => ping(&ends, times),
            Part::Http => fetch(lab, &ends, times, &mut figures, cell),
            Part::Lan | Part::Connections => Ok(Vec::new()),
        };
        match found {
            Ok(found) => figures.extend(found.into_iter().map(|it| it.on(cell))),
            Err(error) => failures.push(format!("{}: {error:#}", part.word())),
        }
    }
    (figures, failures)
}

impl Figure {
    pub(super) fn new(metric: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            metric: metric.into(),
            value,
            unit,
        }
    }

    fn on(self, cell: &Cell) -> Self {
        Self {
            metric: cell.path.metric(&self.metric),
            ..self
        }
    }
}

fn bulk(ends: &Ends<'_>, times: &Times) -> Result<Vec<Figure>> {
    let rate = ends.bulk(times.tcp)?;
    Ok(vec![Figure::new("tcp1", rate, "Mbit/s")])
}

fn ping(ends: &Ends<'_>, times: &Times) -> Result<Vec<Figure>> {
    let found = ends.probe_twice(times.probes)?;
    let [alone, beside] = found.map(|it| [it.p50 / 1e3, it.p99 / 1e3]);
    let names = ["ping_p50", "ping_p99", "ping_load_p50", "ping_load_p99"];
    let values = alone.into_iter().chain(beside);
    let found = names.into_iter().zip(values);
    let added = ("ping_added_p50", beside[0] - alone[0]);
    let all = found.chain([added]);
    Ok(all
        .map(|(metric, value)| Figure::new(metric, value, "ms"))
        .collect())
}

/// Each page is measured by itself; those before one that fails are kept.
fn fetch(
    lab: &Lab,
    ends: &Ends<'_>,
    times: &Times,
    figures: &mut Vec<Figure>,
    cell: &Cell,
) -> Result<Vec<Figure>> {
    let [client, server] = ends.namespaces;
    http::set_control(server, ends.control)?;
    let [_, machine] = ground::nodes(lab);
    let _nginx = http::serve(server, &machine.dir()?.join("http"))?;
    let to = ends.addresses[1];
    http::warm_up(client, to).context("before anything was timed")?;
    for page in http::PAGES {
        let found = http::measure(client, to, page, times.http)?;
        let name = |figure: &str| format!("http_{}_{figure}", page.0);
        let pages = [
            Figure::new(name("p50"), found.p50, "ms"),
            Figure::new(name("p99"), found.p99, "ms"),
            Figure::new(name("count"), found.count as f64, "pages"),
        ];
        figures.extend(pages.map(|it| it.on(cell)));
    }
    Ok(Vec::new())
}
