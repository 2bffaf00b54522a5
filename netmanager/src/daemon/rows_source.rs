//! What this node knows from its cluster: rows, grants, leases, the revoked; judged, and kept on
//! disk so that the next start has them before the cluster is reached.
//!
//! On disk are the messages that would bring a new node to the same state, so that one path reads
//! both. Sessions are the packet thread's, namespaces the overlay's.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::Context as _;
use netmanager_core::peer::relay_link::Revoked;
use netmanager_core::rows::{
    Attached, Basics, Interests, Judged, Knowledge, Leased, MAX_GUESTS, RowStore,
};
use netmanager_core::table::Scope;
use weald_proto::addr::Dual;
use weald_proto::codec::{MAX_MESSAGE_LEN, Message as _};
use weald_proto::id::{Label, NodeId, RelayId};
use weald_proto::name::{ApplicationName, InstanceId};
use weald_proto::session::{ClusterToNet, PeerToPeer, VERSION};
use weald_proto::statement::{Lease, Signed, Statement, UnixSeconds};
use weald_proto::stream::{Deframer, framed};
use weald_proto::table::Table;
use weald_trust::statement::{Judge, News, StatementFault};
use weald_trust::tls::{Credentials, KeyHash};

use crate::state::StateDir;

#[cfg(test)]
mod tests;

/// Rows in one kept message: some 300 bytes each, far below the longest message.
const KEPT_ROWS_PER_MESSAGE: usize = 4096;

/// Bytes of rows that may wait for the message that ends them: those of a million rows.
const MAX_PARTIAL: usize = 256 << 20;

/// What a node knows from its cluster.
#[derive(Debug)]
pub(super) struct RowsSource {
    judge: Judge,
    pub(super) store: RowStore,
    pub(super) interests: Interests,
    /// As it came.
    welcome: Option<ClusterToNet>,
    /// The own lease, and its signature.
    lease: Option<(Lease, Signed)>,
    /// Rows that the cluster goes on with, and their bytes.
    partial: Vec<Signed>,
    partial_bytes: usize,
    guests: BTreeSet<NodeId>,
    /// How much of the judge's memory is on disk.
    kept_changes: u64,
    /// Whether rows have changed since they were kept.
    pub(super) is_dirty: bool,
}

/// What a snapshot has beside the table's rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Extras {
    pub(super) scope: Scope,
    pub(super) leased: Vec<Leased>,
    pub(super) draining: Vec<InstanceId>,
    pub(super) guests: Vec<NodeId>,
    /// The node's own addresses, which the table may not have yet; none with a static table.
    pub(super) node_ip: Option<Dual>,
}

impl RowsSource {
    /// Takes up what was kept on disk; what of it does not hold any more is left out.
    pub(super) fn load(state: &StateDir, me: &NodeId, credentials: &Credentials) -> Self {
        let judge = state.kept_memory().and_then(|memory| {
            Judge::restore(credentials.root(), memory)
                .inspect_err(|error| {
                    tracing::warn!(%error, "the memory of statements is damaged; starting anew");
                })
                .ok()
        });
        let mut source = Self {
            judge: judge.unwrap_or_else(|| Judge::new(credentials.root())),
            store: RowStore::new(me.clone()),
            interests: Interests::default(),
            welcome: None,
            lease: None,
            partial: Vec::new(),
            partial_bytes: 0,
            guests: BTreeSet::new(),
            kept_changes: 0,
            is_dirty: false,
        };
        let now = credentials.clock().now().as_secs();
        let mut deframer = Deframer::new(MAX_MESSAGE_LEN);
        deframer.feed(&state.kept_rows());
        while let Ok(Some(message)) = deframer.next_message() {
            match ClusterToNet::decode(message) {
                Ok(message) => source.hear(message, now),
                Err(error) => tracing::warn!(%error, "the kept rows are damaged"),
            }
        }
        credentials.set_revoked(source.judge.revocation_set());
        source.is_dirty = false;
        source
    }

