//! A [`StateStore`] in one SQLite file: write-ahead log, synced at every commit.
//!
//! The file belongs to one process at a time, held by an exclusive lock that the kernel drops with
//! the process, so that a second root started by mistake says so instead of diverging. It holds no
//! connection for others; reading while the owner runs goes through the owner.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use orchestrator_core::record::{Record, Write};
use rusqlite::{Connection, ErrorCode, TransactionBehavior, params};

use super::{Revision, StateStore, StoreError};

/// The schema that this release writes.
const SCHEMA: i64 = 1;
/// The database within the folder.
pub(super) const DATABASE: &str = "state.db";
/// The lock beside it; SQLite's own locks are dropped between transactions.
const LOCK: &str = "state.lock";
/// Marks the file as ours (`PRAGMA application_id`): "weal" as bytes.
const APPLICATION_ID: i64 = 0x7765_616c;

/// A state in a folder.
pub struct SqliteStore {
    connection: Connection,
    path: PathBuf,
    revision: Revision,
    /// Held as long as the store is open.
    _lock: File,
}

impl SqliteStore {
    /// Opens the state in `folder`, making both if need be, for `owner` (as in `root main`).
    ///
    /// # Errors
    /// It cannot be opened, is in use, damaged, of a newer release or another owner's.
    pub fn open(folder: &Path, owner: &str) -> Result<Self, StoreError> {
        let path = folder.join(DATABASE);
        let cannot = |error: &dyn fmt::Display| cannot_open(&path, error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| cannot(&error))?;
        let lock = lock(folder, &path)?;
        // SQLite makes files that others can read; the keys of a CA are not for them.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| cannot(&error))?;
        let mut connection = Connection::open(&path).map_err(|error| cannot(&error))?;
        let revision = prepare(&mut connection, &path, owner)?;
        Ok(Self {
            connection,
            path,
            revision,
            _lock: lock,
        })
    }
}

fn lock(folder: &Path, path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(folder.join(LOCK))
        .map_err(|error| cannot_open(path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(cannot_open(path, &error)),
    }
}

/// Brings the schema up to date and checks whose state it is.
fn prepare(connection: &mut Connection, path: &Path, owner: &str) -> Result<Revision, StoreError> {
    let sqlite = |error: rusqlite::Error| judge(path, &error);
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
        .map_err(sqlite)?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sqlite)?;
    let pragma = |name| transaction.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let tables: i64 = transaction
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sqlite)?;
    if tables == 0 {
        transaction
            .pragma_update(None, "application_id", APPLICATION_ID)
            .and_then(|()| transaction.pragma_update(None, "user_version", SCHEMA))
            .and_then(|()| {
                transaction.execute_batch(
                    "CREATE TABLE record (kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
                         PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID;
                     CREATE TABLE about (one INTEGER PRIMARY KEY CHECK (one = 1), owner TEXT NOT NULL,
                         revision INTEGER NOT NULL) STRICT;",
                )
            })
            .and_then(|()| {
                transaction.execute("INSERT INTO about VALUES (1, ?1, 0)", params![owner])
            })
            .map_err(sqlite)?;
    } else {
        if pragma("application_id").map_err(sqlite)? != APPLICATION_ID {
            return Err(StoreError::Damaged {
                path: path.to_owned(),
                reason: "it is another program's database".to_owned(),
            });
        }
        let found = pragma("user_version").map_err(sqlite)?;
        if found > SCHEMA {
            return Err(StoreError::Newer {
                path: path.to_owned(),
                found,
                known: SCHEMA,
            });
        }
    }
    let (found, revision) = transaction
        .query_row("SELECT owner, revision FROM about", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        })
        .map_err(sqlite)?;
    if found != owner {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
            found,
            wanted: owner.to_owned(),
        });
    }
    transaction.commit().map_err(sqlite)?;
    Ok(Revision(revision.unsigned_abs()))
}

fn cannot_open(path: &Path, error: &dyn fmt::Display) -> StoreError {
    StoreError::Open {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

/// What an error of the database means for the state.
fn judge(path: &Path, error: &rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::InUse { path },
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Damaged { path, reason }
        }
        _ => StoreError::Open { path, reason },
    }
}

impl StateStore for SqliteStore {
    fn load(&self) -> Result<Vec<Record>, StoreError> {
        let read = || {
            let sql = "SELECT kind, key, value FROM record ORDER BY kind, key";
            let mut statement = self.connection.prepare(sql)?;
            let rows = statement.query_map([], |row| {
                Ok(Record {
                    kind: row.get(0)?,
                    key: row.get(1)?,
                    value: row.get(2)?,
                })
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(|error| judge(&self.path, &error))
    }

    fn commit(&mut self, writes: &[Write]) -> Result<Revision, StoreError> {
        let next = Revision(self.revision.0 + 1);
        let mut write = || {
            let behaviour = TransactionBehavior::Immediate;
            let transaction = self.connection.transaction_with_behavior(behaviour)?;
            {
                let mut put = transaction.prepare_cached(
                    "INSERT INTO record VALUES (?1, ?2, ?3)
                     ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value",
                )?;
                let mut delete = transaction
                    .prepare_cached("DELETE FROM record WHERE kind = ?1 AND key = ?2")?;
                for change in writes {
                    match change {
                        Write::Put(Record { kind, key, value }) => {
                            put.execute(params![kind, key, value])?;
                        }
                        Write::Delete { kind, key } => {
                            delete.execute(params![kind, key])?;
                        }
                    }
                }
                transaction
                    .prepare_cached("UPDATE about SET revision = ?1")?
                    .execute(params![next.0.cast_signed()])?;
            }
            transaction.commit()
        };
        write().map_err(|error: rusqlite::Error| StoreError::Commit {
            reason: error.to_string(),
        })?;
        self.revision = next;
        Ok(next)
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.path)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}
