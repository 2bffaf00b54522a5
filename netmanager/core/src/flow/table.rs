//! The table of flows: found by key, aged, bounded.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use slab::Slab;

use super::order::Order;
use super::{Direction, Flow, FlowKey, Lane, LaneReason, Opening, Side, StreamEnd};
use crate::packet::PacketInfo;
use crate::table::Host;

/// How often a part of the table is looked through for flows that are over.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// In so many sweeps the whole table is looked through. An expired flow is not found by its key in
/// the meantime; it only takes room.
const SWEEPS_PER_ROUND: usize = 10;
/// A sweep looks at no fewer flows than this, so that small tables are swept at once.
const MIN_SWEEP: usize = 1024;

/// Names a flow for as long as it lives; never means another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId {
    index: u32,
    generation: u32,
}

impl FlowId {
    /// The flow's place in the table, which others have had and will have.
    pub(crate) const fn place(self) -> usize {
        self.index as usize
    }
}

/// Why a flow could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Its answers would have the key of another flow.
    #[error("its answers could not be told from those of another flow")]
    Collision,
    /// The table is full of flows that are in use.
    #[error("the flow table is full of flows in use")]
    Full,
}

/// The flow table.
#[derive(Debug)]
pub struct FlowTable {
    index: HashMap<FlowKey, (u32, Direction), foldhash::fast::FixedState>,
    flows: Slab<Flow>,
    order: Order,
    limit: usize,
    generation: u32,
    cursor: usize,
    /// No flow stands at this place of the slab or behind it.
    end: usize,
    next_sweep: Option<Instant>,
}

impl FlowTable {
    /// An empty table for at most `limit` flows. `seed` keeps others from choosing keys that
    /// collide.
    #[must_use]
    pub fn new(limit: usize, seed: u64) -> Self {
        Self {
            index: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
            flows: Slab::new(),
            order: Order::default(),
            limit: limit.min(u32::MAX as usize),
            generation: 0,
            cursor: 0,
            end: 0,
            next_sweep: None,
        }
    }

    /// The flow and direction that packets with that key belong to.
    #[must_use]
    pub fn find(&self, key: &FlowKey, now: Instant) -> Option<(FlowId, Direction)> {
        let (index, direction) = *self.index.get(key)?;
        let flow = self.flows.get(index as usize)?;
        let generation = flow.generation;
        (now < flow.expires).then_some((FlowId { index, generation }, direction))
    }

