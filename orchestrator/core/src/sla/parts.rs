//! The parts of a service that are checked on their own: runtime, code, ports, constraints.
//!
//! Each takes what was written and its path, records faults and gives what is sound of it.

use std::collections::BTreeMap;
use std::time::Duration;

use weald_proto::id::Label;
use weald_proto::sla;
use weald_proto::spec::{Constraint, Place, Runtime};
use weald_proto::table::PortMapping;

use super::fault::{Fault, Faults};
use super::{Link, LinkKind};
use crate::schedule;

/// What a name is.
pub(super) const LABEL: &str = "1 to 30 letters and digits";

/// How long scheduling may take when no constraint says it; as in the slides' example.
const DEFAULT_CONVERGENCE: Duration = Duration::from_secs(300);

/// Half of the earth's circumference: no two places are farther apart, in km.
const FARTHEST_KM: f64 = 20_038.0;

const RUNTIMES: [(&str, Runtime); 7] = [
    ("process", Runtime::Process),
    ("container", Runtime::Container),
    ("docker", Runtime::Container),
    ("unikernel", Runtime::Unikernel),
    ("microvm", Runtime::Microvm),
    ("crosvm", Runtime::Microvm),
    ("wasm", Runtime::Wasm),
];

const LINKS: [(&str, LinkKind); 3] = [
    ("latency", LinkKind::Latency),
    ("bandwidth", LinkKind::Bandwidth),
    ("geo", LinkKind::Geo),
];

const CONSTRAINTS: [&str; 5] = ["direct", "clusters", "addons", "geo", "latency"];

pub(super) fn runtime(path: &str, text: Option<String>, faults: &mut Faults) -> Option<Runtime> {
    let Some(text) = text else {
        let fault = Fault::Missing("what runs it, such as \"container\"");
        faults.add(path, fault);
        return None;
    };
    word(path, "runtime", &text, &RUNTIMES, faults)
}

pub(super) fn word<T: Copy>(
    path: &str,
    what: &'static str,
    text: &str,
    words: &[(&str, T)],
    faults: &mut Faults,
) -> Option<T> {
    let found = words.iter().find(|(word, _)| *word == text);
    if found.is_none() {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        faults.unknown(path, what, text, &words);
    }
    found.map(|(_, value)| *value)
}

pub(super) fn code(
    path: &str,
    code: Option<String>,
    arch: Option<Vec<String>>,
    runtime: Option<Runtime>,
    faults: &mut Faults,
) -> Option<String> {
    let (code_path, arch_path) = (format!("{path}.code"), format!("{path}.arch"));
    let Some(code) = code else {
        faults.add(code_path, Fault::Missing("what is run, such as an image"));
        return None;
    };
    let spaced = runtime != Some(Runtime::Process) && code.contains(char::is_whitespace);
    if code.is_empty() || spaced || code.contains(char::is_control) {
        faults.value(code_path, &code, "an image, URL or path without blanks");
        return None;
    }
    let arch = arch.unwrap_or_default();
    if runtime != Some(Runtime::Unikernel) {
        if runtime.is_some() && !arch.is_empty() {
            faults.add(
                arch_path,
                Fault::Refused("only unikernels have one archive per architecture"),
            );
        }
        return Some(code);
    }
    let archives: Vec<&str> = code.split(',').collect();
    let plain = |text: &str| !text.is_empty() && !text.contains([',', '=', ' ', '\0']);
    if archives.len() != arch.len() || !arch.iter().all(|arch| plain(arch)) {
        let rule = format!(
            "one architecture for each of the {} archives in code",
            archives.len()
        );
        faults.value(arch_path, &arch.join(","), rule);
        return None;
    }
    let pairs = arch.iter().zip(archives);
    let pairs: Vec<String> = pairs.map(|(arch, url)| format!("{arch}={url}")).collect();
    Some(pairs.join(","))
}

pub(super) fn command(path: &str, words: Option<Vec<String>>, faults: &mut Faults) -> Vec<String> {
    let words = words.unwrap_or_default();
    for (i, word) in words
        .iter()
        .enumerate()
        .filter(|(_, word)| word.contains('\0'))
    {
        faults.value(format!("{path}[{i}]"), word, "text without NUL");
    }
    words
}

