//! The process of root.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use orchestrator_core::root::{Command, Scope};
use quinn::Endpoint;
use weald_proto::addr::Pools;
use weald_proto::control::ROOT_ALPN;
use weald_proto::id::{Label, Organisation};
use weald_proto::join::{JoinRequest, JoinResponse, JoinRole};
use weald_proto::name::Zone;
use weald_trust::join::{fingerprint, server_config as join_config};
use weald_trust::pki::folder::load_root;
use weald_trust::pki::store::Store;
use weald_trust::pki::{Lives, RootAuthority};
use weald_trust::tls::{CA_FILE, Clock, Credentials, Expected, RevocationSet};

use crate::api::{self, ApiState};
use crate::join::{self, JoinDesk};
use crate::keys::{Authority, Keys};
use crate::link::{self, Switchboard};
use crate::renewal::{self, Issuer};
use crate::root::{self, RootHandle};
use crate::store::SqliteStore;

/// What root is started with.
#[derive(Debug, Clone)]
pub struct RootOptions {
    /// Its folder.
    pub folder: PathBuf,
    /// Its name, for the first start.
    pub name: Label,
    /// Where clusters dial.
    pub listen: SocketAddr,
    /// Where clusters join.
    pub join: SocketAddr,
    /// What tokens say where to dial; empty for the address of `join`.
    pub advertise: Vec<String>,
    /// The organisation that owns the clusters that join.
    pub owner: Organisation,
    /// Where the REST API is; beyond loopback it must speak TLS.
    pub api: SocketAddr,
    /// The files with the API's certificates and its key, both PEM; none for plain HTTP on loopback.
    pub api_tls: Option<(PathBuf, PathBuf)>,
    /// Names of this host under which the API is asked.
    pub names: Vec<String>,
    /// Whether `Admin` with the password `Admin` may log in from loopback, as the same user.
    pub compat_login: bool,
    /// Whether the secret for the first account is made anew.
    pub renew_secret: bool,
}

/// A root that runs.
#[derive(Debug)]
pub struct RunningRoot {
    /// Speaks to it.
    pub handle: RootHandle,
    /// Its invitations.
    pub desk: Arc<JoinDesk>,
    /// SHA-256 of its certificate, for tokens.
    pub fingerprint: [u8; 32],
    /// Where clusters dial.
    pub control: Endpoint,
    /// Where clusters join.
    pub joining: Endpoint,
    /// What tokens say where to dial.
    pub advertise: Vec<String>,
    /// Where the REST API is.
    pub api: SocketAddr,
    /// What the first account is got with, to be shown once; none if it was shown before.
    pub first_secret: Option<String>,
    /// Ends when the machine does.
    pub thread: std::thread::JoinHandle<Result<(), crate::machine::MachineError>>,
}

impl RunningRoot {
    /// Invites a cluster.
    ///
    /// # Errors
    /// The book does not take it.
    pub fn invite(
        &self,
        cluster: Label,
        uses: (u32, std::time::Duration),
    ) -> anyhow::Result<String> {
        let issued = self.desk.issue(
            JoinRole::Cluster,
            cluster,
            self.fingerprint,
            &self.advertise,
            uses,
        );
        issued.map(|(_, text)| text)
    }
}

/// Starts root on the present tokio runtime.
///
/// # Errors
/// Its folder cannot be used, or a port cannot be opened.
pub async fn root(options: &RootOptions) -> anyhow::Result<RunningRoot> {
    root_with_lives(options, Lives::default()).await
}

