//! The steps of the overlay: names, policies, a large file and datagrams.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::{CLIENT, Demo, SITES, STEP_TIME};
use crate::process::command;
use crate::wait;

const FULL: &str = "shop.prod.web.prod.any.rr.local";
const SHORT: &str = "web.prod.rr.local";
/// Bytes of the file, and what it is full of.
const FILE_BYTES: usize = 100_000_000;
const PATTERN: &[u8] = b"The quick brown fox carries no secret. ";

impl Demo<'_> {
    pub(super) fn names(&mut self) -> Result<()> {
        self.title("2. semantic names resolve, A and AAAA, long and short")?;
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
        Ok(())
    }

    /// How often each server answers that many requests.
    pub(super) fn hits(&self, family: &str, requests: u32) -> Result<BTreeMap<String, u32>> {
        let mut hits = BTreeMap::new();
        for _ in 0..requests {
            let answer = self.curl(family, &format!("http://{FULL}/"))?;
            let server = answer.split_whitespace().next().unwrap_or_default();
            *hits.entry(server.to_owned()).or_default() += 1;
        }
        Ok(hits)
    }

    pub(super) fn round_robin(&mut self) -> Result<()> {
        self.title("3. rr: six requests hit each of three instances exactly twice")?;
        for family in ["-4", "-6"] {
            // Until the client's node has all three rows, the turn is among fewer.
            let hits = wait::until("all three are in the turn", STEP_TIME, || {
                let hits = self.hits(family, 6)?;
                let each_twice = hits.len() == 3 && hits.values().all(|n| *n == 2);
                ensure!(each_twice, "curl {family}: {hits:?}");
                Ok(hits)
            })?;
            let shown: Vec<_> = hits.iter().map(|(ip, n)| format!("{ip} x {n}")).collect();
            self.say(format!(
                "curl {family} http://{FULL}/: {}",
                shown.join(", ")
            ))?;
        }
        Ok(())
    }

    pub(super) fn closest_and_instance(&mut self) -> Result<()> {
        self.title("4. closest stays on its own site, instance takes the one it names")?;
        let own_site = |machine: &str| {
            let site = SITES.iter().find(|(_, _, nodes)| nodes.contains(&machine));
            site.map(|(name, ..)| *name)
        };
        let mut near = Vec::new();
        for number in 0..3 {
            let url = format!("http://web.prod.{number}.instance.local/");
            let answer = self.curl("-4", &url)?;
            let ip = answer
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned();
            let machine = self.machine_of(&format!("shop.prod.web.prod.{number}"))?;
            if own_site(&machine) == own_site(&self.client) {
                near.push(ip.clone());
            }
            self.say(format!(
                "web.prod.{number}.instance.local is {ip}, on {machine}"
            ))?;
        }
        ensure!(!near.is_empty(), "no server on the client's site");
        let answer = wait::until("closest is on the client's site", STEP_TIME, || {
            let answer = self.curl("-4", "http://web.prod.closest.local/")?;
            let ip = answer.split_whitespace().next().unwrap_or_default();
            ensure!(
                near.iter().any(|it| it == ip),
                "{answer}, near are {near:?}"
            );
            Ok(answer)
        })?;
        self.say(format!("web.prod.closest.local answered {answer:?}"))
    }

    /// A server on another site than the client's: its number and its machine.
    fn far_server(&self) -> Result<(u32, String)> {
        let site_of = |machine: &str| {
            let mut sites = SITES.iter();
            sites.position(|(_, _, nodes)| nodes.contains(&machine))
        };
        for number in 0..3 {
            let machine = self.machine_of(&format!("shop.prod.web.prod.{number}"))?;
            if site_of(&machine) != site_of(&self.client) {
                return Ok((number, machine));
            }
        }
        anyhow::bail!("no server on the other site")
    }

    pub(super) fn transfer(&mut self) -> Result<()> {
        self.title("5. a 100 MB file crosses the sites by name, and the relay cannot read it")?;
        let (number, machine) = self.far_server()?;
        let folder = self.lab.node(&machine).dir()?.join("files");
        fs::create_dir_all(&folder)?;
        let source = folder.join("big");
        let mut file = BufWriter::new(File::create(&source)?);
        for at in (0..FILE_BYTES).step_by(PATTERN.len()) {
            file.write_all(&PATTERN[..PATTERN.len().min(FILE_BYTES - at)])?;
        }
        file.flush()?;
        let folder = folder.display().to_string();
        let instance = format!("shop.prod.web.prod.{number}");
        let serve = [
            "python3",
            "-m",
            "http.server",
            "8000",
            "-d",
            &folder,
            "-b",
            "::",
        ];
        let _server = self.tiers.fleet.spawn_in(&machine, &instance, &serve)?;
        let namespace = self.tiers.fleet.instance(&machine, &instance)?;
        namespace.wait_tcp_listening(8000, STEP_TIME)?;
        let relay = self.lab.node("relay");
        let capture = relay.capture("eth0")?;
        let target = self.lab.dir().join("fetched").display().to_string();
        let url = format!("http://{instance}.instance.local:8000/big");
        let since = Instant::now();
        self.client(&["curl", "-sS", "-4", "-o", &target, &url])?;
        let took = since.elapsed().as_secs_f64();
        let captured = capture.stop()?;
        let sum = |path: &str| -> Result<String> {
            let printed = relay.run_ok(command(&format!("sha256sum {path}")), STEP_TIME)?;
            Ok(printed
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned())
        };
        let (sent, fetched) = (sum(&source.display().to_string())?, sum(&target)?);
        ensure!(sent == fetched, "sha256 {sent} became {fetched}");
        let (mut bytes, mut readable) = (0, 0);
        for packet in captured.packets() {
            bytes += packet.len();
            readable += usize::from(packet.windows(PATTERN.len()).any(|it| it == PATTERN));
        }
        ensure!(bytes > FILE_BYTES, "only {bytes} bytes at the relay");
        ensure!(
            readable == 0,
            "{readable} packets with the file's text at the relay"
        );
        self.say(format!(
            "{instance} on {machine}: {FILE_BYTES} bytes in {took:.1} s, sha256 {}",
            &sent[..16]
        ))?;
        self.say(format!(
            "{} MB crossed the relay, 0 packets with the file's text",
            bytes / 1_000_000
        ))
    }

    pub(super) fn datagrams(&mut self) -> Result<()> {
        self.title("6. UDP both ways")?;
        let (number, machine) = self.far_server()?;
        let instance = format!("shop.prod.web.prod.{number}");
        let port = 9000;
        let client = self.tiers.fleet.instance(&self.client, CLIENT)?;
        let server = self.tiers.fleet.instance(&machine, &instance)?;
        let _there = server.udp_echo(SocketAddr::from(([0_u16; 8], port)))?;
        let _back = client.udp_echo(SocketAddr::from(([0_u16; 8], port)))?;
        let name = format!("web.prod.{number}.instance.local");
        for database in ["ahostsv4", "ahostsv6"] {
            let to = self.client(&["getent", database, &name])?;
            let from = ["getent", database, "client.prod.rr.local"];
            let from = self
                .tiers
                .fleet
                .run_in(&machine, &instance, &from, STEP_TIME)?;
            for (namespace, to) in [(&client, to), (&server, from)] {
                let to: IpAddr = to.split_whitespace().next().unwrap_or_default().parse()?;
                let payload = vec![0x5a; 1200];
                let echoed =
                    namespace.udp_exchange(SocketAddr::new(to, port), &payload, STEP_TIME)?;
                ensure!(echoed == payload, "the echo of {to} differs");
                self.say(format!("{to}: 1200 bytes there and back"))?;
            }
        }
        Ok(())
    }
}
