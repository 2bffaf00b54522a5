//! What a judge remembers: the highest generation of every subject, bounded, and as a value that
//! can be kept on disk.
//!
//! When a signer has as many subjects as are remembered of it, those are forgotten first that are
//! removed, the longest ago before others, or whose life is over. Of a signer whose subjects are all
//! alive, no more are taken; other signers do not suffer.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use weald_proto::id::{Label, Organisation};
use weald_proto::name::{InstanceId, ServiceName};
use weald_proto::statement::{Signed, Statement, UnixSeconds};

use super::{News, Signer, StatementFault, Subject};

/// How many subjects are remembered of one signer: what a cluster of some thousand nodes has.
pub const MAX_SUBJECTS_PER_SIGNER: usize = 16_384;
/// How many subjects are remembered, some 300 bytes each.
pub const MAX_SUBJECTS: usize = 65_536;
/// How many clusters' grants are remembered.
pub const MAX_CLUSTERS: usize = 1024;

/// What a judge has to know again after a restart, so that nothing old is believed then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The newest grant of every cluster.
    pub(super) grants: Vec<Signed>,
    /// The newest list of the revoked.
    pub(super) revocations: Option<Signed>,
    /// What else was believed.
    pub(super) seen: Vec<(Subject, Seen)>,
}

/// The newest that was believed of one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) generation: u64,
    digest: Digest,
    signer: Signer,
    /// The tenant of a service or instance.
    organisation: Option<Organisation>,
    /// Whether nothing is lost but the memory of the removal when this is forgotten.
    removed: bool,
    /// When it loses its worth by itself.
    expires: Option<UnixSeconds>,
    /// Counts what was believed.
    order: u64,
}

/// Enough of SHA-256 to tell two statements of the same generation apart.
pub(super) type Digest = [u8; 16];

/// The digest of an encoded statement.
pub(super) fn digest_of(statement: &[u8]) -> Digest {
    let mut short = Digest::default();
    let whole = digest::digest(&digest::SHA256, statement);
    for (byte, from) in short.iter_mut().zip(whole.as_ref()) {
        *byte = *from;
    }
    short
}

impl Seen {
    /// What is to be remembered of a statement; none of grants and revocations, which are kept whole.
    pub(super) fn of(statement: &Statement, digest: Digest, signer: &Signer) -> Option<Self> {
        let (generation, removed, organisation, expires) = match statement {
            Statement::Grant(_) | Statement::Revocations(_) => return None,
            Statement::Service(it) => (it.generation, it.removed, Some(&it.organisation), None),
            Statement::Instance(it) => (it.generation, it.removed, Some(&it.organisation), None),
            Statement::Node(it) => (it.generation, it.removed, None, None),
            Statement::Relay(it) => (it.generation, it.removed, None, None),
            Statement::Lease(it) => (it.epoch, false, None, Some(it.expires)),
        };
        Some(Self {
            generation,
            digest,
            signer: signer.clone(),
            organisation: organisation.cloned(),
            removed,
            expires,
            order: 0,
        })
    }
}

/// Whether a generation is news after what was seen.
pub(super) fn compare(
    subject: &Subject,
    (generation, digest): (u64, Digest),
    seen: Option<(u64, Digest)>,
) -> Result<News, StatementFault> {
    let subject = || subject.clone();
    match seen {
        Some((seen, _)) if generation < seen => Err(StatementFault::Stale {
            subject: subject(),
            generation,
            seen,
        }),
        Some((seen, before)) if generation == seen && digest != before => {
            Err(StatementFault::Contradiction {
                subject: subject(),
                generation,
            })
        }
        Some((seen, _)) if generation == seen => Ok(News::Same),
        Some(_) | None => Ok(News::New),
    }
}

/// The subjects, with the limits kept.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    seen: BTreeMap<Subject, Seen>,
    /// How many of them are of each signer.
    counts: BTreeMap<Signer, usize>,
    last_order: u64,
}

impl Subjects {
    /// Takes up what was remembered before, as far as the limits allow.
    pub(super) fn restore(seen: Vec<(Subject, Seen)>) -> Self {
        let mut subjects = Self::default();
        for (subject, seen) in seen {
            let newer = subjects.seen.get(&subject).map(|known| known.generation);
            let limit = subjects.is_full(&seen.signer);
            if limit.is_none() && newer.is_none_or(|known| known < seen.generation) {
                subjects.last_order = subjects.last_order.max(seen.order);
                subjects.insert(subject, seen);
            }
        }
        subjects
    }

