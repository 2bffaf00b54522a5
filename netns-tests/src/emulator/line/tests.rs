//! A line's timing and chances, with a made-up clock.

use super::super::impairment::Queue;
use super::*;

const MS: Duration = Duration::from_millis(1);

/// Sends `count` numbered frames of `bytes` bytes, one every `gap`, and returns what arrives:
/// (number, time since the start).
fn run(line: &mut Line, count: u32, bytes: usize, gap: Duration) -> Vec<(u32, Duration)> {
    let start = Instant::now();
    let mut arrivals = Vec::new();
    for number in 0..count {
        let now = start + gap * number;
        drain(line, now, start, &mut arrivals);
        let mut frame = vec![0; bytes.max(4)];
        frame[..4].copy_from_slice(&number.to_be_bytes());
        line.handle_frame(&frame, now);
    }
    drain(
        line,
        start + Duration::from_secs(3600),
        start,
        &mut arrivals,
    );
    arrivals
}

fn drain(line: &mut Line, until: Instant, start: Instant, arrivals: &mut Vec<(u32, Duration)>) {
    while let Some(due) = line.poll_timeout().filter(|due| *due <= until) {
        assert!(
            line.poll_frame(due - Duration::from_nanos(1)).is_none(),
            "a frame came early"
        );
        let frame = line.poll_frame(due).unwrap();
        arrivals.push((
            u32::from_be_bytes(frame[..4].try_into().unwrap()),
            due - start,
        ));
        line.recycle(frame, true);
    }
}

#[test]
fn a_perfect_line_passes_everything_at_once() {
    let mut line = Line::new(Impairment::default(), 1);
    let arrivals = run(&mut line, 10, 100, MS);
    assert_eq!(
        arrivals,
        (0..10)
            .map(|number| (number, MS * number))
            .collect::<Vec<_>>()
    );
}

#[test]
fn delay_is_exact() {
    let mut line = Line::new(Impairment::delay(25 * MS), 1);
    let arrivals = run(&mut line, 10, 100, MS);
    assert_eq!(
        arrivals,
        (0..10).map(|n| (n, MS * n + 25 * MS)).collect::<Vec<_>>()
    );
}

#[test]
fn jitter_stays_in_its_bounds_and_keeps_order() {
    let impairment = Impairment {
        jitter: 5 * MS,
        ..Impairment::delay(20 * MS)
    };
    let mut line = Line::new(impairment, 3);
    let arrivals = run(&mut line, 1000, 100, 2 * MS);
    assert!(arrivals.iter().map(|(number, _)| *number).eq(0..1000));
    let delays: Vec<Duration> = arrivals.iter().map(|(n, at)| *at - 2 * MS * *n).collect();
    assert!(
        delays
            .iter()
            .all(|delay| (15 * MS..=25 * MS).contains(delay))
    );
    assert!(delays.iter().any(|delay| *delay < 17 * MS));
    assert!(delays.iter().any(|delay| *delay > 23 * MS));
}

#[test]
fn rate_spaces_frames_and_the_queue_overflows_at_its_time_limit() {
    // 1250 bytes at 10 Mbit/s take 1 ms; one frame per 0.5 ms comes in.
    let mut line = Line::new(Impairment::rate(10_000_000, 10 * MS), 1);
    let arrivals = run(&mut line, 1000, 1250, MS / 2);
    let span = arrivals.last().unwrap().1 - arrivals[0].1;
    assert_eq!(span, MS * (arrivals.len() as u32 - 1));
    assert_eq!(line.counters().overflowed, 1000 - arrivals.len() as u64);
    let longest = arrivals
        .iter()
        .map(|(n, at)| *at - (MS / 2) * *n)
        .max()
        .unwrap();
    assert!(
        (10 * MS..=11 * MS + MS / 2).contains(&longest),
        "longest wait {longest:?}"
    );
}

#[test]
fn the_queue_overflows_at_its_byte_limit() {
    let queue = Queue {
        bytes: 5000,
        ..Queue::default()
    };
    let impairment = Impairment {
        queue,
        ..Impairment::rate(10_000_000, MS)
    };
    let impairment = Impairment {
        queue: Queue {
            time: 3600 * 1000 * MS,
            ..queue
        },
        ..impairment
    };
    let mut line = Line::new(impairment, 1);
    let arrivals = run(&mut line, 100, 1000, Duration::ZERO);
    assert_eq!(arrivals.len(), 5);
    assert_eq!(line.counters().overflowed, 95);
}

