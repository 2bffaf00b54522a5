//! The netstack thread: sockets of the host's programs, the stack, and time.
//!
//! It sleeps until a socket, the pipe or the daemon has something, or something is due. Then what
//! has come is taken in, every connection that may have something to move has its turn, and what
//! follows from that is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use netmanager_core::proxy::Refused;
use netmanager_core::table::Snapshot;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use weald_proto::name::ApplicationName;

use super::conn::{Conn, ConnId, Stage};
use super::echo::Waiting;
use super::listen::{Door, Listeners};
use super::stack::Stack;
use super::{Shared, Tell};
use crate::pipe::StackEnd;

/// Connections at once. Each may keep a megabyte while it is busy; an idle one keeps what it has
/// used.
pub(super) const MAX_CONNECTIONS: usize = 1024;
/// Events taken at once; what is left is told again.
const EVENTS: usize = 256;
/// Packets taken in before connections have their turn: half of the pipe.
const PACKETS: usize = 256;
/// The longest sleep, so that a timer that was forgotten shows as a delay and not as a hang.
const MAX_SLEEP: Duration = Duration::from_secs(5);
/// How long nobody is let in after that has failed: descriptors do not come back sooner.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What epoll calls the pipe and the daemon's eventfd; connections are counted from the doors on.
const PIPE: u64 = 0;
const WAKER: u64 = 1;
const FIRST_DOOR: u64 = 2;

/// The thread's state.
pub(super) struct Runner {
    epoll: OwnedFd,
    pub(super) listeners: Listeners,
    /// Whether the doors are closed, because there are too many connections or too few descriptors.
    is_closed: bool,
    /// When they are opened again for another try.
    doors_at: Option<Instant>,
    pub(super) stack: Stack,
    pub(super) table: Arc<ArcSwap<Snapshot>>,
    pub(super) tell: Tell,
    pub(super) shared: Arc<Shared>,
    /// Echos that were sent, and who has asked for them.
    pub(super) echos: Waiting,
    pub(super) conns: BTreeMap<ConnId, Conn>,
    next_id: u64,
    pub(super) deadlines: BTreeSet<(Instant, ConnId)>,
    /// Connections of peers that published servers have yet to accept, by their two ends.
    pub(super) dialling: BTreeMap<(SocketAddr, SocketAddr), ConnId>,
    /// Connections that may have something to move.
    turns: BTreeSet<ConnId>,
    /// Applications that were asked for of late, and when.
    pub(super) asked: BTreeMap<ApplicationName, Instant>,
    pub(super) now: Instant,
}

