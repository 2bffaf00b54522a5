//! Organisations see their own, and what others have does not exist for them.

use serde_json::json;

use crate::lab::{Lab, sla};
use crate::oakestra::id_of;

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_does_not_exist() {
    let lab = Lab::start().await;
    lab.cluster("munich", "root", None).await;
    let pia = lab.user("pia", "acme", "Application_Provider").await;
    let eve = lab.user("eve", "evil", "Admin").await;
    let list = lab
        .post("/api/application", &pia, &sla("shop", &["web"]))
        .await
        .json(200);
    let id = id_of(&list, "shop");
    let services = lab.get("/api/services", &pia).await.json(200);
    let service = services[0]["microserviceID"].as_str().unwrap().to_owned();
    lab.ask(
        ("POST", &format!("/api/service/{service}/instance")),
        &pia,
        None,
    )
    .await
    .json(200);
    lab.until("/api/v1/status", |it| {
        it["instances"] == json!({"RUNNING": 1})
    })
    .await;
    let before = lab.everything().await;

    for (method, path) in [
        ("GET", format!("/api/application/{id}")),
        ("DELETE", format!("/api/application/{id}")),
        ("GET", format!("/api/services/{id}")),
        ("GET", format!("/api/service/{service}")),
        ("DELETE", format!("/api/service/{service}")),
        ("POST", format!("/api/service/{service}/instance")),
        ("DELETE", format!("/api/service/{service}/instance/0")),
        ("DELETE", format!("/api/service/{service}/instance/-1")),
        (
            "GET",
            "/api/v1/instances/shop.dev.web.dev.0/explain".to_owned(),
        ),
        (
            "GET",
            "/api/v1/instances/shop.dev.web.dev.0/logs".to_owned(),
        ),
        ("GET", "/api/user/pia".to_owned()),
        ("DELETE", "/api/user/pia".to_owned()),
        ("GET", "/api/users/acme".to_owned()),
    ] {
        let theirs = lab.ask((method, &path), &eve, None).await.refused(404);
        // It is refused just as what was never there.
        let nothing = path.replace(&id, "0123456789abcdef01234567");
        let nothing = nothing.replace(&service, "0123456789abcdef01234567");
        let nothing = nothing
            .replace("shop", "nope")
            .replace("pia", "nobody")
            .replace("acme", "none");
        let nothing = lab.ask((method, &nothing), &eve, None).await.refused(404);
        assert_eq!(
            theirs.len() / 20,
            nothing.len() / 20,
            "{theirs} / {nothing}"
        );
    }
    let scale = format!("/api/v1/services/{service}/scale");
    lab.post(&scale, &eve, &json!({"instances": 5}))
        .await
        .refused(404);
    let described = json!({"application_desc": "mine"});
    lab.put(&format!("/api/application/{id}"), &eve, &described)
        .await
        .refused(404);
    let mut added = sla("shop", &["trojan"]);
    added["applications"][0]["applicationID"] = json!(id);
    lab.post("/api/service", &eve, &added).await.refused(404);
    lab.get("/api/applications/pia", &eve).await.refused(401);
    for path in ["/api/applications", "/api/services", "/api/v1/instances"] {
        assert_eq!(lab.get(path, &eve).await.json(200), json!([]), "{path}");
    }
    let status = lab.get("/api/v1/status", &eve).await.json(200);
    assert_eq!(
        (&status["applications"], &status["instances"]),
        (&json!(0), &json!({}))
    );
    assert_eq!(lab.everything().await, before);

    // A root's Admin sees and changes all of it.
    let own = lab.get("/api/applications/pia", &lab.ada).await.json(200);
    assert_eq!(id_of(&own, "shop"), id);
    added["applications"][0]["microservices"][0]["microservice_name"] = json!("db");
    lab.post("/api/service", &lab.ada, &added).await.json(200);
    assert_eq!(
        lab.get("/api/services", &pia)
            .await
            .json(200)
            .as_array()
            .unwrap()
            .len(),
        2
    );
    lab.delete(&format!("/api/application/{id}"), &lab.ada)
        .await
        .json(200);
    assert_eq!(
        lab.get("/api/applications", &pia).await.json(200),
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_of_others_are_not_shown() {
    let lab = Lab::start().await;
    let pia = lab.user("pia", "acme", "Application_Provider").await;
    lab.cluster("munich", "root", None).await;
    lab.cluster("berlin", "evil", Some("evil")).await;
    lab.cluster("augsburg", "evil", Some("acme")).await;
    let clusters = lab.get("/api/clusters", &pia).await.json(200);
    let names: Vec<_> = clusters
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["cluster_name"].clone())
        .collect();
    assert_eq!(names, [json!("augsburg"), json!("munich")]);
    for path in ["/api/v1/clusters", "/api/v1/nodes"] {
        assert_eq!(
            lab.get(path, &pia)
                .await
                .json(200)
                .as_array()
                .unwrap()
                .len(),
            2,
            "{path}"
        );
        assert_eq!(
            lab.get(path, &lab.ada)
                .await
                .json(200)
                .as_array()
                .unwrap()
                .len(),
            3,
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_nothing_of_others() {
    let lab = Lab::start().await;
    let pia = lab.user("pia", "acme", "Application_Provider").await;
    let eve = lab.user("eve", "evil", "Admin").await;
    let mut shop = sla("shop", &["web"]);
    let service = &mut shop["applications"][0]["microservices"][0];
    service["addresses"] = json!({"rr_ip": "10.30.0.1"});
    // Before there are clusters: the first addresses go to them.
    lab.post("/api/v1/apply", &pia, &shop).await.json(200);
    lab.cluster("munich", "root", None).await;
    lab.cluster("berlin", "acme", Some("acme")).await;
    lab.cluster("augsburg", "acme", None).await;
    let names_others = |text: &str| {
        let others = ["acme", "pia", "berlin", "shop.dev.web"];
        others.iter().any(|it| text.contains(it))
    };

    // A name and an address that are taken, by both ways of applying.
    let mut pinned = sla("mine", &["web"]);
    let service = &mut pinned["applications"][0]["microservices"][0];
    service["addresses"] = json!({"rr_ip": "10.30.0.1"});
    let before = lab.everything().await;
    for path in ["/api/v1/apply", "/api/application"] {
        let taken = lab
            .post(path, &eve, &sla("shop", &["db"]))
            .await
            .refused(409);
        let said = "application shop.dev is taken; choose another name";
        assert!(taken.contains(said) && !names_others(&taken), "{taken}");
        let taken = lab.post(path, &eve, &pinned).await.refused(422);
        let said = "address 10.30.0.1 is taken; choose another";
        assert!(taken.contains(said) && !names_others(&taken), "{taken}");
        // Whoever administrates everything is told whose it is.
        let known = lab.post(path, &lab.ada, &sla("shop", &["db"])).await;
        let known = known.refused(409);
        assert!(known.contains("taken by organisation acme"), "{known}");
        let known = lab.post(path, &lab.ada, &pinned).await.refused(422);
        assert!(
            known.contains("belongs to rr of service shop.dev.web.dev"),
            "{known}"
        );
        // And so is whose it is.
        let own = lab.post(path, &pia, &pinned).await.refused(422);
        assert!(
            own.contains("belongs to rr of service shop.dev.web.dev"),
            "{own}"
        );
    }
    assert_eq!(lab.everything().await, before);

    // Nothing is told of clusters that one does not see, and of the others not whom else they host.
    lab.refuse(true);
    let mine = sla("mine", &["web"]);
    lab.post("/api/v1/apply?deploy=1", &eve, &mine)
        .await
        .json(200);
    lab.until("/api/v1/instances", |it| {
        let detail = it[0]["detail"].as_str().unwrap_or_default();
        detail.starts_with("no cluster can take it now")
    })
    .await;
    let path = "/api/v1/instances/mine.dev.web.dev.0/explain";
    let all = lab.get(path, &lab.ada).await.body;
    assert!(all.contains("berlin: constraint: it may not host"), "{all}");
    let own = lab.get(path, &eve).await.body;
    assert!(own.contains("munich/a1: no address is left"), "{own}");
    assert!(!names_others(&own), "{own}");
    let clusters = lab.get("/api/v1/clusters", &eve).await;
    let listed = clusters.json(200);
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    assert!(!names_others(&listed.to_string()), "{listed}");
    let berlin = |it: &serde_json::Value| {
        let all = it.as_array().unwrap().iter();
        all.clone()
            .find(|it| it["name"] == "berlin")
            .cloned()
            .unwrap()
    };
    let seen = berlin(&lab.get("/api/v1/clusters", &pia).await.json(200));
    assert_eq!(seen["owner"], json!("acme"));
    assert_eq!(seen["organisations"], json!(["acme"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_may_what_it_is_for() {
    let lab = Lab::start().await;
    let provider = lab.user("pia", "acme", "Application_Provider").await;
    let infrastructure = lab.user("ida", "acme", "Infrastructure_Provider").await;
    let operator = lab.user("otto", "root", "Infrastructure_Provider").await;
    let chief = lab.user("olaf", "acme", "Organization_Admin").await;
    let body = sla("shop", &["web"]);
    for token in [&infrastructure, &operator] {
        let refused = lab.post("/api/v1/apply", token, &body).await.refused(403);
        assert!(refused.contains("Application_Provider"), "{refused}");
        lab.post("/api/application", token, &body)
            .await
            .refused(403);
        lab.post("/api/service", token, &body).await.refused(403);
        lab.delete("/api/application/x", token).await.refused(403);
        lab.put("/api/application/x", token, &json!({}))
            .await
            .refused(403);
        lab.delete("/api/service/x", token).await.refused(403);
        lab.delete("/api/service/x/instance/-1", token)
            .await
            .refused(403);
        lab.ask(("POST", "/api/service/x/instance"), token, None)
            .await
            .refused(403);
        lab.post("/api/v1/services/x/scale", token, &json!({"instances": 1}))
            .await
            .refused(403);
        lab.get("/api/applications", token).await.json(200);
    }
    let invitation = json!({"cluster": "munich"});
    for token in [&provider, &infrastructure, &chief] {
        lab.post("/api/v1/tokens", token, &invitation)
            .await
            .refused(403);
        lab.get("/api/v1/tokens", token).await.refused(403);
        lab.delete("/api/v1/tokens/0123456789abcdef", token)
            .await
            .refused(403);
        lab.delete("/api/v1/clusters/munich", token)
            .await
            .refused(403);
    }
    lab.post("/api/v1/tokens", &operator, &invitation)
        .await
        .json(200);
    let user = |name: &str, roles: &[&str], organisation: &str| {
        json!({"name": name, "password": crate::lab::PASSWORD, "email": "", "roles": roles,
            "organization": organisation})
    };
    for token in [&provider, &infrastructure, &operator] {
        lab.post("/api/auth/register", token, &user("x", &[], "acme"))
            .await
            .refused(403);
        lab.get("/api/users", token).await.refused(403);
        lab.delete("/api/user/olaf", token).await.refused(403);
    }
    lab.post("/api/auth/register", &chief, &user("x", &["Admin"], "acme"))
        .await
        .refused(403);
    lab.post("/api/auth/register", &chief, &user("x", &[], "root"))
        .await
        .refused(404);
    lab.post("/api/auth/register", &chief, &user("x", &[], "acme"))
        .await
        .json(200);
    let users = lab.get("/api/users", &chief).await.json(200);
    assert_eq!(users.as_array().unwrap().len(), 4);
    lab.delete("/api/user/ada", &chief).await.refused(404);
    lab.post("/api/v1/apply", &chief, &body).await.json(200);
}
