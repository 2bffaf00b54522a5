//! The committed description of the API is the one that the code gives.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::lab::Lab;

/// Set, to write the document anew instead of comparing it.
const WRITE: &str = "WEALD_WRITE_OPENAPI";

#[test]
fn the_committed_document_is_the_codes() {
    let made = serde_json::to_string_pretty(&orchestrator::api::document()).unwrap() + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == made,
        "docs/openapi.json is not what the code says; write it anew with \
         `{WRITE}=1 cargo test -p orchestrator --test api the_committed_document` and look at the difference"
    );
}

#[test]
fn every_operation_says_how_it_is_refused_and_who_may_ask() {
    let document: Value = serde_json::to_value(orchestrator::api::document()).unwrap();
    let mut ids = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(operation["responses"]["default"].is_object(), "{what}");
            let open = path.ends_with("/login") || path.ends_with("/first");
            assert_eq!(operation.get("security").is_none(), open, "{what}");
            assert!(operation["tags"][0].is_string(), "{what}");
            ids.insert(operation["operationId"].to_string());
        }
    }
    assert!(ids.len() > 20, "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_served_and_every_get_in_it_is_routed() {
    let lab = Lab::start().await;
    let document = lab.get("/docs/openapi.json", "").await.json(200);
    let made = serde_json::to_value(orchestrator::api::document()).unwrap();
    assert_eq!(document, made);
    for (path, operations) in document["paths"].as_object().unwrap() {
        if operations.get("get").is_some() {
            let filled = path.replace(['{', '}'], "");
            let answer = lab.get(&filled, &lab.ada).await;
            assert!(!answer.body.contains("there is no route"), "{path}");
        }
    }
}
