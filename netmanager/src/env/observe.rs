//! Looks at the machine and lists what concerns one overlay.
//!
//! In the overlay's own namespace everything that somebody set is listed, so that what does not
//! belong there goes; on the host and in instances' namespaces only what is wanted or recorded,
//! because others live there as well. What belongs to the TUN is the daemon's and left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use weald_proto::id::Label;

use super::config::{EnvConfig, host_device};
use super::desired::{self, TUN_DEVICE, UPLINK_DEVICE};
use super::item::{Family, Item, Place, Route, RouteTarget};
use super::kernel::{self, Kernel};
use super::namespace;
use super::netlink::Link;
use super::plan::Observed;
use super::ports;
use super::state::{HostId, State, port_key};

/// Lists what concerns the overlay; `config` is none when it is to go.
pub(super) fn observe(
    kernel: &mut Kernel,
    overlay: &Label,
    config: Option<&EnvConfig>,
    state: Option<&State>,
) -> io::Result<Observed> {
    let mut candidates = config.map(desired::items).unwrap_or_default();
    candidates.extend(host_settings());
    if let Some(state) = state {
        candidates.extend(state.items.iter().cloned());
        candidates.extend(state.previous.iter().cloned());
    }
    // Even without a state file the overlay is known by its names.
    candidates.push(Item::Veth {
        place: Place::Namespace(overlay.to_string()),
        device: UPLINK_DEVICE.into(),
        peer_place: Place::Host,
        peer: host_device(overlay),
    });
    candidates.push(Item::Nft {
        place: Place::Host,
        table: overlay.to_string(),
        text: String::new(),
    });
    let mut observed = Observed {
        recorded: state.map(|state| state.items.clone()).unwrap_or_default(),
        previous: state
            .map(|state| state.previous.clone())
            .unwrap_or_default(),
        ..Observed::default()
    };
    let namespaces = existing_namespaces(overlay, &candidates)?;
    let places: Vec<Place> = std::iter::once(Place::Host)
        .chain(namespaces.iter().cloned().map(Place::Namespace))
        .collect();
    let mut items: Vec<Item> = namespaces.into_iter().map(Item::Namespace).collect();
    let mut links = BTreeMap::new();
    for place in &places {
        if let Some(netlink) = kernel.netlink(place)? {
            links.insert(place.clone(), netlink.links()?);
        }
    }
    items.extend(veths(overlay, &candidates, &links));
    for place in &places {
        items.extend(look_at(kernel, overlay, place, &candidates, &links)?);
    }
    items.extend(files(&candidates)?);
    deduplicate(&mut items);
    observed.items = items;
    observed.accept_ra = kernel.inside(&Place::Host, || Ok(accept_ra()))?;
    if let Some(config) = config {
        observed.busy_ports = busy_ports(kernel, config, state)?;
    }
    Ok(observed)
}

fn host_settings() -> impl Iterator<Item = Item> {
    [Family::V4, Family::V6]
        .into_iter()
        .flat_map(desired::host_forwarding)
}

/// Every namespace of the overlay that is there, the overlay's own among them.
fn existing_namespaces(overlay: &Label, candidates: &[Item]) -> io::Result<BTreeSet<String>> {
    let prefix = format!("{overlay}.");
    let mut names: BTreeSet<String> = candidates
        .iter()
        .filter_map(Item::namespace_name)
        .map(str::to_owned)
        .collect();
    names.insert(overlay.to_string());
    names.extend(
        namespace::names()?
            .into_iter()
            .filter(|name| name.starts_with(&prefix)),
    );
    let mut existing = BTreeSet::new();
    for name in names {
        if namespace::open(&name)?.is_some() {
            existing.insert(name);
        }
    }
    Ok(existing)
}

/// The pairs that are whole, and what else of that kind is in the overlay's namespace.
fn veths(overlay: &Label, candidates: &[Item], links: &BTreeMap<Place, Vec<Link>>) -> Vec<Item> {
    let find = |place: &Place, name: &str| {
        let links = links.get(place)?;
        links.iter().find(|link| link.name == name && link.is_veth)
    };
    let mut found: Vec<Item> = Vec::new();
    for item in candidates {
        let Item::Veth {
            place,
            device,
            peer_place,
            peer,
        } = item
        else {
            continue;
        };
        let (Some(near), Some(far)) = (find(place, device), find(peer_place, peer)) else {
            continue;
        };
        if near.peer_index == Some(far.index) && far.peer_index == Some(near.index) {
            found.push(item.clone());
        }
    }
    let place = Place::Namespace(overlay.to_string());
    for link in links.get(&place).into_iter().flatten() {
        let stray = Item::Veth {
            place: place.clone(),
            device: link.name.clone(),
            peer_place: Place::Host,
            peer: String::new(),
        };
        if link.is_veth && !found.iter().any(|item| item.is_same_thing(&stray)) {
            found.push(stray);
        }
    }
    found
}

