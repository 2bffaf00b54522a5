//! The local API: what a netmanager tells programs on its host over a unix socket.
//!
//! [`report`] holds the types that are sent, [`message`] the requests and answers around them,
//! [`inspect`] the questions that only the packet thread can answer. One request and its answer
//! are lines of JSON; who may ask is decided by the credentials of the connecting process
//! ([`access`]). There is no way to change anything over it.

pub mod access;
pub mod client;
pub mod inspect;
pub mod message;
pub mod report;
pub mod server;

mod answer;

pub use answer::{About, ApiContext};

#[cfg(test)]
mod tests;
