//! Two nodes behind NATs, which no configuration tells where the other one is, get a direct path.
//!
//! Two transit routers are between the sites, so that what is to die in transit can. The routers
//! here are Linux's own masquerade in both flavours; all other kinds are the matrix's.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netns_tests::pair::{self, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::{Description, Lab, Machine, Nat, Segment, wait};

/// How long an easy pair may take from the start of the second node.
const DIRECT_TIME: Duration = Duration::from_secs(5);
/// How long a pair may take that has to search a port. One of fifty searches finds none by chance,
/// two in a row one of 2,500.
const SEARCH_TIME: Duration = Duration::from_secs(20);

/// The table of [`pair`] without the addresses of nodes.
fn table() -> String {
    let lines = TABLE.lines();
    let mut text: String = lines
        .filter(|line| !line.starts_with("addresses = [\"192.168."))
        .flat_map(|line| [line, "\n"])
        .collect();
    text = text.replace("203.0.113.10:10250", "198.51.100.10:10250");
    text
}

fn lab(nats: [Nat; 2], drops_unsolicited: bool) -> Result<Lab> {
    let gateway = |name: &str, wan: &str, lan: &str, nat| {
        let router = Machine::router(name, wan, lan).nat(nat);
        if drops_unsolicited {
            router.drop_unsolicited()
        } else {
            router
        }
    };
    Lab::new(
        &Description::new()
            .segment(Segment::new("core").v4("198.51.100.0/24"))
            .segment(Segment::new("isp-a").v4("203.0.113.0/25"))
            .segment(Segment::new("isp-b").v4("203.0.113.128/25"))
            .segment(Segment::new("site-a").v4("192.168.7.0/24"))
            .segment(Segment::new("site-b").v4("192.168.7.0/24"))
            .machine(Machine::host("relay").at("core", 10))
            .machine(Machine::router("transit-a", "core", "isp-a"))
            .machine(Machine::router("transit-b", "core", "isp-b"))
            .machine(gateway("gw-a", "isp-a", "site-a", nats[0]))
            .machine(gateway("gw-b", "isp-b", "site-b", nats[1]))
            .machine(Machine::host("alpha").on("site-a"))
            .machine(Machine::host("beta").on("site-b")),
    )
}

fn punches(nats: [Nat; 2], drops_unsolicited: bool, within: Duration) -> Result<()> {
    let lab = lab(nats, drops_unsolicited)?;
    let fleet = pair::start_nodes(&lab, &table(), &pair::NODES, "")?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let _echo = fleet
        .instance("beta", ON_BETA)?
        .udp_echo(pair::anywhere())?;
    let started = Instant::now();
    wait::until("an echo comes back", within, || {
        let to = pair::at("10.30.1.2");
        let echoed = alpha.udp_exchange(to, b"echo", Duration::from_millis(200))?;
        ensure!(echoed == b"echo");
        Ok(())
    })?;
    let first_byte = started.elapsed();
    let direct = pair::wait_path(&fleet, "direct", within);
    eprintln!(
        "{nats:?} drop {drops_unsolicited}: first byte {first_byte:?}, direct {:?} after {:?}",
        direct.is_ok(),
        started.elapsed()
    );
    direct
}

#[test]
fn masquerade_that_drops_what_it_did_not_ask_for() -> Result<()> {
    punches([Nat::PortRestricted; 2], true, DIRECT_TIME)
}

#[test]
fn masquerade_that_takes_what_it_did_not_ask_for_to_be_its_own() -> Result<()> {
    punches([Nat::PortRestricted; 2], false, DIRECT_TIME)
}

#[test]
fn a_nat_that_counts_ports_up_is_aimed_at() -> Result<()> {
    punches(
        [Nat::SequentialSymmetric, Nat::PortRestricted],
        false,
        DIRECT_TIME,
    )
}

#[test]
fn a_nat_with_random_ports_reaches_one_that_is_open() -> Result<()> {
    punches([Nat::FullCone, Nat::Symmetric], true, DIRECT_TIME)
}

#[test]
fn a_nat_with_random_ports_is_searched() -> Result<()> {
    let search = || punches([Nat::PortRestricted, Nat::Symmetric], true, SEARCH_TIME);
    search().or_else(|error| {
        eprintln!("the search was unlucky, or does not work: {error:#}");
        search()
    })
}
