//! The controller on a simulated bottleneck: what it uses, what it queues, with whom it shares.

use std::time::{Duration, Instant};

use super::*;

use self::link::{Cubic, Flow, Link, Outcome, Sender};

mod link;

const MS: Duration = Duration::from_millis(1);
const MBIT: u64 = 125_000;

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test's clock starts somewhere")]
    Instant::now()
}

fn ours(seed: u64) -> Flow {
    Flow::new(Sender::Ours(Box::new(RateControl::new(
        1200,
        seed,
        start(),
    ))))
}

fn cubic() -> Flow {
    Flow::new(Sender::Cubic(Cubic::new(1200)))
}

/// Bytes per second of each flow in the second half of a run, and the queue.
fn run(link: Link, flows: Vec<Flow>, time: Duration) -> Outcome {
    link.run(flows, time / 2, time)
}

#[test]
fn random_loss_costs_what_is_lost_and_little_more() {
    let rate = 100 * MBIT;
    for (round_trip, loss) in [
        (20 * MS, 0.0),
        (20 * MS, 0.01),
        (20 * MS, 0.03),
        (100 * MS, 0.01),
        (100 * MS, 0.03),
        (300 * MS, 0.03),
    ] {
        let queue = 40 * MS;
        let link = Link::new(rate, round_trip, queue, loss, 7);
        let out = run(link, vec![ours(3)], Duration::from_secs(20));
        let used = out.rates[0] / (rate as f64 * (1.0 - loss));
        assert!(used >= 0.90, "{round_trip:?} {loss}: {used:.3}");
        println!(
            "{round_trip:?} loss {loss}: used {used:.3}, queue mean {:.1} ms, highest {:.1} ms",
            out.mean_queue * 1e3,
            out.max_queue * 1e3
        );
    }
}

#[test]
fn the_same_loss_leaves_cubic_with_almost_nothing() {
    // That the link is as bad as it is meant to be: data-plane measurements say 7 of 300 Mbit/s.
    let link = Link::new(100 * MBIT, 20 * MS, 40 * MS, 0.01, 7);
    let out = run(link, vec![cubic()], Duration::from_secs(30));
    let used = out.rates[0] / (100 * MBIT) as f64;
    assert!(used < 0.15, "{used:.3}");
}

#[test]
fn the_queue_stays_small_however_deep_it_could_be() {
    // Half a second of buffer, and after the start no more than a quarter of a round trip in it.
    let link = Link::new(100 * MBIT, 20 * MS, 500 * MS, 0.0, 7);
    let out = run(link, vec![ours(3)], Duration::from_secs(20));
    assert!(out.rates[0] >= 0.95 * (100 * MBIT) as f64, "{out:?}");
    assert!(out.mean_queue < 0.002, "{out:?}");
    assert!(out.max_queue < 0.010, "{out:?}");
}

#[test]
fn several_flows_share_and_keep_the_queue_bounded() {
    for flows in [2usize, 4, 8] {
        let link = Link::new(100 * MBIT, 20 * MS, 200 * MS, 0.0, 11);
        let all = (0..flows).map(|seed| ours(seed as u64 * 77 + 1)).collect();
        let out = run(link, all, Duration::from_secs(60));
        let total: f64 = out.rates.iter().sum();
        assert!(total >= 0.93 * (100 * MBIT) as f64, "{flows}: {out:?}");
        let jain = jain(&out.rates);
        println!("{flows} flows: Jain {jain:.3}, {out:?}");
        assert!(jain >= 0.95, "{flows}: {jain:.3} {out:?}");
        // Two products in flight at the most: one of them in the queue, and the hosts' share.
        assert!(out.max_queue < 0.040, "{flows}: {out:?}");
    }
}

#[test]
fn two_flows_share_a_lossy_path() {
    let link = Link::new(100 * MBIT, 20 * MS, 40 * MS, 0.01, 5);
    let out = run(link, vec![ours(1), ours(2)], Duration::from_secs(60));
    let jain = jain(&out.rates);
    assert!(jain >= 0.95, "{jain:.3} {out:?}");
}

#[test]
fn beside_cubic_neither_starves() {
    // A queue of one product, where cubic is at its best, and a deep one.
    for queue in [20 * MS, 100 * MS] {
        let link = Link::new(100 * MBIT, 20 * MS, queue, 0.0, 5);
        let out = run(link, vec![ours(1), cubic()], Duration::from_secs(60));
        let total: f64 = out.rates.iter().sum();
        println!("beside cubic, queue {queue:?}: {out:?}");
        for share in out.rates.iter().map(|rate| rate / total) {
            assert!(share >= 0.10, "{queue:?}: {out:?}");
        }
    }
}

#[test]
fn a_shallow_queue_costs_little_and_is_not_flooded() {
    // An eighth of a product: probes overflow it.
    let link = Link::new(100 * MBIT, 40 * MS, 5 * MS, 0.0, 5);
    let out = run(link, vec![ours(1)], Duration::from_secs(30));
    assert!(out.rates[0] >= 0.90 * (100 * MBIT) as f64, "{out:?}");
    assert!(out.dropped <= 0.05, "{out:?}");
}

