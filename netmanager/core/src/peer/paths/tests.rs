//! One peer's paths, in the order of a session's life.

use super::*;

/// Paths with a simulated wire: each path has a delay, or does not answer.
struct Wire {
    paths: Paths,
    now: Instant,
    delays: Vec<(Path, Option<Duration>)>,
    in_flight: Vec<(Instant, Path, u64)>,
    switches: Vec<(Instant, Path, Reason)>,
    dead: u32,
}

impl Wire {
    fn new(delays: &[(Path, Option<u64>)]) -> Self {
        #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
        let now = Instant::now();
        Self {
            paths: Paths::new(7),
            now,
            delays: delays
                .iter()
                .map(|(p, ms)| (*p, ms.map(Duration::from_millis)))
                .collect(),
            in_flight: Vec::new(),
            switches: Vec::new(),
            dead: 0,
        }
    }

    fn set(&mut self, path: Path, ms: Option<u64>) {
        for (known, delay) in &mut self.delays {
            if *known == path {
                *delay = ms.map(Duration::from_millis);
            }
        }
    }

    fn drain(&mut self) {
        while let Some(event) = self.paths.poll_event() {
            match event {
                PathEvent::Probe { path, nonce } => {
                    let delay = self.delays.iter().find(|(p, _)| *p == path).unwrap().1;
                    if let Some(delay) = delay {
                        self.in_flight.push((self.now + delay, path, nonce));
                    }
                }
                PathEvent::Switched { to, reason, .. } => {
                    self.switches.push((self.now, to, reason))
                }
                PathEvent::AllDead => self.dead += 1,
            }
        }
    }

    /// Runs until `for_` has passed, jumping from event to event.
    fn run(&mut self, for_: Duration) {
        let end = self.now + for_;
        loop {
            self.drain();
            let reply = self.in_flight.iter().map(|(at, ..)| *at).min();
            let timer = self.paths.poll_timeout();
            let Some(next) = reply.into_iter().chain(timer).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if let Some(i) = self.in_flight.iter().position(|(at, ..)| *at <= self.now) {
                let (_, path, nonce) = self.in_flight.remove(i);
                self.paths.handle_reply(path, nonce, self.now);
            }
            self.paths.handle_timeout(self.now);
        }
        self.now = end;
        self.drain();
    }
}

fn direct(port: u16) -> Path {
    Path::Direct(SocketAddr::from(([192, 0, 2, 1], port)))
}

