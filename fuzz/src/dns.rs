//! Targets for everything that reads DNS: queries, names in text, and upstream replies.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use hickory_proto::op::{Message, MessageType};
use netmanager_core::dns::{self, Caller, DnsAction, Forwarded, Query, TableStatus, Transport};
use netmanager_core::table::{Nodes, Snapshot};
use weald_proto::addr::Dual;
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{ApplicationName, InstanceId, ServiceName, Zone};
use weald_proto::table::{AcceptPolicy, InstanceRow, LanePolicy, NodeRow, ServiceRow, Table};

/// The caller of every query: an instance of `shop.prod.web.prod`.
const CALLER: Caller = Caller {
    ip: IpAddr::V4(Ipv4Addr::new(10, 30, 0, 2)),
};

/// Bytes as a query, over both transports and with both states of the table.
///
/// # Panics
/// When an answer cannot be read, answers another query, or is too long for its transport.
pub fn dns_query(bytes: &[u8]) {
    static TABLE: LazyLock<Option<Snapshot>> = LazyLock::new(snapshot);
    let Some(table) = TABLE.as_ref() else {
        return;
    };
    let mut out = Vec::new();
    for transport in [Transport::Udp, Transport::Tcp] {
        for status in [TableStatus::Authoritative, TableStatus::CutOff] {
            match dns::answer(bytes, transport, CALLER, table, status, &mut out) {
                DnsAction::Answer(_) => check_answer(bytes, transport, &out),
                DnsAction::Forward => {
                    assert!(
                        Forwarded::new(bytes, 7).is_ok(),
                        "what is forwarded is a query"
                    );
                    assert!(out.is_empty());
                }
                DnsAction::Ignore => assert!(out.is_empty()),
            }
        }
    }
    for write in [dns::refuse, dns::fail, dns::truncated] {
        write(bytes, &mut out);
        assert_eq!(out.is_empty(), Query::parse(bytes).is_err());
    }
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = dns::resolve(&text, &CALLER, table) {
        assert!(!error.to_string().is_empty());
    }
}

/// Bytes as what an upstream server sends back for `www.example.com`.
///
/// # Panics
/// When a reply is taken that does not answer the question, or one is changed that is not taken.
pub fn dns_reply(bytes: &[u8]) {
    const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03wWw\x07example\x03com\0\0\x01\0\x01";
    let Ok(forwarded) = Forwarded::new(QUERY, 0xabcd) else {
        return;
    };
    let mut changed = bytes.to_vec();
    match forwarded.accept(&mut changed) {
        Ok(_) => {
            assert_eq!(changed.len(), bytes.len());
            assert!(changed.starts_with(b"\x12\x34"));
        }
        Err(_) => assert_eq!(changed, bytes),
    }
}

fn check_answer(query: &[u8], transport: Transport, answer: &[u8]) {
    let message = Message::from_vec(answer);
    assert!(
        message.is_ok_and(|message| message.metadata.message_type == MessageType::Response),
        "an answer can be read: {answer:02x?}"
    );
    assert_eq!(answer.first_chunk::<2>(), query.first_chunk::<2>());
    let edns = Query::parse(query).ok().and_then(|query| query.edns);
    let limit = match transport {
        Transport::Udp => edns.map_or(dns::MIN_UDP_PAYLOAD, |edns| edns.udp_payload),
        Transport::Tcp => u16::MAX,
    };
    assert!(answer.len() <= usize::from(limit));
}

/// A small overlay; none only if one of these constants were wrong.
fn snapshot() -> Option<Snapshot> {
    let label = |text: &str| Label::new(text).ok();
    let dual = |v4: &str, v6: &str| Dual {
        v4: v4.parse().ok(),
        v6: v6.parse().ok(),
    };
    let organisation = Organisation(label("acme")?);
    let node = NodeId::new(label("munich")?, label("a1")?);
    let service = ServiceName {
        application: ApplicationName {
            name: label("shop")?,
            namespace: label("prod")?,
        },
        name: label("web")?,
        namespace: label("prod")?,
    };
    let table = Table {
        zones: Zone::defaults(),
        nodes: vec![NodeRow {
            id: node.clone(),
            organisation: organisation.clone(),
            addresses: Vec::new(),
            node_ip: dual("10.30.255.1", "fdff::ff01"),
        }],
        services: vec![ServiceRow {
            name: service.clone(),
            organisation,
            round_robin: dual("10.30.8.1", "fdff:2000::1"),
            closest: dual("10.30.9.1", "fdff:1000::1"),
            lane: LanePolicy::Auto,
            accept: AcceptPolicy::Late,
        }],
        instances: vec![InstanceRow {
            id: InstanceId { service, number: 0 },
            node: node.clone(),
            instance_ip: dual("10.30.0.2", "fdff::2"),
            ports: Vec::new(),
        }],
        ..Table::default()
    };
    Some(Snapshot::build(&table, &node, &mut Nodes::new(), 1))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_overlay_of_the_target_is_there() {
        assert!(super::snapshot().is_some());
    }
}
