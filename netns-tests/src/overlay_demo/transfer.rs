//! Steps 4 and 6: a large file crosses the sites, directly and through the relay, and what the internet
//! saw of it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{CLIENT, CLIENT_INSTANCE, Demo, NOT_PUNCHING};
use crate::capture::Captured;
use crate::stage::{self, FILE_BYTES, TRANSFER_TIME, same_sha256, write_file};

/// What a direct transfer may leave to the relay: probes, and what nodes and relay tell each other.
const SMALL: u64 = FILE_BYTES as u64 / 100;

/// A file that was fetched.
struct Fetched {
    took: Duration,
    sum: String,
    path: String,
    captured: Captured,
    /// Bytes that the relay has sent on meanwhile, by its own counters.
    relayed: u64,
}

impl Demo<'_> {
    pub(super) fn transfer(&mut self) -> Result<()> {
        self.title("4. a 100 MB file crosses the sites by name, and its checksum is right")?;
        let source = self.lab.node("b1").dir()?.join("web-1").join("big");
        write_file(&source)?;
        let direct = self.fetch_file(CLIENT, CLIENT_INSTANCE)?;
        self.tell(&direct)?;
        ensure!(
            direct.path.starts_with("direct 203.0.113.") && direct.relayed < SMALL,
            "{CLIENT} fetched it by {}, {} bytes of it by the relay",
            direct.path,
            direct.relayed
        );
        let (machine, instance) = NOT_PUNCHING;
        self.say(format!(
            "the same from {instance} on {machine}, which opens no ways through NATs:"
        ))?;
        let relayed = self.fetch_file(machine, instance)?;
        self.tell(&relayed)?;
        ensure!(
            relayed.path == "relay hub/r1" && relayed.relayed >= FILE_BYTES as u64,
            "{machine} fetched it by {}, {} bytes of it by the relay",
            relayed.path,
            relayed.relayed
        );

        self.title("6. what the internet saw")?;
        for fetched in [&direct, &relayed] {
            let seen = stage::judge(&fetched.captured, self.lab)?;
            let (most, least) = if fetched.path.starts_with("relay") {
                (seen.relayed, seen.direct)
            } else {
                (seen.direct, seen.relayed)
            };
            ensure!(
                most >= FILE_BYTES as u64 && least < SMALL,
                "by {}, but the internet saw {seen:?}",
                fetched.path
            );
            self.say(format!(
                "by {}: {} bytes at site a's router, all of it UDP: {} between the sites' routers, \
                 {} from and to the relay",
                fetched.path, seen.bytes, seen.direct, seen.relayed
            ))?;
        }
        self.say("0 packets hold the file's text")?;
        let plain = stage::plain_is_found(self.lab.node("relay"), self.lab.node("a1"))?;
        self.say(format!(
            "fetched without the tunnel, {plain} packets hold it: the search works"
        ))
    }

    /// Fetches the file from b1 in an instance on site a.
    fn fetch_file(&self, machine: &str, instance: &str) -> Result<Fetched> {
        let relay = self.lab.node("relay");
        let source = self.lab.node("b1").dir()?.join("web-1").join("big");
        let target = self.lab.dir().join(format!("fetched-{machine}"));
        let target = target.display().to_string();
        let before = self.fleet.relayed_bytes("relay")?;
        let capture = self.lab.node("router-a").capture("wan")?;
        let started = Instant::now();
        let url = "http://shop.prod.web.prod.1.instance.local/big";
        let curl = ["curl", "-sS", "-4", "-o", &target, url];
        self.fleet.run_in(machine, instance, &curl, TRANSFER_TIME)?;
        let took = started.elapsed();
        let captured = capture.stop()?;
        let relayed = self.fleet.relayed_bytes("relay")?.saturating_sub(before);
        let sum = same_sha256(relay, &source.display().to_string(), &target)?;
        std::fs::remove_file(&target)?;
        let path = self.fleet.path_to(machine, "shop.prod.web.prod.1")?;
        Ok(Fetched {
            took,
            sum,
            path,
            captured,
            relayed,
        })
    }

    fn tell(&mut self, fetched: &Fetched) -> Result<()> {
        let rate = FILE_BYTES as f64 * 8.0 / fetched.took.as_secs_f64() / 1e6;
        self.say(format!(
            "{FILE_BYTES} bytes in {:.1?} ({rate:.0} Mbit/s), sha256 {}",
            fetched.took, fetched.sum
        ))?;
        self.say(format!(
            "via {}; by its counters the relay has sent on {} bytes",
            fetched.path, fetched.relayed
        ))
    }
}
