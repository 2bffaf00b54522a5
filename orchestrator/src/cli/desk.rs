//! `weald token create`, `ls` and `revoke`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use weald_proto::id::Label;
use weald_proto::join::JoinRole;

use crate::desk::{Answer, Invite, Question, ask};

#[derive(Debug, Args)]
pub(super) struct TokenArguments {
    /// The folder of the root or cluster that runs here.
    #[arg(long, global = true)]
    folder: Option<PathBuf>,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token; it is shown once, and never again.
    Create {
        /// As what one joins with it.
        role: Role,
        /// The name of the new cluster.
        #[arg(long)]
        cluster: Option<Label>,
        /// How many may join with it.
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// For how many hours it is good.
        #[arg(long, default_value_t = 24)]
        hours: u32,
    },
    /// List the tokens.
    Ls,
    /// Take a token back.
    Revoke {
        /// The token's id, as `ls` shows it.
        id: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Cluster,
    Worker,
    Relay,
}

pub(super) async fn token(arguments: TokenArguments, json: bool) -> anyhow::Result<()> {
    let (folder, command) = (arguments.folder, arguments.command);
    let usual = |role| match role {
        Role::Cluster => "/var/lib/weald/root",
        Role::Worker | Role::Relay => "/var/lib/weald/cluster",
    };
    let (question, folder) = match command {
        TokenCommand::Create {
            role,
            cluster,
            uses,
            hours,
        } => {
            let invite = Invite {
                role: match role {
                    Role::Cluster => JoinRole::Cluster,
                    Role::Worker => JoinRole::Worker,
                    Role::Relay => JoinRole::Relay,
                },
                cluster,
                uses,
                life_s: u64::from(hours) * 3600,
            };
            let folder = folder.unwrap_or_else(|| usual(role).into());
            (Question::Invite(invite), folder)
        }
        TokenCommand::Ls => (Question::List, named(folder)?),
        TokenCommand::Revoke { id } => (Question::Revoke(id), named(folder)?),
    };
    match ask(&folder, &question).await? {
        Answer::Token(token) if json => println!("{}", json!({ "token": token })),
        Answer::Token(token) => println!("{token}"),
        Answer::Tokens(tokens) if json => println!("{}", serde_json::to_string(&tokens)?),
        Answer::Tokens(tokens) => {
            println!("{:16}  {:8}  {:20}  USED", "ID", "ROLE", "CLUSTER");
            for it in tokens {
                let (id, role, cluster) = (it.id, it.role.to_string(), it.cluster.to_string());
                println!("{id:16}  {role:8}  {cluster:20}  {}/{}", it.used, it.uses);
            }
        }
        Answer::Done if json => println!("{}", json!({ "done": true })),
        Answer::Done => println!("taken back"),
        Answer::Error(text) => bail!("{text}"),
    }
    Ok(())
}

fn named(folder: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match folder {
        Some(folder) => Ok(folder),
        None => bail!("say whose tokens with --folder, as in --folder /var/lib/weald/cluster"),
    }
}
