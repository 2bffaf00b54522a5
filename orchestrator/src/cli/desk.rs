//! `weald token create`, `ls` and `revoke`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use weald_proto::id::Label;
use weald_proto::join::JoinRole;

use super::failure::Failure;
use super::output::{self, Table};
use super::roles::{CLUSTER_FOLDER, ROOT_FOLDER};
use crate::desk::{self, Answer, Invite, Listed, Question, ask};
use crate::machine::unix_now;

#[derive(Debug, Args)]
pub(super) struct TokenArguments {
    /// The folder of the root or cluster that runs here, instead of the usual ones.
    #[arg(long, global = true)]
    folder: Option<PathBuf>,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token; it is shown once, and never again.
    ///
    /// Fields with --json: token.
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
    /// List the tokens of the root and of the cluster that run here.
    ///
    /// Fields with --json, per token: id, role (cluster, worker or relay), cluster, uses, used,
    /// expires (seconds since 1970).
    Ls,
    /// Take a token back; whoever has joined with it stays.
    ///
    /// Fields with --json: done.
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
    let usual = || vec![PathBuf::from(ROOT_FOLDER), PathBuf::from(CLUSTER_FOLDER)];
    let answer = match command {
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
            let usual = match role {
                Role::Cluster => ROOT_FOLDER,
                Role::Worker | Role::Relay => CLUSTER_FOLDER,
            };
            let folder = folder.unwrap_or_else(|| usual.into());
            ask(&folder, &Question::Invite(invite)).await?
        }
        TokenCommand::Ls => {
            let folders = folder.map_or_else(usual, |it| vec![it]);
            let all = list(&folders).await?;
            Answer::Tokens(all.into_iter().map(|(_, it)| it).collect())
        }
        TokenCommand::Revoke { id } => {
            let folders = folder.map_or_else(usual, |it| vec![it]);
            let all = list(&folders).await?;
            let found = all.into_iter().find(|(_, it)| it.id == id);
            let Some((folder, _)) = found else {
                return Err(unknown(id).into());
            };
            ask(&folder, &Question::Revoke(id)).await?
        }
    };
    show(answer, json)
}

fn unknown(name: String) -> Failure {
    Failure::Unknown {
        kind: "join token",
        name,
        list: "weald token ls",
    }
}

/// The tokens of every role that runs here, each with its folder.
async fn list(folders: &[PathBuf]) -> anyhow::Result<Vec<(PathBuf, Listed)>> {
    let mut all = Vec::new();
    let there: Vec<_> = folders.iter().filter(|it| desk::is_open(it)).collect();
    if there.is_empty() {
        let places: Vec<_> = folders.iter().map(|it| it.display().to_string()).collect();
        bail!(
            "neither root nor a cluster runs here with its folder at {}; run this on its machine as \
             its user, or name its folder with --folder",
            places.join(" or ")
        );
    }
    for folder in there {
        if let Answer::Tokens(tokens) = ask(folder, &Question::List).await? {
            all.extend(tokens.into_iter().map(|it| (folder.clone(), it)));
        }
    }
    Ok(all)
}

fn show(answer: Answer, json: bool) -> anyhow::Result<()> {
    match answer {
        Answer::Token(token) if json => output::json(&json!({ "token": token })),
        Answer::Token(token) => output::print(&format!("{token}\n")),
        Answer::Tokens(tokens) if json => output::json(&tokens),
        Answer::Tokens(tokens) => {
            let mut table = Table::new(&["ID", "ROLE", "CLUSTER", "USED", "EXPIRES"]);
            let now = unix_now();
            for it in tokens {
                let used = format!("{}/{}", it.used, it.uses);
                let (role, cluster) = (it.role.to_string(), it.cluster.to_string());
                table.row([it.id, role, cluster, used, expiry(it.expires, now)]);
            }
            output::print(&table.text())
        }
        Answer::Done if json => output::json(&json!({ "done": true })),
        Answer::Done => output::print("taken back\n"),
        Answer::Error(text) => bail!("{text}"),
    }
}

/// When a token expires, both in seconds since 1970, as a user reads it.
fn expiry(expires: u64, now: u64) -> String {
    let minutes = expires.saturating_sub(now).div_ceil(60);
    match minutes {
        0 => "expired".to_owned(),
        1..120 => format!("in {minutes} min"),
        120..2880 => format!("in {} h", minutes / 60),
        2880.. => format!("in {} d", minutes / 1440),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::join::JoinDesk;

    fn serve(folder: &Path, role: JoinRole) -> desk::Socket {
        let desk = Arc::new(JoinDesk::open(folder).unwrap());
        let at = ["192.0.2.1:1".to_owned()];
        let munich = Label::new("munich").unwrap();
        let terms = (1, std::time::Duration::from_secs(60));
        desk.issue(role, munich, [1; 32], &at, terms).unwrap();
        desk::serve(folder, desk, |_| bail!("nobody is invited")).unwrap()
    }

    #[tokio::test]
    async fn the_tokens_of_every_role_that_runs_here_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let places = ["root", "cluster", "nothing"].map(|name| folder.path().join(name));
        let error = list(&places).await.unwrap_err().to_string();
        assert!(error.contains("--folder"), "{error}");
        assert!(error.contains("/root or "), "{error}");
        for place in &places[..2] {
            std::fs::create_dir(place).unwrap();
        }
        let root = serve(&places[0], JoinRole::Cluster);
        let _cluster = serve(&places[1], JoinRole::Worker);
        let all = list(&places).await.unwrap();
        let told: Vec<_> = all.iter().map(|(at, it)| (at, it.role)).collect();
        assert_eq!(
            told,
            [
                (&places[0], JoinRole::Cluster),
                (&places[1], JoinRole::Worker)
            ]
        );
        drop(root);
        assert_eq!(list(&places).await.unwrap().len(), 1);
    }

    #[test]
    fn expiry_is_told_in_the_largest_unit_that_says_it() {
        for (seconds, told) in [
            (0, "expired"),
            (1, "in 1 min"),
            (7_140, "in 119 min"),
            (7_200, "in 2 h"),
            (86_400, "in 24 h"),
            (172_800, "in 2 d"),
        ] {
            assert_eq!(expiry(1_000 + seconds, 1_000), told);
        }
        assert_eq!(expiry(999, 1_000), "expired");
    }
}
