//! How one tier makes the next run what it wants, over links that break: wants, duties, reports.
//!
//! Root towards a cluster and a cluster towards a worker do the same. The upper side keeps
//! [`Wants`]: what shall be, repeated until the lower side has answered. The lower side keeps
//! [`Duties`]: what it has taken on, and a [`Reporter`]: what is, repeated until acknowledged.
//!
//! ```text
//! Wants  -- want(instance, generation) ------->  Duties     (persisted, then carried out)
//! Wants  <------ report(sequence, what is) ----  Reporter
//! Wants  ------- acknowledged(sequence) ------>  Reporter   (after the report is persisted)
//! ```
//!
//! Within one connection messages may be lost, doubled and reordered; a message of an earlier
//! connection is never delivered (the shells see to that), though what was decided on an earlier one
//! may be said on a later one, in front of all that is decided there. Nothing depends on a message
//! that says what has changed: a want and a report say what is, and the higher generation wins. After
//! every reconnection the first report is complete, so that the sides agree again whatever was lost.
//!
//! Nothing here is I/O: what must be persisted is returned, and must be before anything that
//! stands after it is sent or done.

mod duties;
mod reporter;
mod wants;

use std::time::Duration;

pub use duties::{Action, Duties, Duty, Kept, Outcome};
pub use reporter::{Reporter, Sent};
pub use wants::{Heard, Want, Wants};

/// After this time without an answer something is said again.
pub const REPEAT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