    /// What is remembered, for the disk.
    pub(super) fn list(&self) -> Vec<(Subject, Seen)> {
        let entries = self.seen.iter();
        entries
            .map(|(subject, seen)| (subject.clone(), seen.clone()))
            .collect()
    }

    /// Remembers what is believed of a subject, unless that is known or something newer is.
    pub(super) fn admit(
        &mut self,
        subject: Subject,
        mut seen: Seen,
        now: UnixSeconds,
    ) -> Result<News, StatementFault> {
        let known = self.seen.get(&subject);
        let before = known.map(|known| (known.generation, known.digest));
        let news = compare(&subject, (seen.generation, seen.digest), before)?;
        if news == News::Same {
            return Ok(news);
        }
        if known.is_none_or(|known| known.signer != seen.signer) {
            self.make_room(&seen.signer, now)?;
        }
        if let (Subject::Service(service), Some(tenant)) = (&subject, &seen.organisation) {
            self.forget_other_tenants(service, tenant);
        }
        self.last_order += 1;
        seen.order = self.last_order;
        self.insert(subject, seen);
        Ok(news)
    }

    /// Whose a service is, by root's newest word.
    pub(super) fn tenant(&self, service: &ServiceName) -> Option<&Organisation> {
        let seen = self.seen.get(&Subject::Service(service.clone()))?;
        seen.organisation.as_ref()
    }

    /// Whether the newest that was believed of a subject is a cluster's word, and said this tenant.
    pub(super) fn is_word_of(
        &self,
        subject: &Subject,
        cluster: &Label,
        tenant: &Organisation,
    ) -> bool {
        self.seen.get(subject).is_some_and(|seen| {
            seen.signer == Signer::Cluster(cluster.clone())
                && seen.organisation.as_ref() == Some(tenant)
        })
    }

    fn insert(&mut self, subject: Subject, seen: Seen) {
        *self.counts.entry(seen.signer.clone()).or_default() += 1;
        if let Some(before) = self.seen.insert(subject, seen) {
            self.count_down(&before.signer);
        }
    }

    fn remove(&mut self, subject: &Subject) {
        if let Some(before) = self.seen.remove(subject) {
            self.count_down(&before.signer);
        }
    }

    fn count_down(&mut self, signer: &Signer) {
        if let Some(count) = self.counts.get_mut(signer) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(signer);
            }
        }
    }

    /// Which limit stands against one more subject of a signer.
    fn is_full(&self, signer: &Signer) -> Option<StatementFault> {
        let own = self.counts.get(signer).copied().unwrap_or_default();
        if own >= MAX_SUBJECTS_PER_SIGNER {
            Some(StatementFault::TooManySubjects(signer.clone()))
        } else if self.seen.len() >= MAX_SUBJECTS {
            Some(StatementFault::Full)
        } else {
            None
        }
    }

    /// Sees to it that one more subject of a signer finds room, at its own expense only.
    fn make_room(&mut self, signer: &Signer, now: UnixSeconds) -> Result<(), StatementFault> {
        let Some(limit) = self.is_full(signer) else {
            return Ok(());
        };
        let over = |seen: &Seen| seen.expires.is_some_and(|expires| expires <= now);
        let own = self.seen.iter().filter(|(_, seen)| seen.signer == *signer);
        let spare = own.filter(|(_, seen)| seen.removed || over(seen));
        let oldest = spare.min_by_key(|(_, seen)| (!over(seen), seen.order));
        let oldest = oldest.map(|(subject, _)| subject.clone());
        self.remove(&oldest.ok_or(limit)?);
        Ok(())
    }

    /// Root says whose a service is: what was said of its instances as another's is void.
    fn forget_other_tenants(&mut self, service: &ServiceName, tenant: &Organisation) {
        let of = |number| {
            let service = service.clone();
            Subject::Instance(InstanceId { service, number })
        };
        let instances = self.seen.range(of(0)..=of(u32::MAX));
        let foreign = instances.filter(|(_, seen)| seen.organisation.as_ref() != Some(tenant));
        let foreign: Vec<_> = foreign.map(|(subject, _)| subject.clone()).collect();
        for subject in foreign {
            self.remove(&subject);
        }
    }
}
