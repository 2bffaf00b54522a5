//! Root's REST API: Oakestra's routes, and Weald's own under `/api/v1`.
//!
//! Every route stands with and without a slash at its end. What is asked for is decided by
//! orchestrator-core, on root's thread; here are sessions, forms and limits. Whoever is not of
//! organisation root sees its own organisation's things only; those of others do not exist.
//!
//! # Encodings
//!
//! Answers are JSON. Some clients of Oakestra expect JSON within a JSON string on the routes that
//! Oakestra answers so; they ask for it by `X-Oakestra-Encoding: string` or `?encoding=string`.
//!
//! # Starting it
//!
//! [`ApiState::start`], [`first_secret`] (printed once, by the role), [`Listener::bind`] (with [`tls()`]
//! beyond loopback), [`serve`].

mod error;
mod guard;
mod metrics;
mod peer;
mod server;
mod tls;

mod body;
mod caller;
mod encoding;
mod passwords;
mod session;

mod shapes;

mod applications;
mod auth;
mod clusters;
mod deployments;
mod observe;
mod openapi;
mod organisations;
mod revocations;
mod services;
mod sla;
mod tokens;
mod users;

use std::sync::Arc;

use anyhow::Context as _;
use aws_lc_rs::{digest, rand};
use orchestrator_core::accounts::{Accounts, Secret};
use orchestrator_core::root::{Command, Done, Scope};
use weald_proto::addr::Pools;
use weald_proto::name::Zone;

use crate::join::JoinDesk;
use crate::root::{CallError, RootHandle};
use error::ApiError;
use metrics::Metrics;
use passwords::Passwords;
use session::Sessions;

pub(crate) use observe::standing_word;
pub use openapi::document;
pub use server::{Listener, ServeError, serve};
pub(crate) use shapes::status as phase_word;
pub use tls::tls;

/// What the API is told of its surroundings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Names of this host under which the API is asked, besides those of loopback and the address
    /// of the connection itself: others are refused.
    pub names: Vec<String>,
    /// Whether `Admin` with the password `Admin` may log in from loopback, if the caller's process
    /// has the same user as this one.
    pub compat_login: bool,
    /// Where pinned addresses must lie.
    pub pools: Pools,
    /// The zones whose labels are reserved.
    pub zones: Vec<Zone>,
    /// SHA-256 of root's certificate, which stands in join tokens.
    pub fingerprint: [u8; 32],
    /// Where clusters dial to join, as `address:port` or `name:port`.
    pub join_addresses: Vec<String>,
}

/// What every route shares.
#[derive(Debug, Clone)]
pub struct ApiState(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: RootHandle,
    desk: Arc<JoinDesk>,
    settings: Settings,
    sessions: Sessions,
    passwords: Passwords,
    metrics: Metrics,
}

impl ApiState {
    /// Takes up the key of sessions, or makes it at the first start.
    ///
    /// # Errors
    /// Root has stopped, or the system gives no randomness.
    pub async fn start(
        root: RootHandle,
        desk: Arc<JoinDesk>,
        settings: Settings,
    ) -> anyhow::Result<Self> {
        let fresh = Secret(random()?);
        let key = accounts(&root, move |accounts, _, _| {
            accounts.keep_session_key(fresh)
        })
        .await??;
        Ok(Self(Arc::new(Shared {
            root,
            desk,
            settings,
            sessions: Sessions::new(&key),
            passwords: Passwords::new()?,
            metrics: Metrics::default(),
        })))
    }

    fn root(&self) -> &RootHandle {
        &self.0.root
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Has root do something, and counts it.
    async fn command(&self, command: Command, scope: Scope) -> Result<Done, ApiError> {
        let name = metrics::command_name(&command);
        let done = self.root().command(command, scope).await;
        self.0.metrics.count_command(name, done.is_ok());
        Ok(done?)
    }

    /// Changes accounts; what is returned is persisted.
    async fn accounts<T: Send + 'static>(
        &self,
        change: impl FnOnce(
            &mut Accounts,
            &orchestrator_core::root::Root,
            orchestrator_core::Now,
        ) -> Result<
            (Vec<orchestrator_core::record::Write>, T),
            orchestrator_core::accounts::AccountError,
        > + Send
        + 'static,
    ) -> Result<T, ApiError> {
        let changed = accounts(self.root(), change).await;
        Ok(changed.map_err(CallError::from)??)
    }

    /// Looks at how things are.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&orchestrator_core::root::Root, orchestrator_core::Now) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        Ok(self.root().look(look).await.map_err(CallError::from)?)
    }
}

/// Makes the secret with which the first account is got (`POST /api/v1/auth/first`), if there has
/// never been one. It is returned once, to be printed; only its hash is kept. With `renew` it is
/// made anew whatever there was, in place of one that was lost.
///
/// # Errors
/// Root has stopped, or the system gives no randomness.
pub async fn first_secret(root: &RootHandle, renew: bool) -> anyhow::Result<Option<String>> {
    let text = hexadecimal(&random()?);
    let hash = sha256(text.as_bytes());
    let offered = accounts(root, move |accounts, _, _| {
        if !renew && (accounts.waits_for_first() || accounts.had_first()) {
            return Ok((Vec::new(), false));
        }
        Ok((accounts.offer_first(hash)?, true))
    });
    Ok(offered.await??.then_some(text))
}

type Changed<T> = Result<T, orchestrator_core::accounts::AccountError>;

async fn accounts<T: Send + 'static>(
    root: &RootHandle,
    change: impl FnOnce(
        &mut Accounts,
        &orchestrator_core::root::Root,
        orchestrator_core::Now,
    ) -> Changed<(Vec<orchestrator_core::record::Write>, T)>
    + Send
    + 'static,
) -> Result<Changed<T>, crate::root::Stopping> {
    root.accounts(
        move |accounts, root, now| match change(accounts, root, now) {
            Ok((writes, told)) => (writes, Ok(told)),
            Err(error) => (Vec::new(), Err(error)),
        },
    )
    .await
}

/// The API as a service; it wants the [`peer::Peer`] of each request, which [`serve`] gives.
pub fn router(state: ApiState) -> axum::Router {
    guard::around(openapi::routes(), state)
}

fn random() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes)
        .ok()
        .context("the system gives no randomness")?;
    Ok(bytes)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
