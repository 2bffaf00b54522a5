//! How things are with a gateway, for the local API.

use netmanager_core::peer::candidates::Refusal;
use netmanager_core::portmap::Protocol;
use netmanager_core::portmap::mapper::{Fault, MapperView};

use crate::api::report::GatewayReport;

/// Puts into words how things are; `refusal` is why peers are not told of the mapping.
pub(super) fn of(view: &MapperView, refusal: Option<Refusal>) -> GatewayReport {
    let mapped = view.mapped;
    let words = |protocol: &Protocol| protocol.word().to_owned();
    GatewayReport {
        gateway: view.gateway.ip.into(),
        own: view.gateway.client.into(),
        speaks: view.speaks.iter().map(words).collect(),
        state: view.state.to_owned(),
        protocol: mapped.map(|mapped| words(&mapped.with)),
        external: mapped.map(|mapped| mapped.external),
        granted_s: mapped.map(|mapped| mapped.life.as_secs()),
        refused: refusal.map(|refusal| refusal.word().to_owned()),
        reason: view.fault.map(Fault::words),
        requests: view.counts.requests,
        grants: view.counts.granted,
        refusals: view.counts.refused,
        ignored: view.counts.ignored,
        restarts: view.counts.restarts,
    }
}
