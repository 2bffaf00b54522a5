//! One run of one case: the lab is built and proven, two nodes join a cluster, a page is fetched by
//! name from a cold start, and a capture and the relay's counters say which way packets took.
//!
//! The nodes' configurations differ by name and key only, and hold no address but their cluster's.

use std::fs::File;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::case::{Case, Pair};
use super::evidence::Judge;
use super::sites::{self, CONTROL, HUB, NODES};
use crate::capture::Capture;
use crate::lab::{BRIDGE, Lab};
use crate::tiers::Tiers;
use crate::wait;

/// How long joining, deploying and starting may take, each.
const SOON: Duration = Duration::from_secs(20);
/// How long a fetch may take.
const FETCH_TIME: Duration = Duration::from_secs(20);
/// How long a page may take to come at all.
const FIRST_PAGE_TIME: Duration = Duration::from_secs(10);
/// Bytes of the fetch that proves the path.
const PROOF_BYTES: u64 = 1 << 20;
/// Bytes of the fetch that gives the rate.
const RATE_BYTES: u64 = 16 << 20;

const CLUSTER: &str = "town";
const CLIENT: &str = "matrix.lab.client.lab.0";
const SERVER: &str = "matrix.lab.web.lab.0";
const PAGE: &str = "http://web.lab.rr.local/";

/// The server, with the folder that it serves in place of `FOLDER`.
const NGINX: &str = "daemon off; user root; worker_processes 1; pid FOLDER/nginx.pid; \
    error_log stderr notice; events { worker_connections 64; } http { access_log off; \
    server { listen 80; listen [::]:80; location = / { return 200 \"here\\n\"; } \
    location /files/ { alias FOLDER/; } } }";
const START_NGINX: &str =
    "f=$(mktemp) && echo \"$CONFIG\" > $f && exec 3< $f && rm $f && exec nginx -c /dev/fd/3";

/// Which way packets took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Straight from node to node.
    Direct,
    /// Through the relay.
    Relay,
    /// Some this way and some that.
    Mixed,
    /// They did not get there.
    None,
}

impl Way {
    /// The word in tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Mixed => "mixed",
            Self::None => "none",
        }
    }
}

/// What one run has shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Which way packets took in the end.
    pub path: Way,
    /// From the first fetch to its first byte.
    pub first_byte: Option<Duration>,
    /// From the first fetch to a session's packets going direct both ways; none unless they did in
    /// the end.
    pub direct: Option<Duration>,
    /// The rate of a fetch over that path.
    pub rate_bits_per_sec: Option<f64>,
    /// Why there is no more to say.
    pub fault: Option<String>,
}

/// Runs a case once.
///
/// # Errors
/// The lab cannot be built, or is not what the case says. That nodes do not connect is an outcome.
pub fn run(case: Case) -> Result<Outcome> {
    let lab = Lab::new(&sites::description(case))?;
    sites::prove(&lab, case)?;
    sites::let_control_through(&lab, case)?;
    let mut outcome = Outcome {
        path: Way::None,
        first_byte: None,
        direct: None,
        rate_bits_per_sec: None,
        fault: None,
    };
    let mut tiers = Tiers::new(&lab, HUB)?;
    let measured = deploy(&lab, &mut tiers)
        .context("before anything was fetched")
        .and_then(|()| measure(&lab, &tiers, case, &mut outcome));
    if let Err(error) = measured {
        outcome.fault = Some(format!("{error:#}"));
    }
    Ok(outcome)
}

