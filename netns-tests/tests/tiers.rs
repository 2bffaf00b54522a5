//! Root, two clusters behind NATs and their workers, all of them real: they join, one SLA runs on
//! both sites, and its instances reach one another by name.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::fleet::elements;
use netns_tests::tiers::Role;
use netns_tests::{Lab, Tiers, require, two_sites, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const SHOP: &str = include_str!("../../examples/shop.json");
const CLIENT: &str = "shop.prod.client.prod.0";
const WEB_NAME: &str = "shop.prod.web.prod.any.rr.local";
const WEB_URL: &str = "http://web.prod.rr.local/";
const NODES: &str = "/api/v1/nodes";
const INSTANCES: &str = "/api/v1/instances";
const CLUSTERS: &str = "/api/v1/clusters";
/// How soon a node whose worker died must be shown so, and be out of every table.
const DEAD_TIME: Duration = Duration::from_secs(5);
const GONE_TIME: Duration = Duration::from_secs(6);
/// How soon a revoked node must be cut.
const CUT_TIME: Duration = Duration::from_secs(5);

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

/// What the SLA says of lanes is what flows between the sites have.
fn takes_the_lane_of_the_sla(tiers: &Tiers<'_>, client: &str) -> Result<()> {
    wait::until("a flow has the lane of the SLA", SOON, || {
        fetch(tiers, client)?;
        let flows = tiers.fleet.tool_json(client, &["flows"])?;
        let mut flows = flows.iter().flat_map(elements);
        let found = flows.any(|flow| {
            flow["lane"] == "l4"
                && flow["lane_reason"] == "policy of the service"
                && flow["accept"] == "early"
        });
        ensure!(found, "{:?}", tiers.fleet.tool_json(client, &["flows"])?);
        Ok(())
    })
}

/// Root on the machine of the relay, and two clusters with a node each, all of them alive.
fn start(lab: &Lab) -> Result<Tiers<'_>> {
    start_with(lab, ("a1", "munich/r1"))
}

/// The relay is of the cluster on that machine.
fn start_with<'lab>(lab: &'lab Lab, (of, relay): (&str, &str)) -> Result<Tiers<'lab>> {
    let mut tiers = Tiers::new(lab, "relay")?;
    tiers.add_cluster("a1", "munich")?;
    tiers.add_cluster("b1", "paris")?;
    tiers.add_relay(of, relay)?;
    tiers.add_node("a1", "a2")?;
    tiers.add_node("b1", "b2")?;
    tiers.login("Admin", "Admin")?;
    tiers.wait_api("two nodes are alive", NODES, both_alive)?;
    Ok(tiers)
}

fn both_alive(nodes: &Value) -> bool {
    let nodes = nodes.as_array();
    nodes.is_some_and(|all| all.len() == 2 && all.iter().all(|it| it["standing"] == "alive"))
}

/// The shop with three servers, on both sites: what runs where, and what was applied.
fn deploy(tiers: &Tiers<'_>) -> Result<(Value, Value)> {
    let mut sla: Value = serde_json::from_str(SHOP)?;
    let web = &mut sla["applications"][0]["microservices"][0];
    ensure!(web["microservice_name"] == "web", "{web}");
    (web["lane"], web["accept"]) = (json!("l4"), json!("early"));
    let applied = tiers.api("POST", "/api/v1/apply?deploy=1", Some(&sla))?;
    scale_web(tiers, &applied, 3)?;
    let known = tiers.wait_api("four instances run", INSTANCES, |it| all_run(it, 4))?;
    let sites: BTreeSet<_> = (0..3)
        .map(|at| machine_of(&known, &format!("shop.prod.web.prod.{at}")))
        .collect::<Result<_>>()?;
    ensure!(sites.len() == 2, "all of it is on one site: {sites:?}");
    Ok((known, applied))
}

fn scale_web(tiers: &Tiers<'_>, applied: &Value, to: u32) -> Result<()> {
    let web = applied["services"][0].as_str().context("no service")?;
    let scale = format!("/api/v1/services/{web}/scale");
    let wanted = json!({ "instances": to });
    tiers.api("POST", &scale, Some(&wanted)).map(drop)
}

