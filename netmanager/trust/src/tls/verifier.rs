//! Judges the certificate chain of a peer, the same way in both directions.
//!
//! webpki finds a path from the peer's certificate to the root among whatever the peer presented,
//! in any order and with any decoys. Only a path that it has verified is looked at: exactly one
//! intermediate, whose URI names the cluster that the peer's URI claims; or none, if the peer's
//! URI claims to be root. What else was presented plays no part.
//!
//! Times are compared without tolerance: certificates are issued with a beginning that lies
//! [`crate::pki::BACKDATE`] in the past, which is what clocks may differ by.

use std::cell::RefCell;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DistinguishedName, Error, OtherError};
use weald_proto::id::{Identity, Label, NodeId, RelayId};
use webpki::{Cert, EndEntityCert, KeyUsage, VerifiedPath};

use super::fault::{ISSUER, MAX_PRESENTED, OWN};
use super::provider::{SIGNATURES, tls13_signatures};
use super::{Claim, Clock, Facts, KeyHash, Peer, PeerError, PeerFault, RevocationSet, TrustRoot};

/// Whom a verifier lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The one that was dialled.
    Exactly(Identity),
    /// Any node under the same root.
    AnyNode,
    /// Any cluster's orchestrator under the same root.
    AnyControl,
    /// Any node or relay of this cluster.
    MemberOf(Label),
}

/// What a certificate is presented for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Its holder was dialled.
    Server,
    /// Its holder dials.
    Client,
}

/// Verifies peers against one root.
#[derive(Debug)]
pub struct Verifier {
    root: Arc<TrustRoot>,
    expected: Expected,
    clock: Clock,
    revoked: Arc<ArcSwap<RevocationSet>>,
}

impl Verifier {
    /// Makes a verifier that reads the time and the revoked keys anew at each handshake.
    #[must_use]
    pub const fn new(
        root: Arc<TrustRoot>,
        expected: Expected,
        clock: Clock,
        revoked: Arc<ArcSwap<RevocationSet>>,
    ) -> Self {
        Self {
            root,
            expected,
            clock,
            revoked,
        }
    }

    /// Judges a peer's certificate with whatever else it presented.
    ///
    /// # Errors
    /// Says which check failed for whom.
    pub fn verify(
        &self,
        own: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        usage: Usage,
    ) -> Result<Peer, PeerError> {
        self.search(own, presented, usage)
            .map_err(|fault| PeerError {
                claim: Claim(claim(own)),
                fault,
            })
    }

