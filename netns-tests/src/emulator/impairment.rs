//! What an emulated link does to frames, as data.

use std::time::Duration;

/// The impairments of one direction of a link; the default is a perfect link.
///
/// A frame first waits for the queue and the rate, is then lost or not, and travels for the
/// delay. All probabilities are between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Impairment {
    /// The propagation delay.
    pub delay: Duration,
    /// The delay varies evenly by at most this much to either side; order is kept.
    pub jitter: Duration,
    /// How frames are lost.
    pub loss: Loss,
    /// The probability that a frame arrives twice.
    pub duplicate: f64,
    /// The probability that a frame is held back by [`Impairment::reorder_by`], so that later
    /// ones overtake it.
    pub reorder: f64,
    /// How much longer a reordered frame takes.
    pub reorder_by: Duration,
    /// The rate of the link; unlimited when absent.
    pub rate_bits_per_sec: Option<u64>,
    /// How much may wait for the rate.
    pub queue: Queue,
    /// Frames that are longer, Ethernet headers counted, are swallowed without a word.
    pub longest: Option<usize>,
}

/// How frames are lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// None.
    None,
    /// Each frame independently, with this probability.
    Random(f64),
    /// In bursts, by the model of Gilbert and Elliott: a state per direction that changes before
    /// each frame, and a loss probability in each state.
    Burst {
        /// The probability to go from the good to the bad state.
        enter: f64,
        /// The probability to go from the bad to the good state.
        leave: f64,
        /// The loss probability in the good state.
        good: f64,
        /// The loss probability in the bad state.
        bad: f64,
    },
}

/// How much may wait for a link's rate; what exceeds either limit is dropped at the tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// At most this many bytes of frames.
    pub bytes: usize,
    /// At most this long a wait.
    pub time: Duration,
}

/// The default queue in bytes: about 2,700 full frames, as much as a cheap router has, and a
/// bound on memory for links without a rate.
pub const DEFAULT_QUEUE_BYTES: usize = 4 << 20;

/// The default bound on the time in a queue: long enough never to be reached by accident.
pub const DEFAULT_QUEUE_TIME: Duration = Duration::from_secs(10);

impl Default for Queue {
    fn default() -> Self {
        Self {
            bytes: DEFAULT_QUEUE_BYTES,
            time: DEFAULT_QUEUE_TIME,
        }
    }
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Loss::None,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: Duration::ZERO,
            rate_bits_per_sec: None,
            queue: Queue::default(),
            longest: None,
        }
    }
}

impl Impairment {
    /// Makes a link that swallows frames of more bytes, as a tunnel with a smaller MTU does, and
    /// nothing else.
    pub fn longest(frame_bytes: usize) -> Self {
        Self {
            longest: Some(frame_bytes),
            ..Self::default()
        }
    }

    /// Makes a link with a delay and nothing else.
    pub fn delay(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    /// Makes a link with a loss and nothing else.
    pub fn loss(loss: Loss) -> Self {
        Self {
            loss,
            ..Self::default()
        }
    }

    /// Makes a link with a rate, its queue bounded by time, and nothing else.
    pub fn rate(bits_per_sec: u64, queue: Duration) -> Self {
        Self {
            rate_bits_per_sec: Some(bits_per_sec),
            queue: Queue {
                time: queue,
                ..Queue::default()
            },
            ..Self::default()
        }
    }
}

impl Loss {
    /// The share of frames that is lost in the long run.
    pub fn expected(&self) -> f64 {
        match *self {
            Self::None => 0.0,
            Self::Random(probability) => probability,
            Self::Burst {
                enter,
                leave,
                good,
                bad,
            } => {
                if enter + leave == 0.0 {
                    return good;
                }
                (leave * good + enter * bad) / (enter + leave)
            }
        }
    }
}
