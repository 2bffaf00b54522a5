//! `weald revoke`: who is not to be trusted any more.

use clap::{Args, Subcommand};
use serde_json::json;

use super::answers::Revocations;
use super::output::{self, Table};
use super::session::Client;

#[derive(Debug, Args)]
pub(super) struct RevokeArguments {
    #[command(subcommand)]
    command: RevokeCommand,
}

#[derive(Debug, Subcommand)]
enum RevokeCommand {
    /// Cut a node off: its cluster and every other node let it in no more.
    ///
    /// It may join again with a new key, under another name. Fields with --json: those of `ls`.
    Node {
        /// The node, as `cluster/node`.
        name: String,
    },
    /// Cut a cluster off, and with it all of its nodes.
    ///
    /// `DELETE /api/v1/clusters/NAME` does that as well, and has what ran there run elsewhere. Fields
    /// with --json: those of `ls`.
    Cluster {
        /// The cluster.
        name: String,
    },
    /// End all instances of an organisation, for good.
    ///
    /// Fields with --json: those of `ls`.
    Organisation {
        /// The organisation.
        name: String,
    },
    /// Cut off whoever has a key.
    ///
    /// Fields with --json: those of `ls`.
    Key {
        /// SHA-256 of its SubjectPublicKeyInfo, in hexadecimal.
        sha256: String,
    },
    /// List the keys and organisations that are revoked.
    ///
    /// Fields with --json: epoch (counts the changes), keys, organisations.
    Ls,
}

pub(super) async fn revoke(
    arguments: RevokeArguments,
    client: &mut Client,
    json: bool,
) -> anyhow::Result<()> {
    const PATH: &str = "/api/v1/revocations";
    let (kind, name) = match arguments.command {
        RevokeCommand::Node { name } => ("node", name),
        RevokeCommand::Cluster { name } => ("cluster", name),
        RevokeCommand::Organisation { name } => ("organisation", name),
        RevokeCommand::Key { sha256 } => ("key", sha256),
        RevokeCommand::Ls => {
            let list: Revocations = client.get(PATH).await?;
            return shown(&list, json);
        }
    };
    let list: Revocations = client.post(PATH, &json!({ kind: name })).await?;
    if json {
        return output::json(&list);
    }
    output::print(&format!("{kind} {name} is revoked\n"))
}

fn shown(list: &Revocations, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(list);
    }
    let mut table = Table::new(&["KIND", "REVOKED"]);
    let keys = list.keys.iter().map(|it| ("key", it));
    let organisations = list.organisations.iter().map(|it| ("organisation", it));
    for (kind, what) in keys.chain(organisations) {
        table.row([kind.to_owned(), what.clone()]);
    }
    output::print(&table.text())
}