pub(super) fn environment(
    path: &str,
    written: Option<Vec<String>>,
    faults: &mut Faults,
) -> Vec<(String, String)> {
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    let mut variables = Vec::new();
    for (i, text) in written.unwrap_or_default().iter().enumerate() {
        let path = format!("{path}[{i}]");
        let pair = text.split_once('=').filter(|(key, value)| {
            let body = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let digit = key.starts_with(|c: char| c.is_ascii_digit());
            !key.is_empty() && body && !digit && !value.contains('\0')
        });
        let Some((key, value)) = pair else {
            faults.value(
                path,
                text,
                "KEY=VALUE with a key of letters, digits and '_'",
            );
            continue;
        };
        if let Some(first) = first.get(key) {
            let (what, first) = (format!("variable {key}"), first.clone());
            faults.add(path, Fault::Taken { what, first });
            continue;
        }
        first.insert(key.into(), path);
        variables.push((key.into(), value.into()));
    }
    variables
}

/// How ports are written.
const PORT_RULE: &str = "HOST:INSTANCE, HOST:INSTANCE/udp or, for TCP without a port of the host, :INSTANCE, with ports 1 to 65535, several with ';' between";

/// A port alone is the same port outside and inside.
fn both_sides(text: &str) -> String {
    let port = text.split('/').next().unwrap_or_default();
    if port.contains(':') {
        text.to_owned()
    } else {
        format!("{port}:{text}")
    }
}

/// The port of `:INSTANCE` or `:INSTANCE/tcp`, without its colon.
fn inside(text: &str) -> Option<u16> {
    let port = text.strip_suffix("/tcp").unwrap_or(text);
    let mapping: Option<PortMapping> = format!("{port}:{port}").parse().ok();
    mapping.map(|it| it.instance)
}

/// What a service says of its ports.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// Those that ports of the host lead to.
    pub(super) mapped: Vec<PortMapping>,
    /// TCP ports that it listens on besides.
    pub(super) listens: Vec<u16>,
}

pub(super) fn ports(path: &str, text: Option<String>, faults: &mut Faults) -> Ports {
    let text = text.unwrap_or_default();
    let mut ports = Ports::default();
    if text.is_empty() {
        return ports;
    }
    for part in text.split(';').map(str::trim) {
        if let Some(port) = part.strip_prefix(':') {
            match inside(port) {
                Some(port) if !ports.listens.contains(&port) => ports.listens.push(port),
                Some(_) => {}
                None => faults.value(path, part, PORT_RULE),
            }
            continue;
        }
        let Ok(mapping) = both_sides(part).parse::<PortMapping>() else {
            faults.value(path, part, PORT_RULE);
            continue;
        };
        let same = |m: &&PortMapping| m.host == mapping.host && m.transport == mapping.transport;
        if let Some(first) = ports.mapped.iter().find(same) {
            let what = format!("port {}/{}", mapping.host, mapping.transport.word());
            let first = format!("\"{first}\"");
            faults.add(path, Fault::Taken { what, first });
        } else {
            ports.mapped.push(mapping);
        }
    }
    ports
}

pub(super) fn millicpus(path: &str, vcpus: Option<u32>, faults: &mut Faults) -> u32 {
    let vcpus = vcpus.unwrap_or_default();
    vcpus.checked_mul(1000).unwrap_or_else(|| {
        faults.value(path, &vcpus.to_string(), "at most 4294967 processors");
        0
    })
}

/// The name of a scheduler that there is.
pub(super) fn scheduler(path: &str, text: &str, faults: &mut Faults) -> Option<Label> {
    let known: Vec<&str> = schedule::names().collect();
    if !known.contains(&text) {
        faults.unknown(path, "scheduler", text, &known);
        return None;
    }
    any_label(path, text, faults)
}

/// A name of a cluster or node, which need only be a DNS label.
pub(super) fn any_label(path: &str, text: &str, faults: &mut Faults) -> Option<Label> {
    let label = Label::new(text).ok();
    if label.is_none() {
        faults.value(path, text, "1 to 63 letters, digits and '-' between them");
    }
    label
}

/// What constraints say together.
pub(super) struct Placed {
    pub(super) constraints: Vec<Constraint>,
    pub(super) convergence: Duration,
}

