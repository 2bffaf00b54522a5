//! Keeps the table: which one is in use, where it came from, and what is wrong with its file; and
//! the instances that are attached to this node beside those of the file.
//!
//! The file is what counts; a copy of the last good one is kept on disk and used at the start when
//! the file is missing or invalid. An invalid file never replaces a table in use.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use netmanager_core::peer::relay_link::Revoked;
use netmanager_core::rows::{Attached, with_attached};
use netmanager_core::table::{Nodes, Snapshot};
use weald_proto::addr::Dual;
use weald_proto::id::NodeId;
use weald_proto::table::Table;
use weald_trust::tls::Credentials;

use super::rows_source::{Extras, RowsSource};
use crate::api::report::TableReport;
use crate::config::{parse_table, read_file};
use crate::state::{RESET_KEY_LEN, StateDir};

/// The table in use, and all that follows it.
#[derive(Debug)]
pub(super) struct TableKeeper {
    /// The table's file; empty if rows come from a cluster.
    file: PathBuf,
    /// What is known from the cluster; none if there is a table's file.
    rows: Option<RowsSource>,
    state: StateDir,
    node: NodeId,
    nodes: Nodes,
    epoch: u64,
    /// What the file says.
    base: Table,
    /// The instances that are attached to this node.
    attached: Vec<Attached>,
    /// The table in use: the file's, with the attached instances.
    table: Table,
    /// What the snapshot in use has beside the table.
    extras: Extras,
    /// What the file had when it was last looked at; none if it could not be read.
    seen: Option<String>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    report: Arc<ArcSwap<TableReport>>,
}

/// A valid table that is not in use yet.
#[derive(Debug)]
pub(super) struct Candidate {
    table: Table,
    extras: Extras,
    attached: Vec<Attached>,
    /// What the file says now, if it has changed, and its text.
    file: Option<(Table, String)>,
}

impl Candidate {
    pub(super) const fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// The node's own addresses, if they are not the table's to say.
    pub(super) const fn node_ip(&self) -> Option<Dual> {
        self.extras.node_ip
    }
}

impl TableKeeper {
    /// Takes up what is kept of what the cluster has said.
    pub(super) fn from_cluster(
        state: StateDir,
        node: &NodeId,
        credentials: &Credentials,
        cluster: String,
    ) -> Self {
        let mut rows = RowsSource::load(&state, node, credentials);
        let attached = state.kept_attached();
        let own = attached.iter();
        let own = own.map(|one| one.instance.service.application.clone());
        rows.interests.set_own(own.collect());
        let (table, extras) = rows.build(&attached);
        let mut nodes = Nodes::new();
        let snapshot = snapshot_of(&table, &extras, node, &mut nodes, 1);
        let keeper = Self {
            file: cluster.into(),
            rows: Some(rows),
            state,
            node: node.clone(),
            nodes,
            epoch: 1,
            base: Table::default(),
            attached,
            table,
            extras,
            seen: None,
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            report: Arc::default(),
        };
        keeper.publish(false, None);
        keeper
    }

    /// What is known from the cluster, if there is one.
    pub(super) const fn rows(&mut self) -> Option<&mut RowsSource> {
        self.rows.as_mut()
    }

    /// What peers are shown at the start, and the relay token, if rows come from a cluster.
    pub(super) fn starts_with(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let Some(rows) = &self.rows else {
            return (Vec::new(), None);
        };
        let token = rows.relay_token().map(<[u8]>::to_vec);
        (
            rows.shown(&self.node),
            token.filter(|token| !token.is_empty()),
        )
    }

    /// The newest list of the revoked, if rows come from a cluster.
    pub(super) fn revoked(&self) -> Option<Revoked> {
        self.rows.as_ref().map(RowsSource::revoked)
    }

    /// Whether a candidate is what is in use already.
    pub(super) fn is_in_use(&self, candidate: &Candidate) -> bool {
        self.table == candidate.table && self.extras == candidate.extras
    }