/// The node that the client is not on: its machine, and its id.
fn other_node(client: &str) -> (&'static str, &'static str) {
    if client == "a2" {
        ("b2", "paris/b2")
    } else {
        ("a2", "munich/a2")
    }
}

/// The nodes of the servers that a node's table has, as their names resolve there.
fn nodes_in_table(tiers: &Tiers<'_>, machine: &str) -> Result<BTreeSet<String>> {
    let dug = tiers.fleet.tool_json(machine, &["dig", WEB_NAME])?;
    let policies = dug.iter().flat_map(|it| it["policies"].as_array());
    let candidates = policies
        .flatten()
        .filter_map(|it| it["candidates"].as_array());
    let nodes = candidates.flatten().filter_map(|it| it["node"].as_str());
    Ok(nodes.map(str::to_owned).collect())
}

/// The relay has ended the session of a node that was revoked at `since`, goes on with the other one,
/// and refuses the node when it dials again.
fn is_cut_by_the_relay(
    tiers: &mut Tiers<'_>,
    id: &str,
    since: Instant,
    (cut_for, refused_for): (&str, &str),
) -> Result<()> {
    let report = wait::until("the relay has cut it", SOON, || {
        let report = tiers.fleet.relay_report("relay")?;
        ensure!(report["revocations"]["sessions_cut"] == 1, "{report}");
        Ok(report)
    })?;
    let cut = since.elapsed();
    println!("cut by the relay after {cut:.2?}");
    ensure!(cut <= CUT_TIME, "cut by the relay after {cut:?}");
    ensure!(report["registrations"] == 1, "{report}");
    ensure!(report["revocations"]["epoch"] == 1, "{report}");
    let relay = tiers.fleet.relay("relay");
    relay.wait_for_line(&format!("node {id} is cut: {cut_for}"), SOON)?;
    wait::until("the relay refuses it when it dials again", SOON, || {
        let report = tiers.fleet.relay_report("relay")?;
        let refused = report["last_certificate_refused"].as_str();
        let text = format!("certificate of {refused_for}");
        ensure!(refused.is_some_and(|it| it.contains(&text)), "{report}");
        ensure!(report["registrations"] == 1, "{report}");
        Ok(())
    })
}

#[test]
fn one_sla_runs_on_two_sites() -> Result<()> {
    require::programs(&["curl", "nginx"])?;
    let lab = Lab::new(&two_sites::description())?;
    let mut tiers = start(&lab)?;
    let (known, applied) = deploy(&tiers)?;
    let client = machine_of(&known, CLIENT)?;

    wait::until("the page comes by name", SOON, || fetch(&tiers, &client))?;
    takes_the_lane_of_the_sla(&tiers, &client)?;
    wait::until("all three servers take turns", SOON, || {
        let answers = (0..6).map(|_| fetch(&tiers, &client));
        let answers: Vec<String> = answers.collect::<Result<_>>()?;
        let servers = answers.iter().filter_map(|it| it.split(' ').next());
        let servers: BTreeSet<_> = servers.collect();
        ensure!(servers.len() == 3, "round robin over {servers:?}");
        Ok(())
    })?;

    // The control plane dies; what runs goes on, and everything converges when it is back.
    let before = tiers.lives()?;
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
    tiers.wait_api("two nodes are alive again", NODES, both_alive)?;
    tiers.wait_api("all run as before", INSTANCES, |it| all_run(it, 4))?;
    let after = tiers.lives()?;
    ensure!(before == after, "{before:?} became {after:?}");
    fetch(&tiers, &client)?;

    scale_web(&tiers, &applied, 0)?;
    tiers.wait_api("the servers are gone", INSTANCES, |it| all_run(it, 1))?;
    let application = applied["applications"][0].as_str().context("no id")?;
    tiers.api("DELETE", &format!("/api/application/{application}"), None)?;
    tiers.wait_api("all of it is gone", INSTANCES, |it| all_run(it, 0))?;
    Ok(())
}

