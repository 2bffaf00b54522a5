//! Who was invited, and who has come: tokens issued, redeemed and revoked.
//!
//! Pure: a value with `now` as an argument, to be kept on disk. Of a secret nothing but its hash is
//! kept. Redeeming changes the book at once; whoever owns it keeps it before it answers, so that a
//! use that was answered is never given again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weald_proto::id::Label;
use weald_proto::join::{JoinRole, JoinSecret};
use weald_proto::statement::UnixSeconds;

use super::sha256;

/// How many tokens a book holds. Those that are of no more use make room for new ones.
pub const MAX_TOKENS: usize = 1024;
/// How long a token may live at most.
pub const MAX_LIFE: Duration = Duration::from_hours(365 * 24);

/// What a hash is taken over before the secret, so that it is of no use elsewhere.
const HASH_CONTEXT: &[u8] = b"weald join secret v1\0";

/// Names a token without saying its secret: 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenId {
    type Err = JoinFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = u64::from_str_radix(text, 16).ok().map(Self);
        id.filter(|id| id.to_string() == text)
            .ok_or_else(|| JoinFault::Id(text.chars().take(32).collect()))
    }
}

impl TryFrom<String> for TokenId {
    type Error = JoinFault;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.to_string()
    }
}

/// One token, as whoever issued it knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Names the token.
    pub id: TokenId,
    /// As what one may join.
    pub role: JoinRole,
    /// The cluster to join, or the name of the new one.
    pub cluster: Label,
    /// How often it may be redeemed.
    pub uses: u32,
    /// How often it was.
    pub used: u32,
    /// When it was issued.
    pub issued: UnixSeconds,
    /// From when on it is of no use.
    pub expires: UnixSeconds,
    hash: [u8; 32],
}

impl Entry {
    /// Whether it can be redeemed.
    #[must_use]
    pub const fn is_open(&self, now: UnixSeconds) -> bool {
        self.used < self.uses && now < self.expires
    }
}

/// What a redeemed token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Which token.
    pub token: TokenId,
    /// As what one joins.
    pub role: JoinRole,
    /// The cluster that is joined, or the name of the new one.
    pub cluster: Label,
    /// How often the token can still be redeemed.
    pub left: u32,
}

/// Why a token is not issued, redeemed or revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinFault {
    /// No such secret was given out, or the token was revoked.
    #[error("no such join token was issued here, or it was revoked; ask for a new one")]
    Unknown,
    /// It was redeemed as often as it may be.
    #[error("join token {id} was used {uses} of {uses} times; ask for a new one")]
    UsedUp {
        /// Which token.
        id: TokenId,
        /// How often it may be redeemed.
        uses: u32,
    },
    /// Its life is over.
    #[error(
        "join token {id} expired at {expired}; it is now {now} (seconds since 1970); ask for a new one"
    )]
    Expired {
        /// Which token.
        id: TokenId,
        /// When its life ended.
        expired: UnixSeconds,
        /// What this process takes for the current time.
        now: UnixSeconds,
    },
    /// It was issued for another role.
    #[error("join token {id} admits a {issued}, not a {wanted}")]
    WrongRole {
        /// Which token.
        id: TokenId,
        /// What it was issued for.
        issued: JoinRole,
        /// What was asked for.
        wanted: JoinRole,
    },
    /// A token without uses is asked for.
    #[error("a join token needs at least 1 use")]
    NoUses,
    /// A token is to live too long, or not at all.
    #[error("a join token may live 1 to {max} seconds, not {0}", max = MAX_LIFE.as_secs())]
    Life(u64),
    /// The secret was used before.
    #[error("this secret is that of another join token")]
    Repeated,
    /// There are too many tokens.
    #[error("{MAX_TOKENS} join tokens are open; revoke some")]
    Full,
    /// A text is no id.
    #[error("{0:?} is not the id of a join token: 16 hexadecimal digits")]
    Id(String),
    /// No token has this id.
    #[error("there is no join token {0}")]
    NoSuchId(TokenId),
}

