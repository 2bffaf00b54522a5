//! Builds the bytes of answers, with hickory.
//!
//! It decides nothing: what to answer is `dns`'s. The question is echoed as it was sent, letter
//! case included, because clients that vary the case check for it.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use super::Transport;
use super::message::{HEADER_LEN, MIN_UDP_PAYLOAD, Query, QueryHeader};

/// How long anybody may remember an answer, in seconds. Short, because services move; policies act
/// per flow, so a remembered service address stays right.
pub const TTL_SECS: u32 = 5;

/// How long anybody may remember that a name does not exist, in seconds.
pub const NEGATIVE_TTL_SECS: u32 = 5;

/// The largest UDP message that we say we take: one that no path has to fragment.
const OWN_UDP_PAYLOAD: u16 = 1232;

/// The version of EDNS that we speak.
pub(crate) const EDNS_VERSION: u8 = 0;

/// What is answered to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Records of the name asked for.
    Records(Vec<Data>),
    /// The name exists without such a record; the zone starts at that label.
    NoData(usize),
    /// The name does not exist; the zone starts at that label.
    NameError(usize),
    /// The answer is too long for a datagram.
    Truncated,
    /// No answer, for a reason that has a code.
    Error(Failure),
}

/// The data of one record of the name asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    /// An address, A or AAAA.
    Address(IpAddr),
    /// The canonical name of a reverse name.
    Pointer(String),
    /// The zone's own record; the name asked for is its apex.
    Authority,
    /// The zone's name server; the name asked for is its apex.
    NameServer,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The query is malformed.
    Format,
    /// We cannot say now.
    Server,
    /// That kind of query is not implemented.
    NotImplemented,
    /// Not for this caller.
    Refused,
    /// The EDNS version is not ours.
    BadVersion,
}

impl Failure {
    const fn code(self) -> ResponseCode {
        match self {
            Self::Format => ResponseCode::FormErr,
            Self::Server => ResponseCode::ServFail,
            Self::NotImplemented => ResponseCode::NotImp,
            Self::Refused => ResponseCode::Refused,
            Self::BadVersion => ResponseCode::BADVERS,
        }
    }
}

/// Writes an error to a query whose question could not be read.
pub(crate) fn write_header_only(header: QueryHeader, failure: Failure, out: &mut Vec<u8>) {
    out.clear();
    if emit(&response(header, failure.code()), out).is_none() {
        out.clear();
    }
}

/// Writes the answer to a question; `out` stays empty if it cannot be written.
pub(crate) fn write(query: &Query<'_>, reply: &Reply, transport: Transport, out: &mut Vec<u8>) {
    out.clear();
    let limit = match transport {
        Transport::Udp => query.edns.map_or(MIN_UDP_PAYLOAD, |edns| edns.udp_payload),
        Transport::Tcp => u16::MAX,
    };
    let written = message(query, reply).and_then(|message| {
        emit(&message, out)?;
        if out.len() > usize::from(limit) {
            out.clear();
            emit(&message.truncate(), out)?;
        }
        Some(())
    });
    if written.is_none() {
        write_header_only(query.header, Failure::Server, out);
    }
}

/// Writes a reply without records to the bytes of a query; what is no query gets nothing.
pub(crate) fn write_to(query: &[u8], reply: &Reply, out: &mut Vec<u8>) {
    match Query::parse(query) {
        Ok(query) => write(&query, reply, Transport::Udp, out),
        Err(_) => out.clear(),
    }
}

fn response(header: QueryHeader, code: ResponseCode) -> Message {
    let opcode = OpCode::from_u8(header.opcode);
    let mut message = Message::new(header.id, MessageType::Response, opcode);
    message.metadata.recursion_desired = header.recursion_desired;
    message.metadata.checking_disabled = header.checking_disabled;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message
}

/// None only if a name that came in or stands in the table is no name, which both check.
fn message(query: &Query<'_>, reply: &Reply) -> Option<Message> {
    let name = name_of(&query.labels)?;
    let (code, authoritative) = match reply {
        Reply::Records(_) | Reply::NoData(_) => (ResponseCode::NoError, true),
        Reply::NameError(_) => (ResponseCode::NXDomain, true),
        Reply::Truncated => (ResponseCode::NoError, false),
        Reply::Error(failure) => (failure.code(), false),
    };
    let mut message = response(query.header, code);
    message.metadata.authoritative = authoritative;
    message.metadata.truncation = *reply == Reply::Truncated;
    let mut question = Question::query(name.clone(), RecordType::from(query.record_type));
    question.set_query_class(DNSClass::from(query.class));
    message.add_query(question);
    match reply {
        Reply::Records(records) => {
            for data in records {
                let record = Record::from_rdata(name.clone(), TTL_SECS, rdata(data, &name)?);
                message.add_answer(record);
            }
        }
        Reply::NoData(apex) | Reply::NameError(apex) => {
            let zone = name_of(query.labels.get(*apex..)?)?;
            let data = rdata(&Data::Authority, &zone)?;
            message.add_authority(Record::from_rdata(zone, NEGATIVE_TTL_SECS, data));
        }
        Reply::Truncated | Reply::Error(_) => {}
    }
    if let Some(asked) = query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(OWN_UDP_PAYLOAD)
            .set_version(EDNS_VERSION)
            .set_dnssec_ok(asked.dnssec_ok);
        message.set_edns(edns);
    }
    Some(message)
}

/// The zones have no servers of their own, so they name themselves, as the empty zones of
/// RFC 6303 do.
fn rdata(data: &Data, name: &Name) -> Option<RData> {
    Some(match data {
        Data::Address(IpAddr::V4(ip)) => RData::A(A(*ip)),
        Data::Address(IpAddr::V6(ip)) => RData::AAAA(AAAA(*ip)),
        Data::Pointer(target) => RData::PTR(PTR(Name::from_ascii(target).ok()?)),
        Data::NameServer => RData::NS(NS(name.clone())),
        Data::Authority => RData::SOA(SOA::new(
            name.clone(),
            Name::from_labels(["nobody", "invalid"]).ok()?,
            1,
            3600,
            1200,
            604_800,
            NEGATIVE_TTL_SECS,
        )),
    })
}

fn name_of(labels: &[&[u8]]) -> Option<Name> {
    Name::from_labels(labels.iter().copied()).ok()
}

fn emit(message: &Message, out: &mut Vec<u8>) -> Option<()> {
    let mut encoder = BinEncoder::new(out);
    message.emit(&mut encoder).ok()?;
    debug_assert!(out.len() >= HEADER_LEN);
    Some(())
}
