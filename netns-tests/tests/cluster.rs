//! Netmanagers that have their rows from a cluster: they arrive, names resolve, packets flow, and
//! all of it goes on when the cluster dies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Fleet, Lab, pair, require, wait};
use weald_proto::id::Identity;
use weald_proto::session::{ClusterToNet, NetToCluster};
use weald_trust::pki::folder::key_in;
use weald_trust::pki::{key_hash, request};
use weald_trust::tls::{CHAIN_FILE, Credentials, KEY_FILE};

use fake::{Book, FakeCluster};
use words::{Authorities, CLIENT, TELLER, WEB, app, dual, node};

#[path = "cluster/fake.rs"]
mod fake;
#[path = "cluster/words.rs"]
mod words;

const SOON: Duration = Duration::from_secs(15);
/// How soon a revoked node must be cut.
const CUT_TIME: Duration = Duration::from_secs(5);
/// Where the cluster is, in the "internet".
const CLUSTER: &str = "203.0.113.10:10300";
const WEB_URL: &str = "http://web.lab.rr.local/";

fn start_cluster(lab: &Lab, authorities: &Authorities, book: Book) -> Result<FakeCluster> {
    let socket = lab.node("relay").udp_bind(CLUSTER.parse()?)?;
    FakeCluster::start(socket, &authorities.control()?, book)
}

/// Gives both nodes their certificates, and then takes up the authorities, which only one process
/// at a time may.
fn add_nodes(fleet: &mut Fleet<'_>) -> Result<Authorities> {
    for (machine, id) in pair::NODES {
        fleet.add_node_of_cluster(machine, id, "acme", CLUSTER)?;
    }
    Authorities::open(&fleet.authority())
}

fn start_nodes(fleet: &mut Fleet<'_>) -> Result<()> {
    let mut machines = pair::NODES.iter();
    machines.try_for_each(|(machine, _)| fleet.start(machine))
}

fn attach(fleet: &Fleet<'_>, machine: &str, instance: &str, number: u8) -> Result<()> {
    let ip = dual(1, number)?;
    let (v4, v6) = (ip.v4.context("v4")?, ip.v6.context("v6")?);
    let (v4, v6) = (v4.to_string(), v6.to_string());
    let arguments = ["attach", instance, "--ipv4", &v4, "--ipv6", &v6];
    fleet.tool(machine, &arguments).map(drop)
}

fn fetch(fleet: &Fleet<'_>, machine: &str, from: &str, url: &str) -> Result<String> {
    fleet.run_in(machine, from, &["curl", "-s", "-m", "3", url], SOON)
}

/// What the resolver of an instance says of a name: `NOERROR`, `NXDOMAIN`, `SERVFAIL`.
fn status_of(fleet: &Fleet<'_>, machine: &str, from: &str, name: &str) -> Result<String> {
    let dig = ["dig", "+tries=1", "+time=5", name, "A"];
    let said = fleet.run_in(machine, from, &dig, SOON)?;
    let status = said
        .split("status: ")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    Ok(status.context("no status")?.to_owned())
}

#[test]
fn rows_come_from_the_cluster_and_outlive_it() -> Result<()> {
    require::programs(&["curl", "python3", "dig"])?;
    let lab = pair::lab()?;
    let mut fleet = Fleet::new(&lab)?;
    let authorities = add_nodes(&mut fleet)?;
    let cluster = start_cluster(&lab, &authorities, authorities.book(None)?)?;
    start_nodes(&mut fleet)?;
    attach(&fleet, "alpha", CLIENT, 1)?;
    attach(&fleet, "beta", WEB, 2)?;
    let _page = fleet.serve_page("beta", WEB)?;
    wait::until("the page comes by name", SOON, || {
        ensure!(fetch(&fleet, "alpha", CLIENT, WEB_URL)? == "from beta");
        Ok(())
    })?;
    follow_changes(&fleet, &cluster, &authorities.book(None)?)?;
    // Applications that nobody here belongs to are asked for when their names are.
    let shown = |name: &str| status_of(&fleet, "alpha", CLIENT, name);
    ensure!(shown("bank.lab.teller.lab.rr.local")? == "NOERROR");
    ensure!(shown("none.lab.web.lab.rr.local")? == "NXDOMAIN");
    ensure!(shown("nope.lab.rr.local")? == "NXDOMAIN");
    {
        let said = cluster
            .said
            .lock()
            .map_err(|_| anyhow::anyhow!("poisoned"))?;
        let asked = said
            .interests
            .get(&node("alpha")?)
            .context("no interests")?;
        let wanted = ["bank.lab", "none.lab", "shop.lab"];
        ensure!(
            asked.iter().map(ToString::to_string).eq(wanted),
            "{asked:?}"
        );
        let hello = said
            .hellos
            .iter()
            .find(|(who, _)| who.name.as_str() == "alpha");
        let (_, hello) = hello.context("no hello")?;
        let NetToCluster::Hello { addresses, .. } = hello else {
            anyhow::bail!("{hello:?}");
        };
        let own = ["192.168.7.1:10260", "203.0.113.1:10260"];
        ensure!(
            addresses.iter().map(ToString::to_string).eq(own),
            "{addresses:?}"
        );
    }

    cluster.die()?;
    ensure!(fetch(&fleet, "alpha", CLIENT, WEB_URL)? == "from beta");
    fleet.crash("alpha")?;
    fleet.start("alpha")?;
    wait::until("a restarted daemon serves from disk", SOON, || {
        ensure!(fetch(&fleet, "alpha", CLIENT, WEB_URL)? == "from beta");
        Ok(())
    })?;
    let shown = |name: &str| status_of(&fleet, "alpha", CLIENT, name);
    ensure!(shown("bank.lab.teller.lab.rr.local")? == "NOERROR");
    ensure!(shown("none.lab.web.lab.rr.local")? == "NXDOMAIN");
    ensure!(shown("new.lab.web.lab.rr.local")? == "SERVFAIL");

    let cluster = start_cluster(&lab, &authorities, authorities.book(None)?)?;
    wait::until("the new cluster is asked", SOON, || {
        ensure!(shown("new.lab.web.lab.rr.local")? == "NXDOMAIN");
        Ok(())
    })?;
    ensure!(fetch(&fleet, "alpha", CLIENT, WEB_URL)? == "from beta");
    cluster.die()
}

