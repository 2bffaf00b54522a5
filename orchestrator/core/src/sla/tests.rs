//! Right SLAs, wrong ones with the exact text of every fault, and arbitrary JSON.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use weald_proto::addr::{Dual, Pools};
use weald_proto::id::Organisation;
use weald_proto::name::Zone;
use weald_proto::spec::{Constraint, Place, Resources, Runtime};
use weald_proto::table::{AcceptPolicy, LanePolicy};

use super::*;
use crate::samples::label;

#[test]
fn example_a_is_the_smallest_container() {
    let drafts = check(&example_a()).unwrap();
    assert_eq!(drafts.len(), 1);
    assert_eq!(drafts[0].customer, "Admin");
    assert_eq!(drafts[0].description, "smallest example");
    assert_eq!(drafts[0].id, None);
    let spec = &drafts[0].services[0].spec;
    assert_eq!(spec.name.to_string(), "hello.dev.web.dev");
    assert_eq!(spec.runtime, Runtime::Container);
    assert_eq!(spec.code, "docker.io/library/nginx:alpine");
    assert_eq!(
        (spec.round_robin, spec.closest),
        (Dual::default(), Dual::default())
    );
    assert_eq!(
        (spec.resources.millicpus, spec.resources.memory_mib),
        (1000, 64)
    );
    assert_eq!(spec.ports, ["8080:80/tcp".parse().unwrap()]);
    assert_eq!((spec.lane, spec.one_shot), (LanePolicy::Auto, false));
    assert_eq!(spec.accept, AcceptPolicy::Late);
    assert_eq!(spec.convergence, Duration::from_secs(300));
}

#[test]
fn example_b_pins_addresses_and_a_cluster() {
    let drafts = check(&json!({"sla_version":"v2.0","customerID":"Admin","applications":[{
      "applicationID":"","application_name":"echo","application_namespace":"lab","microservices":[
       {"microserviceID":"","microservice_name":"srv","microservice_namespace":"lab","virtualization":"container",
        "code":"docker.io/library/nginx:alpine","memory":64,"vcpus":1,
        "addresses":{"rr_ip":"10.30.40.1","rr_ip_v6":"fdff:2000::4001"},
        "constraints":[{"type":"direct","cluster":"munich"}]},
       {"microserviceID":"","microservice_name":"cli","microservice_namespace":"lab","virtualization":"container",
        "code":"docker.io/curlimages/curl:latest","memory":32,"vcpus":1,"one_shot":true,
        "cmd":["curl","-s","http://10.30.40.1"]}]}]}))
    .unwrap();
    let [server, client] = drafts[0].services.as_slice() else {
        panic!("{drafts:?}")
    };
    let pinned = Dual {
        v4: Some("10.30.40.1".parse().unwrap()),
        v6: Some("fdff:2000::4001".parse().unwrap()),
    };
    assert_eq!(server.spec.round_robin, pinned);
    assert!(server.spec.closest.is_empty());
    let munich = Constraint::Direct {
        cluster: Some(label("munich")),
        node: None,
    };
    assert_eq!(server.spec.constraints, [munich]);
    assert!(client.spec.one_shot);
    assert_eq!(client.spec.command, ["curl", "-s", "http://10.30.40.1"]);
}

