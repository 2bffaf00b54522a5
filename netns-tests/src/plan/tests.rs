//! Addresses and routes of small labs.

use super::*;
use crate::two_sites;

fn machine<'a>(plan: &'a Plan, name: &str) -> &'a PlannedMachine {
    plan.machines.iter().find(|one| one.name == name).unwrap()
}

fn routes(plan: &Plan, name: &str) -> Vec<String> {
    machine(plan, name)
        .routes
        .iter()
        .map(|one| format!("{} via {}", one.to, one.via))
        .collect()
}

#[test]
fn inner_sides_of_routers_are_numbered_first() {
    let plan = Plan::new(&two_sites::description()).unwrap();
    let address = |name, index: usize| machine(&plan, name).interfaces[index].v4.unwrap().ip();
    assert_eq!(address("gw-a", 1), Ipv4Addr::new(192, 168, 1, 1));
    assert_eq!(address("a1", 0), Ipv4Addr::new(192, 168, 1, 2));
    assert_eq!(address("relay", 0), Ipv4Addr::new(203, 0, 113, 1));
    assert_eq!(address("gw-b", 0), Ipv4Addr::new(203, 0, 113, 3));
}

#[test]
fn default_routes_lead_to_the_core_and_a_nat_hides_its_prefix() {
    let plan = Plan::new(&two_sites::description()).unwrap();
    assert_eq!(
        routes(&plan, "a1"),
        ["0.0.0.0/0 via 192.168.1.1", "::/0 via 2001:db8:a::1"]
    );
    assert_eq!(routes(&plan, "relay"), ["2001:db8:a::/64 via 2001:db8::2"]);
    assert_eq!(routes(&plan, "gw-b"), ["2001:db8:a::/64 via 2001:db8::2"]);
    assert_eq!(
        routes(&plan, "b1"),
        ["0.0.0.0/0 via 192.168.1.1", "::/0 via fd00:b::1"]
    );
}

#[test]
fn routes_pass_several_hops() {
    let description = Description::new()
        .segment(Segment::new("core").v4("10.0.0.0/24"))
        .segment(Segment::new("transit").v4("10.0.1.0/24"))
        .segment(Segment::new("site").v4("10.0.2.0/24"))
        .machine(Machine::host("far").on("core"))
        .machine(Machine::router("r1", "core", "transit"))
        .machine(Machine::router("r2", "transit", "site"))
        .machine(Machine::host("near").on("site"));
    let plan = Plan::new(&description).unwrap();
    assert_eq!(
        routes(&plan, "far"),
        ["10.0.1.0/24 via 10.0.0.2", "10.0.2.0/24 via 10.0.0.2"]
    );
    assert_eq!(routes(&plan, "r1"), ["10.0.2.0/24 via 10.0.1.2"]);
    assert_eq!(routes(&plan, "r2"), ["0.0.0.0/0 via 10.0.1.1"]);
    assert_eq!(routes(&plan, "near"), ["0.0.0.0/0 via 10.0.2.1"]);
}

#[test]
fn faults_are_named() {
    let error = |description: Description| format!("{:#}", Plan::new(&description).unwrap_err());
    let internet = || Description::new().segment(Segment::new("internet").v4("10.0.0.0/30"));
    let host = |name| Machine::host(name).on("internet");
    assert_eq!(
        error(internet().machine(Machine::host("a").on("nowhere"))),
        "machine \"a\": there is no segment \"nowhere\""
    );
    assert_eq!(
        error(internet().machine(host("a")).machine(host("a"))),
        "name \"a\" is used twice"
    );
    assert_eq!(
        error(internet().machine(host("a b"))),
        "name \"a b\" may have only letters, digits and '-'"
    );
    assert_eq!(
        error(internet().machine(Machine::host("a").at("internet", 4))),
        "machine \"a\": number 4 does not fit into 10.0.0.0/30"
    );
    assert!(
        error(Description::new().segment(Segment::new("x").v4("10.0.0.0/40")))
            .starts_with("segment \"x\": ")
    );
}
