//! Trust for machines under test: names stand for keys, and everything signed is believed.

use orchestrator_core::trust::Trust;
use weald_proto::codec::{MAX_TEXT_LEN, Message as _};
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::statement::{Signed, Statement};

/// Signs as root, or as the cluster of that name.
#[derive(Debug)]
pub(crate) struct Names(pub(crate) Option<Label>);

impl Trust for Names {
    fn sign(&self, statement: &Statement) -> Result<Signed, String> {
        let statement = statement.encode().map_err(|error| error.to_string())?;
        if statement.len() > MAX_TEXT_LEN {
            return Err(format!("a statement of {} bytes", statement.len()));
        }
        Ok(Signed {
            statement,
            signature: Vec::new(),
            cluster: self.0.clone(),
        })
    }

    fn judge(&mut self, signed: &Signed, _: u64) -> Result<Statement, String> {
        Statement::decode(&signed.statement).map_err(|error| error.to_string())
    }

    fn key_hash(&self, key: &[u8; 32]) -> [u8; 32] {
        *key
    }

    fn relay_token(
        &self,
        node: &NodeId,
        _: &[u8; 32],
        organisation: &Organisation,
        _: u64,
    ) -> Result<Vec<u8>, String> {
        Ok(format!("{node} of {organisation}").into_bytes())
    }
}
