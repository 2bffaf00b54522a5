//! The desk at which others join: the book of invitations on disk, and the port.
//!
//! Root admits clusters there, a cluster admits workers and relays. A use of a token is on disk
//! before a certificate is handed out for it, so that a crash never gives one twice; whoever was let
//! in and did not hear so asks again with the same key. Which certificate is issued is the role's;
//! what a token is, weald-trust's `join`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use quinn::{Connection, Endpoint, VarInt};
use serde::{Deserialize, Serialize};
use weald_proto::codec::Message;
use weald_proto::id::Label;
use weald_proto::join::{JoinRequest, JoinResponse, JoinRole, MAX_MESSAGE_LEN, RenewRequest};
use weald_proto::stream::framed;
use weald_trust::join::{JoinBook, JoinFault, JoinToken, TokenId, new_secret};
use weald_trust::pki::files::{self, Existing, SECRET};
use weald_trust::pki::{RequestFault, key_hash};

use crate::link::{self, Accepted, Dialled};
use crate::machine::unix_now;

/// How long one who joins may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is on disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Desk {
    book: JoinBook,
    /// Who has joined: the hash of the request that each name was given to.
    members: BTreeMap<String, Vec<u8>>,
}

/// The invitations of one issuer.
#[derive(Debug)]
pub struct JoinDesk {
    path: PathBuf,
    desk: Mutex<Desk>,
}

/// Why somebody was not let in.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The token is not good.
    #[error(transparent)]
    Fault(#[from] JoinFault),
    /// Whoever asks has not proved to hold a key.
    #[error(transparent)]
    Request(#[from] RequestFault),
    /// The name is another's.
    #[error(
        "{role} {name} has joined already with another key; choose another name, or remove it first"
    )]
    Taken {
        /// As what.
        role: JoinRole,
        /// The name.
        name: Label,
    },
    /// Nobody of this name has joined, or it was forgotten since.
    #[error(
        "no {role} {name} has joined here, or it was removed; it may join again, with a new token"
    )]
    Stranger {
        /// As what.
        role: JoinRole,
        /// The name.
        name: Label,
    },
    /// The token is good, and whoever has it cannot be let in.
    #[error("{0:#}")]
    Refused(anyhow::Error),
    /// The book cannot be kept.
    #[error("cannot keep the book of join tokens: {0:#}")]
    Disk(anyhow::Error),
}

