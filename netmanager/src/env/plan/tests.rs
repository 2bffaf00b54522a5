//! Plans against a naive model of a machine: a list of items that steps are applied to.

use proptest::prelude::*;
use weald_proto::addr::{Dual, Pools};
use weald_proto::id::Label;
use weald_proto::name::{ApplicationName, InstanceId, ServiceName};

use super::super::config::InstanceEnv;
use super::super::rules;
use super::*;

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn instance(number: u8, address: u8, ports: &[&str]) -> InstanceEnv {
    InstanceEnv {
        id: InstanceId {
            service: ServiceName {
                application: ApplicationName {
                    name: label("shop"),
                    namespace: label("prod"),
                },
                name: label("web"),
                namespace: label("prod"),
            },
            number: number.into(),
        },
        instance_ip: Dual {
            v4: Some([10, 30, 0, address].into()),
            v6: Some([0xfdff, 0, 0, 0, 0, 0, 0, address.into()].into()),
        },
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
    }
}

fn config(instances: Vec<InstanceEnv>, egress: bool) -> EnvConfig {
    EnvConfig {
        name: label("weald-n1"),
        pools: Pools::default(),
        node_ip: Dual {
            v4: Some([10, 30, 0, 1].into()),
            v6: Some([0xfdff, 0, 0, 0, 0, 0, 0, 1].into()),
        },
        instances,
        egress,
    }
}

