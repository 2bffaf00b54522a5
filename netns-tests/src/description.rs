//! What a lab looks like, as data: segments, hosts, routers and the links that attach them.
//!
//! Nothing here touches the kernel. [`crate::plan`] checks a description and turns it into
//! addresses, routes and rules; [`crate::Lab`] builds the result.

use std::path::PathBuf;

use crate::emulator::Impairment;
use crate::nat::Nat;

/// A whole lab: what [`crate::Lab::new`] builds.
///
/// The first segment is the core (the "internet"): default routes lead towards it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Description {
    /// The switched segments, the core first.
    pub segments: Vec<Segment>,
    /// The hosts and routers.
    pub machines: Vec<Machine>,
}

/// A switched Ethernet segment with one prefix per address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The unique name; letters, digits and `-`.
    pub name: String,
    /// The IPv4 prefix, such as `192.168.1.0/24`, if the segment carries IPv4.
    pub v4: Option<String>,
    /// The IPv6 prefix, such as `2001:db8:1::/64`, if the segment carries IPv6.
    pub v6: Option<String>,
}

/// A host or a router.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// The unique name; letters, digits and `-`.
    pub name: String,
    /// The interfaces, in order.
    pub attachments: Vec<Attachment>,
    /// Set for a router: how it forwards.
    pub routing: Option<Routing>,
    /// Directories that are empty and the machine's own, such as `/run/netns`; none shares all
    /// files with the machine that runs the lab.
    pub own_dirs: Vec<PathBuf>,
}

/// How a router forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// The IPv4 translation towards the WAN.
    pub v4: Nat,
    /// The IPv6 translation towards the WAN; [`Nat::None`] routes.
    pub v6: Nat,
    /// Whether unsolicited packets that arrive on the WAN are dropped without an answer.
    pub drop_unsolicited: bool,
    /// Whether all UDP between LAN and WAN is dropped.
    pub block_udp: bool,
}

/// One interface: which segment it is on, and over which kind of link.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    /// The segment's name.
    pub segment: String,
    /// The interface's name inside the machine; chosen by position when absent.
    pub interface: Option<String>,
    /// The host number within the segment's prefixes; the lowest free one when absent.
    pub number: Option<u32>,
    /// Whether this interface faces the outside, for routers that translate or filter.
    pub wan: bool,
    /// The kind of link.
    pub link: Link,
}

/// The kind of link between a machine and a segment.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Link {
    /// A plain veth pair: as fast as the kernel, with segmentation offloads.
    #[default]
    Veth,
    /// A userspace link with impairments.
    Emulated(Box<Emulation>),
}

/// The impairments of an emulated link, one per direction.
#[derive(Debug, Clone, PartialEq)]
pub struct Emulation {
    /// From the machine to the segment.
    pub up: Impairment,
    /// From the segment to the machine.
    pub down: Impairment,
    /// What every random choice on the link is derived from.
    pub seed: u64,
}

impl Description {
    /// Makes an empty description.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a segment.
    pub fn segment(mut self, segment: Segment) -> Self {
        self.segments.push(segment);
        self
    }

    /// Adds a host or router.
    pub fn machine(mut self, machine: Machine) -> Self {
        self.machines.push(machine);
        self
    }
}

impl Segment {
    /// Makes a segment without addresses.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            v4: None,
            v6: None,
        }
    }

    /// Sets the IPv4 prefix.
    pub fn v4(mut self, prefix: &str) -> Self {
        self.v4 = Some(prefix.to_owned());
        self
    }

    /// Sets the IPv6 prefix.
    pub fn v6(mut self, prefix: &str) -> Self {
        self.v6 = Some(prefix.to_owned());
        self
    }
}

