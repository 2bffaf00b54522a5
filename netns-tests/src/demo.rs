//! The whole demo: one SLA on two sites behind NATs, scheduled by root and two clusters, fetched by
//! semantic URLs, scaled under load, and kept alive while everything above it is dead.
//!
//! `make demo` runs it for people and a test runs it for us. Every step does what a user would do and
//! prints its evidence; the first thing that is not as it should be ends it with an error. What the
//! overlay does alone is `overlay_demo`'s.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::emulator::Impairment;
use crate::lab::Lab;
use crate::machine_state::{MachineState, Scope};
use crate::tiers::{Role, Tiers};
use crate::{Attachment, Description, Link, Machine, Nat, Segment, require};

mod control;
mod traffic;

/// The shop as the documentation shows it.
const SHOP: &str = include_str!("../../examples/shop.json");
/// The clusters: each one's name, the machine of its orchestrator, and its nodes.
const SITES: [(&str, &str, [&str; 2]); 2] = [
    ("site-a", "ca", ["a1", "a2"]),
    ("site-b", "cb", ["b1", "b2"]),
];
/// The client's instance.
const CLIENT: &str = "shop.prod.client.prod.0";
/// How long all of it may take.
const DEMO_TIME: Duration = Duration::from_secs(90);
/// How long a program of a step may take.
const STEP_TIME: Duration = Duration::from_secs(20);

/// The running demo.
struct Demo<'a> {
    lab: &'a Lab,
    tiers: Tiers<'a>,
    /// The ids of the shop's services by name, and of the shop.
    services: BTreeMap<String, String>,
    application: String,
    /// The machine that the client is on.
    client: String,
    out: &'a mut dyn Write,
}

/// Runs the whole demo and prints what it finds to `out`.
///
/// # Errors
/// Without root, without a program that it needs, or at the first thing that is not as it should
/// be.
pub fn run(out: &mut dyn Write) -> Result<()> {
    require::programs(&["nginx", "curl", "dig", "getent", "python3", "nft", "ip"])?;
    let started = Instant::now();
    let lab = Lab::new(&sites())?;
    let scope = Scope {
        namespaces: lab_hosts(&lab),
        names: vec![lab.name().to_owned()],
        paths: vec![PathBuf::from("/run/weald")],
    };
    let before = MachineState::take(&scope)?;
    {
        let mut demo = Demo {
            lab: &lab,
            tiers: Tiers::new(&lab, "relay")?,
            services: BTreeMap::new(),
            application: String::new(),
            client: String::new(),
            out: &mut *out,
        };
        demo.begin()?;
        demo.deploy()?;
        demo.names()?;
        demo.round_robin()?;
        demo.closest_and_instance()?;
        demo.transfer()?;
        demo.datagrams()?;
        demo.explain()?;
        demo.scale()?;
        demo.headless()?;
        demo.end()?;
    }
    before
        .wait_restored(&scope, STEP_TIME)
        .context("teardown left something behind")?;
    let compared = before.lines().count();
    writeln!(
        out,
        "  namespaces, links, addresses, routes, rules, nft tables, mounts, cgroups and\n  files are as before ({compared} things compared)"
    )?;
    let took = started.elapsed();
    writeln!(out, "\ndone in {:.1} s", took.as_secs_f64())?;
    ensure!(took <= DEMO_TIME, "the demo took longer than {DEMO_TIME:?}");
    Ok(())
}

/// An internet with root and a relay, and two sites behind NAT routers that drop what nobody asked
/// for, each with a machine for its cluster's orchestrator and two nodes.
fn sites() -> Description {
    let wan = Impairment::delay(Duration::from_millis(1));
    let router = |name: &str, site: &str, seed| {
        Machine::router(name, "internet", site)
            .link("internet", Link::emulated(wan, seed))
            .nat(Nat::PortRestricted)
            .drop_unsolicited()
    };
    let host = |name: &str, segment: &str, number| {
        Machine::host(name).attach(Attachment::to(segment).number(number))
    };
    let mut description = Description::new()
        .segment(Segment::new("internet").v4("203.0.113.0/24"))
        .segment(Segment::new("site-a").v4("192.168.1.0/24"))
        .segment(Segment::new("site-b").v4("192.168.2.0/24"))
        .machine(host("relay", "internet", 10))
        .machine(router("router-a", "site-a", 1))
        .machine(router("router-b", "site-b", 2));
    for (site, orchestrator, nodes) in SITES {
        description = description
            .machine(host(orchestrator, site, 10))
            .machine(host(nodes[0], site, 11))
            .machine(host(nodes[1], site, 12));
    }
    description
}

