//! Tokens: what they say, how they end, and those that somebody else has made.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use orchestrator::api;
use serde_json::{Value, json};

use crate::lab::{Lab, PASSWORD, settings};

/// What a token says, whoever signed it.
fn claims(token: &str) -> Value {
    jsonwebtoken::dangerous::insecure_decode(token)
        .unwrap()
        .claims
}

fn signed(algorithm: Algorithm, claims: &Value, key: &[u8]) -> String {
    let key = EncodingKey::from_secret(key);
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

async fn own_key(lab: &Lab) -> Vec<u8> {
    let key = lab
        .handle
        .accounts(|accounts, _, _| (Vec::new(), accounts.session_key().unwrap().0.to_vec()));
    key.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_says_what_clients_read() {
    let lab = Lab::start().await;
    let said = claims(&lab.ada);
    assert_eq!(
        (&said["sub"], &said["user"]),
        (&json!("ada"), &json!("ada"))
    );
    assert_eq!(said["type"], "access");
    assert_eq!(said["fresh"], true);
    assert_eq!(said["roles"].as_array().unwrap().len(), 4);
    assert_eq!(said["organization"].as_str().unwrap().len(), 24);
    assert_eq!(
        said["exp"].as_u64().unwrap() - said["iat"].as_u64().unwrap(),
        600
    );
    assert_eq!(said["nbf"], said["iat"]);
    assert_eq!(said["jti"].as_str().unwrap().len(), 32);
    assert_eq!(lab.ada.split('.').count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_gets_new_ones_and_nothing_else() {
    let lab = Lab::start().await;
    let body = json!({"username": "ada", "password": PASSWORD});
    let both = lab.post("/api/auth/login", "", &body).await.json(200);
    let refresh = both["refresh_token"].as_str().unwrap();
    let said = claims(refresh);
    assert_eq!(said["type"], "refresh");
    assert_eq!(
        said["exp"].as_u64().unwrap() - said["iat"].as_u64().unwrap(),
        7 * 86_400
    );
    for slash in ["", "/"] {
        let path = format!("/api/auth/refresh{slash}");
        let answer = lab.ask(("POST", &path), refresh, None).await.json(200);
        let fresh = answer["token"].as_str().unwrap();
        assert_eq!(claims(fresh)["fresh"], false);
        lab.get("/api/v1/status", fresh).await.json(200);
    }
    let used = lab.get("/api/v1/status", refresh).await.refused(401);
    assert!(used.contains("refresh token"), "{used}");
    let used = lab
        .ask(("POST", "/api/auth/refresh"), &lab.ada, None)
        .await
        .refused(401);
    assert!(used.contains("access token"), "{used}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_and_early_tokens_are_refused() {
    let lab = Lab::start().await;
    let key = own_key(&lab).await;
    let good = claims(&lab.ada);
    lab.get("/api/v1/status", &signed(Algorithm::HS256, &good, &key))
        .await
        .json(200);
    let mut expired = good.clone();
    expired["exp"] = json!(now() - 1);
    let refused = lab
        .get("/api/v1/status", &signed(Algorithm::HS256, &expired, &key))
        .await;
    assert!(refused.refused(401).contains("expired"));
    let mut early = good.clone();
    early["nbf"] = json!(now() + 60);
    lab.get("/api/v1/status", &signed(Algorithm::HS256, &early, &key))
        .await
        .refused(401);
    for missing in ["exp", "nbf", "sub", "type", "epoch"] {
        let mut without = good.clone();
        without.as_object_mut().unwrap().remove(missing);
        let token = signed(Algorithm::HS256, &without, &key);
        lab.get("/api/v1/status", &token).await.refused(401);
    }
    let mut nobody = good.clone();
    nobody["sub"] = json!("nobody");
    lab.get("/api/v1/status", &signed(Algorithm::HS256, &nobody, &key))
        .await
        .refused(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_tokens_are_refused() {
    let lab = Lab::start().await;
    let key = own_key(&lab).await;
    let good = claims(&lab.ada);
    let (head, rest) = lab.ada.split_once('.').unwrap();
    let (body, signature) = rest.split_once('.').unwrap();
    // {"alg":"none","typ":"JWT"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let mut flipped = signature.to_owned();
    flipped.replace_range(0..1, if signature.starts_with('A') { "B" } else { "A" });
    let forged = [
        signed(Algorithm::HS256, &good, &[0; 32]),
        signed(Algorithm::HS256, &good, &[]),
        signed(Algorithm::HS384, &good, &key),
        signed(Algorithm::HS512, &good, &key),
        format!("{none}.{body}."),
        format!("{none}.{body}.{signature}"),
        format!("{head}.{body}.{flipped}"),
        format!("{head}.{body}."),
        format!("{head}.{body}"),
        "..".to_owned(),
        "x".repeat(5000),
    ];
    for token in forged {
        let refused = lab.get("/api/v1/status", &token).await.refused(401);
        assert!(
            refused.contains("not one of this root"),
            "{token}: {refused}"
        );
    }
    for header in [
        "",
        "Bearer",
        "Basic YWRhOmFkYQ==",
        &format!("Token {}", lab.ada),
    ] {
        let bytes = crate::client::request(
            ("GET", "/api/v1/status"),
            &[("Authorization", header)],
            None,
        );
        crate::client::send(lab.address, &bytes).await.refused(401);
    }
    let missing = lab.get("/api/v1/status", "").await.refused(401);
    assert_eq!(missing, "Missing authentication token");
}

#[tokio::test(flavor = "multi_thread")]
async fn compat_login_lets_the_same_user_in_on_loopback() {
    let mut told = settings();
    told.compat_login = true;
    let lab = Lab::bare(told).await;
    let body = json!({"username": "Admin", "password": "Admin"});
    let token = lab.post("/api/auth/login", "", &body).await.json(200);
    let token = token["token"].as_str().unwrap().to_owned();
    assert_eq!(claims(&token)["compat"], true);
    let sla = crate::lab::sla("hello", &["web"]);
    let list = lab.post("/api/application", &token, &sla).await.json(200);
    assert_eq!(list[0]["userId"], "Admin");
    let wrong = json!({"username": "Admin", "password": "admin"});
    lab.post("/api/auth/login", "", &wrong).await.refused(401);
    // The first account can still be had.
    let secret = api::first_secret(&lab.handle, false).await.unwrap();
    assert!(secret.is_some());
    // Once root is started without it, its sessions are over.
    let mut lab = lab;
    lab.settings.compat_login = false;
    let lab = lab.restart().await;
    let refused = lab.get("/api/v1/status", &token).await.refused(401);
    assert!(refused.contains("--compat-login"), "{refused}");
    lab.post("/api/auth/login", "", &body).await.refused(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn compat_login_keeps_processes_of_others_out() {
    let mut told = settings();
    told.compat_login = true;
    let lab = Lab::bare(told).await;
    let port = lab.address.port();
    let body = r#"{"username":"Admin","password":"Admin"}"#;
    let script = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'POST /api/auth/login HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\nContent-Type: application/json\\r\\nContent-Length: {}\\r\\n\\r\\n%s' '{body}' >&3; cat <&3",
        body.len()
    );
    let own = rustix::process::geteuid().as_raw();
    assert_eq!(own, 0, "only root can be somebody else");
    for (user, status) in [(0, "200"), (65534, "401")] {
        let output = tokio::process::Command::new("bash")
            .arg("-c")
            .arg(&script)
            .uid(user)
            .output();
        let text = String::from_utf8(output.await.unwrap().stdout).unwrap();
        assert_eq!(text.split(' ').nth(1), Some(status), "{text}");
    }
}

/// Everything that requests could change.
async fn all_of_it(lab: &Lab) -> String {
    let mut text = lab.everything().await;
    for path in [
        "/api/users",
        "/api/organization",
        "/api/v1/tokens",
        "/api/v1/revocations",
    ] {
        text += &lab.get(path, &lab.ada).await.body;
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_and_forged_tokens_change_nothing_by_any_route() {
    let lab = Lab::start().await;
    lab.cluster("munich", "root", None).await;
    lab.user("pia", "acme", "Admin").await;
    let shop = crate::lab::sla("shop", &["web"]);
    let applied = lab.post("/api/v1/apply?deploy=1", &lab.ada, &shop).await;
    let applied = applied.json(200);
    let runs = |it: &Value| it["instances"] == json!({"RUNNING": 1});
    lab.until("/api/v1/status", runs).await;
    let token = json!({"cluster": "paris"});
    let token = lab.post("/api/v1/tokens", &lab.ada, &token).await.json(200);
    let acme = lab.get("/api/organization", &lab.ada).await.json(200);
    let acme = acme
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["name"] == "acme");
    let acme = acme.unwrap()["_id"]["$oid"].as_str().unwrap().to_owned();

    let key = own_key(&lab).await;
    let good = claims(&lab.ada);
    let mut over = good.clone();
    over["exp"] = json!(now() - 1);
    let expired = signed(Algorithm::HS256, &over, &key);
    let forged = signed(Algorithm::HS256, &good, &[7; 32]);
    let document = serde_json::to_value(api::document()).unwrap();
    let before = all_of_it(&lab).await;
    let mut asked = 0;
    for (template, operations) in document["paths"].as_object().unwrap() {
        // Each leads to something that is there, so that only the token is in the way.
        let id = |list: &str| applied[list][0].as_str().unwrap();
        let id = match template.split('/').nth(2).unwrap_or_default() {
            "application" => id("applications"),
            "organization" => &acme,
            _ if template.contains("/tokens/") => token["id"].as_str().unwrap(),
            _ => id("services"),
        };
        let path = template
            .replace("{id}", id)
            .replace(
                "{application}",
                applied["applications"][0].as_str().unwrap(),
            )
            .replace("{organization}", &acme)
            .replace("{user}", "pia")
            .replace("{n}", "-1")
            .replace("{number}", "-1")
            .replace(
                "{name}",
                if template.contains("/clusters/") {
                    "munich"
                } else {
                    "pia"
                },
            );
        for (method, _) in operations.as_object().unwrap() {
            let method = method.to_uppercase();
            let open = ["/api/auth/login", "/api/v1/auth/first"];
            // These are read without a token on loopback, as docs/api.md says.
            let on_loopback = ["/api/clusters", "/api/clusters/active", "/metrics"];
            let is_open = |template| open.contains(&template) || on_loopback.contains(&template);
            if is_open(template.as_str()) {
                continue;
            }
            assert!(!path.contains('{'), "{path} is not filled in");
            let body = (method != "GET").then_some(&shop);
            for token in [expired.as_str(), &forged, ""] {
                let answer = lab.ask((&method, &path), token, body).await;
                answer.refused(401);
                asked += 1;
            }
        }
    }
    assert!(asked >= 3 * 40, "only {asked} requests");
    assert_eq!(all_of_it(&lab).await, before);
    // With a good one there is something that each could have done.
    let service = applied["services"][0].as_str().unwrap();
    let path = format!("/api/service/{service}");
    lab.delete(&path, &lab.ada).await.json(200);
    assert_ne!(all_of_it(&lab).await, before);
}
