//! The process of a cluster's orchestrator.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use orchestrator_core::addresses::Plan;
use orchestrator_core::cluster::{Input, Settings};
use quinn::Endpoint;
use weald_metrics::Port;
use weald_proto::addr::Pools;
use weald_proto::control::{CLUSTER_ALPN, ClusterToRoot, ROOT_ALPN};
use weald_proto::id::{Identity, Label, NodeId, RelayId};
use weald_proto::join::{JoinRequest, JoinResponse, JoinRole};
use weald_proto::name::Zone;
use weald_proto::session::ALPN as SESSION_ALPN;
use weald_proto::spec::Place;
use weald_trust::join::{fingerprint, server_config as join_config};
use weald_trust::pki::folder::load_cluster;
use weald_trust::pki::{ClusterAuthority, Lives};
use weald_trust::tls::{Clock, Expected};

use super::root::watch_revoked;
use crate::cluster::{self, ClusterHandle, Thread};
use crate::join::{self, JoinDesk};
use crate::keys::{Authority, ClusterKeys, Keys};
use crate::link;
use crate::metrics::{self, Counted};
use crate::renewal::{ClusterRenewal, Issuer};
use crate::store::{SqliteStore, StateStore};

/// What a cluster is started with.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Its folder, in which it has joined.
    pub folder: PathBuf,
    /// Where root is; empty for what joining has kept.
    pub root: Vec<String>,
    /// Where workers and netmanagers dial.
    pub listen: SocketAddr,
    /// Where workers and relays join.
    pub join: SocketAddr,
    /// What tokens say where to dial; empty for the address of `join`.
    pub advertise: Vec<String>,
    /// The relays of the cluster.
    pub relays: Vec<(RelayId, Vec<SocketAddr>)>,
    /// Where it is.
    pub place: Option<Place>,
    /// Where figures are read, on loopback; none for nowhere.
    pub metrics: Option<SocketAddr>,
}

/// A cluster that runs.
#[derive(Debug)]
pub struct RunningCluster {
    /// Speaks to it.
    pub handle: ClusterHandle,
    /// Its invitations.
    pub desk: Arc<JoinDesk>,
    /// Where workers and netmanagers dial.
    pub control: Endpoint,
    /// Where workers and relays join.
    pub joining: Endpoint,
    /// What tokens say where to dial.
    pub advertise: Vec<String>,
    /// Where figures are read, if anywhere, until this is dropped.
    pub metrics: Option<Port>,
    /// Ends when the machine does.
    pub thread: Thread,
    authority: ClusterKeys,
}

/// Invites workers and relays to a cluster.
#[derive(Debug, Clone)]
pub struct Inviter {
    desk: Arc<JoinDesk>,
    advertise: Vec<String>,
    authority: ClusterKeys,
}

/// The name of the cluster that has joined in a folder.
///
/// # Errors
/// None has, or its files cannot be used.
pub fn cluster_name(folder: &Path) -> anyhow::Result<Label> {
    let authority = load_cluster(folder).context("join first")?;
    Ok(authority.name().clone())
}

impl RunningCluster {
    /// Invites workers and relays, on any thread.
    #[must_use]
    pub fn inviter(&self) -> Inviter {
        Inviter {
            desk: Arc::clone(&self.desk),
            advertise: self.advertise.clone(),
            authority: self.authority.clone(),
        }
    }
}

impl Inviter {
    /// Invites workers or relays.
    ///
    /// # Errors
    /// The book does not take it.
    pub fn invite(&self, role: JoinRole, uses: (u32, Duration)) -> anyhow::Result<String> {
        let authority = self.authority.now();
        let root = fingerprint(authority.trust().certificate());
        let name = authority.name().clone();
        let issued = self.desk.issue(role, name, root, &self.advertise, uses);
        issued.map(|(_, text)| text)
    }
}

/// Starts a cluster on the present tokio runtime.
///
/// # Errors
/// Its folder cannot be used, or a port cannot be opened.
pub fn cluster(options: &ClusterOptions) -> anyhow::Result<RunningCluster> {
    cluster_with_lives(options, Lives::default())
}

