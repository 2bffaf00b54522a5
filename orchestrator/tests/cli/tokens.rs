//! Join tokens on the machine where they are made, which needs no session: how they are listed, with
//! their uses and without their secrets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use weald_proto::join::JoinRole;
use weald_trust::join::JoinToken;

use super::start::join;
use super::{SOON, User, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_say_what_their_fields_are_and_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let user = User(folder.path().join("session.json"));
    for (words, fields) in [
        (&["create"][..], "Fields with --json: token"),
        (
            &["ls"],
            "per token: id, role (cluster, worker or relay), cluster",
        ),
        (&["revoke"], "Fields with --json: done"),
    ] {
        let said = user.weald(&[&["token"], words, &["--help"]].concat()).await;
        let text = said.out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(fields), "{said:?}");
    }
    let nowhere = folder.path().join("nothing");
    let nowhere = nowhere.to_str().unwrap();
    for words in [&["ls"][..], &["revoke", "0a"]] {
        let said = user
            .weald(&[&["token"], words, &["--folder", nowhere]].concat())
            .await;
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("--folder"), "{said:?}");
        assert!(said.err.contains(nowhere), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_listed_with_their_uses_and_without_their_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let user = User(folder.path().join("session.json"));
    let site = start(folder.path()).await;
    let inviter = site.cluster.inviter();
    let token = inviter
        .invite(JoinRole::Worker, (2, Duration::from_hours(3)))
        .unwrap();
    let secret = token.parse::<JoinToken>().unwrap().secret.0;
    let secret: String = secret.iter().map(|it| format!("{it:02x}")).collect();
    let desk = folder.path().join("desk");
    std::fs::create_dir(&desk).unwrap();
    let nobody = |_: &orchestrator::desk::Invite| anyhow::bail!("nobody is invited");
    let served = orchestrator::desk::serve(&desk, Arc::clone(&site.cluster.desk), nobody);
    let _socket = served.unwrap();
    let ls = ["token", "ls", "--folder", desk.to_str().unwrap()];
    // The token that `a1` has joined with, and the new one.
    let uses = async || {
        let table = user.weald(&ls).await;
        assert_eq!(table.code, 0, "{table:?}");
        let tells = table.out.contains(&token) || table.out.contains(&secret);
        assert!(!tells, "{table:?}");
        let mut rows: Vec<Vec<String>> = table
            .out
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().skip(1).map(str::to_owned).collect())
            .collect();
        rows.sort();
        rows.into_iter()
            .map(|row| row.join(" "))
            .collect::<Vec<_>>()
    };
    let joined = "worker munich 1/1 in 10 min";
    assert_eq!(uses().await, ["worker munich 0/2 in 3 h", joined]);
    let a2 = folder.path().join("a2");
    join(&token, Some("a2"), &a2, &site.cluster.control)
        .await
        .unwrap();
    assert_eq!(uses().await, [joined, "worker munich 1/2 in 3 h"]);
    let listed = user.weald(&[&ls[..], &["--json"]].concat()).await;
    let listed = listed.json();
    let shown: Vec<_> = listed[0].as_object().unwrap().keys().collect();
    let fields = ["cluster", "expires", "id", "role", "used", "uses"];
    assert_eq!(shown, fields);
    let new = listed.as_array().unwrap().iter().find(|it| it["uses"] == 2);
    let new = new.unwrap();
    assert_eq!((&new["used"], &new["role"]), (&json!(1), &json!("worker")));
    let revoke = ["token", "revoke", new["id"].as_str().unwrap()];
    let revoked = user.weald(&[&revoke[..], &ls[2..]].concat()).await;
    assert_eq!((revoked.code, &*revoked.out), (0, "taken back\n"));
    assert_eq!(uses().await, [joined]);
    let short = inviter.invite(JoinRole::Worker, (1, Duration::from_secs(1)));
    short.unwrap();
    let since = Instant::now();
    while uses().await != ["worker munich 0/1 expired", joined] {
        assert!(since.elapsed() < SOON, "{:?}", uses().await);
    }
}
