//! Answers queries for semantic names: `appname.appns.servicename.servicens.instance.policy.<zone>`.
//!
//! [`answer`] takes one query and says what to do with it: send the bytes that it wrote, ask
//! somebody else, or nothing. The shell (`netmanager::dns_server`) owns the sockets, [`Clients`]
//! tells it who asks too much, and [`Forwarded`] which reply belongs to which query.
//! [`resolve()`] is the same look-up for `netmanager dig`, with reasons.
//!
//! # Which names are ours
//!
//! * every name whose last label before a zone, or whose last label, is a policy word: below
//!   `rr.local`, `closest.weald.internal`, `instance`;
//! * everything else in a zone, unless it is `local`, which mDNS and others use as well;
//! * the reverse names of the pools.
//!
//! All other names are forwarded, and these never. Only whole names exist: of the names above
//! them just the zones, the policy words and `any`; `prod.rr.local` does not exist, although
//! `web.prod.rr.local` may.
//!
//! # Who sees what
//!
//! A caller sees the services of its own organisation. For those of others it gets, byte for byte,
//! what it would get if they did not exist.

use std::net::IpAddr;

use weald_proto::name::{ANY, ApplicationName, Policy, ServiceName};

use self::message::CLASS_IN;
use self::name::Domain;
use self::resolve::{Missing, View};
use self::response::{Data, EDNS_VERSION, Failure, Reply};
use self::reverse::{ReverseKind, ReverseName};
use crate::table::Snapshot;

mod clients;
mod forward;
mod message;
mod name;
mod outcome;
mod resolve;
mod response;
mod reverse;
mod suggest;

#[cfg(test)]
mod tests;

pub use self::clients::{Admission, ClientLimits, Clients};
pub use self::forward::{Accepted, ForwardError, Forwarded};
pub use self::message::{
    MAX_QUERY_LEN, MIN_UDP_PAYLOAD, Malformation, Query, QueryEdns, QueryError, QueryHeader,
};
pub use self::name::{MAX_NAME_TEXT_LEN, NameError, SHARED_ZONE, SemanticName, Target};
pub use self::outcome::Outcome;
pub use self::resolve::{Caller, NotResolved, Resolved, resolve};
pub use self::response::{NEGATIVE_TTL_SECS, TTL_SECS};

/// How a query came, which bounds the length of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// In one datagram.
    Udp,
    /// On a stream.
    Tcp,
}

/// Whether the table holds everything that it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableStatus {
    /// What is not in the table does not exist.
    Authoritative,
    /// The cluster that would know more cannot be asked.
    CutOff,
}

/// What to do with a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsAction {
    /// Send the bytes that were written; the outcome is for the counters.
    Answer(Outcome),
    /// Ask an upstream server.
    Forward,
    /// Nothing: it is no query.
    Ignore,
}

/// Answers one query into `out`, which holds the answer when that is the action, and is empty else.
pub fn answer(
    query: &[u8],
    transport: Transport,
    caller: Caller,
    table: &Snapshot,
    status: TableStatus,
    out: &mut Vec<u8>,
) -> DnsAction {
    out.clear();
    let query = match Query::parse(query) {
        Ok(query) => query,
        Err(QueryError::NoHeader | QueryError::Response) => return DnsAction::Ignore,
        Err(QueryError::Opcode(header)) => {
            response::write_header_only(header, Failure::NotImplemented, out);
            return DnsAction::Answer(Outcome::NotImplemented);
        }
        Err(QueryError::Malformed(header, _)) => {
            response::write_header_only(header, Failure::Format, out);
            return DnsAction::Answer(Outcome::FormatError);
        }
    };
    let Some(reply) = decide(&query, caller, table, status) else {
        return DnsAction::Forward;
    };
    response::write(&query, &reply, transport, out);
    DnsAction::Answer(Outcome::of(&reply))
}

/// The service whose nearest instance a query asks for, if it does and the caller may know it: its
/// distance should be known before the first packet comes.
#[must_use]
pub fn asks_for_closest(query: &[u8], caller: Caller, table: &Snapshot) -> Option<ServiceName> {
    let query = Query::parse(query).ok()?;
    let domain = Domain::of(&query.labels, table.zones())?;
    let policy = domain.policy.filter(|policy| *policy == Policy::Closest)?;
    let asked = SemanticName::from_labels(query.labels.get(..domain.before)?, policy).ok()?;
    let found = View::of(&caller, table)?.look_up(&asked).ok()?;
    Some(table.service(found.service).name.clone())
}

/// The application that a query is about, if the caller may ask and the table does not hold
/// everything: its rows should be there. If [`Snapshot::knows`] says that they are not, the query
/// should be answered when they have come.
#[must_use]
pub fn asks_about(query: &[u8], caller: Caller, table: &Snapshot) -> Option<ApplicationName> {
    if table.is_whole() {
        return None;
    }
    let query = Query::parse(query).ok()?;
    let domain = Domain::of(&query.labels, table.zones())?;
    let before = query.labels.get(..domain.before)?;
    let asked = SemanticName::from_labels(before, domain.policy?).ok()?;
    let view = View::of(&caller, table)?;
    asked.application.or_else(|| view.application.cloned())
}

/// Writes a refusal to a query into `out`; it is empty if `query` is none.
pub fn refuse(query: &[u8], out: &mut Vec<u8>) {
    response::write_to(query, &Reply::Error(Failure::Refused), out);
}

/// Writes into `out` that no upstream server answered a query; it is empty if `query` is none.
pub fn fail(query: &[u8], out: &mut Vec<u8>) {
    response::write_to(query, &Reply::Error(Failure::Server), out);
}

