//! Steps 4 and 6: a large file crosses the sites, and what the internet saw of it.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::{Demo, STEP_TIME};
use crate::fleet::RELAY_PORT;
use crate::process::command;

/// Bytes of the file.
const FILE_BYTES: usize = 100_000_000;
/// What the file is full of, and what is looked for in the captures.
const PATTERN: &[u8] = b"The quick brown fox carries no secret. ";
/// Bytes fetched without the tunnel, to show that the search would find the pattern.
const CONTROL_BYTES: usize = 1_000_000;

impl Demo<'_> {
    pub(super) fn transfer(&mut self) -> Result<()> {
        self.title("4. a 100 MB file crosses the sites by name, and its checksum is right")?;
        let source = self.lab.node("b1").dir()?.join("web-1").join("big");
        let mut file = BufWriter::new(File::create(&source)?);
        for at in (0..FILE_BYTES).step_by(PATTERN.len()) {
            file.write_all(&PATTERN[..PATTERN.len().min(FILE_BYTES - at)])?;
        }
        file.flush()?;
        let relay = self.lab.node("relay");
        let capture = relay.capture("eth0")?;
        let target = self.lab.dir().join("fetched");
        let target = target.display().to_string();
        let started = Instant::now();
        let url = "http://shop.prod.web.prod.1.instance.local/big";
        self.client(&["curl", "-sS", "-4", "-o", &target, url])?;
        let took = started.elapsed();
        let captured = capture.stop()?;
        let sum = |path: &str| -> Result<String> {
            let printed = relay.run_ok(command(&format!("sha256sum {path}")), STEP_TIME)?;
            Ok(printed
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned())
        };
        let (sent, got) = (sum(&source.display().to_string())?, sum(&target)?);
        ensure!(sent == got, "checksums differ: {sent} sent, {got} fetched");
        let rate = FILE_BYTES as f64 * 8.0 / took.as_secs_f64() / 1e6;
        self.say(format!(
            "{FILE_BYTES} bytes in {took:.1?} ({rate:.0} Mbit/s), sha256 {got}"
        ))?;
        let path = self.path_to("shop.prod.web.prod.1")?;
        self.say(format!("via {path}"))?;

        self.title("6. what the internet saw")?;
        captured.ensure_complete()?;
        let address = SocketAddr::from((relay.v4(), RELAY_PORT));
        let (to_relay, from_relay) = captured.udp_bytes_of(address);
        let plain = captured.count_containing(PATTERN);
        self.say(format!(
            "{to_relay} bytes of UDP to the relay, {from_relay} from it"
        ))?;
        ensure!(
            to_relay.min(from_relay) >= FILE_BYTES as u64,
            "less than the file"
        );
        ensure!(plain == 0, "{plain} packets hold the file's text");
        self.say("0 packets hold the file's text")?;
        self.control()
    }

    /// The same search in a capture of the same text without the tunnel.
    fn control(&mut self) -> Result<()> {
        let relay = self.lab.node("relay");
        let text: Vec<u8> = PATTERN
            .iter()
            .copied()
            .cycle()
            .take(CONTROL_BYTES)
            .collect();
        let listener = relay.tcp_listen(SocketAddr::from((relay.v4(), 8099)))?;
        let server = std::thread::spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            // Unread requests would turn the end of the answer into a reset.
            let _ = stream.read(&mut [0; 4096])?;
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n")?;
            stream.write_all(&text)
        });
        let capture = relay.capture("eth0")?;
        let fetch = format!("curl -sS -o /dev/null http://{}:8099/", relay.v4());
        self.lab.node("a1").run_ok(command(&fetch), STEP_TIME)?;
        let seen = capture.stop()?.count_containing(PATTERN);
        let _ = server.join();
        ensure!(
            seen > 0,
            "the search does not find the text where it is plain"
        );
        self.say(format!(
            "fetched without the tunnel, {seen} packets hold it: the search works"
        ))
    }
}
