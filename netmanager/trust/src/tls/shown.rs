//! What a process shows now, which a renewal replaces under all configurations that were made.

use std::sync::Arc;

use anyhow::{Context, ensure};
use arc_swap::ArcSwap;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{Credentials, Expected, Facts, Usage};
use crate::renewal;

/// Shows the newest chain at every handshake.
#[derive(Debug)]
pub(super) struct Resolver {
    current: Arc<ArcSwap<CertifiedKey>>,
    /// Root's certificate, to be shown behind the chain.
    root: Option<CertificateDer<'static>>,
}

impl Resolver {
    pub(super) const fn new(
        current: Arc<ArcSwap<CertifiedKey>>,
        root: Option<CertificateDer<'static>>,
    ) -> Self {
        Self { current, root }
    }

    fn shown(&self) -> Arc<CertifiedKey> {
        let current = self.current.load_full();
        match &self.root {
            None => current,
            Some(root) => {
                let mut longer = CertifiedKey::clone(&current);
                longer.cert.push(root.clone());
                Arc::new(longer)
            }
        }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Credentials {
    /// When the own certificate's life ends.
    ///
    /// # Errors
    /// It cannot be read; not to be expected.
    pub fn not_after(&self) -> anyhow::Result<UnixTime> {
        Ok(self.own_facts()?.not_after)
    }

    /// From when on a new certificate should be asked for: when about two thirds of its life have
    /// passed, not the same moment for all who have joined at once.
    ///
    /// # Errors
    /// It cannot be read; not to be expected.
    pub fn renewal_due(&self) -> anyhow::Result<UnixTime> {
        Ok(renewal::due(&self.own_facts()?))
    }

    /// Shows a new chain for the same identity and key from now on, in all configurations that were
    /// made of these credentials and of their clones. Sessions that exist stay.
    ///
    /// # Errors
    /// It is of somebody else or of another key, ends no later than what is shown now, or peers
    /// would refuse it; what is shown stays then.
    pub fn renew(&self, chain: Vec<CertificateDer<'static>>) -> anyhow::Result<()> {
        self.check_renewal(&chain)?;
        let key = Arc::clone(&self.certified().load().key);
        self.certified()
            .store(Arc::new(CertifiedKey::new(chain, key)));
        Ok(())
    }

    /// Whether this is the chain that is shown now.
    pub(crate) fn shows(&self, chain: &[CertificateDer<'static>]) -> bool {
        self.certified().load().cert == chain
    }

    /// Says what [`Credentials::renew`] would, and changes nothing.
    pub(crate) fn check_renewal(&self, chain: &[CertificateDer<'static>]) -> anyhow::Result<()> {
        let (own, presented) = chain.split_first().context("there is no certificate")?;
        let facts = Facts::parse(own).context("cannot read the new certificate")?;
        ensure!(
            facts.spki_sha256 == self.spki_sha256(),
            "the new certificate is for another key"
        );
        ensure!(
            facts.not_after > self.not_after()?,
            "the new certificate ends no later than the one that is used"
        );
        let verifier = self.verifier(Expected::Exactly(self.identity().clone()));
        verifier
            .verify(own, presented, Usage::Client)
            .and_then(|_| verifier.verify(own, presented, Usage::Server))
            .context("peers would refuse the new certificate")?;
        Ok(())
    }

    pub(crate) fn own_facts(&self) -> anyhow::Result<Facts> {
        let shown = self.certified().load();
        let own = shown.cert.first().context("there is no certificate")?;
        Facts::parse(own).context("cannot read the own certificate")
    }
}
