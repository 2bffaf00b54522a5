//! The store against a model, against kills at any moment, and against files that are not its own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use proptest::prelude::*;

use super::sqlite::DATABASE;
use super::*;

const OWNER: &str = "root main";

fn put(kind: &str, key: &str, value: &[u8]) -> Write {
    Write::Put(Record {
        kind: kind.to_owned(),
        key: key.to_owned(),
        value: value.to_vec(),
    })
}

fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(folder, OWNER).unwrap()
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut store = open(&state);
    assert_eq!(store.revision(), Revision(0));
    store
        .commit(&[put("a", "1", b"x"), put("a", "2", b"y")])
        .unwrap();
    let delete = Write::Delete {
        kind: "a".to_owned(),
        key: "1".to_owned(),
    };
    assert_eq!(store.commit(&[delete]).unwrap(), Revision(2));
    drop(store);
    let store = open(&state);
    assert_eq!(store.revision(), Revision(2));
    let loaded = store.load().unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(
        (loaded[0].key.as_str(), loaded[0].value.as_slice()),
        ("2", &b"y"[..])
    );
}

/// A copy of the files of a running store is what a kill leaves behind: nothing was closed.
#[test]
fn every_commit_survives_a_kill_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = open(&folder.path().join("live"));
    for round in 0..20_u8 {
        store
            .commit(&[put("round", &round.to_string(), &[round])])
            .unwrap();
        let killed = folder.path().join(format!("killed-{round}"));
        fs::create_dir(&killed).unwrap();
        for entry in fs::read_dir(folder.path().join("live")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), killed.join(entry.file_name())).unwrap();
        }
        let found = open(&killed);
        assert_eq!(found.load().unwrap().len(), usize::from(round) + 1);
        assert_eq!(found.revision(), store.revision());
    }
}

/// The log torn at every byte of its last commit: the earlier commits are there, and of the last one
/// either all or nothing.
#[test]
fn a_torn_log_loses_at_most_what_was_not_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let live = folder.path().join("live");
    let mut store = open(&live);
    store.commit(&[put("a", "kept", b"1")]).unwrap();
    let log = live.join(format!("{DATABASE}-wal"));
    let before = fs::metadata(&log).unwrap().len();
    store
        .commit(&[put("b", "1", b"2"), put("b", "2", b"3")])
        .unwrap();
    let (database, log) = (
        fs::read(live.join(DATABASE)).unwrap(),
        fs::read(&log).unwrap(),
    );
    let torn = folder.path().join("torn");
    for length in (usize::try_from(before).unwrap()..=log.len()).step_by(37) {
        fs::create_dir(&torn).unwrap();
        fs::write(torn.join(DATABASE), &database).unwrap();
        fs::write(torn.join(format!("{DATABASE}-wal")), &log[..length]).unwrap();
        let records = open(&torn).load().unwrap();
        assert!(
            records.iter().any(|record| record.key == "kept"),
            "cut at {length}"
        );
        assert!(
            [1, 3].contains(&records.len()),
            "cut at {length}: {records:?}"
        );
        fs::remove_dir_all(&torn).unwrap();
    }
}

#[test]
fn a_second_process_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path());
    let error = SqliteStore::open(folder.path(), OWNER).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    drop(first);
    open(folder.path());
}

#[test]
fn foreign_newer_and_damaged_files_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    let error = SqliteStore::open(folder.path(), "cluster munich").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("belongs to root main, not to cluster munich"),
        "{error}"
    );

    let path = folder.path().join(DATABASE);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = SqliteStore::open(folder.path(), OWNER).unwrap_err();
    assert!(error.to_string().contains("has schema 99"), "{error}");

    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "application_id", 7).unwrap();
    drop(connection);
    let error = SqliteStore::open(folder.path(), OWNER).unwrap_err();
    assert!(
        error.to_string().contains("another program's database"),
        "{error}"
    );

    let other = tempfile::tempdir().unwrap();
    let text = b"this is not a database, but it is long enough to be read as the header of one....";
    fs::write(other.path().join(DATABASE), text.repeat(20)).unwrap();
    let error = SqliteStore::open(other.path(), OWNER).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert_eq!(
        fs::read(other.path().join(DATABASE)).unwrap(),
        text.repeat(20)
    );
}

#[test]
fn nobody_else_can_read_the_state() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut store = open(&state);
    store.commit(&[put("key", "ca", b"secret")]).unwrap();
    for entry in fs::read_dir(&state).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} has mode {mode:o}", entry.file_name());
    }
    assert_eq!(
        fs::metadata(&state).unwrap().permissions().mode() & 0o077,
        0
    );
}

fn a_write() -> impl Strategy<Value = Write> {
    let (kind, key) = ("[ab]", "[a-c'\"\n]");
    prop_oneof![
        (kind, key, proptest::collection::vec(any::<u8>(), 0..8))
            .prop_map(|(kind, key, value)| put(&kind, &key, &value)),
        (kind, key).prop_map(|(kind, key)| Write::Delete { kind, key }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_holds_what_a_map_would_hold(
        batches in proptest::collection::vec(proptest::collection::vec(a_write(), 0..6), 0..6)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut model = BTreeMap::new();
        for batch in &batches {
            let mut store = open(folder.path());
            store.commit(batch).unwrap();
            for write in batch {
                match write.clone() {
                    Write::Put(record) => {
                        model.insert((record.kind, record.key), record.value);
                    }
                    Write::Delete { kind, key } => {
                        model.remove(&(kind, key));
                    }
                }
            }
            let loaded: Vec<_> = store.load().unwrap().into_iter()
                .map(|record| ((record.kind, record.key), record.value)).collect();
            prop_assert_eq!(loaded, model.clone().into_iter().collect::<Vec<_>>());
        }
    }
}
