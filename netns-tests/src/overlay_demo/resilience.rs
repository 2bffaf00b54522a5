//! Step 7: daemons end and come back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{CLIENT, Demo, STEP_TIME};
use crate::process::command;

/// How soon new connections must work after a restart.
const BACK_TIME: Duration = Duration::from_secs(2);

impl Demo<'_> {
    pub(super) fn restarts(&mut self) -> Result<()> {
        self.title("7. a netmanager is killed and restarted")?;
        let url = "http://web.prod.1.instance.local/";
        let address = self.client(&["dig", "+short", "web.prod.1.instance.local", "A"])?;
        let address = address.trim().to_owned();
        let address6 = self.client(&["dig", "+short", "web.prod.1.instance.local", "AAAA"])?;
        let address6 = address6.trim().to_owned();

        self.fleet.crash(CLIENT)?;
        let capture = self.lab.node(CLIENT).capture("eth0")?;
        for target in [address.clone(), format!("[{address6}]")] {
            let plain = format!("curl -sS --max-time 2 http://{target}/");
            let in_instance: Vec<&str> = plain.split_whitespace().collect();
            let tried = self
                .fleet
                .in_instance(CLIENT, super::CLIENT_INSTANCE, &in_instance)?;
            let output = self.lab.node(CLIENT).run(tried, STEP_TIME)?;
            ensure!(
                !output.status.success(),
                "{target} answers without a netmanager"
            );
            let output = self.lab.node(CLIENT).run(command(&plain), STEP_TIME)?;
            ensure!(
                !output.status.success(),
                "{target} answers the host without a netmanager"
            );
        }
        let captured = capture.stop()?;
        let leaked = captured.packets().filter(|packet| is_inner(packet)).count();
        ensure!(
            leaked == 0,
            "{leaked} packets for the overlay left unencrypted"
        );
        self.say(format!(
            "a1's daemon is dead: instance and host are refused {address} and {address6}, \
             0 packets for them left the host"
        ))?;

        self.fleet.start(CLIENT)?;
        let took = self.time_to_fetch(url)?;
        self.say(format!(
            "a1's daemon is back: curl works {took:.1?} after it was ready"
        ))?;

        self.fleet.stop("b1")?;
        let capture = self.lab.node("b1").capture("eth0")?;
        let plain = ["curl", "-sS", "--max-time", "2", "http://10.30.1.20/"];
        let tried = self
            .fleet
            .in_instance("b1", "shop.prod.web.prod.1", &plain)?;
        let output = self.lab.node("b1").run(tried, STEP_TIME)?;
        ensure!(
            !output.status.success(),
            "the client answers without a netmanager on b1"
        );
        let leaked = capture
            .stop()?
            .packets()
            .filter(|packet| is_inner(packet))
            .count();
        ensure!(
            leaked == 0,
            "{leaked} packets for the overlay left b1 unencrypted"
        );
        let lives = self.servers[1].exit_status()?.is_none();
        ensure!(lives, "nginx on b1 ended with the daemon");
        self.fleet.start("b1")?;
        let took = self.time_to_fetch(url)?;
        self.say(format!(
            "b1's daemon was restarted: nginx there lived on, curl works {took:.1?} after"
        ))
    }

    fn time_to_fetch(&self, url: &str) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let answer = self.curl("-4", url);
            let took = started.elapsed();
            ensure!(took <= BACK_TIME, "not back after {took:?}: {answer:?}");
            if answer.is_ok_and(|answer| answer.starts_with("web-1")) {
                return Ok(took);
            }
        }
    }
}

/// Whether a captured Ethernet frame is a plain packet from or to the overlay's pools.
fn is_inner(frame: &[u8]) -> bool {
    let ip = frame.get(14..).unwrap_or_default();
    match ip.first().map(|first| first >> 4) {
        Some(4) => [12, 16]
            .iter()
            .any(|at| ip.get(*at..at + 2) == Some(&[10, 30])),
        Some(6) => [8, 24]
            .iter()
            .any(|at| ip.get(*at..at + 2) == Some(&[0xfd, 0xff])),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_inner;

    #[test]
    fn packets_of_the_pools_are_told_from_others() {
        let mut v4 = vec![0; 14 + 20];
        v4[14] = 0x45;
        assert!(!is_inner(&v4));
        v4[14 + 16..14 + 18].copy_from_slice(&[10, 30]);
        assert!(is_inner(&v4));
        let mut v6 = vec![0; 14 + 40];
        v6[14] = 0x60;
        assert!(!is_inner(&v6));
        v6[14 + 8..14 + 10].copy_from_slice(&[0xfd, 0xff]);
        assert!(is_inner(&v6));
        assert!(!is_inner(&[]));
    }
}
