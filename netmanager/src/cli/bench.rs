//! `bench`: measures the way to a peer, and compares two such measurements.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use weald_measure::compare;
use weald_measure::results::{Record, Results, parse_list};

use super::failure::{Failure, Kind};
use super::show::unexpected;
use super::table::{print, print_json};
use super::{BenchArgs, BenchCommand, CompareArgs, Options, why};
use crate::api::client::Client;
use crate::api::hosting::BenchOffer;
use crate::api::inspect::FlowFilter;
use crate::api::message::{Answer, Request};
use crate::api::report::{Explanation, PathReport, PeerReport};
use crate::bench::MAX_SECONDS;
use crate::bench::far::Far;
use crate::bench::run::{self, BARE, OVERLAY, Order, PARTS, Road};
use crate::bench::wire::Token;

/// How much longer a part of a round may take than its time: searches try often, and everything
/// takes longer on a bad path.
const PATIENCE: f64 = 60.0;
/// The seed of comparisons, where no other is said.
pub(super) const SEED: u64 = 20;

pub(super) fn bench(options: &Options, args: &BenchArgs) -> Result<(), Failure> {
    match (&args.command, &args.target) {
        (Some(BenchCommand::Compare(args)), _) => compare(options, args),
        (None, Some(target)) => measure(options, args, target),
        (None, None) => Err(Failure::new(Kind::Usage, "name a peer, or a service")),
    }
}

fn measure(options: &Options, args: &BenchArgs, target: &str) -> Result<(), Failure> {
    if let Some(unknown) = args
        .only
        .iter()
        .find(|name| !PARTS.contains(&name.as_str()))
    {
        let parts = PARTS.join(", ");
        let message = format!("nothing is called {unknown:?}; there are {parts}");
        return Err(Failure::new(Kind::Usage, message));
    }
    let mut client = options.client()?;
    let Answer::Status(status) = client.ask(&Request::Status {})? else {
        return Err(unexpected());
    };
    let peer = find(&mut client, target, &status.node)?;
    let time = Duration::from_secs_f64(args.time);
    let Answer::Bench(offer) = client.ask(&Request::Bench {
        peer: peer.clone(),
        seconds: granted(args.rounds, time),
    })?
    else {
        return Err(unexpected());
    };
    let measured = format!("netmanager {}", status.version);
    let mut results = Results::of(&measured, &command(target, args));
    results.add_note("peer", &offer.peer);
    let mut roads = roads(&mut client, &offer, args.no_bare, &mut results)?;
    note_path(&mut client, &offer, &mut results)?;
    let order = Order {
        rounds: args.rounds,
        time,
        only: args.only.clone(),
        daemon: status.pid,
    };
    run::run(&order, &mut roads, &mut results, &mut io::stderr())?;
    drop(roads);
    if let Some(page) = &args.html {
        write(page, &run::html(&results))?;
    }
    if options.json {
        return Ok(print_json(&results.value_of_all())?);
    }
    Ok(print(&run::table(&results))?)
}

/// The peer of this name, or the node of the instance that a service's name leads to now.
fn find(client: &mut Client, target: &str, own: &str) -> Result<String, Failure> {
    let Answer::Peers(peers) = client.ask(&Request::Peers {})? else {
        return Err(unexpected());
    };
    let no_peer = match why::find(&peers, target) {
        Ok(peer) => return Ok(peer.node.clone()),
        Err(failure) if failure.kind == Kind::NotFound => failure,
        Err(failure) => return Err(failure),
    };
    let request = Request::Explain {
        name: target.to_owned(),
        from: None,
    };
    // What is neither is told as what it is not among the peers: the list helps.
    let Ok(Answer::Explanation(found)) = client.ask(&request) else {
        return Err(no_peer);
    };
    let node = node_of(&found).ok_or_else(|| {
        let message = format!(
            "{} leads to no instance now; `netmanager dig` says why",
            found.name
        );
        Failure::new(Kind::NotFound, message)
    })?;
    if node == own {
        let message = format!("{} leads to an instance on this node", found.name);
        return Err(Failure::new(Kind::Usage, message));
    }
    Ok(node)
}

/// The node of the instance that a name's policy picks, or that the name asks for.
fn node_of(found: &Explanation) -> Option<String> {
    let candidates = || found.policies.iter().flat_map(|policy| &policy.candidates);
    let picked = match &found.instance {
        Some(instance) => candidates().find(|one| one.instance == *instance),
        None => {
            let of_policy = |policy: &&_| -> bool {
                let policy: &crate::api::report::PolicyExplanation = policy;
                policy.policy == found.policy
            };
            let policies = found.policies.iter().filter(of_policy);
            policies
                .flat_map(|policy| &policy.candidates)
                .find(|one| one.picked)
        }
    };
    picked.map(|one| one.node.clone())
}

