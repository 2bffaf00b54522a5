//! What the daemons of a fleet report of themselves.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Fleet, elements};

impl Fleet<'_> {
    /// How many packets a node's daemon has dropped for a reason.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn drops(&self, machine: &str, reason: &str) -> Result<u64> {
        Ok(self.all_drops(machine)?.get(reason).copied().unwrap_or(0))
    }

    /// How many packets a node's daemon has dropped, by reason; only reasons with a count.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn all_drops(&self, machine: &str) -> Result<BTreeMap<String, u64>> {
        let status = self.tool_json(machine, &["status"])?;
        let drops = status
            .first()
            .and_then(|status| status["packets"]["drops"].as_array());
        let counted = drops.into_iter().flatten().filter_map(|drop| {
            Some((
                drop["reason"].as_str()?.to_owned(),
                drop["packets"].as_u64()?,
            ))
        });
        Ok(counted.collect())
    }

    /// What a node's daemon reports of a peer.
    ///
    /// # Errors
    /// The daemon does not answer, or does not know the peer.
    pub fn peer(&self, machine: &str, id: &str) -> Result<Value> {
        let peers = self.tool_json(machine, &["peers"])?;
        let found = peers
            .iter()
            .flat_map(elements)
            .find(|peer| peer["node"] == id);
        found
            .cloned()
            .with_context(|| format!("{machine} knows no peer {id}: {peers:?}"))
    }
}
