//! What of a service is accepted and kept, but acted on only in part or not at all. Whoever sends it is
//! told so each time: nobody shall rely on what nothing does.

use weald_proto::sla::Microservice;

const CONNECTIVITY: &str = "it is kept, and nothing acts on it yet: instances are not placed by it, \
                            and no way is held to it";
const ADDED_FILES: &str = "they are kept, and nothing fetches them yet; have the code do it";
const RESERVED: &str = "it is reserved when an instance is placed, and not enforced while it runs";

const LATENCY: &str = "its latency constraint is kept, and no node satisfies it: nothing measures the \
                       way to an area yet, so no instance will be placed; use a geo constraint";

/// The fields of a service that ask for more than is done, each with what is done.
#[must_use]
pub fn unheeded(written: &Microservice) -> Vec<(&'static str, &'static str)> {
    fn some<T>(list: Option<&Vec<T>>) -> bool {
        list.is_some_and(|list| !list.is_empty())
    }
    let asks = |amount: Option<u32>| amount.is_some_and(|amount| amount > 0);
    let constraints = written.constraints.as_deref().unwrap_or_default();
    let latency = constraints
        .iter()
        .any(|it| it.kind.as_deref() == Some("latency"));
    let fields = [
        ("constraints", latency, LATENCY),
        (
            "connectivity",
            some(written.connectivity.as_ref()),
            CONNECTIVITY,
        ),
        (
            "added_files",
            some(written.added_files.as_ref()),
            ADDED_FILES,
        ),
        ("vgpus", asks(written.vgpus), RESERVED),
        ("vtpus", asks(written.vtpus), RESERVED),
        ("bandwidth_in", asks(written.bandwidth_in), RESERVED),
        ("bandwidth_out", asks(written.bandwidth_out), RESERVED),
        ("storage", asks(written.storage), RESERVED),
    ];
    let asked = fields.into_iter().filter(|(_, asked, _)| *asked);
    asked.map(|(field, _, why)| (field, why)).collect()
}
