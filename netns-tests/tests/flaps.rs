//! Links that go and come, again and again, addresses that change, and uplinks of another family, all
//! under a download, a stream of echos and a ping: nothing is reset, every byte is right, and what is
//! not TCP is back within 300 ms.
//!
//! A short form of it; `WEALD_FLAPS=100` asks for as many flaps.

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use netns_tests::load::Load;
use netns_tests::pair::{self, NODES, ON_ALPHA, ON_BETA};
use netns_tests::{Attachment, Description, Fleet, Lab, Machine, Process, Segment, command, wait};

const SOON: Duration = Duration::from_secs(20);
/// A path that is not in use counts as lossy for its last 32 probes, two seconds apart: one whose
/// link was away too shortly to be dead may come behind a relay for so long.
const FORGOTTEN: Duration = Duration::from_secs(90);
/// How long an echo may take once there is a way again, beyond the round trip.
const BACK_TIME: Duration = Duration::from_millis(300);
/// What may come on top, once in four: kernels ask for a neighbour again after a second, and the first
/// question is lost if the switch's port does not forward yet when the link is up; or cores are busy.
const NEIGHBOUR_ASKED_AGAIN: Duration = Duration::from_millis(1100);
/// How long it may take until packets go another way when theirs is gone: until three probes are lost,
/// twice.
const TAKEOVER_TIME: Duration = Duration::from_secs(4);
/// How long a link is there between two flaps: some probes.
const UP_TIME: Duration = Duration::from_millis(1500);
/// Flaps of the short form, and what asks for more.
const FLAPS: usize = 8;
const FLAPS_VARIABLE: &str = "WEALD_FLAPS";
/// The shortest and the longest flap.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);
/// The longest of the short form.
const SHORT_LONGEST: Duration = Duration::from_secs(3);

const BETA: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 30, 1, 2);

/// How long each flap is: spread evenly on a logarithmic scale, in an order that mixes them.
fn flaps() -> Vec<Duration> {
    let asked = std::env::var(FLAPS_VARIABLE).ok();
    let asked = asked.and_then(|text| text.parse().ok());
    let (count, longest) = asked.map_or((FLAPS, SHORT_LONGEST), |count| (count, LONGEST));
    let ratio = longest.as_secs_f64() / SHORTEST.as_secs_f64();
    let nth = |nth: usize| {
        // A step that has no factor in common with the count, unless that is a multiple of seven.
        let place = (nth * 7) % count;
        SHORTEST.mul_f64(ratio.powf(place as f64 / count.max(2) as f64))
    };
    (0..count).map(nth).collect()
}

/// Traffic between the instances of alpha and beta.
struct Traffic {
    load: Load,
    ping: Process,
    back: Vec<(SystemTime, Duration)>,
}

impl Traffic {
    fn start(fleet: &Fleet<'_>) -> Result<Self> {
        let alpha = fleet.instance("alpha", ON_ALPHA)?;
        let beta = fleet.instance("beta", ON_BETA)?;
        let load = Load::start(&alpha, &beta, BETA)?;
        load.wait_echo(Instant::now(), SOON)?;
        let ping = alpha.spawn(command(&format!("ping -n -D -i 0.02 {BETA}")))?;
        Ok(Self {
            load,
            ping,
            back: Vec::new(),
        })
    }

    /// Notes that there is a way again, and waits until all traffic has found it.
    fn wait_back(&mut self) -> Result<()> {
        let (since, at) = (Instant::now(), SystemTime::now());
        let took = self.load.wait_echo(since, SOON)?;
        self.back.push((at, took));
        self.load.wait_download(SOON)
    }

    /// Ends it, and checks when echos and pings were back.
    fn finish(self, what: &str) -> Result<()> {
        // Echos and the download may be back before the next ping is sent.
        if let Some((at, _)) = self.back.last() {
            let at = at.duration_since(UNIX_EPOCH)?;
            wait::until("a ping is answered after the last flap", SOON, || {
                let printed = self.ping.stdout();
                let last = printed.lines().filter_map(time_of_reply).next_back();
                ensure!(last >= Some(at), "the last one at {last:?}, before {at:?}");
                Ok(())
            })?;
        }
        let ended = self.ping.stdout();
        drop(self.ping);
        let summary = self.load.finish().context("the traffic")?;
        let replies: Vec<Duration> = ended.lines().filter_map(time_of_reply).collect();
        ensure!(!replies.is_empty(), "no ping was answered: {ended}");
        let mut of_echos: Vec<Duration> = self.back.iter().map(|(_, took)| *took).collect();
        let mut of_pings = Vec::new();
        for (at, _) in &self.back {
            let at = at.duration_since(UNIX_EPOCH)?;
            let next = replies.iter().find(|reply| **reply >= at);
            let next = next.context("no ping was answered after the last flap")?;
            of_pings.push(*next - at);
        }
        println!("{what}: echos back after {of_echos:?}, pings after {of_pings:?}; {summary:?}");
        for (name, times) in [("echos", &mut of_echos), ("pings", &mut of_pings)] {
            times.sort();
            let most = times.get(times.len() * 3 / 4).or_else(|| times.first());
            let (most, last) = (most.context("none")?, times.last().context("none")?);
            ensure!(*most <= BACK_TIME, "{name} are back after {times:?}");
            ensure!(
                *last <= BACK_TIME + NEIGHBOUR_ASKED_AGAIN,
                "{name} are back after {times:?}"
            );
        }
        Ok(())
    }
}

