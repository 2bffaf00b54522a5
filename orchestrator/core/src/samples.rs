//! Names and services with few words, for the tests of this package.

use std::time::Duration;

use weald_proto::addr::Dual;
use weald_proto::id::{Label, Organisation};
use weald_proto::name::{ApplicationName, ServiceName};
use weald_proto::spec::{Resources, Runtime, ServiceSpec};
use weald_proto::table::{AcceptPolicy, LanePolicy};

pub(crate) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

/// `shop.prod.<name>.<namespace>`.
pub(crate) fn service(name: &str, namespace: &str) -> ServiceName {
    ServiceName {
        application: ApplicationName {
            name: label("shop"),
            namespace: label("prod"),
        },
        name: label(name),
        namespace: label(namespace),
    }
}

/// A process of organisation `acme`, without any wish but resources.
pub(crate) fn spec(name: ServiceName, resources: Resources) -> ServiceSpec {
    ServiceSpec {
        name,
        organisation: Organisation(label("acme")),
        round_robin: Dual::default(),
        closest: Dual::default(),
        lane: LanePolicy::Auto,
        accept: AcceptPolicy::Late,
        runtime: Runtime::Process,
        code: "/bin/true".to_owned(),
        command: Vec::new(),
        environment: Vec::new(),
        resources,
        ports: Vec::new(),
        listens: Vec::new(),
        one_shot: false,
        constraints: Vec::new(),
        scheduler: None,
        convergence: Duration::from_secs(60),
    }
}
