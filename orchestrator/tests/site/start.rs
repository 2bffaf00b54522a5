//! Root, clusters and workers in the process of a test, with what most tests have them started with:
//! on loopback, at ports of their own, and instances on the host's network. A test changes the options
//! that it is about.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use orchestrator::roles::{
    self, ClusterOptions, JoinOptions, RootOptions, RunningCluster, RunningRoot, WorkerOptions,
};
use quinn::Endpoint;
use weald_proto::id::{Label, Organisation};
use weald_proto::join::JoinRole;
use weald_proto::spec::Resources;

/// One may join, within ten minutes.
pub(super) const ONCE: (u32, Duration) = (1, Duration::from_secs(600));

pub(super) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

/// A port of loopback that nobody else has.
pub(super) fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Root `main`, whose clusters are `acme`'s.
pub(super) fn root_options(folder: &Path) -> RootOptions {
    RootOptions {
        folder: folder.to_owned(),
        name: label("main"),
        listen: any(),
        join: any(),
        advertise: Vec::new(),
        owner: Organisation(label("acme")),
        api: any(),
        api_tls: None,
        names: Vec::new(),
        compat_login: false,
        renew_secret: false,
    }
}

/// A cluster that has joined in a folder.
pub(super) fn cluster_options(folder: &Path) -> ClusterOptions {
    ClusterOptions {
        folder: folder.to_owned(),
        root: Vec::new(),
        listen: any(),
        join: any(),
        advertise: Vec::new(),
        relays: Vec::new(),
        place: None,
        metrics: None,
    }
}

/// A worker that has joined in a folder, with one processor and 500 MiB.
pub(super) fn worker_options(folder: &Path) -> WorkerOptions {
    WorkerOptions {
        folder: folder.to_owned(),
        cluster: Vec::new(),
        netmanager: None,
        offer: Some(Resources {
            millicpus: 1000,
            memory_mib: 500,
            ..Resources::default()
        }),
        supervisor: Some(env!("CARGO_BIN_EXE_weald").into()),
        metrics: None,
    }
}

/// Joins in a folder, for whoever is at `upper`.
pub(super) async fn join(
    token: &str,
    name: Option<&str>,
    folder: &Path,
    upper: &Endpoint,
) -> anyhow::Result<()> {
    roles::join(&JoinOptions {
        token: token.parse()?,
        name: name.map(label),
        folder: folder.to_owned(),
        upper: vec![upper.local_addr()?.to_string()],
    })
    .await
}

/// Has cluster `munich` join in a folder; returns the token that it has used up.
pub(super) async fn join_munich(root: &RunningRoot, folder: &Path) -> String {
    let token = root.invite(label("munich"), ONCE).unwrap();
    join(&token, None, folder, &root.control).await.unwrap();
    token
}

/// Has a worker join a cluster, as its node of that name.
pub(super) async fn join_worker(cluster: &RunningCluster, name: &str, folder: &Path) {
    let token = cluster.inviter().invite(JoinRole::Worker, ONCE).unwrap();
    join(&token, Some(name), folder, &cluster.control)
        .await
        .unwrap();
}
