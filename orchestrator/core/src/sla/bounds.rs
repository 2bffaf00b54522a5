//! How much of a service travels: every text and list of it that clusters and workers are told.
//!
//! An accepted service is offered again and again until somebody takes it. One that no message can
//! hold would cut a link each time, so each bound lies within what `weald_proto::codec` takes, and
//! all of them together within one message. What the values mean is `parts`'.

use weald_proto::sla::{Constraint, Microservice};

use super::fault::{Fault, Faults};

/// Bytes of `code`: longer than any URL or path that is in use, and as long as a path may be.
pub(super) const CODE_BYTES: usize = 4096;
/// How many architectures a unikernel may have archives for.
pub(super) const ARCHITECTURES: usize = 16;
/// Bytes of the names of all architectures.
pub(super) const ARCH_BYTES: usize = 1024;
/// How many words a command may have.
pub(super) const WORDS: usize = 256;
/// Bytes of all words of a command: a script of a thousand lines fits.
pub(super) const COMMAND_BYTES: usize = 64 << 10;
/// How many environment variables there may be.
pub(super) const VARIABLES: usize = 256;
/// Bytes of all environment variables, each with its name and `=`.
pub(super) const ENVIRONMENT_BYTES: usize = 64 << 10;
/// How many ports `port` may name.
pub(super) const PORTS: usize = 256;
/// How many constraints there may be.
pub(super) const CONSTRAINTS: usize = 64;
/// How many clusters one constraint may allow.
pub(super) const ALLOWED: usize = 256;
/// How many addons one constraint may need.
pub(super) const NEEDS: usize = 64;
/// Bytes of the names of all addons that one constraint needs.
pub(super) const NEEDS_BYTES: usize = 4096;
/// Bytes of an area's name.
pub(super) const AREA_BYTES: usize = 256;

/// Records a fault for everything of a service that is too much to be handed down.
pub(super) fn check(path: &str, written: &Microservice, faults: &mut Faults) {
    let at = |key: &str| format!("{path}.{key}");
    let code = written.code.as_deref().unwrap_or_default();
    most(&at("code"), code.len(), "bytes", CODE_BYTES, faults);
    let lists = [
        (
            "arch",
            &written.arch,
            ("architectures", ARCHITECTURES),
            ARCH_BYTES,
        ),
        ("cmd", &written.command, ("words", WORDS), COMMAND_BYTES),
        (
            "environment",
            &written.environment,
            ("variables", VARIABLES),
            ENVIRONMENT_BYTES,
        ),
    ];
    for (key, list, (what, limit), bytes) in lists {
        let list = list.as_deref().unwrap_or_default();
        texts(&at(key), list, (what, limit), bytes, faults);
    }
    let ports = written.port.as_deref().unwrap_or_default();
    let ports = ports.split(';').count();
    most(&at("port"), ports, "ports", PORTS, faults);
    let constraints = written.constraints.as_deref().unwrap_or_default();
    let found = constraints.len();
    most(
        &at("constraints"),
        found,
        "constraints",
        CONSTRAINTS,
        faults,
    );
    // So many that the rest is not looked at.
    for (i, constraint) in constraints.iter().enumerate().take(CONSTRAINTS) {
        check_constraint(&at(&format!("constraints[{i}]")), constraint, faults);
    }
}

fn check_constraint(path: &str, written: &Constraint, faults: &mut Faults) {
    let area = written.area.as_deref().unwrap_or_default();
    most(
        &format!("{path}.area"),
        area.len(),
        "bytes",
        AREA_BYTES,
        faults,
    );
    let allowed = written.allowed.as_deref().unwrap_or_default();
    let allowed_path = format!("{path}.allowed");
    most(&allowed_path, allowed.len(), "clusters", ALLOWED, faults);
    let needs = written.needs.as_deref().unwrap_or_default();
    let needs_path = format!("{path}.needs");
    texts(&needs_path, needs, ("addons", NEEDS), NEEDS_BYTES, faults);
}

/// A list of texts, bounded in number and in bytes.
fn texts(
    path: &str,
    list: &[String],
    (what, limit): (&'static str, usize),
    bytes: usize,
    faults: &mut Faults,
) {
    most(path, list.len(), what, limit, faults);
    let found = list.iter().map(String::len).sum();
    most(path, found, "bytes", bytes, faults);
}

fn most(path: &str, found: usize, what: &'static str, limit: usize, faults: &mut Faults) {
    if found > limit {
        faults.add(path, Fault::TooMany { found, what, limit });
    }
}

#[cfg(test)]
mod tests;