#[test]
fn example_c_keeps_what_oakestra_ignores() {
    let drafts = check(&json!({"sla_version":"v2.0","customerID":"Admin","applications":[{
      "applicationID":"","application_name":"track","application_namespace":"prod","microservices":[
       {"microserviceID":"","microservice_name":"det","microservice_namespace":"prod","virtualization":"container",
        "code":"registry.example/det:1","memory":512,"vcpus":2,"vgpus":1,"bandwidth_in":4000,"bandwidth_out":1000,"storage":200,
        "addresses":{"rr_ip":"10.30.41.1","closest_ip":"10.30.41.2"},
        "constraints":[{"type":"geo","location":"48.137,11.576","threshold":50,"rigidness":0.9,"convergence_time":120},
                       {"type":"latency","area":"munich","threshold":20,"rigidness":0.8,"convergence_time":60},
                       {"type":"clusters","allowed":["munich","augsburg"]}],
        "connectivity":[{"target_microservice_id":"agg","con_constraints":[
           {"type":"latency","threshold":15,"rigidness":0.9,"convergence_time":60}]}]}]}]}))
    .unwrap();
    let draft = &drafts[0].services[0];
    let resources = Resources {
        millicpus: 2000,
        memory_mib: 512,
        gpus: 1,
        tpus: 0,
        storage_mib: 200,
        bandwidth_in_kbit: 4000,
        bandwidth_out_kbit: 1000,
    };
    assert_eq!(draft.spec.resources, resources);
    assert_eq!(draft.spec.closest.v4, Some("10.30.41.2".parse().unwrap()));
    assert_eq!(
        draft.spec.constraints,
        [
            Constraint::Latency {
                area: "munich".into(),
                threshold_ms: 20.0
            },
            Constraint::Clusters {
                allowed: vec![label("munich"), label("augsburg")]
            },
            Constraint::Geo {
                places: vec![place(48.137, 11.576, 50.0)]
            },
        ]
    );
    assert_eq!(draft.spec.convergence, Duration::from_secs(60));
    let link = Link {
        target: "agg".into(),
        kind: LinkKind::Latency,
        threshold: 15.0,
    };
    assert_eq!(draft.connectivity, [link]);
    // What of it is not acted on, or in part only, is said; and that nothing can satisfy it.
    let (field, why) = unheeded(&draft.written)[0];
    assert!(why.contains("no instance will be placed"), "{field}: {why}");
    let told: Vec<_> = unheeded(&draft.written)
        .into_iter()
        .map(|(field, why)| (field, why.contains("nothing acts on it yet")))
        .collect();
    assert_eq!(
        told,
        [
            ("constraints", false),
            ("connectivity", true),
            ("vgpus", false),
            ("bandwidth_in", false),
            ("bandwidth_out", false),
            ("storage", false),
        ]
    );
}

#[test]
fn the_slides_form_is_read_tolerantly() {
    let slide = json!({
        "microserviceID": "0a9b0f890ede0978", "microservice_name": "preprocessing_collection",
        "microservice_namespace": "development", "virtualization": "container", "memory": 4096,
        "vcpus": 1, "vgpus": 0, "vtpus": 0, "bandwidth_in": 10000, "bandwidth_out": 10000,
        "storage": 0, "code": "www.github.com/edgeio/preprocessi", "port": 8008,
        "added_files": [{"url": "www.example.com/file_1.txt"}, "www.example.com/b"],
        "constraints": [
            {"type": "geo", "location": "(52.520008,13.404954)", "threshold": 5, "rigidness": 0.99, "convergence_time": 300},
            {"type": "geo", "location": "48.137154, 11.576124", "threshold": 5, "rigidness": 0.99, "convergence_time": 300}]
    });
    let alone = check(&slide).unwrap();
    let name = "preprocessing-collection.development";
    assert_eq!(alone[0].name.to_string(), name);
    let draft = &alone[0].services[0];
    assert_eq!(draft.spec.name.to_string(), format!("{name}.{name}"));
    assert_eq!(draft.spec.ports, ["8008:8008/tcp".parse().unwrap()]);
    assert_eq!(
        draft.added_files,
        ["www.example.com/file_1.txt", "www.example.com/b"]
    );
    let places = vec![
        place(52.520008, 13.404954, 5.0),
        place(48.137154, 11.576124, 5.0),
    ];
    assert_eq!(draft.spec.constraints, [Constraint::Geo { places }]);

    let mut second = slide.clone();
    second["microservice_name"] = json!("other");
    second["port"] = json!("9000");
    let both = check(&json!([slide, second])).unwrap();
    assert_eq!(both.len(), 1);
    assert_eq!(both[0].services[0], *draft);
    let other = &both[0].services[1].spec;
    assert_eq!(other.name.to_string(), format!("{name}.other.development"));
    assert_eq!(other.ports, ["9000:9000/tcp".parse().unwrap()]);
}

