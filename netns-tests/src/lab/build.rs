//! Carries a plan out, with as few programs as possible: one `ip` for all namespaces, one per
//! segment for its switch and links, one per machine for its addresses and routes.
//!
//! Then comes a handshake over every link while the links are still perfect, and last the NAT
//! rules and impairments. Called by [`super::Lab::new`], which removes everything on failure.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{BRIDGE, Lab};
use crate::description::Link;
use crate::emulator::{Direction, EmulatedLink};
use crate::namespace::{NAMESPACES_DIR, Namespace};
use crate::node::{Interface, Node};
use crate::plan::{Plan, PlannedInterface, PlannedMachine};
use crate::tap::Tap;

/// How long the handshake over all links may take.
const READY_TIME: Duration = Duration::from_secs(20);

/// The kernel's queue before an emulated link: long enough that only the emulator drops, even
/// while its thread waits for a core.
const TAP_QUEUE_PACKETS: u32 = 8192;

/// The interface index of a segment's first plain link: never that of its other end, for the
/// kernel takes a veth whose ends have equal indices for one device, and tells others only after
/// a second that it is up.
const FIRST_PORT_INDEX: u32 = 1000;

/// The longest name of a directory entry.
const MAX_FILE_NAME: usize = 255;

/// Settings of every machine, whatever the machine that runs the lab has: addresses are usable
/// at once, and nothing but the plan makes routes.
const SYSCTLS: [(&str, &str); 12] = [
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
];

/// Builds everything that the plan says.
pub(super) fn build(lab: &mut Lab, plan: &Plan) -> Result<()> {
    fs::create_dir_all(lab.dir()).with_context(|| format!("make {:?}", lab.dir()))?;
    make_namespaces(lab, plan)?;
    for machine in &plan.machines {
        prepare(lab, machine).with_context(|| format!("prepare machine {:?}", machine.name))?;
        make_taps(lab, plan, machine)?;
    }
    for index in 0..plan.segments.len() {
        build_segment(lab, plan, index)?;
    }
    for machine in &plan.machines {
        lab.nodes[&machine.name].ip_batch(&machine_commands(machine))?;
    }
    handshake(lab, plan)?;
    finish(lab, plan)
}

fn make_namespaces(lab: &mut Lab, plan: &Plan) -> Result<()> {
    let full = |suffix: &str| format!("{}-{suffix}", lab.name);
    let segments = plan.segments.iter().map(|segment| full(&segment.name));
    let machines = plan.machines.iter().map(|machine| full(&machine.name));
    let names: Vec<String> = segments.chain(machines).collect();
    for name in &names {
        ensure!(
            name.len() <= MAX_FILE_NAME,
            "namespace name {name:?} does not fit into {NAMESPACES_DIR}"
        );
    }
    Namespace::create_all(&names)?;
    for segment in &plan.segments {
        let namespace = Namespace::open(&full(&segment.name), &lab.name)?;
        lab.segments.insert(segment.name.clone(), namespace);
    }
    for machine in &plan.machines {
        let node = Node {
            name: machine.name.clone(),
            namespace: Namespace::open(&full(&machine.name), &lab.name)?,
            interfaces: interfaces(plan, machine),
            dir: lab.dir().join(&machine.name),
        };
        lab.nodes.insert(machine.name.clone(), node);
    }
    Ok(())
}

fn interfaces(plan: &Plan, machine: &PlannedMachine) -> Vec<Interface> {
    let all = machine.interfaces.iter();
    all.map(|interface| Interface {
        name: interface.name.clone(),
        segment: plan.segments[interface.segment].name.clone(),
        v4: interface.v4.map(|network| network.ip()),
        v6: interface.v6.map(|network| network.ip()),
    })
    .collect()
}

/// Gives a machine its mounts and settings.
fn prepare(lab: &mut Lab, machine: &PlannedMachine) -> Result<()> {
    let Some(node) = lab.nodes.get_mut(&machine.name) else {
        return Ok(());
    };
    if !machine.own_dirs.is_empty() {
        node.namespace.make_mounts(&machine.own_dirs)?;
    }
    let forwarding = if machine.forwards { "1" } else { "0" };
    let own = [
        ("net/ipv4/ip_forward", forwarding),
        ("net/ipv6/conf/all/forwarding", forwarding),
    ];
    node.namespace.sysctls(&[&SYSCTLS[..], &own].concat())
}

