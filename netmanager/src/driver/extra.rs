//! Further sockets: those of sprays, and those among them over which a peer was found.
//!
//! A mapping in a NAT belongs to the socket that made it. So whatever goes to an address that was
//! found from such a socket has to leave from it, and nothing else may. The driver asks by
//! destination; usually there are none.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::event::{Timespec, epoll};

use crate::quic::Slot;
use crate::socket::DataSocket;

/// Sockets of all sprays at once: two of them, and what earlier ones have found.
const MAX_SOCKETS: usize = 640;

/// Which session has sprayed from the socket, and its number there.
pub(super) type Key = (Slot, u16);

/// Addresses of one session that are answered from such sockets: a search meets one, by chance two;
/// the peer can show itself from as many as it likes.
const MAX_TOWARDS: usize = 4;
/// Sockets that are read in one turn; what is left is told again.
const MAX_READY: usize = 64;

/// The sockets beside the data socket.
#[derive(Debug)]
pub(super) struct ExtraSockets {
    /// Tells which of them have something: there may be hundreds.
    epoll: OwnedFd,
    sockets: BTreeMap<Key, DataSocket>,
    towards: HashMap<SocketAddr, Key>,
}

impl ExtraSockets {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sockets: BTreeMap::new(),
            towards: HashMap::new(),
        })
    }

    /// The descriptor that is readable when one of the sockets is.
    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.epoll
    }

    /// The sockets that have something to read, some of them if they are many.
    pub(super) fn ready(&self) -> Vec<Key> {
        let mut events = Vec::with_capacity(MAX_READY);
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let buffer = rustix::buffer::spare_capacity(&mut events);
        if let Err(error) = epoll::wait(&self.epoll, buffer, Some(&at_once)) {
            tracing::debug!(%error, "epoll");
        }
        let keys = events.iter().map(|event| key_of(event.data.u64()));
        keys.collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    pub(super) fn socket(&self, key: Key) -> Option<&DataSocket> {
        self.sockets.get(&key)
    }

    /// The socket that packets to this address have to leave from, if it is not the data socket.
    pub(super) fn towards(&self, destination: SocketAddr) -> Option<&DataSocket> {
        if self.towards.is_empty() {
            return None;
        }
        self.sockets.get(self.towards.get(&destination)?)
    }

    /// The socket with this number, made if there is none yet, beside `main`.
    pub(super) fn open(&mut self, key: Key, main: &DataSocket) -> Option<&DataSocket> {
        if !self.sockets.contains_key(&key) {
            if self.sockets.len() >= MAX_SOCKETS {
                return None;
            }
            let bound = main.local_address().ok()?.ip();
            let bound = DataSocket::bind(SocketAddr::new(bound, 0), main.batching());
            match bound.and_then(|socket| self.watch(key, socket)) {
                Ok(socket) => drop(self.sockets.insert(key, socket)),
                Err(error) => {
                    tracing::debug!("no further socket for a spray: {error:#}");
                    return None;
                }
            }
        }
        self.sockets.get(&key)
    }

    fn watch(&self, key: Key, socket: DataSocket) -> anyhow::Result<DataSocket> {
        let data = epoll::EventData::new_u64(data_of(key));
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
        Ok(socket)
    }

    /// Notes that an authentic packet of the session in `slot` came from `address` on a socket: the
    /// first one that is met is the one.
    pub(super) fn answer_from(&mut self, address: SocketAddr, key: Key, slot: Slot) {
        let of_slot = self.towards.values().filter(|used| used.0 == slot);
        if key.0 == slot && of_slot.count() < MAX_TOWARDS {
            self.towards.entry(address).or_insert(key);
        }
    }

    /// Closes the sockets of a session that lead to none of its paths.
    pub(super) fn keep_only(&mut self, slot: Slot, is_path: impl Fn(SocketAddr) -> bool) {
        self.towards
            .retain(|address, key| key.0 != slot || is_path(*address));
        let towards = &self.towards;
        self.sockets
            .retain(|key, _| key.0 != slot || towards.values().any(|used| used == key));
    }

    /// Closes all sockets of a session.
    pub(super) fn end(&mut self, slot: Slot) {
        if self.sockets.is_empty() {
            return;
        }
        self.sockets.retain(|key, _| key.0 != slot);
        self.towards.retain(|_, key| key.0 != slot);
    }
}

fn data_of((slot, number): Key) -> u64 {
    u64::from(slot.0) << 16 | u64::from(number)
}

fn key_of(data: u64) -> Key {
    let [.., a, b, c, d] = data.to_be_bytes();
    (Slot(u16::from_be_bytes([a, b])), u16::from_be_bytes([c, d]))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::socket::Batching;

    fn here() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn only_sockets_that_have_something_are_read() {
        let main = DataSocket::bind(here(), Batching::default()).unwrap();
        let mut extra = ExtraSockets::new().unwrap();
        let keys: Vec<Key> = (0..40).map(|number| (Slot(9), number)).collect();
        for key in &keys {
            assert!(extra.open(*key, &main).is_some());
        }
        assert_eq!(extra.ready(), []);
        let sender = UdpSocket::bind(here()).unwrap();
        let to = extra.socket(keys[17]).unwrap().local_address().unwrap();
        sender.send_to(b"met", to).unwrap();
        assert_eq!(extra.ready(), [keys[17]]);
        extra.end(Slot(9));
        assert!(extra.is_empty());
        assert_eq!(extra.ready(), []);
    }

    #[test]
    fn a_peer_with_many_addresses_keeps_few_sockets_open() {
        let main = DataSocket::bind(here(), Batching::default()).unwrap();
        let mut extra = ExtraSockets::new().unwrap();
        for number in 0..20 {
            let key = (Slot(3), number);
            assert!(extra.open(key, &main).is_some());
            extra.answer_from(address(1000 + number), key, Slot(3));
            // Another session's socket does not count as met.
            extra.answer_from(address(2000 + number), key, Slot(4));
        }
        assert_eq!(extra.towards.len(), MAX_TOWARDS);
        extra.keep_only(Slot(3), |at| at == address(1001));
        assert_eq!(extra.sockets.len(), 1);
        assert!(extra.towards(address(1001)).is_some());
        assert!(extra.towards(address(1002)).is_none());
        extra.keep_only(Slot(3), |_| false);
        assert!(extra.is_empty() && extra.towards.is_empty());
    }
}
