//! Oakestra's routes, as its clients use them: both slash forms, its shapes, its double encoding.

use serde_json::{Value, json};

use crate::client::{request, send};
use crate::lab::{Lab, sla};

/// The id of the application `name` in an answer that lists them.
pub(crate) fn id_of(list: &Value, name: &str) -> String {
    let all = list.as_array().unwrap();
    let found = all.iter().find(|it| it["application_name"] == name);
    found.unwrap()["applicationID"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_lives_and_dies() {
    let lab = Lab::start().await;
    let ada = lab.ada.as_str();
    lab.cluster("munich", "root", None).await;
    for slash in ["", "/"] {
        let name = format!("hello{}", slash.len());
        let body = sla(&name, &["web", "db"]);
        let path = format!("/api/application{slash}");
        let list = lab.post(&path, ada, &body).await.json(200);
        let id = id_of(&list, &name);
        assert_eq!(id.len(), 24);
        let application = lab
            .get(&format!("/api/application/{id}{slash}"), ada)
            .await
            .json(200);
        assert_eq!(application["_id"], json!({"$oid": id}));
        assert_eq!(application["application_namespace"], "dev");
        assert_eq!(application["application_desc"], "smallest example");
        assert_eq!(application["userId"], "ada");
        assert_eq!(application["microservices"].as_array().unwrap().len(), 2);
        let all = lab
            .get(&format!("/api/applications{slash}"), ada)
            .await
            .json(200);
        assert_eq!(id_of(&all, &name), id);
        let own = lab
            .get(&format!("/api/applications/ada{slash}"), ada)
            .await
            .json(200);
        assert_eq!(id_of(&own, &name), id);

        let change = json!({"application_name": name, "application_namespace": "dev",
            "application_desc": "another", "microservices": []});
        let path = format!("/api/application/{id}{slash}");
        lab.put(&path, ada, &change).await.json(200);
        let application = lab.get(&path, ada).await.json(200);
        assert_eq!(application["application_desc"], "another");
        let renamed = lab
            .put(&path, ada, &json!({"application_name": "other"}))
            .await;
        assert!(renamed.refused(422).contains("cannot be renamed"));

        let services = lab
            .get(&format!("/api/services/{id}{slash}"), ada)
            .await
            .json(200);
        let service = services[0]["microserviceID"].as_str().unwrap().to_owned();
        life_of_a_service(&lab, &service, slash).await;

        let gone = lab.delete(&path, ada).await.json(200);
        assert_eq!(gone, json!({"message": "Application Deleted"}));
        lab.get(&path, ada).await.refused(404);
        lab.delete(&path, ada).await.refused(404);
        lab.get(&format!("/api/services/{id}"), ada)
            .await
            .refused(404);
    }
    lab.until("/api/v1/instances", |all| all == &json!([]))
        .await;
}

async fn life_of_a_service(lab: &Lab, id: &str, slash: &str) {
    let ada = lab.ada.as_str();
    let path = format!("/api/service/{id}{slash}");
    let service = lab.get(&path, ada).await.json(200);
    for (key, value) in [
        ("_id", json!({"$oid": id})),
        ("microservice_namespace", json!("dev")),
        ("virtualization", json!("docker")),
        ("image", json!("docker.io/library/nginx:alpine")),
        ("code", json!("docker.io/library/nginx:alpine")),
        ("port", json!("8080:80")),
        ("memory", json!(64)),
        ("app_ns", json!("dev")),
        ("status", json!("CREATED")),
        ("instance_list", json!([])),
        ("next_instance_progressive_number", json!(0)),
    ] {
        assert_eq!(service[key], value, "{key} of {service}");
    }
    assert!(service["RR_ip"].as_str().unwrap().starts_with("10."));
    let name = service["job_name"].as_str().unwrap();
    assert_eq!(name.split('.').count(), 4);

    let instance = format!("/api/service/{id}/instance{slash}");
    for _ in 0..3 {
        // The CLI sends neither a body nor its type.
        let deployed = lab.ask(("POST", &instance), ada, None).await.json(200);
        assert_eq!(deployed, json!({"message": "ok"}));
    }
    let service = lab.until(&path, |it| {
        let all = it["instance_list"].as_array().unwrap();
        all.len() == 3 && all.iter().all(|it| it["status"] == "RUNNING")
    });
    let service = service.await;
    assert_eq!(service["status"], "RUNNING");
    let first = &service["instance_list"][0];
    for (key, value) in [
        ("instance_number", json!(0)),
        ("cluster_location", json!("48.137,11.576,10000")),
        ("worker_id", json!("munich/a1")),
        ("cpu_percent", json!("12.5")),
        ("memory_percent", json!("25.0")),
        ("disk", json!("0")),
        ("logs", json!("")),
        ("publicip", json!("")),
        ("host_port", json!(8080)),
        ("status_detail", json!("as played")),
        ("instance_ip", json!("10.18.0.9")),
        ("cpu_history", json!([])),
    ] {
        assert_eq!(first[key], value, "{key} of {first}");
    }
    assert!(first["last_modified_timestamp"].is_f64());
    let clusters = lab.get("/api/clusters", "").await.json(200);
    assert_eq!(first["cluster_id"], clusters[0]["_id"]);

    let undeploy = |n: &str| format!("/api/service/{id}/instance/{n}{slash}");
    lab.delete(&undeploy("1"), ada).await.json(200);
    lab.delete(&undeploy("1"), ada).await.refused(404);
    let gone = lab.until(&path, |it| {
        it["instance_list"].as_array().unwrap().len() == 2
    });
    assert_eq!(gone.await["instance_list"][1]["instance_number"], 2);
    lab.delete(&undeploy("-1"), ada).await.json(200);
    lab.until(&path, |it| it["instance_list"] == json!([]))
        .await;
    for wrong in ["-2", "x", "4294967296", "1.5"] {
        lab.delete(&undeploy(wrong), ada).await.refused(422);
    }
    let put = lab.put(&path, ada, &json!({})).await;
    assert!(put.refused(501).contains("Not implemented"));
    let deleted = lab.delete(&path, ada).await.json(200);
    assert_eq!(deleted, json!({"message": "Job deleted"}));
    lab.get(&path, ada).await.refused(404);
    lab.delete(&path, ada).await.refused(404);
    lab.ask(("POST", &instance), ada, None).await.refused(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_added_to_an_application() {
    let lab = Lab::start().await;
    let ada = lab.ada.as_str();
    let list = lab
        .post("/api/application", ada, &sla("hello", &["web"]))
        .await
        .json(200);
    let id = id_of(&list, "hello");
    let mut more = sla("hello", &["db", "cache"]);
    for slash in ["", "/"] {
        more["applications"][0]["applicationID"] = json!(id);
        let path = format!("/api/service{slash}");
        let added = lab.post(&path, ada, &more).await.json(200);
        let deployed = json!([{"service_name": "db", "status": 200},
            {"service_name": "cache", "status": 200}]);
        assert_eq!(added["deployed_services"], deployed);
        assert_eq!(added["failed_services"], json!([]));
        let last = added["job_id"].as_str().unwrap();
        let last = lab
            .get(&format!("/api/service/{last}"), ada)
            .await
            .json(200);
        assert_eq!(last["service_name"], "cache");
        let all = lab
            .get(&format!("/api/services{slash}"), ada)
            .await
            .json(200);
        assert_eq!(all.as_array().unwrap().len(), 3);
        more["applications"][0]["applicationID"] = json!("0123456789abcdef01234567");
        lab.post(&path, ada, &more).await.refused(404);
        more["applications"][0]["applicationID"] = json!("");
        assert!(
            lab.post(&path, ada, &more)
                .await
                .refused(422)
                .contains("applicationID")
        );
    }
    more["applications"][0]["applicationID"] = json!(id);
    more["applications"][0]["application_name"] = json!("other");
    let other = lab.post("/api/service", ada, &more).await.refused(422);
    assert!(other.contains("is hello.dev, not other.dev"), "{other}");
    let again = lab
        .post("/api/application", ada, &sla("Hello", &["web"]))
        .await;
    assert!(
        again
            .refused(409)
            .contains("application hello.dev exists already")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_are_shown_as_clients_read_them() {
    let lab = Lab::start().await;
    assert_eq!(lab.get("/api/clusters", "").await.json(200), json!([]));
    lab.cluster("munich", "root", None).await;
    for path in [
        "/api/clusters",
        "/api/clusters/",
        "/api/clusters/active",
        "/api/clusters/active/",
    ] {
        for token in ["", lab.ada.as_str()] {
            let clusters = lab.get(path, token).await.json(200);
            let cluster = &clusters[0];
            for (key, value) in [
                ("cluster_name", json!("munich")),
                ("candidate_name", json!("munich")),
                ("cluster_location", json!("48.137,11.576,10000")),
                ("active", json!(true)),
                ("active_nodes", json!(1)),
                ("aggregated_cpu_percent", json!(7.5)),
                ("memory_percent", json!(25.0)),
                ("memory_in_mb", json!(1024)),
                ("total_cpu_cores", json!(4)),
                ("total_gpu_cores", json!(0)),
                ("virtualization", json!(["process", "docker"])),
                ("supported_addons", json!([])),
                ("vram_percent", json!(0.0)),
            ] {
                assert_eq!(cluster[key], value, "{key} of {cluster}");
            }
            assert_eq!(cluster["_id"].as_str().unwrap().len(), 24);
            assert!(cluster["last_modified_timestamp"].is_f64());
            assert!(cluster["ip"].is_string() && cluster["port"].is_string());
        }
    }
    lab.get("/api/clusters", "nonsense").await.refused(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_double_encoding_is_there_for_those_who_ask() {
    let lab = Lab::start().await;
    let bearer = format!("Bearer {}", lab.ada);
    let body = sla("hello", &["web"]).to_string();
    let headers = [
        ("Authorization", bearer.as_str()),
        ("X-Oakestra-Encoding", "string"),
    ];
    let made = request(("POST", "/api/application/"), &headers, Some(&body));
    let text = send(lab.address, &made).await.json(200);
    let list: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    let id = id_of(&list, "hello");
    for path in [
        "/api/applications?encoding=string",
        "/api/services/?encoding=string",
        &format!("/api/services/{id}?a=b&encoding=string"),
        &format!("/api/application/{id}?encoding=string"),
    ] {
        let text = lab.get(path, &lab.ada).await.json(200);
        let inner: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
        assert!(inner.is_array() || inner.is_object(), "{path}");
    }
    let plain = lab
        .get("/api/applications?encoding=other", &lab.ada)
        .await
        .json(200);
    assert!(plain.is_array());
}

/// It stands still while nothing is heard of the cluster, and goes on when something is.
#[tokio::test(flavor = "multi_thread")]
async fn when_a_cluster_was_last_heard_of_is_told() {
    let lab = Lab::start().await;
    lab.cluster("munich", "root", None).await;
    let began = seconds_now();
    let last = |list: &Value| list[0]["last_modified_timestamp"].as_f64().unwrap();
    let first = lab
        .until("/api/clusters", |list| last(list) >= began - 1.0)
        .await;
    assert!(last(&first) <= seconds_now(), "{first}");
    // The played cluster says something twice a second.
    lab.until("/api/clusters", |list| last(list) > last(&first))
        .await;
    lab.tell_gone("munich");
    let mut at = last(&lab.get("/api/clusters", "").await.json(200));
    let quiet = std::time::Instant::now();
    while quiet.elapsed() < std::time::Duration::from_millis(2100) {
        at = at.max(last(&lab.get("/api/clusters", "").await.json(200)));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(at <= seconds_now() - 1.0, "it goes on by itself");
}

fn seconds_now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}