impl JoinDesk {
    /// Opens the desk whose book is in a folder; there need not be one yet.
    ///
    /// # Errors
    /// It cannot be read, or is not one.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("join.json");
        let desk = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is no book of join tokens", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Desk::default(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Ok(Self {
            path,
            desk: Mutex::new(desk),
        })
    }

    /// Invites somebody; when it returns, that is on disk.
    ///
    /// # Errors
    /// The book does not take it, or cannot be kept.
    pub fn issue(
        &self,
        role: JoinRole,
        cluster: Label,
        root: [u8; 32],
        addresses: &[String],
        (uses, life): (u32, Duration),
    ) -> anyhow::Result<(TokenId, String)> {
        let secret = new_secret()?;
        let addresses = addresses.iter().map(|it| it.parse());
        let token = JoinToken {
            role,
            cluster: cluster.clone(),
            secret,
            root,
            addresses: addresses.collect::<Result<_, _>>()?,
        };
        let text = token.to_text()?;
        let id = self.change(|desk| {
            let now = unix_now();
            Ok(desk.book.issue(&secret, role, cluster, uses, life, now)?)
        })?;
        Ok((id, text))
    }

    /// Takes one use of a token for a name, and lets it in by `admit`; if that fails, nothing is taken.
    /// If the book cannot be kept afterwards, it is let in and has to ask again, with the same key.
    /// The same key may ask again for the name that it has, in case the answer was lost, and that
    /// takes nothing either.
    ///
    /// # Errors
    /// There is no key to certify, the token is not good, the name is another's, it is not let in, or
    /// the book cannot be kept.
    pub fn redeem<T>(
        &self,
        request: &JoinRequest,
        admit: impl FnOnce() -> anyhow::Result<T>,
    ) -> Result<T, DeskError> {
        // Before anything is taken: no certificate could be issued afterwards.
        key_hash(&request.csr)?;
        let member = format!("{}/{}", request.role, request.name);
        self.change(|desk| {
            match desk.members.get(&member) {
                Some(key) if *key == request.csr => return admit().map_err(DeskError::Refused),
                Some(_) => {
                    return Err(DeskError::Taken {
                        role: request.role,
                        name: request.name.clone(),
                    });
                }
                None => {}
            }
            let now = unix_now();
            let admitted = desk.book.redeem(&request.secret, request.role, now)?;
            if request.role == JoinRole::Cluster && admitted.cluster != request.name {
                return Err(JoinFault::Unknown.into());
            }
            desk.members.insert(member, request.csr.clone());
            admit().map_err(DeskError::Refused)
        })
    }

    /// Whether whoever asks for a new certificate has joined here, and with this key.
    ///
    /// # Errors
    /// Nobody has under this name, or with another key.
    pub fn knows(&self, request: &RenewRequest) -> Result<(), DeskError> {
        let (role, name) = (request.role, request.name.clone());
        let desk = self.lock();
        let Some(csr) = desk.members.get(&format!("{role}/{name}")) else {
            return Err(DeskError::Stranger { role, name });
        };
        match (key_hash(csr), key_hash(&request.csr)) {
            (Ok(joined), Ok(asked)) if joined == asked => Ok(()),
            _ => Err(DeskError::Taken { role, name }),
        }
    }

    /// Every token: its id, role, cluster, uses and those that are taken, and when it ends, in
    /// seconds since 1970.
    #[must_use]
    pub fn list(&self) -> Vec<weald_trust::join::Entry> {
        self.lock().book.list().cloned().collect()
    }

    /// Takes a token back.
    ///
    /// # Errors
    /// There is none of this id, or the book cannot be kept.
    pub fn revoke(&self, id: TokenId) -> Result<(), DeskError> {
        self.change(|desk| {
            desk.book.revoke(id)?;
            Ok(())
        })
    }

    /// Forgets that a name was given, so that another key may have it.
    ///
    /// # Errors
    /// The book cannot be kept.
    pub fn forget(&self, role: JoinRole, name: &Label) -> Result<(), DeskError> {
        self.change(|desk| {
            desk.members.remove(&format!("{role}/{name}"));
            Ok(())
        })
    }

    /// Changes the book on disk, then in memory.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Desk) -> Result<T, DeskError>,
    ) -> Result<T, DeskError> {
        let mut desk = self.lock();
        let mut next = desk.clone();
        let answer = change(&mut next)?;
        let kept = serde_json::to_vec(&next).map_err(anyhow::Error::from);
        kept.and_then(|bytes| files::write(&self.path, &bytes, SECRET, Existing::Replace))
            .map_err(DeskError::Disk)?;
        *desk = next;
        Ok(answer)
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the port at which others join. `admit` checks and redeems the request on a blocking
/// thread, and gives the answer.
pub async fn serve<A>(endpoint: &Endpoint, admit: A)
where
    A: Fn(JoinRequest) -> JoinResponse + Clone + Send + 'static,
{
    link::accept(endpoint, move |accepted: Accepted| {
        let admit = admit.clone();
        async move {
            let from = accepted.connection.remote_address();
            let served = tokio::time::timeout(PATIENCE, answer(accepted, admit)).await;
            if let Err(error) = served.unwrap_or_else(|error| Err(error.into())) {
                tracing::info!(%from, "not joined: {error:#}");
            }
        }
    })
    .await;
}

async fn answer<A>(accepted: Accepted, admit: A) -> anyhow::Result<()>
where
    A: Fn(JoinRequest) -> JoinResponse + Send + 'static,
{
    let Accepted {
        connection,
        streams: (mut send, mut recv),
        ..
    } = accepted;
    let request = recv.read_to_end(MAX_MESSAGE_LEN + 4).await?;
    let response = match unframed(&request).and_then(|it| Ok(JoinRequest::decode(it)?)) {
        Ok(request) => {
            let (role, name) = (request.role, request.name.clone());
            let response = tokio::task::spawn_blocking(move || admit(request)).await?;
            match &response {
                JoinResponse::Admitted { .. } => tracing::info!(%role, %name, "joined"),
                JoinResponse::Refused { text } => {
                    tracing::warn!(%role, %name, text, "not let in");
                }
            }
            response
        }
        Err(error) => JoinResponse::Refused {
            text: format!("the request cannot be read: {error:#}"),
        },
    };
    send.write_all(&framed(&response.encode()?)).await?;
    send.finish()?;
    // The other end closes when it has read the answer.
    connection.closed().await;
    Ok(())
}

/// Says who one is to whoever has issued the token.
///
/// # Errors
/// It does not answer.
pub async fn ask(dialled: Dialled, request: &JoinRequest) -> anyhow::Result<JoinResponse> {
    let Dialled {
        connection,
        streams: (mut send, mut recv),
    } = dialled;
    send.write_all(&framed(&request.encode()?)).await?;
    send.finish()?;
    let answer = recv.read_to_end(MAX_MESSAGE_LEN + 4).await?;
    let response = JoinResponse::decode(unframed(&answer)?)?;
    close(&connection);
    Ok(response)
}

fn close(connection: &Connection) {
    connection.close(VarInt::from_u32(0), b"done");
}

/// The one message of a stream that has ended.
fn unframed(bytes: &[u8]) -> anyhow::Result<&[u8]> {
    let (length, message) = bytes.split_first_chunk::<4>().context("no message")?;
    let length = usize::try_from(u32::from_be_bytes(*length))?;
    anyhow::ensure!(
        length == message.len(),
        "a message of {length} bytes has {}",
        message.len()
    );
    Ok(message)
}

#[cfg(test)]
mod tests;
