//! What must survive a crash, as the machines name it: records under a kind and a key.
//!
//! A machine returns [`Write`]s and the shell commits them as one before it carries out anything
//! that was returned with them. How they are kept is the shell's; reading them back is one call
//! per machine, at its start.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is stored under a kind and a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    /// What sort of thing it is, as in `duty`.
    pub kind: String,
    /// Which one; unique within its kind.
    pub key: String,
    /// The thing itself, as JSON where a machine wrote it.
    pub value: Vec<u8>,
}

/// A change of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Stores a record, in place of one of the same kind and key.
    Put(Record),
    /// Removes a record; one that is not there is no error.
    Delete {
        /// The record's kind.
        kind: String,
        /// The record's key.
        key: String,
    },
}

/// A record that cannot be read back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored {kind} {key:?} cannot be read: {reason}; restore the state from a copy")]
pub struct RecordError {
    /// The record's kind.
    pub kind: String,
    /// The record's key.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Write {
    /// Stores a value as JSON.
    ///
    /// # Errors
    /// As [`Record::new`].
    pub fn put<T: Serialize>(kind: &str, key: String, value: &T) -> Result<Self, RecordError> {
        Record::new(kind, key, value).map(Self::Put)
    }

    /// Removes a record.
    #[must_use]
    pub fn delete(kind: &str, key: String) -> Self {
        Self::Delete {
            kind: kind.to_owned(),
            key,
        }
    }
}

impl Record {
    /// Writes a value as JSON.
    ///
    /// # Errors
    /// The value has no JSON form (a map whose keys are no texts); a fault of the caller.
    pub fn new<T: Serialize>(kind: &str, key: String, value: &T) -> Result<Self, RecordError> {
        match serde_json::to_vec(value) {
            Ok(value) => Ok(Self {
                kind: kind.to_owned(),
                key,
                value,
            }),
            Err(error) => Err(RecordError {
                kind: kind.to_owned(),
                key,
                reason: error.to_string(),
            }),
        }
    }

    /// Reads the value back.
    ///
    /// # Errors
    /// It is not what was written there.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, RecordError> {
        serde_json::from_slice(&self.value).map_err(|error| RecordError {
            kind: self.kind.clone(),
            key: self.key.clone(),
            reason: error.to_string(),
        })
    }
}
