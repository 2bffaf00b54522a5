//! What a process shows of itself, and the QUIC configurations made from it.
//!
//! Credentials are loaded from the directory that `netmanager pki issue` writes, or put together
//! in memory. They are immutable, but for the set of revoked keys and for renewals, which are
//! `shown`'s.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use weald_proto::id::{Identity, Label};

use super::provider::{has_aes, provider};
use super::shown::Resolver;
use super::{
    Claim, Clock, Expected, Facts, KeyHash, Peer, PeerError, PeerFault, RevocationSet, TrustRoot,
    Usage, Verifier,
};

/// The file with the root's certificate.
pub const CA_FILE: &str = "ca.pem";
/// The file with a process's certificate, followed by that of its cluster.
pub const CHAIN_FILE: &str = "node.pem";
/// The file with a process's private key.
pub const KEY_FILE: &str = "node.key";
/// The file with a node's token for relays.
pub const TOKEN_FILE: &str = "relay.token";

/// The largest credential file that is read: a chain of ours has under 2 KiB.
const MAX_FILE_LEN: u64 = 64 * 1024;

/// The certificate chain, private key and relay token of one process, and the root it trusts.
#[derive(Clone)]
pub struct Credentials {
    root: Arc<TrustRoot>,
    identity: Identity,
    spki_sha256: KeyHash,
    certified: Arc<ArcSwap<CertifiedKey>>,
    relay_token: Option<Arc<[u8]>>,
    clock: Clock,
    revoked: Arc<ArcSwap<RevocationSet>>,
}

impl Credentials {
    /// Loads and checks the credentials in a directory.
    ///
    /// # Errors
    /// A file is missing, unreadable, readable by others than its owner (the key), does not
    /// belong to the others, or the certificate would be refused by every peer.
    pub fn load(directory: &Path) -> anyhow::Result<Self> {
        let credentials = Self::read(directory, Clock::system())
            .with_context(|| format!("cannot use the credentials in {}", directory.display()))?;
        credentials.check().with_context(|| {
            format!(
                "peers would refuse {}",
                directory.join(CHAIN_FILE).display()
            )
        })?;
        Ok(credentials)
    }

