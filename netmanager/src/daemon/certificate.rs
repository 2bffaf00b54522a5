//! The node's own certificate lives on: the cluster is asked on the session, in time.
//!
//! What is asked, checked and kept is weald-trust's `renewal`.

use std::time::Instant;

use weald_proto::join::RenewResponse;
use weald_proto::session::NetToCluster;
use weald_trust::renewal::{Renewal, retry};
use weald_trust::tls::{Credentials, day};

use super::Daemon;

impl Daemon {
    /// Asks for a new certificate when that is due; without a session it is asked for later.
    pub(super) fn care_for_certificate(&mut self) {
        let now = Instant::now();
        let asked = self.session.asked_for_certificate;
        if !self.session.is_welcomed() || asked.is_some_and(|again| now < again) {
            return;
        }
        match self.renewal().wanted() {
            Ok(None) => {}
            Ok(Some(request)) => self.say(&NetToCluster::Renew(request)),
            Err(error) => tracing::warn!("cannot renew the own certificate: {error:#}"),
        }
        let credentials: &Credentials = &self.identified.credentials;
        let end = credentials.not_after();
        let pause = end.map(|end| retry(credentials.clock().now(), end));
        self.session.asked_for_certificate = pause.ok().map(|pause| now + pause);
    }

    /// Takes the cluster's answer.
    pub(super) fn take_certificate(&mut self, answer: RenewResponse) {
        match self.renewal().take(answer) {
            Ok(end) => tracing::info!(until = %day(end), "certificate renewed"),
            Err(error) => tracing::warn!("the own certificate is not renewed: {error:#}"),
        }
    }

    fn renewal(&self) -> Renewal {
        let credentials = Credentials::clone(&self.identified.credentials);
        Renewal::new(credentials, self.config.pki.dir.clone())
    }
}
