//! The local API: what a netmanager tells programs on its host over a unix socket.
//!
//! [`report`] holds the types that are sent, [`inspect`] the questions that only the packet thread
//! can answer. One request and its answers are lines of JSON; who may ask is decided by the
//! credentials of the connecting process. There is no way to change anything over it.

pub mod inspect;
pub mod report;
