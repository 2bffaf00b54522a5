//! The overlay namespace and everything around it: planned, applied, undone on failure.
//!
//! One overlay per node: a network namespace with the TUN, a veth pair to the host and one to
//! each instance's own namespace, the addresses, routes, rules and nft tables that make every
//! packet for the pools pass the TUN, and the host's side of it. What it all looks like is data
//! ([`item::Item`]), made from the config by `desired`; [`plan::plan`] compares it with what
//! `observe` found and lists steps; `kernel` takes them. Nothing here sees a packet.
//!
//! It outlives the daemon, which only owns the TUN: without one, `unreachable` routes answer for
//! the pools, in the overlay and on the host. [`Overlay::up`] finds what is there and corrects
//! it, so instances keep running over a restart; [`Overlay::down`] removes all of it.
//!
//! Where DNS is answered: 169.254.1.1 and fdfe:ffff::53, port 53, for instances and for the
//! host's programs alike. Called by the daemon, and by `down` and `run`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use nix::fcntl::Flock;
use weald_proto::id::Label;
use weald_proto::name::InstanceId;

pub mod config;

pub mod item;
pub mod plan;

mod desired;
mod gateways;
mod rules;

mod kernel;
mod namespace;
mod netlink;
mod observe;
mod ports;
mod state;

mod run;

pub use config::{EnvConfig, EnvError, InstanceEnv};
pub use gateways::default_gateways;
pub use plan::{Observed, Plan, Step};
pub use run::run_in_instance;

pub use crate::dns_server::DnsSockets;
use crate::tun::{Offloads, Tun};
use config::{INNER_MTU, RESOLVER_PORT, RESOLVER_V4, RESOLVER_V6};
use desired::TUN_DEVICE;
use item::{Item, Place};
use kernel::Kernel;
use state::{HostId, State};

/// The overlay of this node, for as long as the daemon runs.
///
/// Dropping it leaves everything in place.
#[derive(Debug)]
pub struct Overlay {
    config: EnvConfig,
    host: File,
    namespace: File,
    _lock: Flock<File>,
}

impl Overlay {
    /// Makes the overlay as `config` says, or corrects what is there already.
    ///
    /// The calling thread's network namespace is the host.
    ///
    /// # Errors
    /// What could not be done; everything is then as it was before.
    pub fn up(config: EnvConfig) -> anyhow::Result<Self> {
        Self::up_with(config, &mut |_| Ok(()))
    }

    /// Like [`Overlay::up`], but asks `before` ahead of each step, which can make it fail.
    ///
    /// # Errors
    /// As [`Overlay::up`].
    pub fn up_with(
        config: EnvConfig,
        before: &mut dyn FnMut(&Step) -> io::Result<()>,
    ) -> anyhow::Result<Self> {
        config.check()?;
        let name = &config.name;
        let host = namespace::open_own().context("cannot open the network namespace")?;
        let had_state = State::load(name)?.is_some();
        let lock = state::lock(name)?
            .with_context(|| format!("another netmanager runs overlay {name}"))?;
        let brought = bring(&config, &host, true, before);
        if brought.is_err() && !had_state {
            State::clear(name)?;
        }
        brought?;
        let namespace =
            namespace::open(name.as_str())?.with_context(|| format!("namespace {name} is gone"))?;
        Ok(Self {
            config,
            host,
            namespace,
            _lock: lock,
        })
    }

    /// What [`Overlay::up`] would do.
    ///
    /// # Errors
    /// A fault of the config, or what could not be looked at.
    pub fn plan(config: &EnvConfig) -> anyhow::Result<Plan> {
        config.check()?;
        let mut kernel = Kernel::new(namespace::open_own()?)?;
        let state = State::load(&config.name)?;
        let observed = observe::observe(&mut kernel, &config.name, Some(config), state.as_ref())?;
        Ok(plan::plan(config, &observed)?)
    }

    /// Changes the overlay to what the table says now: instances come, move and go.
    ///
    /// # Errors
    /// What could not be done; everything is then as it was before.
    pub fn update(&mut self, config: EnvConfig) -> anyhow::Result<()> {
        if config.name != self.config.name {
            bail!(
                "overlay {} cannot be renamed to {} while it is up",
                self.config.name,
                config.name
            );
        }
        if config == self.config {
            return Ok(());
        }
        bring(&config, &self.host, false, &mut |_| Ok(()))?;
        if config.pools != self.config.pools {
            // The TUN's routes go with the old pools.
            self.route_pools_to_tun(&config)?;
        }
        self.config = config;
        Ok(())
    }