/// Addresses, routes, rules, settings and tables of one place.
fn look_at(
    kernel: &mut Kernel,
    overlay: &Label,
    place: &Place,
    candidates: &[Item],
    links: &BTreeMap<Place, Vec<Link>>,
) -> io::Result<Vec<Item>> {
    let links = links.get(place).map(Vec::as_slice).unwrap_or_default();
    let is_ours = *place == Place::Namespace(overlay.to_string());
    let names: BTreeMap<u32, String> = links
        .iter()
        .map(|link| (link.index, link.name.clone()))
        .collect();
    let Some(netlink) = kernel.netlink(place)? else {
        return Ok(Vec::new());
    };
    let mut all: Vec<Item> = links
        .iter()
        .filter(|link| link.is_up)
        .map(|link| Item::Up {
            place: place.clone(),
            device: link.name.clone(),
            mtu: link.mtu,
        })
        .collect();
    for (device, address) in netlink.addresses(&names)? {
        all.push(Item::Address {
            place: place.clone(),
            device,
            address,
        });
    }
    all.extend(netlink.routes(place, &names)?.into_iter().map(Item::Route));
    if is_ours {
        all.extend(netlink.rules(place)?.into_iter().map(Item::Rule));
    }
    all.retain(|item| {
        let is_candidate = candidates.iter().any(|other| other.is_same_thing(item));
        let is_host_route =
            matches!(item, Item::Route(route) if desired::is_host_route(overlay, route));
        is_candidate || is_host_route || (is_ours && !is_of_kernel_or_tun(item))
    });
    all.extend(settings_and_tables(kernel, place, candidates)?);
    Ok(all)
}

fn is_of_kernel_or_tun(item: &Item) -> bool {
    match item {
        Item::Address {
            device, address, ..
        } => device == TUN_DEVICE || address.ip().is_loopback() || is_automatic(address.ip()),
        Item::Route(Route {
            target: RouteTarget::Device { device, .. },
            ..
        }) => device == TUN_DEVICE,
        Item::Up { .. } => true,
        Item::Route(_)
        | Item::Rule(_)
        | Item::File { .. }
        | Item::Namespace(_)
        | Item::Veth { .. }
        | Item::Sysctl { .. }
        | Item::Nft { .. } => false,
    }
}

const fn is_automatic(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn settings_and_tables(
    kernel: &mut Kernel,
    place: &Place,
    candidates: &[Item],
) -> io::Result<Vec<Item>> {
    let here: Vec<Item> = candidates
        .iter()
        .filter(|item| item.place() == Some(place))
        .cloned()
        .collect();
    kernel.inside(place, || {
        let mut found = Vec::new();
        for mut item in here {
            match &mut item {
                Item::Sysctl { key, value, .. } => {
                    if let Some(read) = read_sysctl(key)? {
                        *value = read;
                        found.push(item);
                    }
                }
                Item::Nft { table, text, .. } => {
                    let known = found.iter().any(
                        |other| matches!(other, Item::Nft { table: other, .. } if other == table),
                    );
                    if !known && let Some(listed) = kernel::list_table(table)? {
                        *text = listed;
                        found.push(item);
                    }
                }
                Item::File { .. }
                | Item::Namespace(_)
                | Item::Veth { .. }
                | Item::Up { .. }
                | Item::Address { .. }
                | Item::Route(_)
                | Item::Rule(_) => {}
            }
        }
        Ok(found)
    })
}

fn read_sysctl(key: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(Path::new("/proc/sys").join(key)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        // The device is not there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The `accept_ra` settings of the calling thread's namespace, by device.
fn accept_ra() -> BTreeMap<String, String> {
    let entries = fs::read_dir("/proc/sys/net/ipv6/conf");
    let entries = entries.ok().into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let value = fs::read_to_string(entry.path().join("accept_ra")).ok()?;
            let device = entry.file_name().into_string().ok()?;
            Some((device, value.trim().to_owned()))
        })
        .collect()
}

fn files(candidates: &[Item]) -> io::Result<Vec<Item>> {
    let mut found = Vec::new();
    for item in candidates {
        let Item::File { path, .. } = item else {
            continue;
        };
        match fs::read_to_string(path) {
            Ok(contents) => found.push(Item::File {
                path: path.clone(),
                contents,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The wanted ports that somebody else has.
fn busy_ports(
    kernel: &mut Kernel,
    config: &EnvConfig,
    state: Option<&State>,
) -> io::Result<BTreeMap<(u16, weald_proto::table::Transport), String>> {
    let mut busy = BTreeMap::new();
    let host = HostId::of(kernel.host())?;
    let neighbours = State::neighbours(&config.name, host);
    let served = kernel.inside(&Place::Host, ports::served)?;
    for (port, transport) in config.mapped_ports() {
        let key = port_key(port, transport);
        if let Some((name, _)) = neighbours
            .iter()
            .find(|(_, state)| state.ports.contains_key(&key))
        {
            busy.insert((port, transport), format!("overlay {name}"));
            continue;
        }
        // What was mapped before stays mapped, even if a program came to listen since: a restart
        // must not fail for that.
        if state.is_some_and(|state| state.ports.contains_key(&key)) {
            continue;
        }
        if served.contains(&(port, transport)) {
            busy.insert((port, transport), "a program of the host".to_owned());
        }
    }
    Ok(busy)
}

fn deduplicate(items: &mut Vec<Item>) {
    let mut seen = BTreeSet::new();
    items.retain(|item| seen.insert(item.clone()));
}
