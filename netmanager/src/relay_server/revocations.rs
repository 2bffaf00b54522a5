//! Who is revoked, as far as this relay has heard: root's newest list, believed by root's key alone
//! and kept over a restart.
//!
//! Nodes bring it ([`Session`](super::session::Session)); nobody else is asked. Until somebody does
//! there is none, and a relay without a root that speaks works as if there were no such thing. It is
//! kept in the folder of the credentials; where that cannot be written it is known until the relay
//! ends. Whom it cuts is [`Sessions`](super::sessions::Sessions)'.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tracing::{info, warn};
use weald_proto::codec::Message as _;
use weald_proto::relay::RelayMessage;
use weald_proto::statement::{Signed, Statement};
use weald_trust::pki::files::{self, Existing, PUBLIC};
use weald_trust::statement::{Judge, Memory, News, StatementFault};
use weald_trust::tls::Credentials;

use super::report::RevocationsReport;

/// The newest list, as JSON, in the folder of the credentials.
const LIST_FILE: &str = "revoked.json";
/// The largest such file: the longest list with each byte as a number of up to three digits.
const MAX_FILE_LEN: u64 = 1 << 20;

/// Why a node's list changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ListFault {
    /// It is no statement, or one on something else.
    #[error("it is not a list of the revoked")]
    Kind,
    /// It is not believed, or old.
    #[error(transparent)]
    Statement(#[from] StatementFault),
}

impl ListFault {
    /// Whether it says nothing of who has brought the list but that it is late.
    pub(super) const fn is_old(&self) -> bool {
        matches!(self, Self::Statement(StatementFault::Stale { .. }))
    }
}

/// What a relay knows of the revoked.
#[derive(Debug)]
pub(super) struct Revocations {
    judge: Judge,
    file: PathBuf,
    credentials: Arc<Credentials>,
    /// The newest list as it is told to nodes; none if there is none.
    told: Option<Bytes>,
    /// What is counted.
    pub(super) counted: RevocationsReport,
}

impl Revocations {
    /// Takes up what was kept, and has handshakes refuse those who are in it.
    pub(super) fn load(credentials: Arc<Credentials>, folder: &Path) -> Self {
        let file = folder.join(LIST_FILE);
        let memory = read(&file).unwrap_or_else(|error| {
            warn!(file = %file.display(), "the list of the revoked is damaged; starting without: {error:#}");
            None
        });
        let restored = memory.map(|memory| Judge::restore(credentials.root(), memory));
        let judge = restored.and_then(|judge| {
            judge
                .inspect_err(|error| {
                    warn!(file = %file.display(), %error, "the kept list of the revoked is not used");
                })
                .ok()
        });
        let mut revocations = Self {
            judge: judge.unwrap_or_else(|| Judge::new(credentials.root())),
            file,
            credentials,
            told: None,
            counted: RevocationsReport::default(),
        };
        revocations.enforce();
        revocations
    }

    /// The epoch of the newest list; 0 for none.
    pub(super) fn epoch(&self) -> u64 {
        self.judge.revocations().map_or(0, |list| list.epoch)
    }

    /// The newest list as a message for nodes, behind its length.
    pub(super) const fn told(&self) -> Option<&Bytes> {
        self.told.as_ref()
    }

    /// Takes a list that a node has brought; true if it is news, which refuses those who are in it
    /// from now on, and is on disk then.
    ///
    /// # Errors
    /// Says why it changes nothing.
    pub(super) fn take(&mut self, signed: &Signed) -> Result<bool, ListFault> {
        match self.judge(signed) {
            Ok(News::Same) => Ok(false),
            Ok(News::New) => {
                // First of all: a disk that is slow keeps nobody in.
                self.enforce();
                self.keep();
                info!(epoch = self.epoch(), "a newer list of the revoked");
                Ok(true)
            }
            Err(fault) => {
                self.counted.lists_refused += 1;
                Err(fault)
            }
        }
    }

    fn judge(&mut self, signed: &Signed) -> Result<News, ListFault> {
        let now = self.credentials.clock().now().as_secs();
        match Statement::decode(&signed.statement) {
            Ok(Statement::Revocations(_)) => Ok(self.judge.judge(signed, now)?.news),
            Ok(
                Statement::Grant(_)
                | Statement::Service(_)
                | Statement::Instance(_)
                | Statement::Node(_)
                | Statement::Relay(_)
                | Statement::Lease(_),
            )
            | Err(_) => Err(ListFault::Kind),
        }
    }

    fn keep(&self) {
        let kept = serde_json::to_vec(&self.judge.memory())
            .map_err(anyhow::Error::from)
            .and_then(|bytes| files::write(&self.file, &bytes, PUBLIC, Existing::Replace));
        if let Err(error) = kept {
            warn!("{error:#}; after a restart the revoked are let in until a node says so again");
        }
    }

    fn enforce(&mut self) {
        self.credentials.set_revoked(self.judge.revocation_set());
        self.counted.epoch = self.epoch();
        let signed = self.judge.signed_revocations().cloned();
        self.told = signed.map(|signed| RelayMessage::Revocations(signed).encode().into());
    }
}

/// What was kept; none if nothing ever was.
fn read(file: &Path) -> anyhow::Result<Option<Memory>> {
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    opened.take(MAX_FILE_LEN).read_to_end(&mut bytes)?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}
