//! Root's REST API against a real listener and a real store, with a cluster that is played.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may fail loudly; clippy exempts only the tests themselves"
)]

#[path = "api/accounts.rs"]
mod accounts;
#[path = "api/client.rs"]
mod client;
#[path = "api/customers.rs"]
mod customers;
#[path = "api/guards.rs"]
mod guards;
#[path = "api/lab.rs"]
mod lab;
#[path = "api/oak.rs"]
mod oak;
#[path = "api/oakestra.rs"]
mod oakestra;
#[path = "api/openapi.rs"]
mod openapi;
#[path = "api/own.rs"]
mod own;
#[path = "api/sessions.rs"]
mod sessions;
#[path = "api/tenants.rs"]
mod tenants;
#[path = "api/wrong_slas.rs"]
mod wrong_slas;