    /// Keeps on disk what must not be believed twice.
    pub(super) fn keep_memory(&mut self) {
        if let Some(rows) = &mut self.rows {
            rows.keep_memory(&self.state);
        }
    }

    /// Keeps on disk what the cluster has said, if that has changed.
    pub(super) fn keep_rows(&mut self) {
        if let Some(rows) = &mut self.rows
            && std::mem::take(&mut rows.is_dirty)
        {
            rows.keep_rows(&self.state);
        }
    }

    /// The candidate that `table` makes; of a cluster's rows, if they come from there.
    pub(super) fn candidate_in_use(&self) -> Candidate {
        Candidate {
            table: self.table.clone(),
            extras: self.extras.clone(),
            attached: self.attached.clone(),
            file: None,
        }
    }

    /// Reads the file or, if it is missing or invalid, the kept copy.
    pub(super) fn load(file: &Path, state: StateDir, node: &NodeId) -> anyhow::Result<Self> {
        let seen = read_file(file);
        let read = seen
            .as_ref()
            .map_err(|errors| errors.clone().into())
            .and_then(|text| read_table(file, text, node));
        let (base, error) = match read {
            Ok(base) => (base, None),
            Err(error) => (kept(&state, node, &error)?, Some(format!("{error:#}"))),
        };
        let seen = seen.ok();
        if let (Some(text), None) = (&seen, &error) {
            keep(&state, text);
        }
        let mut nodes = Nodes::new();
        let attached = state.kept_attached();
        let table = with_attached(base.clone(), node, &attached);
        let snapshot = Snapshot::build(&table, node, &mut nodes, 1);
        let keeper = Self {
            file: file.to_owned(),
            rows: None,
            state,
            node: node.clone(),
            nodes,
            epoch: 1,
            base,
            attached,
            table,
            extras: Extras::default(),
            seen,
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            report: Arc::default(),
        };
        keeper.publish(error.is_some(), error);
        Ok(keeper)
    }

    pub(super) const fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// The table without what is attached to this node.
    pub(super) const fn base(&self) -> &Table {
        &self.base
    }

    /// The table that other attached instances would make.
    pub(super) fn with_attached(&self, attached: Vec<Attached>) -> Candidate {
        let (table, extras) = match &self.rows {
            Some(rows) => rows.build(&attached),
            None => {
                let table = with_attached(self.base.clone(), &self.node, &attached);
                (table, Extras::default())
            }
        };
        Candidate {
            table,
            extras,
            attached,
            file: None,
        }
    }

    /// Keeps on disk which instances are attached.
    pub(super) fn keep_attached(&self, attached: &[Attached]) -> anyhow::Result<()> {
        self.state.keep_attached(attached)
    }

    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn snapshot(&self) -> Arc<ArcSwap<Snapshot>> {
        Arc::clone(&self.snapshot)
    }

    pub(super) fn report(&self) -> Arc<ArcSwap<TableReport>> {
        Arc::clone(&self.report)
    }

    /// The table in the file if it is valid and another than the one in use. What is wrong with an
    /// invalid one is logged and reported.
    pub(super) fn read_change(&mut self) -> Option<Candidate> {
        let text = match read_file(&self.file) {
            Ok(text) => text,
            Err(errors) => {
                self.seen = None;
                self.complain(&errors.into());
                return None;
            }
        };
        if self.seen.as_ref() == Some(&text) {
            return None;
        }
        self.seen = Some(text.clone());
        match read_table(&self.file, &text, &self.node) {
            Ok(base) if base == self.base => {
                keep(&self.state, &text);
                self.publish(false, None);
                None
            }
            Ok(base) => Some(Candidate {
                table: with_attached(base.clone(), &self.node, &self.attached),
                extras: Extras::default(),
                attached: self.attached.clone(),
                file: Some((base, text)),
            }),
            Err(error) => {
                self.complain(&error);
                None
            }
        }
    }

