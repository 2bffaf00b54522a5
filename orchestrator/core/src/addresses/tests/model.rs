//! A root and three clusters against a list of who had what: no address ever has two owners, and
//! none changes hands before its lease lifetime is over.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// A cluster asks for a block and hears of it at once.
    Grant(usize, usize),
    /// A cluster is removed, and another of its name starts with nothing.
    Leave(usize),
    Service(u8, Option<u8>, Option<u8>),
    Remove(u8),
    Assign(usize, u32, bool),
    Release(usize, u32, bool),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (cluster, pin) = (0_usize..3, proptest::option::of(any::<u8>()));
    let step = prop_oneof![
        3 => (cluster.clone(), 0_usize..3).prop_map(|(c, kind)| Step::Grant(c, kind)),
        1 => cluster.clone().prop_map(Step::Leave),
        4 => (0_u8..6, pin.clone(), pin).prop_map(|(s, rr, closest)| Step::Service(s, rr, closest)),
        2 => (0_u8..6).prop_map(Step::Remove),
        8 => (cluster.clone(), 0_u32..8, any::<bool>()).prop_map(|(c, n, it)| Step::Assign(c, n, it)),
        4 => (cluster, 0_u32..8, any::<bool>()).prop_map(|(c, n, it)| Step::Release(c, n, it)),
        3 => (1_u64..80).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..80)
}

fn holder(number: u32, is_node: bool) -> Holder {
    if is_node {
        node(&format!("n{number}"))
    } else {
        instance(number)
    }
}

/// Who had an address last, and when that was last so.
type Past = BTreeMap<IpAddr, (String, u64)>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_address_has_two_owners(steps in steps()) {
        let plan = Plan { v4: "10.30.0.0/24".parse().unwrap(), ..Plan::default() };
        let mut root = RootAddresses::new(plan.clone(), LIFETIME);
        let names = ["munich", "vienna", "zurich"].map(label);
        let fresh = || ClusterAddresses::new(plan.clone(), LIFETIME);
        let mut clusters = [fresh(), fresh(), fresh()];
        let (mut time, mut generation, mut past) = (0, 0, Past::new());
        for step in steps {
            let now = at(time);
            match step {
                Step::Grant(index, kind) => {
                    root.grant(&names[index], BlockKind::ALL[kind], now);
                    generation += 1;
                    let mut statement = grant(generation, &[]);
                    statement.blocks = root.blocks(&names[index]).collect();
                    prop_assert!(clusters[index].take_grant(&statement));
                }
                Step::Leave(index) => {
                    root.release_cluster(&names[index], now);
                    clusters[index] = fresh();
                }
                Step::Service(number, rr, closest) => {
                    let pin = |last: Option<u8>| Dual { v4: last.map(|it| [10, 30, 0, it].into()), v6: None };
                    let wanted = pins(pin(rr), pin(closest));
                    let before: Vec<_> = root.services().map(|(ip, it)| (ip, it.clone())).collect();
                    match root.assign(&service(&format!("s{number}")), &acme(), &wanted, now) {
                        Ok(has) => {
                            for (has, wanted) in [(has.round_robin, wanted.round_robin), (has.closest, wanted.closest)] {
                                prop_assert!(has.v6.is_some());
                                prop_assert!(wanted.v4.is_none() || has.v4 == wanted.v4);
                            }
                        }
                        Err(errors) => {
                            prop_assert!(!errors.is_empty());
                            let after: Vec<_> = root.services().map(|(ip, it)| (ip, it.clone())).collect();
                            prop_assert_eq!(before, after);
                        }
                    }
                }
                Step::Remove(number) => root.release(&service(&format!("s{number}")), now),
                Step::Assign(index, number, is_node) => {
                    let holder = holder(number, is_node);
                    if let Ok(has) = clusters[index].assign(&holder, now) {
                        prop_assert_eq!(clusters[index].of(&holder), has);
                    }
                }
                Step::Release(index, number, is_node) => {
                    clusters[index].release(&holder(number, is_node), now);
                }
                Step::Wait(seconds) => {
                    time += seconds;
                    root.handle_timeout(at(time));
                    for cluster in &mut clusters {
                        cluster.handle_timeout(at(time));
                    }
                }
            }
            let mut owners = BTreeMap::new();
            let services = root.services().map(|(ip, owner)| (ip, owner.to_string()));
            let own = clusters.iter().zip(&names).flat_map(|(cluster, name)| {
                cluster.owners().map(move |(ip, holder)| (ip, format!("{holder} in {name}")))
            });
            for (ip, owner) in services.chain(own) {
                if let Some(other) = owners.insert(ip, owner.clone()) {
                    prop_assert!(false, "{ip} belongs to {other} and {owner}");
                }
                prop_assert!(!plan.is_edge(ip));
                if let Some((before, until)) = past.get(&ip) {
                    prop_assert!(
                        *before == owner || time >= until + LIFETIME.as_secs(),
                        "{ip} of {before} went to {owner} at {time}, after {until}"
                    );
                }
            }
            for (ip, owner) in owners {
                past.insert(ip, (owner, time));
            }
        }
    }
}
