//! The order in which flows are given up: a list through the flows for each usefulness.
//!
//! Flows of one list stand in the order in which they came into it, oldest first, so eviction
//! takes the front and costs the same however many flows there are.

use slab::Slab;

use super::{Flow, Usefulness};

/// A flow's place in its list.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Link {
    previous: Option<u32>,
    next: Option<u32>,
}

/// The lists of flows that may be evicted. Those in use are in none.
#[derive(Debug, Default)]
pub(super) struct Order {
    closing: List,
    unassured: List,
}

#[derive(Debug, Default)]
struct List {
    first: Option<u32>,
    last: Option<u32>,
}

impl Order {
    /// The flow to give up next.
    pub(super) fn victim(&self) -> Option<u32> {
        self.closing.first.or(self.unassured.first)
    }

    /// Puts a flow at the end of the list of its usefulness.
    pub(super) fn add(&mut self, flows: &mut Slab<Flow>, index: u32) {
        let Some(flow) = flows.get(index as usize) else {
            return;
        };
        let Some(list) = self.list(flow.state.usefulness()) else {
            return;
        };
        let previous = list.last.replace(index);
        if list.first.is_none() {
            list.first = Some(index);
        }
        set(flows, index, |link| {
            *link = Link {
                previous,
                next: None,
            }
        });
        set(flows, previous, |link| link.next = Some(index));
    }

    /// Takes a flow out of the list of that usefulness, in which it must be.
    pub(super) fn remove(&mut self, flows: &mut Slab<Flow>, index: u32, usefulness: Usefulness) {
        let Some(link) = flows.get(index as usize).map(|flow| flow.link) else {
            return;
        };
        let Some(list) = self.list(usefulness) else {
            return;
        };
        if list.first == Some(index) {
            list.first = link.next;
        }
        if list.last == Some(index) {
            list.last = link.previous;
        }
        set(flows, link.previous, |previous| previous.next = link.next);
        set(flows, link.next, |next| next.previous = link.previous);
        set(flows, index, |link| *link = Link::default());
    }

    const fn list(&mut self, usefulness: Usefulness) -> Option<&mut List> {
        match usefulness {
            Usefulness::Closing => Some(&mut self.closing),
            Usefulness::Unassured => Some(&mut self.unassured),
            Usefulness::Assured => None,
        }
    }
}

fn set(flows: &mut Slab<Flow>, index: impl Into<Option<u32>>, change: impl FnOnce(&mut Link)) {
    if let Some(flow) = index.into().and_then(|index| flows.get_mut(index as usize)) {
        change(&mut flow.link);
    }
}
