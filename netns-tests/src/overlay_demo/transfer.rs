//! Steps 4 and 6: a large file crosses the sites, and what the internet saw of it.

use std::time::Instant;

use anyhow::Result;

use super::Demo;
use crate::stage::{self, FILE_BYTES, same_sha256, write_file};

impl Demo<'_> {
    pub(super) fn transfer(&mut self) -> Result<()> {
        self.title("4. a 100 MB file crosses the sites by name, and its checksum is right")?;
        let source = self.lab.node("b1").dir()?.join("web-1").join("big");
        write_file(&source)?;
        let relay = self.lab.node("relay");
        let capture = self.lab.node("router-a").capture("wan")?;
        let target = self.lab.dir().join("fetched");
        let target = target.display().to_string();
        let started = Instant::now();
        let url = "http://shop.prod.web.prod.1.instance.local/big";
        self.client(&["curl", "-sS", "-4", "-o", &target, url])?;
        let took = started.elapsed();
        let captured = capture.stop()?;
        let got = same_sha256(relay, &source.display().to_string(), &target)?;
        let rate = FILE_BYTES as f64 * 8.0 / took.as_secs_f64() / 1e6;
        self.say(format!(
            "{FILE_BYTES} bytes in {took:.1?} ({rate:.0} Mbit/s), sha256 {got}"
        ))?;
        let path = self.path_to("shop.prod.web.prod.1")?;
        self.say(format!("via {path}"))?;

        self.title("6. what the internet saw")?;
        let seen = stage::judge(&captured, relay)?;
        self.say(format!(
            "{} bytes between the sites, {} of them to the relay",
            seen.bytes, seen.to_relay
        ))?;
        self.say("0 packets hold the file's text")?;
        let plain = stage::plain_is_found(relay, self.lab.node("a1"))?;
        self.say(format!(
            "fetched without the tunnel, {plain} packets hold it: the search works"
        ))
    }
}
