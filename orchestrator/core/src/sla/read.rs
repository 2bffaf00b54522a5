//! JSON into the types of `weald_proto::sla`, collecting what has the wrong shape.
//!
//! Knows types and keys, not what values mean; that is `check`'s.

use serde_json::{Map, Value};
use weald_proto::sla::{
    Addresses, Application, Connectivity, Constraint, Document, LinkConstraint, Microservice,
    Volume,
};

use super::fault::{Fault, Faults};

/// Which of the two forms a microservice is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Strict.
    V2,
    /// Tolerant: ports as numbers, files as objects, locations with parentheses.
    Slide,
}

struct Fields<'a> {
    path: &'a str,
    map: &'a Map<String, Value>,
}

pub(super) fn document(value: &Value, faults: &mut Faults) -> Document {
    let Some(fields) = Fields::new("$", value, Document::KEYS, faults) else {
        return Document::default();
    };
    Document {
        version: fields.text("sla_version", faults),
        customer: fields.text("customerID", faults),
        applications: fields.list("applications", faults, application),
        args: fields.texts("args", faults),
    }
}

fn application(path: &str, value: &Value, faults: &mut Faults) -> Option<Application> {
    let fields = Fields::new(path, value, Application::KEYS, faults)?;
    Some(Application {
        id: fields.text("applicationID", faults),
        name: fields.text("application_name", faults),
        namespace: fields.text("application_namespace", faults),
        description: fields.text("application_desc", faults),
        microservices: fields.list("microservices", faults, |path, value, faults| {
            microservice(path, value, Form::V2, faults)
        }),
    })
}

pub(super) fn microservice(
    path: &str,
    value: &Value,
    form: Form,
    faults: &mut Faults,
) -> Option<Microservice> {
    let fields = Fields::new(path, value, Microservice::KEYS, faults)?;
    Some(Microservice {
        id: fields.text("microserviceID", faults),
        name: fields.text("microservice_name", faults),
        namespace: fields.text("microservice_namespace", faults),
        virtualization: fields.text("virtualization", faults),
        code: fields.text("code", faults),
        arch: fields.texts("arch", faults),
        command: fields.texts("cmd", faults),
        environment: fields.texts("environment", faults),
        memory: fields.amount("memory", faults),
        vcpus: fields.amount("vcpus", faults),
        vgpus: fields.amount("vgpus", faults),
        vtpus: fields.amount("vtpus", faults),
        bandwidth_in: fields.amount("bandwidth_in", faults),
        bandwidth_out: fields.amount("bandwidth_out", faults),
        storage: fields.amount("storage", faults),
        port: fields.port(form, faults),
        one_shot: fields.flag("one_shot", faults),
        privileged: fields.flag("privileged", faults),
        volumes: fields.list("volumes", faults, volume),
        addresses: fields.object("addresses", faults, addresses),
        constraints: fields.list("constraints", faults, |path, value, faults| {
            constraint(path, value, form, faults)
        }),
        connectivity: fields.list("connectivity", faults, connectivity),
        violation_strategy: fields.text("sla_violation_strategy", faults),
        target_node: fields.text("target_node", faults),
        state: fields.text("state", faults),
        added_files: fields.list("added_files", faults, |path, value, faults| {
            added_file(path, value, form, faults)
        }),
        args: fields.texts("args", faults),
        lane: fields.text("lane", faults),
        accept: fields.text("accept", faults),
        scheduler: fields.text("scheduler", faults),
    })
}

fn added_file(path: &str, value: &Value, form: Form, faults: &mut Faults) -> Option<String> {
    if form == Form::Slide && value.is_object() {
        let fields = Fields::new(path, value, &["url"], faults)?;
        let url = fields.text("url", faults);
        if !fields.map.contains_key("url") {
            faults.add(format!("{path}.url"), Fault::Missing("a URL"));
        }
        return url;
    }
    text(path, value, faults)
}

fn volume(path: &str, value: &Value, faults: &mut Faults) -> Option<Volume> {
    // Volumes are refused as a whole, so only their shape is read.
    if value.is_object() {
        return Some(Volume::default());
    }
    wrong_type(path, value, "an object", faults);
    None
}

fn addresses(path: &str, value: &Value, faults: &mut Faults) -> Option<Addresses> {
    let fields = Fields::new(path, value, Addresses::KEYS, faults)?;
    Some(Addresses {
        rr_v4: fields.text("rr_ip", faults),
        rr_v6: fields.text("rr_ip_v6", faults),
        closest_v4: fields.text("closest_ip", faults),
        closest_v6: fields.text("closest_ip_v6", faults),
        instances: fields.list("instances", faults, |_, _, _| Some(Default::default())),
    })
}