/// The cluster's lists are complete: an instance that is not in one is gone, and comes back.
fn follow_changes(fleet: &Fleet<'_>, cluster: &FakeCluster, book: &Book) -> Result<()> {
    let (alpha, shop) = (node("alpha")?, app("shop.lab")?);
    let all = book.applications.get(&shop).context("no rows")?.clone();
    let mut rows = all.clone();
    let web = rows.remove(3);
    cluster.say(
        &alpha,
        ClusterToNet::Rows {
            complete: vec![shop],
            rows,
            more: false,
        },
    );
    wait::until("the instance is gone", SOON, || {
        ensure!(fetch(fleet, "alpha", CLIENT, WEB_URL).is_err());
        Ok(())
    })?;
    cluster.say(
        &alpha,
        ClusterToNet::Rows {
            complete: Vec::new(),
            rows: vec![web],
            more: false,
        },
    );
    wait::until("the instance is back", SOON, || {
        ensure!(fetch(fleet, "alpha", CLIENT, WEB_URL)? == "from beta");
        Ok(())
    })
}

#[test]
fn a_node_sends_only_from_what_its_lease_says() -> Result<()> {
    require::programs(&["curl", "python3"])?;
    let outside = weald_proto::addr::Dual {
        v4: Some("10.30.77.3".parse()?),
        v6: None,
    };
    for (lie, address) in [(None, dual(1, 3)?), (Some(outside), outside)] {
        let lab = pair::lab()?;
        let mut fleet = Fleet::new(&lab)?;
        let authorities = add_nodes(&mut fleet)?;
        let cluster = start_cluster(&lab, &authorities, authorities.book(lie)?)?;
        start_nodes(&mut fleet)?;
        // Alpha has no rows of the bank, so that the lease alone speaks for its teller.
        attach(&fleet, "alpha", CLIENT, 1)?;
        let _page = fleet.serve_page("alpha", CLIENT)?;
        let v4 = address.v4.context("v4")?.to_string();
        fleet.tool("beta", &["attach", TELLER, "--ipv4", &v4])?;
        let url = "http://shop.lab.client.lab.rr.local/";
        if lie.is_none() {
            wait::until("the page comes", SOON, || {
                ensure!(fetch(&fleet, "beta", TELLER, url)? == "from alpha");
                Ok(())
            })?;
            ensure!(fleet.drops("alpha", "source_not_leased")? == 0);
        } else {
            wait::until("its packets are refused", SOON, || {
                ensure!(fetch(&fleet, "beta", TELLER, url).is_err());
                ensure!(fleet.drops("alpha", "source_not_leased")? > 0);
                Ok(())
            })?;
        }
        cluster.die()?;
    }
    Ok(())
}