    fn read(directory: &Path, clock: Clock) -> anyhow::Result<Self> {
        let ca = read_bounded(&directory.join(CA_FILE))?;
        let root = CertificateDer::from_pem_slice(&ca)
            .with_context(|| format!("{CA_FILE} holds no PEM certificate"))?;
        let chain = CertificateDer::pem_slice_iter(&read_bounded(&directory.join(CHAIN_FILE))?)
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("{CHAIN_FILE} holds no PEM certificates"))?;
        let key_path = directory.join(KEY_FILE);
        let mode = std::fs::metadata(&key_path)
            .with_context(|| format!("cannot read {}", key_path.display()))?
            .mode();
        ensure!(
            mode & 0o077 == 0,
            "{KEY_FILE} is open to others than its owner (mode {:04o}); run chmod 600 on it",
            mode & 0o7777
        );
        let key = PrivateKeyDer::from_pem_slice(&read_bounded(&key_path)?)
            .with_context(|| format!("{KEY_FILE} holds no PEM private key"))?;
        let token_path = directory.join(TOKEN_FILE);
        let token = match token_path.try_exists() {
            Ok(false) => None,
            Ok(true) | Err(_) => Some(read_bounded(&token_path)?),
        };
        Self::new(TrustRoot::new(root)?, chain, key, token, clock)
    }

    /// Puts credentials together from their parts.
    ///
    /// Whether peers would accept them is not checked; see [`Credentials::check`].
    ///
    /// # Errors
    /// The chain is empty, its first certificate names nobody, or the key is another one's.
    pub fn new(
        root: TrustRoot,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        relay_token: Option<Vec<u8>>,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let Some(own) = chain.first() else {
            bail!("there is no certificate");
        };
        let facts = Facts::parse(own).context("cannot read the own certificate")?;
        let (_, identity) = facts.identity().context("cannot use the own certificate")?;
        let key = provider()
            .key_provider
            .load_private_key(key)
            .context("cannot use the private key")?;
        let certified = CertifiedKey::new(chain, key);
        certified
            .keys_match()
            .with_context(|| format!("the private key does not belong to {identity}"))?;
        Ok(Self {
            root: Arc::new(root),
            identity,
            spki_sha256: facts.spki_sha256,
            certified: Arc::new(ArcSwap::from_pointee(certified)),
            relay_token: relay_token.map(Arc::from),
            clock,
            revoked: Arc::default(),
        })
    }

    /// Judges these credentials as a peer under the same root would.
    ///
    /// # Errors
    /// What such a peer would say.
    pub fn check(&self) -> Result<Peer, PeerError> {
        let verifier = self.verifier(Expected::Exactly(self.identity.clone()));
        match self.certified.load().cert.split_first() {
            Some((own, presented)) => verifier
                .verify(own, presented, Usage::Client)
                .and_then(|_| verifier.verify(own, presented, Usage::Server)),
            // `new` has seen the first certificate.
            None => Err(PeerError {
                claim: Claim(None),
                fault: PeerFault::Encoding,
            }),
        }
    }

    /// Who this process is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The name of the root.
    #[must_use]
    pub fn root_name(&self) -> &Label {
        self.root.name()
    }

    /// The root that peers are verified against.
    #[must_use]
    pub fn root(&self) -> &TrustRoot {
        &self.root
    }

    /// The hash of this process's public key.
    #[must_use]
    pub const fn spki_sha256(&self) -> KeyHash {
        self.spki_sha256
    }

    /// The token that relays ask for; relays themselves have none.
    #[must_use]
    pub fn relay_token(&self) -> Option<&[u8]> {
        self.relay_token.as_deref()
    }

    /// The clock that certificates and tokens are compared with.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What is revoked now.
    #[must_use]
    pub fn revoked(&self) -> Arc<RevocationSet> {
        self.revoked.load_full()
    }

    /// Replaces what is revoked, for all configurations made from these credentials.
    ///
    /// Handshakes see it from now on; ending sessions that exist is the caller's.
    pub fn set_revoked(&self, revoked: RevocationSet) {
        self.revoked.store(Arc::new(revoked));
    }

    /// The configuration for dialling `expected` and nobody else.
    ///
    /// # Errors
    /// The TLS library refuses its own parts; not to be expected.
    pub fn client_config(
        &self,
        expected: &Identity,
        alpn: &[u8],
    ) -> anyhow::Result<QuicClientConfig> {
        finish_client(self.client(expected)?, alpn)
    }

    /// The same for TLS over TCP.
    ///
    /// # Errors
    /// The TLS library refuses its own parts; not to be expected.
    pub fn tcp_client_config(
        &self,
        expected: &Identity,
        alpn: &[u8],
    ) -> anyhow::Result<ClientConfig> {
        Ok(restrict_client(self.client(expected)?, alpn))
    }

    fn client(&self, expected: &Identity) -> anyhow::Result<ClientConfig> {
        let verifier = self.verifier(Expected::Exactly(expected.clone()));
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .context("TLS 1.3 is not available")?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(self.resolver());
        Ok(config)
    }

    /// The configuration for being dialled by nodes, over any of `alpns`.
    ///
    /// # Errors
    /// The TLS library refuses its own parts; not to be expected.
    pub fn server_config(&self, alpns: &[&[u8]]) -> anyhow::Result<QuicServerConfig> {
        self.server_config_for(Expected::AnyNode, alpns)
    }

    /// The configuration for being dialled by whomever `expected` allows, over any of `alpns`.
    ///
    /// # Errors
    /// The TLS library refuses its own parts; not to be expected.
    pub fn server_config_for(
        &self,
        expected: Expected,
        alpns: &[&[u8]],
    ) -> anyhow::Result<QuicServerConfig> {
        finish_server(self.server(expected)?, alpns)
    }

    /// The configuration for being dialled by nodes in TLS over TCP.
    ///
    /// # Errors
    /// The TLS library refuses its own parts; not to be expected.
    pub fn tcp_server_config(&self, alpns: &[&[u8]]) -> anyhow::Result<ServerConfig> {
        Ok(restrict_server(self.server(Expected::AnyNode)?, alpns))
    }

    fn server(&self, expected: Expected) -> anyhow::Result<ServerConfig> {
        let verifier = self.verifier(expected);
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .context("TLS 1.3 is not available")?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.resolver());
        Ok(config)
    }

    /// The same, but showing another chain with another key, however wrong.
    #[cfg(test)]
    pub(crate) fn presenting(&self, chain: Vec<CertificateDer<'static>>, key: &[u8]) -> Self {
        let key = PrivateKeyDer::Pkcs8(key.to_vec().into());
        let key = provider().key_provider.load_private_key(key).unwrap();
        Self {
            certified: Arc::new(ArcSwap::from_pointee(CertifiedKey::new(chain, key))),
            ..self.clone()
        }
    }

    /// The same, but trusting another root.
    #[cfg(test)]
    pub(crate) fn trusting(&self, root: TrustRoot) -> Self {
        Self {
            root: Arc::new(root),
            ..self.clone()
        }
    }

    /// A secret that only the holder of the private key can make, the same after every restart.
    ///
    /// It is the hash of a signature over the purpose, which Ed25519 makes the same each time
    /// (RFC 8032, section 5.1.6); what TLS signs begins with 64 spaces (RFC 8446, section 4.4.3), so
    /// the two never meet.
    ///
    /// # Errors
    /// The key cannot sign; not to be expected.
    pub fn lasting_secret(&self, purpose: &str) -> anyhow::Result<[u8; 32]> {
        let signer = self
            .certified
            .load()
            .key
            .choose_scheme(&[SignatureScheme::ED25519]);
        let signer = signer.context("the private key is no Ed25519 key")?;
        let signature = signer
            .sign(purpose.as_bytes())
            .context("the private key cannot sign")?;
        let hash = digest::digest(&digest::SHA256, &signature);
        hash.as_ref()
            .try_into()
            .context("a SHA-256 hash has 32 bytes")
    }

    pub(super) const fn certified(&self) -> &Arc<ArcSwap<CertifiedKey>> {
        &self.certified
    }

    pub(super) fn verifier(&self, expected: Expected) -> Verifier {
        Verifier::new(
            Arc::clone(&self.root),
            expected,
            self.clock.clone(),
            Arc::clone(&self.revoked),
        )
    }

    fn resolver(&self) -> Arc<Resolver> {
        Arc::new(Resolver::new(Arc::clone(&self.certified), None))
    }

    /// Shows root's certificate behind the own chain, to those who know no more than its hash.
    pub(crate) fn resolver_with_root(&self) -> Arc<dyn ResolvesServerCert> {
        let root = self.root.certificate().clone();
        Arc::new(Resolver::new(Arc::clone(&self.certified), Some(root)))
    }
}

