//! Clients of the host: lets them in, hears where they want to go, and connects.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::time::Duration;

use netmanager_core::proxy::connect::{self, ESTABLISHED, MAX_HEAD_LEN};
use netmanager_core::proxy::socks5::{self, Reply};
use netmanager_core::proxy::{Refused, Target, locate};
use netmanager_core::table::Snapshot;
use rustix::net::{RecvFlags, recv};
use weald_proto::addr::Dual;
use weald_proto::name::ApplicationName;

use super::conn::{ASK_TIMEOUT, CONNECT_TIMEOUT, Conn, ConnId, Kind, ROWS_TIMEOUT, Stage};
use super::listen::Door;
use super::run::Runner;
use super::stack::Standing;
use crate::program_socket::{NO_SIGNAL, configure, reset};

/// Clients let in at once, so that others have their turn.
const ACCEPTS: usize = 64;
/// How soon the cluster is asked again for the same application, and for how many at once.
const ASK_AGAIN: Duration = Duration::from_secs(10);
const MAX_ASKED: usize = 64;

/// What a client has said.
enum Heard {
    /// Not all of it yet.
    Part,
    /// A greeting of that length.
    Greeting(usize),
    /// Where it wants to go, in so many bytes.
    Target(Target, usize),
    /// Something wrong, which is answered so.
    Wrong(Vec<u8>),
}

impl Runner {
    /// Lets clients in at a door.
    pub(super) fn accept(&mut self, number: usize) {
        for _ in 0..ACCEPTS {
            if !self.has_room() {
                self.close_doors();
                return;
            }
            let Some((listener, _)) = self.listeners.doors.get(number) else {
                return;
            };
            match listener.accept() {
                Ok((socket, _)) => self.let_in(number, socket.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "a client cannot be let in");
                    self.pause_doors();
                    return;
                }
            }
        }
    }

    fn let_in(&mut self, number: usize, socket: socket2::Socket) {
        let Some(door) = self.door(number).cloned() else {
            return;
        };
        if let Err(error) = configure(&socket) {
            tracing::debug!(%error, "a client that is gone already");
            return;
        }
        let stage = match &door {
            Door::Socks => Stage::Greeting,
            Door::Http | Door::Forward(_) => Stage::Asking,
        };
        let conn = Conn::new(Kind::of(&door), stage, socket, self.now + ASK_TIMEOUT);
        let Some(id) = self.insert(conn) else {
            return;
        };
        if let Door::Forward(target) = door {
            self.go(id, target);
        }
    }

    /// Hears a client that has yet to say where it wants to go.
    pub(super) fn hear(&mut self, id: ConnId) {
        while let Some(conn) = self.conns.get_mut(&id)
            && conn.readable
        {
            let mut bytes = Vec::with_capacity(MAX_HEAD_LEN);
            match peek(conn, &mut bytes) {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => return self.cut(id),
            }
            match heard(conn, &bytes) {
                Heard::Part => return,
                Heard::Greeting(len) => {
                    if !skip(conn, len) || !say(conn, &socks5::NO_AUTHENTICATION) {
                        return self.cut(id);
                    }
                    conn.stage = Stage::Asking;
                }
                Heard::Target(target, len) => {
                    if !skip(conn, len) {
                        return self.cut(id);
                    }
                    return self.go(id, target);
                }
                Heard::Wrong(answer) => return self.dismiss(id, &answer),
            }
        }
    }

    /// Leads a client to its target.
    fn go(&mut self, id: ConnId, target: Target) {
        self.advance(id, Stage::Locating(target), Some(self.now + ROWS_TIMEOUT));
        self.locate_again(id, false);
    }

    /// Looks again for those targets that were not known.
    pub(super) fn follow_table(&mut self) {
        let waiting = self.conns.iter();
        let waiting = waiting.filter(|(_, conn)| matches!(conn.stage, Stage::Locating(_)));
        for id in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.locate_again(id, false);
        }
        self.cut_unpublished();
    }

    /// Looks for a client's target; what may still become known is waited for, unless it is the
    /// last time.
    pub(super) fn locate_again(&mut self, id: ConnId, is_last: bool) {
        let Some(Stage::Locating(target)) = self.conns.get(&id).map(|conn| &conn.stage) else {
            return;
        };
        let table = self.table.load_full();
        let own = own_addresses(&table);
        let application = self.shared.config.application.as_ref();
        match locate(target, own, application, &table) {
            Ok(located) => {
                if let Some(application) = located.application {
                    self.ask_for(application);
                }
                if let Some(service) = located.closest {
                    (self.tell.closest)(service);
                }
                self.connect(id, own, located.address);
            }
            Err(Refused::Unasked(application)) if !is_last => self.ask_for(application),
            Err(why) => self.refuse(id, &why),
        }
    }

    fn ask_for(&mut self, application: ApplicationName) {
        let now = self.now;
        self.asked.retain(|_, at| now < *at + ASK_AGAIN);
        if self.asked.len() < MAX_ASKED && !self.asked.contains_key(&application) {
            self.asked.insert(application.clone(), now);
            (self.tell.application)(application);
        }
    }

    fn connect(&mut self, id: ConnId, own: Dual, to: SocketAddr) {
        let port = own
            .of_family(to.ip())
            .and_then(|from| self.stack.connect(from, to));
        let Some(port) = port else {
            return self.refuse(id, &Refused::NoRoom);
        };
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.port = Some(port);
        }
        let until = self.now + CONNECT_TIMEOUT;
        self.advance(id, Stage::Connecting(to), Some(until));
    }

    /// Looks whether a target has accepted.
    pub(super) fn look_at_opening(&mut self, id: ConnId, to: SocketAddr) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let Some(port) = conn.port else {
            return self.cut(id);
        };
        match self.stack.standing(port) {
            // A client that has gone hears nothing of it.
            Standing::Opening if is_gone(conn) => self.cut(id),
            Standing::Opening => {}
            Standing::Closed => self.refuse(id, &Refused::Connection(to)),
            Standing::Open => {
                let said = match conn.kind {
                    Kind::Socks => say(conn, &Reply::Succeeded.encode(Some(port.local))),
                    Kind::Http => say(conn, ESTABLISHED),
                    Kind::Forward | Kind::Published => true,
                };
                self.shared.counters.count_opened();
                if said {
                    self.advance(id, Stage::Open, None);
                } else {
                    self.cut(id);
                }
            }
        }
    }

    /// Tells a client why it is not connected. One of a forwarded port hears a reset.
    pub(super) fn refuse(&mut self, id: ConnId, why: &Refused) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        tracing::debug!(kind = ?conn.kind, %why, "a client is refused");
        self.shared.counters.count_refused();
        match conn.kind {
            Kind::Socks => self.dismiss(id, &why.reply().encode(None)),
            Kind::Http => self.dismiss(id, &connect::refusal(why)),
            Kind::Forward | Kind::Published => self.cut(id),
        }
    }

    /// Says something to a client and closes its connection in order.
    fn dismiss(&mut self, id: ConnId, answer: &[u8]) {
        let Some(mut conn) = self.remove(id) else {
            return;
        };
        if let Some(port) = conn.port {
            self.stack.abort(port, self.now);
        }
        say(&mut conn, answer);
        // What it has sent and nobody has read would turn the end into a reset, and the answer
        // might be lost with it.
        let _ = conn.socket.shutdown(std::net::Shutdown::Write);
        let mut unread = Vec::with_capacity(MAX_HEAD_LEN);
        let _ = conn.socket.recv(unread.spare_capacity_mut());
    }

    /// Resets a connection at both ends.
    pub(super) fn cut(&mut self, id: ConnId) {
        let Some(conn) = self.remove(id) else {
            return;
        };
        if let Some(port) = conn.port {
            self.stack.abort(port, self.now);
        }
        reset(conn.socket);
    }
}

