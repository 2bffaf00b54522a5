//! The overlay's demo: a web shop over two sites behind NATs, fetched by semantic URLs.
//!
//! `make demo-overlay` runs it for people and a test runs it for us; both run the same code. Every step
//! does what a user would do, with the programs that a user has, and prints its evidence; the
//! first thing that is not as it should be ends it with an error.

use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::emulator::Impairment;
use crate::fleet::{Fleet, RELAY_PORT};
use crate::lab::Lab;
use crate::pair::NO_PUNCHING;
use crate::process::Process;
use crate::stage::{self, STEP_TIME};
use crate::{Attachment, Description, Link, Machine, require};

mod resilience;
mod services;
mod transfer;

/// The shop as the documentation shows it.
const SHOP: &str = include_str!("../../examples/shop.toml");
/// The nodes: the lab's name of the host and the node's id.
const NODES: [(&str, &str); 4] = [
    ("a1", "site-a/a1"),
    ("a2", "site-a/a2"),
    ("b1", "site-b/b1"),
    ("b2", "site-b/b2"),
];
/// Where the instances of `web` run, by number.
const WEB: [&str; 3] = ["a2", "b1", "b2"];
/// Where the client runs.
const CLIENT: &str = "a1";
/// The client's instance.
const CLIENT_INSTANCE: &str = "shop.prod.client.prod.0";
/// The node that opens no ways through NATs, and its instance: what crosses the sites from there goes
/// through the relay.
const NOT_PUNCHING: (&str, &str) = ("a2", "shop.prod.web.prod.0");
/// How long all of it may take.
const DEMO_TIME: Duration = Duration::from_secs(60);

/// The running demo.
struct Demo<'a> {
    lab: &'a Lab,
    fleet: Fleet<'a>,
    servers: Vec<Process>,
    out: &'a mut dyn Write,
}

/// Runs the whole demo and prints what it finds to `out`.
///
/// # Errors
/// Without root, without a program that it needs, or at the first thing that is not as it should
/// be.
pub fn run(out: &mut dyn Write) -> Result<()> {
    require::programs(&[
        "nginx", "curl", "dig", "getent", "ping", "python3", "nft", "ip",
    ])?;
    stage::run(&sites(), DEMO_TIME, out, |lab, out| {
        let mut demo = Demo {
            lab,
            fleet: Fleet::new(lab)?,
            servers: Vec::new(),
            out,
        };
        demo.begin()?;
        demo.names()?;
        demo.round_robin()?;
        demo.closest_and_instance()?;
        demo.transfer()?;
        demo.datagrams()?;
        demo.restarts()?;
        demo.end()
    })
}

/// The two sites with two nodes each; the links of all but the client's can be made slow.
fn sites() -> Description {
    let emulated = |name: &str, segment: &str, number, seed| {
        let link = Link::emulated(Impairment::default(), seed);
        Machine::host(name).attach(Attachment::to(segment).number(number).link(link))
    };
    stage::two_sites()
        .machine(Machine::host("a1").at("site-a", 11))
        .machine(emulated("a2", "site-a", 12, 3))
        .machine(emulated("b1", "site-b", 11, 4))
        .machine(emulated("b2", "site-b", 12, 5))
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

    /// Starts relay, netmanagers and web servers.
    fn begin(&mut self) -> Result<()> {
        self.title("0. two sites behind NATs, a relay between them, no orchestrator")?;
        self.fleet.write_table(SHOP)?;
        self.fleet.start_relay("relay", "hub/r1", "")?;
        for (machine, id) in NODES {
            let config = if machine == NOT_PUNCHING.0 {
                NO_PUNCHING
            } else {
                ""
            };
            self.fleet.add_node(machine, id, "acme", config)?;
            self.fleet.start(machine)?;
        }
        for (number, machine) in WEB.iter().enumerate() {
            let server = self.start_web(number, machine)?;
            self.servers.push(server);
        }
        let relay = self.lab.node("relay").v4();
        self.say(format!(
            "relay hub/r1 on {relay}:{RELAY_PORT}, netmanager on a1 a2 | b1 b2"
        ))?;
        self.say("nginx as web.0 on a2, web.1 on b1, web.2 on b2; the client is on a1")
    }

    fn start_web(&self, number: usize, machine: &str) -> Result<Process> {
        let dir = self.lab.node(machine).dir()?.join(format!("web-{number}"));
        fs::create_dir_all(&dir)?;
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|kind| format!("{kind}_temp_path {dir:?};\n"))
            .collect();
        let config = dir.join("nginx.conf");
        fs::write(
            &config,
            format!(
                "daemon off;\nuser root;\nworker_processes 1;\npid {dir:?}/pid;\nerror_log {dir:?}/error;\n\
                 events {{ worker_connections 256; }}\n\
                 http {{\naccess_log off;\n{temporary}\
                 server {{\nlisten 80;\nlisten [::]:80;\nroot {dir:?};\n\
                 location = / {{ return 200 \"web-{number} saw $remote_addr\\n\"; }}\n}}\n}}\n"
            )
            .replace(&format!("{dir:?}/"), &format!("{}/", dir.display())),
        )?;
        let instance = format!("shop.prod.web.prod.{number}");
        let config = config.to_str().context("a path that is not UTF-8")?;
        let server = self
            .fleet
            .spawn_in(machine, &instance, &["nginx", "-c", config])?;
        self.fleet
            .instance(machine, &instance)?
            .wait_tcp_listening(80, STEP_TIME)?;
        Ok(server)
    }

    /// Runs a program in the client's namespace.
    fn client(&self, program: &[&str]) -> Result<String> {
        self.fleet
            .run_in(CLIENT, CLIENT_INSTANCE, program, STEP_TIME)
    }

    /// Fetches a URL with plain curl in the client's namespace.
    fn curl(&self, family: &str, url: &str) -> Result<String> {
        let answer = self.client(&["curl", "-sS", family, "--max-time", "10", url])?;
        Ok(answer.trim().to_owned())
    }

    /// The path of the client's newest flow to an instance.
    fn path_to(&self, instance: &str) -> Result<String> {
        self.fleet.path_to(CLIENT, instance)
    }

    /// Takes everything down.
    fn end(&mut self) -> Result<()> {
        self.title("8. teardown leaves nothing")?;
        self.servers.clear();
        for (machine, _) in NODES {
            self.fleet.down(machine)?;
        }
        Ok(())
    }
}

/// Fails unless both are equal.
fn expect(what: &str, found: &str, expected: &str) -> Result<()> {
    ensure!(
        found == expected,
        "{what}: expected {expected:?}, found {found:?}"
    );
    Ok(())
}
