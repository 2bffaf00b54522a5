//! Who is kept and who is measured when, with round-trip times that the tests make up.

use std::collections::BTreeMap;

use super::*;

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    Instant::now()
}

fn id(number: usize) -> RelayId {
    format!("hub/r{number}").parse().unwrap()
}

fn ids(numbers: impl IntoIterator<Item = usize>) -> Vec<RelayId> {
    numbers.into_iter().map(id).collect()
}

/// A node, and how far relays are from it in ms; those that are not there do not answer.
struct World {
    choice: RelayChoice,
    rows: usize,
    distances: BTreeMap<usize, u64>,
    now: Instant,
    measurements: usize,
}

impl World {
    fn new(distances: &[u64]) -> Self {
        let now = start();
        let mut world = Self {
            choice: RelayChoice::default(),
            rows: distances.len(),
            distances: (1..).zip(distances.iter().copied()).collect(),
            now,
            measurements: 0,
        };
        world.choice.set_rows(&ids(1..=world.rows), now);
        world.tell();
        world
    }

    fn wanted(&self) -> Vec<usize> {
        let all = 1..=self.rows;
        all.filter(|one| self.choice.wants(&id(*one))).collect()
    }

    fn kept(&self) -> Vec<usize> {
        let all = 1..=self.rows;
        all.filter(|one| self.choice.is_kept(&id(*one))).collect()
    }

