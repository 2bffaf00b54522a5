//! The daemon's part of the session with the cluster: what is said, and what follows from what is
//! heard.
//!
//! Several events that have come are taken in before anything follows from them. Then, in this
//! order: what must not be believed twice is kept on disk, the table is built and used, peers are
//! shown what has changed, rows are kept on disk, whoever waits is answered.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use weald_proto::codec::Message as _;
use weald_proto::id::NodeId;
use weald_proto::name::ApplicationName;
use weald_proto::session::{ClusterToNet, NetToCluster, PeerToPeer, VERSION};
use weald_proto::stream::framed;

use super::{Daemon, addresses};
use crate::api::hosting::AttachedReport;
use crate::api::inspect::Reply;
use crate::api::message::ApiError;
use crate::api::report::ClusterReport;
use crate::driver::Heard;

/// How long whoever attaches an instance waits for the rows of its application.
const ROWS_TIMEOUT: Duration = Duration::from_millis(1500);
/// How often own addresses and what has run out are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);

/// The session with the cluster, as the daemon's thread sees it.
#[derive(Debug, Default)]
pub(super) struct ClusterSession {
    /// Where the cluster was reached; none while it is not.
    reached: Option<SocketAddr>,
    /// What it said of the address that it sees; none before it welcomed this node.
    pub(super) observed: Option<SocketAddr>,
    reason: Option<String>,
    report: Arc<ArcSwap<ClusterReport>>,
    own_addresses: Vec<SocketAddr>,
    looked_at: Option<Instant>,
    /// Peers whose packets wait for what they have shown.
    judged: BTreeSet<NodeId>,
    waiting: Vec<Waiting>,
    has_news: bool,
    /// The epoch of the list of the revoked that relays are told.
    told_relays: u64,
    /// When the cluster may be asked again for a new certificate.
    pub(super) asked_for_certificate: Option<Instant>,
}

/// Somebody who has attached an instance and waits for the rows of its application.
#[derive(Debug)]
struct Waiting {
    application: ApplicationName,
    until: Instant,
    report: AttachedReport,
    reply: Reply<Result<AttachedReport, ApiError>>,
}

impl ClusterSession {
    /// Whether the cluster is there and has taken this node in.
    pub(super) const fn is_welcomed(&self) -> bool {
        self.observed.is_some()
    }

    /// How the session is, for the API.
    pub(super) fn report(&self) -> Arc<ArcSwap<ClusterReport>> {
        Arc::clone(&self.report)
    }

    fn publish(&self) {
        self.report.store(Arc::new(ClusterReport {
            reached: self.reached,
            observed: self.observed,
            reason: self.reason.clone(),
        }));
    }
}

impl Daemon {
    /// Takes what the packet thread has heard.
    pub(super) fn hear(&mut self, heard: Heard) {
        let now = self.unix_now();
        match heard {
            Heard::ClusterUp(address) => self.greet(address),
            Heard::ClusterDown(reason) => {
                if self.session.reached.take().is_some() {
                    tracing::info!(why = %reason, "the cluster is lost; going on from what is known");
                }
                self.session.observed = None;
                self.session.reason = Some(reason);
            }
            Heard::Cluster(message) => self.hear_cluster(*message, now),
            Heard::Guest(node) => {
                if let Some(source) = self.keeper.rows() {
                    source.take_guest(node);
                    self.session.has_news = true;
                }
            }
            Heard::Peer(node, message) => self.hear_peer(&node, *message, now),
            Heard::Relay(relay, list) => {
                let source = self.keeper.rows();
                if source.is_some_and(|source| source.hear_relay(&relay, &list, now)) {
                    self.session.has_news = true;
                }
            }
        }
        self.session.publish();
        self.tell_names();
    }

    fn hear_cluster(&mut self, message: ClusterToNet, now: u64) {
        if let ClusterToNet::Renewed(answer) = message {
            self.take_certificate(answer);
            return;
        }
        if let ClusterToNet::Welcome {
            observed,
            relay_token,
            ..
        } = &message
        {
            tracing::info!(%observed, "welcomed by the cluster");
            self.session.observed = Some(*observed);
            self.session.reason = None;
            let _ = self.packets.handle().set_relay_token(relay_token.clone());
        }
        let Some(source) = self.keeper.rows() else {
            return;
        };
        source.hear(message, now);
        self.session.has_news = true;
    }

    fn hear_peer(&mut self, node: &NodeId, message: PeerToPeer, now: u64) {
        if self.hear_bench(node, &message) {
            return;
        }
        let Some(source) = self.keeper.rows() else {
            return;
        };
        if let PeerToPeer::Hello { revocations, .. } = message {
            let newer = source.epochs().1 > revocations;
            let list = source.judge().signed_revocations().filter(|_| newer);
            let list = list.cloned().map(PeerToPeer::Revocations);
            if let Some(Ok(list)) = list.map(|list| list.encode()) {
                let _ = self.packets.handle().tell_peer(node.clone(), framed(&list));
            }
            return;
        }
        let is_lease = matches!(message, PeerToPeer::Lease(_));
        if source.hear_peer(node, message, now) {
            self.session.has_news = true;
        }
        // Believed or not, nothing more is to be waited for.
        if is_lease {
            self.session.judged.insert(node.clone());
        }
    }

    /// The first words of a session.
    fn greet(&mut self, address: SocketAddr) {
        tracing::info!(%address, "the cluster is reached");
        self.session.reached = Some(address);
        self.session.own_addresses = self.own_addresses();
        let addresses = self.session.own_addresses.clone();
        let Some(source) = self.keeper.rows() else {
            return;
        };
        let (lease, revocations) = source.epochs();
        let interests = source.interests.all().into_iter().collect();
        self.say(&NetToCluster::Hello {
            version: VERSION,
            addresses,
            lease,
            revocations,
        });
        self.say(&NetToCluster::Interests(interests));
    }

