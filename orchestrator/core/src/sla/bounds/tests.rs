//! Services at their bounds, put into every message that one travels in, and services beyond them.

use proptest::prelude::*;
use serde_json::{Value, json};
use weald_proto::addr::{Dual, Pools};
use weald_proto::codec::Message as _;
use weald_proto::control::{ClusterToWorker, RootToCluster};
use weald_proto::id::{MAX_LABEL_LEN, Organisation};
use weald_proto::name::{InstanceId, Zone};
use weald_proto::spec::ServiceSpec;

use super::*;
use crate::samples::label;
use crate::sla::{Context, SlaError, check_value};

#[test]
fn a_service_at_every_bound_at_once_is_handed_down() {
    for spec in [check(&largest("process")), check(&largest("unikernel"))] {
        let spec = spec.unwrap();
        assert_eq!(spec.command.len(), WORDS);
        assert_eq!(spec.environment.len(), VARIABLES);
        assert_eq!(spec.ports.len(), PORTS);
        assert_eq!(spec.constraints.len(), CONSTRAINTS);
        travels(&spec);
    }
}

#[test]
fn all_of_a_bound_may_be_in_one_text() {
    let mut service = smallest();
    service["cmd"] = json!(["x".repeat(COMMAND_BYTES)]);
    service["environment"] = json!([format!("A={}", "x".repeat(ENVIRONMENT_BYTES - 2))]);
    travels(&check(&service).unwrap());
}

#[test]
fn one_more_than_a_bound_is_refused_where_it_stands() {
    let clusters = |count| json!([{"type": "clusters", "allowed": vec!["c"; count]}]);
    let addons = |names: Vec<String>| json!([{"type": "addons", "needs": names}]);
    let node = json!({"type": "direct", "node": "n"});
    let words = |count| json!(vec!["w"; count]);
    let listens: Vec<_> = (0..=PORTS).map(|i| format!(":{}", i + 1)).collect();
    let variables: Vec<_> = (0..=VARIABLES).map(|i| format!("V{i}=")).collect();
    let area = json!([{"type": "geo", "location": "1,1", "threshold": 1, "area": "a".repeat(AREA_BYTES + 1)}]);
    let cases = [
        ("code", json!("c".repeat(CODE_BYTES + 1)), "code", "bytes"),
        ("arch", words(ARCHITECTURES + 1), "arch", "architectures"),
        ("arch", json!(["a".repeat(ARCH_BYTES + 1)]), "arch", "bytes"),
        ("cmd", words(WORDS + 1), "cmd", "words"),
        (
            "cmd",
            json!(["w", "w".repeat(COMMAND_BYTES)]),
            "cmd",
            "bytes",
        ),
        ("environment", json!(variables), "environment", "variables"),
        ("port", json!(listens.join(";")), "port", "ports"),
        (
            "constraints",
            json!(vec![node; CONSTRAINTS + 1]),
            "constraints",
            "constraints",
        ),
        (
            "constraints",
            clusters(ALLOWED + 1),
            "constraints[0].allowed",
            "clusters",
        ),
        (
            "constraints",
            addons(vec!["a".into(); NEEDS + 1]),
            "constraints[0].needs",
            "addons",
        ),
        (
            "constraints",
            addons(vec!["a".repeat(NEEDS_BYTES + 1)]),
            "constraints[0].needs",
            "bytes",
        ),
        ("constraints", area, "constraints[0].area", "bytes"),
    ];
    for (key, value, path, what) in cases {
        let mut service = smallest();
        service[key] = value;
        let errors = check(&service).unwrap_err();
        let path = format!("$.{path}");
        let found = errors.iter().find_map(|error| {
            if let Fault::TooMany {
                found,
                what: of,
                limit,
            } = &error.fault
                && *of == what
                && error.path == path
            {
                Some((*found, *limit))
            } else {
                None
            }
        });
        let (found, limit) = found.unwrap_or_else(|| panic!("{key}: {errors:?}"));
        assert_eq!(found, limit + 1, "{key}");
    }
}