/// Makes the machine's emulated links.
fn make_taps(lab: &mut Lab, plan: &Plan, machine: &PlannedMachine) -> Result<()> {
    for interface in &machine.interfaces {
        if let Link::Emulated(emulation) = &interface.link {
            let segment = plan.segments[interface.segment].name.clone();
            let near = Tap::create(&lab.nodes[&machine.name], &interface.name)?;
            let far = Tap::create(&lab.segments[&segment], &interface.port)?;
            let link = EmulatedLink::start([near, far], emulation.seed)?;
            lab.links.insert((machine.name.clone(), segment), link);
        }
    }
    Ok(())
}

/// Makes a segment's switch and plain links, and connects all links to the switch.
fn build_segment(lab: &Lab, plan: &Plan, index: usize) -> Result<()> {
    let mut commands = format!(
        "link set lo up\n\
         link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link set {BRIDGE} up\n"
    );
    for ((machine, interface), number) in attached(plan, index).zip(FIRST_PORT_INDEX..) {
        let (name, port) = (&interface.name, &interface.port);
        let namespace = lab.nodes[&machine.name].name();
        // Writing to a String cannot fail.
        let _ = match interface.link {
            Link::Veth => writeln!(
                commands,
                "link add {port} index {number} type veth peer name {name} netns {namespace}"
            ),
            Link::Emulated(_) => {
                writeln!(commands, "link set {port} txqueuelen {TAP_QUEUE_PACKETS}")
            }
        };
        let _ = writeln!(commands, "link set {port} master {BRIDGE} up");
    }
    lab.segments[&plan.segments[index].name].ip_batch(&commands)
}

/// Writes the commands for a machine's addresses and routes.
fn machine_commands(machine: &PlannedMachine) -> String {
    let mut commands = "link set lo up\n".to_owned();
    for interface in &machine.interfaces {
        let device = &interface.name;
        // Writing to a String cannot fail.
        if matches!(interface.link, Link::Emulated(_)) {
            let _ = writeln!(commands, "link set {device} txqueuelen {TAP_QUEUE_PACKETS}");
        }
        if let Some(v4) = interface.v4 {
            let _ = writeln!(commands, "address add {v4} broadcast + dev {device}");
        }
        if let Some(v6) = interface.v6 {
            let _ = writeln!(commands, "address add {v6} dev {device} nodad");
        }
        let _ = writeln!(commands, "link set {device} up");
    }
    for route in &machine.routes {
        let _ = writeln!(commands, "route add {} via {}", route.to, route.via);
    }
    commands
}

/// Waits until the first machine of each segment has answered every other one there.
fn handshake(lab: &Lab, plan: &Plan) -> Result<()> {
    for index in 0..plan.segments.len() {
        let mut present = attached(plan, index);
        let Some((_, first)) = present.next() else {
            continue;
        };
        for (machine, _) in present {
            let node = &lab.nodes[&machine.name];
            if let Some(v4) = first.v4 {
                node.wait_reachable(v4.ip().into(), READY_TIME)?;
            }
            if let Some(v6) = first.v6 {
                node.wait_reachable(v6.ip().into(), READY_TIME)?;
            }
        }
    }
    Ok(())
}

/// Puts NAT rules and impairments into force.
fn finish(lab: &Lab, plan: &Plan) -> Result<()> {
    for machine in &plan.machines {
        if !machine.ruleset.is_empty() {
            lab.nodes[&machine.name].nft(&machine.ruleset)?;
        }
        for interface in &machine.interfaces {
            if let Link::Emulated(emulation) = &interface.link {
                let link = lab.link(&machine.name, &plan.segments[interface.segment].name);
                link.set(Direction::Up, emulation.up);
                link.set(Direction::Down, emulation.down);
            }
        }
    }
    Ok(())
}

/// The interfaces on a segment, with their machines.
fn attached(
    plan: &Plan,
    segment: usize,
) -> impl Iterator<Item = (&PlannedMachine, &PlannedInterface)> {
    plan.machines
        .iter()
        .flat_map(|machine| {
            machine
                .interfaces
                .iter()
                .map(move |interface| (machine, interface))
        })
        .filter(move |(_, interface)| interface.segment == segment)
}