    /// Takes what the cluster says.
    pub(super) fn hear(&mut self, message: ClusterToNet, now: UnixSeconds) {
        self.is_dirty = true;
        match message {
            ClusterToNet::Welcome {
                version,
                ref pools,
                ref zones,
                node_ip,
                ..
            } => {
                // What an earlier session had begun to say begins anew.
                self.partial.clear();
                self.partial_bytes = 0;
                if version != VERSION {
                    tracing::warn!(version, "the cluster speaks another version than {VERSION}");
                }
                self.store.set_basics(Basics {
                    pools: pools.clone(),
                    zones: zones.clone(),
                    node_ip,
                });
                self.welcome = Some(message);
            }
            ClusterToNet::Lease(signed) => self.take_own_lease(signed, now),
            ClusterToNet::Grant(signed) | ClusterToNet::Revocations(signed) => {
                self.take(&signed, now);
            }
            ClusterToNet::Rows {
                complete,
                rows,
                more,
            } => {
                let bytes: usize = rows.iter().map(|row| row.statement.len()).sum();
                self.partial_bytes += bytes;
                let is_whole = self.partial_bytes <= MAX_PARTIAL;
                if more && is_whole {
                    self.partial.extend(rows);
                } else {
                    let mut all = std::mem::take(&mut self.partial);
                    all.extend(rows);
                    // Of more than can be, what is not there is not gone for that.
                    let complete = if is_whole { complete } else { Vec::new() };
                    self.take_rows(&complete, all, now);
                }
                if !more {
                    self.partial_bytes = 0;
                }
            }
            ClusterToNet::Unknown(application) => self.store.handle_unknown(application),
            // Whoever holds the credentials has taken it.
            ClusterToNet::Renewed(_) => {}
        }
    }

    /// Takes what another node shows; true if it is something to act on.
    pub(super) fn hear_peer(
        &mut self,
        peer: &NodeId,
        message: PeerToPeer,
        now: UnixSeconds,
    ) -> bool {
        let signed = match message {
            PeerToPeer::Hello { .. }
            | PeerToPeer::Candidates { .. }
            | PeerToPeer::Punch { .. }
            | PeerToPeer::PunchOpened { .. }
            | PeerToPeer::BenchAsk { .. }
            | PeerToPeer::BenchAnswer { .. } => return false,
            PeerToPeer::Grant(signed)
            | PeerToPeer::Lease(signed)
            | PeerToPeer::Revocations(signed) => signed,
        };
        let about = Statement::decode(&signed.statement);
        let may_show = match &about {
            Ok(Statement::Grant(_) | Statement::Revocations(_)) => true,
            // Leases are short-lived and say who sends what; only their own node shows them.
            Ok(Statement::Lease(lease)) => lease.node == *peer,
            Ok(
                Statement::Service(_)
                | Statement::Instance(_)
                | Statement::Node(_)
                | Statement::Relay(_),
            )
            | Err(_) => false,
        };
        if !may_show {
            tracing::warn!(%peer, "a peer shows what is not its to show");
            return false;
        }
        let taken = self.take(&signed, now);
        self.is_dirty |= taken;
        taken
    }

    /// Takes what a relay says of the revoked; true if it is something to act on.
    pub(super) fn hear_relay(
        &mut self,
        relay: &RelayId,
        signed: &Signed,
        now: UnixSeconds,
    ) -> bool {
        let about = Statement::decode(&signed.statement);
        if !matches!(about, Ok(Statement::Revocations(_))) {
            tracing::warn!(%relay, "a relay shows what is not its to show");
            return false;
        }
        let taken = self.take(signed, now);
        self.is_dirty |= taken;
        taken
    }

    /// Takes a node that has shown its certificate but has no row.
    pub(super) fn take_guest(&mut self, node: NodeId) {
        if self.guests.len() >= MAX_GUESTS {
            self.guests.pop_first();
        }
        self.guests.insert(node);
    }