    pub(super) fn say(&self, message: &NetToCluster) {
        match message.encode() {
            Ok(bytes) => drop(self.packets.handle().say_to_cluster(framed(&bytes))),
            Err(error) => tracing::error!(%error, "cannot say something to the cluster"),
        }
    }

    fn own_addresses(&self) -> Vec<SocketAddr> {
        let pools = &self.keeper.table().pools;
        let advertised = &self.config.paths.advertise;
        addresses::own(self.listen, advertised, |ip| pools.contains(ip))
    }

    /// Somebody has asked for a name of an application.
    pub(super) fn ask_for(&mut self, application: &ApplicationName) {
        let Some(source) = self.keeper.rows() else {
            return;
        };
        if source.interests.ask(application, Instant::now()) {
            self.say_interests();
        }
    }

    /// Brings the interests in line with what is attached.
    pub(super) fn follow_attached(&mut self) {
        let own = self.keeper.attached().iter();
        let own = own.map(|attached| attached.instance.service.application.clone());
        let own = own.collect();
        let can_ask = self.session.observed.is_some();
        if let Some(source) = self.keeper.rows()
            && source.interests.set_own(own)
        {
            // What is dropped while the cluster cannot be asked could not be had again.
            if can_ask {
                source.store.keep_only(&source.interests.all());
                source.is_dirty = true;
                self.session.has_news = true;
            }
            self.say_interests();
        }
    }

    fn say_interests(&mut self) {
        if let Some(source) = self.keeper.rows() {
            let interests = source.interests.all().into_iter().collect();
            self.say(&NetToCluster::Interests(interests));
        }
    }

    /// Answers whoever has attached an instance, now or when the rows of its application are there.
    pub(super) fn answer_attached(
        &mut self,
        report: AttachedReport,
        application: ApplicationName,
        reply: Reply<Result<AttachedReport, ApiError>>,
    ) {
        let is_reached = self.session.reached.is_some();
        let waits = self
            .keeper
            .rows()
            .is_some_and(|source| is_reached && source.store.knowledge(&application).is_none());
        if !waits {
            reply.send(Ok(report));
            return;
        }
        self.session.waiting.push(Waiting {
            application,
            until: Instant::now() + ROWS_TIMEOUT,
            report,
            reply,
        });
    }

    /// When somebody has waited for long enough.
    pub(super) fn waiting_deadline(&self) -> Option<Instant> {
        self.session.waiting.iter().map(|one| one.until).min()
    }

    /// Does what follows from what was heard.
    pub(super) fn settle(&mut self) {
        self.look_around();
        self.care_for_certificate();
        if std::mem::take(&mut self.session.has_news) {
            self.keeper.keep_memory();
            self.use_rows();
            self.enforce();
            self.keeper.keep_rows();
        }
        for peer in std::mem::take(&mut self.session.judged) {
            let _ = self.packets.handle().release_peer(peer);
        }
        self.answer_waiting();
    }

    /// Uses the table that the rows make now.
    fn use_rows(&mut self) {
        let attached = self.keeper.attached().to_vec();
        let candidate = self.keeper.with_attached(attached);
        if self.keeper.is_in_use(&candidate) {
            return;
        }
        match self.update_overlay(&candidate) {
            Ok(()) => self.use_table(candidate),
            Err(error) => self.keeper.refuse(candidate, &error),
        }
    }

    /// Shows peers what has changed, and cuts those that are revoked.
    fn enforce(&mut self) {
        let me = self.identified.node.clone();
        let Some(source) = self.keeper.rows() else {
            return;
        };
        let shown = source.shown(&me);
        let revoked = source.judge().revocation_set();
        let clusters = source.revoked_clusters();
        let newest = source.revoked();
        let handle = self.packets.handle();
        let _ = handle.show_peers(shown);
        if *self.identified.credentials.revoked() != revoked {
            self.identified.credentials.set_revoked(revoked);
            let _ = handle.cut_revoked(clusters);
        }
        if newest.epoch > self.session.told_relays {
            self.session.told_relays = newest.epoch;
            let _ = handle.set_revoked(newest);
        }
    }

    fn answer_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.session.waiting);
        let now = Instant::now();
        for one in waiting {
            let is_known = self
                .keeper
                .rows()
                .is_none_or(|source| source.store.knowledge(&one.application).is_some());
            if is_known || now >= one.until {
                one.reply.send(Ok(one.report));
            } else {
                self.session.waiting.push(one);
            }
        }
    }

    /// Looks now and then at what nobody tells: own addresses, and what has run out.
    fn look_around(&mut self) {
        let now = Instant::now();
        let looked_at = self.session.looked_at;
        if looked_at.is_some_and(|at| now < at + LOOK_INTERVAL) {
            return;
        }
        self.session.looked_at = Some(now);
        let is_connected = self.session.observed.is_some();
        let unix_now = self.unix_now();
        let Some(source) = self.keeper.rows() else {
            return;
        };
        if source.expire(unix_now, now, is_connected) {
            self.say_interests();
        }
        if self.keeper.rows().is_some_and(|source| source.is_dirty) {
            self.session.has_news = true;
        }
        let addresses = self.own_addresses();
        if is_connected && addresses != self.session.own_addresses {
            self.say(&NetToCluster::Addresses(addresses.clone()));
            self.session.own_addresses = addresses;
        }
    }

    fn unix_now(&self) -> u64 {
        self.identified.credentials.clock().now().as_secs()
    }
}
