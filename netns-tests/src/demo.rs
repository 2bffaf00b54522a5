//! The whole demo: one SLA on two sites behind NATs, scheduled by root and two clusters, fetched by
//! semantic URLs, scaled under load, and kept alive while everything above it is dead.
//!
//! `make demo` runs it for people and a test runs it for us. Every step does what a user would do and
//! prints its evidence; the first thing that is not as it should be ends it with an error. What the
//! overlay does alone is `overlay_demo`'s.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::stage::{self, STEP_TIME};
use crate::tiers::{Role, Tiers};
use crate::{Attachment, Description, Impairment, Link, Machine, require};

mod control;
mod traffic;

/// The shop as the documentation shows it.
const SHOP: &str = include_str!("../../examples/shop.json");
/// The clusters: each one's name, the machine of its orchestrator, and its nodes.
const SITES: [(&str, &str, [&str; 2]); 2] = [
    ("site-a", "ca", ["a1", "a2"]),
    ("site-b", "cb", ["b1", "b2"]),
];
/// The servers' service.
const WEB: &str = "shop.prod.web.prod";
/// The client's instance.
const CLIENT: &str = "shop.prod.client.prod.0";
/// How long all of it may take.
const DEMO_TIME: Duration = Duration::from_secs(90);

/// The running demo.
struct Demo<'a> {
    lab: &'a Lab,
    tiers: Tiers<'a>,
    /// The machine that the client is on.
    client: String,
    /// The machines that the servers are on, by number.
    servers: BTreeMap<u32, String>,
    out: &'a mut dyn Write,
}

/// Runs the whole demo and prints what it finds to `out`.
///
/// # Errors
/// Without root, without a program that it needs, or at the first thing that is not as it should
/// be.
pub fn run(out: &mut dyn Write) -> Result<()> {
    require::programs(&["nginx", "curl", "dig", "getent", "python3", "nft", "ip"])?;
    stage::run(&sites(), DEMO_TIME, out, |lab, out| {
        let mut demo = Demo {
            lab,
            tiers: Tiers::new(lab, "relay")?,
            client: String::new(),
            servers: BTreeMap::new(),
            out,
        };
        demo.begin()?;
        demo.deploy()?;
        demo.overlay("")?;
        demo.explain()?;
        demo.scale()?;
        demo.headless()?;
        demo.end()
    })
}

/// The two sites, each with a machine for its cluster's orchestrator and two nodes; root is on the
/// relay's machine. The links of the nodes can be made slow.
fn sites() -> Description {
    let mut description = stage::two_sites();
    let mut seed = 3;
    for (site, orchestrator, nodes) in SITES {
        description = description.machine(Machine::host(orchestrator).at(site, 10));
        for (number, node) in (11..).zip(nodes) {
            let link = Link::emulated(Impairment::default(), seed);
            let at = Attachment::to(site).number(number).link(link);
            description = description.machine(Machine::host(node).attach(at));
            seed += 1;
        }
    }
    description
}

/// The site that a machine is on: its name and its nodes.
fn site_of(machine: &str) -> Option<(&'static str, [&'static str; 2])> {
    let site = SITES.iter().find(|(_, _, nodes)| nodes.contains(&machine));
    site.map(|(name, _, nodes)| (*name, *nodes))
}

impl Demo<'_> {
    fn title(&mut self, text: impl AsRef<str>) -> Result<()> {
        writeln!(self.out, "\n{}", text.as_ref())?;
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

    /// Runs a command of `weald` as a user would, and shows it.
    fn weald(&mut self, arguments: &[&str]) -> Result<String> {
        let printed = self.tiers.weald(arguments)?;
        self.say(format!("$ weald {}", arguments.join(" ")))?;
        for line in printed.lines() {
            self.say(format!("| {line}"))?;
        }
        Ok(printed)
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

    /// Takes in where everything runs, so that the steps without root know it.
    fn know(&mut self) -> Result<()> {
        let all = self.tiers.lives()?;
        let client = all.get(CLIENT).context("the client runs nowhere")?;
        client.machine.clone_into(&mut self.client);
        let servers = all.into_iter().filter_map(|(name, life)| {
            let number = name.strip_prefix(WEB)?.strip_prefix('.')?.parse();
            Some((number.ok()?, life.machine))
        });
        self.servers = servers.collect();
        Ok(())
    }

    /// The machine that a server is on.
    fn server(&self, number: u32) -> Result<&str> {
        let known = self.servers.get(&number);
        known
            .map(String::as_str)
            .with_context(|| format!("no {WEB}.{number}"))
    }

    /// The path that the client's newest flow to a server takes, which must fit where both are.
    fn path_to(&self, number: u32) -> Result<String> {
        let machine = self.server(number)?;
        let instance = format!("{WEB}.{number}");
        let path = self.tiers.fleet.path_to(&self.client, &instance)?;
        let fits = match path.split(' ').next() {
            Some("local") => machine == self.client,
            Some("direct" | "relay") => machine != self.client,
            _ => false,
        };
        let client = &self.client;
        ensure!(fits, "{instance} on {machine} by {path} from {client}");
        Ok(path)
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

    /// Takes everything down.
    fn end(&mut self) -> Result<()> {
        self.title("10. undeployed, and teardown leaves nothing")?;
        self.weald(&["app", "delete", "shop.prod"])?;
        self.wait_running(0)?;
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