pub(super) fn constraints(
    path: &str,
    written: Option<Vec<sla::Constraint>>,
    target_node: Option<String>,
    faults: &mut Faults,
) -> Placed {
    let mut constraints = Vec::new();
    let mut places = Vec::new();
    let mut shortest: Option<u32> = None;
    for (i, written) in written.unwrap_or_default().into_iter().enumerate() {
        let path = format!("{path}.constraints[{i}]");
        margins(&path, written.rigidness, written.convergence_time, faults);
        shortest = shortest.into_iter().chain(written.convergence_time).min();
        match constraint(&path, written, faults) {
            Some(Constraint::Geo { places: more }) => places.extend(more),
            Some(constraint) => constraints.push(constraint),
            None => {}
        }
    }
    if !places.is_empty() {
        constraints.push(Constraint::Geo { places });
    }
    if let Some(node) = target_node.filter(|node| !node.is_empty()) {
        let node = any_label(&format!("{path}.target_node"), &node, faults);
        let cluster = None;
        constraints.extend(node.map(|node| Constraint::Direct {
            cluster,
            node: Some(node),
        }));
    }
    let convergence = shortest.map_or(DEFAULT_CONVERGENCE, |seconds| {
        Duration::from_secs(seconds.into())
    });
    Placed {
        constraints,
        convergence,
    }
}

fn margins(path: &str, rigidness: Option<f64>, convergence: Option<u32>, faults: &mut Faults) {
    if let Some(rigidness) = rigidness.filter(|r| !(0.0..=1.0).contains(r)) {
        let path = format!("{path}.rigidness");
        faults.value(path, &rigidness.to_string(), "a number from 0 to 1");
    }
    if convergence == Some(0) {
        faults.value(format!("{path}.convergence_time"), "0", "at least 1 second");
    }
}

fn constraint(path: &str, c: sla::Constraint, faults: &mut Faults) -> Option<Constraint> {
    let kind_path = format!("{path}.type");
    let Some(kind) = c.kind.clone() else {
        let fault = Fault::Missing("direct, clusters, addons, geo or latency");
        faults.add(kind_path, fault);
        return None;
    };
    let reads: &[&str] = match kind.as_str() {
        "direct" => &["cluster", "node"],
        "clusters" => &["allowed"],
        "addons" => &["needs"],
        "geo" => &["location", "threshold"],
        "latency" => &["area", "threshold"],
        _ => {
            faults.unknown(kind_path, "constraint", &kind, &CONSTRAINTS);
            return None;
        }
    };
    unread(path, &c, reads, faults);
    match kind.as_str() {
        "direct" => direct(path, c, faults),
        "clusters" => {
            let names = listed(path, "allowed", c.allowed, "an array of clusters", faults)?;
            let labels = names.iter().enumerate();
            let labels = labels.map(|(i, n)| any_label(&format!("{path}.allowed[{i}]"), n, faults));
            let allowed = labels.flatten().collect();
            Some(Constraint::Clusters { allowed })
        }
        "addons" => {
            let needs = listed(path, "needs", c.needs, "an array of addons", faults)?;
            Some(Constraint::Addons { needs })
        }
        "geo" => {
            let radius_km = threshold(path, c.threshold, FARTHEST_KM, faults);
            let (latitude, longitude) = location(&format!("{path}.location"), c.location, faults)?;
            let places = vec![Place {
                latitude,
                longitude,
                radius_km: radius_km?,
            }];
            Some(Constraint::Geo { places })
        }
        _ => {
            let threshold_ms = threshold(path, c.threshold, f64::MAX, faults);
            let area = c.area.filter(|area| !area.is_empty());
            if area.is_none() {
                faults.add(format!("{path}.area"), Fault::Missing("an area's name"));
            }
            Some(Constraint::Latency {
                area: area?,
                threshold_ms: threshold_ms?,
            })
        }
    }
}

/// Refuses what the constraint's type does not read, unless it is empty.
fn unread(path: &str, c: &sla::Constraint, reads: &[&str], faults: &mut Faults) {
    let text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let list = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let given = [
        ("area", text(&c.area)),
        ("cluster", text(&c.cluster)),
        ("node", text(&c.node)),
        ("location", text(&c.location)),
        ("threshold", c.threshold.is_some()),
        ("needs", list(&c.needs)),
        ("allowed", list(&c.allowed)),
    ];
    for (key, _) in given
        .iter()
        .filter(|(key, given)| *given && !reads.contains(key))
    {
        let fault = Fault::Refused("a constraint of this type does not read it");
        faults.add(format!("{path}.{key}"), fault);
    }
}

