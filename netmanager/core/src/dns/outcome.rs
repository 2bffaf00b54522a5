//! How a query ended, for the counters.

use std::fmt;

use super::response::{Failure, Reply};

macro_rules! outcomes {
    ($($(#[$doc:meta])* $outcome:ident => $word:literal,)*) => {
        /// How a query ended. Every outcome has a counter and a stable word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Outcome {
            $($(#[$doc])* $outcome,)*
        }

        impl Outcome {
            /// Every outcome, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$outcome,)*];

            /// The stable word that stands in JSON and in metrics.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$outcome => $word,)*
                }
            }
        }
    };
}

outcomes! {
    /// Answered with records.
    Answered => "answered",
    /// The name exists, without such a record.
    NoData => "no_data",
    /// The name does not exist.
    NameError => "name_error",
    /// The name is unknown, and the cluster cannot be asked.
    CutOff => "cut_off",
    /// The caller is unknown, or asks for what nobody gets.
    Refused => "refused",
    /// The query is malformed.
    FormatError => "format_error",
    /// Not a query for records.
    NotImplemented => "not_implemented",
    /// An EDNS version that we do not speak.
    BadVersion => "bad_version",
    /// An upstream server answered.
    Forwarded => "forwarded",
    /// No upstream server answered.
    UpstreamFailed => "upstream_failed",
    /// The client asks too often; it was told so.
    RateLimited => "rate_limited",
    /// The client asks so often that it is not even told.
    Flooding => "flooding",
    /// Too many queries wait for upstream servers.
    ForwardLimited => "forward_limited",
    /// Too many TCP connections.
    ConnectionLimited => "connection_limited",
    /// Not a query at all.
    Ignored => "ignored",
}

impl Outcome {
    /// The outcome of a query that was replied to by us.
    pub(crate) const fn of(reply: &Reply) -> Self {
        match reply {
            Reply::Records(_) => Self::Answered,
            Reply::NoData(_) => Self::NoData,
            Reply::NameError(_) => Self::NameError,
            Reply::Truncated => Self::Forwarded,
            Reply::Error(Failure::Server) => Self::CutOff,
            Reply::Error(Failure::Refused) => Self::Refused,
            Reply::Error(Failure::Format) => Self::FormatError,
            Reply::Error(Failure::NotImplemented) => Self::NotImplemented,
            Reply::Error(Failure::BadVersion) => Self::BadVersion,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