    /// What a shell would notice of the relays that are wanted now.
    fn tell(&mut self) {
        for one in self.wanted() {
            self.measurements += usize::from(!self.choice.is_kept(&id(one)));
            match self.distances.get(&one) {
                Some(ms) => {
                    let rtt = Duration::from_millis(*ms);
                    self.choice.handle_rtt(&id(one), rtt, self.now);
                }
                None => self.choice.handle_silent(&id(one), self.now),
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        let mut steps = 0;
        while let Some(at) = self.choice.poll_timeout().filter(|at| *at <= until) {
            steps += 1;
            assert!(steps < 10_000, "something is due for ever");
            self.now = at.max(self.now);
            self.choice.handle_timeout(self.now);
            assert!(self.wanted().len() <= MAX_KEPT + 1);
            self.tell();
        }
        self.now = until;
    }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn four_relays_are_all_kept_and_nothing_is_ever_due() {
    for rows in 0..=MAX_KEPT {
        let world = World::new(&[50, 40, 30, 20][..rows]);
        assert_eq!(world.kept(), Vec::from_iter(1..=rows));
        assert_eq!(world.choice.poll_timeout(), None);
    }
}

#[test]
fn the_nearest_two_join_the_first_two_rows_wherever_they_stand() {
    let mut world = World::new(&[90, 80, 70, 60, 50, 10, 40, 20]);
    assert_eq!(world.kept(), [1, 2, 3, 4]);
    world.pass(MINUTE * 2);
    assert_eq!(world.kept(), [1, 2, 6, 8]);
}

#[test]
fn the_first_two_rows_stay_even_if_they_are_silent() {
    let mut world = World::new(&[90, 80, 10, 10, 5, 5]);
    world.distances.remove(&1);
    world.distances.remove(&2);
    world.pass(MINUTE * 20);
    assert_eq!(world.kept(), [1, 2, 5, 6]);
}

#[test]
fn a_relay_that_is_hardly_nearer_takes_nobodys_place() {
    let mut world = World::new(&[90, 80, 10, 10, 9, 9]);
    world.pass(MINUTE * 60);
    assert_eq!(world.kept(), [1, 2, 3, 4]);
    // One millisecond of two is half of it, and chance.
    let mut world = World::new(&[90, 80, 2, 2, 1]);
    world.pass(MINUTE * 60);
    assert_eq!(world.kept(), [1, 2, 3, 4]);
}

#[test]
fn measurements_are_quick_once_and_seldom_then() {
    let mut world = World::new(&[10; 10]);
    world.pass(QUICK_TURN * 6);
    assert_eq!(world.measurements, 6);
    world.pass(SLOW_TURN * 6);
    assert_eq!(world.measurements, 12);
    world.choice.network_changed();
    world.pass(QUICK_TURN * 6);
    assert_eq!(world.measurements, 18);
}

#[test]
fn a_near_relay_that_has_died_gives_way_and_comes_back_when_it_is_back() {
    let mut world = World::new(&[90, 80, 10, 10, 50, 60]);
    world.pass(MINUTE);
    assert_eq!(world.kept(), [1, 2, 3, 4]);
    world.distances.remove(&3);
    world.choice.handle_silent(&id(3), world.now);
    world.pass(LOST_AFTER);
    assert_eq!(world.kept(), [1, 2, 4, 5]);
    world.distances.insert(3, 10);
    world.pass(QUICK_TURN * 2 + LEAVE_AFTER);
    assert_eq!(world.kept(), [1, 2, 3, 4]);
}

#[test]
fn a_near_relay_that_restarts_keeps_its_place() {
    let mut world = World::new(&[90, 80, 10, 10, 50, 60]);
    world.pass(MINUTE);
    world.choice.handle_silent(&id(3), world.now);
    world.pass(Duration::from_secs(1));
    let back = Duration::from_millis(10);
    world.choice.handle_rtt(&id(3), back, world.now);
    world.pass(MINUTE * 30);
    assert_eq!(world.kept(), [1, 2, 3, 4]);
}

#[test]
fn one_that_gives_way_is_kept_until_the_other_one_is_of_use() {
    let mut world = World::new(&[90, 80, 70, 60, 10]);
    world.pass(QUICK_TURN);
    assert_eq!(world.kept(), [1, 2, 3, 4, 5]);
    assert!(world.choice.take_changed());
    world.pass(LEAVE_AFTER);
    assert_eq!(world.kept(), [1, 2, 4, 5]);
    assert!(world.choice.take_changed() && !world.choice.take_changed());
}

#[test]
fn a_measurement_without_any_word_ends_by_itself() {
    let mut choice = RelayChoice::default();
    let now = start();
    choice.set_rows(&ids(1..=6), now);
    for near in [3, 4] {
        choice.handle_rtt(&id(near), Duration::from_millis(5), now);
    }
    let turn = now + QUICK_TURN;
    choice.handle_timeout(turn);
    assert!(choice.wants(&id(5)) && !choice.is_kept(&id(5)));
    assert_eq!(choice.poll_timeout(), Some(turn + MEASURE_TIME));
    choice.handle_timeout(turn + MEASURE_TIME);
    assert!(!choice.wants(&id(5)) && choice.wants(&id(6)));
}

#[test]
fn rows_come_and_go() {
    let mut world = World::new(&[90, 80, 70, 60, 10, 20]);
    world.pass(MINUTE * 2);
    assert_eq!(world.kept(), [1, 2, 5, 6]);
    // The first row goes: the next ones are common ground now, and the near ones stay.
    world.choice.set_rows(&ids(2..=6), world.now);
    world.tell();
    assert_eq!(world.kept(), [2, 3, 5, 6]);
    world.choice.set_rows(&ids([2, 3, 6]), world.now);
    assert_eq!(world.kept(), [2, 3, 6]);
    world.choice.set_rows(&ids(1..=6), world.now);
    world.tell();
    world.pass(MINUTE * 2);
    assert_eq!(world.kept(), [1, 2, 5, 6]);
}

#[test]
fn nodes_of_one_place_come_to_the_same_relays_whatever_they_measure_first() {
    let distances: Vec<u64> = (0..16).map(|n| 10 + (n * 37 % 16) * 20).collect();
    let mut far_first = distances.clone();
    far_first.iter_mut().for_each(|ms| *ms += 300);
    let mut one = World::new(&distances);
    let mut other = World::new(&far_first);
    other.pass(MINUTE * 5);
    other.distances = (1..).zip(distances).collect();
    other.tell();
    other.choice.network_changed();
    for world in [&mut one, &mut other] {
        world.pass(MINUTE * 10);
    }
    assert_eq!(one.kept(), other.kept());
}
