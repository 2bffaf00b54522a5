//! Who is who in Weald, and how each proves it.
//!
//! Root, clusters, workers, netmanagers and relays all make, show and judge certificates and
//! signed statements with this crate. It opens no sockets and starts no threads: it makes TLS
//! configurations for whoever does. The only files that it touches are those of [`pki::store`]
//! and of [`tls::Credentials::load`], which [`renewal`] replaces. What a known peer may do is
//! decided elsewhere.

pub mod pki;

pub mod tls;

pub mod token;

pub mod statement;

pub mod join;

pub mod renewal;
