//! What has to be done to get from what is there to what is wanted: a list of steps.
//!
//! Pure. A [`Plan`] can be printed and compared; each step knows the step that undoes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use weald_proto::table::Transport;

use super::config::{EnvConfig, EnvError};
use super::desired;
use super::item::{Family, Item, Place};

/// One change of the kernel's or the file system's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes what is not there.
    Make(Item),
    /// Removes what is there.
    Remove(Item),
    /// Changes what is there.
    Change {
        /// What it is.
        from: Item,
        /// What it becomes.
        to: Item,
    },
}

/// Steps in the order in which they have to be taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

/// What was found on the machine, as far as it concerns one overlay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// What is there: everything in the overlay's namespaces, and of the host's what is ours.
    pub items: Vec<Item>,
    /// What an earlier run made or was about to make.
    pub recorded: Vec<Item>,
    /// Host settings as they were before the first change.
    pub previous: Vec<Item>,
    /// The host's IPv6 `accept_ra` settings, by device.
    pub accept_ra: BTreeMap<String, String>,
    /// The ports of the host, of those that are wanted, which somebody else has, and who.
    pub busy_ports: BTreeMap<(u16, Transport), String>,
}

impl Step {
    /// The step that takes this one back.
    #[must_use]
    pub fn undo(&self) -> Option<Self> {
        match self {
            // A setting that was not there belongs to a namespace or device that goes as well.
            Self::Make(Item::Sysctl { .. }) => None,
            Self::Make(item) => Some(Self::Remove(item.clone())),
            Self::Remove(item) => Some(Self::Make(item.clone())),
            Self::Change { from, to } => Some(Self::Change {
                from: to.clone(),
                to: from.clone(),
            }),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make(item) => write!(f, "make   {item}"),
            Self::Remove(item) => write!(f, "remove {item}"),
            Self::Change { to, .. } => write!(f, "change {to}"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

/// What has to be done so that the overlay is as `config` says.
///
/// # Errors
/// A fault of the config, or a port of the host that is taken.
pub fn plan(config: &EnvConfig, observed: &Observed) -> Result<Plan, EnvError> {
    config.check()?;
    check_ports(config, observed)?;
    let wanted = desired::items(config);
    let mut steps = Vec::new();
    for item in &wanted {
        steps.extend(steps_towards(item, &observed.items));
    }
    if desired::needs_forwarding(config) {
        steps.extend(forward(observed));
    } else {
        steps.extend(restore(observed));
    }
    steps.extend(removals(&wanted, observed));
    Ok(Plan { steps })
}

/// What has to be done so that nothing of the overlay is left.
#[must_use]
pub fn plan_down(observed: &Observed) -> Plan {
    let mut steps = restore(observed);
    steps.extend(removals(&[], observed));
    Plan { steps }
}

fn check_ports(config: &EnvConfig, observed: &Observed) -> Result<(), EnvError> {
    for instance in &config.instances {
        for port in &instance.ports {
            if let Some(holder) = observed.busy_ports.get(&(port.host, port.transport)) {
                return Err(EnvError::PortBusy {
                    port: port.host,
                    transport: port.transport,
                    instance: instance.id.to_string(),
                    holder: holder.clone(),
                });
            }
        }
    }
    Ok(())
}

fn steps_towards(wanted: &Item, found: &[Item]) -> Vec<Step> {
    if found.contains(wanted) {
        return Vec::new();
    }
    let mut steps = Vec::new();
    for other in found.iter().filter(|other| other.is_same_thing(wanted)) {
        if is_changed_in_place(wanted) {
            return vec![Step::Change {
                from: other.clone(),
                to: wanted.clone(),
            }];
        }
        steps.push(Step::Remove(other.clone()));
    }
    steps.push(Step::Make(wanted.clone()));
    steps
}

const fn is_changed_in_place(item: &Item) -> bool {
    match item {
        Item::File { .. } | Item::Sysctl { .. } | Item::Nft { .. } | Item::Up { .. } => true,
        Item::Namespace(_)
        | Item::Veth { .. }
        | Item::Address { .. }
        | Item::Route(_)
        | Item::Rule(_) => false,
    }
}

/// Switches forwarding on where it is off.
///
/// A host that believes router advertisements stops doing so when it forwards, unless
/// `accept_ra` is 2; so it is made 2 first wherever it is 1.
fn forward(observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    for family in [Family::V4, Family::V6] {
        let settings = desired::host_forwarding(family);
        let is_on = |switch: &Item| observed.items.contains(switch);
        if settings.last().is_none_or(is_on) {
            continue;
        }
        if family == Family::V6 {
            steps.extend(believe_routers(&observed.accept_ra));
        }
        for to in settings {
            // A host without IPv6 has no such setting.
            let from = observed.items.iter().find(|item| item.is_same_thing(&to));
            steps.extend(from.cloned().map(|from| Step::Change { from, to }));
        }
    }
    steps
}

fn believe_routers(accept_ra: &BTreeMap<String, String>) -> impl Iterator<Item = Step> {
    let setting = |device: &str, value: &str| Item::Sysctl {
        place: Place::Host,
        key: format!("net/ipv6/conf/{device}/accept_ra"),
        value: value.to_owned(),
    };
    // `all` is read by nobody.
    let believing = accept_ra
        .iter()
        .filter(|(device, value)| *value == "1" && *device != "all");
    believing.map(move |(device, value)| Step::Change {
        from: setting(device, value),
        to: setting(device, "2"),
    })
}

/// Gives the host's settings back, the last one first.
fn restore(observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    for was in observed.previous.iter().rev() {
        let is = observed.items.iter().find(|item| item.is_same_thing(was));
        // A device may be gone by now, and its settings with it.
        steps.extend(is.map(|is| Step::Change {
            from: is.clone(),
            to: was.clone(),
        }));
    }
    steps
}

/// Removes what is there and not wanted, the last made first.
fn removals(wanted: &[Item], observed: &Observed) -> Vec<Step> {
    let is_wanted = |item: &Item| wanted.iter().any(|other| other.is_same_thing(item));
    let going: BTreeSet<&str> = observed
        .items
        .iter()
        .filter(|item| !is_wanted(item))
        .filter_map(Item::namespace_name)
        .collect();
    let goes_with_its_place = |item: &Item| match item.place() {
        Some(Place::Namespace(name)) => going.contains(name.as_str()),
        Some(Place::Host) | None => false,
    };
    let is_removed = |item: &&Item| {
        if is_wanted(item) {
            return false;
        }
        match item {
            // A pair is removed even where its namespace goes: programs may keep that alive.
            Item::Veth { .. } => true,
            // The kernel has its own; a device that is down is as good as gone.
            Item::Sysctl { .. } | Item::Up { .. } => false,
            Item::File { .. } | Item::Namespace(_) => true,
            Item::Address { .. } | Item::Route(_) | Item::Rule(_) | Item::Nft { .. } => {
                !goes_with_its_place(item)
            }
        }
    };
    let mut items: Vec<&Item> = observed.items.iter().filter(is_removed).collect();
    items.sort_by_key(|item| removal_rank(item));
    items.into_iter().cloned().map(Step::Remove).collect()
}

/// The order of removals: traffic stops first, and what holds others goes last.
const fn removal_rank(item: &Item) -> u8 {
    match item {
        Item::Veth { .. } => 0,
        Item::Address { .. } => 1,
        Item::Route(_) => 2,
        Item::Rule(_) => 3,
        Item::Nft { .. } => 4,
        Item::Sysctl { .. } | Item::Up { .. } => 5,
        Item::Namespace(_) => 6,
        Item::File { .. } => 7,
    }
}

#[cfg(test)]
mod tests;
