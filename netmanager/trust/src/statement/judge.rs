//! Who believes what: signatures, signers, grants, lives and generations.
//!
//! Pure: no clock, no files. Whoever owns a judge keeps its [`Memory`] on disk before it acts on
//! what the judge has let pass, as often as [`Judge::changes`] grows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use weald_proto::addr::Dual;
use weald_proto::codec::Message;
use weald_proto::id::{Label, Organisation};
use weald_proto::name::ServiceName;
use weald_proto::statement::{
    Grant, Lease, Revocations, ServiceStatement, Signed, Statement, UnixSeconds,
};

use super::memory::{Digest, Seen, Subjects, compare, digest_of};
use super::{MAX_CLUSTERS, Memory, MemoryFault, Signer, StatementFault, Subject, check_signer};
use crate::tls::{KeyHash, RevocationSet, TrustRoot};

/// Whether a statement says something that was not believed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It is newer than everything that was believed on its subject.
    New,
    /// It was believed before, and still is.
    Same,
}

/// A statement that may be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What was signed.
    pub statement: Statement,
    /// Whether that is new.
    pub news: News,
}

/// Judges signed statements under one root.
#[derive(Debug)]
pub struct Judge {
    root_key: Vec<u8>,
    grants: BTreeMap<Label, Held<Grant>>,
    revocations: Option<Held<Revocations>>,
    subjects: Subjects,
    changes: u64,
}

/// A statement of root that is kept whole.
#[derive(Debug)]
struct Held<T> {
    value: T,
    signed: Signed,
    digest: Digest,
}

impl Judge {
    /// A judge that has seen nothing yet.
    #[must_use]
    pub fn new(root: &TrustRoot) -> Self {
        Self {
            root_key: root.public_key().to_vec(),
            grants: BTreeMap::new(),
            revocations: None,
            subjects: Subjects::default(),
            changes: 0,
        }
    }

    /// A judge that remembers what another one did.
    ///
    /// # Errors
    /// A grant or list of the revoked in it is not of this root, or not one.
    pub fn restore(root: &TrustRoot, memory: Memory) -> Result<Self, MemoryFault> {
        let mut judge = Self::new(root);
        for signed in memory.grants.into_iter().chain(memory.revocations) {
            let signer = Signer::of(&signed);
            verify_signature(&judge.root_key, &signed, &signer)?;
            let statement = decode(&signed, &signer)?;
            check_signer(&statement, &signer).map_err(StatementFault::from)?;
            let subject = Subject::of(&statement);
            let digest = digest_of(&signed.statement);
            match statement {
                Statement::Grant(value) => judge.hold_grant(Held {
                    value,
                    signed,
                    digest,
                })?,
                Statement::Revocations(value) => judge.hold_revocations(Held {
                    value,
                    signed,
                    digest,
                })?,
                Statement::Service(_)
                | Statement::Instance(_)
                | Statement::Node(_)
                | Statement::Relay(_)
                | Statement::Lease(_) => return Err(MemoryFault::Kind(subject)),
            };
        }
        judge.subjects = Subjects::restore(memory.seen);
        judge.changes = 0;
        Ok(judge)
    }

    /// What has to be known again after a restart.
    #[must_use]
    pub fn memory(&self) -> Memory {
        Memory {
            grants: self.grants().cloned().collect(),
            revocations: self.signed_revocations().cloned(),
            seen: self.subjects.list(),
        }
    }

    /// Grows with every change of the [`Memory`].
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// Judges a statement: its signature, its signer, the signer's newest grant, its life, and that
    /// nothing newer was believed. What passes is remembered.
    ///
    /// A statement that was believed once is judged anew, by the grants and revocations of now.
    ///
    /// # Errors
    /// Says what is wrong, with the figure and the limit; nothing is remembered then.
    pub fn judge(&mut self, signed: &Signed, now: UnixSeconds) -> Result<Judged, StatementFault> {
        let signer = Signer::of(signed);
        let statement = match &signer {
            Signer::Root => {
                verify_signature(&self.root_key, signed, &signer)?;
                let statement = decode(signed, &signer)?;
                check_signer(&statement, &signer)?;
                self.check_roots(&statement, now)?;
                statement
            }
            Signer::Cluster(cluster) => {
                let grant = self.valid_grant(cluster, now)?;
                verify_signature(&grant.key, signed, &signer)?;
                let statement = decode(signed, &signer)?;
                check_signer(&statement, &signer)?;
                self.check_clusters(&statement, grant, now)?;
                statement
            }
        };
        let news = self.remember(&statement, signed, &signer, now)?;
        Ok(Judged { statement, news })
    }

    /// The newest grant of a cluster, whether its life is over or not.
    #[must_use]
    pub fn grant(&self, cluster: &Label) -> Option<&Grant> {
        self.grants.get(cluster).map(|held| &held.value)
    }

    /// The newest grants of all clusters as they were signed, to be passed on.
    pub fn grants(&self) -> impl Iterator<Item = &Signed> {
        self.grants.values().map(|held| &held.signed)
    }

