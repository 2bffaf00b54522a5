//! How other threads talk to the packet thread: messages, and a descriptor that wakes it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, TryRecvError};

use netmanager_core::peer::candidates::Interface;
use netmanager_core::peer::relay_link::Revoked;
use netmanager_core::table::Snapshot;
use weald_proto::id::{Label, NodeId};
use weald_proto::name::ServiceName;

use super::Driver;
use crate::api::inspect::{Inspect, Inspector, Unavailable};

/// What other threads say to the packet thread.
#[derive(Debug)]
pub(super) enum Command {
    Table(Arc<Snapshot>),
    Interest(ServiceName),
    Say(Vec<u8>),
    Show(Vec<u8>),
    Tell(NodeId, Vec<u8>),
    Release(NodeId),
    RelayToken(Vec<u8>),
    CutRevoked(Vec<Label>),
    Revoked(Revoked),
    Network(Vec<Interface>),
    OpeningHops(u8),
    Mapped(Vec<SocketAddr>),
    Inspect(Inspect),
    Shutdown,
}

/// Talks to the packet thread.
#[derive(Debug, Clone)]
pub struct DriverHandle {
    pub(super) commands: Sender<Command>,
    pub(super) wake: Arc<OwnedFd>,
}

impl DriverHandle {
    /// Gives the packet thread another table.
    ///
    /// # Errors
    /// The packet thread is gone.
    pub fn set_table(&self, table: Arc<Snapshot>) -> Result<(), Unavailable> {
        self.send(Command::Table(table))
    }

    /// Says that somebody asked for the `closest` instance of a service, so that its distance is
    /// known before the first packet.
    ///
    /// # Errors
    /// The packet thread is gone.
    pub fn note_interest(&self, service: ServiceName) -> Result<(), Unavailable> {
        self.send(Command::Interest(service))
    }

    /// Says something to the cluster, each message behind its length. It is not said if there is
    /// no session.
    ///
    /// # Errors
    /// The packet thread is gone.
    pub fn say_to_cluster(&self, messages: Vec<u8>) -> Result<(), Unavailable> {
        self.send(Command::Say(messages))
    }

    /// Shows every peer, also those to come, what this node has, each message behind its length.
    ///
    /// # Errors
    /// The packet thread is gone.
    pub fn show_peers(&self, messages: Vec<u8>) -> Result<(), Unavailable> {
        self.send(Command::Show(messages))
    }

    /// Says something to one peer, each message behind its length. Without a session it is not said,
    /// but one is made.
    ///
    /// # Errors
    /// The packet thread is gone.
    pub fn tell_peer(&self, peer: NodeId, messages: Vec<u8>) -> Result<(), Unavailable> {
        self.send(Command::Tell(peer, messages))
    }

    /// Says that what a peer has shown is judged, and the table that follows from it was set.
    ///
    /// # Errors
    /// The packet thread is gone.
    pub fn release_peer(&self, peer: NodeId) -> Result<(), Unavailable> {
        self.send(Command::Release(peer))
    }

    /// Ends every session with somebody whom the credentials take for revoked now, or who is of one
    /// of these clusters, whose intermediates are.
    ///
    /// # Errors
    /// The packet thread is gone.
    pub fn cut_revoked(&self, clusters: Vec<Label>) -> Result<(), Unavailable> {
        self.send(Command::CutRevoked(clusters))
    }

    /// Gives the newest list of the revoked, which relays are told that have an older one.
    ///
    /// # Errors
    /// The packet thread is gone.
    pub fn set_revoked(&self, revoked: Revoked) -> Result<(), Unavailable> {
        self.send(Command::Revoked(revoked))
    }

    /// Gives the token that relays ask for.
    ///
    /// # Errors
    /// The packet thread is gone.
    pub fn set_relay_token(&self, token: Vec<u8>) -> Result<(), Unavailable> {
        self.send(Command::RelayToken(token))
    }

    /// Says that links, addresses or routes may have changed, and which addresses there are now, with
    /// the data socket's port.
    ///
    /// # Errors
    /// The packet thread is gone.
    pub fn network_changed(&self, interfaces: Vec<Interface>) -> Result<(), Unavailable> {
        self.send(Command::Network(interfaces))
    }

    /// Says after how many hops a packet has left the NATs of this site.
    ///
    /// # Errors
    /// The packet thread is gone.
    pub fn set_opening_hops(&self, hops: u8) -> Result<(), Unavailable> {
        self.send(Command::OpeningHops(hops))
    }

    /// Says which outside addresses gateways lead to the data socket.
    ///
    /// # Errors
    /// The packet thread is gone.
    pub fn set_mapped(&self, mapped: Vec<SocketAddr>) -> Result<(), Unavailable> {
        self.send(Command::Mapped(mapped))
    }

    pub(super) fn send(&self, command: Command) -> Result<(), Unavailable> {
        self.commands.send(command).map_err(|_| Unavailable)?;
        // A full counter means that the thread has been woken already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        Ok(())
    }
}

impl Inspector for DriverHandle {
    fn submit(&self, question: Inspect) -> Result<(), Unavailable> {
        self.send(Command::Inspect(question))
    }
}

impl Driver {
    /// Does what other threads have said.
    pub(super) fn handle_commands(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        loop {
            match self.commands.try_recv() {
                Ok(Command::Table(table)) => self.set_table(table),
                Ok(Command::Interest(service)) => self.plane.note_interest(&service),
                Ok(Command::Say(messages)) => self.say_to_cluster(&messages),
                Ok(Command::Show(messages)) => self.show(messages),
                Ok(Command::Tell(peer, messages)) => self.tell_peer(&peer, &messages),
                Ok(Command::Release(peer)) => self.release(&peer),
                Ok(Command::RelayToken(token)) => self.set_relay_token(token),
                Ok(Command::CutRevoked(clusters)) => self.cut_revoked(&clusters),
                Ok(Command::Revoked(revoked)) => self.tell_relays(revoked),
                Ok(Command::Network(interfaces)) => self.network_changed(interfaces),
                Ok(Command::OpeningHops(hops)) => self.opening_hops = hops,
                Ok(Command::Mapped(mapped)) => self.mappings_changed(mapped),
                Ok(Command::Inspect(question)) => self.answer(question),
                Ok(Command::Shutdown) | Err(TryRecvError::Disconnected) => {
                    self.stopping = true;
                    return;
                }
                Err(TryRecvError::Empty) => return,
            }
        }
    }
}
