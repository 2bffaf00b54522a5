//! Steps 1 to 3 and 5: names, policies and datagrams.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{CLIENT, CLIENT_INSTANCE, Demo, STEP_TIME, WEB, expect};
use crate::emulator::Impairment;
use crate::wait;

const FULL: &str = "shop.prod.web.prod.any.rr.local";
const SHORT: &str = "web.prod.rr.local";
/// How soon the pick must follow the measured distances.
const FOLLOW_TIME: Duration = Duration::from_secs(10);

impl Demo<'_> {
    pub(super) fn names(&mut self) -> Result<()> {
        self.title("1. semantic names resolve, A and AAAA, long and short")?;
        for name in [FULL, SHORT] {
            let v4 = self
                .client(&["dig", "+short", name, "A"])?
                .trim()
                .to_owned();
            let v6 = self
                .client(&["dig", "+short", name, "AAAA"])?
                .trim()
                .to_owned();
            expect("A", &v4, "10.30.100.1")?;
            expect("AAAA", &v6, "fdff:2000::1")?;
            for (database, address) in [("ahostsv4", &v4), ("ahostsv6", &v6)] {
                let hosts = self.client(&["getent", database, name])?;
                ensure!(hosts.contains(address), "getent {database}: {hosts}");
            }
            self.say(format!("{name}: {v4} {v6} (dig and getent agree)"))?;
            // The other zone, and TCP, as resolvers use it after a truncated answer.
            let other = name.replace(".local", ".weald.internal");
            for asked in [name, &other] {
                for (kind, address) in [("A", &v4), ("AAAA", &v6)] {
                    let answer = self.client(&["dig", "+tcp", "+short", asked, kind])?;
                    expect("over TCP", answer.trim(), address)?;
                }
            }
        }
        self.say("the same over TCP, and in zone weald.internal")?;
        let ping = self.client(&["ping", "-c1", "-W5", "shop.prod.web.prod.1.instance.local"])?;
        let line = ping
            .lines()
            .find(|line| line.contains("time="))
            .context(ping.clone())?;
        let path = self.path_to("shop.prod.web.prod.1")?;
        self.say(format!("ping: {} via {path}", line.trim()))
    }

    pub(super) fn round_robin(&mut self) -> Result<()> {
        self.title("2. rr: six requests hit each of three instances exactly twice")?;
        for family in ["-4", "-6"] {
            let mut hits: BTreeMap<String, u32> = BTreeMap::new();
            for _ in 0..6 {
                let answer = self.curl(family, &format!("http://{FULL}/"))?;
                let web = answer
                    .split_whitespace()
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                *hits.entry(web).or_default() += 1;
            }
            let shown: Vec<String> = hits.iter().map(|(web, n)| format!("{web} x {n}")).collect();
            let each_twice = hits.len() == WEB.len() && hits.values().all(|n| *n == 2);
            ensure!(each_twice, "curl {family}: {shown:?}");
            self.say(format!(
                "curl {family} http://{FULL}/: {}",
                shown.join(", ")
            ))?;
        }
        for (number, machine) in WEB.iter().enumerate() {
            let path = self.path_to(&format!("shop.prod.web.prod.{number}"))?;
            self.say(format!("web.{number} on {machine}: {path}"))?;
            let expected = if machine.starts_with('a') {
                "direct"
            } else {
                "direct 203.0.113."
            };
            ensure!(
                path.starts_with(expected),
                "web.{number} goes by {path}, not {expected}"
            );
        }
        Ok(())
    }

    pub(super) fn closest_and_instance(&mut self) -> Result<()> {
        self.title("3. closest follows the measured RTT, instance takes the one it names")?;
        let far = Impairment::delay(Duration::from_millis(40));
        self.lab
            .link("b2", "site-b")
            .set_both(Impairment::delay(Duration::from_millis(80)));
        self.lab.link("b1", "site-b").set_both(far);
        let took = self.wait_for_closest("web-0")?;
        self.ensure_dig_is_right("web-0")?;
        let path = self.path_to("shop.prod.web.prod.0")?;
        self.say(format!(
            "b1's link has 40 ms, b2's 80: closest is web-0 on a2 after {took:.1?}, {path}"
        ))?;
        self.lab
            .link("b1", "site-b")
            .set_both(Impairment::default());
        self.lab.link("a2", "site-a").set_both(far);
        let took = self.wait_for_closest("web-1")?;
        self.ensure_dig_is_right("web-1")?;
        let path = self.path_to("shop.prod.web.prod.1")?;
        self.say(format!(
            "now a2's link has the 40 ms: closest is web-1 on b1 after {took:.1?}, {path}"
        ))?;
        for (machine, site) in [("a2", "site-a"), ("b2", "site-b")] {
            self.lab.link(machine, site).set_both(Impairment::default());
        }
        let name = "shop.prod.web.prod.closest.local";
        let picks = self.fleet.tool(CLIENT, &["dig", name])?;
        for line in picks
            .lines()
            .filter(|line| !line.trim().is_empty())
            .take(16)
        {
            self.say(format!("| {line}"))?;
        }
        for number in 0..WEB.len() {
            let url = format!("http://web.prod.{number}.instance.local/");
            let answer = self.curl("-4", &url)?;
            let asked = format!("web-{number}");
            ensure!(answer.starts_with(&asked), "{url} answered {answer:?}");
        }
        self.say("web.prod.{0,1,2}.instance.local each answer as the one they name")?;
        self.local()
    }

    /// Fails unless `netmanager dig` says that this server is picked, and new connections get it; for
    /// being the nearest, once all others that were near are measured anew.
    fn ensure_dig_is_right(&mut self, server: &str) -> Result<()> {
        let (name, number) = ("shop.prod.web.prod.closest.local", &server["web-".len()..]);
        for (family, option) in [("ipv4", "-4"), ("ipv6", "-6")] {
            let expected = format!("shop.prod.web.prod.{number}");
            let pick = wait::until("dig says why it is picked", FOLLOW_TIME, || {
                let pick = self.fleet.pick(CLIENT, name, family)?;
                let is_told = pick.instance != expected || pick.reason == "nearest";
                ensure!(is_told, "{pick:?}");
                Ok(pick)
            })?;
            ensure!(
                pick.instance == expected,
                "{server} is the nearest, but dig says {pick:?}"
            );
            let answer = self.curl(option, &format!("http://{name}/"))?;
            ensure!(answer.starts_with(server), "{answer:?}, though {pick:?}");
        }
        Ok(())
    }

    /// An instance that asks for the nearest one of its own service is that one.
    fn local(&mut self) -> Result<()> {
        let (machine, instance) = (WEB[0], "shop.prod.web.prod.0");
        let url = "http://web.prod.closest.local/";
        let program = ["curl", "-sS", "-4", "--max-time", "10", url];
        let answer = self.fleet.run_in(machine, instance, &program, STEP_TIME)?;
        ensure!(
            answer.starts_with("web-0"),
            "{url} on {machine} answered {answer:?}"
        );
        let path = self.fleet.path_to(machine, instance)?;
        expect("the path on one node", &path, "local")?;
        self.say(format!(
            "closest from {machine} itself is web-0 there: {path}"
        ))
    }

    fn wait_for_closest(&self, wanted: &str) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let answer = self.curl("-4", "http://web.prod.closest.local/")?;
            let took = started.elapsed();
            ensure!(
                took <= FOLLOW_TIME,
                "closest still answers {answer:?} after {took:?}"
            );
            if answer.starts_with(wanted) {
                return Ok(took);
            }
        }
    }

    pub(super) fn datagrams(&mut self) -> Result<()> {
        self.title("5. UDP both ways")?;
        let port = 9000;
        let client_namespace = self.fleet.instance(CLIENT, CLIENT_INSTANCE)?;
        let web_namespace = self.fleet.instance("b1", "shop.prod.web.prod.1")?;
        let _web_echo = web_namespace.udp_echo(SocketAddr::from(([0_u16; 8], port)))?;
        let _client_echo = client_namespace.udp_echo(SocketAddr::from(([0_u16; 8], port)))?;
        for family in ["ahostsv4", "ahostsv6"] {
            let (web, client) = ("web.prod.1.instance.local", "client.prod.rr.local");
            let there = self.resolve(CLIENT, CLIENT_INSTANCE, family, web)?;
            let back = self.resolve("b1", "shop.prod.web.prod.1", family, client)?;
            for (namespace, to, what) in [
                (&client_namespace, there, "client on a1 to web.1 on b1"),
                (&web_namespace, back, "web.1 on b1 to client on a1"),
            ] {
                let payload = vec![0x5a; 1200];
                let to = SocketAddr::new(to, port);
                let echoed = namespace.udp_exchange(to, &payload, STEP_TIME)?;
                ensure!(echoed == payload, "{what}: the echo differs");
                self.say(format!("{what} ({}): 1200 bytes there and back", to.ip()))?;
            }
        }
        let path = self.path_to("shop.prod.web.prod.1")?;
        self.say(format!("via {path}"))
    }

    fn resolve(&self, machine: &str, instance: &str, database: &str, name: &str) -> Result<IpAddr> {
        let program = ["getent", database, name];
        let printed = self.fleet.run_in(machine, instance, &program, STEP_TIME)?;
        let first = printed.split_whitespace().next().unwrap_or_default();
        first
            .parse()
            .with_context(|| format!("{name} resolved to {printed:?}"))
    }
}