fn constraint(path: &str, value: &Value, form: Form, faults: &mut Faults) -> Option<Constraint> {
    let fields = Fields::new(path, value, Constraint::KEYS, faults)?;
    let location = fields.text("location", faults).map(|text| match form {
        Form::V2 => text,
        Form::Slide => {
            let inner = text
                .trim()
                .strip_prefix('(')
                .and_then(|t| t.strip_suffix(')'));
            inner.map_or_else(|| text.clone(), ToString::to_string)
        }
    });
    Some(Constraint {
        kind: fields.text("type", faults),
        area: fields.text("area", faults),
        cluster: fields.text("cluster", faults),
        node: fields.text("node", faults),
        location,
        threshold: fields.number("threshold", faults),
        rigidness: fields.number("rigidness", faults),
        convergence_time: fields.amount("convergence_time", faults),
        needs: fields.texts("needs", faults),
        allowed: fields.texts("allowed", faults),
    })
}

fn connectivity(path: &str, value: &Value, faults: &mut Faults) -> Option<Connectivity> {
    let fields = Fields::new(path, value, Connectivity::KEYS, faults)?;
    Some(Connectivity {
        target: fields.text("target_microservice_id", faults),
        constraints: fields.list("con_constraints", faults, |path, value, faults| {
            let fields = Fields::new(path, value, LinkConstraint::KEYS, faults)?;
            Some(LinkConstraint {
                kind: fields.text("type", faults),
                threshold: fields.number("threshold", faults),
                rigidness: fields.number("rigidness", faults),
                convergence_time: fields.amount("convergence_time", faults),
            })
        }),
    })
}

impl<'a> Fields<'a> {
    fn new(path: &'a str, value: &'a Value, keys: &[&str], faults: &mut Faults) -> Option<Self> {
        let Value::Object(map) = value else {
            wrong_type(path, value, "an object", faults);
            return None;
        };
        for key in map.keys().filter(|key| !keys.contains(&key.as_str())) {
            faults.unknown(path, "field", key, keys);
        }
        Some(Self { path, map })
    }

    fn with<T>(
        &self,
        key: &str,
        faults: &mut Faults,
        read: impl FnOnce(&str, &Value, &mut Faults) -> Option<T>,
    ) -> Option<T> {
        let value = self.map.get(key)?;
        read(&format!("{}.{key}", self.path), value, faults)
    }

    fn text(&self, key: &str, faults: &mut Faults) -> Option<String> {
        self.with(key, faults, text)
    }

    fn texts(&self, key: &str, faults: &mut Faults) -> Option<Vec<String>> {
        self.list(key, faults, text)
    }

    fn flag(&self, key: &str, faults: &mut Faults) -> Option<bool> {
        self.with(key, faults, |path, value, faults| {
            value.as_bool().or_else(|| {
                wrong_type(path, value, "true or false", faults);
                None
            })
        })
    }

    fn amount(&self, key: &str, faults: &mut Faults) -> Option<u32> {
        self.with(key, faults, amount)
    }

    fn number(&self, key: &str, faults: &mut Faults) -> Option<f64> {
        self.with(key, faults, |path, value, faults| {
            value.as_f64().or_else(|| {
                wrong_type(path, value, "a number", faults);
                None
            })
        })
    }

    fn port(&self, form: Form, faults: &mut Faults) -> Option<String> {
        self.with("port", faults, |path, value, faults| match form {
            Form::V2 => text(path, value, faults),
            Form::Slide if value.is_string() => text(path, value, faults).map(|port| {
                let bare = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
                if bare { format!("{port}:{port}") } else { port }
            }),
            Form::Slide => amount(path, value, faults).map(|port| format!("{port}:{port}")),
        })
    }

    fn object<T>(
        &self,
        key: &str,
        faults: &mut Faults,
        read: impl FnOnce(&str, &Value, &mut Faults) -> Option<T>,
    ) -> Option<T> {
        self.with(key, faults, read)
    }

    /// A wrong item is read as an empty one, so that the others keep their indices; what is then
    /// found missing in it is dropped again by [`Faults::finish`].
    fn list<T: Default>(
        &self,
        key: &str,
        faults: &mut Faults,
        mut read: impl FnMut(&str, &Value, &mut Faults) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.with(key, faults, |path, value, faults| {
            let Value::Array(items) = value else {
                wrong_type(path, value, "an array", faults);
                return None;
            };
            let items = items.iter().enumerate();
            Some(
                items
                    .map(|(i, item)| {
                        read(&format!("{path}[{i}]"), item, faults).unwrap_or_default()
                    })
                    .collect(),
            )
        })
    }
}

fn text(path: &str, value: &Value, faults: &mut Faults) -> Option<String> {
    value.as_str().map(ToString::to_string).or_else(|| {
        wrong_type(path, value, "a string", faults);
        None
    })
}

fn amount(path: &str, value: &Value, faults: &mut Faults) -> Option<u32> {
    const RULE: &str = "a whole number from 0 to 4294967295";
    if !value.is_number() {
        wrong_type(path, value, RULE, faults);
        return None;
    }
    let amount = value.as_u64().and_then(|n| u32::try_from(n).ok());
    if amount.is_none() {
        faults.value(path, &value.to_string(), RULE);
    }
    amount
}

fn wrong_type(path: &str, value: &Value, expected: &'static str, faults: &mut Faults) {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    faults.add(path, Fault::Type { found, expected });
}