    /// Judges one statement and takes it into the store; false if it is not believed, or says
    /// nothing new: whoever says the same again and again costs a judgement each time, no new table.
    fn take(&mut self, signed: &Signed, now: UnixSeconds) -> bool {
        match self.judge.judge(signed, now) {
            Ok(judged) => {
                let rules = matches!(
                    judged.statement,
                    Statement::Grant(_) | Statement::Revocations(_)
                );
                let is_new = rules && judged.news == News::New;
                let has_changed = self.store.handle(Judged {
                    statement: judged.statement,
                    signed: signed.clone(),
                });
                if is_new {
                    self.judge_again(now);
                }
                is_new || has_changed
            }
            Err(fault) => {
                tracing::warn!(%fault, "a statement is not believed");
                false
            }
        }
    }

    /// Judges everything anew, by the grants and the list of the revoked of now.
    fn judge_again(&mut self, now: UnixSeconds) {
        let judge = &mut self.judge;
        self.store
            .withdraw_unless(|signed| match judge.judge(signed, now) {
                Ok(_) => true,
                Err(fault) => {
                    tracing::info!(%fault, "a statement does not hold any more");
                    false
                }
            });
    }

    /// The clusters whose keys are revoked.
    pub(super) fn revoked_clusters(&self) -> Vec<Label> {
        let Some(list) = self.judge.revocations() else {
            return Vec::new();
        };
        let grants =
            self.judge
                .grants()
                .filter_map(|signed| match Statement::decode(&signed.statement) {
                    Ok(Statement::Grant(grant)) => Some(grant),
                    Ok(
                        Statement::Revocations(_)
                        | Statement::Service(_)
                        | Statement::Instance(_)
                        | Statement::Node(_)
                        | Statement::Relay(_)
                        | Statement::Lease(_),
                    )
                    | Err(_) => None,
                });
        let is_revoked = |key: &[u8; 32]| list.keys.contains(&KeyHash::of_ed25519(key).0);
        let revoked = grants.filter(|grant| is_revoked(&grant.key));
        revoked.map(|grant| grant.cluster).collect()
    }

    fn take_own_lease(&mut self, signed: Signed, now: UnixSeconds) {
        match self
            .judge
            .judge(&signed, now)
            .map(|judged| judged.statement)
        {
            Ok(Statement::Lease(lease)) => self.lease = Some((lease, signed)),
            Ok(
                Statement::Grant(_)
                | Statement::Revocations(_)
                | Statement::Service(_)
                | Statement::Instance(_)
                | Statement::Node(_)
                | Statement::Relay(_),
            ) => tracing::warn!("the cluster gives for a lease what is none"),
            Err(fault) => tracing::warn!(%fault, "the own lease is not believed"),
        }
    }

    fn take_rows(&mut self, complete: &[ApplicationName], rows: Vec<Signed>, now: UnixSeconds) {
        let mut believed = Vec::with_capacity(rows.len());
        let mut stale = Vec::new();
        for signed in rows {
            match self.judge.judge(&signed, now) {
                Ok(judged) => believed.push(Judged {
                    statement: judged.statement,
                    signed,
                }),
                Err(StatementFault::Stale { .. }) => {
                    stale.extend(Statement::decode(&signed.statement));
                }
                Err(fault) => tracing::warn!(%fault, "a row is not believed"),
            }
        }
        self.store.handle_rows(complete, believed, &stale);
    }

    /// The table of what is known, and what a snapshot has beside it.
    pub(super) fn build(&self, attached: &[Attached]) -> (Table, Extras) {
        let built = self.store.build(attached);
        for fault in &built.faults {
            tracing::warn!(%fault, "a row contradicts others and is left out");
        }
        let known = self.store.applications().map(|(name, _)| name.clone());
        let extras = Extras {
            scope: Scope::Applications(known.collect()),
            leased: built.leased,
            draining: built.draining,
            guests: self.guests.iter().cloned().collect(),
            node_ip: Some(
                self.store
                    .basics()
                    .map_or_else(Dual::default, |basics| basics.node_ip),
            ),
        };
        (built.table, extras)
    }

    /// The token that the cluster has given for relays.
    pub(super) fn relay_token(&self) -> Option<&[u8]> {
        match &self.welcome {
            Some(ClusterToNet::Welcome { relay_token, .. }) => Some(relay_token),
            _ => None,
        }
    }

