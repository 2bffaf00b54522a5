//! What is told of attempts to reach a peer directly.

use netmanager_core::peer::candidates::Refusal;
use netmanager_core::peer::paths::Path;
use netmanager_core::peer::punch::TargetView;
use weald_proto::session::{CandidateKind, NatMapping};

use crate::api::report::{DirectReport, TargetReport};
use crate::driver::Driver;
use crate::driver::session::Session;

impl Driver {
    pub(super) fn direct_report(&self, session: &Session) -> Option<DirectReport> {
        let punch = session.punch.as_ref()?;
        let standing = punch.standing();
        let (here, there) = punch.mappings();
        let answers = |target: &TargetView| {
            let path = Path::Direct(target.address);
            let mut views = session.paths.views(self.now);
            views.any(|view| view.path == path && view.answers)
        };
        let targets = punch.targets();
        let targets = targets.iter().map(|target| TargetReport {
            address: target.address,
            kind: target.kind.map(|kind| kind_word(kind).to_owned()),
            probes_sent: target.sent,
            answers: answers(target),
            refused: target.refused.map(Refusal::word).map(str::to_owned),
        });
        let own = self.surroundings.candidates();
        let own = own
            .iter()
            .map(|own| format!("{} {}", kind_word(own.kind), own.address));
        Some(DirectReport {
            standing: standing.word().to_owned(),
            advice: standing.advice().to_owned(),
            mapping_here: mapping_word(here).to_owned(),
            mapping_there: mapping_word(there).to_owned(),
            rounds: punch.rounds(),
            opening_hops: self.opening_hops,
            own: own.collect(),
            targets: targets.collect(),
        })
    }
}

const fn kind_word(kind: CandidateKind) -> &'static str {
    match kind {
        CandidateKind::Interface => "interface",
        CandidateKind::Reflexive => "reflexive",
        CandidateKind::Configured => "configured",
        CandidateKind::Mapped => "mapped",
    }
}

pub(super) const fn mapping_word(mapping: NatMapping) -> &'static str {
    match mapping {
        NatMapping::Unknown => "unknown",
        NatMapping::Independent => "independent",
        NatMapping::Sequential => "sequential",
        NatMapping::Random => "random",
    }
}
