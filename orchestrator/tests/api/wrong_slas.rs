//! Wrong SLAs through the API: every fault with its path, on every route, and nothing is changed.

use serde_json::{Value, json};

use crate::lab::{Lab, sla};

type Change = fn(&mut Value);

fn service(sla: &mut Value) -> &mut Value {
    &mut sla["applications"][0]["microservices"][0]
}

/// What is done to a right SLA, and where the fault is.
const WRONG: [(&str, Change); 26] = [
    ("$.sla_version", |it| it["sla_version"] = json!("v1.0")),
    ("$.sla_version", |it| it["sla_version"] = json!(2)),
    ("$.customerID", |it| {
        drop(it.as_object_mut().unwrap().remove("customerID"))
    }),
    ("$.applications", |it| it["applications"] = json!({})),
    ("$", |it| it["application"] = json!([])),
    ("$.applications[0].application_name", |it| {
        it["applications"][0]["application_name"] = json!("a_b")
    }),
    ("$.applications[0].application_name", |it| {
        it["applications"][0]["application_name"] = json!("rr")
    }),
    ("$.applications[0].application_namespace", |it| {
        it["applications"][0]["application_namespace"] = json!("12")
    }),
    ("$.applications[0].microservices", |it| {
        it["applications"][0]["microservices"] = Value::Null
    }),
    (
        "$.applications[0].microservices[0].microservice_name",
        |it| service(it)["microservice_name"] = json!("x".repeat(31)),
    ),
    ("$.applications[0].microservices[0].microserviceID", |it| {
        service(it)["microserviceID"] = json!("mine")
    }),
    ("$.applications[0].microservices[0].virtualization", |it| {
        service(it)["virtualization"] = json!("contaner")
    }),
    ("$.applications[0].microservices[0].code", |it| {
        drop(service(it).as_object_mut().unwrap().remove("code"))
    }),
    ("$.applications[0].microservices[0].memory", |it| {
        service(it)["memory"] = json!("64")
    }),
    ("$.applications[0].microservices[0].memory", |it| {
        service(it)["memory"] = json!(-1)
    }),
    ("$.applications[0].microservices[0].vcpus", |it| {
        service(it)["vcpus"] = json!(1e9)
    }),
    ("$.applications[0].microservices[0].port", |it| {
        service(it)["port"] = json!(80)
    }),
    ("$.applications[0].microservices[0].port", |it| {
        service(it)["port"] = json!("99999:80")
    }),
    ("$.applications[0].microservices[0].cmd", |it| {
        service(it)["cmd"] = json!("run")
    }),
    ("$.applications[0].microservices[0].environment[0]", |it| {
        service(it)["environment"] = json!(["novalue"])
    }),
    ("$.applications[0].microservices[0].privileged", |it| {
        service(it)["privileged"] = json!(true)
    }),
    ("$.applications[0].microservices[0].addresses.rr_ip", |it| {
        service(it)["addresses"] = json!({"rr_ip": "192.0.2.1"})
    }),
    (
        "$.applications[0].microservices[0].constraints[0].type",
        |it| service(it)["constraints"] = json!([{"type": "geoo"}]),
    ),
    (
        "$.applications[0].microservices[0].constraints[0].location",
        |it| {
            service(it)["constraints"] =
                json!([{"type": "geo", "location": "91,0", "threshold": 5}]);
        },
    ),
    ("$.applications[0].microservices[0].connectivity[0]", |it| {
        service(it)["connectivity"] = json!([7])
    }),
    ("$.applications[0].microservices[1]", |it| {
        let twice = service(it).clone();
        it["applications"][0]["microservices"]
            .as_array_mut()
            .unwrap()
            .push(twice);
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_sla_is_refused_with_its_path_and_changes_nothing() {
    let lab = Lab::start().await;
    lab.cluster("munich", "root", None).await;
    let applied = lab
        .post("/api/v1/apply?deploy=1", &lab.ada, &sla("there", &["web"]))
        .await
        .json(200);
    let runs = |it: &Value| it["instances"] == json!({"RUNNING": 1});
    lab.until("/api/v1/status", runs).await;
    let id = applied["applications"][0].clone();
    let before = (lab.everything().await, lab.listed().await);
    for (path, change) in WRONG {
        for route in [
            "/api/v1/apply?deploy=1",
            "/api/application",
            "/api/service/",
        ] {
            let mut wrong = sla("there", &["db"]);
            if route.contains("service") {
                wrong["applications"][0]["applicationID"] = id.clone();
            }
            change(&mut wrong);
            let answer = lab.post(route, &lab.ada, &wrong).await;
            let message = answer.refused(422);
            assert!(message.contains(path), "{route}: {path}: {message}");
            if message.starts_with("the SLA has") {
                let errors = answer.json(422)["errors"].clone();
                let mut paths = errors
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|it| it["path"].as_str().unwrap());
                assert!(paths.any(|it| it.starts_with(path)), "{path}: {errors}");
            }
            let after = (lab.everything().await, lab.listed().await);
            assert_eq!(after, before, "{route}: {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_faults_are_told_at_once_with_what_was_meant() {
    let lab = Lab::start().await;
    let mut wrong = sla("many", &["web"]);
    service(&mut wrong)["virtualization"] = json!("contaner");
    service(&mut wrong)["memory"] = json!("64");
    service(&mut wrong)["constraints"] = json!([{"type": "geoo"}]);
    let answer = lab.post("/api/v1/apply", &lab.ada, &wrong).await;
    let message = answer.refused(422);
    assert!(
        message.starts_with("the SLA has 3 faults, nothing was changed: "),
        "{message}"
    );
    assert!(message.contains("did you mean \"container\"?"), "{message}");
    assert_eq!(answer.json(422)["errors"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_addresses_and_empty_documents_are_refused() {
    let lab = Lab::start().await;
    let mut pinned = sla("first", &["web"]);
    service(&mut pinned)["addresses"] = json!({"rr_ip": "10.30.0.1"});
    lab.post("/api/v1/apply", &lab.ada, &pinned).await.json(200);
    let before = lab.everything().await;
    pinned["applications"][0]["application_name"] = json!("second");
    let taken = lab
        .post("/api/v1/apply", &lab.ada, &pinned)
        .await
        .refused(422);
    assert!(
        taken.contains("10.30.0.1") && taken.contains("first.dev.web.dev"),
        "{taken}"
    );
    for empty in [
        json!([]),
        json!({"sla_version": "v2.0", "customerID": "x", "applications": []}),
    ] {
        lab.post("/api/v1/apply", &lab.ada, &empty)
            .await
            .refused(422);
    }
    for odd in [json!(null), json!(7), json!("text"), json!({})] {
        lab.post("/api/v1/apply", &lab.ada, &odd).await.refused(422);
    }
    assert_eq!(lab.everything().await, before);
}
