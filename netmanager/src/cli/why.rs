//! `why`: what was tried to reach a peer, what answered, and what an operator could change.

use std::fmt::Write as _;

use super::Options;
use super::failure::{Failure, Kind};
use super::show::unexpected;
use super::table::{Table, print, print_json, rtt};
use crate::api::message::{Answer, Request};
use crate::api::report::{DirectReport, PathCandidate, PeerReport};

pub(super) fn why(options: &Options, wanted: &str) -> Result<(), Failure> {
    let Answer::Peers(peers) = options.ask(&Request::Peers {})? else {
        return Err(unexpected());
    };
    let peer = find(&peers, wanted)?;
    if options.json {
        return Ok(print_json(peer)?);
    }
    Ok(print(&text(peer))?)
}

pub(super) fn find<'a>(peers: &'a [PeerReport], wanted: &str) -> Result<&'a PeerReport, Failure> {
    let fits = |peer: &&PeerReport| {
        peer.node == wanted || peer.node.split('/').next_back() == Some(wanted)
    };
    let mut found = peers.iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(peer), None) => Ok(peer),
        (None, _) => {
            let known: Vec<&str> = peers.iter().map(|peer| peer.node.as_str()).collect();
            let known = known.join(", ");
            let message = format!("there is no peer {wanted:?}; there are: {known}");
            Err(Failure::new(Kind::NotFound, message))
        }
        (Some(one), Some(other)) => {
            let message = format!("{wanted:?} may be {} or {}", one.node, other.node);
            Err(Failure::new(Kind::Usage, message))
        }
    }
}

fn text(peer: &PeerReport) -> String {
    let mut table = Table::default();
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("peer", format!("{}, {}", peer.node, peer.state));
    let reason = if peer.reason.is_empty() {
        String::new()
    } else {
        format!(", because: {}", peer.reason)
    };
    row("path", format!("{}{reason}", peer.path));
    if let Some(mtu) = peer.mtu {
        row("rtt, mtu", format!("{}, {mtu} bytes", rtt(peer.rtt_us)));
    }
    if let Some(direct) = &peer.direct {
        direct_rows(direct, &mut row);
    }
    for candidate in &peer.candidates {
        if peer.session_ms.is_none() {
            row("way", way_without_session(candidate));
            continue;
        }
        row(
            "way",
            format!(
                "{}: {}, rtt {}, {} of {} probes lost",
                candidate.path,
                candidate.state,
                rtt(candidate.rtt_us),
                candidate.probes_lost,
                candidate.probes_sent
            ),
        );
    }
    let mut text = table.text();
    if let Some(direct) = peer.direct.as_ref().filter(|one| !one.advice.is_empty()) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\nTo have a direct path: {}.", direct.advice);
    }
    text
}

/// Nothing was probed there: what counts is whether it was tried, and why not.
fn way_without_session(way: &PathCandidate) -> String {
    let reason = way.reason.as_ref().map(|reason| format!(": {reason}"));
    format!("{}: {}{}", way.path, way.state, reason.unwrap_or_default())
}

fn direct_rows(direct: &DirectReport, row: &mut impl FnMut(&str, String)) {
    row(
        "direct path",
        format!("{}, {} rounds", direct.standing, direct.rounds),
    );
    row(
        "ports of NATs",
        format!(
            "here {}, there {}",
            direct.mapping_here, direct.mapping_there
        ),
    );
    for own in &direct.own {
        row("this node at", own.clone());
    }
    for target in &direct.targets {
        let what = match (&target.kind, &target.refused) {
            (_, Some(refused)) => format!("not tried: {refused}"),
            (Some(kind), None) if target.answers => format!("{kind}, answers"),
            (Some(kind), None) => format!("{kind}, {} probes, no answer", target.probes_sent),
            (None, None) => "not tried".to_owned(),
        };
        row("peer at", format!("{}: {what}", target.address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::report::{PathReport, TargetReport};

    fn peer(node: &str) -> PeerReport {
        PeerReport {
            node: node.to_owned(),
            state: "up".to_owned(),
            ..PeerReport::default()
        }
    }

    #[test]
    fn peers_are_found_by_their_name_if_only_one_has_it() {
        let peers = [peer("a/one"), peer("b/one"), peer("b/two")];
        let node = |wanted| find(&peers, wanted).map(|peer| peer.node.as_str());
        assert_eq!(node("b/one").ok(), Some("b/one"));
        assert_eq!(node("two").ok(), Some("b/two"));
        assert_eq!(
            node("one").err().map(|failure| failure.kind),
            Some(Kind::Usage)
        );
        let none = node("three").err().unwrap();
        assert_eq!(none.kind, Kind::NotFound);
        assert!(none.error.to_string().contains("a/one, b/one, b/two"));
    }

    #[test]
    fn what_is_in_the_way_is_said_with_what_could_be_changed() {
        let direct = DirectReport {
            standing: "no_answer".to_owned(),
            advice: "allow outgoing UDP".to_owned(),
            targets: vec![
                TargetReport {
                    address: "203.0.113.1:5".parse().unwrap(),
                    kind: Some("reflexive".to_owned()),
                    probes_sent: 9,
                    answers: false,
                    refused: None,
                },
                TargetReport {
                    address: "10.0.0.1:5".parse().unwrap(),
                    kind: None,
                    probes_sent: 0,
                    answers: false,
                    refused: Some("foreign_private_address".to_owned()),
                },
            ],
            ..DirectReport::default()
        };
        let shown = text(&PeerReport {
            direct: Some(direct),
            session_ms: Some(1),
            ..peer("b/two")
        });
        for part in [
            "no_answer, 0 rounds",
            "203.0.113.1:5: reflexive, 9 probes, no answer",
            "10.0.0.1:5: not tried: foreign_private_address",
            "To have a direct path: allow outgoing UDP.",
        ] {
            assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
        }
    }

    #[test]
    fn without_a_session_every_way_is_listed_with_what_became_of_it() {
        let way = |last, state: &str, reason: Option<&str>| PathCandidate {
            path: PathReport::Direct {
                address: ([192, 0, 2, last], 5).into(),
            },
            state: state.to_owned(),
            reason: reason.map(str::to_owned),
            ..PathCandidate::default()
        };
        let shown = text(&PeerReport {
            state: "down".to_owned(),
            candidates: vec![
                way(1, "no_answer", None),
                way(2, "refused", Some("foreign_private_address")),
            ],
            ..peer("b/two")
        });
        for part in [
            "192.0.2.1:5: no_answer\n",
            "192.0.2.2:5: refused: foreign_private_address\n",
        ] {
            assert!(shown.contains(part), "{part:?} is not in:\n{shown}");
        }
    }
}