/// The seconds that the peer is asked for: more than the bench takes, since it says when it is over.
fn granted(rounds: u32, time: Duration) -> u32 {
    let parts = PARTS.len() as f64 * 2.0;
    let seconds = f64::from(rounds) * parts * (time.as_secs_f64() + PATIENCE);
    (seconds as u32).min(MAX_SECONDS)
}

/// Goes to the peer through the overlay, and beside it if it offers that.
fn roads(
    client: &mut Client,
    offer: &BenchOffer,
    no_bare: bool,
    results: &mut Results,
) -> Result<Vec<Road>, Failure> {
    let token = Token::of(&offer.token).ok_or_else(unexpected)?;
    let to = SocketAddr::new(offer.address, offer.port);
    let mut roads = vec![Road {
        name: OVERLAY,
        far: Far::reach(to, Some(offer.own), token)?,
    }];
    if no_bare {
        return Ok(roads);
    }
    let bare = bare_address(client, offer)?.and_then(|to| {
        Far::reach(to, None, token).map_err(|error| {
            let advice = "is there a firewall before the peer?";
            format!("{error:#}; {advice}")
        })
    });
    match bare {
        Ok(far) => roads.push(Road { name: BARE, far }),
        Err(why) => results.add_missing(BARE, &why),
    }
    Ok(roads)
}

/// The peer's address beside the overlay, or why there is none.
fn bare_address(
    client: &mut Client,
    offer: &BenchOffer,
) -> Result<Result<SocketAddr, String>, Failure> {
    let Some(port) = offer.bare_port else {
        let why = "the peer does not offer it; its configuration may say [bench] bare = true";
        return Ok(Err(why.to_owned()));
    };
    let path = peer_of(client, &offer.peer)?.map(|peer| peer.path);
    let bare: Option<IpAddr> = match path {
        Some(PathReport::Direct { address }) => Some(address.ip().to_canonical()),
        Some(
            PathReport::None
            | PathReport::Local
            | PathReport::Relay { .. }
            | PathReport::RelayTcp { .. },
        )
        | None => None,
    };
    Ok(bare
        .map(|ip| SocketAddr::new(ip, port))
        .ok_or_else(|| "there is no direct path to the peer".to_owned()))
}

fn peer_of(client: &mut Client, node: &str) -> Result<Option<PeerReport>, Failure> {
    let Answer::Peers(peers) = client.ask(&Request::Peers {})? else {
        return Err(unexpected());
    };
    Ok(peers.into_iter().find(|peer| peer.node == node))
}

/// Notes which path and which lane the load takes; the connection for reports is a flow of its kind.
fn note_path(
    client: &mut Client,
    offer: &BenchOffer,
    results: &mut Results,
) -> Result<(), Failure> {
    let filter = FlowFilter {
        protocol: Some("tcp".to_owned()),
        source: Some(offer.own),
        source_port: None,
        destination: Some(offer.address),
    };
    let Answer::Flows(flows) = client.ask(&Request::Flows { filter })? else {
        return Err(unexpected());
    };
    let own = |flow: &&crate::api::report::FlowReport| flow.destination_port == offer.port;
    if let Some(flow) = flows.iter().find(own) {
        results.add_note("path", &flow.path.to_string());
        results.add_note("lane", &format!("{} ({})", flow.lane, flow.lane_reason));
    }
    Ok(())
}

/// The command that repeats the run.
fn command(target: &str, args: &BenchArgs) -> String {
    let mut text = format!(
        "netmanager bench {target} --rounds {} --time {}",
        args.rounds, args.time
    );
    if !args.only.is_empty() {
        text += &format!(" --only {}", args.only.join(","));
    }
    text
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| {
        let message = format!("cannot write {}: {error}", path.display());
        Failure::new(Kind::Failed, message)
    })
}

fn compare(options: &Options, args: &CompareArgs) -> Result<(), Failure> {
    let (first, second) = (read(&args.first)?, read(&args.second)?);
    let differences = compare::compare(&first, &second, args.seed);
    if differences.is_empty() {
        let message = "the two files have no figure in common";
        return Err(Failure::new(Kind::Failed, message));
    }
    if options.json {
        return Ok(print_json(&json!({
            "seed": args.seed,
            "confidence": compare::CONFIDENCE,
            "margin": compare::MARGIN,
            "differences": compare::value(&differences),
        }))?);
    }
    Ok(print(&compare::table(&differences))?)
}

fn read(path: &PathBuf) -> Result<Vec<Record>, Failure> {
    let fault = |error: &dyn std::fmt::Display| {
        let message = format!("{}: {error}", path.display());
        Failure::new(Kind::Failed, message)
    };
    let text = std::fs::read_to_string(path).map_err(|error| fault(&error))?;
    parse_list(&text).map_err(|error| fault(&format!("{error:#}")))
}
