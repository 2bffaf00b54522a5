//! Whoever has no business at a control port: wrong and replayed certificates, used tokens, bytes
//! that are no messages. Each is told why, and nothing else changes: an instance runs meanwhile on a
//! node of the cluster, and every link between it and root is used after each stranger.
//!
//! How each fault of a certificate is found is tested beside weald-trust's `tls`; what a netmanager
//! refuses of other nodes is netns-tests' `strangers`.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

#[path = "strangers/crowd.rs"]
mod crowd;
#[path = "strangers/desk.rs"]
mod desk;
#[path = "strangers/joining.rs"]
mod joining;
#[path = "strangers/ports.rs"]
mod ports;
#[path = "site/shop.rs"]
mod shop;
#[path = "strangers/shown.rs"]
mod shown;
#[path = "strangers/site.rs"]
mod site;
#[path = "site/start.rs"]
mod start;