    /// The epoch of the own lease, and of the list of the revoked; 0 for none.
    pub(super) fn epochs(&self) -> (u64, u64) {
        let lease = self.lease.as_ref().map_or(0, |(lease, _)| lease.epoch);
        let revoked = self.judge.revocations().map_or(0, |list| list.epoch);
        (lease, revoked)
    }

    /// The newest list of the revoked, as relays are told it.
    pub(super) fn revoked(&self) -> Revoked {
        Revoked {
            epoch: self.epochs().1,
            list: self.judge.signed_revocations().cloned(),
        }
    }

    pub(super) const fn judge(&self) -> &Judge {
        &self.judge
    }

    /// What peers are shown, each message behind its length.
    pub(super) fn shown(&self, me: &NodeId) -> Vec<u8> {
        let (_, revocations) = self.epochs();
        let own = |signed: &&Signed| {
            let statement = Statement::decode(&signed.statement);
            matches!(statement, Ok(Statement::Grant(grant)) if grant.cluster == me.cluster)
        };
        let hello = PeerToPeer::Hello {
            version: VERSION,
            revocations,
        };
        let grant = self.judge.grants().find(own).cloned();
        let lease = self.lease.as_ref().map(|(_, signed)| signed.clone());
        std::iter::once(hello)
            .chain(grant.map(PeerToPeer::Grant))
            .chain(lease.map(PeerToPeer::Lease))
            .filter_map(|message| Some(framed(&message.encode().ok()?)))
            .flatten()
            .collect()
    }

    /// Drops what has lost its worth by itself.
    pub(super) fn expire(
        &mut self,
        now: UnixSeconds,
        instant: Instant,
        is_connected: bool,
    ) -> bool {
        let leases = self.store.expire_leases(now);
        let interests = is_connected && self.interests.handle_timeout(instant);
        if interests {
            self.store.keep_only(&self.interests.all());
        }
        self.is_dirty |= leases | interests;
        interests
    }

    /// Keeps on disk what must not be believed twice; to be called before anything is acted on.
    pub(super) fn keep_memory(&mut self, state: &StateDir) {
        let changes = self.judge.changes();
        if changes == self.kept_changes {
            return;
        }
        match state.keep_memory(&self.judge.memory()) {
            Ok(()) => self.kept_changes = changes,
            Err(error) => tracing::warn!("{error:#}; old statements may be believed again"),
        }
    }

    /// Keeps on disk what the next start begins with.
    pub(super) fn keep_rows(&self, state: &StateDir) {
        let kept = self
            .messages()
            .and_then(|bytes| state.keep_rows(&bytes))
            .context("cannot keep the rows");
        if let Err(error) = kept {
            tracing::warn!("{error:#}; after a restart older ones may be used");
        }
    }

    fn messages(&self) -> anyhow::Result<Vec<u8>> {
        let applications = |wanted| {
            let all = self.store.applications();
            all.filter(move |(_, known)| *known == wanted)
                .map(|(name, _)| name.clone())
        };
        let mut messages: Vec<ClusterToNet> = self.welcome.iter().cloned().collect();
        messages.extend(self.judge.grants().cloned().map(ClusterToNet::Grant));
        let revocations = self.judge.signed_revocations().cloned();
        messages.extend(revocations.map(ClusterToNet::Revocations));
        let lease = self.lease.as_ref().map(|(_, signed)| signed.clone());
        messages.extend(lease.map(ClusterToNet::Lease));
        messages.push(ClusterToNet::Rows {
            complete: applications(Knowledge::Complete).collect(),
            rows: Vec::new(),
            more: false,
        });
        let rows: Vec<Signed> = self.store.signed().cloned().collect();
        for rows in rows.chunks(KEPT_ROWS_PER_MESSAGE) {
            messages.push(ClusterToNet::Rows {
                complete: Vec::new(),
                rows: rows.to_vec(),
                more: false,
            });
        }
        messages.extend(applications(Knowledge::Unknown).map(ClusterToNet::Unknown));
        let mut bytes = Vec::new();
        for message in messages {
            bytes.extend_from_slice(&framed(&message.encode()?));
        }
        Ok(bytes)
    }
}
