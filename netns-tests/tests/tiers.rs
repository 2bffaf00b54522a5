//! Root, two clusters behind NATs and their workers, all of them real: they join, one SLA runs on
//! both sites, and its instances reach one another by name.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::tiers::Role;
use netns_tests::{Lab, Tiers, require, two_sites, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const SHOP: &str = include_str!("../../examples/shop.json");
const CLIENT: &str = "shop.prod.client.prod.0";
const WEB_URL: &str = "http://web.prod.rr.local/";

/// Where an instance is: the machine that has the name of its node.
fn machine_of(instances: &Value, name: &str) -> Result<String> {
    let all = instances.as_array().context("no list")?;
    let found = all.iter().find(|it| it["name"] == name);
    let node = found
        .and_then(|it| it["node"].as_str())
        .context("no node")?;
    Ok(node.rsplit('/').next().unwrap_or(node).to_owned())
}

fn all_run(instances: &Value, count: usize) -> bool {
    let all = instances.as_array();
    all.is_some_and(|all| all.len() == count && all.iter().all(|it| it["status"] == "RUNNING"))
}

fn fetch(tiers: &Tiers<'_>, machine: &str) -> Result<String> {
    let curl = ["curl", "-sS", "-m", "5", WEB_URL];
    tiers.fleet.run_in(machine, CLIENT, &curl, SOON)
}

#[test]
fn one_sla_runs_on_two_sites() -> Result<()> {
    require::programs(&["curl", "nginx"])?;
    let lab = Lab::new(&two_sites::description())?;
    let mut tiers = Tiers::new(&lab, "relay")?;
    tiers.add_cluster("a1", "munich")?;
    tiers.add_cluster("b1", "paris")?;
    tiers.add_relay("a1", "munich/r1")?;
    tiers.add_node("a1", "a2")?;
    tiers.add_node("b1", "b2")?;
    tiers.login("Admin", "Admin")?;
    let alive = |nodes: &Value| {
        let nodes = nodes.as_array();
        nodes.is_some_and(|all| all.len() == 2 && all.iter().all(|it| it["standing"] == "alive"))
    };
    tiers.wait_api("two nodes are alive", "/api/v1/nodes", alive)?;

    let sla: Value = serde_json::from_str(SHOP)?;
    let applied = tiers.api("POST", "/api/v1/apply?deploy=1", Some(&sla))?;
    let web = applied["services"][0]
        .as_str()
        .context("no service")?
        .to_owned();
    let scale = format!("/api/v1/services/{web}/scale");
    tiers.api("POST", &scale, Some(&json!({ "instances": 3 })))?;
    let instances = "/api/v1/instances";
    let known = tiers.wait_api("four instances run", instances, |it| all_run(it, 4))?;
    let client = machine_of(&known, CLIENT)?;
    let sites: BTreeSet<_> = (0..3)
        .map(|at| machine_of(&known, &format!("shop.prod.web.prod.{at}")))
        .collect::<Result<_>>()?;
    ensure!(sites.len() == 2, "all of it is on one site: {sites:?}");

    wait::until("the page comes by name", SOON, || fetch(&tiers, &client))?;
    wait::until("all three servers take turns", SOON, || {
        let answers = (0..6).map(|_| fetch(&tiers, &client));
        let answers: Vec<String> = answers.collect::<Result<_>>()?;
        let servers = answers.iter().filter_map(|it| it.split(' ').next());
        let servers: BTreeSet<_> = servers.collect();
        ensure!(servers.len() == 3, "round robin over {servers:?}");
        Ok(())
    })?;

    // The control plane dies; what runs goes on, and everything converges when it is back.
    let before = tiers.api("GET", instances, None)?;
    tiers.crash("relay", Role::Root)?;
    tiers.crash("a1", Role::Cluster)?;
    tiers.crash("b1", Role::Cluster)?;
    for _ in 0..3 {
        fetch(&tiers, &client)?;
    }
    tiers.fleet.crash(&client)?;
    tiers.fleet.start(&client)?;
    wait::until("a restarted node serves from disk", SOON, || {
        fetch(&tiers, &client)
    })?;
    tiers.start("relay", Role::Root)?;
    tiers.start("a1", Role::Cluster)?;
    tiers.start("b1", Role::Cluster)?;
    tiers.login("Admin", "Admin")?;
    tiers.wait_api("two nodes are alive again", "/api/v1/nodes", alive)?;
    let after = tiers.wait_api("all run as before", instances, |it| all_run(it, 4))?;
    let lives = |all: &Value| {
        let all = all.as_array().cloned().unwrap_or_default();
        let life = |it: &Value| (it["name"].to_string(), it["generation"].to_string());
        all.iter().map(life).collect::<BTreeSet<_>>()
    };
    ensure!(lives(&before) == lives(&after), "{before} {after}");
    fetch(&tiers, &client)?;

    tiers.api("POST", &scale, Some(&json!({ "instances": 0 })))?;
    tiers.wait_api("the servers are gone", instances, |it| all_run(it, 1))?;
    let application = applied["applications"][0].as_str().context("no id")?;
    tiers.api("DELETE", &format!("/api/application/{application}"), None)?;
    tiers.wait_api("all of it is gone", instances, |it| all_run(it, 0))?;
    Ok(())
}
