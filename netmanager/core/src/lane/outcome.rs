//! How a stream went: the byte that says that the far end has connected, and the codes of resets.

use std::fmt;

use crate::verdict::DropReason;

/// The first byte that comes back: the target has accepted the connection.
pub const CONNECTED: u8 = 0;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $word:literal;)*) => {
        /// Why a stream is reset, as application error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Refused {
            $($(#[$doc])* $name = $code,)*
        }

        impl Refused {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

refusals! {
    /// The connection was reset by the program at the other end.
    Reset = 1, "reset";
    /// The target's port is closed.
    PortClosed = 2, "port_closed";
    /// The target does not answer.
    NoAnswer = 3, "no_answer";
    /// The client's address is not in the sender's lease.
    NotLeased = 4, "not_leased";
    /// The target is not hosted here.
    NotHosted = 5, "not_hosted";
    /// The two organisations may not talk.
    PolicyDenied = 6, "policy_denied";
    /// The opening of the stream was not understood.
    Malformed = 7, "malformed";
    /// There is no room for another connection.
    NoRoom = 8, "no_room";
    /// The node ends, or has given up the session.
    Gone = 9, "gone";
}

impl Refused {
    /// Whether another instance of the same service might accept what this one has not: it is about
    /// the target and the way to it, not about who asks.
    #[must_use]
    pub const fn is_of_target(self) -> bool {
        match self {
            Self::Reset
            | Self::PortClosed
            | Self::NoAnswer
            | Self::NotHosted
            | Self::NoRoom
            | Self::Gone => true,
            Self::NotLeased | Self::PolicyDenied | Self::Malformed => false,
        }
    }

    /// The error code on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// What a code means; an unknown one is a reset.
    #[must_use]
    pub fn of_code(code: u64) -> Self {
        let known = Self::ALL.iter().find(|one| u64::from(one.code()) == code);
        known.copied().unwrap_or(Self::Reset)
    }
}

impl From<DropReason> for Refused {
    /// What the sender of a stream is told that was refused for that reason.
    fn from(reason: DropReason) -> Self {
        if reason == DropReason::SourceNotLeased {
            Self::NotLeased
        } else if reason == DropReason::PolicyDenied {
            Self::PolicyDenied
        } else if reason == DropReason::DestinationNotHosted || reason == DropReason::InstanceDrains
        {
            Self::NotHosted
        } else if reason == DropReason::PortZero || reason == DropReason::Malformed {
            Self::Malformed
        } else {
            Self::NoRoom
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_as_what_they_were() {
        for one in Refused::ALL {
            assert_eq!(Refused::of_code(one.code().into()), *one);
        }
        assert_eq!(Refused::of_code(1 << 40), Refused::Reset);
        assert_eq!(Refused::of_code(0), Refused::Reset);
    }
}
