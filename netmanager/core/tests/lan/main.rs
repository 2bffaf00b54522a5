//! Three hundred nodes on one LAN: the real `Peer`, `Paths` and `Punch` machines of all of them, and
//! how many bytes they cause when everybody wants many others at once, when nobody wants anybody any
//! more, and when the links of all change at the same moment.

#![allow(clippy::unwrap_used, reason = "a test")]

mod crowd;

use std::time::Duration;

use self::crowd::{Crowd, KEEP_ALIVE_BITS};

const NODES: usize = 300;
/// Others that each node wants at once: it has about twice as many sessions then.
const WANTED: usize = 10;
/// What control and probes may cost, in bits a second, both directions together.
const KILOBIT: u64 = 1000;

#[test]
fn three_hundred_nodes_on_a_lan_make_no_storm() {
    let mut crowd = Crowd::new(NODES);
    // Nobody wants anything: nothing is sent.
    crowd.run(Duration::from_secs(60));
    assert_eq!(crowd.bytes(), 0);

    crowd.want_each(WANTED);
    crowd.run(Duration::from_secs(10));
    let pairs = crowd.pairs();
    assert!(pairs >= NODES * WANTED * 9 / 10, "{pairs} pairs");
    assert_eq!(
        crowd.open(),
        2 * pairs,
        "every pair has one session, seen from both ends"
    );
    assert!(
        crowd.handshakes() <= NODES * WANTED,
        "{} handshakes",
        crowd.handshakes()
    );
    let busiest = crowd.busiest_second();
    eprintln!(
        "start: {} handshakes, at most {busiest} bytes of one node in a second",
        crowd.handshakes()
    );
    assert!(busiest < 250_000, "{busiest} bytes of one node in a second");

    // Nobody uses the sessions; they are still open.
    crowd.run(Duration::from_secs(50));
    let before = crowd.bytes();
    let idle = Duration::from_secs(120);
    crowd.run(idle);
    assert_eq!(crowd.open(), 2 * pairs);
    let of_session = 8 * (crowd.bytes() - before) / idle.as_secs() / pairs as u64;
    eprintln!(
        "open and idle: {of_session} bit/s of a session and {KEEP_ALIVE_BITS} for keep-alives"
    );
    assert!(
        of_session + KEEP_ALIVE_BITS <= KILOBIT,
        "{of_session} bit/s of a session"
    );

    // A switch restarts: the links of all go and come, and addresses are others.
    crowd.forget_busiest();
    crowd.change_all_links();
    let before = crowd.bytes();
    crowd.run(Duration::from_secs(10));
    let of_node = 8 * (crowd.bytes() - before) / 10 / NODES as u64;
    let busiest = crowd.busiest_second();
    eprintln!("all links change: {of_node} bit/s of a node, at most {busiest} bytes in a second");
    // A list, some probes and one as long as a full packet for each of its twenty peers, and back.
    assert!(
        of_node < 64_000 && busiest < 80_000,
        "{of_node} bit/s, {busiest} bytes"
    );

    // After five minutes all are closed, and none comes back by itself.
    crowd.run(Duration::from_secs(180));
    assert_eq!(crowd.open(), 0);
    let before = crowd.bytes();
    crowd.change_all_links();
    crowd.run(Duration::from_secs(120));
    assert_eq!(crowd.bytes(), before, "idle nodes are silent");

    // Whoever is wanted is back after a handshake.
    crowd.want_each(1);
    crowd.run(Duration::from_millis(10));
    assert!(crowd.open() >= NODES, "{} are back", crowd.open());
}
