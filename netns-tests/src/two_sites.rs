//! Two sites behind routers, with the same IPv4 prefix, and a relay between them: what the tests of
//! the Lab are about, as a plan and as a running lab.

use std::time::Duration;

use crate::{Description, Impairment, Link, Machine, Nat, Segment};

/// How long a packet takes through the emulated link between `gw-a` and the core, each way.
const DELAY: Duration = Duration::from_millis(10);

/// The description. Of site a IPv4 is translated and IPv6 is routed, of site b both are translated;
/// into neither comes what was not asked for.
#[must_use]
pub fn description() -> Description {
    let slow = Link::emulated(Impairment::delay(DELAY), 1);
    let router = |name: &str, site: &str| {
        Machine::router(name, "internet", site)
            .nat(Nat::PortRestricted)
            .drop_unsolicited()
    };
    let segment = |name: &str, v4: &str, v6: &str| Segment::new(name).v4(v4).v6(v6);
    Description::new()
        .segment(segment("internet", "203.0.113.0/24", "2001:db8::/64"))
        .segment(segment("site-a", "192.168.1.0/24", "2001:db8:a::/64"))
        .segment(segment("site-b", "192.168.1.0/24", "fd00:b::/64"))
        .machine(Machine::host("relay").on("internet"))
        .machine(Machine::host("a1").on("site-a"))
        .machine(Machine::host("a2").on("site-a"))
        .machine(router("gw-a", "site-a").link("internet", slow))
        .machine(router("gw-b", "site-b").nat66(Nat::PortRestricted))
        .machine(Machine::host("b1").on("site-b"))
        .machine(Machine::host("b2").on("site-b"))
}
