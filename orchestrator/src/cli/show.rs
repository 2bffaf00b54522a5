//! `weald status`, `explain`, `node ls` and `cluster ls`: how things are.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::json;

use super::answers::{Cluster, Instance, Node, Status};
use super::http::segment;
use super::output::{self, Table};
use super::session::Client;

#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    /// The instance, as `app.appns.svc.svcns.number`.
    instance: String,
}

#[derive(Debug, Args)]
pub(super) struct NodeArguments {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// List the nodes.
    ///
    /// Fields with --json, per node: those of GET /api/v1/nodes (docs/openapi.json, NodeStatus).
    Ls,
}

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// List the clusters that root knows.
    ///
    /// Fields with --json, per cluster: those of GET /api/v1/clusters (docs/openapi.json,
    /// ClusterStatus).
    Ls,
}

pub(super) async fn status(client: &mut Client, json: bool) -> anyhow::Result<()> {
    let status: Status = client.get("/api/v1/status").await?;
    if json {
        return output::json(&status);
    }
    let mut table = Table::default();
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("root", format!("version {}", status.version));
    row("clusters", counts(&status.clusters));
    row("nodes", counts(&status.nodes));
    row("applications", status.applications.to_string());
    row("services", status.services.to_string());
    row("instances", counts(&status.instances));
    let instances: Vec<Instance> = client.get("/api/v1/instances").await?;
    output::print(&(table.text() + &behind(&instances)))
}

/// A line for each instance that does not do what it is there for and says why; a few stand for many.
fn behind(instances: &[Instance]) -> String {
    const FEW: usize = 5;
    let behind = || {
        let all = instances.iter().filter(|it| !it.serves() && !it.withdrawn);
        all.filter(|it| !it.detail.is_empty())
    };
    let mut text = String::new();
    for it in behind().take(FEW) {
        let on = it.node.as_ref().map(|node| format!(" on {node}"));
        let on = on.unwrap_or_default();
        text.push_str(&format!(
            "{} is {}{on}: {}\n",
            it.name, it.status, it.detail
        ));
    }
    match behind().count().saturating_sub(FEW) {
        0 => {}
        more => text.push_str(&format!(
            "and {more} more; weald app get shows all of them\n"
        )),
    }
    text
}

/// As in `3: 2 alive, 1 dead`.
fn counts(by: &BTreeMap<String, usize>) -> String {
    let all: usize = by.values().sum();
    if all == 0 {
        return "0".to_owned();
    }
    let parts: Vec<_> = by
        .iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    format!("{all}: {}", parts.join(", "))
}

pub(super) async fn explain(
    arguments: ExplainArguments,
    client: &mut Client,
    json: bool,
) -> anyhow::Result<()> {
    let instance = arguments.instance;
    let text = client
        .text(&format!("/api/v1/instances/{}/explain", segment(&instance)))
        .await?;
    if json {
        return output::json(&json!({ "instance": instance, "text": text }));
    }
    output::print(&text)
}

pub(super) async fn node(
    arguments: NodeArguments,
    client: &mut Client,
    json: bool,
) -> anyhow::Result<()> {
    let NodeCommand::Ls = arguments.command;
    let nodes: Vec<Node> = client.get("/api/v1/nodes").await?;
    if json {
        return output::json(&nodes);
    }
    let mut table = Table::new(&[
        "NODE",
        "STANDING",
        "IPV4",
        "MILLICPUS",
        "MIB",
        "BUSY",
        "RUNTIMES",
    ]);
    for it in nodes {
        table.row([
            it.name,
            it.standing,
            it.ipv4.unwrap_or_default(),
            format!("{}/{}", it.reserved_millicpus, it.millicpus),
            format!("{}/{}", it.reserved_memory_mib, it.memory_mib),
            format!("{:.0} %", it.cpu_percent),
            it.runtimes.join(","),
        ]);
    }
    output::print(&table.text())
}

pub(super) async fn cluster(
    command: &ClusterCommand,
    client: &mut Client,
    json: bool,
) -> anyhow::Result<()> {
    let ClusterCommand::Ls = command;
    let clusters: Vec<Cluster> = client.get("/api/v1/clusters").await?;
    if json {
        return output::json(&clusters);
    }
    let mut table = Table::new(&[
        "CLUSTER",
        "STANDING",
        "OWNER",
        "NODES",
        "FREE MILLICPUS",
        "FREE MIB",
        "BLOCKS",
    ]);
    for it in clusters {
        table.row([
            it.name,
            it.standing,
            it.owner.unwrap_or_default(),
            it.nodes.to_string(),
            format!("{}/{}", it.free_millicpus, it.millicpus),
            format!("{}/{}", it.free_memory_mib, it.memory_mib),
            it.blocks.join(","),
        ]);
    }
    output::print(&table.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_and_split() {
        let by = |all: &[(&str, usize)]| {
            all.iter()
                .map(|(word, count)| ((*word).to_owned(), *count))
                .collect()
        };
        assert_eq!(counts(&by(&[])), "0");
        assert_eq!(
            counts(&by(&[("dead", 1), ("alive", 2)])),
            "3: 2 alive, 1 dead"
        );
    }
}
