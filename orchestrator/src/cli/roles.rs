//! `weald root`, `cluster`, `worker` and `join`.
//!
//! A role that is ready says so with one line of JSON on standard output: the role and its ports.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use weald_metrics::Port;
use weald_proto::id::{Label, Organisation, RelayId};
use weald_proto::join::JoinRole;
use weald_proto::spec::{Place, Resources};
use weald_trust::join::JoinToken;

use crate::desk::{self, Invite};
use crate::machine::MachineError;
use crate::roles::{self, ClusterOptions, JoinOptions, RootOptions, WorkerOptions};

/// The folders of the roles, unless told otherwise.
pub(super) const ROOT_FOLDER: &str = "/var/lib/weald/root";
pub(super) const CLUSTER_FOLDER: &str = "/var/lib/weald/cluster";
const WORKER_FOLDER: &str = "/var/lib/weald/worker";
/// Where a netmanager has its socket if nothing else is configured.
pub(super) const USUAL_SOCKET: &str = "/run/weald/netmanager.sock";

#[derive(Debug, Args)]
pub(super) struct RootArguments {
    /// Where keys and state are kept.
    #[arg(long, default_value = ROOT_FOLDER)]
    folder: PathBuf,
    /// The root's name, for its first start.
    #[arg(long, default_value = "main")]
    name: Label,
    /// The UDP address that clusters dial.
    #[arg(long, default_value = "[::]:10100")]
    listen: SocketAddr,
    /// The UDP address at which clusters join.
    #[arg(long, default_value = "[::]:10101")]
    join: SocketAddr,
    /// Where join tokens say that root is, as `host:port`; may be repeated.
    #[arg(long)]
    advertise: Vec<String>,
    /// The organisation that owns the clusters that join, and so their hosts' programs.
    #[arg(long, default_value = "root")]
    owner: Label,
    /// The TCP address of the REST API; beyond loopback it needs a certificate.
    #[arg(long, default_value = "127.0.0.1:10000")]
    api: SocketAddr,
    /// The file with the API's certificates, PEM.
    #[arg(long, requires = "api_key")]
    api_certificate: Option<PathBuf>,
    /// The file with the key of the API's certificate, PEM.
    #[arg(long, requires = "api_certificate")]
    api_key: Option<PathBuf>,
    /// A name of this host under which the API is asked; may be repeated.
    #[arg(long)]
    name_of_host: Vec<String>,
    /// Let `Admin` with the password `Admin` log in from loopback, for programs of the same user
    /// that cannot log in otherwise (the `oak` command of Oakestra).
    #[arg(long)]
    compat_login: bool,
    /// Show a new secret for the first account, in place of one that was lost.
    #[arg(long)]
    renew_secret: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ClusterArguments {
    /// What to ask root instead of running a cluster.
    #[command(subcommand)]
    pub(super) ask: Option<super::show::ClusterCommand>,
    /// Where keys and state are kept; the cluster has joined there.
    #[arg(long, default_value = CLUSTER_FOLDER)]
    folder: PathBuf,
    /// Where root is, as `host:port`, instead of what joining has kept; may be repeated.
    #[arg(long)]
    root: Vec<String>,
    /// The UDP address that workers and netmanagers dial.
    #[arg(long, default_value = "[::]:10110")]
    listen: SocketAddr,
    /// The UDP address at which workers and relays join.
    #[arg(long, default_value = "[::]:10111")]
    join: SocketAddr,
    /// Where join tokens say that the cluster is, as `host:port`; may be repeated.
    #[arg(long)]
    advertise: Vec<String>,
    /// A relay of the cluster, as `name=address:port[,address:port]`; may be repeated.
    #[arg(long)]
    relay: Vec<String>,
    /// Where the cluster is, as `latitude,longitude,radius_km`.
    #[arg(long, allow_hyphen_values = true)]
    place: Option<String>,
    /// A TCP address of loopback, as in 127.0.0.1:9101, where Prometheus reads figures under
    /// /metrics. Without it there are none.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(super) struct WorkerArguments {
    /// Where keys and state are kept; the worker has joined there.
    #[arg(long, default_value = WORKER_FOLDER)]
    folder: PathBuf,
    /// Where the cluster is, as `host:port`, instead of what joining has kept; may be repeated.
    #[arg(long)]
    cluster: Vec<String>,
    /// The netmanager's socket, or `none` for instances on the host's own network.
    #[arg(long, default_value = USUAL_SOCKET)]
    netmanager: String,
    /// Thousandths of processors that instances may have, instead of all of them.
    #[arg(long, requires = "memory")]
    millicpus: Option<u32>,
    /// MiB of memory that instances may have, instead of all of it.
    #[arg(long, requires = "millicpus")]
    memory: Option<u32>,
    /// A TCP address of loopback, as in 127.0.0.1:9102, where Prometheus reads figures under
    /// /metrics. Without it there are none.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(super) struct JoinArguments {
    /// The token, as `weald token create` has printed it.
    token: JoinToken,
    /// The node's or relay's name within its cluster; a cluster has its token's.
    #[arg(long)]
    name: Option<Label>,
    /// Where keys and certificates go, instead of the role's usual folder.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Where the role will dial, as `host:port`, instead of the token's hosts with the usual port; may
    /// be repeated.
    #[arg(long)]
    upper: Vec<String>,
}

pub(super) async fn root(arguments: RootArguments) -> anyhow::Result<()> {
    let running = roles::root(&RootOptions {
        folder: arguments.folder.clone(),
        name: arguments.name,
        listen: arguments.listen,
        join: arguments.join,
        advertise: arguments.advertise,
        owner: Organisation(arguments.owner),
        api: arguments.api,
        api_tls: arguments.api_certificate.zip(arguments.api_key),
        names: arguments.name_of_host,
        compat_login: arguments.compat_login,
        renew_secret: arguments.renew_secret,
    })
    .await?;
    let ready = json!({
        "ready": "root",
        "api": running.api.to_string(),
        "first_secret": running.first_secret,
        "control": running.control.local_addr()?.to_string(),
        "join": running.joining.local_addr()?.to_string(),
    });
    let (issuer, fingerprint) = (running.desk.clone(), running.fingerprint);
    let advertise = running.advertise.clone();
    let invite = move |invite: &Invite| {
        let Some(cluster) = invite.cluster.clone() else {
            bail!("name the cluster that is to join, with --cluster");
        };
        if invite.role != JoinRole::Cluster {
            bail!(
                "only clusters join at root; invite a {} at its cluster",
                invite.role
            );
        }
        let uses = invite.uses();
        let (_, text) = issuer.issue(invite.role, cluster, fingerprint, &advertise, uses)?;
        Ok(text)
    };
    let desk = running.desk.clone();
    serve(&arguments.folder, desk, invite, &ready, running.thread).await
}

pub(super) async fn cluster(arguments: ClusterArguments) -> anyhow::Result<()> {
    let mut options = ClusterOptions {
        folder: arguments.folder.clone(),
        root: arguments.root,
        listen: arguments.listen,
        join: arguments.join,
        advertise: arguments.advertise,
        relays: Vec::new(),
        place: arguments.place.as_deref().map(place).transpose()?,
        metrics: arguments.metrics,
    };
    let name = roles::cluster_name(&arguments.folder)?;
    for text in &arguments.relay {
        options.relays.push(relay(&name, text)?);
    }
    let running = roles::cluster(&options)?;
    let ready = json!({
        "ready": "cluster",
        "name": name,
        "control": running.control.local_addr()?.to_string(),
        "join": running.joining.local_addr()?.to_string(),
        "metrics": running.metrics.as_ref().map(Port::address),
    });
    let (desk, inviter) = (running.desk.clone(), running.inviter());
    let invite = move |invite: &Invite| {
        if invite.role == JoinRole::Cluster {
            bail!("clusters join at root; invite one there");
        }
        inviter.invite(invite.role, invite.uses())
    };
    serve(&arguments.folder, desk, invite, &ready, running.thread).await
}

pub(super) async fn worker(arguments: WorkerArguments) -> anyhow::Result<()> {
    let offer = arguments.millicpus.zip(arguments.memory);
    let offer = offer.map(|(millicpus, memory_mib)| Resources {
        millicpus,
        memory_mib,
        ..Resources::default()
    });
    let netmanager = match arguments.netmanager.as_str() {
        "none" => None,
        path => Some(PathBuf::from(path)),
    };
    let running = roles::worker(&WorkerOptions {
        folder: arguments.folder,
        cluster: arguments.cluster,
        netmanager,
        offer,
        supervisor: None,
        metrics: arguments.metrics,
    })?;
    let metrics = running.metrics.as_ref().map(Port::address);
    println!("{}", json!({ "ready": "worker", "metrics": metrics }));
    until_stopped(running.thread).await
}

pub(super) async fn join(arguments: JoinArguments, json: bool) -> anyhow::Result<()> {
    let role = arguments.token.role;
    let usual = match role {
        JoinRole::Cluster => CLUSTER_FOLDER,
        JoinRole::Worker | JoinRole::Relay => WORKER_FOLDER,
    };
    let folder = arguments.folder.unwrap_or_else(|| usual.into());
    let options = JoinOptions {
        token: arguments.token,
        name: arguments.name,
        folder,
        upper: arguments.upper,
    };
    roles::join(&options).await?;
    let folder = options.folder.display().to_string();
    if json {
        println!(
            "{}",
            json!({ "joined": role.to_string(), "folder": folder })
        );
    } else {
        println!("joined as a {role}; keys and certificates are in {folder}");
    }
    Ok(())
}

/// Serves the desk's socket, says that the role is ready, and waits for its end.
async fn serve(
    folder: &std::path::Path,
    issuer: std::sync::Arc<crate::join::JoinDesk>,
    invite: impl Fn(&Invite) -> anyhow::Result<String> + Send + Sync + 'static,
    ready: &serde_json::Value,
    thread: std::thread::JoinHandle<Result<(), MachineError>>,
) -> anyhow::Result<()> {
    let _socket = desk::serve(folder, issuer, invite)?;
    println!("{ready}");
    until_stopped(thread).await
}

/// Waits for SIGTERM or SIGINT, or for the end of the machine, which is a failure.
///
/// Nothing is to be done at the end: what was said is persisted.
async fn until_stopped(
    thread: std::thread::JoinHandle<Result<(), MachineError>>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    weald_memory::settle();
    let ended = tokio::task::spawn_blocking(move || thread.join());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = ended => match ended? {
            Ok(ended) => ended?,
            Err(_) => bail!("the role's thread has panicked; its log says where"),
        },
    }
    tracing::info!("stopping");
    // The thread that waits for the machine would keep the runtime from ending.
    std::process::exit(0);
}