pub(crate) fn finish_client(config: ClientConfig, alpn: &[u8]) -> anyhow::Result<QuicClientConfig> {
    QuicClientConfig::try_from(restrict_client(config, alpn)).context("cannot use TLS in QUIC")
}

/// What all who dial have in common: nothing is resumed, no name is sent.
fn restrict_client(mut config: ClientConfig, alpn: &[u8]) -> ClientConfig {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config
}

pub(crate) fn finish_server(
    config: ServerConfig,
    alpns: &[&[u8]],
) -> anyhow::Result<QuicServerConfig> {
    QuicServerConfig::try_from(restrict_server(config, alpns)).context("cannot use TLS in QUIC")
}

/// What all who are dialled have in common: nothing is resumed.
fn restrict_server(mut config: ServerConfig, alpns: &[&[u8]]) -> ServerConfig {
    config.alpn_protocols = alpns.iter().map(|alpn| alpn.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    // Without AES instructions the own order, ChaCha20 first, is the better one.
    config.ignore_client_order = !has_aes();
    config
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither key nor token are for logs.
        f.debug_struct("Credentials")
            .field("root", self.root.name())
            .field("identity", &self.identity)
            .field("spki_sha256", &self.spki_sha256)
            .finish_non_exhaustive()
    }
}

fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(MAX_FILE_LEN + 1)
            .read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        bytes.len() as u64 <= MAX_FILE_LEN,
        "{} is larger than {MAX_FILE_LEN} bytes",
        path.display()
    );
    Ok(bytes)
}
