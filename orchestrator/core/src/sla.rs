//! SLAs: what a user sent becomes checked drafts of services, or all of its faults at once.
//!
//! Not what places them, and not what assigns addresses: a draft's `round_robin` and `closest` hold
//! what the SLA pins, and each `None` in them is root's to assign.
//!
//! # What is done with each field
//!
//! *Unknown fields are refused* with the nearest known one: a misspelt field that is accepted is a
//! wish that is silently lost. Types are as strict as version 2.0's. `null` is not an absent field.
//!
//! | field | what is done |
//! |---|---|
//! | `sla_version` | `v2.0` |
//! | `customerID`, `applicationID`, `application_desc` | kept in the draft; who may ask for whom is REST's to decide |
//! | names and namespaces | 1 to 30 letters and digits, none of them reserved; case is folded, and what differs only in case collides |
//! | `microserviceID` | empty in v2.0; read past in the slides' form, where root gives its own |
//! | `virtualization` | `process`, `container` or `docker`, `unikernel`, `microvm` or `crosvm`, `wasm` |
//! | `code`, `arch` | as many archives as architectures for a unikernel, kept as `arch=url,arch=url`; `arch` is refused elsewhere |
//! | `cmd`, `environment`, `one_shot` | honoured |
//! | `memory`, `vcpus` | reserved when placing, and enforced; absent is 0, nothing asked |
//! | `vgpus`, `vtpus`, `bandwidth_in`, `bandwidth_out`, `storage` | reserved when placing: a node that offers none takes nothing that asks for some; not enforced, which [`unheeded()`] says |
//! | `port` | honoured; one port alone is the same outside and inside; a port of the host stands once per service |
//! | `addresses` | pinned if inside the pools and used once; `instances` is refused: clusters assign from granted blocks |
//! | `constraints` | honoured; a field that the type does not read is refused; several `geo` are alternatives; nothing satisfies `latency` yet, which [`unheeded()`] says |
//! | `rigidness` | 0 to 1, and honoured at its strictest: a constraint always holds |
//! | `convergence_time` | the shortest one bounds scheduling; 300 s without any |
//! | `connectivity` | checked and kept; nothing acts on it yet, which [`unheeded()`] says |
//! | `target_node` | as a `direct` constraint on that node |
//! | `added_files` | kept in the slides' form, whose example has it, though nothing fetches them, which [`unheeded()`] says; refused in v2.0 |
//! | `privileged`, `volumes`, `sla_violation_strategy`, `state`, `args` | refused unless false or empty |
//! | `lane`, `accept`, `scheduler` | ours: `auto`, `l3`, `l4`; `late`, `early`; the name of a scheduler that there is |
//!
//! What travels to clusters and workers is bounded besides: `code`, `arch`, `cmd`, `environment`,
//! `port` and `constraints` in number and bytes, by `bounds`.
//!
//! # The slides' form
//!
//! One bare microservice or an array of them. Tolerated there: `port` as a number (the same port
//! outside and inside), `added_files` as objects, `location` in parentheses, `_` in names (which
//! becomes `-`, since names are DNS labels). Without an application given by the caller they
//! belong to one that is named as the first of them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weald_proto::addr::Pools;
use weald_proto::id::Organisation;
use weald_proto::name::{ApplicationName, Zone};
use weald_proto::sla::Microservice;
use weald_proto::spec::ServiceSpec;

pub use fault::{Fault, SlaError};
pub use unheeded::unheeded;

mod fault;
mod unheeded;

mod read;

mod check;

mod bounds;
mod lanes;
mod parts;

#[cfg(test)]
mod tests;

/// The longest SLA that is read, in bytes: a thousand large services fit.
pub const MAX_BYTES: usize = 1 << 20;

/// How many services one SLA may have; scheduling takes them in one go.
pub const MAX_SERVICES: usize = 1000;

/// What an SLA is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Where pinned addresses must lie.
    pub pools: &'a Pools,
    /// The zones whose labels are reserved.
    pub zones: &'a [Zone],
    /// Who the services belong to.
    pub organisation: &'a Organisation,
    /// The application of bare microservices.
    pub application: Option<&'a ApplicationName>,
}

/// A checked application.
#[derive(Debug, Clone, PartialEq)]
pub struct ApplicationDraft {
    /// Its name.
    pub name: ApplicationName,
    /// The id of an application that exists, if the SLA names one.
    pub id: Option<String>,
    /// What it is, for people.
    pub description: String,
    /// Who sent it, as the SLA says.
    pub customer: String,
    /// Its services, in the order of the SLA.
    pub services: Vec<ServiceDraft>,
}

/// A checked service, still without the addresses that root assigns.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceDraft {
    /// The service; each absent service address is to be assigned.
    pub spec: ServiceSpec,
    /// What the ways to other services should satisfy.
    pub connectivity: Vec<Link>,
    /// URLs of files that the slides' form adds.
    pub added_files: Vec<String>,
    /// The service as it was written, for those who read it back.
    pub written: Microservice,
}

/// What the way to another service should satisfy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The other service, by name or id.
    pub target: String,
    /// What is bounded.
    pub kind: LinkKind,
    /// In the kind's unit.
    pub threshold: f64,
}

/// What of a way is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// At most so many ms.
    Latency,
    /// At least so many kbit/s.
    Bandwidth,
    /// At most so many km.
    Geo,
}

/// Reads and checks the text of an SLA.
///
/// # Errors
/// Every fault, in the order of the document: first of shape, then of meaning.
pub fn check_text(
    text: &str,
    context: Context<'_>,
) -> Result<Vec<ApplicationDraft>, Vec<SlaError>> {
    let root = |fault| {
        vec![SlaError {
            path: "$".into(),
            fault,
        }]
    };
    if text.len() > MAX_BYTES {
        return Err(root(Fault::TooMany {
            found: text.len(),
            what: "bytes",
            limit: MAX_BYTES,
        }));
    }
    let value = serde_json::from_str(text).map_err(|e| root(Fault::Json(e.to_string())))?;
    check_value(&value, context)
}

/// Checks an SLA that is JSON already.
///
/// # Errors
/// As [`check_text`].
pub fn check_value(
    value: &Value,
    context: Context<'_>,
) -> Result<Vec<ApplicationDraft>, Vec<SlaError>> {
    let mut checker = check::Checker::new(context);
    let drafts = match value {
        Value::Array(items) => checker.bare(items.iter(), true),
        Value::Object(map) if is_bare(map) => checker.bare(std::iter::once(value), false),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            checker.document(value)
        }
    };
    let faults = checker.finish();
    if faults.is_empty() {
        Ok(drafts)
    } else {
        Err(faults)
    }
}

fn is_bare(map: &serde_json::Map<String, Value>) -> bool {
    let document = ["sla_version", "customerID", "applications"];
    let service = [
        "microservice_name",
        "microserviceID",
        "virtualization",
        "code",
    ];
    !document.iter().any(|key| map.contains_key(*key))
        && service.iter().any(|key| map.contains_key(*key))
}