fn relay() -> Path {
    Path::Relay {
        relay: RelayIndex(0),
        peer: 9,
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn starts_on_the_relay_and_moves_to_direct_when_it_is_proven() {
    let mut wire = Wire::new(&[(relay(), Some(20)), (direct(1), Some(5))]);
    wire.paths.handle_handshake(relay(), wire.now);
    wire.paths.add(direct(1), wire.now);
    assert_eq!(wire.paths.active(), Some(relay()));
    wire.run(SECOND);
    assert_eq!(wire.paths.active(), Some(direct(1)));
    assert_eq!(wire.paths.min_rtt(wire.now), Some(Duration::from_millis(5)));
    assert_eq!(wire.switches.len(), 2);
}

#[test]
fn an_address_that_does_not_answer_is_never_used() {
    let mut wire = Wire::new(&[(relay(), Some(20)), (direct(1), None)]);
    wire.paths.handle_handshake(relay(), wire.now);
    wire.paths.add(direct(1), wire.now);
    wire.run(60 * SECOND);
    assert_eq!(wire.paths.active(), Some(relay()));
    assert_eq!(wire.switches.len(), 1);
    let view = wire
        .paths
        .views(wire.now)
        .find(|v| v.path == direct(1))
        .unwrap();
    assert!(!view.answers);
    // One probe per SILENT_INTERVAL, not a storm.
    assert!((12..=14).contains(&view.sent), "{}", view.sent);
}

#[test]
fn a_dead_path_is_left_within_two_seconds_and_taken_back_when_it_answers() {
    let mut wire = Wire::new(&[(relay(), Some(20)), (direct(1), Some(5))]);
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.paths.add(relay(), wire.now);
    wire.run(10 * SECOND);
    assert_eq!(wire.paths.active(), Some(direct(1)));
    wire.set(direct(1), None);
    let cut = wire.now;
    wire.run(5 * SECOND);
    let (at, to, reason) = *wire.switches.last().unwrap();
    assert_eq!((to, reason), (relay(), Reason::FormerLost));
    assert!(
        at - cut <= Duration::from_millis(2300),
        "took {:?}",
        at - cut
    );
    wire.set(direct(1), Some(5));
    wire.run(7 * SECOND);
    assert_eq!(wire.paths.active(), Some(direct(1)));
    assert_eq!(wire.dead, 0);
}

#[test]
fn two_paths_of_about_the_same_length_do_not_flap() {
    let mut wire = Wire::new(&[(direct(1), Some(10)), (direct(2), Some(9))]);
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.paths.add(direct(2), wire.now);
    wire.run(60 * SECOND);
    assert_eq!(wire.switches.len(), 1);
    wire.set(direct(2), Some(5));
    wire.run(10 * SECOND);
    assert_eq!(wire.switches.last().unwrap().1, direct(2));
    assert_eq!(wire.switches.len(), 2);
}

#[test]
fn the_measured_length_follows_a_change_within_the_window_and_one_probe() {
    let mut wire = Wire::new(&[(direct(1), Some(10))]);
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.run(10 * SECOND);
    wire.set(direct(1), Some(60));
    wire.run(RTT_WINDOW + 2 * PROBE_INTERVAL);
    assert_eq!(
        wire.paths.min_rtt(wire.now),
        Some(Duration::from_millis(60))
    );
}

#[test]
fn all_dead_is_said_once_and_a_late_answer_revives() {
    let mut wire = Wire::new(&[(direct(1), Some(5))]);
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.run(3 * SECOND);
    wire.set(direct(1), None);
    wire.run(10 * SECOND);
    assert_eq!(wire.dead, 1);
    wire.set(direct(1), Some(5));
    wire.run(2 * SECOND);
    assert!(wire.paths.views(wire.now).all(|view| view.answers));
    assert_eq!(wire.paths.active(), Some(direct(1)));
}

#[test]
fn a_withdrawn_path_is_left_at_once() {
    let mut wire = Wire::new(&[(relay(), Some(20)), (direct(1), Some(5))]);
    wire.paths.handle_handshake(relay(), wire.now);
    wire.paths.add(direct(1), wire.now);
    wire.run(3 * SECOND);
    wire.paths.remove(direct(1), wire.now);
    assert_eq!(wire.paths.active(), Some(relay()));
}

#[test]
fn the_last_path_when_withdrawn_stays_until_its_successor_answers() {
    let again = Path::Relay {
        relay: RelayIndex(0),
        peer: 10,
    };
    let mut wire = Wire::new(&[(relay(), Some(20)), (again, Some(20))]);
    wire.paths.handle_handshake(relay(), wire.now);
    wire.run(3 * SECOND);
    wire.paths.remove(relay(), wire.now);
    assert_eq!(wire.paths.active(), Some(relay()));
    wire.set(relay(), None);
    wire.paths.add(again, wire.now);
    wire.run(SECOND);
    assert_eq!(wire.paths.active(), Some(again));
    assert_eq!(wire.switches.last().unwrap().2, Reason::FormerWithdrawn);
    assert_eq!((wire.dead, wire.paths.views(wire.now).count()), (0, 1));
}

#[test]
fn silent_candidates_make_room_for_new_ones() {
    let silent: Vec<(Path, Option<u64>)> = (1..=12).map(|port| (direct(port), None)).collect();
    let mut wire =
        Wire::new(&[&silent[..], &[(relay(), Some(20)), (direct(99), Some(5))]].concat());
    wire.paths.handle_handshake(relay(), wire.now);
    for (path, _) in &silent {
        wire.paths.add(*path, wire.now);
    }
    wire.run(20 * SECOND);
    wire.paths.add(direct(99), wire.now);
    wire.run(SECOND);
    assert_eq!(wire.paths.active(), Some(direct(99)));
    assert_eq!(wire.paths.views(wire.now).count(), MAX_CANDIDATES);
}

#[test]
fn forged_nonces_and_foreign_paths_prove_nothing() {
    let mut wire = Wire::new(&[(relay(), Some(20)), (direct(1), None)]);
    wire.paths.handle_handshake(relay(), wire.now);
    wire.paths.add(direct(1), wire.now);
    wire.run(SECOND);
    wire.paths.handle_reply(direct(1), 42, wire.now);
    wire.paths.handle_reply(direct(2), 42, wire.now);
    assert_eq!(wire.paths.active(), Some(relay()));
    assert_eq!(wire.paths.views(wire.now).count(), 2);
}

#[test]
fn candidates_are_bounded() {
    let mut wire = Wire::new(&[]);
    for port in 1..100 {
        wire.paths.add(direct(port), wire.now);
    }
    assert_eq!(wire.paths.views(wire.now).count(), MAX_CANDIDATES);
}
