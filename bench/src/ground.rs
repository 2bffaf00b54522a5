//! What every system stands on: two namespaces and a veth of MTU 1500 between them.
//!
//! No bridge and no emulator: this is the bare link that ratios refer to. For long and lossy paths
//! there is an emulated link instead, [`build_far`].

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Result;
use netns_tests::emulator::Impairment;
use netns_tests::{Attachment, Description, Lab, Link, Machine, Node, Segment, command};

/// The two machines; load goes from the first to the second.
pub const MACHINES: [&str; 2] = ["alpha", "beta"];
/// The addresses on the veth.
pub const OUTER: [Ipv4Addr; 2] = [
    Ipv4Addr::new(192, 168, 77, 1),
    Ipv4Addr::new(192, 168, 77, 2),
];
/// The addresses inside of tunnels.
pub const INNER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 30, 0, 1), Ipv4Addr::new(10, 30, 0, 2)];
/// The veth's name at both ends.
const WIRE: &str = "wire";
/// The segment between the machines where the link is emulated, and the seed of its losses.
const FAR: &str = "far";
const SEED: u64 = 20;
/// How long a command may take.
const SOON: Duration = Duration::from_secs(10);

/// Builds the two namespaces and the veth.
///
/// # Errors
/// As [`Lab::new`], and what `ip` refuses.
pub fn build() -> Result<Lab> {
    let description = MACHINES
        .into_iter()
        .fold(Description::new(), |description, name| {
            description.machine(Machine::host(name))
        });
    let lab = Lab::new(&description)?;
    let [alpha, beta] = nodes(&lab);
    alpha.ip_batch(&format!(
        "link add {WIRE} mtu 1500 type veth peer name {WIRE} mtu 1500 netns {}\n\
         addr add {}/24 dev {WIRE}\nlink set {WIRE} up\n",
        beta.name(),
        OUTER[0],
    ))?;
    beta.ip_batch(&format!(
        "addr add {}/24 dev {WIRE}\nlink set {WIRE} up\n",
        OUTER[1],
    ))?;
    alpha.wait_reachable(IpAddr::V4(OUTER[1]), SOON)?;
    Ok(lab)
}

/// Builds the two namespaces with an emulated link between them instead, whose impairments
/// [`impair`] sets.
///
/// # Errors
/// As [`Lab::new`], and when no packet passes.
pub fn build_far() -> Result<Lab> {
    let [alpha, beta] = MACHINES;
    let link = Link::emulated(Impairment::default(), SEED);
    let lab = Lab::new(
        &Description::new()
            .segment(Segment::new(FAR).v4("192.168.77.0/24"))
            .machine(Machine::host(alpha).attach(Attachment::to(FAR).number(1).link(link)))
            .machine(Machine::host(beta).at(FAR, 2)),
    )?;
    let [alpha, _] = nodes(&lab);
    alpha.wait_reachable(IpAddr::V4(OUTER[1]), SOON)?;
    Ok(lab)
}

/// Sets what the emulated link does to packets, the same in both directions.
pub fn impair(lab: &Lab, impairment: Impairment) {
    lab.link(MACHINES[0], FAR).set_both(impairment);
}

/// The two machines of [`MACHINES`].
#[must_use]
pub fn nodes(lab: &Lab) -> [&Node; 2] {
    MACHINES.map(|name| lab.node(name))
}

/// Switches a feature of both ends of the veth `on` or `off`; an empty name is none.
///
/// # Errors
/// As [`set_features`].
pub fn set_feature(lab: &Lab, feature: &str, state: &str) -> Result<()> {
    if feature.is_empty() {
        return Ok(());
    }
    set_features(lab, &format!("{feature} {state}"))
}

/// Switches features of both ends of the veth, such as `tso off gso off`.
///
/// # Errors
/// `ethtool` is missing or refuses.
pub fn set_features(lab: &Lab, features: &str) -> Result<()> {
    for node in nodes(lab) {
        let line = format!("ethtool -K {WIRE} {features}");
        node.run_ok(command(&line), SOON)?;
    }
    Ok(())
}
