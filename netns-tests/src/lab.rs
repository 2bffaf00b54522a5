//! The lab: builds a description in network namespaces and removes all of it when dropped.
//!
//! Built in this order: namespaces, links, addresses, routes, a handshake over every link while
//! the links are still perfect, then NAT rules and impairments. A failure on the way, a panic of
//! the test and a plain drop all end in the same teardown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::description::{Description, Link};
use crate::emulator::{Direction, EmulatedLink};
use crate::namespace::{NAMESPACES_DIR, Namespace};
use crate::node::{Interface, Node};
use crate::plan::{Plan, PlannedInterface, PlannedMachine};
use crate::require;
use crate::sweep;
use crate::tap::Tap;

/// The name of the bridge inside every segment's namespace.
pub const BRIDGE: &str = "bridge";

/// How long the handshake over all links may take.
const READY_TIME: Duration = Duration::from_secs(20);

/// The kernel's queue before an emulated link: long enough that only the emulator drops, even
/// while its thread waits for a core.
const TAP_QUEUE_PACKETS: u32 = 8192;

/// Counts the labs of this process, for unique names.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    name: String,
    segments: BTreeMap<String, Namespace>,
    nodes: BTreeMap<String, Node>,
    links: BTreeMap<(String, String), EmulatedLink>,
    extra_prefixes: Mutex<Vec<String>>,
}

impl Lab {
    /// Builds a lab and returns once every link carries packets.
    ///
    /// # Errors
    /// Fails if the description has a fault, without root, or without the programs `ip` and
    /// `nft`; what was built until then is removed.
    pub fn new(description: &Description) -> Result<Self> {
        require::privileges()?;
        require::programs(&["ip", "nft"])?;
        let plan = Plan::new(description)?;
        sweep::remove_dead_labs();
        let mut lab = Self {
            name: sweep::lab_name(COUNTER.fetch_add(1, Ordering::Relaxed))?,
            segments: BTreeMap::new(),
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            extra_prefixes: Mutex::new(Vec::new()),
        };
        lab.build(&plan)
            .with_context(|| format!("build lab {}", lab.name))?;
        Ok(lab)
    }

    /// The unique name, which all of the lab's namespaces start with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory that is removed with the lab; it may not exist yet.
    pub fn dir(&self) -> PathBuf {
        sweep::lab_dir(&self.name)
    }

    /// A host or router.
    ///
    /// # Panics
    /// Panics if the description has none of this name.
    #[track_caller]
    pub fn node(&self, name: &str) -> &Node {
        match self.nodes.get(name) {
            Some(node) => node,
            None => panic!("the lab has no node {name:?}, only {:?}", self.nodes.keys()),
        }
    }

    /// The namespace of a segment; its switch is the interface [`BRIDGE`].
    ///
    /// # Panics
    /// Panics if the description has none of this name.
    #[track_caller]
    pub fn segment(&self, name: &str) -> &Namespace {
        match self.segments.get(name) {
            Some(segment) => segment,
            None => panic!(
                "the lab has no segment {name:?}, only {:?}",
                self.segments.keys()
            ),
        }
    }

    /// The emulated link between a machine and a segment.
    ///
    /// # Panics
    /// Panics if there is no such link or it is not emulated.
    #[track_caller]
    pub fn link(&self, machine: &str, segment: &str) -> &EmulatedLink {
        match self.links.get(&(machine.to_owned(), segment.to_owned())) {
            Some(link) => link,
            None => panic!(
                "no emulated link {machine:?} - {segment:?}: {:?}",
                self.links.keys()
            ),
        }
    }

    /// Opens a namespace that a program in the lab made.
    ///
    /// # Errors
    /// Fails if there is none of this name.
    pub fn open_namespace(&self, name: &str) -> Result<Namespace> {
        Namespace::open(name, &self.name)
    }

    /// Has teardown remove all namespaces whose names start with `prefix` as well, for those that
    /// a program in the lab makes and may leave behind.
    ///
    /// # Panics
    /// Panics if the prefix is shorter than four characters, which would hit others.
    #[track_caller]
    pub fn own_namespaces(&self, prefix: &str) {
        assert!(
            prefix.len() >= 4,
            "namespace prefix {prefix:?} is too short to be unique"
        );
        let mut prefixes = self
            .extra_prefixes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        prefixes.push(prefix.to_owned());
    }

    fn build(&mut self, plan: &Plan) -> Result<()> {
        fs::create_dir_all(self.dir()).with_context(|| format!("make {:?}", self.dir()))?;
        for segment in &plan.segments {
            let namespace = self.namespace(&segment.name)?;
            namespace.ip_batch(&format!(
                "link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 link set {BRIDGE} up\n"
            ))?;
            self.segments.insert(segment.name.clone(), namespace);
        }
        for machine in &plan.machines {
            self.build_machine(plan, machine)
                .with_context(|| format!("build machine {:?}", machine.name))?;
        }
        for machine in &plan.machines {
            let mut commands = String::new();
            for route in &machine.routes {
                // Writing to a String cannot fail.
                let _ = writeln!(commands, "route add {} via {}", route.to, route.via);
            }
            self.nodes[&machine.name].ip_batch(&commands)?;
        }
        self.handshake(plan)?;
        self.finish(plan)
    }