/// The node's own addresses.
pub(super) fn own_addresses(table: &Snapshot) -> Dual {
    let mut own = Dual::default();
    let addresses = table.local_addresses().iter();
    for ip in addresses.filter(|ip| table.owner(**ip).is_some_and(|it| it.instance.is_none())) {
        match ip {
            std::net::IpAddr::V4(ip) => own.v4 = own.v4.or(Some(*ip)),
            std::net::IpAddr::V6(ip) => own.v6 = own.v6.or(Some(*ip)),
        }
    }
    own
}

fn heard(conn: &Conn, bytes: &[u8]) -> Heard {
    match (&conn.stage, conn.kind) {
        (Stage::Greeting, _) => match socks5::greeting(bytes) {
            Ok(Some(len)) => Heard::Greeting(len),
            Ok(None) => Heard::Part,
            Err(error) => Heard::Wrong(error.answer()),
        },
        (_, Kind::Socks) => match socks5::request(bytes) {
            Ok(Some((target, len))) => Heard::Target(target, len),
            Ok(None) => Heard::Part,
            Err(error) => Heard::Wrong(error.answer()),
        },
        (_, Kind::Http) => match connect::head(bytes) {
            Ok(Some((target, len))) => Heard::Target(target, len),
            Ok(None) => Heard::Part,
            Err(error) => Heard::Wrong(error.answer()),
        },
        // Those do not ask.
        (_, Kind::Forward | Kind::Published) => Heard::Part,
    }
}

/// Looks at what a client has sent, without taking it; false if there is nothing yet.
fn peek(conn: &mut Conn, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let room = rustix::buffer::spare_capacity(bytes);
    match recv(&conn.socket, room, RecvFlags::PEEK) {
        Ok(_) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(true),
        Err(error) if error == rustix::io::Errno::AGAIN => {
            conn.readable = false;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Takes what was looked at.
fn skip(conn: &Conn, len: usize) -> bool {
    let mut bytes = Vec::<u8>::with_capacity(len);
    let room: &mut [MaybeUninit<u8>] = bytes.spare_capacity_mut();
    let room = room.get_mut(..len).unwrap_or_default();
    matches!(conn.socket.recv(room), Ok(taken) if taken == len)
}

/// Says something short to a client; false if it does not take it.
fn say(conn: &mut Conn, bytes: &[u8]) -> bool {
    bytes.is_empty()
        || matches!(conn.socket.send_with_flags(bytes, NO_SIGNAL), Ok(sent) if sent == bytes.len())
}

/// Whether a client has closed both directions, or its connection is broken.
fn is_gone(conn: &Conn) -> bool {
    let mut fds = [rustix::event::PollFd::new(
        &conn.socket,
        rustix::event::PollFlags::empty(),
    )];
    let at_once = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(rustix::event::poll(&mut fds, Some(&at_once)), Ok(1..))
}