/// Its row has what a node says of itself: addresses of this host, of the overlay, of everybody, of
/// other sites, of a family that is not here; and those of a third party, which gets few packets.
#[test]
fn addresses_that_a_node_lies_about_are_not_sent_to() -> Result<()> {
    require::programs(&["curl", "python3"])?;
    let never: Vec<SocketAddr> = pair::NEVER_SENT_TO
        .iter()
        .map(|at| at.parse())
        .collect::<Result<_, _>>()?;
    let third = |port| SocketAddr::from(([203, 0, 113, 10], port));
    let named: Vec<SocketAddr> = (never.iter().copied())
        .chain(["192.168.7.2:10260".parse()?])
        .chain((1..=4).map(third))
        .collect();
    let lab = pair::lab()?;
    let mut fleet = Fleet::new(&lab)?;
    let authorities = add_nodes(&mut fleet)?;
    let mut book = authorities.book(None)?;
    let row = authorities.node_at(&node("beta")?, dual(0, 2)?, named)?;
    for rows in book.applications.values_mut() {
        *rows.last_mut().context("no rows")? = row.clone();
    }
    let captures = ["eth0", "eth1", "lo"].map(|link| lab.node("alpha").capture(link));
    let cluster = start_cluster(&lab, &authorities, book)?;
    start_nodes(&mut fleet)?;
    attach(&fleet, "alpha", CLIENT, 1)?;
    attach(&fleet, "beta", WEB, 2)?;
    let _page = fleet.serve_page("beta", WEB)?;
    wait::until("the page comes by name", SOON, || {
        ensure!(fetch(&fleet, "alpha", CLIENT, WEB_URL)? == "from beta");
        Ok(())
    })?;
    let refused = fleet.drops("alpha", "candidate_refused")?;
    ensure!(refused == never.len() as u64, "{refused} refused");
    let mut to_third = 0;
    for capture in captures {
        let captured = capture?.stop()?;
        captured.ensure_complete()?;
        for one in captured.datagrams() {
            let (from, to) = (one.flow.source, one.flow.destination);
            let is_ours = from.port() == 10260 && from.ip() != to.ip();
            ensure!(!(is_ours && never.contains(&to)), "{from} to {to}");
            to_third += usize::from((1..=4).any(|port| to == third(port)));
        }
    }
    // A first flight of two datagrams to each, repeated after a second, and a probe or two.
    ensure!(
        (1..=40).contains(&to_third),
        "{to_third} to the third party"
    );
    cluster.die()
}

#[test]
fn a_node_is_ready_before_its_cluster_and_cut_when_revoked() -> Result<()> {
    require::programs(&["curl", "python3"])?;
    let lab = pair::lab()?;
    let mut fleet = Fleet::new(&lab)?;
    let authorities = add_nodes(&mut fleet)?;
    // A node that never had a cluster is ready without one, and takes what it says later.
    start_nodes(&mut fleet)?;
    let cluster = start_cluster(&lab, &authorities, authorities.book(None)?)?;
    attach(&fleet, "alpha", CLIENT, 1)?;
    attach(&fleet, "beta", WEB, 2)?;
    let _page = fleet.serve_page("beta", WEB)?;
    wait::until("the page comes by name", SOON, || {
        ensure!(fetch(&fleet, "alpha", CLIENT, WEB_URL)? == "from beta");
        Ok(())
    })?;
    let key = {
        let said = cluster
            .said
            .lock()
            .map_err(|_| anyhow::anyhow!("poisoned"))?;
        *said.keys.get(&node("beta")?).context("beta has not come")?
    };
    let revocation = authorities.revocation(key)?;
    cluster.say(&node("alpha")?, ClusterToNet::Revocations(revocation));
    wait::until("the session is cut", CUT_TIME, || {
        let beta = fleet.peer("alpha", "home/beta")?;
        ensure!(beta["state"] != "up", "{beta}");
        Ok(())
    })?;
    ensure!(fetch(&fleet, "alpha", CLIENT, WEB_URL).is_err());
    cluster.die()
}

/// It asks in time, shows the new certificate to whoever it meets then, and keeps its key.
#[test]
fn a_node_lives_on_beyond_its_first_certificate() -> Result<()> {
    let lab = pair::lab()?;
    let mut fleet = Fleet::new(&lab)?;
    let authorities = add_nodes(&mut fleet)?;
    let pki = lab.node("alpha").dir()?.join("pki");
    // One that is due, or will be in five seconds: after two thirds of its life and up to a twelfth.
    let (life, age) = (Duration::from_secs(60), Duration::from_secs(44));
    let key = key_in(&pki.join(KEY_FILE))?;
    let issuer = authorities.issuer(life)?;
    let begin = SystemTime::now() - age;
    let first = issuer.issue_for_csr(&Identity::Node(node("alpha")?), &request(&key)?, begin)?;
    std::fs::write(pki.join(CHAIN_FILE), first.pem())?;
    let first = Credentials::load(&pki)?.not_after()?;
    let mut book = authorities.book(None)?;
    book.issuer = Some(Arc::new(issuer));
    let cluster = start_cluster(&lab, &authorities, book.clone())?;
    fleet.start("alpha")?;
    let kept = wait::until("alpha has another certificate", SOON, || {
        let kept = Credentials::load(&pki)?;
        ensure!(kept.not_after()? > first, "it has the first");
        Ok(kept)
    })?;
    let shown = || -> Result<Option<[u8; 32]>> {
        let said = cluster
            .said
            .lock()
            .map_err(|_| anyhow::anyhow!("poisoned"))?;
        Ok(said.keys.get(&node("alpha")?).copied())
    };
    ensure!(shown()? == Some(key_hash(&request(&key)?)?.0));
    cluster.die()?;
    wait::until("the first certificate has ended", life, || {
        ensure!(kept.clock().now() > first);
        Ok(())
    })?;
    // The daemon that was started with it meets its cluster with the new one.
    let cluster = start_cluster(&lab, &authorities, book)?;
    wait::until("alpha is back", SOON + SOON, || {
        let said = cluster
            .said
            .lock()
            .map_err(|_| anyhow::anyhow!("poisoned"))?;
        ensure!(!said.hellos.is_empty(), "nobody has come");
        Ok(())
    })?;
    cluster.die()
}
