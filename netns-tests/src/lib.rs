//! The Lab: nodes, NAT routers and links in network namespaces, described as data.
//!
//! Not a test by itself: the tests under `tests/` (and benches) describe a [`Lab`], run real
//! programs in its nodes and look at what crosses the wire. Everything needs root, and fails with
//! a clear message without it.
//!
//! ```no_run
//! use std::time::Duration;
//! use netns_tests::{Description, Impairment, Lab, Link, Machine, Nat, Segment, command};
//!
//! # fn main() -> anyhow::Result<()> {
//! let slow = Link::emulated(Impairment::delay(Duration::from_millis(10)), 1);
//! let site = |name: &str| {
//!     Machine::router(name, "internet", &format!("site-{name}"))
//!         .nat(Nat::PortRestricted)
//!         .drop_unsolicited()
//! };
//! let lab = Lab::new(
//!     &Description::new()
//!         .segment(Segment::new("internet").v4("203.0.113.0/24").v6("2001:db8::/64"))
//!         .segment(Segment::new("site-a").v4("192.168.1.0/24").v6("2001:db8:a::/64"))
//!         .segment(Segment::new("site-b").v4("192.168.1.0/24").v6("2001:db8:b::/64"))
//!         .machine(Machine::host("relay").on("internet"))
//!         .machine(site("a").link("internet", slow.clone()))
//!         .machine(site("b").link("internet", slow))
//!         .machine(Machine::host("a1").on("site-a"))
//!         .machine(Machine::host("a2").on("site-a"))
//!         .machine(Machine::host("b1").on("site-b"))
//!         .machine(Machine::host("b2").on("site-b")),
//! )?;
//! let (a1, relay) = (lab.node("a1"), lab.node("relay"));
//! a1.run_ok(command(&format!("ping -c1 {}", relay.v4())), Duration::from_secs(5))?;
//! // The delay changes while traffic flows.
//! lab.link("a", "internet").set_both(Impairment::delay(Duration::from_millis(50)));
//! # Ok(())
//! # }
//! ```

pub mod description;
pub mod nat;
pub mod nat_probe;
mod plan;

mod lab;
pub mod namespace;
mod node;
mod sweep;
mod tap;

pub mod control_bench;
pub mod demo;
pub mod emulator;
pub mod nat_matrix;
pub mod overlay_demo;
pub mod stage;

pub mod fleet;
pub mod pair;
pub mod port_mapping;
pub mod tiers;
pub mod two_sites;

pub mod echo;
pub mod load;
pub mod process;
pub mod require;
pub mod transfer;
pub mod wait;

pub mod capture;
pub mod machine_state;
mod packet_socket;
mod punctual;
pub mod raw;

pub use capture::{Capture, Captured, Datagram, Tally, UdpFlow};
pub use description::{Attachment, Description, Emulation, Link, Machine, Routing, Segment};
pub use echo::EchoServer;
pub use emulator::{Counters, Direction, EmulatedLink, Impairment, Loss, Queue};
pub use fleet::Fleet;
pub use lab::{BRIDGE, Lab, leftovers};
pub use machine_state::{Difference, MachineState, Scope};
pub use namespace::Namespace;
pub use nat::Nat;
pub use node::{Interface, Node};
pub use process::{Process, command};
pub use punctual::be_punctual;
pub use raw::RawSender;
pub use tiers::Tiers;