    /// The newest list of the revoked.
    #[must_use]
    pub fn revocations(&self) -> Option<&Revocations> {
        self.revocations.as_ref().map(|held| &held.value)
    }

    /// The newest list of the revoked as it was signed, to be passed on.
    #[must_use]
    pub fn signed_revocations(&self) -> Option<&Signed> {
        self.revocations.as_ref().map(|held| &held.signed)
    }

    /// The revoked keys, for [`crate::tls::Credentials::set_revoked`].
    #[must_use]
    pub fn revocation_set(&self) -> RevocationSet {
        let keys = self.revocations().map(|list| list.keys.as_slice());
        RevocationSet {
            keys: keys.into_iter().flatten().copied().map(KeyHash).collect(),
            ..RevocationSet::default()
        }
    }

    fn valid_grant(&self, cluster: &Label, now: UnixSeconds) -> Result<&Grant, StatementFault> {
        let grant = self.grant(cluster);
        let grant = grant.ok_or_else(|| StatementFault::NoGrant(cluster.clone()))?;
        self.check_key(grant)?;
        if grant.expires <= now {
            return Err(StatementFault::GrantExpired {
                cluster: cluster.clone(),
                generation: grant.generation,
                expired: grant.expires,
                now,
            });
        }
        Ok(grant)
    }

    fn check_key(&self, grant: &Grant) -> Result<(), StatementFault> {
        let Some(list) = self.revocations() else {
            return Ok(());
        };
        if list.keys.contains(&KeyHash::of_ed25519(&grant.key).0) {
            return Err(StatementFault::ClusterRevoked {
                cluster: grant.cluster.clone(),
                epoch: list.epoch,
            });
        }
        Ok(())
    }

    fn check_roots(&self, statement: &Statement, now: UnixSeconds) -> Result<(), StatementFault> {
        match statement {
            Statement::Grant(grant) => {
                self.check_key(grant)?;
                check_life(Subject::of(statement), grant.expires, now)
            }
            Statement::Service(service) => self.check_service(service),
            // Root's word is not held against anything; the others are not root's.
            Statement::Revocations(_)
            | Statement::Instance(_)
            | Statement::Node(_)
            | Statement::Relay(_)
            | Statement::Lease(_) => Ok(()),
        }
    }

    fn check_service(&self, service: &ServiceStatement) -> Result<(), StatementFault> {
        let subject = || Subject::Service(service.name.clone());
        let addresses = service.round_robin.iter().chain(service.closest.iter());
        check_presence(subject, service.removed, addresses)?;
        if !service.removed {
            self.check_revoked(subject, &service.organisation)?;
        }
        Ok(())
    }

    fn check_clusters(
        &self,
        statement: &Statement,
        grant: &Grant,
        now: UnixSeconds,
    ) -> Result<(), StatementFault> {
        let subject = || Subject::of(statement);
        match statement {
            Statement::Instance(it) => {
                check_presence(subject, it.removed, it.instance_ip.iter())?;
                // What it has said itself, a cluster may take back, whatever it was granted since.
                let takes_back = it.removed
                    && self
                        .subjects
                        .is_word_of(&subject(), &grant.cluster, &it.organisation);
                if !takes_back {
                    self.check_tenant(subject, &it.instance.service, &it.organisation, grant)?;
                }
                if !it.removed {
                    self.check_revoked(subject, &it.organisation)?;
                }
                check_addresses(subject, it.instance_ip, grant)
            }
            Statement::Node(it) => {
                check_presence(subject, it.removed, it.node_ip.iter())?;
                if !it.removed {
                    self.check_revoked(subject, &grant.owner)?;
                }
                check_addresses(subject, it.node_ip, grant)
            }
            Statement::Relay(it) => {
                let addresses = it.addresses.iter().map(std::net::SocketAddr::ip);
                check_presence(subject, it.removed, addresses)
            }
            Statement::Lease(it) => self.check_lease(it, grant, now),
            // Not a cluster's.
            Statement::Grant(_) | Statement::Revocations(_) | Statement::Service(_) => Ok(()),
        }
    }

    fn check_lease(
        &self,
        lease: &Lease,
        grant: &Grant,
        now: UnixSeconds,
    ) -> Result<(), StatementFault> {
        let subject = || Subject::Lease(lease.node.clone());
        check_life(subject(), lease.expires, now)?;
        if !lease.node_ip.is_empty() {
            self.check_revoked(subject, &grant.owner)?;
            check_addresses(subject, lease.node_ip, grant)?;
        }
        for leased in &lease.instances {
            let subject = || Subject::Instance(leased.instance.clone());
            check_presence(subject, false, leased.instance_ip.iter())?;
            let service = &leased.instance.service;
            self.check_tenant(subject, service, &leased.organisation, grant)?;
            self.check_revoked(subject, &leased.organisation)?;
            check_addresses(subject, leased.instance_ip, grant)?;
        }
        Ok(())
    }