#[test]
fn a_path_that_gets_slower_or_faster_is_followed() {
    let link = Link::new(100 * MBIT, 40 * MS, 100 * MS, 0.01, 5)
        .change_at(Duration::from_secs(10), 20 * MBIT);
    let out = link.run(
        vec![ours(1)],
        Duration::from_secs(14),
        Duration::from_secs(20),
    );
    assert!(out.rates[0] >= 0.88 * (20 * MBIT) as f64, "{out:?}");
    assert!(out.mean_queue < 0.05, "{out:?}");
    let link = Link::new(20 * MBIT, 40 * MS, 100 * MS, 0.01, 5)
        .change_at(Duration::from_secs(10), 100 * MBIT);
    let out = link.run(
        vec![ours(1)],
        Duration::from_secs(15),
        Duration::from_secs(20),
    );
    assert!(out.rates[0] >= 0.88 * (100 * MBIT) as f64, "{out:?}");
}

#[test]
fn a_start_that_ended_too_early_is_made_up_for() {
    // Fifty times the rate, in ten rounds of doubling and little more.
    let link = Link::new(2 * MBIT, 20 * MS, 100 * MS, 0.01, 5)
        .change_at(Duration::from_secs(10), 100 * MBIT);
    let out = link.run(
        vec![ours(1)],
        Duration::from_millis(11_500),
        Duration::from_secs(15),
    );
    assert!(out.rates[0] >= 0.90 * (99 * MBIT) as f64, "{out:?}");
}

#[test]
fn a_path_that_gets_longer_is_noticed() {
    // The smallest round-trip time is believed for ten seconds. What it allows to be in flight is
    // then a few packets of the longer path, and the rate was forgotten before it was measured anew.
    for (before, after) in [(MS / 5, 20 * MS), (5 * MS, 100 * MS)] {
        let link = Link::new(100 * MBIT, before, 40 * MS, 0.01, 5)
            .lengthen_at(Duration::from_secs(5), after);
        let out = link.run(
            vec![ours(1)],
            Duration::from_secs(7),
            Duration::from_secs(12),
        );
        assert!(
            out.rates[0] >= 0.90 * (99 * MBIT) as f64,
            "{after:?}: {out:?}"
        );
    }
}

#[test]
fn who_has_sent_little_may_send_a_first_flight() {
    // A receiver that sends now and then a few bytes, and then an answer: what little it has sent
    // says nothing of the path.
    let t = start();
    let mut control = RateControl::new(1200, 1, t);
    let mut now = t;
    for _ in 0..50 {
        control.handle_sent(50, now);
        control.handle_acked(now, 50, now + 20 * MS);
        control.handle_acks_end(0, true, now + 20 * MS);
        now += 30 * MS;
    }
    let first_flight = control.initial_window() as f64 / 0.020;
    assert!(control.pacing_rate() as f64 >= first_flight);
    assert!(control.window() >= control.initial_window());
}

#[test]
fn heavy_loss_is_heeded() {
    // Above the tolerance it slows down, so that somebody's broken radio is not flooded for ever.
    let t = start();
    let mut control = RateControl::new(1200, 1, t);
    let mut now = t;
    for _ in 0..60 {
        for _ in 0..20 {
            control.handle_sent(1200, now);
        }
        now += 20 * MS;
        for _ in 0..14 {
            control.handle_acked(now - 20 * MS, 1200, now);
        }
        control.handle_lost(6 * 1200 * 2);
        control.handle_acks_end(0, false, now);
    }
    assert!(control.window() <= 20 * 1200, "{}", control.window());
    assert!(control.window() >= 4 * 1200);
}

#[test]
fn an_outage_starts_again_and_leaves_room() {
    let t = start();
    let mut control = RateControl::new(1200, 1, t);
    control.handle_sent(32 * 1200, t);
    control.handle_acked(t, 12_000, t + 50 * MS);
    control.handle_acks_end(22 * 1200, false, t + 50 * MS);
    control.handle_outage(t + Duration::from_secs(2));
    assert_eq!(control.window(), control.initial_window());
    assert_eq!(control.delivery_rate(), 0);
    assert_eq!(control.min_rtt(), None);
    // What still arrives from before is no round of the new path.
    control.handle_acked(t, 1200, t + Duration::from_secs(3));
    control.handle_acks_end(0, true, t + Duration::from_secs(3));
    assert!(control.pacing_rate() > 0);
}

#[test]
fn an_idle_connection_keeps_what_it_knows() {
    let t = start();
    let mut control = RateControl::new(1200, 1, t);
    let mut now = t;
    for _ in 0..200 {
        control.handle_sent(12_000, now);
        now += 20 * MS;
        control.handle_acked(now - 20 * MS, 12_000, now);
        control.handle_acks_end(0, false, now);
    }
    let known = control.delivery_rate();
    // One small packet a second, for long.
    for _ in 0..60 {
        now += Duration::from_secs(1);
        control.handle_sent(100, now);
        control.handle_acked(now, 100, now + 20 * MS);
        control.handle_acks_end(0, true, now + 20 * MS);
    }
    assert!(control.delivery_rate() >= known / 2, "{known}");
}

fn jain(rates: &[f64]) -> f64 {
    let sum: f64 = rates.iter().sum();
    let squares: f64 = rates.iter().map(|rate| rate * rate).sum();
    sum * sum / (rates.len() as f64 * squares)
}
