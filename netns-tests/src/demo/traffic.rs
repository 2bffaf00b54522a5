//! The steps of the overlay: names, policies, a large file and datagrams. No step asks an orchestrator
//! for anything.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{CLIENT, Demo, STEP_TIME, WEB, site_of};
use crate::stage::{self, FILE_BYTES, same_sha256, write_file};
use crate::{Impairment, wait};

const FULL: &str = "shop.prod.web.prod.any.rr.local";
const SHORT: &str = "web.prod.rr.local";
/// Where servers offer files, and where datagrams come back.
const FILES: u16 = 8000;
const ECHO: u16 = 9000;
/// What makes the nearest server the farthest, each way.
const FAR: Duration = Duration::from_millis(80);
/// How soon `closest` follows a change of delays.
const FOLLOW_TIME: Duration = Duration::from_secs(10);

impl Demo<'_> {
    /// All of them; `step` stands before their numbers.
    pub(super) fn overlay(&mut self, step: &str) -> Result<()> {
        self.names(step)?;
        self.round_robin(step)?;
        self.closest_and_instance(step)?;
        if step.is_empty() {
            self.follow_delays()?;
        }
        self.transfer(step)?;
        self.datagrams(step)
    }

    fn names(&mut self, step: &str) -> Result<()> {
        self.title(format!(
            "{step}2. semantic names resolve, A and AAAA, long and short"
        ))?;
        let mut seen = Vec::new();
        for name in [FULL, SHORT] {
            let mut addresses = Vec::new();
            for (kind, database) in [("A", "ahostsv4"), ("AAAA", "ahostsv6")] {
                let address = self.client(&["dig", "+short", name, kind])?;
                let address = address.trim().to_owned();
                let known: IpAddr = address
                    .parse()
                    .with_context(|| format!("{name} {kind}: {address:?}"))?;
                ensure!(known.is_ipv4() == (kind == "A"), "{name} {kind}: {known}");
                let hosts = self.client(&["getent", database, name])?;
                ensure!(hosts.contains(&address), "getent {database}: {hosts}");
                addresses.push(address);
            }
            self.say(format!(
                "{name}: {} (dig and getent agree)",
                addresses.join(" ")
            ))?;
            seen.push(addresses);
        }
        ensure!(seen[0] == seen[1], "{seen:?}");
        let (number, _) = self.far_server()?;
        let name = format!("web.prod.{number}.instance.local");
        let ping = self.client(&["ping", "-c1", "-W5", &name])?;
        let line = ping.lines().find(|line| line.contains("time="));
        let line = line.context(ping.clone())?.trim().to_owned();
        let path = self.path_to(number)?;
        self.say(format!("ping {name}: {line} via {path}"))
    }

    /// How often each server answers that many requests.
    pub(super) fn hits(&self, family: &str, requests: u32) -> Result<BTreeMap<String, u32>> {
        let mut hits = BTreeMap::new();
        for _ in 0..requests {
            let answer = self.curl(family, &format!("http://{FULL}/"))?;
            *hits.entry(server_of(&answer)).or_default() += 1;
        }
        Ok(hits)
    }

    fn round_robin(&mut self, step: &str) -> Result<()> {
        let count = self.servers.len();
        self.title(format!(
            "{step}3. rr: {} requests hit each of {count} instances exactly twice",
            2 * count
        ))?;
        let requests = 2 * u32::try_from(count)?;
        for family in ["-4", "-6"] {
            // Until the client's node has all rows, the turn is among fewer.
            let hits = wait::until("all of them are in the turn", STEP_TIME, || {
                let hits = self.hits(family, requests)?;
                let each_twice = hits.len() == count && hits.values().all(|n| *n == 2);
                ensure!(each_twice, "curl {family}: {hits:?}");
                Ok(hits)
            })?;
            let shown: Vec<_> = hits.iter().map(|(ip, n)| format!("{ip} x {n}")).collect();
            self.say(format!(
                "curl {family} http://{FULL}/: {}",
                shown.join(", ")
            ))?;
        }
        for (number, machine) in self.servers.clone() {
            let path = self.path_to(number)?;
            self.say(format!("{WEB}.{number} on {machine}: {path}"))?;
        }
        Ok(())
    }

    fn closest_and_instance(&mut self, step: &str) -> Result<()> {
        self.title(format!(
            "{step}4. closest stays on its own site, instance takes the one it names"
        ))?;
        let mut by_address = BTreeMap::new();
        for (number, machine) in self.servers.clone() {
            let url = format!("http://web.prod.{number}.instance.local/");
            let address = server_of(&self.curl("-4", &url)?);
            let path = self.path_to(number)?;
            self.say(format!(
                "web.prod.{number}.instance.local is {address}, on {machine}: {path}"
            ))?;
            by_address.insert(address, number);
        }
        ensure!(by_address.len() == self.servers.len(), "{by_address:?}");
        let number = wait::until("closest is on the client's site", STEP_TIME, || {
            let address = server_of(&self.curl("-4", "http://web.prod.closest.local/")?);
            let number = by_address.get(&address);
            let number = *number.with_context(|| format!("{address} answered"))?;
            let machine = self.server(number)?;
            ensure!(
                site_of(machine) == site_of(&self.client),
                "{address} on {machine}"
            );
            Ok(number)
        })?;
        let (machine, path) = (self.server(number)?.to_owned(), self.path_to(number)?);
        self.say(format!(
            "web.prod.closest.local is {WEB}.{number} on {machine}, from {}: {path}",
            self.client
        ))
    }

    /// The link of the nearest server becomes slow, and `closest` goes elsewhere; then it is as it was.
    fn follow_delays(&mut self) -> Result<()> {
        let closest = "http://web.prod.closest.local/";
        let near = server_of(&self.curl("-4", closest)?);
        let name = |number| format!("http://web.prod.{number}.instance.local/");
        let mut machine = None;
        for (number, candidate) in &self.servers {
            if server_of(&self.curl("-4", &name(*number))?) == near {
                machine = Some(candidate.clone());
            }
        }
        let machine = machine.context("closest is none of the servers")?;
        // What is on the client's own node needs no link.
        ensure!(
            machine != self.client,
            "a server and the client are on {machine}"
        );
        let (site, _) = site_of(&machine).context("a server on no site")?;
        let link = self.lab.link(&machine, site);
        self.say(format!(
            "closest is {near} on {machine}; its link gets {FAR:?} each way"
        ))?;
        for (delay, is_near) in [(FAR, false), (Duration::ZERO, true)] {
            link.set_both(Impairment::delay(delay));
            let since = Instant::now();
            let found = wait::until("closest follows", FOLLOW_TIME, || {
                let found = server_of(&self.curl("-4", closest)?);
                ensure!((found == near) == is_near, "it is {found}");
                Ok(found)
            })?;
            self.say(format!(
                "with {delay:?} closest is {found} after {:.1?}",
                since.elapsed()
            ))?;
        }
        Ok(())
    }

    /// A server on another site than the client's: its number and its machine.
    fn far_server(&self) -> Result<(u32, String)> {
        let far = |machine: &str| site_of(machine) != site_of(&self.client);
        let found = self.servers.iter().find(|(_, machine)| far(machine));
        let (number, machine) = found.context("no server on the other site")?;
        Ok((*number, machine.clone()))
    }

    fn transfer(&mut self, step: &str) -> Result<()> {
        self.title(format!(
            "{step}5. a 100 MB file crosses the sites by name, and nobody between can read it"
        ))?;
        let (number, machine) = self.far_server()?;
        let folder = self.lab.node(&machine).dir()?.join("files");
        fs::create_dir_all(&folder)?;
        let source = folder.join("big");
        if !source.exists() {
            write_file(&source)?;
        }
        let (folder, port) = (folder.display().to_string(), FILES.to_string());
        let instance = format!("{WEB}.{number}");
        let mut serve = vec!["python3", "-m", "http.server", &port];
        serve.extend(["-d", &folder, "-b", "::"]);
        let _server = self.tiers.fleet.spawn_in(&machine, &instance, &serve)?;
        let namespace = self.tiers.fleet.instance(&machine, &instance)?;
        namespace.wait_tcp_listening(FILES, STEP_TIME)?;
        let relay = self.lab.node("relay");
        let capture = self.lab.node("router-a").capture("wan")?;
        let target = self.lab.dir().join("fetched").display().to_string();
        let url = format!("http://{instance}.instance.local:{FILES}/big");
        let since = Instant::now();
        self.client(&["curl", "-sS", "-4", "-o", &target, &url])?;
        let took = since.elapsed().as_secs_f64();
        let captured = capture.stop()?;
        let sum = same_sha256(relay, &source.display().to_string(), &target)?;
        fs::remove_file(&target)?;
        let seen = stage::judge(&captured, self.lab)?;
        self.say(format!(
            "{instance} on {machine}: {FILE_BYTES} bytes in {took:.1} s, sha256 {}",
            &sum[..16]
        ))?;
        let path = self.path_to(number)?;
        self.say(format!(
            "by {path}: {} MB crossed the internet, {} of them by way of the relay, all of it UDP, 0 \
             packets with the file's text",
            seen.bytes / 1_000_000,
            seen.relayed / 1_000_000
        ))?;
        if step.is_empty() {
            let plain = stage::plain_is_found(relay, self.lab.node("a1"))?;
            self.say(format!(
                "fetched without the tunnel, {plain} packets hold it: the search works"
            ))?;
        }
        Ok(())
    }

    fn datagrams(&mut self, step: &str) -> Result<()> {
        self.title(format!("{step}6. UDP both ways"))?;
        let (number, machine) = self.far_server()?;
        let instance = format!("{WEB}.{number}");
        let client = self.tiers.fleet.instance(&self.client, CLIENT)?;
        let server = self.tiers.fleet.instance(&machine, &instance)?;
        let _there = server.udp_echo(SocketAddr::from(([0_u16; 8], ECHO)))?;
        let _back = client.udp_echo(SocketAddr::from(([0_u16; 8], ECHO)))?;
        let name = format!("web.prod.{number}.instance.local");
        for database in ["ahostsv4", "ahostsv6"] {
            let to = self.client(&["getent", database, &name])?;
            let from = ["getent", database, "client.prod.rr.local"];
            let fleet = &self.tiers.fleet;
            let from = fleet.run_in(&machine, &instance, &from, STEP_TIME)?;
            for (namespace, to) in [(&client, to), (&server, from)] {
                let to: IpAddr = to.split_whitespace().next().unwrap_or_default().parse()?;
                let payload = vec![0x5a; 1200];
                let echoed =
                    namespace.udp_exchange(SocketAddr::new(to, ECHO), &payload, STEP_TIME)?;
                ensure!(echoed == payload, "the echo of {to} differs");
                self.say(format!("{to}: 1200 bytes there and back"))?;
            }
        }
        let path = self.path_to(number)?;
        self.say(format!("by {path}"))
    }
}

/// Who answered: the server's own address begins its page.
fn server_of(answer: &str) -> String {
    answer
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}