/// All tokens of one issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinBook {
    /// In the order in which they were issued; at most [`MAX_TOKENS`].
    tokens: Vec<Entry>,
}

impl JoinBook {
    /// Invites somebody who will show `secret` (see [`super::new_secret`]).
    ///
    /// # Errors
    /// [`JoinFault::NoUses`], [`JoinFault::Life`], [`JoinFault::Repeated`] or [`JoinFault::Full`].
    pub fn issue(
        &mut self,
        secret: &JoinSecret,
        role: JoinRole,
        cluster: Label,
        uses: u32,
        life: Duration,
        now: UnixSeconds,
    ) -> Result<TokenId, JoinFault> {
        if uses == 0 {
            return Err(JoinFault::NoUses);
        }
        let seconds = life.as_secs();
        if seconds == 0 || life > MAX_LIFE {
            return Err(JoinFault::Life(seconds));
        }
        let hash = hash_of(secret);
        let id = id_of(&hash);
        if self.tokens.iter().any(|it| it.id == id) {
            return Err(JoinFault::Repeated);
        }
        self.make_room(now)?;
        self.tokens.push(Entry {
            id,
            role,
            cluster,
            uses,
            used: 0,
            issued: now,
            expires: now.saturating_add(seconds),
            hash,
        });
        Ok(id)
    }

    /// Takes one use of the token that has this secret.
    ///
    /// # Errors
    /// [`JoinFault::Unknown`], [`JoinFault::Expired`], [`JoinFault::WrongRole`] or
    /// [`JoinFault::UsedUp`]; nothing is taken then.
    pub fn redeem(
        &mut self,
        secret: &JoinSecret,
        role: JoinRole,
        now: UnixSeconds,
    ) -> Result<Admission, JoinFault> {
        let hash = hash_of(secret);
        let entry = self.tokens.iter_mut().find(|it| it.hash == hash);
        let entry = entry.ok_or(JoinFault::Unknown)?;
        let id = entry.id;
        if now >= entry.expires {
            let expired = entry.expires;
            return Err(JoinFault::Expired { id, expired, now });
        }
        if entry.role != role {
            return Err(JoinFault::WrongRole {
                id,
                issued: entry.role,
                wanted: role,
            });
        }
        if entry.used >= entry.uses {
            let uses = entry.uses;
            return Err(JoinFault::UsedUp { id, uses });
        }
        entry.used += 1;
        Ok(Admission {
            token: id,
            role,
            cluster: entry.cluster.clone(),
            left: entry.uses - entry.used,
        })
    }

    /// All tokens, in the order in which they were issued.
    pub fn list(&self) -> impl Iterator<Item = &Entry> {
        self.tokens.iter()
    }

    /// Takes a token back; who has joined with it stays.
    ///
    /// # Errors
    /// [`JoinFault::NoSuchId`].
    pub fn revoke(&mut self, id: TokenId) -> Result<Entry, JoinFault> {
        let at = self.tokens.iter().position(|it| it.id == id);
        let at = at.ok_or(JoinFault::NoSuchId(id))?;
        Ok(self.tokens.remove(at))
    }

    fn make_room(&mut self, now: UnixSeconds) -> Result<(), JoinFault> {
        if self.tokens.len() < MAX_TOKENS {
            return Ok(());
        }
        let spare = self.tokens.iter().position(|it| !it.is_open(now));
        self.tokens.remove(spare.ok_or(JoinFault::Full)?);
        Ok(())
    }
}

fn hash_of(secret: &JoinSecret) -> [u8; 32] {
    sha256(&[HASH_CONTEXT, &secret.0].concat())
}

fn id_of(hash: &[u8; 32]) -> TokenId {
    let first = hash.first_chunk::<8>().copied().unwrap_or_default();
    TokenId(u64::from_be_bytes(first))
}
