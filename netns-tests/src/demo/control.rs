//! The steps of the control plane: deploying, explaining, scaling, and doing without it.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{CLIENT, Demo, SHOP, SITES, STEP_TIME};
use crate::tiers::Role;
use crate::wait;

/// Fetches a page by name fifty times a second, and prints how many times, and each failure.
const LOAD: &str = r"
import http.client, sys, time
failed, sent, at = [], 0, time.monotonic()
while sent < int(sys.argv[1]):
    sent += 1
    try:
        page = http.client.HTTPConnection('web.prod.rr.local', timeout=5)
        page.request('GET', '/')
        if page.getresponse().status != 200:
            failed.append('status')
        page.close()
    except OSError as error:
        failed.append(str(error))
    at += 0.02
    time.sleep(max(0, at - time.monotonic()))
print(sent, len(failed), failed[:3])
";
/// Requests of the load: twelve seconds.
const REQUESTS: &str = "600";

impl Demo<'_> {
    pub(super) fn deploy(&mut self) -> Result<()> {
        self.title("1. one SLA: web x 3 and a client")?;
        let since = Instant::now();
        let sla: Value = serde_json::from_str(SHOP)?;
        let applied = self
            .tiers
            .api("POST", "/api/v1/apply?deploy=1", Some(&sla))?;
        let id = |list: &str, at: usize| {
            let id = applied[list][at].as_str();
            id.map(str::to_owned).context("no id")
        };
        self.application = id("applications", 0)?;
        for (at, name) in ["web", "client"].into_iter().enumerate() {
            self.services.insert(name.to_owned(), id("services", at)?);
        }
        self.scale_web(3)?;
        let known = self.wait_running(4)?;
        self.say(format!(
            "all four run {:.2} s after the SLA was sent",
            since.elapsed().as_secs_f64()
        ))?;
        for instance in known.as_array().into_iter().flatten() {
            let word = |key: &str| instance[key].as_str().unwrap_or_default().to_owned();
            let (name, node) = (word("name"), word("node"));
            let (v4, v6) = (word("ipv4"), word("ipv6"));
            self.say(format!("{name} on {node}: {v4} {v6}"))?;
        }
        self.client = self.machine_of(CLIENT)?;
        Ok(())
    }

    pub(super) fn explain(&mut self) -> Result<()> {
        self.title("7. why an instance is where it is")?;
        let path = "/api/v1/instances/shop.prod.web.prod.0/explain";
        let text = self.tiers.api_text(path)?;
        ensure!(text.contains("taken by"), "{text}");
        for line in text.lines() {
            self.say(format!("| {line}"))?;
        }
        Ok(())
    }

    pub(super) fn scale(&mut self) -> Result<()> {
        self.title("8. scaled to 5 and back to 2 under fifty requests a second")?;
        let load = ["python3", "-c", LOAD, REQUESTS];
        let load = self.tiers.fleet.spawn_in(&self.client, CLIENT, &load)?;
        self.scale_web(5)?;
        self.wait_running(6)?;
        self.say("5 servers run")?;
        self.scale_web(2)?;
        self.wait_running(3)?;
        self.say("2 servers run")?;
        let output = load.into_output(STEP_TIME)?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = printed.split_whitespace();
        let (sent, failed) = (words.next(), words.next());
        ensure!(sent == Some(REQUESTS), "the load said {printed:?}");
        ensure!(failed == Some("0"), "requests failed: {printed}");
        self.say(format!("{REQUESTS} requests, 0 failed"))
    }

    /// Everything above the nodes dies and comes back.
    pub(super) fn headless(&mut self) -> Result<()> {
        self.title("9. root and both clusters are killed")?;
        let before = self.lives()?;
        self.tiers.crash("relay", Role::Root)?;
        for (_, orchestrator, _) in SITES {
            self.tiers.crash(orchestrator, Role::Cluster)?;
        }
        self.names_resolve()?;
        let hits = self.hits("-4", 4)?;
        ensure!(hits.len() == 2, "{hits:?}");
        self.say("names resolve and both servers answer in turn without any of them")?;
        let client = self.client.clone();
        self.tiers.fleet.crash(&client)?;
        self.tiers.fleet.start(&client)?;
        let since = Instant::now();
        wait::until("a restarted node serves from disk", STEP_TIME, || {
            self.curl("-4", "http://web.prod.rr.local/")
        })?;
        self.say(format!(
            "the client's netmanager was killed and restarted meanwhile: it serves from disk after \
             {:.0?}",
            since.elapsed()
        ))?;
        let since = Instant::now();
        self.tiers.start("relay", Role::Root)?;
        for (_, orchestrator, _) in SITES {
            self.tiers.start(orchestrator, Role::Cluster)?;
        }
        self.tiers.login("Admin", "Admin")?;
        self.wait_alive()?;
        self.wait_running(3)?;
        let after = self.lives()?;
        ensure!(before == after, "{before:?} became {after:?}");
        self.say(format!(
            "all of them are back, and all is as it was {:.1} s later, no instance was restarted",
            since.elapsed().as_secs_f64()
        ))?;
        let hits = self.hits("-4", 4)?;
        ensure!(hits.len() == 2, "{hits:?}");
        Ok(())
    }

    /// Every instance with its life and its process.
    fn lives(&self) -> Result<Vec<(String, String, String)>> {
        let all = self.tiers.api("GET", "/api/v1/instances", None)?;
        let life = |it: &Value| {
            let word = |key: &str| it[key].to_string();
            (word("name"), word("generation"), word("node"))
        };
        Ok(all.as_array().into_iter().flatten().map(life).collect())
    }

    fn names_resolve(&self) -> Result<()> {
        let name = "web.prod.rr.local";
        for kind in ["A", "AAAA"] {
            let found = self.client(&["dig", "+short", name, kind])?;
            ensure!(!found.trim().is_empty(), "{name} {kind} is gone");
        }
        Ok(())
    }
}