    /// Removes everything of an overlay, also what a dead daemon left; nothing to remove is fine.
    ///
    /// # Errors
    /// What could not be removed, after all else was.
    pub fn down(name: &Label) -> anyhow::Result<()> {
        let own = namespace::open_own().context("cannot open the network namespace")?;
        let mut state = State::load(name)?;
        let host = host_of(&own, state.as_mut())?;
        let mut kernel = Kernel::new(host)?;
        if let Some(state) = &mut state {
            leave_settings_to_neighbours(name, state)?;
        }
        let observed = observe::observe(&mut kernel, name, None, state.as_ref())?;
        kernel.apply_all(&plan::plan_down(&observed))?;
        namespace::clear_leftover(name.as_str()).context("cannot remove what a namespace left")?;
        Ok(State::clear(name)?)
    }

    /// The config that the overlay has now.
    #[must_use]
    pub const fn config(&self) -> &EnvConfig {
        &self.config
    }

    /// Makes the TUN and leads the pools to it. It is gone when the result is dropped.
    ///
    /// # Errors
    /// Says what the kernel refused.
    pub fn open_tun(&self, offloads: Offloads) -> anyhow::Result<Tun> {
        let tun = self
            .inside(|| Tun::open(TUN_DEVICE, INNER_MTU, offloads))
            .context("cannot make the TUN device")?;
        let mut netlink = self.inside(netlink::Netlink::open_here)?;
        let bounded = netlink.set_up(TUN_DEVICE, INNER_MTU);
        bounded.with_context(|| format!("could not bound the super-packets of {TUN_DEVICE}"))?;
        self.route_pools_to_tun(&self.config)?;
        self.give_tun_the_stack()?;
        Ok(tun)
    }

    /// Where the daemon keeps what its connections need after a restart; it goes with the overlay.
    #[must_use]
    pub fn connections_path(&self) -> PathBuf {
        config::state_dir(&self.config.name).join(state::CONNECTIONS_FILE)
    }

    /// Gives the TUN the addresses at which connections of the L4 lane end; they go when it goes.
    fn give_tun_the_stack(&self) -> anyhow::Result<()> {
        let mut netlink = self.inside(netlink::Netlink::open_here)?;
        for address in desired::stack_addresses() {
            let added = netlink.add_address(TUN_DEVICE, address);
            added.with_context(|| format!("could not give {TUN_DEVICE} {address}"))?;
        }
        Ok(())
    }

    fn route_pools_to_tun(&self, config: &EnvConfig) -> anyhow::Result<()> {
        let place = Place::Namespace(config.name.to_string());
        let mut netlink = self.inside(netlink::Netlink::open_here)?;
        for route in desired::tun_routes(config, &place) {
            match netlink.add_route(&route) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => {
                    result.with_context(|| format!("could not make {}", Item::Route(route)))?
                }
            }
        }
        Ok(())
    }

    /// Binds the sockets that answer DNS.
    ///
    /// # Errors
    /// Says which address could not be bound.
    pub fn dns_sockets(&self) -> anyhow::Result<DnsSockets> {
        let mut sockets = DnsSockets::default();
        for ip in [IpAddr::V4(RESOLVER_V4), IpAddr::V6(RESOLVER_V6)] {
            let (udp, tcp) = self.bind_in(SocketAddr::new(ip, RESOLVER_PORT))?;
            sockets.udp.push(udp);
            sockets.tcp.push(tcp);
        }
        Ok(sockets)
    }

    /// Binds a UDP socket and a TCP listener inside the overlay, both non-blocking.
    ///
    /// # Errors
    /// Says so when the address is taken.
    pub fn bind_in(&self, address: SocketAddr) -> anyhow::Result<(UdpSocket, TcpListener)> {
        let bind = || {
            let (udp, tcp) = (UdpSocket::bind(address)?, TcpListener::bind(address)?);
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok((udp, tcp))
        };
        self.inside(bind)
            .with_context(|| format!("cannot bind {address} inside overlay {}", self.config.name))
    }

    /// Something that reads the counters of the overlay's nft tables, for other threads.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn nft_counters(&self) -> io::Result<NftCounters> {
        Ok(NftCounters {
            name: self.config.name.clone(),
            host: self.host.try_clone()?,
            namespace: self.namespace.try_clone()?,
        })
    }

    /// Starts a thread that lives inside the overlay namespace.
    ///
    /// # Errors
    /// The process has no thread or descriptor left.
    pub fn spawn_inside(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let namespace = self.namespace.try_clone()?;
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || match namespace::enter(&namespace) {
            Ok(()) => work(),
            Err(error) => tracing::error!(%error, "the overlay namespace cannot be entered"),
        })?;
        Ok(())
    }

    /// Runs `work` inside the overlay namespace, on a thread of its own.
    ///
    /// # Errors
    /// What `work` returns, or that the namespace could not be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        namespace::inside(self.namespace.as_fd(), work)
    }
}