/// When a line of `ping -D` says that a reply came.
fn time_of_reply(line: &str) -> Option<Duration> {
    let (time, rest) = line.strip_prefix('[')?.split_once(']')?;
    rest.contains("icmp_seq=").then_some(())?;
    Duration::try_from_secs_f64(time.parse().ok()?).ok()
}

fn wait_path(fleet: &Fleet<'_>, fits: impl Fn(&str) -> bool) -> Result<()> {
    wait_path_for(fleet, SOON, fits)
}

fn wait_path_for(fleet: &Fleet<'_>, time: Duration, fits: impl Fn(&str) -> bool) -> Result<()> {
    wait::until("the path is as expected", time, || {
        let peer = fleet.peer("alpha", "home/beta")?;
        let path = format!("{} {}", peer["path"]["kind"], peer["path"]["address"]);
        ensure!(fits(&path), "{path}");
        Ok(())
    })
}

/// Changes of path that alpha has made so far.
fn path_changes(fleet: &mut Fleet<'_>) -> usize {
    let log = fleet.daemon("alpha").shown();
    log.lines()
        .filter(|line| line.contains("path changed"))
        .count()
}

/// Alpha, beta and a relay on one segment: alpha has no other link.
fn one_segment() -> Result<Lab> {
    Lab::new(
        &Description::new()
            .segment(Segment::new("lan").v4("203.0.113.0/24"))
            .machine(Machine::host("relay").at("lan", 10))
            .machine(Machine::host("alpha").at("lan", 1))
            .machine(Machine::host("beta").at("lan", 2)),
    )
}

fn table_of_one_segment(lane: &str) -> String {
    pair::table_of(lane).replace("192.168.7.", "203.0.113.")
}

#[test]
fn an_only_link_that_flaps_resets_nothing() -> Result<()> {
    flap_an_only_link("auto")
}

#[test]
fn an_only_link_that_flaps_resets_nothing_of_the_l4_lane() -> Result<()> {
    flap_an_only_link("l4")
}

fn flap_an_only_link(lane: &str) -> Result<()> {
    let lab = one_segment()?;
    let mut fleet = pair::start_nodes(&lab, &table_of_one_segment(lane), &NODES, "")?;
    let mut traffic = Traffic::start(&fleet)?;
    wait_path(&fleet, |path| path.contains("direct"))?;
    let flows = fleet.tool_json("alpha", &["flows"])?;
    let mut flows = flows.iter().flat_map(netns_tests::fleet::elements);
    let on_l4 = flows.any(|flow| flow["protocol"] == "tcp" && flow["lane"] == "l4");
    ensure!(on_l4 == (lane == "l4"), "the download is on another lane");
    let host = lab.node("alpha");
    let flaps = flaps();
    let before = path_changes(&mut fleet);
    for down in &flaps {
        host.ip_batch("link set eth0 down\n")?;
        sleep(*down);
        host.ip_batch("link set eth0 up\n")?;
        traffic.wait_back()?;
        sleep(UP_TIME);
    }
    let changes = path_changes(&mut fleet) - before;
    ensure!(changes <= 2 * flaps.len(), "{changes} changes of path");
    println!("{changes} changes of path in {} flaps", flaps.len());
    traffic.finish(&format!("an only link, lane {lane}"))
}

#[test]
fn a_lan_that_flaps_beside_a_relay_changes_paths_twice_at_most() -> Result<()> {
    let lab = pair::lab()?;
    let mut fleet = pair::start(&lab)?;
    let mut traffic = Traffic::start(&fleet)?;
    wait_path(&fleet, |path| path.contains("direct"))?;
    let host = lab.node("alpha");
    let flaps = flaps();
    let before = path_changes(&mut fleet);
    let mut taken_over = Vec::new();
    for down in &flaps {
        host.ip_batch("link set eth1 down\n")?;
        // There is a way already, by the relay: how soon it is taken is shown, and bounded loosely.
        let (since, limit) = (Instant::now(), TAKEOVER_TIME);
        taken_over.push(traffic.load.wait_echo(since, limit)?);
        sleep(*down);
        host.ip_batch("link set eth1 up\n")?;
        traffic.wait_back()?;
        wait_path(&fleet, |path| path.contains("direct"))?;
        sleep(UP_TIME);
    }
    let changes = path_changes(&mut fleet) - before;
    ensure!(changes <= 2 * flaps.len(), "{changes} changes of path");
    println!("{changes} changes of path; the relay took over after {taken_over:?}");
    traffic.finish("a LAN beside a relay")
}

