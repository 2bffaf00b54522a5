//! Who this node is, as its certificate says, and what follows from it.

use std::sync::Arc;

use anyhow::{Context, bail};
use weald_proto::id::{Identity, Label, NodeId};
use weald_proto::table::Table;
use weald_trust::tls::Credentials;

use crate::config::{NetConfig, RowSource, load_table};
use crate::env::EnvConfig;
use crate::env::config::DEFAULT_PREFIX;
use crate::state;

/// A node that knows who it is.
#[derive(Debug, Clone)]
pub struct Identified {
    /// The node.
    pub node: NodeId,
    /// The name of its overlay: as configured, else made of the node's.
    pub overlay: Label,
    /// Its certificate and key.
    pub credentials: Arc<Credentials>,
}

impl Identified {
    /// Reads the node's certificate.
    ///
    /// # Errors
    /// It cannot be read, or is no node's.
    pub fn of(config: &NetConfig) -> anyhow::Result<Self> {
        let folder = config.pki.dir.display();
        let credentials = Credentials::load(&config.pki.dir)
            .with_context(|| format!("cannot read the certificates in {folder}"))?;
        let node = match credentials.identity() {
            Identity::Node(node) => node.clone(),
            other @ (Identity::Root
            | Identity::Cluster(_)
            | Identity::Control(_)
            | Identity::Relay(_)) => bail!(
                "the certificate in {folder} is for {other}, not for a node; make one with \
                 `netmanager pki issue`"
            ),
        };
        let overlay = match &config.overlay.name {
            Some(name) => name.clone(),
            None => EnvConfig::overlay_name(&Label::new(DEFAULT_PREFIX)?, &node),
        };
        Ok(Self {
            overlay,
            node,
            credentials: Arc::new(credentials),
        })
    }

    /// The table that a daemon with this configuration uses or would use.
    ///
    /// # Errors
    /// Neither the file nor the kept copy is a table.
    pub fn table(&self, config: &NetConfig) -> anyhow::Result<Table> {
        let file = match &config.source {
            RowSource::File(file) => file,
            // What is hosted here is what is attached.
            RowSource::Cluster(_) => return Ok(Table::default()),
        };
        match load_table(file) {
            Ok(table) => Ok(table),
            Err(errors) => match state::kept_table(&config.state_dir) {
                Ok(Some(table)) => Ok(table),
                Ok(None) | Err(_) => Err(errors.into()),
            },
        }
    }
}
