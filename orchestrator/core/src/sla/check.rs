//! What a document's values mean: applications, services and what may stand only once.
//!
//! The parts of a service that need no more than themselves are `parts`'.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;
use weald_proto::addr::Dual;
use weald_proto::id::Label;
use weald_proto::name::{self, ApplicationName, ServiceName};
use weald_proto::sla::{Application, Microservice};
use weald_proto::spec::{Resources, ServiceSpec};

use super::fault::{Fault, Faults, SlaError};
use super::read::{self, Form};
use super::{ApplicationDraft, Context, MAX_SERVICES, ServiceDraft, bounds, lanes, parts};

/// Checks one SLA.
pub(super) struct Checker<'a> {
    context: Context<'a>,
    faults: Faults,
    /// Where each name, and each pinned address, stands first.
    services: BTreeMap<ServiceName, String>,
    applications: BTreeMap<ApplicationName, String>,
    addresses: BTreeMap<IpAddr, String>,
    count: usize,
}

impl<'a> Checker<'a> {
    pub(super) fn new(context: Context<'a>) -> Self {
        Self {
            context,
            faults: Faults::default(),
            services: BTreeMap::new(),
            applications: BTreeMap::new(),
            addresses: BTreeMap::new(),
            count: 0,
        }
    }

    pub(super) fn finish(mut self) -> Vec<SlaError> {
        if self.count > MAX_SERVICES {
            let (found, what, limit) = (self.count, "services", MAX_SERVICES);
            self.faults.add("$", Fault::TooMany { found, what, limit });
        }
        self.faults.finish()
    }

    pub(super) fn document(&mut self, value: &Value) -> Vec<ApplicationDraft> {
        let document = read::document(value, &mut self.faults);
        match document.version.as_deref() {
            Some("v2.0") => {}
            Some(other) => {
                self.faults
                    .unknown("$.sla_version", "version", other, &["v2.0"]);
            }
            None => self.faults.add("$.sla_version", Fault::Missing("\"v2.0\"")),
        }
        let customer = self.required("$.customerID", document.customer, "who sends it");
        if document.args.is_some_and(|args| !args.is_empty()) {
            self.refuse("$.args", "nothing reads arguments of a document; use cmd");
        }
        let Some(applications) = document.applications else {
            let fault = Fault::Missing("an array of applications");
            self.faults.add("$.applications", fault);
            return Vec::new();
        };
        let drafts = applications
            .into_iter()
            .enumerate()
            .map(|(i, application)| {
                let path = format!("$.applications[{i}]");
                self.application(&path, application, customer.clone().unwrap_or_default())
            });
        drafts.flatten().collect()
    }

    fn application(
        &mut self,
        path: &str,
        written: Application,
        customer: String,
    ) -> Option<ApplicationDraft> {
        let name_path = format!("{path}.application_name");
        let label = self.label(&name_path, written.name, Form::V2);
        let namespace_path = format!("{path}.application_namespace");
        let namespace = self.label(&namespace_path, written.namespace, Form::V2);
        let name = label
            .zip(namespace)
            .map(|(name, namespace)| ApplicationName { name, namespace });
        if let Some(name) = &name {
            if let Some(first) = self.applications.get(name) {
                let what = format!("application {name}");
                let first = first.clone();
                self.faults.add(path, Fault::Taken { what, first });
            } else {
                self.applications.insert(name.clone(), path.into());
            }
        }
        let services_path = format!("{path}.microservices");
        let Some(services) = written.microservices else {
            let fault = Fault::Missing("an array of microservices");
            self.faults.add(services_path, fault);
            return None;
        };
        let mut drafts = Vec::new();
        for (i, service) in services.into_iter().enumerate() {
            let path = format!("{services_path}[{i}]");
            drafts.extend(self.service(&path, service, name.as_ref(), Form::V2));
        }
        Some(ApplicationDraft {
            name: name?,
            id: written.id.filter(|id| !id.is_empty()),
            description: written.description.unwrap_or_default(),
            customer,
            services: drafts,
        })
    }

