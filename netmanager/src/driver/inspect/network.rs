//! What is told of the network around this node, and the frames by which it is examined.

use weald_proto::frame::{Knock, RelayHeader};

use super::direct::mapping_word;
use crate::api::inspect::KnockQuery;
use crate::api::report::{NetworkReport, RelayDoor};
use crate::driver::Driver;

/// Bytes of the longest knock: beyond an Ethernet's MTU, whose limit it may be to find.
const MAX_KNOCK_LEN: usize = 2000;

impl Driver {
    pub(super) fn network_report(&self) -> NetworkReport {
        let own = self.surroundings.interfaces();
        let doors = self.relays.iter().map(|entry| RelayDoor {
            relay: entry.id.to_string(),
            state: entry.state_word().to_owned(),
            address: entry.address(),
            addresses: entry.addresses().to_vec(),
            observe_port: entry.observe_port(),
            carrier: entry.carriers.in_use().word().to_owned(),
            reason: entry.reason.clone(),
        });
        NetworkReport {
            own: own.map(|one| (one.address, one.prefix_len)).collect(),
            mapping: mapping_word(self.surroundings.mapping()).to_owned(),
            relays: doors.collect(),
            // Not this thread's to know.
            gateways: None,
        }
    }

    /// A knock that the relay takes for this node's, from whatever socket it is sent.
    pub(super) fn sealed_knock(&mut self, query: &KnockQuery) -> Option<Vec<u8>> {
        let mut relays = self.relays.iter_mut();
        let entry = relays.find(|entry| entry.id.to_string() == query.relay)?;
        let (link, keys) = entry.sending()?;
        let knock = Knock {
            link,
            port: query.port,
            from_other_port: query.from_other_port,
        };
        let mut frame = knock.encode(usize::from(query.length).min(MAX_KNOCK_LEN));
        keys.sealer.seal(&mut frame, RelayHeader::TAG).ok()?;
        Some(frame)
    }
}
