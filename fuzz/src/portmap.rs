//! Target on what gateways answer when they are asked for a port.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use netmanager_core::portmap::http::{self, Place, Progress};
use netmanager_core::portmap::mapper::Event;
use netmanager_core::portmap::upnp::{self, Service};
use netmanager_core::portmap::{Gateway, MAPPING_PORT, Mapper, natpmp, pcp};

const GATEWAY: Gateway = Gateway {
    ip: Ipv4Addr::new(192, 168, 1, 1),
    client: Ipv4Addr::new(192, 168, 1, 7),
};

/// One answer, as a datagram and over TCP: what is read is written and read again, what it names is on
/// the gateway, and a mapper that hears nothing else comes to an end.
///
/// # Panics
/// If not.
pub fn portmap(data: &[u8]) {
    if let Some(reply) = pcp::Reply::decode(data) {
        assert_eq!(pcp::Reply::decode(&reply.encode()), Some(reply));
        assert_eq!(natpmp::Reply::decode(data), None);
    }
    if let Some(reply) = natpmp::Reply::decode(data) {
        assert_eq!(natpmp::Reply::decode(&reply.encode()), Some(reply));
    }
    if let Some(request) = pcp::Request::decode(data) {
        assert_eq!(pcp::Request::decode(&request.encode()), Some(request));
    }
    if let Some(request) = natpmp::Request::decode(data) {
        assert_eq!(natpmp::Request::decode(&request.encode()), Some(request));
    }
    if let Some(place) = upnp::location(GATEWAY.ip, data) {
        check_request(&http::get(GATEWAY.ip, &place));
    }
    if let Progress::Done(response) | Progress::More(Some(response)) = http::read(data) {
        let _ = upnp::outcome(&response);
        find_service(&response.body);
    }
    find_service(&String::from_utf8_lossy(data));
    map(data);
}

fn find_service(description: &str) {
    let place = Place {
        port: 5000,
        path: "/d.xml".to_owned(),
    };
    if let Some(service) = Service::find(GATEWAY.ip, &place, description) {
        check_request(&service.address(GATEWAY.ip));
        check_request(&service.add(GATEWAY.ip, GATEWAY.client, (1, 2), 3));
        check_request(&service.remove(GATEWAY.ip, 2));
    }
}

/// A request has one head, whatever the gateway has named.
fn check_request(request: &[u8]) {
    let text = String::from_utf8_lossy(request);
    let (head, _) = text.split_once("\r\n\r\n").unwrap_or_default();
    let hosts = head.lines().filter(|line| line.starts_with("Host: "));
    assert_eq!(hosts.count(), 1);
    assert!(head.lines().count() <= 6, "{head}");
}

/// A mapper to which everything is answered with the same bytes.
fn map(data: &[u8]) {
    let mut now = Instant::now();
    let mut mapper = Mapper::new(GATEWAY, 10260, [0; 12], now);
    for _ in 0..12 {
        mapper.handle_timeout(now);
        while let Some(event) = mapper.poll_event() {
            match event {
                Event::Send { port, .. } => {
                    let from = SocketAddr::new(GATEWAY.ip.into(), port);
                    assert!(port == MAPPING_PORT || port == upnp::SSDP_PORT);
                    let _ = mapper.handle_datagram(from, data, now);
                }
                Event::Fetch { .. } => mapper.handle_fetched(Some(data), now),
            }
        }
        let next = mapper.poll_timeout();
        assert!(next.is_some_and(|at| at > now));
        now = next.unwrap_or(now);
    }
    mapper.end(now);
    for _ in 0..4 {
        while let Some(event) = mapper.poll_event() {
            if let Event::Fetch { .. } = event {
                mapper.handle_fetched(Some(data), now);
            }
        }
        now = mapper.poll_timeout().unwrap_or(now);
        mapper.handle_timeout(now);
    }
    assert!(mapper.is_ended());
}
