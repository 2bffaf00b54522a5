//! A packet of a known flow costs no allocation, whatever it is.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "journeys/packets.rs"]
#[allow(dead_code, reason = "the journeys use the rest")]
mod packets;
#[path = "journeys/world.rs"]
#[allow(dead_code, reason = "the journeys use the rest")]
mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use netmanager_core::verdict::Verdict;
use netmanager_core::vnet::VnetHeader;

use crate::packets::{ACK, SYN, echo, fragments, tcp, udp};
use crate::world::{CLIENT, CLIENT6, WEB, WEB_RR, WEB_RR6, World};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn packets_of_known_flows_are_handled_without_an_allocation() {
    let mut world = World::new();
    let vnet = VnetHeader::default();
    let now = world.now;
    let big = udp((CLIENT, 4003), (WEB_RR, 53), &[0; 2000]);
    let parts = fragments(&big, 7, 1280);
    let templates = [
        tcp((CLIENT, 4000), (WEB_RR, 80), ACK),
        udp((CLIENT6, 4001), (WEB_RR6, 53), b"question"),
        echo(CLIENT, WEB_RR, 9, false),
        tcp((CLIENT, 4002), (WEB[1], 80), ACK),
        parts[0].clone(),
        parts[1].clone(),
    ];
    let open = tcp((CLIENT, 4000), (WEB_RR, 80), SYN);
    for packet in [&open].into_iter().chain(&templates) {
        world.send("alpha", packet).arrived();
    }
    let mut buffers = templates.clone();
    let plane = world.plane("alpha");
    let before = ALLOCATIONS.get();
    for _ in 0..100 {
        for (buffer, template) in buffers.iter_mut().zip(&templates) {
            buffer.copy_from_slice(template);
            let verdict = plane.handle_tun(&vnet, buffer, now);
            assert!(matches!(verdict, Verdict::Forward(_) | Verdict::Deliver));
        }
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