    fn search(
        &self,
        own: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        usage: Usage,
    ) -> Result<Peer, PeerFault> {
        if presented.len() > MAX_PRESENTED {
            return Err(PeerFault::TooMany(presented.len() + 1));
        }
        let now = self.clock.now();
        let judged: RefCell<Option<Result<Peer, PeerFault>>> = RefCell::new(None);
        let judge = |path: &VerifiedPath<'_>| {
            let outcome = self.judge(path, usage);
            let verdict = match &outcome {
                Ok(_) => Ok(()),
                Err(_) => Err(webpki::Error::UnknownIssuer),
            };
            let mut judged = judged.borrow_mut();
            // Of several refused paths the first is reported: webpki tries them as presented.
            if outcome.is_ok() || judged.is_none() {
                *judged = Some(outcome);
            }
            verdict
        };
        let end_entity = EndEntityCert::try_from(own).map_err(|_| PeerFault::Encoding)?;
        let anchors = [self.root.anchor().clone()];
        let found = end_entity.verify_for_usage(
            SIGNATURES.all,
            &anchors,
            presented,
            now,
            usage.required(),
            None,
            Some(&judge),
        );
        match (found, judged.take()) {
            (Ok(_), Some(Ok(peer))) => self.admit(peer),
            (_, Some(Err(fault))) => Err(fault),
            (Err(error), _) => Err(self.explain(error, own, usage)),
            (Ok(_), None) => Err(PeerFault::Other("its chain was not checked".to_owned())),
        }
    }

    /// Judges a path that leads to the root by verified signatures.
    fn judge(&self, path: &VerifiedPath<'_>, usage: Usage) -> Result<Peer, PeerFault> {
        let mut intermediates = path.intermediate_certificates();
        let signer = match (intermediates.next(), intermediates.count()) {
            (None, _) => None,
            (Some(intermediate), 0) => Some(self.judge_intermediate(intermediate)?),
            (Some(_), more) => return Err(PeerFault::Intermediates(1 + more)),
        };
        let facts = Facts::parse(&path.end_entity().der())?;
        if facts.authority {
            return Err(PeerFault::Authority);
        }
        require_usage(OWN, facts.signs, "digitalSignature")?;
        usage.check(&facts)?;
        let (root, identity) = facts.identity()?;
        self.same_root(OWN, root)?;
        let issuer = self.judge_signer(&identity, signer)?;
        let revoked = self.revoked.load();
        if revoked.covers(&facts.spki_sha256, &issuer, &facts.serial) {
            return Err(PeerFault::Revoked(OWN));
        }
        Ok(Peer {
            identity,
            spki_sha256: facts.spki_sha256,
        })
    }

    /// Compares who has signed with who had to: root itself for root, for all others their cluster.
    /// Returns the signer's key.
    fn judge_signer(
        &self,
        identity: &Identity,
        signer: Option<(Label, KeyHash)>,
    ) -> Result<KeyHash, PeerFault> {
        match (identity.cluster(), signer) {
            (None, None) => Ok(self.root.spki_sha256()),
            (None, Some((signer, _))) => Err(PeerFault::NotByRoot(signer)),
            (Some(_), None) => Err(PeerFault::Intermediates(0)),
            (Some(named), Some((signer, _))) if *named != signer => {
                let named = named.clone();
                Err(PeerFault::ForeignCluster { named, signer })
            }
            (Some(_), Some((_, key))) => Ok(key),
        }
    }

    fn judge_intermediate(&self, intermediate: &Cert<'_>) -> Result<(Label, KeyHash), PeerFault> {
        let facts = Facts::parse(&intermediate.der())?;
        facts.judge_cluster(&self.root, self.clock.now(), &self.revoked.load())?;
        Ok((cluster_of(&self.root, &facts)?, facts.spki_sha256))
    }

    fn same_root(&self, what: &'static str, named: Label) -> Result<(), PeerFault> {
        same_root(&self.root, what, named)
    }

    fn admit(&self, peer: Peer) -> Result<Peer, PeerFault> {
        let fault = match (&self.expected, &peer.identity) {
            (Expected::Exactly(dialled), identity) if dialled != identity => {
                PeerFault::Unexpected(dialled.clone())
            }
            (_, Identity::Cluster(_)) => PeerFault::Authority,
            (Expected::Exactly(_), _)
            | (Expected::AnyNode, Identity::Node(_))
            | (Expected::AnyControl, Identity::Control(_)) => return Ok(peer),
            (
                Expected::MemberOf(cluster),
                Identity::Node(NodeId { cluster: own, .. })
                | Identity::Relay(RelayId { cluster: own, .. }),
            ) if cluster == own => return Ok(peer),
            (Expected::AnyNode, _) => PeerFault::NotANode,
            (Expected::AnyControl, _) => PeerFault::NotControl,
            (Expected::MemberOf(cluster), _) => PeerFault::NotAMember(cluster.clone()),
        };
        Err(fault)
    }

    /// Puts webpki's finding into our words.
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is webpki's and may grow; what we have no words for keeps its own"
    )]
    fn explain(&self, error: webpki::Error, own: &CertificateDer<'_>, usage: Usage) -> PeerFault {
        use webpki::Error as Found;
        let facts = Facts::parse(own).ok();
        let which = |own: Option<UnixTime>, found: UnixTime| match own {
            Some(own) if own == found => OWN,
            _ => ISSUER,
        };
        match error {
            Found::CertExpired { time, not_after } => {
                let what = which(facts.map(|facts| facts.not_after), not_after);
                PeerFault::expired(what, not_after, time)
            }
            Found::CertNotValidYet { time, not_before } => {
                let what = which(facts.map(|facts| facts.not_before), not_before);
                PeerFault::not_yet_valid(what, not_before, time)
            }
            Found::UnknownIssuer => PeerFault::Unanchored(self.root.name().clone()),
            Found::InvalidSignatureForPublicKey
            | Found::UnsupportedSignatureAlgorithmContext(_)
            | Found::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                PeerFault::Signature(self.root.name().clone())
            }
            Found::CaUsedAsEndEntity => PeerFault::Authority,
            Found::EndEntityUsedAsCa => PeerFault::IssuerNotAuthority,
            Found::PathLenConstraintViolated => PeerFault::Intermediates(2),
            Found::RequiredEkuNotFoundContext(_) => PeerFault::ExtendedUsage(usage.word()),
            Found::BadDer | Found::BadDerTime | Found::TrailingData(_) => PeerFault::Encoding,
            other => PeerFault::Other(other.to_string()),
        }
    }
}