#[test]
fn runtimes_lanes_ports_and_variables_are_read() {
    for (word, runtime) in [
        ("process", Runtime::Process),
        ("docker", Runtime::Container),
        ("crosvm", Runtime::Microvm),
        ("microvm", Runtime::Microvm),
        ("wasm", Runtime::Wasm),
    ] {
        let drafts = check(&with(SERVICE, "virtualization", json!(word))).unwrap();
        assert_eq!(drafts[0].services[0].spec.runtime, runtime);
    }
    let mut sla = with(SERVICE, "virtualization", json!("unikernel"));
    let service = sla.pointer_mut(SERVICE).unwrap();
    service["code"] = json!("http://a/x,http://a/y");
    service["arch"] = json!(["amd64", "arm64"]);
    service["lane"] = json!("l4");
    service["accept"] = json!("early");
    service["scheduler"] = json!("best-fit");
    service["target_node"] = json!("n1");
    service["port"] = json!("80:80/udp;443:443/tcp;80:81;53/udp;9080; :8000;:8001/tcp;:8000");
    service["environment"] = json!(["A=1", "B=x=y", "C="]);
    let drafts = check(&sla).unwrap();
    let spec = &drafts[0].services[0].spec;
    assert_eq!(spec.code, "amd64=http://a/x,arm64=http://a/y");
    assert_eq!(
        (spec.lane, spec.accept),
        (LanePolicy::L4, AcceptPolicy::Early)
    );
    assert_eq!(spec.scheduler, Some(label("best-fit")));
    let node = Constraint::Direct {
        cluster: None,
        node: Some(label("n1")),
    };
    assert_eq!(spec.constraints, [node]);
    let ports: Vec<String> = spec.ports.iter().map(ToString::to_string).collect();
    assert_eq!(
        ports,
        [
            "80:80/udp",
            "443:443/tcp",
            "80:81/tcp",
            "53:53/udp",
            "9080:9080/tcp"
        ]
    );
    assert_eq!(spec.listens, [8000, 8001]);
    assert_eq!(
        Vec::from_iter(spec.tcp_ports()),
        [81, 443, 8000, 8001, 9080]
    );
    let pair = |k: &str, v: &str| (k.to_string(), v.to_string());
    assert_eq!(
        spec.environment,
        [pair("A", "1"), pair("B", "x=y"), pair("C", "")]
    );
}

