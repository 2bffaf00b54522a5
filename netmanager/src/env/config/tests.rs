//! Names that reach the kernel stay within its limits and apart from each other.

use super::*;

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn instance(text: &str) -> InstanceId {
    let labels: Vec<&str> = text.split('.').collect();
    let [application, appns, service, servicens, number] = labels[..] else {
        panic!("{text}")
    };
    InstanceId {
        service: weald_proto::name::ServiceName {
            application: weald_proto::name::ApplicationName {
                name: label(application),
                namespace: label(appns),
            },
            name: label(service),
            namespace: label(servicens),
        },
        number: number.parse().unwrap(),
    }
}

fn config() -> EnvConfig {
    EnvConfig {
        name: label("weald-n1"),
        pools: Pools::default(),
        node_ip: Dual::default(),
        instances: Vec::new(),
        egress: false,
    }
}

fn instance_env(id: &str, ports: &[&str]) -> InstanceEnv {
    InstanceEnv {
        id: instance(id),
        instance_ip: Dual::default(),
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
    }
}

#[test]
fn device_names_fit_and_differ() {
    let names = [
        "weald-n1",
        "n1",
        "weald-weald-n1",
        "weald-a-node-with-a-long-name",
        "weald-a-node-with-a-long-name2",
        "weald-abcdefghijk",
    ];
    let devices: BTreeSet<String> = names.iter().map(|name| host_device(&label(name))).collect();
    assert_eq!(devices.len(), names.len(), "{devices:?}");
    assert!(devices.iter().all(|device| device.len() <= MAX_DEVICE_LEN));
    assert!(devices.contains("wl-n1"));
    assert_eq!(instance_device(&instance("shop.prod.web.prod.0")).len(), 15);
}

#[test]
fn overlay_names_are_labels() {
    let long = NodeId::new(label("c"), label(&"a".repeat(63)));
    let prefix = label(DEFAULT_PREFIX);
    assert_eq!(EnvConfig::overlay_name(&prefix, &long).as_str().len(), 22);
    let short = NodeId::new(label("c"), label("n1"));
    assert_eq!(EnvConfig::overlay_name(&prefix, &short), label("weald-n1"));
    let other = EnvConfig::overlay_name(&label("lab7"), &short);
    assert_eq!(other, label("lab7-n1"));
}

#[test]
fn namespace_names_fit_and_do_not_meet() {
    let long = "a".repeat(63);
    let id = instance(&format!("{long}.{long}.{long}.{long}.4294967295"));
    let name = instance_namespace(&label(&long), &id);
    assert_eq!(name.len(), 255);
    let other = instance(&format!("{long}.{long}.{long}.{long}.4294967294"));
    assert_ne!(name, instance_namespace(&label(&long), &other));
    assert_ne!(
        instance_namespace(&label("weald-a"), &instance("b-app.x.y.z.1")),
        instance_namespace(&label("weald-a-b"), &instance("app.x.y.z.1")),
    );
}

#[test]
fn faults_are_named() {
    let mut bad = config();
    bad.name = label("1st");
    assert_eq!(bad.check(), Err(EnvError::Name("1st".into())));

    let mut bad = config();
    bad.pools.v6 = "fdfe::/16".parse().unwrap();
    assert_eq!(
        bad.check(),
        Err(EnvError::Pool("fdfe::/16".into(), IpAddr::V6(RESOLVER_V6)))
    );

    let mut bad = config();
    bad.instances = vec![
        instance_env("a.b.c.d.0", &["8080:80/tcp", "8080:53/udp"]),
        instance_env("a.b.c.d.1", &["8080:81/tcp"]),
    ];
    assert_eq!(
        bad.check().unwrap_err().to_string(),
        "port 8080/tcp of the host is mapped twice, by a.b.c.d.0 and a.b.c.d.1"
    );
    bad.instances[1] = instance_env("a.b.c.d.0", &[]);
    assert!(matches!(bad.check(), Err(EnvError::Collision(..))));
}
