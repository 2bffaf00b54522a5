//! Weald's own routes: an SLA that shall be so, scaling, and how things are.

use serde_json::{Value, json};

use crate::lab::{Lab, sla};

fn ids(value: &Value) -> Vec<String> {
    let all = value.as_array().unwrap();
    all.iter()
        .map(|it| it.as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_twice_is_applying_once() {
    let lab = Lab::start().await;
    let ada = lab.ada.as_str();
    lab.cluster("munich", "root", None).await;
    let first = lab
        .post("/api/v1/apply", ada, &sla("shop", &["web", "db"]))
        .await
        .json(200);
    assert_eq!(first["instances"], json!([]));
    let second = lab
        .post("/api/v1/apply/", ada, &sla("shop", &["web", "db"]))
        .await
        .json(200);
    assert_eq!(first, second);
    assert_eq!(lab.get("/api/v1/instances", ada).await.json(200), json!([]));
    let more = lab
        .post("/api/v1/apply?deploy=2", ada, &sla("shop", &["web"]))
        .await
        .json(200);
    assert_eq!(more["services"], json!([first["services"][0]]));
    assert_eq!(
        more["instances"],
        json!(["shop.dev.web.dev.0", "shop.dev.web.dev.1"])
    );
    let again = lab
        .post("/api/v1/apply?deploy=2", ada, &sla("shop", &["web"]))
        .await
        .json(200);
    assert_eq!(again["instances"], json!([]));

    let before = lab.everything().await;
    let mut other = sla("shop", &["web"]);
    other["applications"][0]["microservices"][0]["memory"] = json!(65);
    assert!(
        lab.post("/api/v1/apply", ada, &other)
            .await
            .refused(409)
            .contains("delete it first")
    );
    for wrong in ["deploy=x", "deploy=-1", "deploy=1001", "deplo=1", "deploy="] {
        let path = format!("/api/v1/apply?{wrong}");
        lab.post(&path, ada, &sla("shop", &["cache"]))
            .await
            .refused(422);
    }
    let mut known = sla("shop", &["cache"]);
    known["applications"][0]["applicationID"] = json!("0123456789abcdef01234567");
    lab.post("/api/v1/apply", ada, &known).await.refused(404);
    assert_eq!(lab.everything().await, before);
    known["applications"][0]["applicationID"] = first["applications"][0].clone();
    lab.post("/api/v1/apply", ada, &known).await.json(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_applications_all_are_applied_or_none() {
    let lab = Lab::start().await;
    let mut two = sla("one", &["web"]);
    let mut second = sla("two", &["web"])["applications"][0].clone();
    second["microservices"][0]["addresses"] = json!({"rr_ip": "10.30.0.1"});
    two["applications"].as_array_mut().unwrap().push(second);
    let taken = {
        let mut taken = sla("zero", &["web"]);
        let service = &mut taken["applications"][0]["microservices"][0];
        service["addresses"] = json!({"rr_ip": "10.30.0.1"});
        taken
    };
    lab.post("/api/v1/apply", &lab.ada, &taken).await.json(200);
    let before = lab.everything().await;
    let refused = lab.post("/api/v1/apply", &lab.ada, &two).await.refused(422);
    assert!(refused.contains("10.30.0.1"), "{refused}");
    lab.post("/api/application", &lab.ada, &two)
        .await
        .refused(422);
    assert_eq!(lab.everything().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_scaled_and_looked_at() {
    let lab = Lab::start().await;
    let ada = lab.ada.as_str();
    lab.cluster("munich", "root", None).await;
    let applied = lab
        .post("/api/v1/apply", ada, &sla("shop", &["web"]))
        .await
        .json(200);
    let id = ids(&applied["services"])[0].clone();
    let scale = format!("/api/v1/services/{id}/scale");
    for (to, made) in [(3, 3), (1, 0), (2, 1), (2, 0)] {
        let scaled = lab
            .post(&scale, ada, &json!({"instances": to}))
            .await
            .json(200);
        assert_eq!(scaled["instances"].as_array().unwrap().len(), made);
        lab.until("/api/v1/status", |it| {
            it["instances"] == json!({"RUNNING": to})
        })
        .await;
    }
    for wrong in [
        json!({"instances": -1}),
        json!({"instances": 1001}),
        json!({}),
        json!({"instances": 1, "x": 1}),
        json!([]),
    ] {
        lab.post(&scale, ada, &wrong).await.refused(422);
    }
    let nowhere = "/api/v1/services/0123456789abcdef01234567/scale";
    lab.post(nowhere, ada, &json!({"instances": 1}))
        .await
        .refused(404);

    let all = lab.get("/api/v1/instances/", ada).await.json(200);
    let first = &all[0];
    assert_eq!(first["name"], "shop.dev.web.dev.0");
    assert_eq!(first["status"], "RUNNING");
    assert_eq!(first["node"], "munich/a1");
    assert_eq!(first["cluster"], "munich");
    assert_eq!(first["ipv4"], "10.18.0.9");
    assert_eq!(first["withdrawn"], false);
    let instance = "/api/v1/instances/shop.dev.web.dev.0";
    let explained = lab.get(&format!("{instance}/explain"), ada).await;
    assert_eq!(explained.status, 200);
    assert!(explained.head.contains("content-type: text/plain"));
    assert!(
        explained.body.contains("taken by munich"),
        "{}",
        explained.body
    );
    let logs = lab
        .get(&format!("{instance}/logs?lines=7"), ada)
        .await
        .json(200);
    assert_eq!(logs, json!({"lines": ["7 of shop.dev.web.dev.0"]}));
    let logs = lab.get(&format!("{instance}/logs"), ada).await.json(200);
    assert_eq!(logs, json!({"lines": ["100 of shop.dev.web.dev.0"]}));
    lab.get(&format!("{instance}/logs?lines=x"), ada)
        .await
        .refused(422);
    for name in ["shop.dev.web.dev.77", "nonsense", "%2e%2e"] {
        lab.get(&format!("/api/v1/instances/{name}/logs"), ada)
            .await
            .refused(404);
        lab.get(&format!("/api/v1/instances/{name}/explain"), ada)
            .await
            .refused(404);
    }
    let status = lab.get("/api/v1/status", ada).await.json(200);
    assert_eq!(status["applications"], 1);
    assert_eq!(status["services"], 1);
    assert_eq!(status["clusters"], json!({"alive": 1}));
    assert_eq!(status["nodes"], json!({"alive": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_explained() {
    let lab = Lab::start().await;
    let ada = lab.ada.as_str();
    lab.cluster("munich", "root", None).await;
    lab.refuse(true);
    lab.post("/api/v1/apply?deploy=1", ada, &sla("shop", &["web"]))
        .await
        .json(200);
    let instance = "/api/v1/instances/shop.dev.web.dev.0";
    for _ in 0..500 {
        let explained = lab.get(&format!("{instance}/explain"), ada).await;
        if explained.body.contains("munich/a1: no address is left") {
            let logs = lab.get(&format!("{instance}/logs"), ada).await;
            assert!(logs.refused(503).contains("cannot be read"));
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("no refusal was recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_clusters_are_listed_and_a_cluster_removed() {
    let lab = Lab::start().await;
    let ada = lab.ada.as_str();
    lab.cluster("munich", "root", None).await;
    let nodes = lab.get("/api/v1/nodes", ada).await.json(200);
    assert_eq!(nodes[0]["name"], "munich/a1");
    assert_eq!(nodes[0]["standing"], "alive");
    assert_eq!(nodes[0]["memory_mib"], 1024);
    let clusters = lab.get("/api/v1/clusters", ada).await.json(200);
    assert_eq!(clusters[0]["name"], "munich");
    assert_eq!(clusters[0]["standing"], "alive");
    assert_eq!(clusters[0]["free_millicpus"], 4000);
    assert_eq!(clusters[0]["organisations"], Value::Null);
    for name in ["elsewhere", "NOT%20A%20LABEL", "%20"] {
        lab.delete(&format!("/api/v1/clusters/{name}"), ada)
            .await
            .refused(404);
    }
    let revoked = lab.get("/api/v1/revocations", ada).await.json(200);
    assert_eq!(
        revoked,
        json!({"epoch": 0, "keys": [], "organisations": []})
    );
    lab.delete("/api/v1/clusters/munich/", ada).await.json(200);
    // Whatever it has signed, nobody believes it any more.
    let revoked = lab.get("/api/v1/revocations", ada).await.json(200);
    assert_eq!(revoked["epoch"], 1);
    assert_eq!(revoked["keys"].as_array().unwrap().len(), 1);
    assert_eq!(lab.get("/api/v1/clusters", ada).await.json(200), json!([]));
    assert_eq!(lab.get("/api/v1/nodes", ada).await.json(200), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn join_tokens_are_made_listed_and_taken_back() {
    let lab = Lab::start().await;
    let ada = lab.ada.as_str();
    let wanted = json!({"cluster": "munich", "uses": 2, "life_seconds": 60});
    let made = lab.post("/api/v1/tokens", ada, &wanted).await.json(200);
    let text = made["token"].as_str().unwrap();
    let token: weald_trust::join::JoinToken = text.parse().unwrap();
    assert_eq!(token.cluster.as_str(), "munich");
    assert_eq!(token.root, [3; 32]);
    let listed = lab.get("/api/v1/tokens/", ada).await;
    assert!(!listed.body.contains(text));
    let listed = listed.json(200);
    assert_eq!(listed[0]["id"], made["id"]);
    assert_eq!(listed[0]["role"], "cluster");
    assert_eq!(
        (&listed[0]["uses"], &listed[0]["used"]),
        (&json!(2), &json!(0))
    );
    for wrong in [
        json!({"cluster": "not a label"}),
        json!({"cluster": "a", "uses": 0}),
        json!({"cluster": "a", "life_seconds": 0}),
        json!({"cluster": "a", "life_seconds": 1e12}),
        json!({"cluster": "a", "role": "worker"}),
        json!({}),
    ] {
        lab.post("/api/v1/tokens", ada, &wrong).await.refused(422);
    }
    let path = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    lab.delete(&path, ada).await.json(200);
    lab.delete(&path, ada).await.refused(404);
    lab.delete("/api/v1/tokens/nonsense", ada)
        .await
        .refused(404);
    assert_eq!(lab.get("/api/v1/tokens", ada).await.json(200), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_there_for_prometheus() {
    let lab = Lab::start().await;
    lab.cluster("munich", "root", None).await;
    let ada = lab.ada.as_str();
    lab.post("/api/v1/apply?deploy=1", ada, &sla("shop", &["web"]))
        .await
        .json(200);
    lab.until("/api/v1/status", |it| {
        it["instances"] == json!({"RUNNING": 1})
    })
    .await;
    lab.get("/no/such/route", ada).await.refused(404);
    let metrics = lab.get("/metrics", "").await;
    assert_eq!(metrics.status, 200);
    assert!(
        metrics
            .head
            .contains("content-type: text/plain; version=0.0.4")
    );
    for line in [
        "weald_instances{phase=\"RUNNING\"} 1",
        "weald_clusters{standing=\"alive\"} 1",
        "weald_nodes{standing=\"alive\"} 1",
        "weald_services 1",
        "weald_commands_total{command=\"apply\",outcome=\"done\"} 1",
        "weald_commands_total{command=\"scale\",outcome=\"done\"} 1",
        "weald_api_requests_total{method=\"POST\",route=\"/api/v1/apply\",status=\"200\"} 1",
        "weald_api_requests_total{method=\"GET\",route=\"other\",status=\"404\"} 1",
    ] {
        assert!(
            metrics.body.lines().any(|it| it == line),
            "{line} in {}",
            metrics.body
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_clusters_and_organisations_are_revoked() {
    const PATH: &str = "/api/v1/revocations";
    let lab = Lab::start().await;
    lab.cluster("munich", "root", None).await;
    lab.cluster("paris", "root", None).await;
    let pia = lab.user("pia", "acme", "Admin").await;
    let ida = lab.user("ida", "root", "Infrastructure_Provider").await;
    let shop = sla("shop", &["web"]);
    lab.post("/api/v1/apply?deploy=1", &pia, &shop)
        .await
        .json(200);
    let runs = |it: &Value| it["instances"] == json!({"RUNNING": 1});
    lab.until("/api/v1/status", runs).await;
    let before = lab.everything().await;
    let none = lab.get(PATH, &lab.ada).await.json(200);

    let node = json!({"node": "munich/a1"});
    for (token, status) in [("", 401), (&pia, 403)] {
        lab.post(PATH, token, &node).await.refused(status);
        lab.get(PATH, token).await.refused(status);
    }
    // A node's keeper may not end an organisation.
    let acme = json!({"organisation": "acme"});
    lab.post(PATH, &ida, &acme).await.refused(403);
    for (wrong, status, text) in [
        (json!({}), 422, "one node, cluster, organisation or key"),
        (
            json!({"node": "munich/a1", "cluster": "munich"}),
            422,
            "one node, cluster, organisation or key",
        ),
        (json!({"nod": "munich/a1"}), 422, "nod"),
        (json!({"node": "munich/a9"}), 404, "no node munich/a9"),
        (json!({"node": "rome/a1"}), 404, "no node rome/a1"),
        (json!({"node": "a1"}), 404, "no node a1"),
        (json!({"cluster": "rome"}), 404, "no cluster rome"),
        (json!({"organisation": "nobody"}), 404, "no organisation"),
        (json!({"organisation": "root"}), 422, "cannot be revoked"),
        (json!({"key": "0a"}), 422, "64 hexadecimal digits"),
        (json!({"key": "é".repeat(32)}), 422, "64 hexadecimal"),
    ] {
        let said = lab.post(PATH, &lab.ada, &wrong).await.refused(status);
        assert!(said.contains(text), "{wrong}: {said}");
    }
    assert_eq!(lab.everything().await, before);
    assert_eq!(lab.get(PATH, &lab.ada).await.json(200), none);

    let list = lab.post(PATH, &ida, &node).await.json(200);
    let key = "09".repeat(32);
    assert_eq!(
        list,
        json!({"epoch": 1, "keys": [key], "organisations": []})
    );
    let paris = json!({"cluster": "paris"});
    let list = lab.post(PATH, &ida, &paris).await.json(200);
    assert_eq!(list["keys"].as_array().unwrap().len(), 2);
    assert_eq!(lab.everything().await, before, "what runs, runs");

    let list = lab.post(PATH, &lab.ada, &acme).await.json(200);
    assert_eq!(list["organisations"], json!(["acme"]));
    let ended = |it: &Value| it["instances"] == json!({});
    lab.until("/api/v1/status", ended).await;
    for again in ["/api/v1/apply?deploy=1", "/api/v1/apply"] {
        let said = lab.post(again, &pia, &shop).await.refused(409);
        assert!(said.contains("organisation acme is revoked"), "{said}");
    }
    let list = lab.get(PATH, &lab.ada).await.json(200);
    assert_eq!(list["epoch"], 3);
}