    /// Puts a table to use and keeps it on disk.
    pub(super) fn accept(&mut self, candidate: Candidate) -> Arc<Snapshot> {
        self.epoch += 1;
        self.table = candidate.table;
        self.attached = candidate.attached;
        if let Some((base, text)) = candidate.file {
            self.base = base;
            keep(&self.state, &text);
        }
        self.extras = candidate.extras;
        let (table, extras) = (&self.table, &self.extras);
        let snapshot = snapshot_of(table, extras, &self.node, &mut self.nodes, self.epoch);
        let snapshot = Arc::new(snapshot);
        self.snapshot.store(Arc::clone(&snapshot));
        self.publish(false, None);
        snapshot
    }

    /// Leaves a table unused because the overlay cannot be changed to it. It is tried again when
    /// the file changes, or on SIGHUP.
    pub(super) fn refuse(&mut self, candidate: Candidate, error: &anyhow::Error) {
        drop(candidate);
        self.seen = None;
        self.complain(error);
    }

    pub(super) fn reset_key(&self) -> anyhow::Result<[u8; RESET_KEY_LEN]> {
        self.state.reset_key()
    }

    pub(super) fn kept_peers(&self) -> Vec<NodeId> {
        self.state.kept_peers()
    }

    pub(super) fn keep_peers(&self, peers: &[NodeId]) {
        if let Err(error) = self.state.keep_peers(peers.iter()) {
            tracing::warn!(error = %format!("{error:#}"), "cannot keep the list of active peers");
        }
    }

    fn complain(&self, error: &anyhow::Error) {
        let error = format!("{error:#}");
        let report = self.report.load();
        if report.error.as_ref() == Some(&error) {
            return;
        }
        tracing::warn!("the new table is not used; the table stays as it was:\n{error}");
        self.publish(report.from_kept_copy, Some(error));
    }

    fn publish(&self, from_kept_copy: bool, error: Option<String>) {
        self.report.store(Arc::new(TableReport {
            file: self.file.display().to_string(),
            from_kept_copy,
            epoch: self.epoch,
            nodes: self.table.nodes.len(),
            relays: self.table.relays.len(),
            services: self.table.services.len(),
            instances: self.table.instances.len(),
            error,
        }));
    }
}

fn snapshot_of(
    table: &Table,
    extras: &Extras,
    me: &NodeId,
    nodes: &mut Nodes,
    epoch: u64,
) -> Snapshot {
    Snapshot::build(table, me, nodes, epoch)
        .with_scope(extras.scope.clone())
        .with_draining(&extras.draining)
        .with_leases(&extras.guests, &extras.leased, nodes)
}

/// Reads a table that has this node.
fn read_table(file: &Path, text: &str, node: &NodeId) -> anyhow::Result<Table> {
    let table = parse_table(file, text)?;
    if table.node(node).is_none() {
        let known: Vec<String> = table.nodes.iter().map(|row| row.id.to_string()).collect();
        bail!(
            "{}: has no row for this node, {node}; it has {}",
            file.display(),
            known.join(", ")
        );
    }
    Ok(table)
}

/// The kept copy, because the file cannot be used for `error`.
fn kept(state: &StateDir, node: &NodeId, error: &anyhow::Error) -> anyhow::Result<Table> {
    let kept = match state.kept_table() {
        Ok(Some(kept)) if kept.node(node).is_some() => kept,
        Ok(_) => bail!("{error:#}"),
        Err(damage) => {
            tracing::warn!("the kept table is damaged too:\n{damage}");
            bail!("{error:#}")
        }
    };
    tracing::warn!("the table's file cannot be used; starting with the kept copy:\n{error:#}");
    Ok(kept)
}

fn keep(state: &StateDir, text: &str) {
    let kept = state.keep_table(text).context("cannot keep the table");
    if let Err(error) = kept {
        tracing::warn!("{error:#}; after a restart an older one may be used");
    }
}