fn sysctl(key: &str, value: &str) -> Item {
    Item::Sysctl {
        place: Place::Host,
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

/// A machine that does not forward.
fn bare() -> Vec<Item> {
    vec![
        sysctl("net/ipv4/conf/all/accept_redirects", "1"),
        sysctl("net/ipv4/ip_forward", "0"),
        sysctl("net/ipv6/conf/all/forwarding", "0"),
        sysctl("net/ipv6/conf/lan0/accept_ra", "1"),
    ]
}

fn observed(items: Vec<Item>) -> Observed {
    let accept_ra = items.iter().filter_map(|item| {
        let Item::Sysctl { key, value, .. } = item else {
            return None;
        };
        let is_it = key == "net/ipv6/conf/lan0/accept_ra";
        is_it.then(|| ("lan0".to_owned(), value.clone()))
    });
    Observed {
        accept_ra: accept_ra.collect(),
        items,
        ..Observed::default()
    }
}

/// Takes a step on the model; what cannot be done is a fault of the plan.
fn take(step: &Step, machine: &mut Vec<Item>) {
    let place_is_there = |item: &Item, machine: &[Item]| match item.place() {
        Some(Place::Namespace(name)) => machine.contains(&Item::Namespace(name.clone())),
        Some(Place::Host) | None => true,
    };
    match step {
        Step::Make(item) => {
            assert!(place_is_there(item, machine), "no place for {item}");
            let is_there = machine.iter().any(|other| other.is_same_thing(item));
            assert!(!is_there, "{item} is there already");
            machine.push(item.clone());
        }
        Step::Remove(item) => {
            let before = machine.len();
            machine.retain(|other| other != item);
            assert_eq!(machine.len() + 1, before, "{item} is not there");
            if let Item::Namespace(name) = item {
                let place = Place::Namespace(name.clone());
                machine.retain(|other| other.place() != Some(&place));
            }
        }
        Step::Change { from, to } => {
            let index = machine.iter().position(|item| item == from);
            let index = index.unwrap_or_else(|| panic!("{from} is not there"));
            machine[index] = to.clone();
        }
    }
}

fn take_all(plan: &Plan, machine: &mut Vec<Item>) {
    for step in &plan.steps {
        take(step, machine);
    }
}

fn sorted(machine: &[Item]) -> Vec<Item> {
    let mut items = machine.to_vec();
    items.sort();
    items
}

#[test]
fn the_way_is_guarded_before_it_is_open() {
    let config = config(vec![instance(1, 11, &["8080:80/tcp"])], true);
    let plan = plan(&config, &observed(bare())).unwrap();
    let text = plan.to_string();
    let line = |what: &str| {
        let found = text.lines().position(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("no {what:?} in\n{text}"))
    };
    for (first, then) in [
        ("nft table inet weald-n1 in weald-n1", "up0 up"),
        ("rule V4 101 iif weald0 blackhole in weald-n1", "up0 up"),
        ("10.30.0.0/16 unreachable table 254", "up0 up"),
        ("nft table inet weald-n1 in host", "ip_forward = 1 in host"),
        ("lan0/accept_ra = 2", "conf/all/forwarding = 1 in host"),
        ("accept_redirects = 0 in host", "ip_forward = 1 in host"),
    ] {
        assert!(line(first) < line(then), "{first} after {then} in\n{text}");
    }
}

#[test]
fn a_plan_down_leaves_the_machine_as_it_was() {
    let config = config(vec![instance(1, 11, &[])], true);
    let mut machine = bare();
    take_all(&plan(&config, &observed(bare())).unwrap(), &mut machine);
    let down = Observed {
        previous: bare(),
        ..observed(machine.clone())
    };
    take_all(&plan_down(&down), &mut machine);
    // Settings of the veth go with it.
    machine.retain(|item| !matches!(item, Item::Sysctl { key, .. } if key.contains("wl-n1")));
    // A link that is down counts as gone.
    machine.retain(|item| !matches!(item, Item::Up { .. }));
    assert_eq!(sorted(&machine), sorted(&bare()));
}

#[test]
fn a_host_that_forwards_is_left_alone() {
    let mut machine = bare();
    machine[1] = sysctl("net/ipv4/ip_forward", "1");
    machine[2] = sysctl("net/ipv6/conf/all/forwarding", "1");
    let plan = plan(&config(Vec::new(), true), &observed(machine)).unwrap();
    let changes = |step: &&Step| matches!(step, Step::Change { .. });
    assert_eq!(plan.steps.iter().find(changes), None);
}

#[test]
fn rules_name_every_instance_and_no_other() {
    let config = config(vec![instance(1, 11, &["8080:80/tcp"])], false);
    let overlay = rules::overlay_table(&config, "t");
    let device = super::super::config::instance_device(&config.instances[0].id);
    assert!(overlay.contains(&format!("elements = {{ \"{device}\" . 10.30.0.11 }};")));
    assert!(overlay.contains(&format!("elements = {{ \"{device}\" . fdff::b }};")));
    let host = rules::host_table(&config, "t");
    assert_eq!(host.matches("dnat ip to 10.30.0.11:80").count(), 2);
    assert_eq!(host.matches("dnat ip6 to [fdff::b]:80").count(), 2);
    assert_eq!(host.matches("oifname != \"wl-n1\" masquerade").count(), 0);
}

/// Any set of instances, each with one of few addresses, so that they often change hands.
fn any_config() -> impl Strategy<Value = EnvConfig> {
    let numbers = proptest::sample::subsequence(vec![1_u8, 2, 3, 4], 0..=4);
    let addresses = Just(vec![11_u8, 12, 13, 14, 15]).prop_shuffle();
    (numbers, addresses, any::<bool>()).prop_map(|(numbers, addresses, egress)| {
        let pairs = numbers.into_iter().zip(addresses);
        let instances = pairs.map(|(number, address)| instance(number, address, &[]));
        config(instances.collect(), egress)
    })
}

proptest! {
    /// From any part of one config's items a plan leads to exactly the other's, a second plan
    /// finds nothing to do, and undoing the first one leads back.
    #[test]
    fn plans_lead_there_and_back(
        from in any_config(),
        to in any_config(),
        kept in proptest::collection::vec(any::<bool>(), 200),
    ) {
        let mut machine = bare();
        take_all(&plan(&from, &observed(bare())).unwrap(), &mut machine);
        // Something drifted: what is in a namespace goes with it.
        let mut keep = kept.iter().cycle();
        machine.retain(|item| {
            matches!(item, Item::Namespace(_) | Item::Sysctl { .. }) || *keep.next().unwrap()
        });
        let before = machine.clone();

        let previous = if to.egress { Vec::new() } else { bare() };
        let first = plan(&to, &Observed { previous, ..observed(machine.clone()) }).unwrap();
        take_all(&first, &mut machine);
        let second = plan(&to, &observed(machine.clone())).unwrap();
        prop_assert_eq!(&second, &Plan::default());
        for item in desired::items(&to) {
            prop_assert!(machine.contains(&item), "{} is missing", item);
        }

        for undo in first.steps.iter().rev().filter_map(Step::undo) {
            take(&undo, &mut machine);
        }
        // Nothing comes back of what was in a namespace that went, and a setting stays where its
        // namespace stays; both kinds are left out on both sides.
        let gone: Vec<Place> = first.steps.iter().filter_map(|step| {
            let Step::Remove(item) = step else { return None };
            Some(Place::Namespace(item.namespace_name()?.to_owned()))
        }).collect();
        let comparable = |machine: &[Item]| {
            let mut items = sorted(machine);
            items.retain(|item| {
                let is_gone = item.place().is_some_and(|place| gone.contains(place));
                !is_gone && !matches!(item, Item::Sysctl { place: Place::Namespace(_), .. })
            });
            items
        };
        prop_assert_eq!(comparable(&machine), comparable(&before));
    }
}
