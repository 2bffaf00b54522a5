//! Streams of peers that end at published servers: where there is no overlay namespace.
//!
//! No packet of such a connection passes the flow table, so it has no flow; whether it may be is
//! asked when it begins, and again with every table.

use std::net::SocketAddr;

use netmanager_core::lane::{Hello, Refused};
use netmanager_core::table::PeerId;

use super::conn::ConnId;
use crate::driver::Driver;

impl Driver {
    /// The server that a peer's stream leads to.
    pub(super) fn published_to(
        &mut self,
        id: ConnId,
        peer: PeerId,
        hello: &Hello,
    ) -> Result<SocketAddr, Refused> {
        self.plane.check_stream(peer, hello)?;
        let server = self.lane.sockets.server_at(hello.target);
        // As at an instance where nobody listens.
        let server = server.ok_or(Refused::PortClosed)?;
        self.lane.published.insert(id, (peer, *hello));
        Ok(server)
    }

    /// Ends the connections to published servers that may be no more.
    pub(in crate::driver) fn check_published(&mut self) {
        let plane = &self.plane;
        let published = self.lane.published.iter();
        let ended: Vec<ConnId> = published
            .filter(|(_, (peer, hello))| {
                let is_there = self.lane.sockets.server_at(hello.target).is_some();
                !is_there || !plane.still_allows_stream(*peer, hello)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            self.fail(id, Refused::Gone);
        }
    }
}
