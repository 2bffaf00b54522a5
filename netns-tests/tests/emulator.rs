//! The accuracy of emulated links, measured with sockets: delay, rate, loss and order.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use netns_tests::transfer::join;
use netns_tests::{
    Description, Direction, Impairment, Lab, Link, Loss, Machine, Queue, Segment, be_punctual, wait,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;

/// A lab of two hosts; the left one's link is emulated.
fn pair(up: Impairment, down: Impairment, seed: u64) -> Result<Lab> {
    Lab::new(
        &Description::new()
            .segment(Segment::new("wire").v4("10.1.0.0/24").v6("fd01::/64"))
            .machine(
                Machine::host("left")
                    .on("wire")
                    .link("wire", Link::emulated_pair(up, down, seed)),
            )
            .machine(Machine::host("right").on("wire")),
    )
}

/// Sends `count` numbered datagrams from left to right, one every `gap`, then marks the end over
/// a perfect link; returns (number, time on the way) of what arrived.
fn send(lab: &Lab, count: u32, bytes: usize, gap: Duration) -> Result<Vec<(u32, Duration)>> {
    let (left, right) = (lab.node("left"), lab.node("right"));
    let receiver = right.udp_bind((right.v4(), 9000).into())?;
    nix::sys::socket::setsockopt(
        &receiver.as_fd(),
        nix::sys::socket::sockopt::RcvBufForce,
        &(64 << 20),
    )?;
    receiver.set_read_timeout(Some(20 * SECOND))?;
    let sender = left.udp_bind((left.v4(), 0).into())?;
    sender.connect(receiver.local_addr()?)?;
    let receiving = thread::spawn(move || receive(&receiver));
    let sent = join(thread::spawn({
        let sender = sender.try_clone()?;
        move || transmit(&sender, count, bytes, gap)
    }))?;
    drain(lab)?;
    lab.link("left", "wire").set_both(Impairment::default());
    sender.send(b"end")?;
    let arrivals = join(receiving)?;
    Ok(arrivals
        .into_iter()
        .map(|(n, at)| (n, at - sent[n as usize]))
        .collect())
}

/// Sends datagrams at their times and returns the times.
fn transmit(sender: &UdpSocket, count: u32, bytes: usize, gap: Duration) -> Result<Vec<Instant>> {
    be_punctual()?;
    let start = Instant::now();
    let mut sent = Vec::new();
    let mut payload = vec![0; bytes];
    for number in 0..count {
        thread::sleep((start + gap * number).saturating_duration_since(Instant::now()));
        payload[..4].copy_from_slice(&number.to_be_bytes());
        sent.push(Instant::now());
        sender.send(&payload)?;
    }
    Ok(sent)
}

/// Waits until no frame is on its way up.
fn drain(lab: &Lab) -> Result<()> {
    let link = lab.link("left", "wire");
    wait::until("the link is empty", 20 * SECOND, || {
        let all = link.counters(Direction::Up);
        let out = all.sent + all.refused + all.lost + all.overflowed - all.duplicated;
        (all.received == out)
            .then_some(())
            .with_context(|| format!("{all:?}"))
    })
}

fn receive(receiver: &UdpSocket) -> Result<Vec<(u32, Instant)>> {
    be_punctual()?;
    let mut buffer = [0; 2048];
    let mut arrivals = Vec::new();
    loop {
        let length = receiver.recv(&mut buffer)?;
        if &buffer[..length] == b"end" {
            return Ok(arrivals);
        }
        arrivals.push((u32::from_be_bytes(buffer[..4].try_into()?), Instant::now()));
    }
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort();
    values[values.len() / 2]
}

#[test]
fn delay_is_exact_and_its_directions_are_apart() -> Result<()> {
    for delay in [5 * MS, 40 * MS] {
        let lab = pair(Impairment::delay(delay), Impairment::default(), 1)?;
        let arrivals = send(&lab, 200, 100, MS)?;
        assert_eq!(arrivals.len(), 200);
        let ways: Vec<Duration> = arrivals.iter().map(|(_, way)| *way).collect();
        assert!(
            ways.iter().all(|way| *way >= delay),
            "{:?} is too early",
            ways.iter().min()
        );
        let typical = median(ways);
        assert!(
            typical < delay + delay / 20 + MS,
            "{typical:?}, not {delay:?}"
        );
    }
    Ok(())
}

#[test]
fn jitter_stays_in_its_bounds_and_keeps_order() -> Result<()> {
    let lab = pair(
        Impairment {
            jitter: 10 * MS,
            ..Impairment::delay(20 * MS)
        },
        Impairment::default(),
        1,
    )?;
    let arrivals = send(&lab, 100, 100, 20 * MS)?;
    assert!(arrivals.iter().map(|(number, _)| *number).eq(0..100));
    let mut ways: Vec<Duration> = arrivals.iter().map(|(_, way)| *way).collect();
    ways.sort();
    assert!(ways[0] >= 10 * MS, "{:?}", ways[0]);
    assert!(
        ways[10] < 16 * MS && ways[90] > 24 * MS,
        "{:?} {:?}",
        ways[10],
        ways[90]
    );
    assert!(ways[90] < 31 * MS, "{:?}", ways[90]);
    Ok(())
}

#[test]
fn rate_is_within_a_few_percent() -> Result<()> {
    for megabits in [5_u64, 50] {
        let lab = pair(
            Impairment::rate(megabits * 1_000_000, 10 * SECOND),
            Impairment::default(),
            1,
        )?;
        let (bytes, count) = (1200, 100 * megabits as u32);
        // Offered at twice the rate.
        let frame_time = SECOND.mul_f64((bytes + HEADERS) as f64 * 8.0 / (megabits as f64 * 1e6));
        let arrivals = send(&lab, count, bytes, frame_time / 2)?;
        assert_eq!(arrivals.len() as u32, count);
        let last = arrivals.last().unwrap();
        let waited = last.1.as_secs_f64();
        let expected = frame_time.as_secs_f64() * f64::from(count) / 2.0;
        assert!(
            (waited / expected - 1.0).abs() < 0.03,
            "{megabits}: {waited} s, not {expected}"
        );
    }
    Ok(())
}

#[test]
fn a_full_queue_drops_and_bounds_the_delay() -> Result<()> {
    let queue = Queue {
        bytes: 20_000,
        ..Queue::default()
    };
    let lab = pair(
        Impairment {
            queue,
            ..Impairment::rate(4_000_000, SECOND)
        },
        Impairment::default(),
        1,
    )?;
    lab.link("left", "wire").set(
        Direction::Up,
        Impairment {
            queue,
            rate_bits_per_sec: Some(4_000_000),
            ..Impairment::default()
        },
    );
    let arrivals = send(&lab, 400, 958, MS)?;
    let dropped = lab.link("left", "wire").counters(Direction::Up).overflowed;
    // Twice the rate is offered: half must go, but for the 20 frames of the queue.
    assert_eq!(arrivals.len() as u64 + dropped, 400);
    assert!((180..=200).contains(&dropped), "{dropped} dropped");
    // 20 frames of 1000 bytes at 4 Mbit/s.
    let full: Vec<Duration> = arrivals[100..].iter().map(|(_, way)| *way).collect();
    let typical = median(full);
    assert!((37 * MS..43 * MS).contains(&typical), "{typical:?}");
    Ok(())
}

#[test]
fn loss_is_within_the_binomial_interval() -> Result<()> {
    let losses = [
        Loss::Random(0.02),
        Loss::Random(0.2),
        Loss::Burst {
            enter: 0.02,
            leave: 0.3,
            good: 0.0,
            bad: 0.8,
        },
    ];
    for (seed, loss) in (1..).zip(losses) {
        let lab = pair(Impairment::loss(loss), Impairment::default(), seed)?;
        let count = 5000;
        let arrivals = send(&lab, count, 100, MS / 20)?;
        let counters = lab.link("left", "wire").counters(Direction::Up);
        let lost = u64::from(count) - arrivals.len() as u64;
        // A rare frame of neighbour discovery may be among the counted.
        assert!(counters.lost - lost <= 2, "{lost} missing, {counters:?}");
        let expected = f64::from(count) * loss.expected();
        let mut deviation = (expected * (1.0 - loss.expected())).sqrt();
        if let Loss::Burst { leave, enter, .. } = loss {
            // Frames of one burst stand or fall together.
            deviation *= ((2.0 - enter - leave) / (enter + leave)).sqrt();
        }
        let off = (lost as f64 - expected).abs();
        assert!(
            off < 3.0 * deviation,
            "{loss:?}: {lost} lost, expected {expected}"
        );
    }
    Ok(())
}

#[test]
fn reordering_and_duplication_happen_as_often_as_told() -> Result<()> {
    let impairment = Impairment {
        duplicate: 0.1,
        reorder: 0.1,
        reorder_by: 5 * MS,
        ..Impairment::delay(5 * MS)
    };
    let lab = pair(impairment, Impairment::default(), 3)?;
    let arrivals = send(&lab, 1000, 100, MS / 2)?;
    let mut numbers: Vec<u32> = arrivals.iter().map(|(number, _)| *number).collect();
    let mut newest = 0;
    let mut late = BTreeSet::new();
    for number in &numbers {
        newest = newest.max(*number);
        if *number < newest {
            late.insert(*number);
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 1000);
    let doubled = arrivals.len() - 1000;
    // Three deviations around 100.
    assert!((71..=129).contains(&doubled), "{doubled} doubled");
    assert!((71..=129).contains(&late.len()), "{} overtaken", late.len());
    Ok(())
}

#[test]
fn tcp_passes_whole_although_the_ends_have_no_offloads() -> Result<()> {
    let lab = pair(
        Impairment {
            delay: 2 * MS,
            ..Impairment::rate(80_000_000, SECOND / 2)
        },
        Impairment::delay(2 * MS),
        1,
    )?;
    let (left, right) = (lab.node("left"), lab.node("right"));
    let data: Vec<u8> = (0..4_000_000_u32)
        .map(|index| (index.wrapping_mul(index) >> 7) as u8)
        .collect();
    let listener = right.tcp_listen((right.v6(), 9000).into())?;
    let receiving = thread::spawn(move || -> Result<(Vec<u8>, Duration)> {
        let (mut stream, _) = listener.accept()?;
        let start = Instant::now();
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        Ok((all, start.elapsed()))
    });
    let mut stream = left.tcp_connect((right.v6(), 9000).into(), SECOND)??;
    std::io::Write::write_all(&mut stream, &data)?;
    drop(stream);
    let (received, took) = join(receiving)?;
    assert!(
        received == data,
        "{} of {} bytes came back",
        received.len(),
        data.len()
    );
    assert!(took > SECOND * 2 / 5, "4 MB took {took:?} at 80 Mbit/s");
    Ok(())
}