#[test]
fn random_loss_is_within_the_binomial_interval() {
    for probability in [0.001, 0.01, 0.1, 0.5] {
        let mut line = Line::new(Impairment::loss(Loss::Random(probability)), 42);
        let sent = 100_000_u32;
        let arrived = run(&mut line, sent, 60, Duration::from_micros(1)).len() as f64;
        let expected = f64::from(sent) * probability;
        let deviation = (expected * (1.0 - probability)).sqrt();
        let lost = f64::from(sent) - arrived;
        assert!(
            (lost - expected).abs() < 3.0 * deviation,
            "{probability}: {lost} lost"
        );
        assert_eq!(line.counters().lost as f64, lost);
    }
}

#[test]
fn bursts_have_their_mean_length_and_share() {
    let loss = Loss::Burst {
        enter: 0.01,
        leave: 0.25,
        good: 0.0,
        bad: 1.0,
    };
    let mut line = Line::new(Impairment::loss(loss), 42);
    let sent = 200_000_u32;
    let arrivals = run(&mut line, sent, 60, Duration::from_micros(1));
    let share = 1.0 - arrivals.len() as f64 / f64::from(sent);
    assert!(
        (share / loss.expected() - 1.0).abs() < 0.05,
        "share {share}"
    );
    let bursts: Vec<u32> = arrivals
        .windows(2)
        .map(|pair| pair[1].0 - pair[0].0 - 1)
        .filter(|missing| *missing > 0)
        .collect();
    let mean = f64::from(bursts.iter().sum::<u32>()) / bursts.len() as f64;
    assert!((mean - 4.0).abs() < 0.3, "mean burst {mean}");
}

#[test]
fn reordered_frames_are_overtaken_and_nothing_is_lost() {
    let impairment = Impairment {
        reorder: 0.1,
        reorder_by: 5 * MS,
        ..Impairment::delay(10 * MS)
    };
    let mut line = Line::new(impairment, 5);
    let arrivals = run(&mut line, 1000, 60, MS);
    assert_eq!(arrivals.len(), 1000);
    let late = arrivals
        .iter()
        .filter(|(n, at)| *at - MS * *n == 15 * MS)
        .count();
    assert_eq!(late as u64, line.counters().reordered);
    assert!((70..=130).contains(&late), "{late} reordered");
    assert!(arrivals.windows(2).any(|pair| pair[0].0 > pair[1].0));
}

#[test]
fn duplicates_arrive_twice_in_a_row() {
    let mut line = Line::new(
        Impairment {
            duplicate: 0.2,
            ..Impairment::default()
        },
        5,
    );
    let arrivals = run(&mut line, 1000, 60, MS);
    let doubled = arrivals
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .count() as u64;
    assert_eq!(doubled, line.counters().duplicated);
    assert!((150..=250).contains(&doubled), "{doubled} doubled");
}

#[test]
fn equal_seeds_lose_the_same_frames() {
    let lossy = Impairment {
        jitter: MS,
        ..Impairment::loss(Loss::Random(0.3))
    };
    let outcome = |seed| run(&mut Line::new(lossy, seed), 200, 60, MS);
    assert_eq!(outcome(9), outcome(9));
    assert_ne!(outcome(9), outcome(10));
}

#[test]
fn a_change_counts_for_later_frames_and_keeps_order() {
    let start = Instant::now();
    let mut line = Line::new(Impairment::delay(50 * MS), 1);
    line.handle_frame(&[1; 60], start);
    line.set(Impairment::delay(5 * MS));
    line.handle_frame(&[2; 60], start + MS);
    line.handle_frame(&[3; 60], start + 60 * MS);
    assert_eq!(line.poll_timeout(), Some(start + 50 * MS));
    assert_eq!(line.poll_frame(start + 50 * MS).unwrap()[0], 1);
    assert_eq!(line.poll_frame(start + 50 * MS).unwrap()[0], 2);
    assert_eq!(line.poll_timeout(), Some(start + 65 * MS));
}

#[test]
fn memory_in_flight_is_bounded() {
    let mut line = Line::new(Impairment::delay(3600 * 1000 * MS), 1);
    let frame = vec![0; 1 << 20];
    let now = Instant::now();
    for _ in 0..300 {
        line.handle_frame(&frame, now);
    }
    assert_eq!(
        line.counters().overflowed,
        300 - (MAX_IN_FLIGHT_BYTES >> 20) as u64
    );
}