    pub(super) fn bare<'v>(
        &mut self,
        values: impl Iterator<Item = &'v Value>,
        array: bool,
    ) -> Vec<ApplicationDraft> {
        let mut application = self.context.application.cloned();
        let mut services = Vec::new();
        for (i, value) in values.enumerate() {
            let path = if array { format!("$[{i}]") } else { "$".into() };
            let Some(service) = read::microservice(&path, value, Form::Slide, &mut self.faults)
            else {
                continue;
            };
            if application.is_none() {
                let label = |text: &Option<String>| Label::new(&folded(text.as_deref()?)).ok();
                application = label(&service.name)
                    .zip(label(&service.namespace))
                    .map(|(name, namespace)| ApplicationName { name, namespace });
            }
            services.extend(self.service(&path, service, application.as_ref(), Form::Slide));
        }
        let draft = application.map(|name| ApplicationDraft {
            name,
            id: None,
            description: String::new(),
            customer: String::new(),
            services,
        });
        draft.into_iter().collect()
    }

    fn service(
        &mut self,
        path: &str,
        written: Microservice,
        application: Option<&ApplicationName>,
        form: Form,
    ) -> Option<ServiceDraft> {
        self.count += 1;
        let as_written = written.clone();
        self.refused(path, &written, form);
        bounds::check(path, &written, &mut self.faults);
        let at = |key: &str| format!("{path}.{key}");
        let label = self.label(&at("microservice_name"), written.name, form);
        let namespace = self.label(&at("microservice_namespace"), written.namespace, form);
        let (round_robin, closest) = self.pinned(&at("addresses"), written.addresses);
        let faults = &mut self.faults;
        let runtime = parts::runtime(&at("virtualization"), written.virtualization, faults);
        let code = parts::code(path, written.code, written.arch, runtime, faults);
        let placed = parts::constraints(path, written.constraints, written.target_node, faults);
        let connectivity = parts::links(&at("connectivity"), written.connectivity, faults);
        let command = parts::command(&at("cmd"), written.command, faults);
        let environment = parts::environment(&at("environment"), written.environment, faults);
        let ports = parts::ports(&at("port"), written.port, faults);
        let lane = lanes::lane(&at("lane"), written.lane, faults);
        let accept = lanes::accept(&at("accept"), written.accept, faults);
        let scheduler =
            (written.scheduler).and_then(|text| parts::scheduler(&at("scheduler"), &text, faults));
        let millicpus = parts::millicpus(&at("vcpus"), written.vcpus, faults);
        let name = ServiceName {
            application: application?.clone(),
            name: label?,
            namespace: namespace?,
        };
        self.once(path, &name);
        let spec = ServiceSpec {
            name,
            organisation: self.context.organisation.clone(),
            round_robin,
            closest,
            lane,
            accept,
            runtime: runtime?,
            code: code?,
            command,
            environment,
            resources: Resources {
                millicpus,
                memory_mib: written.memory.unwrap_or_default(),
                gpus: written.vgpus.unwrap_or_default(),
                tpus: written.vtpus.unwrap_or_default(),
                storage_mib: written.storage.unwrap_or_default(),
                bandwidth_in_kbit: written.bandwidth_in.unwrap_or_default(),
                bandwidth_out_kbit: written.bandwidth_out.unwrap_or_default(),
            },
            ports: ports.mapped,
            listens: ports.listens,
            one_shot: written.one_shot.unwrap_or_default(),
            constraints: placed.constraints,
            scheduler,
            convergence: placed.convergence,
        };
        Some(ServiceDraft {
            spec,
            connectivity,
            added_files: written.added_files.unwrap_or_default(),
            written: as_written,
        })
    }

    fn once(&mut self, path: &str, name: &ServiceName) {
        if let Some(first) = self.services.get(name) {
            let what = format!("service {name}");
            let first = first.clone();
            self.faults.add(path, Fault::Taken { what, first });
        } else {
            self.services.insert(name.clone(), path.into());
        }
    }

    /// Fields that nothing carries out, if they ask for something.
    fn refused(&mut self, path: &str, written: &Microservice, form: Form) {
        let some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let list = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let v2 = form == Form::V2;
        let faults = [
            (
                "microserviceID",
                v2 && some(&written.id),
                "root gives ids; leave it empty",
            ),
            (
                "privileged",
                written.privileged == Some(true),
                "instances never get the host's privileges; set it to false",
            ),
            (
                "volumes",
                written
                    .volumes
                    .as_ref()
                    .is_some_and(|list| !list.is_empty()),
                "there are no CSI drivers; leave it out",
            ),
            (
                "sla_violation_strategy",
                some(&written.violation_strategy),
                "there is no choice of strategies; leave it out",
            ),
            (
                "state",
                some(&written.state),
                "root keeps the state; leave it out",
            ),
            (
                "added_files",
                v2 && list(&written.added_files),
                "nothing fetches files; put them into the code",
            ),
            (
                "args",
                list(&written.args),
                "write arguments into cmd, after the command",
            ),
        ];
        for (key, _, reason) in faults.into_iter().filter(|(_, refused, _)| *refused) {
            self.refuse(&format!("{path}.{key}"), reason);
        }
    }

    fn refuse(&mut self, path: &str, reason: &'static str) {
        self.faults.add(path, Fault::Refused(reason));
    }

    fn required(&mut self, path: &str, text: Option<String>, what: &'static str) -> Option<String> {
        if text.is_none() {
            self.faults.add(path, Fault::Missing(what));
        }
        text
    }

    fn label(&mut self, path: &str, text: Option<String>, form: Form) -> Option<Label> {
        let text = self.required(path, text, parts::LABEL)?;
        let plain = match form {
            Form::V2 => text.clone(),
            Form::Slide => folded(&text),
        };
        let inner = |c: char| c.is_ascii_alphanumeric() || (form == Form::Slide && c == '-');
        let fits = plain.chars().all(inner) && (1..=30).contains(&plain.len());
        let label = Label::new(&plain).ok().filter(|_| fits);
        let Some(label) = label else {
            self.faults.value(path, &text, parts::LABEL);
            return None;
        };
        if name::is_reserved(&label, self.context.zones) {
            self.faults.add(path, Fault::Reserved(label.to_string()));
        }
        Some(label)
    }

    fn pinned(&mut self, path: &str, written: Option<weald_proto::sla::Addresses>) -> (Dual, Dual) {
        let written = written.unwrap_or_default();
        if written.instances.is_some_and(|list| !list.is_empty()) {
            let path = format!("{path}.instances");
            self.refuse(
                &path,
                "clusters assign instance addresses from granted blocks",
            );
        }
        let mut v4 = |key, text| match self.address(path, key, text, true) {
            Some(IpAddr::V4(ip)) => Some(ip),
            Some(IpAddr::V6(_)) | None => None,
        };
        let (rr_v4, closest_v4) = (
            v4("rr_ip", written.rr_v4),
            v4("closest_ip", written.closest_v4),
        );
        let mut v6 = |key, text| match self.address(path, key, text, false) {
            Some(IpAddr::V6(ip)) => Some(ip),
            Some(IpAddr::V4(_)) | None => None,
        };
        let rr_v6 = v6("rr_ip_v6", written.rr_v6);
        let closest_v6 = v6("closest_ip_v6", written.closest_v6);
        let dual = |v4, v6| Dual { v4, v6 };
        (dual(rr_v4, rr_v6), dual(closest_v4, closest_v6))
    }

    /// Reads one pinned address; an empty one is to be assigned.
    fn address(&mut self, path: &str, key: &str, text: Option<String>, v4: bool) -> Option<IpAddr> {
        let text = text.filter(|text| !text.is_empty())?;
        let path = format!("{path}.{key}");
        let pools = self.context.pools;
        let ip = text
            .parse::<IpAddr>()
            .ok()
            .filter(|ip| ip.is_ipv4() == v4 && pools.contains(*ip));
        let Some(ip) = ip else {
            let rule = if v4 {
                format!("an IPv4 address in {}", pools.v4)
            } else {
                format!("an IPv6 address in {}", pools.v6)
            };
            self.faults.value(path, &text, rule);
            return None;
        };
        if let Some(first) = self.addresses.get(&ip) {
            let (what, first) = (format!("address {ip}"), first.clone());
            self.faults.add(path, Fault::Taken { what, first });
        } else {
            self.addresses.insert(ip, path);
        }
        Some(ip)
    }
}

/// A name of the slides' form as a DNS label has it.
fn folded(text: &str) -> String {
    text.replace('_', "-")
}