#[test]
fn a_node_that_roams_resets_nothing() -> Result<()> {
    let lab = one_segment()?;
    let fleet = pair::start_nodes(&lab, &table_of_one_segment("auto"), &NODES, "")?;
    let mut traffic = Traffic::start(&fleet)?;
    wait_path(&fleet, |path| path.contains("direct"))?;
    let host = lab.node("alpha");
    let mut former = "203.0.113.1/24".to_owned();
    for number in [77, 78, 79, 80] {
        let next = format!("203.0.113.{number}/24");
        host.ip_batch(&format!(
            "address add {next} dev eth0\naddress del {former} dev eth0\n"
        ))?;
        // A kernel that is not told otherwise takes an address's fellows away with the first one.
        host.ip_batch(&format!("address replace {next} dev eth0\n"))?;
        traffic.wait_back()?;
        sleep(UP_TIME);
        former = next;
    }
    traffic.finish("roaming")
}

#[test]
fn an_uplink_of_the_other_family_takes_over() -> Result<()> {
    let on_both = |name: &str, number| {
        Machine::host(name)
            .attach(Attachment::to("four").number(number))
            .attach(Attachment::to("six").number(number))
    };
    let lab = Lab::new(
        &Description::new()
            .segment(Segment::new("four").v4("203.0.113.0/24"))
            .segment(Segment::new("six").v6("2001:db8:1::/64"))
            .machine(on_both("relay", 10))
            .machine(on_both("alpha", 1))
            .machine(on_both("beta", 2)),
    )?;
    let table = table_of_one_segment("auto")
        .replace(
            "[\"203.0.113.10:10250\"]",
            "[\"203.0.113.10:10250\", \"[2001:db8:1::a]:10250\"]",
        )
        .replace(
            "[\"203.0.113.1:10260\"]",
            "[\"203.0.113.1:10260\", \"[2001:db8:1::1]:10260\"]",
        )
        .replace(
            "[\"203.0.113.2:10260\"]",
            "[\"203.0.113.2:10260\", \"[2001:db8:1::2]:10260\"]",
        );
    let mut fleet = Fleet::new(&lab)?;
    fleet.listen_on_both_families();
    fleet.write_table(&table)?;
    fleet.start_relay("relay", "hub/r1", "")?;
    for (machine, id) in NODES {
        fleet.add_node(machine, id, "acme", "")?;
        fleet.start(machine)?;
    }
    let host = lab.node("alpha");
    // Or IPv6 addresses would be gone with the link.
    host.sysctl("net/ipv6/conf/eth1/keep_addr_on_down", "1")?;
    let mut traffic = Traffic::start(&fleet)?;
    for (link, other) in [
        ("eth0", "2001:db8:"),
        ("eth1", "203.0.113."),
        ("eth0", "2001:db8:"),
    ] {
        wait_path(&fleet, |path| path.contains("direct"))?;
        // Both are known to work.
        sleep(Duration::from_secs(3));
        host.ip_batch(&format!("link set {link} down\n"))?;
        traffic.wait_back()?;
        wait_path_for(&fleet, FORGOTTEN, |path| {
            path.contains("direct") && path.contains(other)
        })?;
        host.ip_batch(&format!("link set {link} up\n"))?;
        traffic.wait_back()?;
    }
    traffic.finish("uplinks of two families")
}

#[test]
fn a_host_that_was_away_looks_at_its_networks_at_once() -> Result<()> {
    let lab = one_segment()?;
    let mut fleet = pair::start_nodes(&lab, &table_of_one_segment("auto"), &NODES, "")?;
    let traffic = Traffic::start(&fleet)?;
    let away = |fleet: &mut Fleet<'_>| {
        let log = fleet.daemon("alpha").shown();
        log.lines()
            .filter(|line| line.contains("has been away"))
            .count()
    };
    ensure!(away(&mut fleet) == 0);
    fleet
        .daemon("alpha")
        .signal(nix::sys::signal::Signal::SIGSTOP)?;
    sleep(Duration::from_secs(4));
    fleet
        .daemon("alpha")
        .signal(nix::sys::signal::Signal::SIGCONT)?;
    let back = Instant::now();
    let took = traffic.load.wait_echo(back, SOON)?;
    ensure!(
        took <= BACK_TIME + NEIGHBOUR_ASKED_AGAIN,
        "echos are back after {took:?}"
    );
    wait::until("it has noticed", SOON, || {
        ensure!(away(&mut fleet) == 1);
        Ok(())
    })?;
    traffic.load.finish().map(drop)
}