#[test]
fn each_wrong_field_is_reported_in_full() {
    const S: &str = "$.applications[0].microservices[0]";
    const FIELDS: &str = "microserviceID, microservice_name, microservice_namespace, virtualization, code, arch, cmd, environment, memory, vcpus, vgpus, vtpus, bandwidth_in, bandwidth_out, storage, port, one_shot, privileged, volumes, addresses, constraints, connectivity, sla_violation_strategy, target_node, state, added_files, args, lane, accept, scheduler";
    let geo = |location: &str, threshold: f64| json!([{"type":"geo","location":location,"threshold":threshold}]);
    let cases: Vec<(&str, Value, String)> = vec![
        (
            "memry",
            json!(1),
            format!("{S}: unknown field \"memry\"; allowed are {FIELDS}; did you mean \"memory\"?"),
        ),
        (
            "memory",
            json!("64"),
            format!("{S}.memory: is a string; write a whole number from 0 to 4294967295"),
        ),
        (
            "memory",
            json!(-1),
            format!("{S}.memory: \"-1\" is not allowed; write a whole number from 0 to 4294967295"),
        ),
        (
            "vcpus",
            json!(0.5),
            format!("{S}.vcpus: \"0.5\" is not allowed; write a whole number from 0 to 4294967295"),
        ),
        (
            "vcpus",
            json!(4294968),
            format!("{S}.vcpus: \"4294968\" is not allowed; write at most 4294967 processors"),
        ),
        (
            "one_shot",
            json!("yes"),
            format!("{S}.one_shot: is a string; write true or false"),
        ),
        (
            "port",
            json!(80),
            format!("{S}.port: is a number; write a string"),
        ),
        (
            "port",
            json!("80:80/sctp"),
            format!(
                "{S}.port: \"80:80/sctp\" is not allowed; write HOST:INSTANCE, HOST:INSTANCE/udp or, for TCP without a port of the host, :INSTANCE, with ports 1 to 65535, several with ';' between"
            ),
        ),
        (
            "port",
            json!("80:80;80:81/tcp"),
            format!("{S}.port: port 80/tcp is already taken by \"80:80/tcp\"; choose another"),
        ),
        (
            "virtualization",
            json!("contaner"),
            format!(
                "{S}.virtualization: unknown runtime \"contaner\"; allowed are process, container, docker, unikernel, microvm, crosvm, wasm; did you mean \"container\"?"
            ),
        ),
        (
            "virtualization",
            json!("io.containerd.runsc.v1"),
            format!(
                "{S}.virtualization: unknown runtime \"io.containerd.runsc.v1\"; allowed are process, container, docker, unikernel, microvm, crosvm, wasm"
            ),
        ),
        (
            "virtualization",
            json!("unikernel"),
            format!(
                "{S}.arch: \"\" is not allowed; write one architecture for each of the 1 archives in code"
            ),
        ),
        (
            "arch",
            json!(["amd64"]),
            format!("{S}.arch: is refused: only unikernels have one archive per architecture"),
        ),
        (
            "code",
            json!(""),
            format!("{S}.code: \"\" is not allowed; write an image, URL or path without blanks"),
        ),
        (
            "microservice_name",
            json!("my_web"),
            format!(
                "{S}.microservice_name: \"my_web\" is not allowed; write 1 to 30 letters and digits"
            ),
        ),
        (
            "microservice_name",
            json!("Closest"),
            format!(
                "{S}.microservice_name: \"closest\" is reserved (policy words, numbers, \"any\" and the labels of zones are); choose another"
            ),
        ),
        (
            "microservice_namespace",
            json!("local"),
            format!(
                "{S}.microservice_namespace: \"local\" is reserved (policy words, numbers, \"any\" and the labels of zones are); choose another"
            ),
        ),
        (
            "microserviceID",
            json!("7"),
            format!("{S}.microserviceID: is refused: root gives ids; leave it empty"),
        ),
        (
            "privileged",
            json!(true),
            format!(
                "{S}.privileged: is refused: instances never get the host's privileges; set it to false"
            ),
        ),
        (
            "volumes",
            json!([{"volume_id":"v"}]),
            format!("{S}.volumes: is refused: there are no CSI drivers; leave it out"),
        ),
        (
            "added_files",
            json!(["u"]),
            format!("{S}.added_files: is refused: nothing fetches files; put them into the code"),
        ),
        (
            "args",
            json!(["u"]),
            format!("{S}.args: is refused: write arguments into cmd, after the command"),
        ),
        (
            "cmd",
            json!(["sh", 1]),
            format!("{S}.cmd[1]: is a number; write a string"),
        ),
        (
            "environment",
            json!(["A"]),
            format!(
                "{S}.environment[0]: \"A\" is not allowed; write KEY=VALUE with a key of letters, digits and '_'"
            ),
        ),
        (
            "environment",
            json!(["A=1", "A=2"]),
            format!(
                "{S}.environment[1]: variable A is already taken by {S}.environment[0]; choose another"
            ),
        ),
        (
            "lane",
            json!("l5"),
            format!("{S}.lane: unknown lane \"l5\"; allowed are auto, l3, l4"),
        ),
        (
            "accept",
            json!("erly"),
            format!(
                "{S}.accept: unknown time of acceptance \"erly\"; allowed are late, early; did you mean \"early\"?"
            ),
        ),
        (
            "lane",
            json!("autp"),
            format!(
                "{S}.lane: unknown lane \"autp\"; allowed are auto, l3, l4; did you mean \"auto\"?"
            ),
        ),
        (
            "scheduler",
            json!("best-fti"),
            format!(
                "{S}.scheduler: unknown scheduler \"best-fti\"; allowed are best-fit; did you mean \"best-fit\"?"
            ),
        ),
        (
            "addresses",
            json!({"rr_ip":"10.31.0.1"}),
            format!(
                "{S}.addresses.rr_ip: \"10.31.0.1\" is not allowed; write an IPv4 address in 10.30.0.0/16"
            ),
        ),
        (
            "addresses",
            json!({"rr_ip_v6":"10.30.0.1"}),
            format!(
                "{S}.addresses.rr_ip_v6: \"10.30.0.1\" is not allowed; write an IPv6 address in fdff::/16"
            ),
        ),
        (
            "addresses",
            json!({"rr_ip":"10.30.0.1","closest_ip":"10.30.0.1"}),
            format!(
                "{S}.addresses.closest_ip: address 10.30.0.1 is already taken by {S}.addresses.rr_ip; choose another"
            ),
        ),
        (
            "addresses",
            json!({"instances":[{"from":"10.30.0.1"}]}),
            format!(
                "{S}.addresses.instances: is refused: clusters assign instance addresses from granted blocks"
            ),
        ),
        (
            "constraints",
            json!([{"type":"goe"}]),
            format!(
                "{S}.constraints[0].type: unknown constraint \"goe\"; allowed are direct, clusters, addons, geo, latency; did you mean \"geo\"?"
            ),
        ),
        (
            "constraints",
            json!([{"type":"latncy"}]),
            format!(
                "{S}.constraints[0].type: unknown constraint \"latncy\"; allowed are direct, clusters, addons, geo, latency; did you mean \"latency\"?"
            ),
        ),
        (
            "constraints",
            json!([{}]),
            format!(
                "{S}.constraints[0].type: is missing; write direct, clusters, addons, geo or latency"
            ),
        ),
        (
            "constraints",
            json!([{"type":"direct"}]),
            format!("{S}.constraints[0].cluster: is missing; write a cluster, a node or both"),
        ),
        (
            "constraints",
            json!([{"type":"clusters","allowed":["a","b/c"]}]),
            format!(
                "{S}.constraints[0].allowed[1]: \"b/c\" is not allowed; write 1 to 63 letters, digits and '-' between them"
            ),
        ),
        (
            "constraints",
            json!([{"type":"addons"}]),
            format!("{S}.constraints[0].needs: is missing; write an array of addons"),
        ),
        (
            "constraints",
            geo("91,0", 5.0),
            format!(
                "{S}.constraints[0].location: \"91,0\" is not allowed; write \"latitude,longitude\" in degrees, as in \"48.137,11.576\""
            ),
        ),
        (
            "constraints",
            geo("(48,11)", 5.0),
            format!(
                "{S}.constraints[0].location: \"(48,11)\" is not allowed; write \"latitude,longitude\" in degrees, as in \"48.137,11.576\""
            ),
        ),
        (
            "constraints",
            geo("48,11", 0.0),
            format!(
                "{S}.constraints[0].threshold: \"0\" is not allowed; write a number above 0 and up to 20038"
            ),
        ),
        (
            "constraints",
            json!([{"type":"direct","node":"n","rigidness":2,"convergence_time":5}]),
            format!(
                "{S}.constraints[0].rigidness: \"2\" is not allowed; write a number from 0 to 1"
            ),
        ),
        (
            "constraints",
            json!([{"type":"direct","node":"n","area":"x"}]),
            format!(
                "{S}.constraints[0].area: is refused: a constraint of this type does not read it"
            ),
        ),
        (
            "connectivity",
            json!([{"target_microservice_id":"a","con_constraints":[{"type":"latncy","threshold":1,"rigidness":1,"convergence_time":1}]}]),
            format!(
                "{S}.connectivity[0].con_constraints[0].type: unknown constraint \"latncy\"; allowed are latency, bandwidth, geo; did you mean \"latency\"?"
            ),
        ),
        (
            "cmd",
            json!(vec!["x"; 1025]),
            format!("{S}.cmd: has 1025 words; at most 256 are allowed"),
        ),
        (
            "environment",
            json!([format!("A={}", "x".repeat(70_000))]),
            format!("{S}.environment: has 70002 bytes; at most 65536 are allowed"),
        ),
        (
            "code",
            json!("x".repeat(4097)),
            format!("{S}.code: has 4097 bytes; at most 4096 are allowed"),
        ),
        (
            "port",
            json!(
                (1..=257)
                    .map(|port| format!(":{port}"))
                    .collect::<Vec<_>>()
                    .join(";")
            ),
            format!("{S}.port: has 257 ports; at most 256 are allowed"),
        ),
        (
            "constraints",
            json!([{"type":"clusters","allowed":vec!["c"; 257]}]),
            format!("{S}.constraints[0].allowed: has 257 clusters; at most 256 are allowed"),
        ),
    ];
    for (key, value, expected) in cases {
        assert_eq!(faults(&with(SERVICE, key, value)), [expected], "{key}");
    }
}