/// Starts everything up to the point where only the two nodes do not know one another.
fn deploy(lab: &Lab, tiers: &mut Tiers<'_>) -> Result<()> {
    tiers.fleet.listen_on_both_families();
    tiers.add_cluster(CONTROL, CLUSTER)?;
    tiers.add_relay(CONTROL, &format!("{CLUSTER}/r1"))?;
    for node in NODES {
        tiers.add_node(CONTROL, node)?;
    }
    tiers.login("Admin", "Admin")?;
    tiers.wait_api("both nodes are alive", "/api/v1/nodes", |nodes| {
        let nodes = nodes.as_array();
        nodes.is_some_and(|all| all.len() == 2 && all.iter().all(|it| it["standing"] == "alive"))
    })?;
    let folder = lab.node(NODES[1]).dir()?;
    File::create(folder.join("blob"))?.set_len(RATE_BYTES)?;
    let folder = folder.to_str().context("a path that is not UTF-8")?;
    tiers.api("POST", "/api/v1/apply?deploy=1", Some(&sla(folder)))?;
    tiers.wait_api("both instances run", "/api/v1/instances", |all| {
        let all = all.as_array();
        all.is_some_and(|all| all.len() == 2 && all.iter().all(|it| it["status"] == "RUNNING"))
    })?;
    tiers
        .fleet
        .instance(NODES[1], SERVER)?
        .wait_tcp_listening(80, SOON)?;
    for node in NODES {
        wait::until("the relay is reached", SOON, || {
            let status = tiers.fleet.tool_json(node, &["status"])?;
            let relays = status
                .first()
                .and_then(|it| it["packets"]["relays"].as_array());
            let up = relays.is_some_and(|all| all.iter().any(|it| it["state"] == "up"));
            ensure!(up, "{node}: {relays:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A client on the first node and a server on the second.
fn sla(folder: &str) -> Value {
    let service = |name: &str, node: &str, cmd: Value, environment: Value| {
        json!({
            "microserviceID": "", "microservice_name": name, "microservice_namespace": "lab",
            "virtualization": "process", "code": cmd[0], "cmd": cmd, "environment": environment,
            "memory": 16, "vcpus": 0, "storage": 0,
            "constraints": [{ "type": "direct", "cluster": CLUSTER, "node": node }],
        })
    };
    let config = format!("CONFIG={}", NGINX.replace("FOLDER", folder));
    let web = json!(["/bin/sh", "-c", START_NGINX]);
    let client = json!(["/bin/sleep", "infinity"]);
    json!({
        "sla_version": "v2.0", "customerID": "Admin",
        "applications": [{
            "applicationID": "", "application_name": "matrix", "application_namespace": "lab",
            "application_desc": "One server and one client",
            "microservices": [
                service("web", NODES[1], web, json!([config])),
                service("client", NODES[0], client, json!([])),
            ],
        }],
    })
}

fn measure(lab: &Lab, tiers: &Tiers<'_>, case: Case, outcome: &mut Outcome) -> Result<()> {
    let judge = Judge::new(
        [HUB, CONTROL]
            .iter()
            .flat_map(|name| lab.node(name).addresses())
            .collect(),
    );
    // Packets of the first site pass here on every way, translated already.
    let segment = match case.pair {
        Pair::Apart(..) => "isp-a",
        Pair::Same(_) => "site-a",
    };
    let capture = lab.segment(segment).capture(BRIDGE)?;
    let (began, since) = (SystemTime::now(), Instant::now());
    outcome.first_byte = Some(first_byte(tiers, since)?);
    // Something has to be sent for a path to be wanted.
    let echos = ["ping", "-n", "-q", "-i", "0.05", "web.lab.rr.local"];
    let echos = tiers.fleet.spawn_in(NODES[0], CLIENT, &echos)?;
    let patience = case.expected().patience();
    // Late is told from never below, by what the fetch that proves the path has shown.
    let waited = judge.wait_direct(&capture, patience.saturating_sub(since.elapsed()));
    if waited.is_ok() {
        // For a moment packets go over the new path and the former one.
        let _ = wait::until("packets go over one path", SOON, || leaves_the_relay(tiers));
    }
    drop(echos);
    outcome.path = prove_path(tiers, &judge, &capture)?;
    if outcome.path == Way::Direct {
        let at = capture.look(|captured| judge.direct_since(captured));
        outcome.direct = at.and_then(|at| at.duration_since(began).ok());
    }
    capture.stop()?.ensure_complete()?;
    outcome.rate_bits_per_sec = Some(8.0 * fetch(tiers, RATE_BYTES)?);
    Ok(())
}

/// Sends some echoes; an error if the relay has had them.
fn leaves_the_relay(tiers: &Tiers<'_>) -> Result<()> {
    const COUNT: u64 = 3;
    const BYTES: u64 = 1000;
    let (count, bytes) = (COUNT.to_string(), BYTES.to_string());
    let before = tiers.fleet.relayed_bytes(HUB)?;
    let echoes = [
        "ping",
        "-n",
        "-q",
        "-c",
        &count,
        "-i",
        "0.05",
        "-s",
        &bytes,
        "web.lab.rr.local",
    ];
    tiers.fleet.run_in(NODES[0], CLIENT, &echoes, FETCH_TIME)?;
    let relayed = tiers.fleet.relayed_bytes(HUB)?.saturating_sub(before);
    ensure!(
        relayed < COUNT * BYTES,
        "{relayed} bytes of {COUNT} echoes were relayed"
    );
    Ok(())
}

/// Fetches the page until it comes, and says when the first byte of it came.
fn first_byte(tiers: &Tiers<'_>, since: Instant) -> Result<Duration> {
    let format = "%{time_starttransfer} %{time_total}";
    let curl = [
        "curl",
        "-sS",
        "-m",
        "5",
        "-o",
        "/dev/null",
        "-w",
        format,
        PAGE,
    ];
    let times = wait::until("the page comes", FIRST_PAGE_TIME, || {
        tiers.fleet.run_in(NODES[0], CLIENT, &curl, FETCH_TIME)
    })?;
    let whole = since.elapsed();
    let (first, total) = times.trim().split_once(' ').context("no times")?;
    let rest = total.parse::<f64>()? - first.parse::<f64>()?;
    Ok(whole.saturating_sub(Duration::try_from_secs_f64(rest).unwrap_or_default()))
}

/// Fetches a megabyte and sees where it went.
fn prove_path(tiers: &Tiers<'_>, judge: &Judge, capture: &Capture) -> Result<Way> {
    let (from, before) = (SystemTime::now(), tiers.fleet.relayed_bytes(HUB)?);
    fetch(tiers, PROOF_BYTES)?;
    let relayed = tiers.fleet.relayed_bytes(HUB)?.saturating_sub(before);
    let direct = capture.look(|captured| judge.direct_bytes(captured, from));
    Ok(if direct >= PROOF_BYTES && relayed < PROOF_BYTES / 10 {
        Way::Direct
    } else if relayed >= PROOF_BYTES && direct < PROOF_BYTES / 10 {
        Way::Relay
    } else {
        Way::Mixed
    })
}

/// Fetches so many bytes, all of which must come, and returns how many came per second.
fn fetch(tiers: &Tiers<'_>, bytes: u64) -> Result<f64> {
    let (range, url) = (format!("0-{}", bytes - 1), format!("{PAGE}files/blob"));
    let curl = [
        "curl",
        "-sS",
        "-m",
        "20",
        "-o",
        "/dev/null",
        "-r",
        &range,
        "-w",
        "%{size_download} %{speed_download}",
        &url,
    ];
    let said = tiers.fleet.run_in(NODES[0], CLIENT, &curl, FETCH_TIME)?;
    let (size, number) = said.trim().split_once(' ').context("no numbers")?;
    ensure!(size == bytes.to_string(), "{size} bytes of {bytes} came");
    Ok(number.parse()?)
}
