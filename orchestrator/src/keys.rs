//! The machines' seam to keys: root's or a cluster's authority, and the judge beside it.
//!
//! What is believed and why is weald-trust's. The judge's memory is kept with the machine's
//! records, in the same commits.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use orchestrator_core::record::{Record, RecordError, Write};
use orchestrator_core::trust::Trust;
use weald_proto::id::{NodeId, Organisation};
use weald_proto::statement::{Signed, Statement};
use weald_trust::pki::{ClusterAuthority, RootAuthority};
use weald_trust::statement::{Judge, Memory, sign_cluster, sign_root};
use weald_trust::tls::{KeyHash, TrustRoot};
use weald_trust::token;

use crate::machine::unix_now;

/// The kind and key of the record that holds the judge's memory.
const JUDGE: &str = "judge";
const MEMORY: &str = "memory";

/// A cluster's authority, which a renewal replaces for all who hold it.
#[derive(Debug, Clone)]
pub struct ClusterKeys(Arc<RwLock<Arc<ClusterAuthority>>>);

impl ClusterKeys {
    /// Starts with what is in the cluster's folder.
    #[must_use]
    pub fn new(authority: ClusterAuthority) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(authority))))
    }

    /// The authority as it is now.
    #[must_use]
    pub fn now(&self) -> Arc<ClusterAuthority> {
        // It is only ever replaced whole.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes on with another one from now on.
    pub fn replace(&self, authority: ClusterAuthority) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(authority);
    }
}

/// Whose authority it is.
#[derive(Clone)]
pub enum Authority {
    /// Root's.
    Root(Arc<RootAuthority>),
    /// A cluster's.
    Cluster(ClusterKeys),
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(root) => write!(f, "Authority of root {}", root.name()),
            Self::Cluster(cluster) => write!(f, "Authority of cluster {}", cluster.now().name()),
        }
    }
}

/// Keys and a judge, as a machine and its thread share them.
#[derive(Debug, Clone)]
pub struct Keys {
    authority: Authority,
    judge: Arc<Mutex<Judge>>,
    /// The changes of the judge's memory that are persisted.
    kept: u64,
}

impl Keys {
    /// Takes up the judge from its record.
    ///
    /// # Errors
    /// The record cannot be read, or is of another root.
    pub fn restore(authority: Authority, records: &[Record]) -> anyhow::Result<Self> {
        let root: TrustRoot = match &authority {
            Authority::Root(root) => root.trust().clone(),
            Authority::Cluster(cluster) => cluster.now().trust().clone(),
        };
        let memory = records.iter().find(|record| record.kind == JUDGE);
        let judge = match memory {
            Some(record) => Judge::restore(&root, record.read::<Memory>()?)?,
            None => Judge::new(&root),
        };
        Ok(Self {
            authority,
            judge: Arc::new(Mutex::new(judge)),
            kept: 0,
        })
    }

    /// What is to be persisted of what was judged.
    ///
    /// # Errors
    /// The memory has no JSON form; a fault of the program.
    pub fn write(&mut self) -> Result<Option<Write>, RecordError> {
        let judge = lock(&self.judge);
        if judge.changes() == self.kept {
            return Ok(None);
        }
        let record = Record::new(JUDGE, MEMORY.to_owned(), &judge.memory())?;
        self.kept = judge.changes();
        Ok(Some(Write::Put(record)))
    }

    /// The revoked keys, for the links.
    pub fn revoked(&self) -> weald_trust::tls::RevocationSet {
        lock(&self.judge).revocation_set()
    }
}

impl Trust for Keys {
    fn sign(&self, statement: &Statement) -> Result<Signed, String> {
        let signed = match &self.authority {
            Authority::Root(root) => sign_root(root, statement),
            Authority::Cluster(cluster) => sign_cluster(&cluster.now(), statement),
        };
        let signed = signed.map_err(|error| error.to_string())?;
        if let (
            Authority::Root(_),
            Statement::Grant(_) | Statement::Revocations(_) | Statement::Service(_),
        ) = (&self.authority, statement)
        {
            // What clusters sign is judged by root's own grants as everybody else does.
            let judged = lock(&self.judge).judge(&signed, unix_now());
            judged.map_err(|error| error.to_string())?;
        }
        Ok(signed)
    }

    fn judge(&mut self, signed: &Signed, unix: u64) -> Result<Statement, String> {
        let judged = lock(&self.judge).judge(signed, unix);
        judged
            .map(|judged| judged.statement)
            .map_err(|error| error.to_string())
    }

    fn key_hash(&self, key: &[u8; 32]) -> [u8; 32] {
        KeyHash::of_ed25519(key).0
    }

    fn relay_token(
        &self,
        node: &NodeId,
        key: &[u8; 32],
        organisation: &Organisation,
        unix: u64,
    ) -> Result<Vec<u8>, String> {
        let Authority::Cluster(cluster) = &self.authority else {
            return Err("root issues no relay tokens".to_owned());
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(unix);
        let key = KeyHash(*key);
        token::issue(
            &cluster.now(),
            node,
            key,
            organisation,
            now,
            token::TOKEN_LIFE,
        )
        .map_err(|error| format!("{error:#}"))
    }
}

/// A judge is changed only by what has passed; a panic elsewhere does not spoil it.
fn lock(judge: &Mutex<Judge>) -> MutexGuard<'_, Judge> {
    judge.lock().unwrap_or_else(PoisonError::into_inner)
}