    /// The flow, if it still lives.
    #[must_use]
    pub fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.flows
            .get(id.index as usize)
            .filter(|flow| flow.generation == id.generation)
    }

    /// Opens a flow.
    ///
    /// Expired flows are out of the way. With `force`, so are flows that give way: what is over or
    /// was never answered. When the table is full the least useful flow is given up.
    ///
    /// # Errors
    /// When a key is taken, or every flow is in use. Nothing has changed then.
    pub fn open(
        &mut self,
        opening: Opening,
        force: bool,
        now: Instant,
    ) -> Result<FlowId, OpenError> {
        let mut flow = opening.into_flow(now);
        let keys = Direction::BOTH.map(|direction| *flow.key(direction));
        let [forward, reply] = keys;
        if forward == reply {
            return Err(OpenError::Collision);
        }
        let in_the_way = keys.map(|key| self.index.get(&key).map(|(index, _)| *index));
        for index in in_the_way.into_iter().flatten() {
            if !self.gives_way(index, force, now) {
                return Err(OpenError::Collision);
            }
        }
        for index in in_the_way.into_iter().flatten() {
            self.remove_at(index);
        }
        if self.flows.len() >= self.limit {
            let victim = self.order.victim().ok_or(OpenError::Full)?;
            self.remove_at(victim);
        }
        self.generation = self.generation.wrapping_add(1);
        flow.generation = self.generation;
        let generation = flow.generation;
        let position = self.flows.insert(flow);
        self.end = self.end.max(position + 1);
        let index = u32::try_from(position).map_err(|_| OpenError::Full)?;
        self.index.insert(forward, (index, Direction::Forward));
        self.index.insert(reply, (index, Direction::Reply));
        self.order.add(&mut self.flows, index);
        self.next_sweep.get_or_insert(now + SWEEP_INTERVAL);
        Ok(FlowId { index, generation })
    }

    fn gives_way(&self, index: u32, force: bool, now: Instant) -> bool {
        self.flows
            .get(index as usize)
            .is_none_or(|flow| flow.expires <= now || force && flow.state.gives_way())
    }

    /// Takes note of a packet of a flow: traffic, state, time of life. The result is the flow.
    pub fn note(
        &mut self,
        id: FlowId,
        direction: Direction,
        info: &PacketInfo,
        bytes: &[u8],
        now: Instant,
    ) -> Option<&Flow> {
        let flow = self
            .flows
            .get_mut(id.index as usize)
            .filter(|flow| flow.generation == id.generation)?;
        let before = flow.state.usefulness();
        flow.note(direction, info, bytes, now);
        if flow.state.usefulness() != before {
            self.order.remove(&mut self.flows, id.index, before);
            self.order.add(&mut self.flows, id.index);
        }
        self.flows.get(id.index as usize)
    }

    /// The target of a flow on the L4 lane has accepted it.
    pub fn admit_stream(&mut self, id: FlowId) {
        let flow = self.flows.get_mut(id.index as usize);
        if let Some(flow) = flow.filter(|flow| flow.generation == id.generation)
            && let Some(StreamEnd::Near { ready, .. }) = flow.stream.as_deref_mut()
        {
            *ready = true;
        }
    }

    /// Forgets a flow.
    pub fn remove(&mut self, id: FlowId) -> Option<Flow> {
        self.flow(id)?;
        self.remove_at(id.index)
    }

    fn remove_at(&mut self, index: u32) -> Option<Flow> {
        let usefulness = self.flows.get(index as usize)?.state.usefulness();
        self.order.remove(&mut self.flows, index, usefulness);
        let flow = self.flows.try_remove(index as usize)?;
        for direction in Direction::BOTH {
            self.index.remove(flow.key(direction));
        }
        Some(flow)
    }

    /// Gives a flow's ends other places, as when an instance has moved, and the lane that leads
    /// there. The flow goes on, unless its new keys are taken: then it is forgotten and this is
    /// false.
    pub fn move_ends(
        &mut self,
        id: FlowId,
        opener: Host,
        responder: Host,
        lane: (Lane, LaneReason),
    ) -> bool {
        let Some(flow) = self
            .flows
            .get_mut(id.index as usize)
            .filter(|flow| flow.generation == id.generation)
        else {
            return false;
        };
        flow.ends.forward = opener;
        flow.ends.reply = responder;
        (flow.lane, flow.lane_reason) = lane;
        for direction in Direction::BOTH {
            let Some(flow) = self.flows.get_mut(id.index as usize) else {
                return false;
            };
            let old = *flow.key(direction);
            let new = old.on(Side::of(flow.source(direction)));
            if new == old {
                continue;
            }
            if self.index.contains_key(&new) {
                self.remove_at(id.index);
                return false;
            }
            *flow.keys.of_mut(direction) = new;
            self.index.remove(&old);
            self.index.insert(new, (id.index, direction));
        }
        true
    }

    /// Every flow that has not expired.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = (FlowId, &Flow)> {
        self.flows.iter().filter_map(move |(position, flow)| {
            let index = u32::try_from(position).ok()?;
            let generation = flow.generation;
            (now < flow.expires).then_some((FlowId { index, generation }, flow))
        })
    }

    /// How many flows take up room, expired ones among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is no flow at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Forgets expired flows in the part of the table whose turn it is.
    pub fn sweep(&mut self, now: Instant) {
        if self.next_sweep.is_none_or(|at| now < at) {
            return;
        }
        let budget = (self.end / SWEEPS_PER_ROUND).max(MIN_SWEEP).min(self.end);
        for _ in 0..budget {
            if self.cursor >= self.end {
                self.cursor = 0;
            }
            let position = self.cursor;
            self.cursor += 1;
            let expired = self
                .flows
                .get(position)
                .is_some_and(|flow| flow.expires <= now);
            if let (true, Ok(index)) = (expired, u32::try_from(position)) {
                self.remove_at(index);
            }
        }
        if self.flows.is_empty() {
            (self.cursor, self.end) = (0, 0);
        }
        self.next_sweep = (!self.flows.is_empty()).then_some(now + SWEEP_INTERVAL);
    }

    /// When [`FlowTable::sweep`] has something to do.
    #[must_use]
    pub const fn next_sweep(&self) -> Option<Instant> {
        self.next_sweep
    }
}
