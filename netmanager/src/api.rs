//! The local API: what a netmanager tells programs on its host over a unix socket.
//!
//! [`report`] holds the types that are sent, [`message`] the requests and answers around them,
//! [`inspect`] the questions that only the packet thread can answer, [`hosting`] what attaches
//! instances to the node. One request and its answer are lines of JSON; who may ask, and who may
//! change anything, is decided by the credentials of the connecting process ([`access`]).

pub mod access;
pub mod client;
pub mod hosting;
pub mod inspect;
pub mod message;
pub mod report;
pub mod server;

mod answer;

pub use answer::{About, ApiContext};

#[cfg(test)]
mod tests;
