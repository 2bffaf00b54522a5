//! How connections to a service travel: the words for it in an SLA.

use weald_proto::table::{AcceptPolicy, LanePolicy};

use super::fault::Faults;
use super::parts::word;

const LANES: [(&str, LanePolicy); 3] = [
    ("auto", LanePolicy::Auto),
    ("l3", LanePolicy::L3),
    ("l4", LanePolicy::L4),
];

const ACCEPTS: [(&str, AcceptPolicy); 2] =
    [("late", AcceptPolicy::Late), ("early", AcceptPolicy::Early)];

pub(super) fn lane(path: &str, text: Option<String>, faults: &mut Faults) -> LanePolicy {
    text.and_then(|text| word(path, "lane", &text, &LANES, faults))
        .unwrap_or_default()
}

pub(super) fn accept(path: &str, text: Option<String>, faults: &mut Faults) -> AcceptPolicy {
    text.and_then(|text| word(path, "time of acceptance", &text, &ACCEPTS, faults))
        .unwrap_or_default()
}
