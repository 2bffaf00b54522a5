//! Texts for people, cut to what messages can hold: details, reasons and lines of logs; and what nodes
//! say of themselves.
//!
//! Who writes them is an instance, a kernel or another host, so they may be of any length; and a
//! message that is too long cuts the link that it was for, each time it is repeated. Texts of
//! services are bounded where they are accepted, by `sla`.

use weald_proto::codec::{MAX_LIST_LEN, MAX_SHORT_LIST_LEN};
use weald_proto::control::{ClusterToRoot, Generation, NodeCapacity, Reason, Refusal};
use weald_proto::name::InstanceId;

/// Bytes of the longest detail and of the longest reason: some lines to read. Thousands of them fit
/// into one report.
pub const MAX_DETAIL: usize = 512;

/// Bytes of all details of one report: a quarter of what a message holds.
const MAX_DETAILS: usize = 1 << 20;

/// Refusals of one offer that are told; as many of the longest fit into one message.
pub const MAX_REFUSALS: usize = 4096;

/// Bytes of the longest line of a log that is told.
pub const MAX_LINE: usize = 16 << 10;

/// Bytes of all lines of a log that are told at once: a quarter of what a message holds.
pub const MAX_LOG: usize = 1 << 20;

/// Runtimes of a node that are told, and bytes of the name of each: there are fewer and shorter ones,
/// whatever a node says.
const MAX_RUNTIMES: usize = 8;
const MAX_RUNTIME: usize = 32;

/// Addons of a node that are told, and bytes of the name of each.
const MAX_ADDONS: usize = 64;
const MAX_ADDON: usize = 64;

/// Addons of a whole cluster that are told.
pub(crate) const MAX_CLUSTER_ADDONS: usize = MAX_SHORT_LIST_LEN;

/// What stands where a text was cut.
const CUT: &str = "…";

/// The beginning of a text, at most `most` bytes with the ellipsis that shows the cut.
#[must_use]
pub fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = text.floor_char_boundary(most.saturating_sub(CUT.len()));
        text.truncate(end);
        text.push_str(CUT);
    }
    text
}

/// Bytes of each detail in a report of so many instances.
pub(crate) fn detail_in(instances: usize) -> usize {
    MAX_DETAIL.min(MAX_DETAILS / instances.max(1))
}

/// What a node says that it has, as a cluster passes it on: all of its nodes in one message.
pub(crate) fn capacity(mut capacity: NodeCapacity) -> NodeCapacity {
    capacity.runtimes.truncate(MAX_RUNTIMES);
    capacity.addons.truncate(MAX_ADDONS);
    let addons = capacity.addons.into_iter();
    capacity.addons = addons.map(|it| cut(it, MAX_ADDON)).collect();
    capacity
}

/// A log as it is told: the last of its lines that fit, or why there are none.
///
/// # Errors
/// Why there are none, as it was given.
pub fn log(lines: Result<Vec<String>, String>) -> Result<Vec<String>, String> {
    let lines = lines.map_err(|why| cut(why, MAX_DETAIL))?;
    let mut room = MAX_LOG;
    let mut told = Vec::new();
    for line in lines.into_iter().rev().take(MAX_LIST_LEN) {
        let line = cut(line, MAX_LINE);
        let Some(left) = room.checked_sub(line.len()) else {
            break;
        };
        room = left;
        told.push(line);
    }
    told.reverse();
    Ok(told)
}

/// What root is told of an offer that nobody takes.
pub(crate) fn refused(
    instance: InstanceId,
    generation: Generation,
    mut refusals: Vec<Refusal>,
) -> ClusterToRoot {
    refusals.truncate(MAX_REFUSALS);
    for refusal in &mut refusals {
        cut_reason(&mut refusal.reason);
    }
    ClusterToRoot::Refused {
        instance,
        generation,
        refusals,
    }
}

fn cut_reason(reason: &mut Reason) {
    let text = match reason {
        Reason::Insufficient { resource: text, .. }
        | Reason::Constraint { text }
        | Reason::Unavailable { text }
        | Reason::Failed { text } => text,
        Reason::PortTaken { port, by } => {
            *port = cut(std::mem::take(port), MAX_DETAIL);
            by
        }
        Reason::Runtime { needed, available } => {
            available.truncate(MAX_RUNTIMES);
            for word in available.iter_mut().chain([needed]) {
                *word = cut(std::mem::take(word), MAX_RUNTIME);
            }
            return;
        }
        Reason::NoAddress | Reason::Deadline { .. } => return,
    };
    *text = cut(std::mem::take(text), MAX_DETAIL);
}

#[cfg(test)]
mod tests {
    use weald_proto::codec::Message as _;
    use weald_proto::control::WorkerToCluster;

    use super::*;
    use crate::samples;

    fn instance() -> InstanceId {
        let service = samples::service("web", "prod");
        InstanceId { service, number: 1 }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let text = |text: &str| text.to_owned();
        assert_eq!(cut(text("twelve bytes"), 12), "twelve bytes");
        assert_eq!(cut(text("thirteen byte"), 12), "thirteen …");
        assert_eq!(cut("ä".repeat(10), 12), "ääää…");
        assert_eq!(cut(text("ä"), 0), "…");
    }

    #[test]
    fn however_many_refuse_with_however_long_reasons_a_message_holds_it() {
        let long = || "x".repeat(2_000);
        let reasons = [
            Reason::Failed { text: long() },
            Reason::Constraint { text: long() },
            Reason::Unavailable { text: long() },
            Reason::PortTaken {
                port: "1/tcp".to_owned(),
                by: long(),
            },
            Reason::Runtime {
                needed: long(),
                available: vec![long(); 10],
            },
            Reason::Insufficient {
                resource: long(),
                needed: 1,
                free: 0,
            },
        ];
        let by = format!("{0}/{0}", "n".repeat(63));
        let all = reasons.iter().cycle().take(MAX_REFUSALS + 1);
        let all = all.map(|reason| Refusal {
            by: by.clone(),
            reason: reason.clone(),
        });
        let told = refused(instance(), 1, all.collect());
        let ClusterToRoot::Refused { refusals, .. } = &told else {
            panic!("{told:?}");
        };
        assert_eq!(refusals.len(), MAX_REFUSALS);
        assert_eq!(ClusterToRoot::decode(&told.encode().unwrap()), Ok(told));
    }

    #[test]
    fn of_a_log_the_last_lines_are_told_that_a_message_holds() {
        let holds = |lines| {
            let request = u64::MAX;
            let answer = WorkerToCluster::Logs { request, lines };
            assert_eq!(
                WorkerToCluster::decode(&answer.encode().unwrap()),
                Ok(answer)
            );
        };
        let short = log(Ok((0..20_000).map(|i| i.to_string()).collect())).unwrap();
        assert_eq!(short.len(), MAX_LIST_LEN);
        assert_eq!(short.last().unwrap(), "19999");
        holds(Ok(short));
        let long = log(Ok(vec!["\u{fffd}".repeat(100_000); 100])).unwrap();
        assert_eq!(long.len(), MAX_LOG / MAX_LINE);
        assert!(long.iter().all(|line| line.ends_with(CUT)));
        holds(Ok(long));
        let why = log(Err("y".repeat(100_000))).unwrap_err();
        assert_eq!(why.len(), MAX_DETAIL);
        holds(Err(why));
    }
}