impl Runner {
    pub(super) fn new(
        listeners: Listeners,
        pipe: StackEnd,
        table: Arc<ArcSwap<Snapshot>>,
        tell: Tell,
        shared: Arc<Shared>,
    ) -> anyhow::Result<Self> {
        let mut seed = [0; 8];
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| anyhow::anyhow!("no randomness"))?;
        let now = Instant::now();
        let runner = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("no epoll")?,
            listeners,
            is_closed: false,
            doors_at: None,
            stack: Stack::new(pipe, u64::from_ne_bytes(seed), now),
            table,
            tell,
            shared,
            echos: Waiting::new(),
            conns: BTreeMap::new(),
            next_id: 0,
            deadlines: BTreeSet::new(),
            dialling: BTreeMap::new(),
            turns: BTreeSet::new(),
            asked: BTreeMap::new(),
            now,
        };
        runner.watch(&runner.stack, PIPE, EventFlags::IN)?;
        runner.watch(&runner.shared.waker, WAKER, EventFlags::IN)?;
        runner.open_doors()?;
        Ok(runner)
    }

    /// Runs until the daemon says that it is over.
    pub(super) fn run(&mut self) {
        while !self.shared.waker.is_over() {
            self.sleep();
            self.take_packets();
            self.send_echos();
            if self.shared.waker.take_table_change() {
                self.follow_table();
            }
            self.handle_deadlines();
            self.take_turns();
            self.stack.poll(self.now);
            self.shared.counters.set_open(self.conns.len());
        }
        for id in self.conns.keys().copied().collect::<Vec<_>>() {
            self.cut(id);
        }
        self.stack.abort_all(Instant::now());
    }

    /// Sleeps until something is there or due, and takes note of it.
    fn sleep(&mut self) {
        let now = Instant::now();
        let due = self.deadlines.first().map(|(at, _)| *at);
        let stack = self.stack.poll_at(now);
        let due = [due, stack, self.doors_at].into_iter().flatten().min();
        let timeout = due.map_or(MAX_SLEEP, |at| at.saturating_duration_since(now));
        let timeout = if self.turns.is_empty() {
            timeout.min(MAX_SLEEP)
        } else {
            Duration::ZERO
        };
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut events = Vec::with_capacity(EVENTS);
        let buffer = rustix::buffer::spare_capacity(&mut events);
        let waited = epoll::wait(&self.epoll, buffer, Some(&timeout));
        self.now = Instant::now();
        if let Err(error) = waited {
            tracing::debug!(%error, "epoll");
            return;
        }
        for event in events {
            self.handle_event(event.data.u64(), event.flags);
        }
    }

    fn handle_event(&mut self, data: u64, flags: EventFlags) {
        let doors = self.doors();
        match data {
            PIPE => {}
            WAKER => self.shared.waker.silence(),
            door if door < FIRST_DOOR + doors => {
                self.accept(usize::try_from(door - FIRST_DOOR).unwrap_or(usize::MAX));
            }
            conn => {
                let id = ConnId(conn - FIRST_DOOR - doors);
                let ended = EventFlags::ERR | EventFlags::HUP;
                if let Some(conn) = self.conns.get_mut(&id) {
                    conn.readable |= flags.intersects(EventFlags::IN | ended);
                    conn.writable |= flags.intersects(EventFlags::OUT | ended);
                    self.turns.insert(id);
                }
            }
        }
    }

    /// Takes in what has come over the pipe; its descriptor tells of what is left.
    fn take_packets(&mut self) {
        for number in 0..PACKETS {
            let Some(packet) = self.stack.next_packet() else {
                if number > 0 {
                    self.look_at_all();
                }
                return;
            };
            self.handle_packet(packet);
        }
        self.look_at_all();
    }

    /// Gives every connection a turn that the stack may have something for.
    fn look_at_all(&mut self) {
        self.turns.extend(self.conns.keys());
    }

    fn take_turns(&mut self) {
        for id in std::mem::take(&mut self.turns) {
            self.take_turn(id);
        }
    }

    fn take_turn(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        match conn.stage {
            Stage::Greeting | Stage::Asking => self.hear(id),
            Stage::Locating(_) => {}
            Stage::Connecting(to) => self.look_at_opening(id, to),
            Stage::Dialling(_) => self.look_at_dialling(id),
            Stage::Admitted => self.look_at_admitted(id),
            Stage::Open => self.pump(id),
        }
    }

    fn handle_deadlines(&mut self) {
        while let Some((at, id)) = self.deadlines.first().copied()
            && at <= self.now
        {
            self.deadlines.remove(&(at, id));
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.deadline = None;
                self.expire(id);
            }
        }
        if self.doors_at.take_if(|at| *at <= self.now).is_some() {
            self.reopen_doors();
        }
        // What the stack's own timers do shows only in its sockets.
        if self
            .stack
            .poll_at(self.now)
            .is_some_and(|at| at <= self.now)
        {
            self.stack.poll(self.now);
            self.look_at_all();
        }
    }

    /// What a connection waited for has not come in time.
    fn expire(&mut self, id: ConnId) {
        match self.conns.get(&id).map(|conn| &conn.stage) {
            Some(Stage::Connecting(to)) => {
                let why = Refused::NoAnswer(*to);
                self.refuse(id, &why);
            }
            Some(Stage::Locating(_)) => self.locate_again(id, true),
            Some(Stage::Dialling(_)) => self.give_up_dialling(id),
            Some(Stage::Greeting | Stage::Asking | Stage::Admitted) => self.cut(id),
            Some(Stage::Open) | None => {}
        }
    }

    /// Takes in a connection of a client or to a server, and has epoll tell of its socket.
    pub(super) fn insert(&mut self, conn: Conn) -> Option<ConnId> {
        let id = ConnId(self.next_id);
        self.next_id += 1;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let data = FIRST_DOOR + self.doors() + id.0;
        if let Err(error) = self.watch(&conn, data, flags) {
            tracing::warn!(%error, "a connection cannot be watched");
            return None;
        }
        if let Some(at) = conn.deadline {
            self.deadlines.insert((at, id));
        }
        self.conns.insert(id, conn);
        self.turns.insert(id);
        Some(id)
    }

    /// Has a connection another turn, because it has not moved all that it can.
    pub(super) fn want_turn(&mut self, id: ConnId) {
        self.turns.insert(id);
    }

    /// Goes on to another stage, until a deadline or without one.
    pub(super) fn advance(&mut self, id: ConnId, stage: Stage, until: Option<Instant>) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        if let Some(at) = conn.deadline.take() {
            self.deadlines.remove(&(at, id));
        }
        conn.stage = stage;
        conn.deadline = until;
        if let Some(at) = until {
            self.deadlines.insert((at, id));
        }
        self.turns.insert(id);
    }

    /// Forgets a connection. Its socket is closed with what is returned.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Conn> {
        let conn = self.conns.remove(&id)?;
        if let Some(at) = conn.deadline {
            self.deadlines.remove(&(at, id));
        }
        self.turns.remove(&id);
        self.dialling.retain(|_, one| *one != id);
        if self.is_closed && self.has_room() {
            self.doors_at = Some(self.now);
        }
        Some(conn)
    }

    pub(super) fn has_room(&self) -> bool {
        self.conns.len() < MAX_CONNECTIONS
    }

    fn doors(&self) -> u64 {
        u64::try_from(self.listeners.doors.len()).unwrap_or(0)
    }

    /// What a door is for.
    pub(super) fn door(&self, number: usize) -> Option<&Door> {
        self.listeners.doors.get(number).map(|(_, door)| door)
    }

    fn watch(&self, what: &impl AsFd, data: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            what,
            EventData::new_u64(data),
            flags,
        )?)
    }

    fn open_doors(&self) -> io::Result<()> {
        for (number, (listener, _)) in (FIRST_DOOR..).zip(&self.listeners.doors) {
            self.watch(listener, number, EventFlags::IN)?;
        }
        Ok(())
    }

    fn reopen_doors(&mut self) {
        if std::mem::replace(&mut self.is_closed, false)
            && let Err(error) = self.open_doors()
        {
            tracing::error!(%error, "clients are let in no more");
        }
    }

    /// Lets nobody in, because there are too many: the kernel keeps those who come.
    pub(super) fn close_doors(&mut self) {
        if !std::mem::replace(&mut self.is_closed, true) {
            for (listener, _) in &self.listeners.doors {
                let _ = epoll::delete(&self.epoll, listener);
            }
        }
    }

    /// Lets nobody in for a while, because that has failed: it would be told of without end.
    pub(super) fn pause_doors(&mut self) {
        self.close_doors();
        self.doors_at = Some(self.now + ACCEPT_PAUSE);
    }
}
