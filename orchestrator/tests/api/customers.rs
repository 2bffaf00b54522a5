//! For whom an SLA is, and what its user is told of it: foreign owners are refused, and what is accepted
//! without being acted on is said.

use serde_json::{Value, json};

use crate::lab::{Lab, sla};

const APPLY: &str = "/api/v1/apply";

fn of(customer: &str, application: &str) -> Value {
    let mut sla = sla(application, &["web"]);
    sla["customerID"] = customer.into();
    sla
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sla_is_for_who_sends_it_or_for_whom_an_admin_names() {
    let lab = Lab::start().await;
    let pia = lab.user("pia", "acme", "Application_Provider").await;
    let eve = lab.user("eve", "evil", "Admin").await;
    let before = lab.everything().await;
    for customer in ["eve", "evil", "Admin", "ada", "root", "nobody"] {
        for path in [APPLY, "/api/application"] {
            let answer = lab.post(path, &pia, &of(customer, "shop")).await;
            let errors = answer.json(422)["errors"].clone();
            assert_eq!(errors.as_array().unwrap().len(), 1, "{errors}");
            assert_eq!(errors[0]["path"], "$.customerID");
            // The same whether there is such a one or not.
            let message = errors[0]["message"].as_str().unwrap();
            let told = format!(
                "{customer:?} is not allowed; write \"pia\", which is you, \"acme\", which is your \
                 organisation, or \"\"; an Admin of organisation root may name others"
            );
            assert_eq!(message, told);
        }
    }
    // An organisation's Admin is not everybody's.
    let said = lab.post(APPLY, &eve, &of("pia", "shop")).await.refused(422);
    assert!(said.contains("$.customerID"), "{said}");
    let said = lab.post(APPLY, &lab.ada, &of("nobody", "shop")).await;
    let said = said.refused(422);
    assert!(said.contains("of a user or an organisation that"), "{said}");
    // Another fault is told first, since the customer may be meant for another SLA.
    let mut wrong = of("eve", "shop");
    wrong["applications"][0]["microservices"][0]["memory"] = json!("x");
    let said = lab.post(APPLY, &pia, &wrong).await.refused(422);
    assert!(said.contains("memory"), "{said}");
    assert_eq!(lab.everything().await, before);

    let user = lab.get("/api/user/pia", &pia).await.json(200);
    let id = user["_id"]["$oid"].as_str().unwrap();
    for (at, customer) in ["pia", "PIA", "acme", "", id].into_iter().enumerate() {
        let sla = of(customer, &format!("own{at}"));
        lab.post(APPLY, &pia, &sla).await.json(200);
    }
    for (name, customer) in [("forpia", "pia"), ("foracme", "acme"), ("forme", "Admin")] {
        let sla = of(customer, name);
        lab.post(APPLY, &lab.ada, &sla).await.json(200);
    }
    let seen = lab.get("/api/applications", &pia).await.json(200);
    let owner = |name: &str| {
        let mut all = seen.as_array().unwrap().iter();
        let found = all.find(|it| it["application_name"] == name);
        found.map(|it| it["userId"].clone())
    };
    assert_eq!(owner("own4"), Some(json!("pia")));
    assert_eq!(owner("forpia"), Some(json!("pia")));
    assert_eq!(owner("foracme"), Some(json!("ada")));
    assert_eq!(owner("forme"), None);
}

/// Everything that Oakestra's schema accepts and its scheduler ignores.
fn track() -> Value {
    json!({"sla_version": "v2.0", "customerID": "Admin", "applications": [{
        "applicationID": "", "application_name": "track", "application_namespace": "prod",
        "microservices": [{
            "microserviceID": "", "microservice_name": "det", "microservice_namespace": "prod",
            "virtualization": "container", "code": "registry.example/det:1", "memory": 512,
            "vcpus": 2, "vgpus": 1, "bandwidth_in": 4000, "bandwidth_out": 1000, "storage": 200,
            "addresses": {"rr_ip": "10.30.41.1", "closest_ip": "10.30.41.2"},
            "constraints": [
                {"type": "geo", "location": "48.137,11.576", "threshold": 50, "rigidness": 0.9,
                    "convergence_time": 120},
                {"type": "latency", "area": "munich", "threshold": 20, "rigidness": 0.8,
                    "convergence_time": 60},
                {"type": "clusters", "allowed": ["munich", "augsburg"]}],
            "connectivity": [{"target_microservice_id": "agg", "con_constraints": [
                {"type": "latency", "threshold": 15, "rigidness": 0.9, "convergence_time": 60}]}],
        }],
    }]})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_and_not_acted_on_is_said_each_time() {
    let lab = Lab::start().await;
    let ada = lab.ada.as_str();
    let plain = lab.post(APPLY, ada, &sla("hello", &["web"])).await;
    assert_eq!(plain.json(200)["warnings"], json!([]));
    let applied = lab.post(APPLY, ada, &track()).await.json(200);
    let warnings = applied["warnings"].as_array().unwrap();
    let told: Vec<_> = warnings
        .iter()
        .map(|it| {
            (
                it["path"].as_str().unwrap(),
                it["message"].as_str().unwrap(),
            )
        })
        .collect();
    let fields = [
        "constraints",
        "connectivity",
        "vgpus",
        "bandwidth_in",
        "bandwidth_out",
        "storage",
    ];
    let paths: Vec<_> = fields
        .iter()
        .map(|it| format!("$.applications[0].microservices[0].{it}"))
        .collect();
    assert_eq!(
        told.iter().map(|(path, _)| *path).collect::<Vec<_>>(),
        paths
    );
    assert!(told[0].1.contains("nothing measures"), "{told:?}");
    assert!(told[1].1.contains("nothing acts on it yet"), "{told:?}");
    assert!(told[2].1.contains("not enforced"), "{told:?}");
    // Whoever looks later is told as well.
    let id = applied["services"][0].as_str().unwrap();
    let service = lab.get(&format!("/api/service/{id}"), ada).await.json(200);
    assert_eq!(service["warnings"].as_array().unwrap().len(), 6);
    let kept = &service["connectivity"][0];
    assert_eq!(kept["target_microservice_id"], "agg");
    assert_eq!(kept["con_constraints"][0]["threshold"], 15.0);
    let id = applied["applications"][0].as_str().unwrap();
    let application = lab.get(&format!("/api/application/{id}"), ada).await;
    let application = application.json(200);
    let text = application["warnings"][0].as_str().unwrap();
    assert!(
        text.starts_with("track.prod.det.prod: constraints: "),
        "{text}"
    );

    // The slides' form, whose paths are others.
    let slide = json!({"microserviceID": "", "microservice_name": "pre",
        "microservice_namespace": "dev", "virtualization": "container", "memory": 1, "vcpus": 1,
        "code": "example.com/pre", "added_files": [{"url": "www.example.com/file_1.txt"}]});
    for (body, path) in [
        (slide.clone(), "$.added_files"),
        (json!([slide]), "$[0].added_files"),
    ] {
        let applied = lab.post(APPLY, ada, &body).await.json(200);
        assert_eq!(applied["warnings"][0]["path"], path, "{applied}");
        assert_eq!(applied["warnings"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_again_changed_is_taken_up_or_refused_never_lost() {
    let lab = Lab::start().await;
    let ada = lab.ada.as_str();
    let applied = lab.post(APPLY, ada, &track()).await.json(200);
    lab.post(APPLY, ada, &track()).await.json(200);
    let before = lab.everything().await;
    let mut other = track();
    let link = &mut other["applications"][0]["microservices"][0]["connectivity"][0];
    link["con_constraints"][0]["threshold"] = json!(99);
    let said = lab.post(APPLY, ada, &other).await.refused(409);
    assert!(
        said.contains("service track.prod.det.prod exists"),
        "{said}"
    );
    assert_eq!(lab.everything().await, before);

    let mut described = track();
    described["applications"][0]["application_desc"] = "finds things".into();
    lab.post(APPLY, ada, &described).await.json(200);
    let id = applied["applications"][0].as_str().unwrap();
    let path = format!("/api/application/{id}");
    let now = lab.get(&path, ada).await.json(200);
    assert_eq!(now["application_desc"], "finds things");
    // One without a description leaves it as it is.
    lab.post(APPLY, ada, &track()).await.json(200);
    assert_eq!(lab.get(&path, ada).await.json(200), now);
}
