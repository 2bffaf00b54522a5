//! The wall clock as certificates and tokens need it, replaceable in tests.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::UnixTime;

/// Tells the current time in whole seconds.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixTime + Send + Sync>);

impl Clock {
    /// Makes a clock of a function.
    pub fn new(now: impl Fn() -> UnixTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The clock of the operating system.
    #[must_use]
    pub fn system() -> Self {
        Self::new(UnixTime::now)
    }

    /// A clock that stands still.
    #[must_use]
    pub fn fixed(now: UnixTime) -> Self {
        Self::new(move || now)
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
