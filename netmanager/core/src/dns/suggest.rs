//! The known name that a misspelt one was most likely meant to be.
//!
//! Only for people, in `netmanager dig`: no query is ever answered with a guess.

use weald_proto::name::ServiceName;
use weald_proto::slip;

use super::resolve::View;

/// How many services are compared before giving up: an explanation must not take seconds.
const MAX_COMPARED: usize = 10_000;

/// The most similar service that the caller may see; none when nothing is similar.
pub(crate) fn nearest(asked: &ServiceName, view: &View<'_>) -> Option<String> {
    let text = asked.to_string();
    // A third of the letters wrong is no longer a slip.
    let limit = (text.len() / 3).max(1);
    view.table
        .services()
        .filter(|(_, service)| service.organisation == view.organisation)
        .take(MAX_COMPARED)
        .map(|(_, service)| {
            let known = service.name.to_string();
            (slip::distance(&text, &known), known)
        })
        .min()
        .filter(|(distance, _)| *distance <= limit)
        .map(|(_, known)| known)
}
