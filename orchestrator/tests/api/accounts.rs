//! Users and organisations: the first one, those that it makes, and what they may.

use orchestrator::api;
use serde_json::{Value, json};

use crate::lab::{Lab, PASSWORD, settings};

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_show_the_secret_one_gets_the_account() {
    let lab = Lab::bare(settings()).await;
    let secret = api::first_secret(&lab.handle, false)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(api::first_secret(&lab.handle, false).await.unwrap(), None);
    let wrong = json!({"secret": "0".repeat(64), "username": "eve", "password": PASSWORD});
    lab.post("/api/v1/auth/first", "", &wrong)
        .await
        .refused(401);
    let weak = json!({"secret": secret, "username": "ada", "password": "short"});
    assert!(
        lab.post("/api/v1/auth/first", "", &weak)
            .await
            .refused(422)
            .contains("8 to 256 bytes")
    );
    let unnamed = json!({"secret": secret, "username": "a b", "password": PASSWORD});
    lab.post("/api/v1/auth/first", "", &unnamed)
        .await
        .refused(422);

    let mut callers = tokio::task::JoinSet::new();
    let address = lab.address;
    for number in 0..20 {
        let body =
            json!({"secret": secret, "username": format!("user{number}"), "password": PASSWORD});
        callers.spawn(async move {
            let bytes = crate::client::request(
                ("POST", "/api/v1/auth/first"),
                &[],
                Some(&body.to_string()),
            );
            crate::client::send(address, &bytes).await
        });
    }
    let answers = callers.join_all().await;
    let won: Vec<_> = answers.iter().filter(|it| it.status == 200).collect();
    assert_eq!(won.len(), 1);
    assert!(
        answers
            .iter()
            .all(|it| [200, 401, 429].contains(&it.status))
    );
    let token = won[0].json(200)["token"].as_str().unwrap().to_owned();
    let users = lab.get("/api/users", &token).await.json(200);
    assert_eq!(users.as_array().unwrap().len(), 1);
    assert_eq!(users[0]["roles"].as_array().unwrap().len(), 4);
    // Only whoever can speak to root's process gets another one.
    assert_eq!(api::first_secret(&lab.handle, false).await.unwrap(), None);
    let renewed = api::first_secret(&lab.handle, true).await.unwrap().unwrap();
    let body = json!({"secret": renewed, "username": "second", "password": PASSWORD});
    lab.post("/api/v1/auth/first", "", &body).await.json(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_made_changed_and_removed() {
    let lab = Lab::start().await;
    let ada = lab.ada.as_str();
    let pia = lab.user("pia", "acme", "Application_Provider").await;
    let read = lab.get("/api/user/pia/", &pia).await.json(200);
    assert_eq!(read["name"], "pia");
    assert_eq!(read["organization_name"], "acme");
    assert_eq!(read["_id"]["$oid"].as_str().unwrap().len(), 24);
    assert_eq!(read["created_at"].as_str().unwrap().len(), 16);
    assert_eq!(read.get("password"), None);
    let permissions = lab.get("/api/permission/pia", &pia).await.json(200);
    assert_eq!(permissions, json!({"roles": ["Application_Provider"]}));
    lab.get("/api/permission/ada", &pia).await.refused(404);
    lab.get("/api/user/ada", &pia).await.refused(404);

    let change = json!({"email": "pia@example.org", "roles": ["Infrastructure_Provider"]});
    let changed = lab.put("/api/user/pia", ada, &change).await.json(200);
    assert_eq!(changed["email"], "pia@example.org");
    lab.put("/api/user/pia", &pia, &change).await.refused(403);
    lab.put("/api/user/nobody", ada, &change).await.refused(404);
    let unknown = lab
        .put("/api/user/pia", ada, &json!({"roles": ["King"]}))
        .await;
    assert!(unknown.refused(422).contains("unknown role \"King\""));
    // What it may do is looked up, whatever its token says.
    lab.get("/api/v1/status", &pia).await.json(200);
    let sla = crate::lab::sla("shop", &["web"]);
    lab.post("/api/v1/apply", &pia, &sla).await.refused(403);

    let users = lab.get("/api/users/acme", ada).await.json(200);
    assert_eq!(users.as_array().unwrap().len(), 1);
    lab.get("/api/users/nowhere", ada).await.refused(404);
    let body = json!({"name": "pia", "password": PASSWORD, "roles": []});
    assert!(
        lab.post("/api/auth/register", ada, &body)
            .await
            .refused(409)
            .contains("already a user pia")
    );
    let left = lab.delete("/api/user/pia", ada).await.json(200);
    assert_eq!(left.as_array().unwrap().len(), 1);
    assert!(
        lab.get("/api/user/pia", &pia)
            .await
            .refused(401)
            .contains("session is over")
    );
    lab.delete("/api/user/pia", ada).await.refused(404);
    assert!(
        lab.delete("/api/user/ada", ada)
            .await
            .refused(409)
            .contains("last Admin")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_changed_by_its_user_or_an_admin() {
    let lab = Lab::start().await;
    let pia = lab.user("pia", "acme", "Application_Provider").await;
    let change = |old: &str, new: &str| json!({"oldPassword": old, "newPassword": new});
    let path = "/api/user/pia";
    lab.post(path, &pia, &change("wrong password", "another password"))
        .await
        .refused(400);
    lab.post(path, &pia, &change(PASSWORD, "short"))
        .await
        .refused(422);
    lab.post(path, &lab.ada, &change(PASSWORD, "another password"))
        .await
        .refused(404);
    let done = lab
        .post(path, &pia, &change(PASSWORD, "another password"))
        .await
        .json(200);
    assert_eq!(done, json!({}));
    lab.get("/api/v1/status", &pia).await.refused(401);
    let login = |password: &str| json!({"username": "pia", "password": password});
    lab.post("/api/auth/login", "", &login(PASSWORD))
        .await
        .refused(401);
    lab.post("/api/auth/login", "", &login("another password"))
        .await
        .json(200);
    lab.put(path, &lab.ada, &json!({"password": PASSWORD}))
        .await
        .json(200);
    lab.post("/api/auth/login/", "", &login(PASSWORD))
        .await
        .json(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_in_tells_nothing_but_wrong() {
    let lab = Lab::start().await;
    lab.user("pia", "acme", "Application_Provider").await;
    let login = |body: Value| async {
        let body = body;
        lab.post("/api/auth/login", "", &body).await
    };
    let wrong = login(json!({"username": "pia", "password": "x"}))
        .await
        .refused(401);
    let unknown = login(json!({"username": "nobody", "password": "x"}))
        .await
        .refused(401);
    assert_eq!(wrong, unknown);
    let long = "x".repeat(100_000);
    login(json!({"username": "pia", "password": long}))
        .await
        .refused(401);
    for key in ["organization_name", "organization"] {
        let body =
            |organisation| json!({"username": "pia", "password": PASSWORD, key: organisation});
        login(body("acme")).await.json(200);
        login(body("")).await.json(200);
        login(body("root")).await.refused(404);
    }
    for broken in [
        json!({}),
        json!([]),
        json!({"username": 1, "password": "x"}),
    ] {
        login(broken).await.refused(422);
    }
    let default = login(json!({"username": "Admin", "password": "Admin"}))
        .await
        .refused(401);
    assert!(default.contains("--compat-login"), "{default}");
}

#[tokio::test(flavor = "multi_thread")]
async fn organisations_come_and_go() {
    let lab = Lab::start().await;
    let ada = lab.ada.as_str();
    let made = lab
        .post(
            "/api/organization/",
            ada,
            &json!({"name": "acme", "member": []}),
        )
        .await
        .json(200);
    let id = made["_id"]["$oid"].as_str().unwrap().to_owned();
    assert_eq!(made["member"], json!([]));
    for wrong in ["", "A b", &"x".repeat(64)] {
        lab.post("/api/organization", ada, &json!({"name": wrong}))
            .await
            .refused(422);
    }
    lab.post("/api/organization", ada, &json!({"name": "acme"}))
        .await
        .refused(409);
    lab.user("pia", "root", "Application_Provider").await;
    let path = format!("/api/organization/{id}");
    let moved =
        json!({"name": "acme", "member": [{"user_id": "pia", "roles": ["Organization_Admin"]}]});
    lab.put(&path, ada, &moved).await.json(200);
    let all = lab.get("/api/organization", ada).await.json(200);
    assert_eq!(all[0]["name"], "acme");
    assert_eq!(all[0]["member"][0]["roles"], json!(["Organization_Admin"]));
    let pia = lab.login("pia").await;
    assert_eq!(
        lab.get("/api/organization", &pia)
            .await
            .json(200)
            .as_array()
            .unwrap()
            .len(),
        1
    );
    lab.post("/api/organization", &pia, &json!({"name": "other"}))
        .await
        .refused(403);
    lab.delete(&path, &pia).await.refused(403);
    assert!(
        lab.put(&path, ada, &json!({"name": "emca"}))
            .await
            .refused(409)
            .contains("certificates")
    );
    lab.put("/api/organization/nowhere", ada, &json!({}))
        .await
        .refused(404);
    let nobody = json!({"member": [{"user_id": "nobody"}]});
    lab.put(&path, ada, &nobody).await.refused(404);

    assert!(lab.delete(&path, ada).await.refused(409).contains("users"));
    let applied = lab
        .post("/api/v1/apply", &pia, &crate::lab::sla("shop", &["web"]))
        .await
        .json(200);
    lab.delete("/api/user/pia", ada).await.json(200);
    assert!(
        lab.delete(&path, ada)
            .await
            .refused(409)
            .contains("applications")
    );
    let application = applied["applications"][0].as_str().unwrap();
    lab.delete(&format!("/api/application/{application}"), ada)
        .await
        .json(200);
    lab.delete(&path, ada).await.json(200);
    lab.delete(&path, ada).await.refused(404);
    lab.delete("/api/organization/root", ada).await.refused(409);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_a_restart() {
    let lab = Lab::start().await;
    let pia = lab.user("pia", "acme", "Application_Provider").await;
    lab.post("/api/v1/apply", &pia, &crate::lab::sla("shop", &["web"]))
        .await
        .json(200);
    let before = lab.everything().await;
    let users = lab.get("/api/users", &lab.ada).await.body;
    let services = lab.get("/api/services", &pia).await.body;
    let lab = lab.restart().await;
    assert_eq!(lab.everything().await, before);
    // Sessions outlive root, since its key does.
    assert_eq!(lab.get("/api/users", &lab.ada).await.body, users);
    assert_eq!(lab.get("/api/services", &pia).await.body, services);
    lab.login("pia").await;
    assert_eq!(api::first_secret(&lab.handle, false).await.unwrap(), None);
}