    /// The cluster may host the organisation, and root does not say that the service is another's.
    fn check_tenant(
        &self,
        subject: impl Fn() -> Subject,
        service: &ServiceName,
        organisation: &Organisation,
        grant: &Grant,
    ) -> Result<(), StatementFault> {
        if !grant.organisations.contains(organisation) {
            return Err(StatementFault::ForeignOrganisation {
                subject: subject(),
                organisation: organisation.clone(),
                cluster: grant.cluster.clone(),
                generation: grant.generation,
            });
        }
        match self.subjects.tenant(service) {
            Some(tenant) if tenant != organisation => Err(StatementFault::OtherTenant {
                subject: subject(),
                says: organisation.clone(),
                is: tenant.clone(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn check_revoked(
        &self,
        subject: impl Fn() -> Subject,
        organisation: &Organisation,
    ) -> Result<(), StatementFault> {
        match self.revocations() {
            Some(list) if list.organisations.contains(organisation) => {
                Err(StatementFault::OrganisationRevoked {
                    subject: subject(),
                    organisation: organisation.clone(),
                    epoch: list.epoch,
                })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn remember(
        &mut self,
        statement: &Statement,
        signed: &Signed,
        signer: &Signer,
        now: UnixSeconds,
    ) -> Result<News, StatementFault> {
        let digest = digest_of(&signed.statement);
        let signed = signed.clone();
        let news = match statement {
            Statement::Grant(grant) => {
                let value = grant.clone();
                self.hold_grant(Held {
                    value,
                    signed,
                    digest,
                })?
            }
            Statement::Revocations(list) => {
                let value = list.clone();
                self.hold_revocations(Held {
                    value,
                    signed,
                    digest,
                })?
            }
            Statement::Service(_)
            | Statement::Instance(_)
            | Statement::Node(_)
            | Statement::Relay(_)
            | Statement::Lease(_) => match Seen::of(statement, digest, signer) {
                Some(seen) => self.subjects.admit(Subject::of(statement), seen, now)?,
                None => News::Same,
            },
        };
        if news == News::New {
            self.changes += 1;
        }
        Ok(news)
    }

    fn hold_grant(&mut self, new: Held<Grant>) -> Result<News, StatementFault> {
        let cluster = new.value.cluster.clone();
        let known = self.grants.get(&cluster);
        let before = known.map(|held| (held.value.generation, held.digest));
        let is_known = known.is_some();
        let subject = Subject::Grant(cluster.clone());
        let news = compare(&subject, (new.value.generation, new.digest), before)?;
        if !is_known && self.grants.len() >= MAX_CLUSTERS {
            return Err(StatementFault::TooManyClusters);
        }
        self.grants.insert(cluster, new);
        Ok(news)
    }

    fn hold_revocations(&mut self, new: Held<Revocations>) -> Result<News, StatementFault> {
        let before = self.revocations.as_ref();
        let before = before.map(|held| (held.value.epoch, held.digest));
        let subject = Subject::Revocations;
        let news = compare(&subject, (new.value.epoch, new.digest), before)?;
        self.revocations = Some(new);
        Ok(news)
    }
}

fn verify_signature(key: &[u8], signed: &Signed, signer: &Signer) -> Result<(), StatementFault> {
    UnparsedPublicKey::new(&ED25519, key)
        .verify(&Signed::signed_bytes(&signed.statement), &signed.signature)
        .map_err(|_| StatementFault::Signature(signer.clone()))
}

fn decode(signed: &Signed, signer: &Signer) -> Result<Statement, StatementFault> {
    Statement::decode(&signed.statement).map_err(|fault| StatementFault::Unreadable {
        signer: signer.clone(),
        fault,
    })
}

fn check_life(
    subject: Subject,
    expires: UnixSeconds,
    now: UnixSeconds,
) -> Result<(), StatementFault> {
    if expires > now {
        return Ok(());
    }
    let expired = expires;
    Err(StatementFault::Expired {
        subject,
        expired,
        now,
    })
}

/// What is there has an address, and what is removed has none.
fn check_presence(
    subject: impl Fn() -> Subject,
    removed: bool,
    mut addresses: impl Iterator<Item = IpAddr>,
) -> Result<(), StatementFault> {
    match (removed, addresses.next()) {
        (false, None) => Err(StatementFault::NoAddress(subject())),
        (true, Some(address)) => Err(StatementFault::RemovedWithAddress {
            subject: subject(),
            address,
        }),
        (false, Some(_)) | (true, None) => Ok(()),
    }
}

fn check_addresses(
    subject: impl Fn() -> Subject,
    addresses: Dual,
    grant: &Grant,
) -> Result<(), StatementFault> {
    let foreign = |address: &IpAddr| !grant.blocks.iter().any(|block| block.contains(*address));
    match addresses.iter().find(foreign) {
        None => Ok(()),
        Some(address) => Err(StatementFault::ForeignAddress {
            subject: Box::new(subject()),
            address,
            cluster: grant.cluster.clone(),
            generation: grant.generation,
            blocks: grant.blocks.len(),
        }),
    }
}
