//! The process of a cluster's orchestrator.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use orchestrator_core::addresses::Plan;
use orchestrator_core::cluster::{Input, Settings};
use quinn::Endpoint;
use weald_proto::addr::Pools;
use weald_proto::control::{CLUSTER_ALPN, ROOT_ALPN};
use weald_proto::id::{Identity, Label, NodeId, RelayId};
use weald_proto::join::{JoinRequest, JoinResponse, JoinRole};
use weald_proto::name::Zone;
use weald_proto::session::ALPN as SESSION_ALPN;
use weald_proto::spec::Place;
use weald_trust::join::{fingerprint, server_config as join_config};
use weald_trust::pki::ClusterAuthority;
use weald_trust::pki::folder::load_cluster;
use weald_trust::tls::{Clock, Expected};

use super::root::watch_revoked;
use crate::cluster::{self, ClusterHandle, Thread};
use crate::join::{self, JoinDesk};
use crate::keys::{Authority, Keys};
use crate::link;
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
    /// Ends when the machine does.
    pub thread: Thread,
    authority: Arc<ClusterAuthority>,
}

/// Invites workers and relays to a cluster.
#[derive(Debug, Clone)]
pub struct Inviter {
    desk: Arc<JoinDesk>,
    advertise: Vec<String>,
    authority: Arc<ClusterAuthority>,
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
            authority: Arc::clone(&self.authority),
        }
    }
}

impl Inviter {
    /// Invites workers or relays.
    ///
    /// # Errors
    /// The book does not take it.
    pub fn invite(&self, role: JoinRole, uses: (u32, Duration)) -> anyhow::Result<String> {
        let root = fingerprint(self.authority.trust().certificate());
        let name = self.authority.name().clone();
        let issued = self.desk.issue(role, name, root, &self.advertise, uses);
        issued.map(|(_, text)| text)
    }
}

/// Starts a cluster on the present tokio runtime.
///
/// # Errors
/// Its folder cannot be used, or a port cannot be opened.
pub fn cluster(options: &ClusterOptions) -> anyhow::Result<RunningCluster> {
    let authority = Arc::new(load_cluster(&options.folder).context("join first")?);
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
    let keys = Keys::restore(Authority::Cluster(Arc::clone(&authority)), &store.load()?)?;
    watch_revoked(keys.clone(), own.clone());
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
    let (handle, lines, thread) = cluster::start(settings, keys, store)?;
    handle.tell(Input::Relays(options.relays.clone()));

    let dialling = Endpoint::client((Ipv6Addr::UNSPECIFIED, 0).into())?;
    let (told, upwards) = (handle.clone(), Arc::clone(&lines));
    tokio::spawn(async move {
        let config = || {
            let crypto = own.client_config(&Identity::Root, ROOT_ALPN)?;
            Ok(link::client_config(crypto))
        };
        cluster::talk_to_root(&dialling, &root, config, &told, &upwards).await;
    });
    let (endpoint, told) = (control.clone(), handle.clone());
    tokio::spawn(async move { cluster::serve_nodes(&endpoint, told, lines).await });
    let endpoint = joining.clone();
    let (issuer, invited) = (Arc::clone(&authority), Arc::clone(&desk));
    tokio::spawn(async move {
        let admit = move |request: JoinRequest| {
            let admitted = admit(&request, &issuer, &invited);
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
        thread,
        authority,
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
    desk.redeem(request)?;
    let chain = authority.issue_for_csr(&identity, &request.csr, SystemTime::now())?;
    Ok(JoinResponse::Admitted {
        chain: chain.ders().into_iter().map(|der| der.to_vec()).collect(),
        ca: authority.trust().certificate().to_vec(),
    })
}
