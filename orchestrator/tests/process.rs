//! The runtime `process` with real processes, cgroups and namespaces; as root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

#[path = "process/ends.rs"]
mod ends;
#[path = "process/lab.rs"]
mod lab;
#[path = "process/layouts.rs"]
mod layouts;
#[path = "process/limits.rs"]
mod limits;
#[path = "process/places.rs"]
mod places;
#[path = "process/readoption.rs"]
mod readoption;
#[path = "process/refusals.rs"]
mod refusals;