/// Starts root; the certificates that it issues live for so long.
///
/// # Errors
/// As [`root()`].
pub async fn root_with_lives(options: &RootOptions, lives: Lives) -> anyhow::Result<RunningRoot> {
    let now = SystemTime::now();
    if !options.folder.join(CA_FILE).exists() {
        drop(Store::init(&options.folder, &options.name, now)?);
        tracing::info!(folder = %options.folder.display(), name = %options.name, "made a new root");
    }
    let authority = Arc::new(load_root(&options.folder)?.with_lives(lives));
    let desk = Arc::new(JoinDesk::open(&options.folder)?);
    let own = authority
        .issue_root(now)?
        .credentials(None, Clock::system())?;
    let store = Box::new(SqliteStore::open(&options.folder, "root")?);
    let records = crate::store::StateStore::load(store.as_ref())?;
    let keys = Keys::restore(Authority::Root(Arc::clone(&authority)), &records)?;
    let lines = Arc::new(Switchboard::default());
    let cutting = Arc::clone(&lines);
    watch_revoked(keys.clone(), own.clone(), move |it| cutting.cut(it));
    let (issuing, shown) = (Arc::clone(&authority), own.clone());
    tokio::spawn(async move { renewal::keep_root(&issuing, &shown).await });
    let issuer = Authority::Root(Arc::clone(&authority));
    let issuer = Issuer::new(issuer, Arc::clone(&desk), own.clone());
    let crypto = own.server_config_for(Expected::AnyControl, &[ROOT_ALPN])?;
    let reset = super::reset_key(&authority.sign(super::RESET_PURPOSE)?);
    let control = link::listen(options.listen, link::server_config(crypto), &reset)?;
    let joining = link::listen(
        options.join,
        link::server_config(join_config(&own)?),
        &reset,
    )?;
    let told = Arc::clone(&lines);
    let (handle, thread) =
        root::start(keys, store, &records, move |it| root::carry_out(&told, it))?;
    let (endpoint, served) = (control.clone(), handle.clone());
    tokio::spawn(async move { root::serve_clusters(&endpoint, served, lines, issuer).await });
    serve_joining(&joining, &handle, &authority, &desk, options);
    let advertise = match options.advertise.as_slice() {
        [] => vec![joining.local_addr()?.to_string()],
        some => some.to_vec(),
    };
    let fingerprint = fingerprint(authority.trust().certificate());
    let first_secret = api::first_secret(&handle, options.renew_secret).await?;
    let settings = api::Settings {
        names: options.names.clone(),
        compat_login: options.compat_login,
        pools: Pools::default(),
        zones: Zone::defaults(),
        fingerprint,
        join_addresses: advertise.clone(),
    };
    let state = ApiState::start(handle.clone(), Arc::clone(&desk), settings).await?;
    let tls = options.api_tls.as_ref();
    let tls = tls.map(|(chain, key)| api::tls(chain, key)).transpose()?;
    let listener = api::Listener::bind(options.api, tls).await?;
    let api = listener.address();
    tokio::spawn(api::serve(listener, state));
    Ok(RunningRoot {
        handle,
        desk,
        fingerprint,
        api,
        first_secret,
        control,
        joining,
        advertise,
        thread,
    })
}

fn serve_joining(
    joining: &Endpoint,
    handle: &RootHandle,
    authority: &Arc<RootAuthority>,
    desk: &Arc<JoinDesk>,
    options: &RootOptions,
) {
    let endpoint = joining.clone();
    let (root, owner) = (handle.clone(), options.owner.clone());
    let (authority, desk) = (Arc::clone(authority), Arc::clone(desk));
    let runtime = tokio::runtime::Handle::current();
    tokio::spawn(async move {
        let admit = move |request: JoinRequest| {
            let admitted = admit(&request, &authority, &desk, &root, &owner, &runtime);
            admitted.unwrap_or_else(|error| JoinResponse::Refused {
                text: format!("{error:#}"),
            })
        };
        join::serve(&endpoint, admit).await;
    });
}

/// Lets a cluster in: the token, its certificate, and that it is known before it is told so.
fn admit(
    request: &JoinRequest,
    authority: &RootAuthority,
    desk: &JoinDesk,
    root: &RootHandle,
    owner: &Organisation,
    runtime: &tokio::runtime::Handle,
) -> anyhow::Result<JoinResponse> {
    anyhow::ensure!(
        request.role == JoinRole::Cluster,
        "only clusters join at root; a {} joins at its cluster",
        request.role
    );
    let issued = desk.redeem(request, || {
        let issued = authority.cluster_for(&request.name, &request.csr, SystemTime::now())?;
        let command = Command::AddCluster {
            name: request.name.clone(),
            key: issued.public_key()?,
            organisations: None,
            owner: owner.clone(),
        };
        runtime.block_on(root.command(command, Scope::All))?;
        Ok(issued)
    })?;
    Ok(JoinResponse::Admitted {
        chain: vec![issued.der.to_vec()],
        ca: authority.trust().certificate().to_vec(),
    })
}

/// Keeps what is revoked in step with what the judge knows; `cut` ends the connections of those that
/// were let in before.
pub(super) fn watch_revoked(
    keys: Keys,
    own: Credentials,
    cut: impl Fn(&RevocationSet) + Send + 'static,
) {
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(std::time::Duration::from_secs(1));
        loop {
            ticks.tick().await;
            let revoked = keys.revoked();
            own.set_revoked(revoked.clone());
            if !revoked.keys.is_empty() {
                cut(&revoked);
            }
        }
    });
}
