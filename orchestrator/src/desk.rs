//! The socket at which a role's invitations are made and listed, on its own machine.
//!
//! Whoever may open the socket is the role's own user. One line of JSON each way.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use weald_proto::id::Label;
use weald_proto::join::JoinRole;

use crate::join::JoinDesk;

/// The socket's name in the role's folder.
const SOCKET: &str = "desk.sock";
/// Bytes of the longest line.
const MAX_LINE: u64 = 1 << 20;

/// Who is invited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invite {
    /// As what.
    pub role: JoinRole,
    /// The name of the new cluster; none for workers and relays.
    pub cluster: Option<Label>,
    /// How many may join with the token.
    pub uses: u32,
    /// For how long, in seconds.
    pub life_s: u64,
}

impl Invite {
    /// How many, and for how long.
    #[must_use]
    pub const fn uses(&self) -> (u32, Duration) {
        (self.uses, Duration::from_secs(self.life_s))
    }
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Make a token.
    Invite(Invite),
    /// Which tokens are there?
    List,
    /// Take a token back.
    Revoke(String),
}

/// A token as it is listed; its secret is known to nobody any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Names the token.
    pub id: String,
    /// As what one may join.
    pub role: JoinRole,
    /// The cluster.
    pub cluster: Label,
    /// How often it may be used.
    pub uses: u32,
    /// How often it was.
    pub used: u32,
    /// Until when it is good, in seconds since 1970.
    pub expires: u64,
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The new token.
    Token(String),
    /// All tokens.
    Tokens(Vec<Listed>),
    /// It is done.
    Done,
    /// Why not.
    Error(String),
}

/// Removes the socket when the role ends.
#[derive(Debug)]
pub struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        // What is left is replaced by the next start.
        let _ = fs::remove_file(&self.0);
    }
}

/// Serves the socket in a role's folder, on the present tokio runtime.
///
/// # Errors
/// It cannot be made.
pub fn serve(
    folder: &Path,
    desk: Arc<JoinDesk>,
    invite: impl Fn(&Invite) -> anyhow::Result<String> + Send + Sync + 'static,
) -> anyhow::Result<Socket> {
    let path = folder.join(SOCKET);
    // Only one process has the folder's state, so nobody else serves there.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot make the socket {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let invite = Arc::new(invite);
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Such as too many open files; others end meanwhile.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (desk, invite) = (Arc::clone(&desk), Arc::clone(&invite));
            tokio::spawn(async move {
                let answered = answer(stream, &desk, |it| invite(it)).await;
                if let Err(error) = answered {
                    tracing::debug!("desk: {error}");
                }
            });
        }
    });
    Ok(Socket(path))
}

async fn answer(
    stream: UnixStream,
    desk: &JoinDesk,
    invite: impl Fn(&Invite) -> anyhow::Result<String>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream).take(MAX_LINE).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(question) => decide(question, desk, invite),
        Err(error) => Answer::Error(format!("not a question: {error}")),
    };
    let answer = serde_json::to_string(&answer)?;
    stream.write_all(format!("{answer}\n").as_bytes()).await
}

fn decide(
    question: Question,
    desk: &JoinDesk,
    invite: impl Fn(&Invite) -> anyhow::Result<String>,
) -> Answer {
    match question {
        Question::Invite(wanted) => match invite(&wanted) {
            Ok(token) => Answer::Token(token),
            Err(error) => Answer::Error(format!("{error:#}")),
        },
        Question::List => {
            let listed = desk.list().into_iter().map(|entry| Listed {
                id: entry.id.to_string(),
                role: entry.role,
                cluster: entry.cluster,
                uses: entry.uses,
                used: entry.used,
                expires: entry.expires,
            });
            Answer::Tokens(listed.collect())
        }
        Question::Revoke(id) => {
            let known = desk.list().into_iter().find(|it| it.id.to_string() == id);
            let Some(entry) = known else {
                return Answer::Error(format!("there is no join token {id}"));
            };
            match desk.revoke(entry.id) {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Error(error.to_string()),
            }
        }
    }
}

/// Whether a role seems to run in a folder: one that was killed has left its socket as well.
#[must_use]
pub fn is_open(folder: &Path) -> bool {
    folder.join(SOCKET).exists()
}

/// Asks the role whose folder this is.
///
/// # Errors
/// It does not run here, or says why not.
pub async fn ask(folder: &Path, question: &Question) -> anyhow::Result<Answer> {
    let path = folder.join(SOCKET);
    let stream = UnixStream::connect(&path).await.with_context(|| {
        let path = path.display();
        format!("cannot open {path}; run this where root or the cluster runs, as its user")
    })?;
    let mut stream = BufReader::new(stream);
    let question = serde_json::to_string(question)?;
    stream.write_all(format!("{question}\n").as_bytes()).await?;
    let mut line = String::new();
    (&mut stream).take(MAX_LINE).read_line(&mut line).await?;
    match serde_json::from_str(&line)? {
        Answer::Error(text) => anyhow::bail!("{text}"),
        answer @ (Answer::Token(_) | Answer::Tokens(_) | Answer::Done) => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tokens_are_made_listed_and_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let desk = Arc::new(JoinDesk::open(folder.path()).unwrap());
        let issuer = Arc::clone(&desk);
        let invite = move |invite: &Invite| {
            let cluster = Label::new("munich").unwrap();
            let at = ["192.0.2.1:1".to_owned()];
            let (_, text) = issuer.issue(invite.role, cluster, [1; 32], &at, invite.uses())?;
            Ok(text)
        };
        let socket = serve(folder.path(), desk, invite).unwrap();
        let invite = |uses| {
            Question::Invite(Invite {
                role: JoinRole::Worker,
                cluster: None,
                uses,
                life_s: 60,
            })
        };
        let Answer::Token(token) = ask(folder.path(), &invite(2)).await.unwrap() else {
            panic!("no token");
        };
        assert!(token.starts_with("weald-join-"), "{token}");
        let error = ask(folder.path(), &invite(0)).await.unwrap_err();
        assert!(!error.to_string().is_empty());
        let Answer::Tokens(listed) = ask(folder.path(), &Question::List).await.unwrap() else {
            panic!("no list");
        };
        assert_eq!((listed.len(), listed[0].uses, listed[0].used), (1, 2, 0));
        let revoke = Question::Revoke(listed[0].id.clone());
        assert_eq!(ask(folder.path(), &revoke).await.unwrap(), Answer::Done);
        let error = ask(folder.path(), &revoke).await.unwrap_err().to_string();
        assert!(error.starts_with("there is no join token"), "{error}");
        let mode = fs::metadata(folder.path().join(SOCKET)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        drop(socket);
        let error = ask(folder.path(), &Question::List).await.unwrap_err();
        assert!(error.to_string().contains("cannot open"), "{error}");
    }
}