fn direct(path: &str, c: sla::Constraint, faults: &mut Faults) -> Option<Constraint> {
    let mut label = |key: &str, text: Option<String>| {
        let text = text.filter(|text| !text.is_empty())?;
        Some(any_label(&format!("{path}.{key}"), &text, faults))
    };
    let (cluster, node) = (label("cluster", c.cluster), label("node", c.node));
    if cluster.is_none() && node.is_none() {
        faults.add(
            format!("{path}.cluster"),
            Fault::Missing("a cluster, a node or both"),
        );
        return None;
    }
    Some(Constraint::Direct {
        cluster: cluster.flatten(),
        node: node.flatten(),
    })
}

fn listed(
    path: &str,
    key: &str,
    list: Option<Vec<String>>,
    what: &'static str,
    faults: &mut Faults,
) -> Option<Vec<String>> {
    let list = list.unwrap_or_default();
    if list.is_empty() {
        faults.add(format!("{path}.{key}"), Fault::Missing(what));
        return None;
    }
    for (i, _) in list.iter().enumerate().filter(|(_, text)| text.is_empty()) {
        faults.value(format!("{path}.{key}[{i}]"), "", "a name");
    }
    Some(list)
}

fn threshold(path: &str, value: Option<f64>, most: f64, faults: &mut Faults) -> Option<f64> {
    let path = format!("{path}.threshold");
    let Some(value) = value else {
        faults.add(path, Fault::Missing("a number above 0"));
        return None;
    };
    if value > 0.0 && value <= most {
        return Some(value);
    }
    let rule = if most < f64::MAX {
        format!("a number above 0 and up to {most}")
    } else {
        "a number above 0".into()
    };
    faults.value(path, &value.to_string(), rule);
    None
}

fn location(path: &str, text: Option<String>, faults: &mut Faults) -> Option<(f64, f64)> {
    let Some(text) = text else {
        faults.add(path, Fault::Missing("\"latitude,longitude\" in degrees"));
        return None;
    };
    let degrees = |text: &str, most: f64| {
        let value = text.trim().parse::<f64>().ok();
        value.filter(|value| value.abs() <= most)
    };
    let place = text
        .split_once(',')
        .and_then(|(lat, lon)| degrees(lat, 90.0).zip(degrees(lon, 180.0)));
    if place.is_none() {
        let rule = "\"latitude,longitude\" in degrees, as in \"48.137,11.576\"";
        faults.value(path, &text, rule);
    }
    place
}

pub(super) fn links(
    path: &str,
    written: Option<Vec<sla::Connectivity>>,
    faults: &mut Faults,
) -> Vec<Link> {
    let mut links = Vec::new();
    for (i, written) in written.unwrap_or_default().into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        let target = written.target.filter(|target| !target.is_empty());
        if target.is_none() {
            let path = format!("{path}.target_microservice_id");
            faults.add(path, Fault::Missing("a service's name or id"));
        }
        let Some(constraints) = written.constraints else {
            let fault = Fault::Missing("an array of constraints");
            faults.add(format!("{path}.con_constraints"), fault);
            continue;
        };
        for (j, written) in constraints.into_iter().enumerate() {
            let path = format!("{path}.con_constraints[{j}]");
            let target = target.clone().unwrap_or_default();
            links.extend(link(&path, target, written, faults));
        }
    }
    links
}

fn link(path: &str, target: String, c: sla::LinkConstraint, faults: &mut Faults) -> Option<Link> {
    margins(path, c.rigidness, c.convergence_time, faults);
    for (key, there) in [
        ("rigidness", c.rigidness.is_some()),
        ("convergence_time", c.convergence_time.is_some()),
    ] {
        if !there {
            faults.add(format!("{path}.{key}"), Fault::Missing("a number"));
        }
    }
    let threshold = threshold(path, c.threshold, f64::MAX, faults);
    let kind_path = format!("{path}.type");
    let Some(kind) = c.kind else {
        faults.add(kind_path, Fault::Missing("latency, bandwidth or geo"));
        return None;
    };
    let kind = word(&kind_path, "constraint", &kind, &LINKS, faults)?;
    Some(Link {
        target,
        kind,
        threshold: threshold?,
    })
}