#[test]
fn a_worker_that_dies_is_shown_dead_and_leaves_the_tables_in_time() -> Result<()> {
    require::programs(&["curl", "nginx"])?;
    let lab = Lab::new(&two_sites::description())?;
    let mut tiers = start(&lab)?;
    let (known, _) = deploy(&tiers)?;
    let client = machine_of(&known, CLIENT)?;
    let (victim, id) = other_node(&client);
    wait::until("the client's node knows both", SOON, || {
        fetch(&tiers, &client)?;
        let nodes = nodes_in_table(&tiers, &client)?;
        ensure!(nodes.len() == 2 && nodes.contains(id), "{nodes:?}");
        Ok(())
    })?;
    tiers.crash(victim, Role::Worker)?;
    let since = Instant::now();
    wait::until("it is shown dead", SOON, || {
        let standing = tiers.standing_of(id)?;
        ensure!(["dead", "gone"].contains(&standing.as_str()), "{standing}");
        Ok(())
    })?;
    let dead = since.elapsed();
    wait::until(
        "its instances are out of another node's table",
        SOON,
        || {
            let nodes = nodes_in_table(&tiers, &client)?;
            ensure!(!nodes.contains(id), "{nodes:?}");
            Ok(())
        },
    )?;
    let gone = since.elapsed();
    println!("shown dead after {dead:.2?}, out of {client}'s table after {gone:.2?}");
    ensure!(dead <= DEAD_TIME, "shown dead after {dead:?}");
    ensure!(gone <= GONE_TIME, "out of the table after {gone:?}");
    // It was not dead at once: a worker that restarts has the time to come back.
    ensure!(dead >= DEAD_TIME / 2, "shown dead after {dead:?} already");
    tiers.start(victim, Role::Worker)?;
    tiers.wait_api("both nodes are alive again", NODES, both_alive)?;
    wait::until("it is back in the table", SOON, || {
        let nodes = nodes_in_table(&tiers, &client)?;
        ensure!(nodes.contains(id), "{nodes:?}");
        Ok(())
    })
}

/// Where a server that runs on that machine is fetched from.
fn url_on(known: &Value, machine: &str) -> Result<String> {
    let numbers = (0..3).map(|at| format!("shop.prod.web.prod.{at}"));
    let mut there = numbers.filter(|it| machine_of(known, it).is_ok_and(|on| on == machine));
    let instance = there.next().context("no server there")?;
    Ok(format!("http://{instance}.instance.local/"))
}

fn ask(tiers: &Tiers<'_>, client: &str, url: &str, patience: &str) -> Result<String> {
    let curl = ["curl", "-sS", "-m", patience, url];
    tiers.fleet.run_in(client, CLIENT, &curl, SOON)
}

fn both_are_registered(tiers: &Tiers<'_>) -> Result<()> {
    wait::until("both nodes are registered at the relay", SOON, || {
        let report = tiers.fleet.relay_report("relay")?;
        ensure!(report["registrations"] == 2, "{report}");
        Ok(())
    })
}

/// The client's node has no session any more with a node that was revoked at `since`.
fn is_cut_by_its_peer(tiers: &Tiers<'_>, client: &str, id: &str, since: Instant) -> Result<()> {
    wait::until("the other node has cut it", SOON, || {
        if let Ok(peer) = tiers.fleet.peer(client, id) {
            ensure!(peer["state"] != "up", "{peer}");
        }
        Ok(())
    })?;
    let cut = since.elapsed();
    println!("cut after {cut:.2?}");
    ensure!(cut <= CUT_TIME, "cut after {cut:?}");
    Ok(())
}

