//! `run`: starts a program in an instance's namespace. Works with or without a daemon.

use weald_proto::name::InstanceId;

use super::failure::{Failure, Kind};
use super::{Options, RunArgs};
use crate::daemon::Identified;
use crate::env::run_in_instance;
use crate::state::kept_attached;

pub(super) fn run(options: &Options, args: &RunArgs) -> Result<(), Failure> {
    let config = options.load()?;
    let identified = Identified::of(&config)?;
    let table = identified.table(&config)?;
    let attached = kept_attached(&config.state_dir);
    let rows = table.instances.iter();
    let own = rows.filter(|row| row.node == identified.node);
    let mut local: Vec<&InstanceId> = own.map(|row| &row.id).collect();
    for attached in &attached {
        if !local.contains(&&attached.instance) {
            local.push(&attached.instance);
        }
    }
    let instance = find(&args.instance, &local)?;
    let error = run_in_instance(&identified.overlay, instance, &args.command);
    Err(Failure::new(Kind::Failed, error.to_string()))
}

/// The one local instance that `wanted` means: its whole name, or labels that only its name begins
/// or ends with.
pub(super) fn find<'a>(wanted: &str, local: &[&'a InstanceId]) -> Result<&'a InstanceId, Failure> {
    let wanted_folded = wanted.to_ascii_lowercase();
    let name_fits = |name: &str| {
        name == wanted_folded
            || name.starts_with(&format!("{wanted_folded}."))
            || name.ends_with(&format!(".{wanted_folded}"))
    };
    let exact = local.iter().find(|id| id.to_string() == wanted_folded);
    let fitting: Vec<&InstanceId> = match exact {
        Some(id) => vec![id],
        None => local
            .iter()
            .copied()
            .filter(|id| name_fits(&id.to_string()))
            .collect(),
    };
    let list = |ids: &[&InstanceId]| {
        let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
        names.join(", ")
    };
    match fitting.as_slice() {
        [id] => Ok(id),
        [] if local.is_empty() => Err(Failure::new(
            Kind::NotFound,
            "the table gives this node no instances",
        )),
        [] => Err(Failure::new(
            Kind::NotFound,
            format!(
                "this node has no instance {wanted:?}; it has {}",
                list(local)
            ),
        )),
        several => Err(Failure::new(
            Kind::NotFound,
            format!("{wanted:?} could be {}; write more of it", list(several)),
        )),
    }
}
