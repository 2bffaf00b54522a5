//! What tests deploy: application `shop.prod` of organisation `acme`, with one service that runs a
//! command in a shell.

use orchestrator_core::sla::{ApplicationDraft, Context, check_value};
use serde_json::{Value, json};
use weald_proto::addr::Pools;
use weald_proto::id::Organisation;
use weald_proto::name::Zone;

use super::start::label;

pub(super) fn acme() -> Organisation {
    Organisation(label("acme"))
}

/// An application `shop.prod` with one service that runs `command` in a shell.
pub(super) fn sla(command: &str) -> Value {
    json!({
        "sla_version": "v2.0", "customerID": "admin",
        "applications": [{
            "applicationID": "", "application_name": "shop", "application_namespace": "prod",
            "application_desc": "", "microservices": [{
                "microserviceID": "", "microservice_name": "web",
                "microservice_namespace": "prod", "virtualization": "process",
                "code": "/bin/sh", "cmd": ["/bin/sh", "-c", command],
                "memory": 50, "vcpus": 0, "storage": 0,
            }],
        }],
    })
}

pub(super) fn draft(command: &str) -> ApplicationDraft {
    let text = sla(command);
    let context = Context {
        pools: &Pools::default(),
        zones: &Zone::defaults(),
        organisation: &acme(),
        application: None,
    };
    check_value(&text, context).unwrap().pop().unwrap()
}