#[test]
fn each_wrong_document_is_reported_in_full() {
    let cases: Vec<(&str, &str, Value, &str)> = vec![
        (
            "",
            "sla_version",
            json!("v2"),
            "$.sla_version: unknown version \"v2\"; allowed are v2.0",
        ),
        (
            "",
            "sla_version",
            json!("v2.1"),
            "$.sla_version: unknown version \"v2.1\"; allowed are v2.0; did you mean \"v2.0\"?",
        ),
        (
            "",
            "customerID",
            Value::Null,
            "$.customerID: is null; write a string",
        ),
        (
            "",
            "applications",
            json!({}),
            "$.applications: is an object; write an array",
        ),
        (
            "",
            "aplications",
            json!([]),
            "$: unknown field \"aplications\"; allowed are sla_version, customerID, applications, args; did you mean \"applications\"?",
        ),
        (
            "",
            "args",
            json!(["x"]),
            "$.args: is refused: nothing reads arguments of a document; use cmd",
        ),
        (
            "/applications/0",
            "application_name",
            json!("123"),
            "$.applications[0].application_name: \"123\" is reserved (policy words, numbers, \"any\" and the labels of zones are); choose another",
        ),
        (
            "/applications/0",
            "application_namespace",
            json!("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
            "$.applications[0].application_namespace: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\" is not allowed; write 1 to 30 letters and digits",
        ),
        (
            "/applications/0",
            "microservices",
            json!([7]),
            "$.applications[0].microservices[0]: is a number; write an object",
        ),
    ];
    for (at, key, value, expected) in cases {
        assert_eq!(faults(&with(at, key, value)), [expected], "{key}");
    }
    assert_eq!(faults(&json!(3)), ["$: is a number; write an object"]);
    let not_json = check_text("{", context(&Pools::default(), &[], &tenant())).unwrap_err();
    assert_eq!(
        not_json[0].to_string(),
        "$: not JSON: EOF while parsing an object at line 1 column 1"
    );
}

#[test]
fn all_faults_come_at_once_in_order() {
    let mut sla = example_a();
    let twice = sla.pointer(SERVICE).unwrap().clone();
    let services = sla.pointer_mut("/applications/0/microservices").unwrap();
    services[0]["memory"] = json!("x");
    services[0]["lane"] = json!("l2");
    *services = json!([services[0], twice, {"microservice_name": "b"}, 5]);
    let service = |i: u32, text: &str| format!("$.applications[0].microservices[{i}]{text}");
    assert_eq!(
        faults(&sla),
        [
            service(
                0,
                ".memory: is a string; write a whole number from 0 to 4294967295"
            ),
            service(3, ": is a number; write an object"),
            service(0, ".lane: unknown lane \"l2\"; allowed are auto, l3, l4"),
            service(
                1,
                ": service hello.dev.web.dev is already taken by $.applications[0].microservices[0]; choose another"
            ),
            service(
                2,
                ".microservice_namespace: is missing; write 1 to 30 letters and digits"
            ),
            service(
                2,
                ".virtualization: is missing; write what runs it, such as \"container\""
            ),
            service(2, ".code: is missing; write what is run, such as an image"),
        ]
    );
}

#[test]
fn names_that_differ_in_case_and_addresses_of_two_services_collide() {
    let mut sla = with(SERVICE, "addresses", json!({"rr_ip": "10.30.0.9"}));
    let mut second = sla.pointer(SERVICE).unwrap().clone();
    second["microservice_name"] = json!("WEB");
    let services = sla.pointer_mut("/applications/0/microservices").unwrap();
    *services = json!([services[0], second]);
    assert_eq!(
        faults(&sla),
        [
            "$.applications[0].microservices[1].addresses.rr_ip: address 10.30.0.9 is already taken by $.applications[0].microservices[0].addresses.rr_ip; choose another",
            "$.applications[0].microservices[1]: service hello.dev.web.dev is already taken by $.applications[0].microservices[0]; choose another",
        ]
    );
}

#[test]
fn what_is_too_much_is_refused_and_the_list_of_faults_is_bounded() {
    let many = json!({"sla_version":"v2.0","customerID":"a","applications": vec![json!({}); 1000]});
    let errors = check(&many).unwrap_err();
    assert_eq!(errors.len(), 201);
    assert_eq!(errors[200].fault, Fault::More);
    let long = " ".repeat(MAX_BYTES + 1);
    let errors = check_text(&long, context(&Pools::default(), &[], &tenant())).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "$: has 1048577 bytes; at most 1048576 are allowed"
    );
    let mut sla = example_a();
    let one = sla.pointer(SERVICE).unwrap().clone();
    let services = (0..=MAX_SERVICES).map(|i| {
        let mut service = one.clone();
        service["microservice_name"] = json!(format!("s{i}"));
        service
    });
    *sla.pointer_mut("/applications/0/microservices").unwrap() = services.collect();
    assert_eq!(
        faults(&sla),
        ["$: has 1001 services; at most 1000 are allowed"]
    );
}

