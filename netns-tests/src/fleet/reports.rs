//! What the daemons of a fleet report of themselves.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{COMMAND_TIME, Fleet, RELAY_CONFIG, elements};

/// What `netmanager dig` says that the policy of a name picks next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// The instance.
    pub instance: String,
    /// Why.
    pub reason: String,
    /// What the name resolves to.
    pub address: IpAddr,
}

impl Fleet<'_> {
    /// What a new flow to a name would get now, as `netmanager dig` tells it; `family` is `ipv4` or
    /// `ipv6`.
    ///
    /// # Errors
    /// The daemon does not answer, or tells of no pick or of several.
    pub fn pick(&self, machine: &str, name: &str, family: &str) -> Result<Pick> {
        let said = self.tool_json(machine, &["dig", name])?;
        let said = said.first().context("dig says nothing")?;
        let policies = said["policies"].as_array().into_iter().flatten();
        let policy = policies
            .filter(|it| it["family"] == family)
            .find(|it| it["policy"] == said["policy"]);
        let policy = policy.with_context(|| format!("no policy of {name}: {said}"))?;
        let candidates = policy["candidates"].as_array().into_iter().flatten();
        let mut picked = candidates.filter(|it| it["picked"] == true);
        let (Some(pick), None) = (picked.next(), picked.next()) else {
            bail!("not one pick of {name}: {policy}");
        };
        let word = |value: &Value| {
            let word = value.as_str().map(str::to_owned);
            word.with_context(|| format!("not all is told of {name}: {policy}"))
        };
        Ok(Pick {
            instance: word(&pick["instance"])?,
            reason: word(&pick["reason"])?,
            address: word(&policy["service_ip"])?.parse()?,
        })
    }

    /// How many packets a node's daemon has dropped for a reason.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn drops(&self, machine: &str, reason: &str) -> Result<u64> {
        Ok(self.all_drops(machine)?.get(reason).copied().unwrap_or(0))
    }

    /// How many packets a node's daemon has dropped, by reason; only reasons with a count.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn all_drops(&self, machine: &str) -> Result<BTreeMap<String, u64>> {
        let status = self.tool_json(machine, &["status"])?;
        let drops = status
            .first()
            .and_then(|status| status["packets"]["drops"].as_array());
        let counted = drops.into_iter().flatten().filter_map(|drop| {
            Some((
                drop["reason"].as_str()?.to_owned(),
                drop["packets"].as_u64()?,
            ))
        });
        Ok(counted.collect())
    }

    /// The path of a node's newest flow to an instance: `local`, `direct ADDRESS` or `relay NAME`, as
    /// `netmanager flows` tells it.
    ///
    /// # Errors
    /// The daemon does not answer, or has no such flow.
    pub fn path_to(&self, machine: &str, instance: &str) -> Result<String> {
        let flows = self.tool_json(machine, &["flows"])?;
        let flows: Vec<&Value> = flows.iter().flat_map(elements).collect();
        let ours = flows.iter().filter(|flow| flow["instance"] == instance);
        let newest = ours.min_by_key(|flow| flow["age_ms"].as_u64());
        let newest = newest.with_context(|| format!("no flow to {instance} in {flows:?}"))?;
        Ok(path_word(&newest["path"]))
    }

    /// How many bytes the relay on a machine has sent on, of all organisations.
    ///
    /// # Errors
    /// The relay does not answer.
    pub fn relayed_bytes(&self, machine: &str) -> Result<u64> {
        let report = self.relay_report(machine)?;
        let sent = report["total"]["sent"]["bytes"].as_u64();
        sent.with_context(|| format!("no counters in {report}"))
    }

    /// What the relay on a machine reports of itself.
    ///
    /// # Errors
    /// The relay does not answer.
    pub fn relay_report(&self, machine: &str) -> Result<Value> {
        let host = self.lab.node(machine);
        let mut command = Command::new(&self.binary);
        command
            .arg("--config")
            .arg(host.dir()?.join(RELAY_CONFIG))
            .args(["--json", "relay", "--status"]);
        Ok(serde_json::from_str(&host.run_ok(command, COMMAND_TIME)?)?)
    }

    /// The figures that a machine serves at a port of its loopback, by name with labels, as
    /// Prometheus would read them.
    ///
    /// # Errors
    /// Nobody serves any there.
    pub fn scrape(&self, machine: &str, address: &str) -> Result<BTreeMap<String, f64>> {
        let mut command = Command::new("curl");
        command.args(["-sSf", &format!("http://{address}/metrics")]);
        let text = self.lab.node(machine).run_ok(command, COMMAND_TIME)?;
        Ok(weald_metrics::samples(&text))
    }

    /// What a node's daemon reports of a peer.
    ///
    /// # Errors
    /// The daemon does not answer, or does not know the peer.
    pub fn peer(&self, machine: &str, id: &str) -> Result<Value> {
        let peers = self.tool_json(machine, &["peers"])?;
        let found = peers
            .iter()
            .flat_map(elements)
            .find(|peer| peer["node"] == id);
        found
            .cloned()
            .with_context(|| format!("{machine} knows no peer {id}: {peers:?}"))
    }

    /// How many sessions with peers a node's daemon has had since it was started. A session's age only
    /// grows, and so does that of one in its place: whether it is still the same, this tells.
    ///
    /// # Errors
    /// The node has no running daemon.
    pub fn sessions_begun(&self, machine: &str) -> Result<usize> {
        let log = self.log_of(machine, "session up")?;
        Ok(log.lines().count())
    }

    /// The lines of a node's running daemon that contain `what`.
    ///
    /// # Errors
    /// The node has no running daemon.
    pub fn log_of(&self, machine: &str, what: &str) -> Result<String> {
        let daemon = self.daemons.get(machine);
        let daemon = daemon.with_context(|| format!("no daemon on {machine:?}"))?;
        let log = [daemon.stdout(), daemon.stderr()];
        let lines = log.iter().flat_map(|stream| stream.lines());
        let lines = lines.filter(|line| line.contains(what));
        Ok(lines.map(|line| format!("{line}\n")).collect())
    }
}

/// `local`, `direct ADDRESS` or `relay NAME`.
fn path_word(path: &Value) -> String {
    let word = |key: &str| path[key].as_str().unwrap_or_default().to_owned();
    match path["kind"].as_str() {
        Some("direct") => format!("direct {}", word("address")),
        Some("relay") => format!("relay {}", word("relay")),
        Some(kind) => kind.to_owned(),
        None => "none".to_owned(),
    }
}
