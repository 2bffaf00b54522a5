//! What is shown of a gateway.

use super::{Fault, Mapped, Mapper, Stage};
use crate::portmap::{Gateway, Protocol};

/// How often things have happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams and requests over TCP that were sent.
    pub requests: u64,
    /// Mappings that were granted, renewals among them.
    pub granted: u64,
    /// Those that were refused.
    pub refused: u64,
    /// What came and was not looked at.
    pub ignored: u64,
    /// How often the gateway had forgotten everything.
    pub restarts: u64,
}

/// How things are with one gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapperView {
    /// The gateway.
    pub gateway: Gateway,
    /// What it speaks, as far as it has shown.
    pub speaks: Vec<Protocol>,
    /// `asking`, `wanting`, `mapped`, `resting` or `ended`.
    pub state: &'static str,
    /// The mapping.
    pub mapped: Option<Mapped>,
    /// Why there is none, or why it was not renewed.
    pub fault: Option<Fault>,
    /// How often things have happened.
    pub counts: Counts,
}

impl Fault {
    /// The stable words that stand in JSON.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Silent => "no_answer".to_owned(),
            Self::Unanswered(with) => format!("no_answer_by_{}", with.word()),
            Self::Refused(with, code) => format!("refused_by_{}: {code}", with.word()),
            Self::Senseless(with) => format!("senseless_by_{}", with.word()),
        }
    }
}

impl Mapper {
    /// How things are.
    #[must_use]
    pub fn view(&self) -> MapperView {
        let state = match self.stage {
            Stage::Ending { .. } | Stage::Ended => "ended",
            _ if self.mapped.is_some() => "mapped",
            Stage::Asking { .. } => "asking",
            Stage::Wanting { .. } | Stage::Holding { .. } => "wanting",
            Stage::Resting { .. } => "resting",
        };
        MapperView {
            gateway: self.gateway,
            speaks: self.spoken.iter().copied().collect(),
            state,
            mapped: self.mapped,
            fault: self.fault,
            counts: self.counts,
        }
    }
}