proptest! {
    #[test]
    fn no_json_panics(value in any_json(), at in 0usize..4, key in proptest::sample::select(keys())) {
        let _ = check(&value);
        let at = ["", "/applications/0", SERVICE, "/applications/0/microservices"][at];
        let mut sla = example_a();
        let target = sla.pointer_mut(at).unwrap();
        if target.is_object() {
            target[key] = value;
        } else {
            *target = value;
        }
        // Whatever is wrong is named at a path of the document.
        if let Err(errors) = check(&sla) {
            prop_assert!(!errors.is_empty());
            prop_assert!(errors.iter().all(|error| error.path.starts_with('$')));
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = check_text(&text, context(&Pools::default(), &Zone::defaults(), &tenant()));
    }
}

const SERVICE: &str = "/applications/0/microservices/0";

fn example_a() -> Value {
    json!({"sla_version":"v2.0","customerID":"Admin","applications":[{
      "applicationID":"","application_name":"hello","application_namespace":"dev","application_desc":"smallest example",
      "microservices":[{"microserviceID":"","microservice_name":"web","microservice_namespace":"dev",
        "virtualization":"container","code":"docker.io/library/nginx:alpine",
        "memory":64,"vcpus":1,"port":"8080:80"}]}]})
}

/// Example A with one field set.
fn with(at: &str, key: &str, value: Value) -> Value {
    let mut sla = example_a();
    sla.pointer_mut(at).unwrap()[key] = value;
    sla
}

fn check(sla: &Value) -> Result<Vec<ApplicationDraft>, Vec<SlaError>> {
    check_value(
        sla,
        context(&Pools::default(), &Zone::defaults(), &tenant()),
    )
}

fn faults(sla: &Value) -> Vec<String> {
    let errors = check(sla).unwrap_err();
    errors.iter().map(ToString::to_string).collect()
}

fn context<'a>(pools: &'a Pools, zones: &'a [Zone], organisation: &'a Organisation) -> Context<'a> {
    Context {
        pools,
        zones,
        organisation,
        application: None,
    }
}

fn tenant() -> Organisation {
    Organisation(label("acme"))
}

fn place(latitude: f64, longitude: f64, radius_km: f64) -> Place {
    Place {
        latitude,
        longitude,
        radius_km,
    }
}

fn keys() -> Vec<&'static str> {
    use weald_proto::sla;
    [
        sla::Document::KEYS,
        sla::Application::KEYS,
        sla::Microservice::KEYS,
        sla::Addresses::KEYS,
        sla::Constraint::KEYS,
        sla::Connectivity::KEYS,
        sla::LinkConstraint::KEYS,
    ]
    .concat()
}

/// JSON of any shape whose keys and words are often ones that an SLA has.
fn any_json() -> impl Strategy<Value = Value> {
    let words = prop_oneof![
        any::<String>(),
        proptest::sample::select(vec![
            "geo",
            "direct",
            "latency",
            "v2.0",
            "unikernel",
            "1:1",
            "(1,1)"
        ])
        .prop_map(ToString::to_string),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        words.prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        let key = prop_oneof![
            4 => proptest::sample::select(keys()).prop_map(ToString::to_string),
            1 => any::<String>(),
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