proptest! {
    #[test]
    fn whatever_is_accepted_is_handed_down(
        words in lengths(WORDS + 2, COMMAND_BYTES),
        values in lengths(VARIABLES + 2, ENVIRONMENT_BYTES),
        code in 1..CODE_BYTES + 2,
        ports in 1..PORTS + 2,
    ) {
        let mut service = smallest();
        service["code"] = json!("ü".repeat(code.div_ceil(2)));
        service["cmd"] = words.iter().map(|len| json!("w".repeat(*len))).collect();
        let variables = values.iter().enumerate();
        let variables = variables.map(|(i, len)| json!(format!("V{i}={}", "v".repeat(*len))));
        service["environment"] = variables.collect();
        let ports: Vec<_> = (1..=ports).map(|port| format!("{port}:{port}/udp")).collect();
        service["port"] = json!(ports.join(";"));
        if let Ok(spec) = check(&service) {
            travels(&spec);
        }
    }
}

/// Lengths of up to `count` texts that have about `bytes` together.
fn lengths(count: usize, bytes: usize) -> impl Strategy<Value = Vec<usize>> {
    (0..count).prop_flat_map(move |count| {
        let each = 2 * bytes / count.max(1) + 2;
        proptest::collection::vec(0..each, count)
    })
}

/// Whether every message that a service travels in can hold it.
fn travels(spec: &ServiceSpec) {
    let instance = InstanceId {
        service: spec.name.clone(),
        number: u32::MAX,
    };
    let (generation, within_ms) = (u64::MAX, u64::MAX);
    let mut spec = spec.clone();
    let both = Dual {
        v4: Some([10, 30, 0, 1].into()),
        v6: Some([0xff; 16].into()),
    };
    (spec.round_robin, spec.closest) = (both, both);
    let spec = Box::new(spec);
    let offer = RootToCluster::Offer {
        instance: instance.clone(),
        generation,
        spec: spec.clone(),
        within_ms,
    };
    assert_eq!(RootToCluster::decode(&offer.encode().unwrap()), Ok(offer));
    let deploy = ClusterToWorker::Deploy {
        instance,
        generation,
        spec,
        instance_ip: both,
    };
    assert_eq!(
        ClusterToWorker::decode(&deploy.encode().unwrap()),
        Ok(deploy)
    );
}

fn smallest() -> Value {
    json!({"microservice_name": "web", "microservice_namespace": "dev",
        "virtualization": "process", "code": "/bin/true"})
}

/// A service that uses up every bound.
fn largest(runtime: &str) -> Value {
    let mut service = smallest();
    let name = |c: &str| c.repeat(30);
    service["microservice_name"] = json!(name("n"));
    service["microservice_namespace"] = json!(name("m"));
    service["virtualization"] = json!(runtime);
    if runtime == "unikernel" {
        let each = CODE_BYTES / ARCHITECTURES - 1;
        let archives = vec!["u".repeat(each); ARCHITECTURES];
        service["code"] = json!(archives.join(","));
        service["arch"] = json!(vec!["a".repeat(ARCH_BYTES / ARCHITECTURES); ARCHITECTURES]);
    } else {
        service["code"] = json!("c".repeat(CODE_BYTES));
    }
    service["cmd"] = json!(vec!["w".repeat(COMMAND_BYTES / WORDS); WORDS]);
    let value = "v".repeat(ENVIRONMENT_BYTES / VARIABLES - 5);
    let variables = (0..VARIABLES).map(|i| json!(format!("V{i:03}={value}")));
    service["environment"] = variables.collect();
    let ports: Vec<_> = (0..PORTS)
        .map(|i| format!("{}:65535/udp", 65_535 - i))
        .collect();
    service["port"] = json!(ports.join(";"));
    let cluster = "c".repeat(MAX_LABEL_LEN);
    let allowed = json!({"type": "clusters", "allowed": vec![cluster.as_str(); ALLOWED]});
    let needs = vec!["a".repeat(NEEDS_BYTES / NEEDS); NEEDS];
    let needs = json!({"type": "addons", "needs": needs});
    let half = CONSTRAINTS / 2;
    service["constraints"] = json!([vec![allowed; half], vec![needs; half]].concat());
    service
}

fn check(service: &Value) -> Result<ServiceSpec, Vec<SlaError>> {
    let organisation = Organisation(label(&"o".repeat(MAX_LABEL_LEN)));
    let application = weald_proto::name::ApplicationName {
        name: label("shop"),
        namespace: label("prod"),
    };
    let context = Context {
        pools: &Pools::default(),
        zones: &Zone::defaults(),
        organisation: &organisation,
        application: Some(&application),
    };
    let drafts = check_value(service, context)?;
    Ok(drafts[0].services[0].spec.clone())
}
