//! The steps of the control plane: deploying, explaining, scaling, and doing without it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::{CLIENT, Demo, SHOP, SITES, STEP_TIME, WEB, site_of};
use crate::tiers::{Life, Role};
use crate::wait;

/// Fetches a page by name fifty times a second until it is told to end, but no less often than it is
/// told; says when the first page has come, and at the end how many were fetched, how many of them
/// came to nothing, in how many seconds, and why.
const LOAD: &str = r"
import http.client, queue, signal, sys, threading, time
least, begun, failed, done, due, ended = int(sys.argv[1]), [], [], [], queue.Queue(), []

def work():
    while due.get():
        try:
            page = http.client.HTTPConnection('web.prod.rr.local', timeout=5)
            page.request('GET', '/')
            status = page.getresponse().status
            if status != 200:
                failed.append(f'status {status}')
            page.close()
        except Exception as error:
            failed.append(repr(error))
        done.append(1)

signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
workers = [threading.Thread(target=work) for _ in range(8)]
for worker in workers:
    worker.start()
start, sent = time.monotonic(), 0
while sent < least or not ended:
    due.put(1)
    sent += 1
    time.sleep(max(0, start + sent * 0.02 - time.monotonic()))
    if done and not begun:
        begun.append(1)
        print('begun', flush=True)
for worker in workers:
    due.put(0)
for worker in workers:
    worker.join()
print(len(done), len(failed), time.monotonic() - start, failed[:3])
";
/// The least requests of the load, and the least that must be done of its fifty a second.
const REQUESTS: u32 = 500;
const LEAST_RATE: f64 = 45.0;

impl Demo<'_> {
    pub(super) fn deploy(&mut self) -> Result<()> {
        self.title("1. one SLA: web x 3 and a client")?;
        let sla = self.lab.dir().join("shop.json");
        std::fs::write(&sla, SHOP)?;
        let sla = sla.to_str().context("a path that is not UTF-8")?;
        let since = Instant::now();
        self.weald(&["app", "apply", sla, "--deploy", "1"])?;
        self.weald(&["service", "scale", WEB, "3"])?;
        self.say(format!(
            "all four run {:.2} s after the SLA was sent",
            since.elapsed().as_secs_f64()
        ))?;
        self.wait_running(4)?;
        // What the workers call their cgroups is looked for when all is over.
        self.lab.learn_groups()?;
        self.know()
    }

    pub(super) fn explain(&mut self) -> Result<()> {
        self.title("7. why an instance is where it is")?;
        let (number, machine) = self.servers.first_key_value().context("no server")?;
        let (instance, machine) = (format!("{WEB}.{number}"), machine.clone());
        let text = self.weald(&["explain", &instance])?;
        let (site, _) = site_of(&machine).context("a machine of no site")?;
        for part in [
            format!("{instance}: 1 attempt\n"),
            format!(" s ago: taken by {site}"),
            format!("{instance} is RUNNING on {site}/{machine}"),
        ] {
            ensure!(text.contains(&part), "no {part:?} in {text}");
        }
        Ok(())
    }

    pub(super) fn scale(&mut self) -> Result<()> {
        self.title("8. scaled to 5 and back to 2 under fifty requests a second")?;
        let least = REQUESTS.to_string();
        let load = ["python3", "-c", LOAD, &least];
        let mut load = self.tiers.fleet.spawn_in(&self.client, CLIENT, &load)?;
        load.wait_for_line("begun", STEP_TIME)?;
        self.weald(&["service", "scale", WEB, "5"])?;
        self.wait_running(6)?;
        self.weald(&["service", "scale", WEB, "2"])?;
        self.wait_running(3)?;
        let during = load.exit_status()?;
        ensure!(during.is_none(), "the load has ended: {}", load.shown());
        load.signal(Signal::SIGTERM)?;
        let output = load.into_output(STEP_TIME)?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = printed.lines().last().unwrap_or_default();
        let mut numbers = said.split(' ').map_while(|word| word.parse::<f64>().ok());
        let mut number = || numbers.next().with_context(|| format!("{output:?}"));
        let (requests, failed, seconds) = (number()?, number()?, number()?);
        let rate = requests / seconds;
        ensure!(failed < 1.0, "requests failed: {said}");
        ensure!(rate >= LEAST_RATE, "only {rate:.1} requests a second");
        self.say(format!(
            "{requests} requests in {seconds:.1} s, {rate:.1} a second, all the while: {failed} failed"
        ))?;
        self.know()
    }

    /// Everything above the nodes dies and comes back.
    pub(super) fn headless(&mut self) -> Result<()> {
        self.title("9. root and both clusters are killed")?;
        let before = self.tiers.lives()?;
        self.tiers.crash("relay", Role::Root)?;
        for (_, orchestrator, _) in SITES {
            self.tiers.crash(orchestrator, Role::Cluster)?;
        }
        self.say("none of the three runs; steps 2 to 6 once more")?;
        self.overlay("9.")?;
        self.title("9. a node restarts, and then all three come back")?;
        self.restart_node()?;
        self.revive(&before)
    }

    fn restart_node(&mut self) -> Result<()> {
        let client = self.client.clone();
        self.tiers.fleet.crash(&client)?;
        self.tiers.fleet.start(&client)?;
        let since = Instant::now();
        wait::until("a restarted node serves from disk", STEP_TIME, || {
            self.curl("-4", "http://web.prod.rr.local/")
        })?;
        self.say(format!(
            "the client's netmanager was killed and restarted: it serves from disk after {:.0?}",
            since.elapsed()
        ))
    }

    /// Starts what was killed; no instance may notice.
    fn revive(&mut self, before: &BTreeMap<String, Life>) -> Result<()> {
        let since = Instant::now();
        self.tiers.start("relay", Role::Root)?;
        for (_, orchestrator, _) in SITES {
            self.tiers.start(orchestrator, Role::Cluster)?;
        }
        self.tiers.login("Admin", "Admin")?;
        self.wait_alive()?;
        self.wait_running(before.len())?;
        let took: Duration = since.elapsed();
        let after = self.tiers.lives()?;
        ensure!(*before == after, "{before:?} became {after:?}");
        let processes: usize = after.values().map(|life| life.processes.len()).sum();
        self.say(format!(
            "all of them are back, and all is as it was {:.1} s later: {processes} processes of {} \
             instances have run all the time",
            took.as_secs_f64(),
            after.len()
        ))?;
        let hits = self.hits("-4", 4)?;
        ensure!(hits.len() == self.servers.len(), "{hits:?}");
        Ok(())
    }
}