/// Starts a cluster; the certificates that it issues live for so long.
///
/// # Errors
/// As [`cluster()`].
pub fn cluster_with_lives(
    options: &ClusterOptions,
    lives: Lives,
) -> anyhow::Result<RunningCluster> {
    let authority = load_cluster(&options.folder).context("join first")?;
    let living = ClusterKeys::new(authority.with_lives(lives));
    let authority = living.now();
    let name = authority.name().clone();
    let desk = Arc::new(JoinDesk::open(&options.folder)?);
    let root = super::upper(&options.folder, &options.root)?;
    let identity = Identity::Control(name.clone());
    let own = authority.issue(&identity, SystemTime::now())?;
    let own = own.credentials(None, Clock::system())?;
    let store = Box::new(SqliteStore::open(
        &options.folder,
        &format!("cluster {name}"),
    )?);
    let records = store.load()?;
    let keys = Keys::restore(Authority::Cluster(living.clone()), &records)?;
    let members = Expected::MemberOf(name.clone());
    let crypto = own.server_config_for(members, &[CLUSTER_ALPN, SESSION_ALPN])?;
    let reset = super::reset_key(&authority.sign(super::RESET_PURPOSE)?);
    let control = link::listen(options.listen, link::server_config(crypto), &reset)?;
    let joining = link::listen(
        options.join,
        link::server_config(join_config(&own)?),
        &reset,
    )?;
    let settings = Settings {
        name,
        place: options.place,
        plan: Plan::default(),
        pools: Pools::default(),
        zones: Zone::defaults(),
    };
    let store = Counted::new(store);
    let commits = store.commits();
    let judged = keys.clone();
    let (handle, lines, thread) = cluster::start(settings, keys, Box::new(store), &records)?;
    let cutting = Arc::clone(&lines);
    watch_revoked(judged, own.clone(), move |it| cutting.cut(it));
    let (told, seen) = (handle.clone(), Arc::clone(&lines));
    let figures = move || {
        let (told, seen, commits) = (told.clone(), Arc::clone(&seen), Arc::clone(&commits));
        async move {
            let figures = cluster::figures(&told, &seen).await.ok()?;
            Some(figures.text(&commits))
        }
    };
    let metrics = options.metrics.map(|at| metrics::serve(at, figures));
    let metrics = metrics.transpose()?;
    handle.tell(Input::Relays(options.relays.clone()));

    let dialling = Endpoint::client((Ipv6Addr::UNSPECIFIED, 0).into())?;
    let (told, upwards) = (handle.clone(), Arc::clone(&lines));
    let issuer = Authority::Cluster(living.clone());
    let issuer = Issuer::new(issuer, Arc::clone(&desk), own.clone());
    let renewal = ClusterRenewal {
        keys: living.clone(),
        own: own.clone(),
        folder: options.folder.clone(),
    };
    let (kept, said) = (renewal.clone(), Arc::clone(&lines));
    tokio::spawn(async move {
        let ask = |request| said.say_to_root(&ClusterToRoot::Renew(request));
        kept.keep(ask).await;
    });
    tokio::spawn(async move {
        let config = || {
            let crypto = own.client_config(&Identity::Root, ROOT_ALPN)?;
            Ok(link::client_config(crypto))
        };
        cluster::talk_to_root(&dialling, &root, config, &told, (&upwards, &renewal)).await;
    });
    let (endpoint, told) = (control.clone(), handle.clone());
    tokio::spawn(async move { cluster::serve_nodes(&endpoint, told, lines, issuer).await });
    let endpoint = joining.clone();
    let (issuer, invited) = (living.clone(), Arc::clone(&desk));
    tokio::spawn(async move {
        let admit = move |request: JoinRequest| {
            let admitted = admit(&request, &issuer.now(), &invited);
            admitted.unwrap_or_else(|error| JoinResponse::Refused {
                text: format!("{error:#}"),
            })
        };
        join::serve(&endpoint, admit).await;
    });
    let advertise = match options.advertise.as_slice() {
        [] => vec![joining.local_addr()?.to_string()],
        some => some.to_vec(),
    };
    Ok(RunningCluster {
        handle,
        desk,
        control,
        joining,
        advertise,
        metrics,
        thread,
        authority: living,
    })
}

/// Lets a worker or relay in: the token, then its certificate.
fn admit(
    request: &JoinRequest,
    authority: &ClusterAuthority,
    desk: &JoinDesk,
) -> anyhow::Result<JoinResponse> {
    let (cluster, name) = (authority.name().clone(), request.name.clone());
    let identity = match request.role {
        JoinRole::Worker => Identity::Node(NodeId::new(cluster, name)),
        JoinRole::Relay => Identity::Relay(RelayId::new(cluster, name)),
        JoinRole::Cluster => anyhow::bail!("clusters join at root, not at another cluster"),
    };
    let issue = || authority.issue_for_csr(&identity, &request.csr, SystemTime::now());
    let chain = desk.redeem(request, issue)?;
    Ok(JoinResponse::Admitted {
        chain: chain.ders().into_iter().map(|der| der.to_vec()).collect(),
        ca: authority.trust().certificate().to_vec(),
    })
}
