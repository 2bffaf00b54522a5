//! Exact deadlines of the carriers, in the order of their life.

use super::*;

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test needs some first instant")]
    Instant::now()
}

fn actions(carriers: &mut Carriers) -> Vec<CarrierAction> {
    std::iter::from_fn(|| carriers.poll_action()).collect()
}

fn due(carriers: &mut Carriers) -> Instant {
    let at = carriers.poll_timeout().unwrap();
    carriers.handle_timeout(at);
    at
}

/// A relay that is silent over UDP and carried over TCP, and since when.
fn over_tcp(now: Instant) -> (Carriers, Instant) {
    let mut carriers = Carriers::default();
    carriers.handle_asked(now);
    let at = due(&mut carriers);
    carriers.handle_open(at);
    assert_eq!(
        actions(&mut carriers),
        [
            CarrierAction::Open,
            CarrierAction::Use(Carrier::Tcp, CarrierReason::UdpSilent)
        ]
    );
    (carriers, at)
}

#[test]
fn a_relay_that_answers_over_udp_needs_no_tcp() {
    let now = start();
    let mut carriers = Carriers::default();
    assert_eq!(carriers.poll_timeout(), None);
    carriers.handle_asked(now);
    carriers.handle_heard(now + SILENCE / 2);
    carriers.handle_timeout(now + SILENCE);
    assert_eq!(actions(&mut carriers), []);
    // Nothing came for long: it is asked, and answers.
    let quiet = now + SILENCE / 2 + QUIET;
    assert_eq!(due(&mut carriers), quiet);
    assert_eq!(actions(&mut carriers), [CarrierAction::Knock]);
    carriers.handle_heard(quiet);
    assert_eq!(carriers.poll_timeout(), Some(quiet + QUIET));
    assert_eq!(carriers.in_use(), Carrier::Udp);
    // Without a session nobody asks.
    carriers.handle_forgotten();
    assert_eq!(carriers.poll_timeout(), None);
}

#[test]
fn silence_over_udp_opens_tcp_at_its_time_and_only_once() {
    let now = start();
    let mut carriers = Carriers::default();
    carriers.handle_asked(now);
    carriers.handle_asked(now + SILENCE / 2);
    assert_eq!(due(&mut carriers), now + SILENCE);
    assert_eq!(actions(&mut carriers), [CarrierAction::Open]);
    assert_eq!(carriers.in_use(), Carrier::Udp);
    assert_eq!(carriers.poll_timeout(), Some(now + SILENCE + OPEN_TIME));
    carriers.handle_open(now + SILENCE * 2);
    assert_eq!(carriers.in_use(), Carrier::Tcp);
    assert_eq!(carriers.reason().word(), "udp_silent");
}

#[test]
fn an_answer_over_udp_while_tcp_is_opened_makes_it_needless() {
    let now = start();
    let mut carriers = Carriers::default();
    carriers.handle_asked(now);
    let at = due(&mut carriers);
    carriers.handle_heard(at);
    carriers.handle_open(at);
    assert_eq!(
        actions(&mut carriers),
        [CarrierAction::Open, CarrierAction::Close]
    );
    assert_eq!(carriers.in_use(), Carrier::Udp);
}

#[test]
fn udp_is_knocked_at_and_taken_back_and_tcp_lingers() {
    let (mut carriers, at) = over_tcp(start());
    assert_eq!(due(&mut carriers), at + KNOCK_INTERVAL);
    assert_eq!(due(&mut carriers), at + KNOCK_INTERVAL * 2);
    assert_eq!(
        actions(&mut carriers),
        [CarrierAction::Knock, CarrierAction::Knock]
    );
    let back = at + KNOCK_INTERVAL * 2;
    carriers.handle_heard(back);
    assert_eq!(
        actions(&mut carriers),
        [CarrierAction::Use(Carrier::Udp, CarrierReason::UdpAnswers)]
    );
    // Silent again while TCP lingers: it is used without being opened.
    carriers.handle_asked(back);
    assert_eq!(due(&mut carriers), back + SILENCE);
    assert_eq!(
        actions(&mut carriers),
        [CarrierAction::Use(Carrier::Tcp, CarrierReason::UdpSilent)]
    );
    let back = back + SILENCE + KNOCK_INTERVAL / 2;
    carriers.handle_heard(back);
    actions(&mut carriers);
    assert_eq!(due(&mut carriers), back + LINGER.min(QUIET));
    carriers.handle_timeout(back + LINGER);
    assert!(actions(&mut carriers).contains(&CarrierAction::Close));
}

#[test]
fn tcp_that_fails_is_tried_again_ever_more_seldom() {
    let mut now = start();
    let mut carriers = Carriers::default();
    carriers.handle_asked(now);
    now = due(&mut carriers);
    assert_eq!(actions(&mut carriers), [CarrierAction::Open]);
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        carriers.handle_closed(now);
        now += Duration::from_secs(pause);
        assert_eq!(due(&mut carriers), now);
        assert_eq!(actions(&mut carriers), [CarrierAction::Open]);
    }
    // Nor does a connection that never stands last for ever.
    assert_eq!(due(&mut carriers), now + OPEN_TIME);
    assert_eq!(actions(&mut carriers), [CarrierAction::Close]);
}

#[test]
fn tcp_that_is_lost_leaves_udp_to_be_tried() {
    let (mut carriers, at) = over_tcp(start());
    carriers.handle_closed(at);
    assert_eq!(
        actions(&mut carriers),
        [CarrierAction::Use(Carrier::Udp, CarrierReason::TcpLost)]
    );
    assert_eq!(due(&mut carriers), at + RETRY_MIN);
    assert_eq!(actions(&mut carriers), [CarrierAction::Open]);
}
