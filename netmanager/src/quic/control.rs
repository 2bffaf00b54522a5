//! The core's congestion controller as quinn-proto asks for one, for connections with streams.
//!
//! It decides nothing: [`RateControl`] does. Pacing is the packet thread's, by the core's token
//! bucket: quinn-proto's own pacer spreads a window over a round trip, and this window is twice
//! what is meant to be in flight.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Instant;

use netmanager_core::congestion::RateControl;
use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

/// Makes a controller for each connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct RateControlled;

impl ControllerFactory for RateControlled {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        // Any number that differs from connection to connection.
        let seed = RandomState::new().hash_one(mtu);
        Box::new(Adapter(RateControl::new(mtu, seed, now)))
    }
}

/// The bytes per second at which such a connection's packets should leave.
#[must_use]
pub fn pacing_rate(connection: &quinn_proto::Connection) -> Option<u64> {
    let bits = connection.congestion_state().metrics().pacing_rate?;
    Some(bits / 8)
}

#[derive(Debug, Clone)]
struct Adapter(RateControl);

impl Controller for Adapter {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.0.handle_sent(bytes, now);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.0.handle_acked(sent, bytes, now);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.0.handle_acks_end(in_flight, app_limited, now);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.0.handle_lost(lost_bytes);
        if is_persistent_congestion {
            self.0.handle_outage(now);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.0.set_packet(new_mtu);
    }

    fn window(&self) -> u64 {
        self.0.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.0.window();
        metrics.pacing_rate = Some(self.0.pacing_rate().saturating_mul(8));
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.0.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn losses_leave_the_window_and_an_outage_resets_it() {
        let start = Instant::now();
        let mut adapter = Adapter(RateControl::new(1200, 1, start));
        let initial = adapter.window();
        assert_eq!(initial, adapter.initial_window());
        let rtt = Duration::from_millis(20);
        // 100 packets a round trip, one of them lost.
        let mut now = start;
        for round in 0..30 {
            adapter.on_sent(now, 120_000, round * 100);
            now += rtt;
            for _ in 0..99 {
                // What `on_ack` does; nobody but quinn-proto can make its last argument.
                adapter.0.handle_acked(now - rtt, 1200, now);
            }
            adapter.on_end_acks(now, 1200, false, Some(round * 100));
            adapter.on_congestion_event(now, now - rtt, false, 1200);
        }
        assert!(adapter.window() >= 200_000, "{}", adapter.window());
        let rate = adapter.metrics().pacing_rate.expect("it paces") / 8;
        assert!(rate >= 5_500_000, "{rate}");
        adapter.on_congestion_event(now, now, true, 0);
        assert_eq!(adapter.window(), initial);
        assert_eq!(adapter.clone_box().window(), initial);
    }
}