/// Reads the counters of an overlay's nft tables.
#[derive(Debug)]
pub struct NftCounters {
    name: Label,
    host: File,
    namespace: File,
}

impl NftCounters {
    /// How many packets each counter has seen: in the overlay `spoofed`, `refused`, `link_local` and
    /// `multicast`, on the host `host refused`. Runs nft, so it takes milliseconds.
    ///
    /// # Errors
    /// Says so when nft cannot be run.
    pub fn read(&self) -> io::Result<BTreeMap<String, u64>> {
        let list = || kernel::list_counters(self.name.as_str());
        let mut counters = namespace::inside(self.namespace.as_fd(), list)?;
        for (name, count) in namespace::inside(self.host.as_fd(), list)? {
            counters.insert(format!("host {name}"), count);
        }
        Ok(counters)
    }
}

/// The path of an instance's network namespace.
#[must_use]
pub fn instance_netns_path(overlay: &Label, instance: &InstanceId) -> PathBuf {
    namespace::path(&config::instance_namespace(overlay, instance))
}

/// Plans and applies, with the state on disk before and after.
///
/// `afresh` says to set even those tables again whose text is known, in case somebody changed
/// them.
fn bring(
    config: &EnvConfig,
    host: &File,
    afresh: bool,
    before: &mut dyn FnMut(&Step) -> io::Result<()>,
) -> anyhow::Result<()> {
    let name = &config.name;
    let host_id = HostId::of(host)?;
    let mut old = State::load(name)?;
    if let Some(state) = old.as_mut().filter(|state| state.host != host_id) {
        if state.host.find().is_some() {
            bail!("overlay {name} is up in another network namespace; take it down first");
        }
        forget_host(state);
        state.host = host_id;
    }
    if let Some(state) = old.as_mut().filter(|_| !desired::needs_forwarding(config)) {
        leave_settings_to_neighbours(name, state)?;
    }
    let mut kernel = Kernel::new(host.try_clone()?)?;
    let mut observed = observe::observe(&mut kernel, name, Some(config), old.as_ref())?;
    if !afresh {
        trust_recorded_tables(&mut observed);
    }
    let plan = plan::plan(config, &observed)?;

    let mut state = old.clone().unwrap_or_else(|| State::new(host_id));
    state.note(config, &plan);
    state.save(name)?;
    if let Err(error) = kernel.apply(&plan, before) {
        match &old {
            Some(old) => old.save(name)?,
            None => State::clear(name)?,
        }
        return Err(error);
    }
    state.settle(config);
    Ok(state.save(name)?)
}

/// Takes the recorded text of tables that are there for theirs: what nft lists reads differently.
fn trust_recorded_tables(observed: &mut Observed) {
    for item in &mut observed.items {
        if let Item::Nft { .. } = item {
            let mut recorded = observed.recorded.iter().rev();
            let recorded = recorded.find(|other| other.is_same_thing(item));
            if let Some(recorded) = recorded {
                *item = recorded.clone();
            }
        }
    }
}

/// The host that an overlay was made in: this one, or another that can still be found.
fn host_of(own: &File, state: Option<&mut State>) -> anyhow::Result<File> {
    let Some(state) = state else {
        return Ok(own.try_clone()?);
    };
    if state.host == HostId::of(own)? {
        return Ok(own.try_clone()?);
    }
    if let Some(host) = state.host.find() {
        return Ok(host);
    }
    forget_host(state);
    Ok(own.try_clone()?)
}

/// Drops what was on a host that is no more.
fn forget_host(state: &mut State) {
    state
        .items
        .retain(|item| item.place() != Some(&Place::Host));
    state.previous.clear();
}

/// Leaves it to another overlay of this host to give its settings back, if one needs them.
fn leave_settings_to_neighbours(name: &Label, state: &mut State) -> anyhow::Result<()> {
    let Some((other, mut neighbour)) = State::neighbours(name, state.host)
        .into_iter()
        .find(|(_, neighbour)| neighbour.forwards && !state.previous.is_empty())
    else {
        return Ok(());
    };
    for was in state.previous.drain(..) {
        if !neighbour
            .previous
            .iter()
            .any(|item| item.is_same_thing(&was))
        {
            neighbour.previous.push(was);
        }
    }
    neighbour.save(&Label::new(&other)?)?;
    Ok(state.save(name)?)
}