    fn namespace(&self, suffix: &str) -> Result<Namespace> {
        let name = format!("{}-{suffix}", self.name);
        ensure!(
            name.len() <= MAX_FILE_NAME,
            "namespace name {name:?} does not fit into {NAMESPACES_DIR}"
        );
        Namespace::create(&name, &self.name)
    }

    fn build_machine(&mut self, plan: &Plan, machine: &PlannedMachine) -> Result<()> {
        let mut namespace = self.namespace(&machine.name)?;
        if !machine.own_dirs.is_empty() {
            namespace.make_mounts(&machine.own_dirs)?;
        }
        let forwarding = if machine.forwards { "1" } else { "0" };
        for (key, value) in SYSCTLS {
            namespace.sysctl(key, value)?;
        }
        namespace.sysctl("net/ipv4/ip_forward", forwarding)?;
        namespace.sysctl("net/ipv6/conf/all/forwarding", forwarding)?;
        let mut commands = String::new();
        let mut interfaces = Vec::new();
        for interface in &machine.interfaces {
            let segment = &plan.segments[interface.segment].name;
            self.connect(&namespace, &machine.name, segment, interface)?;
            // Writing to a String cannot fail.
            let device = &interface.name;
            if let Some(v4) = interface.v4 {
                let _ = writeln!(commands, "address add {v4} broadcast + dev {device}");
            }
            if let Some(v6) = interface.v6 {
                let _ = writeln!(commands, "address add {v6} dev {device} nodad");
            }
            let _ = writeln!(commands, "link set {device} up");
            interfaces.push(Interface {
                name: interface.name.clone(),
                segment: segment.clone(),
                v4: interface.v4.map(|network| network.ip()),
                v6: interface.v6.map(|network| network.ip()),
            });
        }
        namespace.ip_batch(&commands)?;
        let dir = self.dir().join(&machine.name);
        let node = Node {
            name: machine.name.clone(),
            namespace,
            interfaces,
            dir,
        };
        self.nodes.insert(machine.name.clone(), node);
        Ok(())
    }

    /// Makes the link between a machine and a segment.
    fn connect(
        &mut self,
        namespace: &Namespace,
        machine: &str,
        segment: &str,
        interface: &PlannedInterface,
    ) -> Result<()> {
        let (name, port) = (&interface.name, &interface.port);
        let switch = &self.segments[segment];
        match &interface.link {
            // Made from the segment's side, which sees all namespaces.
            Link::Veth => switch.ip_batch(&format!(
                "link add {port} type veth peer name {name} netns {}\n",
                namespace.name()
            ))?,
            Link::Emulated(emulation) => {
                let ends = [Tap::create(namespace, name)?, Tap::create(switch, port)?];
                let queue = |name| format!("link set {name} txqueuelen {TAP_QUEUE_PACKETS}\n");
                namespace.ip_batch(&queue(name))?;
                switch.ip_batch(&queue(port))?;
                let link = EmulatedLink::start(ends, emulation.seed)?;
                self.links
                    .insert((machine.to_owned(), segment.to_owned()), link);
            }
        }
        let switch = &self.segments[segment];
        switch.ip_batch(&format!("link set {port} master {BRIDGE} up\n"))
    }

    /// Waits until the first machine of each segment has answered every other one there.
    fn handshake(&self, plan: &Plan) -> Result<()> {
        for index in 0..plan.segments.len() {
            let mut present = plan.machines.iter().filter_map(|machine| {
                let interfaces = &machine.interfaces;
                let interface = interfaces
                    .iter()
                    .find(|interface| interface.segment == index)?;
                Some((machine, interface))
            });
            let Some((_, first)) = present.next() else {
                continue;
            };
            for (machine, _) in present {
                let node = &self.nodes[&machine.name];
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
    fn finish(&self, plan: &Plan) -> Result<()> {
        for machine in &plan.machines {
            if !machine.ruleset.is_empty() {
                self.nodes[&machine.name].nft(&machine.ruleset)?;
            }
            for interface in &machine.interfaces {
                if let Link::Emulated(emulation) = &interface.link {
                    let link = self.link(&machine.name, &plan.segments[interface.segment].name);
                    link.set(Direction::Up, emulation.up);
                    link.set(Direction::Down, emulation.down);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let prefixes = self
            .extra_prefixes
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        sweep::remove_lab(&self.name, prefixes);
    }
}

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

/// Whether anything of a lab is left: a namespace, or its directory.
pub fn leftovers(lab: &str) -> Vec<String> {
    let mut left = crate::namespace::names_with_prefix(&format!("{lab}-"));
    let dir = sweep::lab_dir(lab);
    if Path::new(&dir).exists() {
        left.push(dir.display().to_string());
    }
    left
}