fn place(text: &str) -> anyhow::Result<Place> {
    let numbers: Vec<f64> = text
        .split(',')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()
        .filter(|numbers: &Vec<f64>| numbers.iter().all(|it| it.is_finite()))
        .unwrap_or_default();
    match numbers.as_slice() {
        [latitude, longitude, radius_km]
            if latitude.abs() <= 90.0 && longitude.abs() <= 180.0 && *radius_km >= 0.0 =>
        {
            Ok(Place {
                latitude: *latitude,
                longitude: *longitude,
                radius_km: *radius_km,
            })
        }
        _ => bail!("--place {text:?}: write latitude,longitude,radius_km, as in 48.15,11.57,20"),
    }
}

fn relay(cluster: &Label, text: &str) -> anyhow::Result<(RelayId, Vec<SocketAddr>)> {
    let form = || format!("--relay {text:?}: write name=address:port[,address:port]");
    let (name, addresses) = text.split_once('=').with_context(form)?;
    let name = Label::new(name).with_context(form)?;
    let addresses = addresses.split(',').map(str::parse);
    let addresses = addresses.collect::<Result<_, _>>().with_context(form)?;
    Ok((RelayId::new(cluster.clone(), name), addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_relays_are_read_or_refused() {
        let munich = place("48.15,-11.5,20").unwrap();
        assert_eq!((munich.latitude, munich.longitude), (48.15, -11.5));
        for bad in ["", "48", "91,0,1", "48,11,-1", "NaN,1,1", "a,b,c"] {
            let error = place(bad).unwrap_err().to_string();
            assert!(error.contains("write latitude"), "{error}");
        }
        let cluster = Label::new("munich").unwrap();
        let (id, addresses) = relay(&cluster, "r1=192.0.2.1:4434,[2001:db8::1]:4434").unwrap();
        assert_eq!((id.to_string().as_str(), addresses.len()), ("munich/r1", 2));
        for bad in ["r1", "=1.2.3.4:5", "r1=", "r1=1.2.3.4", "a b=1.2.3.4:5"] {
            assert!(relay(&cluster, bad).is_err(), "{bad:?}");
        }
    }
}
