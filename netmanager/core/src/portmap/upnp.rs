//! What is said to a UPnP Internet Gateway Device, and what it answers: discovery by SSDP, its
//! description, and three actions of its WAN connection service.
//!
//! Discovery is asked of the gateway's address alone (UPnP Device Architecture 1.1, section 1.3.2),
//! not of the whole link; places that an answer names anywhere else are not taken.

use std::net::Ipv4Addr;

use super::http::{self, Place, Response};
use super::xml;

/// The port of SSDP.
pub const SSDP_PORT: u16 = 1900;
/// The error that says that the outside port is another host's (`ConflictInMappingEntry`).
pub const CONFLICT: u16 = 718;
/// The error that says that mappings live until they are removed (`OnlyPermanentLeasesSupported`).
pub const ONLY_PERMANENT: u16 = 725;

/// What the gateway calls the mapping.
const DESCRIPTION: &str = "weald";
/// Services that map ports, the best first.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];

/// Asks whether the gateway is one.
#[must_use]
pub fn search(gateway: Ipv4Addr) -> Vec<u8> {
    format!(
        "M-SEARCH * HTTP/1.1\r\nHOST: {gateway}:{SSDP_PORT}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
         ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
    )
    .into()
}

/// Where an answer to [`search`] says that the gateway's description is.
#[must_use]
pub fn location(gateway: Ipv4Addr, answer: &[u8]) -> Option<Place> {
    let text = std::str::from_utf8(answer).ok()?;
    let mut lines = text.split("\r\n");
    if http::status_of(lines.next()?) != Some(200) {
        return None;
    }
    let mut headers = lines.filter_map(http::header);
    let (_, url) = headers.find(|(name, _)| name.eq_ignore_ascii_case("location"))?;
    Place::on(gateway, url)
}

/// A service that maps ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    kind: &'static str,
    control: Place,
}

impl Service {
    /// Finds it in a description that was read at a place.
    #[must_use]
    pub fn find(gateway: Ipv4Addr, at: &Place, description: &str) -> Option<Self> {
        let found = xml::elements(description, "service").filter_map(|service| {
            let kind = xml::text(service, "serviceType")?;
            let rank = SERVICES.iter().position(|known| *known == kind)?;
            let control = xml::text(service, "controlURL")?;
            Some((rank, at.beside(gateway, control)?))
        });
        let (rank, control) = found.min_by_key(|(rank, _)| *rank)?;
        let kind = SERVICES.get(rank)?;
        Some(Self { kind, control })
    }

    /// The TCP port at which it is called.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.control.port
    }

    /// Asks for the outside address.
    #[must_use]
    pub fn address(&self, gateway: Ipv4Addr) -> Vec<u8> {
        self.call(gateway, "GetExternalIPAddress", "")
    }

    /// Asks for a mapping of a UDP port; `lifetime` 0 is until it is removed.
    #[must_use]
    pub fn add(
        &self,
        gateway: Ipv4Addr,
        client: Ipv4Addr,
        (internal, external): (u16, u16),
        lifetime: u32,
    ) -> Vec<u8> {
        let arguments = format!(
            "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort>\
             <NewProtocol>UDP</NewProtocol><NewInternalPort>{internal}</NewInternalPort>\
             <NewInternalClient>{client}</NewInternalClient><NewEnabled>1</NewEnabled>\
             <NewPortMappingDescription>{DESCRIPTION}</NewPortMappingDescription>\
             <NewLeaseDuration>{lifetime}</NewLeaseDuration>"
        );
        self.call(gateway, "AddPortMapping", &arguments)
    }

    /// Asks to remove the mapping.
    #[must_use]
    pub fn remove(&self, gateway: Ipv4Addr, external: u16) -> Vec<u8> {
        let arguments = format!(
            "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort>\
             <NewProtocol>UDP</NewProtocol>"
        );
        self.call(gateway, "DeletePortMapping", &arguments)
    }

    fn call(&self, gateway: Ipv4Addr, action: &str, arguments: &str) -> Vec<u8> {
        let kind = self.kind;
        let body = format!(
            "<?xml version=\"1.0\"?>\r\n\
             <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
             <u:{action} xmlns:u=\"{kind}\">{arguments}</u:{action}></s:Body></s:Envelope>\r\n"
        );
        http::post(gateway, &self.control, &format!("{kind}#{action}"), &body)
    }
}

/// What an action led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done; the outside address, if that was asked for.
    Done(Option<Ipv4Addr>),
    /// It is not, and why (UPnP's error code, or HTTP's status without one).
    Refused(u16),
}

/// Reads what an action led to.
#[must_use]
pub fn outcome(answer: &Response) -> Outcome {
    if answer.status == 200 {
        let address = xml::text(&answer.body, "NewExternalIPAddress");
        return Outcome::Done(address.and_then(|text| text.parse().ok()));
    }
    let code = xml::text(&answer.body, "errorCode").and_then(|text| text.parse().ok());
    Outcome::Refused(code.unwrap_or(answer.status))
}
