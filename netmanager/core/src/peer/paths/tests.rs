//! One peer's paths, in the order of a session's life.

use super::*;

mod narrow;
mod networks;
mod quiet;

/// Paths with a simulated wire: each path has a delay, or does not answer.
struct Wire {
    paths: Paths,
    now: Instant,
    delays: Vec<(Path, Option<Duration>)>,
    /// A path that loses every so manieth probe.
    lossy: Option<(Path, u32)>,
    /// Paths that swallow padded probes.
    narrow: Vec<Path>,
    probes: u32,
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
            lossy: None,
            narrow: Vec::new(),
            probes: 0,
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
                PathEvent::Probe {
                    path,
                    nonce,
                    padded,
                } => {
                    let delay = self.delays.iter().find(|(p, _)| *p == path).unwrap().1;
                    let (lossy, nth) = self.lossy.unwrap_or((path, u32::MAX));
                    self.probes += u32::from(lossy == path);
                    let is_lost = lossy == path && self.probes.is_multiple_of(nth);
                    let is_lost = is_lost || padded && self.narrow.contains(&path);
                    if let Some(delay) = delay.filter(|_| !is_lost) {
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

impl Wire {
    /// Runs while a packet of the session comes over `path` every `interval`.
    fn run_busy(&mut self, for_: Duration, interval: Duration, path: Path) {
        let end = self.now + for_;
        while self.now < end {
            self.paths.note_packet(path, self.now);
            self.run(interval);
        }
    }

    fn sent(&self, path: Path) -> u64 {
        let mut views = self.paths.views(self.now);
        views.find(|view| view.path == path).unwrap().sent
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
    // Some at once, then one per SILENT_INTERVAL, not a storm.
    assert!((15..=17).contains(&view.sent), "{}", view.sent);
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

#[test]
fn a_path_that_loses_a_fifth_is_left_and_taken_back_when_it_loses_none() {
    let mut wire = Wire::new(&[(relay(), Some(20)), (direct(1), Some(5))]);
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.paths.add(relay(), wire.now);
    wire.run(10 * SECOND);
    assert_eq!(wire.paths.active(), Some(direct(1)));
    wire.lossy = Some((direct(1), 5));
    wire.run(30 * SECOND);
    let last = *wire.switches.last().unwrap();
    assert_eq!((last.1, last.2), (relay(), Reason::LessLoss));
    wire.run(120 * SECOND);
    assert_eq!(
        wire.switches.len(),
        2,
        "it does not flap: {:?}",
        wire.switches
    );
    wire.lossy = None;
    wire.run(75 * SECOND);
    let last = *wire.switches.last().unwrap();
    assert_eq!((last.1, last.2), (direct(1), Reason::DirectPreferred));
    assert_eq!((wire.switches.len(), wire.dead), (3, 0));
}

#[test]
fn a_little_loss_and_an_outage_are_no_reason_to_stay_away() {
    let mut wire = Wire::new(&[(relay(), Some(20)), (direct(1), Some(5))]);
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.paths.add(relay(), wire.now);
    wire.lossy = Some((direct(1), 20));
    wire.run(300 * SECOND);
    assert_eq!(wire.switches.len(), 1, "{:?}", wire.switches);
    wire.lossy = None;
    wire.set(direct(1), None);
    wire.run(60 * SECOND);
    assert_eq!(wire.paths.active(), Some(relay()));
    wire.set(direct(1), Some(5));
    wire.run(SILENT_INTERVAL + SECOND);
    assert_eq!(wire.paths.active(), Some(direct(1)));
}

#[test]
fn of_two_relays_the_near_one_is_used_while_it_is_near() {
    let near = Path::Relay {
        relay: RelayIndex(1),
        peer: 4,
    };
    let mut wire = Wire::new(&[(relay(), Some(60)), (near, Some(20))]);
    wire.paths.handle_handshake(relay(), wire.now);
    wire.paths.add(near, wire.now);
    wire.run(5 * SECOND);
    let last = *wire.switches.last().unwrap();
    assert_eq!((last.1, last.2), (near, Reason::Shorter));
    wire.set(near, Some(150));
    wire.run(RTT_WINDOW + 3 * SECOND);
    assert_eq!(wire.paths.active(), Some(relay()));
    wire.set(near, Some(55));
    wire.run(60 * SECOND);
    assert_eq!(wire.switches.len(), 3, "a little nearer is not enough");
}

const MS: Duration = Duration::from_millis(1);

/// A direct path in use that packets come over every 20 ms, and a relay that answers.
fn busy() -> Wire {
    let mut wire = Wire::new(&[
        (relay(), Some(20)),
        (direct(1), Some(5)),
        (direct(2), Some(6)),
    ]);
    wire.paths.handle_handshake(direct(1), wire.now);
    wire.paths.add(relay(), wire.now);
    wire.run_busy(SECOND * 3 / 2, 20 * MS, direct(1));
    assert_eq!(wire.paths.active(), Some(direct(1)));
    wire
}

#[test]
fn a_busy_path_that_falls_silent_is_asked_and_packets_go_both_ways_meanwhile() {
    let mut wire = busy();
    wire.set(direct(1), None);
    let sent = wire.sent(direct(1));
    // The last packet came 20 ms ago.
    wire.run(SILENCE - 21 * MS);
    assert_eq!(
        (wire.paths.second(wire.now), wire.sent(direct(1))),
        (None, sent)
    );
    assert!(!wire.paths.is_in_doubt());
    wire.run(MS);
    assert_eq!(wire.paths.second(wire.now), Some(relay()));
    assert_eq!(wire.sent(direct(1)), sent + 1);
    assert!(wire.paths.is_in_doubt());
    assert_eq!(wire.paths.active(), Some(direct(1)));
    let asked = wire.now;
    wire.run(SECOND);
    let (at, to, reason) = *wire.switches.last().unwrap();
    assert_eq!((to, reason), (relay(), Reason::FormerLost));
    // The relay has answered by then, and the silent path had a round trip and a half, and 30 ms.
    assert_eq!(at - asked, 37 * MS + MS / 2);
    assert_eq!(wire.paths.second(wire.now), None);
    // It is not taken back before it answers.
    wire.run(3 * SECOND);
    assert_eq!(wire.paths.active(), Some(relay()));
    wire.set(direct(1), Some(5));
    wire.run(SILENT_INTERVAL);
    assert_eq!(wire.paths.active(), Some(direct(1)));
    assert_eq!((wire.switches.len(), wire.dead), (3, 0));
}

#[test]
fn a_path_that_has_just_taken_over_and_falls_silent_is_left_as_fast() {
    let mut wire = Wire::new(&[(relay(), Some(20)), (direct(1), Some(5))]);
    wire.paths.handle_handshake(relay(), wire.now);
    wire.run_busy(SECOND, 20 * MS, relay());
    wire.paths.add(direct(1), wire.now);
    wire.run(11 * MS);
    assert_eq!(wire.paths.active(), Some(direct(1)));
    let since = wire.now;
    wire.set(direct(1), None);
    wire.run(SECOND / 2);
    let (at, to, reason) = *wire.switches.last().unwrap();
    assert_eq!((to, reason), (relay(), Reason::FormerLost));
    assert!(at - since < SECOND / 4, "{:?}", at - since);
}

#[test]
fn a_peer_that_was_busy_is_not_taken_for_a_path_that_is_gone() {
    let mut wire = busy();
    // It answers nobody for 300 ms, and then first over the relay.
    wire.set(direct(1), Some(303));
    wire.set(relay(), Some(300));
    wire.run(SECOND);
    assert_eq!(
        (wire.switches.len(), wire.dead),
        (1, 0),
        "{:?}",
        wire.switches
    );
}

#[test]
fn a_silent_path_is_kept_when_the_others_do_not_answer_either() {
    let mut wire = busy();
    wire.set(direct(1), None);
    wire.set(relay(), None);
    wire.run(SECOND / 2);
    assert_eq!(wire.paths.active(), Some(direct(1)), "the host was busy");
    wire.set(direct(1), Some(5));
    wire.run(SECOND);
    assert_eq!((wire.switches.len(), wire.dead), (1, 0));
}

#[test]
fn a_pause_in_the_traffic_costs_one_probe() {
    let mut wire = busy();
    wire.run(SILENCE - 20 * MS);
    assert_eq!(wire.paths.second(wire.now), Some(relay()));
    wire.run(5 * MS);
    assert_eq!(wire.paths.second(wire.now), None);
    let sent = wire.sent(direct(1));
    wire.run(SECOND * 9 / 10);
    assert_eq!(wire.sent(direct(1)), sent, "silence says nothing any more");
    assert_eq!(wire.switches.len(), 1);
}

#[test]
fn packets_now_and_then_make_no_silence() {
    let mut wire = busy();
    wire.run(SECOND);
    let sent = wire.sent(direct(1));
    wire.run_busy(10 * SECOND, SILENCE + 10 * MS, direct(1));
    let clock = 10 * SECOND.as_millis() / PROBE_INTERVAL.as_millis();
    assert_eq!(u128::from(wire.sent(direct(1)) - sent), clock);
}

#[test]
fn a_peer_whose_packets_come_from_elsewhere_has_moved() {
    let mut wire = busy();
    wire.set(direct(1), None);
    // As the driver does: the packet was authentic, and nobody knew where it came from.
    let came = wire.now;
    wire.paths.add_learned(direct(2), came);
    wire.run_busy(10 * MS, 2 * MS, direct(2));
    let (at, to, reason) = *wire.switches.last().unwrap();
    assert_eq!((to, reason), (direct(2), Reason::PeerMoved));
    assert_eq!(at - came, 6 * MS, "one round trip");
    assert_eq!(wire.paths.second(wire.now), None);
    wire.run_busy(8 * SECOND, 20 * MS, direct(2));
    assert_eq!(wire.paths.active(), Some(direct(2)));
}

#[test]
fn neither_probes_nor_strays_from_elsewhere_move_packets() {
    let mut wire = busy();
    wire.paths.add_learned(direct(2), wire.now);
    wire.paths.note_probe(direct(2), false, wire.now);
    wire.run(10 * MS);
    assert_eq!(wire.paths.active(), Some(direct(1)), "a probe only");

    let mut wire = busy();
    wire.paths.add_learned(direct(2), wire.now);
    wire.paths.note_packet(direct(2), wire.now);
    wire.run_busy(10 * MS, MS, direct(1));
    assert_eq!(wire.paths.active(), Some(direct(1)), "it goes on as before");

    let mut wire = busy();
    wire.set(direct(2), None);
    wire.paths.add_learned(direct(2), wire.now);
    wire.run_busy(SECOND / 10, 20 * MS, direct(2));
    assert_eq!(wire.paths.active(), Some(direct(1)), "nothing is proven");
}

#[test]
fn a_change_of_path_goes_over_both_for_two_round_trips() {
    let mut wire = Wire::new(&[(relay(), Some(90)), (direct(1), Some(30))]);
    wire.paths.handle_handshake(relay(), wire.now);
    wire.paths.add(direct(1), wire.now);
    wire.run(65 * MS);
    assert_eq!(wire.paths.active(), Some(direct(1)));
    let (at, ..) = *wire.switches.last().unwrap();
    assert_eq!(wire.paths.second(at + 59 * MS), Some(relay()));
    assert_eq!(wire.paths.second(at + 60 * MS), None);
}