#[test]
fn a_revoked_node_is_cut_by_everybody() -> Result<()> {
    require::programs(&["curl", "nginx"])?;
    let lab = Lab::new(&two_sites::description())?;
    let mut tiers = start(&lab)?;
    let (known, _) = deploy(&tiers)?;
    let client = machine_of(&known, CLIENT)?;
    let (victim, id) = other_node(&client);
    let url = url_on(&known, victim)?;
    let ask = |tiers: &Tiers<'_>, patience: &str| ask(tiers, &client, &url, patience);
    wait::until("the page comes from there", SOON, || ask(&tiers, "5"))?;
    ensure!(tiers.fleet.peer(&client, id)?["state"] == "up");
    both_are_registered(&tiers)?;

    let list = tiers.weald_json(&["revoke", "node", id])?;
    let since = Instant::now();
    ensure!(
        list["keys"].as_array().is_some_and(|all| all.len() == 1),
        "{list}"
    );
    is_cut_by_its_peer(&tiers, &client, id, since)?;
    let refused = format!("node {id}: it is revoked");
    is_cut_by_the_relay(&mut tiers, id, since, ("its key is revoked", &refused))?;
    ensure!(ask(&tiers, "1").is_err(), "the page comes still");
    // Its cluster has no worker there any more, whatever that one tries.
    wait::until("it is shown dead", SOON, || {
        let standing = tiers.standing_of(id)?;
        ensure!(["dead", "gone"].contains(&standing.as_str()), "{standing}");
        Ok(())
    })?;
    let worker = tiers.process(victim, Role::Worker)?;
    worker.wait_for_line("revoked", SOON)?;
    wait::until("its instances are out of the table", SOON, || {
        let nodes = nodes_in_table(&tiers, &client)?;
        ensure!(!nodes.contains(id), "{nodes:?}");
        Ok(())
    })?;
    ensure!(ask(&tiers, "1").is_err(), "the page comes again");
    // The others go on.
    let own = format!(
        "{}/{client}",
        if client == "a2" { "munich" } else { "paris" }
    );
    ensure!(tiers.standing_of(&own)? == "alive");
    Ok(())
}

#[test]
fn a_revoked_cluster_is_cut_with_its_nodes() -> Result<()> {
    require::programs(&["curl", "nginx"])?;
    let lab = Lab::new(&two_sites::description())?;
    let mut tiers = start_with(&lab, ("b1", "paris/r1"))?;
    let (known, _) = deploy(&tiers)?;
    let client = machine_of(&known, CLIENT)?;
    let (victim, id) = other_node(&client);
    let (cluster, machine) = match id.split_once('/') {
        Some(("munich", _)) => ("munich", "a1"),
        _ => ("paris", "b1"),
    };
    let url = url_on(&known, victim)?;
    wait::until("the page comes from there", SOON, || {
        ask(&tiers, &client, &url, "5")
    })?;
    ensure!(tiers.fleet.peer(&client, id)?["state"] == "up");
    both_are_registered(&tiers)?;

    tiers.weald_json(&["revoke", "cluster", cluster])?;
    let since = Instant::now();
    is_cut_by_its_peer(&tiers, &client, id, since)?;
    ensure!(
        ask(&tiers, &client, &url, "1").is_err(),
        "the page comes still"
    );
    // Whatever it tries, root lets it in no more, and the other one's node has none of its rows.
    let orchestrator = tiers.process(machine, Role::Cluster)?;
    orchestrator.wait_for_line("revoked", SOON)?;
    let left = if cluster == "munich" {
        "paris"
    } else {
        "munich"
    };
    tiers.wait_api("root has lost it, and it alone", CLUSTERS, |all| {
        let mut all = all.as_array().into_iter().flatten();
        all.all(|it| (it["standing"] == "alive") == (it["name"] == left))
    })?;
    wait::until("its instances are out of the table", SOON, || {
        let nodes = nodes_in_table(&tiers, &client)?;
        ensure!(!nodes.contains(id), "{nodes:?}");
        Ok(())
    })?;
    // The relay is paris's: with its cluster it is cut itself.
    if cluster == "munich" {
        let refused = format!("node {id}: its issuer's certificate is revoked");
        let words = ("the key of its cluster is revoked", refused.as_str());
        is_cut_by_the_relay(&mut tiers, id, since, words)?;
    }
    ensure!(
        ask(&tiers, &client, &url, "1").is_err(),
        "the page comes again"
    );
    // The others go on.
    wait::until("the service is there by name", SOON, || {
        fetch(&tiers, &client)
    })?;
    Ok(())
}
