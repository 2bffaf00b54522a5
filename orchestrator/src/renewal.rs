//! Certificates live on: whoever issues them answers on the links, whoever has one asks in time.
//!
//! What is asked and checked is weald-trust's `renewal`; here is when, and over which link.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use weald_proto::join::{RenewRequest, RenewResponse};
use weald_trust::pki::RootAuthority;
use weald_trust::renewal::{Renewal, check, retry, take_cluster};
use weald_trust::tls::{Credentials, Peer};

use crate::join::JoinDesk;
use crate::keys::{Authority, ClusterKeys};

/// A machine may sleep while a timer runs: nothing is waited for longer at once.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// Gives members their next certificates.
#[derive(Debug, Clone)]
pub struct Issuer {
    authority: Authority,
    desk: Arc<JoinDesk>,
    own: Credentials,
}

impl Issuer {
    /// An issuer for those who have joined at a desk; what is revoked, the own credentials know.
    #[must_use]
    pub const fn new(authority: Authority, desk: Arc<JoinDesk>, own: Credentials) -> Self {
        Self {
            authority,
            desk,
            own,
        }
    }

    /// Answers whoever has proved to be `peer`.
    #[must_use]
    pub fn answer(&self, peer: &Peer, request: &RenewRequest) -> RenewResponse {
        match self.renew(peer, request) {
            Ok(chain) => {
                tracing::info!(peer = %peer.identity, "certificate renewed");
                RenewResponse::Renewed { chain }
            }
            Err(error) => {
                tracing::warn!(peer = %peer.identity, "certificate not renewed: {error:#}");
                let text = format!("{error:#}");
                RenewResponse::Refused { text }
            }
        }
    }

    fn renew(&self, peer: &Peer, request: &RenewRequest) -> anyhow::Result<Vec<Vec<u8>>> {
        check(peer, request, &self.own.revoked())?;
        self.desk.knows(request)?;
        let (csr, now) = (&request.csr, SystemTime::now());
        let chain = match &self.authority {
            Authority::Root(root) => vec![root.cluster_for(&request.name, csr, now)?.der],
            Authority::Cluster(cluster) => {
                let chain = cluster.now().issue_for_csr(&peer.identity, csr, now)?;
                chain.ders()
            }
        };
        Ok(chain.into_iter().map(|der| der.to_vec()).collect())
    }
}

/// Has a member's certificate live on, for ever; `ask` says something to the cluster if it is
/// connected, and the answer is [`heard`].
pub async fn keep_member(renewal: &Renewal, ask: impl Fn(RenewRequest)) {
    loop {
        match renewal.wanted() {
            Ok(Some(request)) => ask(request),
            Ok(None) => {}
            Err(error) => tracing::warn!("cannot renew the own certificate: {error:#}"),
        }
        pause(renewal.credentials()).await;
    }
}

/// Takes the cluster's answer; the file is written on a thread of its own.
pub fn heard(renewal: &Renewal, answer: RenewResponse) {
    let renewal = renewal.clone();
    tokio::task::spawn_blocking(move || match renewal.take(answer) {
        Ok(end) => tracing::info!(until = %weald_trust::tls::day(end), "certificate renewed"),
        Err(error) => tracing::warn!("the own certificate is not renewed: {error:#}"),
    });
}

/// A cluster's certificate in its folder, and that of its orchestrator.
#[derive(Debug, Clone)]
pub struct ClusterRenewal {
    /// The cluster's authority.
    pub keys: ClusterKeys,
    /// What its orchestrator shows; nobody else has to issue it.
    pub own: Credentials,
    /// Where the authority is kept.
    pub folder: PathBuf,
}

impl ClusterRenewal {
    /// Has both live on, for ever; `ask` says something to root if it is connected.
    pub async fn keep(&self, ask: impl Fn(RenewRequest)) {
        loop {
            if let Err(error) = self.look(&ask) {
                tracing::warn!("cannot renew the own certificates: {error:#}");
            }
            let now = self.own.clock().now();
            let keys = self.keys.now();
            let pauses = [
                pause_of(&self.own),
                until(now, keys.renewal_due().ok(), keys.not_after().ok()),
            ];
            tokio::time::sleep(pauses.into_iter().min().unwrap_or(LONGEST_PAUSE)).await;
        }
    }

    fn look(&self, ask: &impl Fn(RenewRequest)) -> anyhow::Result<()> {
        let (keys, now) = (self.keys.now(), self.own.clock().now());
        if now >= keys.renewal_due()? {
            ask(keys.renewal_request()?);
        }
        if now >= self.own.renewal_due()? {
            self.renew_own()?;
        }
        Ok(())
    }

    fn renew_own(&self) -> anyhow::Result<()> {
        let chain = self.keys.now().renew_own(&self.own, SystemTime::now())?;
        self.own.renew(chain.ders())
    }

    /// Takes root's answer; the file is written on a thread of its own.
    pub fn heard(&self, answer: RenewResponse) {
        let this = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = this.take(answer) {
                tracing::warn!("the cluster's certificate is not renewed: {error:#}");
            }
        });
    }

    fn take(&self, answer: RenewResponse) -> anyhow::Result<()> {
        let renewed = take_cluster(&self.keys.now(), answer, &self.folder, self.own.clock())?;
        tracing::info!(until = %weald_trust::tls::day(renewed.not_after()?), "certificate renewed");
        self.keys.replace(renewed);
        self.renew_own()
    }
}

/// Has the certificate of root's own endpoint live on, for ever.
pub async fn keep_root(authority: &RootAuthority, own: &Credentials) {
    loop {
        let renewed = own.renewal_due().and_then(|due| {
            if own.clock().now() < due {
                return Ok(());
            }
            own.renew(authority.renew_root(own, SystemTime::now())?.ders())
        });
        if let Err(error) = renewed {
            tracing::warn!("cannot renew the certificate of root's endpoint: {error:#}");
        }
        pause(own).await;
    }
}

async fn pause(own: &Credentials) {
    tokio::time::sleep(pause_of(own)).await;
}

fn pause_of(own: &Credentials) -> Duration {
    until(
        own.clock().now(),
        own.renewal_due().ok(),
        own.not_after().ok(),
    )
}

/// How long to wait: until a renewal is due, or for the next attempt.
fn until(now: UnixTime, due: Option<UnixTime>, end: Option<UnixTime>) -> Duration {
    let (Some(due), Some(end)) = (due, end) else {
        return LONGEST_PAUSE;
    };
    if due > now {
        Duration::from_secs(due.as_secs() - now.as_secs()).min(LONGEST_PAUSE)
    } else {
        retry(now, end)
    }
}