impl Machine {
    /// Makes a host that does not forward; its interfaces are `eth0`, `eth1`, ...
    pub fn host(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            attachments: Vec::new(),
            routing: None,
            own_dirs: Vec::new(),
        }
    }

    /// Makes a router between `wan` and `lan`, without translation; its first two interfaces are
    /// called `wan` and `lan`, further ones `eth2`, `eth3`, ...
    pub fn router(name: &str, wan: &str, lan: &str) -> Self {
        let routing = Routing {
            v4: Nat::None,
            v6: Nat::None,
            drop_unsolicited: false,
            block_udp: false,
        };
        let mut outside = Attachment::to(wan).interface("wan");
        outside.wan = true;
        Self {
            name: name.to_owned(),
            attachments: vec![outside, Attachment::to(lan).interface("lan")],
            routing: Some(routing),
            own_dirs: Vec::new(),
        }
    }

    /// Attaches the machine to `segment` by a plain veth.
    pub fn on(self, segment: &str) -> Self {
        self.attach(Attachment::to(segment))
    }

    /// Attaches the machine by a plain veth, as the host with that number in `segment`.
    pub fn at(self, segment: &str, number: u32) -> Self {
        self.attach(Attachment::to(segment).number(number))
    }

    /// Attaches the machine as described.
    pub fn attach(mut self, attachment: Attachment) -> Self {
        self.attachments.push(attachment);
        self
    }

    /// Replaces the link of the machine's first attachment to `segment`.
    pub fn link(mut self, segment: &str, link: Link) -> Self {
        if let Some(found) = self
            .attachments
            .iter_mut()
            .find(|one| one.segment == segment)
        {
            found.link = link;
        }
        self
    }

    /// Gives the machine an own, empty directory at `path`, by a mount namespace of its own.
    ///
    /// With `/run/netns`, the namespaces that its programs make are seen by nobody else, and
    /// vanish with the lab.
    pub fn own_dir(mut self, path: &str) -> Self {
        self.own_dirs.push(PathBuf::from(path));
        self
    }

    /// Sets the IPv4 translation of a router.
    pub fn nat(mut self, nat: Nat) -> Self {
        if let Some(routing) = &mut self.routing {
            routing.v4 = nat;
        }
        self
    }

    /// Sets the IPv6 translation of a router (NAT66).
    pub fn nat66(mut self, nat: Nat) -> Self {
        if let Some(routing) = &mut self.routing {
            routing.v6 = nat;
        }
        self
    }

    /// Makes a router drop unsolicited packets that arrive on its WAN.
    pub fn drop_unsolicited(mut self) -> Self {
        if let Some(routing) = &mut self.routing {
            routing.drop_unsolicited = true;
        }
        self
    }

    /// Makes a router drop all UDP between LAN and WAN.
    pub fn block_udp(mut self) -> Self {
        if let Some(routing) = &mut self.routing {
            routing.block_udp = true;
        }
        self
    }
}

impl Attachment {
    /// Makes an attachment to `segment` by a plain veth.
    pub fn to(segment: &str) -> Self {
        Self {
            segment: segment.to_owned(),
            interface: None,
            number: None,
            wan: false,
            link: Link::Veth,
        }
    }

    /// Sets the interface's name (at most 15 characters).
    pub fn interface(mut self, name: &str) -> Self {
        self.interface = Some(name.to_owned());
        self
    }

    /// Sets the host number within the segment's prefixes.
    pub fn number(mut self, number: u32) -> Self {
        self.number = Some(number);
        self
    }

    /// Sets the link.
    pub fn link(mut self, link: Link) -> Self {
        self.link = link;
        self
    }
}

impl Link {
    /// Makes an emulated link with the same impairment in both directions.
    pub fn emulated(both: Impairment, seed: u64) -> Self {
        Self::emulated_pair(both, both, seed)
    }

    /// Makes an emulated link with different impairments from and to the machine.
    pub fn emulated_pair(up: Impairment, down: Impairment, seed: u64) -> Self {
        Self::Emulated(Box::new(Emulation { up, down, seed }))
    }
}