fn lab_hosts(lab: &Lab) -> Vec<String> {
    let nodes = SITES.iter().flat_map(|(_, orchestrator, nodes)| {
        [*orchestrator].into_iter().chain(nodes.iter().copied())
    });
    ["relay", "router-a", "router-b"]
        .into_iter()
        .chain(nodes)
        .map(|name| lab.node(name).name().to_owned())
        .collect()
}

impl Demo<'_> {
    fn title(&mut self, text: &str) -> Result<()> {
        writeln!(self.out, "\n{text}")?;
        Ok(())
    }

    fn say(&mut self, text: impl AsRef<str>) -> Result<()> {
        writeln!(self.out, "  {}", text.as_ref())?;
        Ok(())
    }

    /// Starts root, the relay, the clusters and the nodes, all of which join with tokens.
    fn begin(&mut self) -> Result<()> {
        self.title("0. root and a relay on the internet, two sites behind NATs")?;
        let since = Instant::now();
        for (site, orchestrator, _) in SITES {
            self.tiers.add_cluster(orchestrator, site)?;
        }
        let (site, orchestrator, _) = SITES[0];
        self.tiers.add_relay(orchestrator, &format!("{site}/r1"))?;
        for (_, orchestrator, nodes) in SITES {
            for node in nodes {
                self.tiers.add_node(orchestrator, node)?;
            }
        }
        self.tiers.login("Admin", "Admin")?;
        let nodes = self.wait_alive()?;
        self.say(format!(
            "two clusters, four nodes and a relay have joined with tokens of one use, {:.1} s",
            since.elapsed().as_secs_f64()
        ))?;
        for node in nodes.as_array().into_iter().flatten() {
            let word = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
            self.say(format!(
                "{} {}: {} {}",
                word("name"),
                word("standing"),
                word("ipv4"),
                word("ipv6")
            ))?;
        }
        Ok(())
    }

    fn wait_alive(&self) -> Result<Value> {
        self.tiers
            .wait_api("four nodes are alive", "/api/v1/nodes", |nodes| {
                let nodes = nodes.as_array();
                nodes.is_some_and(|all| {
                    all.len() == 4 && all.iter().all(|it| it["standing"] == "alive")
                })
            })
    }

    /// Waits until exactly so many instances are there, and all of them run.
    fn wait_running(&self, count: usize) -> Result<Value> {
        let what = format!("{count} instances run");
        self.tiers.wait_api(&what, "/api/v1/instances", |all| {
            let all = all.as_array();
            all.is_some_and(|all| {
                all.len() == count && all.iter().all(|it| it["status"] == "RUNNING")
            })
        })
    }

    /// The machine that an instance is on.
    fn machine_of(&self, instance: &str) -> Result<String> {
        let all = self.tiers.api("GET", "/api/v1/instances", None)?;
        let mut all = all.as_array().into_iter().flatten();
        let node = all.find(|it| it["name"] == instance);
        let node = node.and_then(|it| it["node"].as_str());
        let node = node.with_context(|| format!("{instance} is on no node"))?;
        Ok(node.rsplit('/').next().unwrap_or(node).to_owned())
    }

    /// Runs a program in the client's namespace.
    fn client(&self, program: &[&str]) -> Result<String> {
        self.tiers
            .fleet
            .run_in(&self.client, CLIENT, program, STEP_TIME)
    }

    /// Fetches a URL with plain curl in the client's namespace.
    fn curl(&self, family: &str, url: &str) -> Result<String> {
        let answer = self.client(&["curl", "-sS", family, "--max-time", "10", url])?;
        Ok(answer.trim().to_owned())
    }

    fn scale_web(&self, to: u32) -> Result<()> {
        let web = self.services.get("web").context("no service web")?;
        let path = format!("/api/v1/services/{web}/scale");
        let wanted = json!({ "instances": to });
        self.tiers.api("POST", &path, Some(&wanted)).map(drop)
    }

    /// Takes everything down.
    fn end(&mut self) -> Result<()> {
        self.title("10. undeployed, and teardown leaves nothing")?;
        for id in self.services.values() {
            let all = format!("/api/service/{id}/instance/-1");
            self.tiers.api("DELETE", &all, None)?;
        }
        self.wait_running(0)?;
        let path = format!("/api/application/{}", self.application);
        self.tiers.api("DELETE", &path, None)?;
        for (_, orchestrator, nodes) in SITES {
            for node in nodes {
                self.tiers.crash(node, Role::Worker)?;
                self.tiers.fleet.down(node)?;
            }
            self.tiers.crash(orchestrator, Role::Cluster)?;
        }
        self.tiers.crash("relay", Role::Root)
    }
}
