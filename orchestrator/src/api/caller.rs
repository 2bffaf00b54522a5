//! Who asks: the user of a token, as the accounts say of it now.

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use orchestrator_core::accounts::Caller;
use orchestrator_core::root::Scope;

use super::ApiState;
use super::error::ApiError;
use super::peer::Peer;
use super::session::{Claims, Kind};

/// Somebody who has logged in.
#[derive(Debug, Clone)]
pub(super) struct User(pub(super) Caller);

impl User {
    pub(super) fn scope(&self) -> Scope {
        self.0.scope()
    }

    pub(super) fn name(&self) -> &str {
        self.0.user().name.as_str()
    }

    /// Refuses whoever may not have services run.
    pub(super) fn must_deploy(&self) -> Result<(), ApiError> {
        let needed = "Application_Provider, Organization_Admin or Admin";
        require(self.0.may_deploy(), needed)
    }

    /// Refuses whoever may not let clusters in.
    pub(super) fn must_operate(&self) -> Result<(), ApiError> {
        let needed = "Admin or Infrastructure_Provider, in organisation root";
        require(self.0.may_operate(), needed)
    }

    /// Refuses whoever may not make users.
    pub(super) fn must_manage(&self) -> Result<(), ApiError> {
        require(self.0.may_manage_some(), "Organization_Admin or Admin")
    }

    /// Refuses whoever does not administrate everything.
    pub(super) fn must_be_admin(&self) -> Result<(), ApiError> {
        require(self.0.is_admin(), "Admin, in organisation root")
    }
}

fn require(may: bool, needed: &str) -> Result<(), ApiError> {
    if may {
        Ok(())
    } else {
        Err(ApiError::forbidden(needed))
    }
}

impl FromRequestParts<ApiState> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let (caller, _) = identify(parts, state, Kind::Access).await?;
        Ok(Self(caller))
    }
}

/// Somebody with a refresh token.
#[derive(Debug, Clone)]
pub(super) struct Refresher {
    pub(super) caller: Caller,
    pub(super) compat: bool,
}

impl FromRequestParts<ApiState> for Refresher {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let (caller, claims) = identify(parts, state, Kind::Refresh).await?;
        let compat = claims.compat;
        Ok(Self { caller, compat })
    }
}

/// Somebody who has logged in, or is on this machine.
#[derive(Debug, Clone)]
pub(super) struct Reader(Option<Caller>);

impl Reader {
    /// Whether it may know of a cluster.
    pub(super) fn sees(&self, cluster: &orchestrator_core::root::ClusterState) -> bool {
        self.0.as_ref().is_none_or(|caller| caller.sees(cluster))
    }
}

impl FromRequestParts<ApiState> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let local = parts
            .extensions
            .get::<Peer>()
            .is_some_and(Peer::is_loopback);
        if local && !parts.headers.contains_key(AUTHORIZATION) {
            return Ok(Self(None));
        }
        let (caller, _) = identify(parts, state, Kind::Access).await?;
        Ok(Self(Some(caller)))
    }
}

async fn identify(
    parts: &Parts,
    state: &ApiState,
    kind: Kind,
) -> Result<(Caller, Claims), ApiError> {
    let missing = || ApiError::unauthorized("Missing authentication token");
    let header = parts.headers.get(AUTHORIZATION).ok_or_else(missing)?;
    let (scheme, token) = header
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(missing());
    }
    let claims = state.0.sessions.check(token.trim(), kind)?;
    if claims.compat {
        let local = parts
            .extensions
            .get::<Peer>()
            .is_some_and(Peer::is_loopback);
        if !local || !state.settings().compat_login {
            let message = "sessions of --compat-login are good on loopback, while root has it on";
            return Err(ApiError::unauthorized(message));
        }
    }
    let (name, epoch) = (claims.sub.clone(), claims.epoch);
    let caller = state
        .accounts(move |accounts, _, _| Ok((Vec::new(), accounts.caller(&name))))
        .await?;
    let caller = caller.filter(|caller| caller.user().epoch == epoch);
    let caller = caller.ok_or_else(|| {
        ApiError::unauthorized("the session is over: its user has a new password or is gone")
    })?;
    Ok((caller, claims))
}