impl Facts {
    /// Judges a certificate that the root has signed: may it issue, and sign tokens, now?
    pub(crate) fn judge_cluster(
        &self,
        root: &TrustRoot,
        now: UnixTime,
        revoked: &RevocationSet,
    ) -> Result<(), PeerFault> {
        if !self.authority {
            return Err(PeerFault::IssuerNotAuthority);
        }
        if self.path_length != Some(0) {
            return Err(PeerFault::PathLength);
        }
        require_usage(ISSUER, self.signs_certificates, "keyCertSign")?;
        require_usage(ISSUER, self.signs, "digitalSignature")?;
        if now < self.not_before {
            return Err(PeerFault::not_yet_valid(ISSUER, self.not_before, now));
        }
        if now > self.not_after {
            return Err(PeerFault::expired(ISSUER, self.not_after, now));
        }
        if revoked.covers(&self.spki_sha256, &root.spki_sha256(), &self.serial) {
            return Err(PeerFault::Revoked(ISSUER));
        }
        Ok(())
    }
}

impl Usage {
    const fn required(self) -> KeyUsage {
        match self {
            Self::Server => KeyUsage::server_auth(),
            Self::Client => KeyUsage::client_auth(),
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Server => "serverAuth",
            Self::Client => "clientAuth",
        }
    }

    const fn check(self, facts: &Facts) -> Result<(), PeerFault> {
        let allowed = match self {
            Self::Server => facts.server,
            Self::Client => facts.client,
        };
        if allowed {
            Ok(())
        } else {
            Err(PeerFault::ExtendedUsage(self.word()))
        }
    }
}

/// The cluster that an intermediate of `root` names.
pub(crate) fn cluster_of(root: &TrustRoot, facts: &Facts) -> Result<Label, PeerFault> {
    let (named, identity) = facts
        .identity()
        .map_err(|fault| PeerFault::IssuerName(format!("unnamed ({fault})")))?;
    same_root(root, ISSUER, named)?;
    match identity {
        Identity::Cluster(cluster) => Ok(cluster),
        other
        @ (Identity::Root | Identity::Control(_) | Identity::Node(_) | Identity::Relay(_)) => {
            Err(PeerFault::IssuerName(other.to_string()))
        }
    }
}

fn same_root(root: &TrustRoot, what: &'static str, named: Label) -> Result<(), PeerFault> {
    if named == *root.name() {
        Ok(())
    } else {
        Err(PeerFault::ForeignRoot {
            what,
            named,
            ours: root.name().clone(),
        })
    }
}

fn require_usage(what: &'static str, has: bool, usage: &'static str) -> Result<(), PeerFault> {
    if has {
        Ok(())
    } else {
        Err(PeerFault::KeyUsage { what, usage })
    }
}

fn claim(own: &CertificateDer<'_>) -> Option<Identity> {
    Some(Facts::parse(own).ok()?.identity().ok()?.1)
}

fn refused(error: PeerError) -> Error {
    Error::Other(OtherError(Arc::new(error)))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, Usage::Server)
            .map(|_| ServerCertVerified::assertion())
            .map_err(refused)
    }

    tls13_signatures!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, Usage::Client)
            .map(|_| ClientCertVerified::assertion())
            .map_err(refused)
    }

    tls13_signatures!();
}
