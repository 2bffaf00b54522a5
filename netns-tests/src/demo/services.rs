//! Steps 1 to 3 and 5: names, policies and datagrams.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{CLIENT, CLIENT_INSTANCE, Demo, STEP_TIME, WEB, expect};
use crate::emulator::Impairment;

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
            let hosts = self.client(&["getent", "ahosts", name])?;
            ensure!(hosts.contains("10.30.100.1"), "getent: {hosts}");
            self.say(format!("{name}: {v4} {v6} (dig and getent agree)"))?;
        }
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
                "relay hub/r1"
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
        self.lab.link("b1", "site-b").set_both(far);
        let took = self.wait_for_closest("web-0")?;
        self.say(format!(
            "b1's link has 40 ms: closest picks web-0 on a2 (after {took:.1?})"
        ))?;
        self.lab
            .link("b1", "site-b")
            .set_both(Impairment::default());
        self.lab.link("a2", "site-a").set_both(far);
        let took = self.wait_until_not("web-0")?;
        ensure!(took <= FOLLOW_TIME, "the pick followed after {took:?} only");
        let now = self.curl("-4", "http://web.prod.closest.local/")?;
        self.say(format!(
            "now a2's link has them: closest picks {now:?} (after {took:.1?})"
        ))?;
        self.lab
            .link("a2", "site-a")
            .set_both(Impairment::default());
        let picks = self
            .fleet
            .tool(CLIENT, &["dig", "shop.prod.web.prod.closest.local"])?;
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
        self.say("web.prod.{0,1,2}.instance.local each answer as the one they name")
    }

    fn wait_for_closest(&self, wanted: &str) -> Result<Duration> {
        self.watch_closest(&format!("{wanted} is picked"), |answer| {
            answer.starts_with(wanted)
        })
    }

    fn wait_until_not(&self, unwanted: &str) -> Result<Duration> {
        self.watch_closest(&format!("another than {unwanted} is picked"), |answer| {
            answer.starts_with("web-") && !answer.starts_with(unwanted)
        })
    }

    fn watch_closest(&self, what: &str, accept: impl Fn(&str) -> bool) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let answer = self.curl("-4", "http://web.prod.closest.local/")?;
            if accept(&answer) {
                return Ok(started.elapsed());
            }
            if started.elapsed() > 2 * FOLLOW_TIME {
                bail!(
                    "not so after {:?}: {what}; closest answers {answer:?}",
                    started.elapsed()
                );
            }
        }
    }

    pub(super) fn datagrams(&mut self) -> Result<()> {
        self.title("5. UDP both ways")?;
        let port = 9000;
        let client_namespace = self.fleet.instance(CLIENT, CLIENT_INSTANCE)?;
        let web_namespace = self.fleet.instance("b1", "shop.prod.web.prod.1")?;
        let _web_echo = web_namespace.udp_echo(SocketAddr::from(([0; 4], port)))?;
        let _client_echo = client_namespace.udp_echo(SocketAddr::from(([0; 4], port)))?;
        let there = self.resolve(CLIENT, CLIENT_INSTANCE, "web.prod.1.instance.local")?;
        let back = self.resolve("b1", "shop.prod.web.prod.1", "client.prod.rr.local")?;
        for (namespace, to, what) in [
            (&client_namespace, there, "client on a1 to web.1 on b1"),
            (&web_namespace, back, "web.1 on b1 to client on a1"),
        ] {
            let payload = vec![0x5a; 1200];
            let echoed = namespace.udp_exchange(SocketAddr::new(to, port), &payload, STEP_TIME)?;
            ensure!(echoed == payload, "{what}: the echo differs");
            self.say(format!("{what} ({to}): 1200 bytes there and back"))?;
        }
        let path = self.path_to("shop.prod.web.prod.1")?;
        self.say(format!("via {path}"))
    }

    fn resolve(&self, machine: &str, instance: &str, name: &str) -> Result<IpAddr> {
        let printed =
            self.fleet
                .run_in(machine, instance, &["getent", "ahostsv4", name], STEP_TIME)?;
        let first = printed.split_whitespace().next().unwrap_or_default();
        first
            .parse()
            .with_context(|| format!("{name} resolved to {printed:?}"))
    }
}
