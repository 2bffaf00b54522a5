//! Figures of clusters and workers for Prometheus: what is counted. What root counts is its API's;
//! how figures are written and the port where they are read are `weald_metrics`'.
//!
//! Nothing is measured that is not read: states are looked up when somebody asks; only what would be
//! gone by then is counted as it happens. Phases and standings are written as the API writes them.

mod commits;

use std::net::SocketAddr;

use orchestrator_core::lifecycle::PHASES;
use tokio::runtime::Handle;
use weald_metrics::{Port, PortError, Text};
use weald_proto::control::{Phase, Standing};

pub use commits::{Commits, Counted};

use crate::api::{phase_word, standing_word};
use crate::link::LinkFigures;

/// Every standing.
const STANDINGS: [Standing; 4] = [
    Standing::Alive,
    Standing::Suspect,
    Standing::Dead,
    Standing::Gone,
];

/// Serves figures that are looked up on the present tokio runtime.
///
/// # Errors
/// [`PortError`].
pub fn serve<F>(
    address: SocketAddr,
    figures: impl Fn() -> F + Send + Sync + 'static,
) -> Result<Port, PortError>
where
    F: Future<Output = Option<String>>,
{
    let runtime = Handle::current();
    Port::open(address, move || runtime.block_on(figures()))
}

/// What a cluster or a worker tells of itself.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// The role, as it stands in the names of figures that only one role has.
    pub role: &'static str,
    /// How many nodes stand how; none where that is not known.
    pub nodes: Option<Vec<Standing>>,
    /// The phase of each instance.
    pub phases: Vec<Phase>,
    /// Links, by what is at their other end.
    pub links: Vec<(&'static str, LinkFigures)>,
    /// Further figures that only go up: name, help and value.
    pub counters: Vec<(&'static str, &'static str, u64)>,
    /// Further figures: name, help and value.
    pub gauges: Vec<(&'static str, &'static str, u64)>,
}

impl Figures {
    /// Everything in the text form of Prometheus.
    #[must_use]
    pub fn text(&self, commits: &Commits) -> String {
        let mut text = Text::of(self.role);
        if let Some(nodes) = &self.nodes {
            text.head("weald_nodes", "gauge", "Known nodes by standing.");
            for standing in STANDINGS {
                let count = nodes.iter().filter(|it| **it == standing).count();
                text.sample(
                    "weald_nodes",
                    &[("standing", standing_word(standing))],
                    count,
                );
            }
        }
        text.head("weald_instances", "gauge", "Known instances by phase.");
        for phase in PHASES {
            let count = self.phases.iter().filter(|it| **it == phase).count();
            text.sample("weald_instances", &[("phase", phase_word(phase))], count);
        }
        self.write_links(&mut text);
        commits.write(&mut text);
        for (kind, figures) in [("counter", &self.counters), ("gauge", &self.gauges)] {
            for (name, help, value) in figures {
                text.single(name, kind, help, value);
            }
        }
        text.finish()
    }

    fn write_links(&self, text: &mut Text) {
        type Value = fn(&LinkFigures) -> u64;
        let families: [(&str, &str, &str, Value); 5] = [
            ("weald_links_up", "gauge", "Links that are up.", |it| it.up),
            (
                "weald_link_connections_total",
                "counter",
                "Connections that were made.",
                |it| it.connections,
            ),
            (
                "weald_messages_sent_total",
                "counter",
                "Messages to a peer.",
                |it| it.sent,
            ),
            (
                "weald_messages_refused_total",
                "counter",
                "Messages that could not be sent: the peer was away, or did not read.",
                |it| it.refused,
            ),
            (
                "weald_messages_received_total",
                "counter",
                "Messages of a peer.",
                |it| it.received,
            ),
        ];
        for (name, kind, help, value) in families {
            text.head(name, kind, help);
            for (peer, figures) in &self.links {
                text.sample(name, &[("peer", peer)], value(figures));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_standing_and_phase_has_a_line() {
        let figures = Figures {
            role: "cluster",
            nodes: Some(vec![Standing::Alive, Standing::Alive, Standing::Dead]),
            phases: vec![Phase::Running],
            links: vec![(
                "root",
                LinkFigures {
                    up: 1,
                    connections: 2,
                    sent: 30,
                    refused: 4,
                    received: 50,
                },
            )],
            counters: vec![("weald_heartbeats_sent_total", "Heartbeats.", 7)],
            gauges: Vec::new(),
        };
        let text = figures.text(&Commits::default());
        let values = weald_metrics::samples(&text);
        let value = |name: &str| values.get(name).copied();
        assert_eq!(value("weald_nodes{standing=\"alive\"}"), Some(2.0));
        assert_eq!(value("weald_nodes{standing=\"suspect\"}"), Some(0.0));
        assert_eq!(value("weald_instances{phase=\"RUNNING\"}"), Some(1.0));
        assert_eq!(
            value("weald_messages_refused_total{peer=\"root\"}"),
            Some(4.0)
        );
        assert_eq!(value("weald_heartbeats_sent_total"), Some(7.0));
        assert_eq!(value("weald_commits_total"), Some(0.0));
        // Each family is introduced once, before its first value.
        let heads: Vec<_> = text.lines().filter(|it| it.starts_with("# TYPE")).collect();
        let mut unique = heads.clone();
        unique.dedup();
        assert_eq!(heads, unique);
    }
}
