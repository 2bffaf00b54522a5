//! Step 7: daemons end and come back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{CLIENT, CLIENT_INSTANCE, Demo, STEP_TIME};
use crate::capture::Capture;
use crate::process::command;

/// How soon new connections must work after a daemon is started.
const BACK_TIME: Duration = Duration::from_secs(2);

/// The server on b1, and what its pages say.
const WEB_1: &str = "shop.prod.web.prod.1";

impl Demo<'_> {
    pub(super) fn restarts(&mut self) -> Result<()> {
        self.title("7. a netmanager is killed and restarted")?;
        let url = "http://web.prod.1.instance.local/";
        let addresses = self.addresses(CLIENT, CLIENT_INSTANCE, "web.prod.1.instance.local")?;
        self.ensure_answers(CLIENT, CLIENT_INSTANCE, &addresses, "web-1")?;
        self.fleet.crash(CLIENT)?;
        let seen = self.nothing_leaves(CLIENT, CLIENT_INSTANCE, &addresses)?;
        self.say(format!(
            "a1's daemon is dead: instance and host are refused {}; 0 packets for them left the \
             host, the same search finds {seen} that left the instance",
            addresses.join(" and ")
        ))?;
        let started = Instant::now();
        self.fleet.start(CLIENT)?;
        let took = self.time_to_fetch(started, url)?;
        let path = self.path_to(WEB_1)?;
        self.say(format!(
            "a1's daemon is back: curl works {took:.1?} after it was started, via {path}"
        ))?;

        // Something answers at the client as long as b1's daemon carries it there.
        let _page = self.fleet.serve_page(CLIENT, CLIENT_INSTANCE)?;
        let namespace = self.fleet.instance(CLIENT, CLIENT_INSTANCE)?;
        namespace.wait_tcp_listening(80, STEP_TIME)?;
        let client = self.addresses("b1", WEB_1, "client.prod.0.instance.local")?;
        self.ensure_answers("b1", WEB_1, &client, "from a1")?;
        self.fleet.stop("b1")?;
        let seen = self.nothing_leaves("b1", WEB_1, &client)?;
        let lives = self.servers[1].exit_status()?.is_none();
        ensure!(lives, "nginx on b1 ended with the daemon");
        self.say(format!(
            "b1's daemon is stopped: {}, which answered before, do not; 0 packets for them left \
             the host, the same search finds {seen} that left the instance",
            client.join(" and ")
        ))?;
        let started = Instant::now();
        self.fleet.start("b1")?;
        let took = self.time_to_fetch(started, url)?;
        self.ensure_answers("b1", WEB_1, &client, "from a1")?;
        let path = self.path_to(WEB_1)?;
        self.say(format!(
            "b1's daemon is back: nginx there lived on, curl works {took:.1?} after it was \
             started, via {path}"
        ))
    }

    /// What a name means in an instance, as URLs have it.
    fn addresses(&self, machine: &str, instance: &str, name: &str) -> Result<Vec<String>> {
        let ask = |record: &str| {
            let dig = ["dig", "+short", name, record];
            let said = self.fleet.run_in(machine, instance, &dig, STEP_TIME)?;
            let address = said.trim().to_owned();
            ensure!(!address.is_empty(), "{name} has no {record}");
            Ok(address)
        };
        Ok(vec![ask("A")?, format!("[{}]", ask("AAAA")?)])
    }

    /// Fails unless an instance and its host are answered at all of these addresses.
    fn ensure_answers(
        &self,
        machine: &str,
        instance: &str,
        addresses: &[String],
        page: &str,
    ) -> Result<()> {
        for target in addresses {
            let fetch = format!("curl -sS --max-time 10 http://{target}/");
            let inside: Vec<&str> = fetch.split_whitespace().collect();
            let host = self.lab.node(machine);
            for answer in [
                self.fleet.run_in(machine, instance, &inside, STEP_TIME)?,
                host.run_ok(command(&fetch), STEP_TIME)?,
            ] {
                ensure!(
                    answer.starts_with(page),
                    "{target} answers {machine} {answer:?}, not {page:?}"
                );
            }
        }
        Ok(())
    }

    /// Fails unless an instance and its host are refused all of these addresses, and nothing for the
    /// overlay leaves the host meanwhile. How many packets the same search finds where they leave the
    /// instance.
    fn nothing_leaves(&self, machine: &str, instance: &str, addresses: &[String]) -> Result<usize> {
        let host = self.lab.node(machine);
        let outside = host.capture("eth0")?;
        let inside = self.fleet.instance(machine, instance)?.capture("eth0")?;
        for target in addresses {
            let fetch = format!("curl -sS --max-time 2 http://{target}/");
            let words: Vec<&str> = fetch.split_whitespace().collect();
            for tried in [
                self.fleet.in_instance(machine, instance, &words)?,
                command(&fetch),
            ] {
                let output = host.run(tried, STEP_TIME)?;
                ensure!(
                    !output.status.success(),
                    "{target} answers on {machine} without a netmanager"
                );
            }
        }
        let left = inner_packets(outside)?;
        ensure!(
            left == 0,
            "{left} packets for the overlay left {machine} unencrypted"
        );
        let tried = inner_packets(inside)?;
        ensure!(
            tried >= addresses.len(),
            "only {tried} packets left the instance on {machine}: the search would find none outside"
        );
        Ok(tried)
    }

    /// Fetches a page by both families; how long after `started` both had come.
    fn time_to_fetch(&self, started: Instant, url: &str) -> Result<Duration> {
        for family in ["-4", "-6"] {
            loop {
                let answer = self.curl(family, url);
                let took = started.elapsed();
                ensure!(took <= BACK_TIME, "not back after {took:?}: {answer:?}");
                if answer.is_ok_and(|answer| answer.starts_with("web-1")) {
                    break;
                }
            }
        }
        Ok(started.elapsed())
    }
}

/// How many plain packets of the overlay's pools a complete capture holds.
fn inner_packets(capture: Capture) -> Result<usize> {
    let captured = capture.stop()?;
    captured.ensure_complete()?;
    Ok(captured.packets().filter(|packet| is_inner(packet)).count())
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