/// Writes an answer into `out` that sends the client of a query to TCP; it is empty if `query` is
/// none.
pub fn truncated(query: &[u8], out: &mut Vec<u8>) {
    response::write_to(query, &Reply::Truncated, out);
}

/// What to answer; none for what is to be forwarded.
fn decide(
    query: &Query<'_>,
    caller: Caller,
    table: &Snapshot,
    status: TableStatus,
) -> Option<Reply> {
    if query.edns.is_some_and(|edns| edns.version != EDNS_VERSION) {
        return Some(Reply::Error(Failure::BadVersion));
    }
    let view = View::of(&caller, table);
    let Some(view) = view.filter(|_| query.class == CLASS_IN && !types::is_refused(query)) else {
        return Some(Reply::Error(Failure::Refused));
    };
    if let Some(reverse) = ReverseName::of(&query.labels, table.pools()) {
        return Some(decide_reverse(query, reverse, &view, status));
    }
    let domain = Domain::of(&query.labels, table.zones())?;
    Some(decide_semantic(query, domain, &view, status))
}

fn decide_semantic(
    query: &Query<'_>,
    domain: Domain,
    view: &View<'_>,
    status: TableStatus,
) -> Reply {
    if domain.apex == 0 {
        return at_apex(query);
    }
    let Some(policy) = domain.policy else {
        return Reply::NameError(domain.apex);
    };
    let before = query.labels.get(..domain.before).unwrap_or_default();
    if is_above_names(before, policy) {
        return Reply::NoData(domain.apex);
    }
    let Ok(asked) = SemanticName::from_labels(before, policy) else {
        return Reply::NameError(domain.apex);
    };
    match view.look_up(&asked) {
        Ok(found) => {
            let records = found.addresses.iter().filter(|ip| match ip {
                IpAddr::V4(_) => types::wants(query, types::A),
                IpAddr::V6(_) => types::wants(query, types::AAAA),
            });
            records_or_no_data(records.map(Data::Address).collect(), domain.apex)
        }
        // Whoever has no application never gets one, whatever the cluster knows.
        Err(Missing::Application) => Reply::NameError(domain.apex),
        // Nobody has been asked for the application yet.
        Err(Missing::Service(name)) if !view.table.knows(&name.application) => {
            Reply::Error(Failure::Server)
        }
        // The cluster has said that there is no such application, and nobody needs to be asked.
        Err(Missing::Service(name))
            if !view.table.is_whole() && !view.table.has_application(&name.application) =>
        {
            Reply::NameError(domain.apex)
        }
        Err(Missing::Service(_) | Missing::Instance(..)) => unknown(domain.apex, status),
    }
}

/// Whether names exist below, though none exists here: at a policy word, and at its `any`.
fn is_above_names(before: &[&[u8]], policy: Policy) -> bool {
    match before {
        [] => true,
        [label] => match policy {
            Policy::RoundRobin | Policy::Closest => label.eq_ignore_ascii_case(ANY.as_bytes()),
            Policy::Instance => false,
        },
        _ => false,
    }
}

fn decide_reverse(
    query: &Query<'_>,
    reverse: ReverseName,
    view: &View<'_>,
    status: TableStatus,
) -> Reply {
    let ip = match reverse.kind {
        ReverseKind::Address(ip) => ip,
        ReverseKind::Prefix if reverse.apex == 0 => return at_apex(query),
        ReverseKind::Prefix => return Reply::NoData(reverse.apex),
        ReverseKind::Nothing => return Reply::NameError(reverse.apex),
    };
    let Some(name) = view.name_of(ip) else {
        return unknown(reverse.apex, status);
    };
    let pointer = match view.table.zones().first() {
        Some(zone) => format!("{name}.{zone}."),
        None => format!("{name}."),
    };
    let records = types::wants(query, types::PTR).then_some(Data::Pointer(pointer));
    records_or_no_data(records.into_iter().collect(), reverse.apex)
}

fn at_apex(query: &Query<'_>) -> Reply {
    let authority = types::wants(query, types::SOA).then_some(Data::Authority);
    let server = types::wants(query, types::NS).then_some(Data::NameServer);
    records_or_no_data(authority.into_iter().chain(server).collect(), 0)
}

fn records_or_no_data(records: Vec<Data>, apex: usize) -> Reply {
    if records.is_empty() {
        Reply::NoData(apex)
    } else {
        Reply::Records(records)
    }
}

fn unknown(apex: usize, status: TableStatus) -> Reply {
    match status {
        TableStatus::Authoritative => Reply::NameError(apex),
        TableStatus::CutOff => Reply::Error(Failure::Server),
    }
}

/// The record types that matter here.
mod types {
    use super::Query;

    pub(super) const A: u16 = 1;
    pub(super) const NS: u16 = 2;
    pub(super) const SOA: u16 = 6;
    pub(super) const PTR: u16 = 12;
    pub(super) const AAAA: u16 = 28;
    const OPT: u16 = 41;
    const TKEY: u16 = 249;
    const AXFR: u16 = 252;
    const ANY: u16 = 255;

    pub(super) fn wants(query: &Query<'_>, record_type: u16) -> bool {
        query.record_type == record_type || query.record_type == ANY
    }

    /// Whether a query asks for what is no record of a name: zone transfers, keys, signatures
    /// (TKEY, TSIG, IXFR and AXFR are neighbours) and EDNS.
    pub(super) fn is_refused(query: &Query<'_>) -> bool {
        matches!(query.record_type, 0 | OPT | TKEY..=AXFR)
    }
}
