//! Logging in, and the first account.

use axum::Json;
use axum::extract::{Extension, State};
use orchestrator_core::accounts::{Caller, NewUser, Role};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::body::Body;
use super::caller::{Refresher, User};
use super::error::ApiError;
use super::peer::Peer;
use super::session::Kind;
use super::users::{UserView, roles};

/// The user, and its password, of `--compat-login`.
const COMPAT: &str = "Admin";

/// Who wants to log in.
#[derive(Deserialize, ToSchema)]
pub(super) struct Login {
    username: String,
    password: String,
    /// The name of the user's organisation, if that is to be checked as well.
    #[serde(alias = "organization")]
    organization_name: Option<String>,
}

/// What one asks with from now on, as `Authorization: Bearer <token>`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tokens {
    /// Good for 10 minutes.
    token: String,
    /// Good for 7 days, to get new tokens.
    refresh_token: String,
}

/// A new token to ask with.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Token {
    /// Good for 10 minutes.
    token: String,
}

/// Logs in.
#[utoipa::path(post, path = "/api/auth/login", tag = "accounts",
    request_body = Login, responses((status = 200, body = Tokens)))]
pub(super) async fn login(
    State(state): State<ApiState>,
    Extension(peer): Extension<Peer>,
    Body(login): Body<Login>,
) -> Result<Json<Tokens>, ApiError> {
    let name = login.username;
    let caller = find(&state, name.clone()).await?;
    let hash = caller.as_ref().map(|it| it.user().password.clone());
    let known = state
        .0
        .passwords
        .matches(login.password.clone(), hash)
        .await?;
    let (caller, compat) = match caller.filter(|_| known) {
        Some(caller) => (caller, false),
        None if name == COMPAT && login.password == COMPAT => {
            (compat_login(&state, peer).await?, true)
        }
        None => return Err(ApiError::unauthorized("wrong user name or password")),
    };
    if let Some(organisation) = login.organization_name.filter(|it| !it.is_empty()) {
        let tenant = caller.tenant();
        let own = [tenant.name.0.as_str(), tenant.id.as_str()];
        if !own.contains(&organisation.as_str()) {
            return Err(ApiError::unknown("organisation", &organisation));
        }
    }
    tokens(&state, &caller, compat).map(Json)
}

/// Who `Admin` with the password `Admin` is, if that may log in.
async fn compat_login(state: &ApiState, peer: Peer) -> Result<Caller, ApiError> {
    if !state.settings().compat_login {
        let message = "there is no default password; log in with an account of your own, or start root with --compat-login to let Admin/Admin in from this machine";
        return Err(ApiError::unauthorized(message));
    }
    let same = tokio::task::spawn_blocking(move || peer.is_same_user()).await;
    if !same.map_err(|error| ApiError::internal(&error))? {
        let message = "--compat-login lets Admin/Admin in on loopback only, and only processes of the user that root runs as";
        return Err(ApiError::unauthorized(message));
    }
    let caller = state.accounts(|accounts, _, now| {
        let (writes, user) = accounts.ensure(COMPAT, now)?;
        Ok((writes, accounts.caller(user.name.as_str())))
    });
    let caller = caller.await?;
    caller.ok_or_else(|| ApiError::unauthorized("Admin's organisation is gone"))
}

async fn find(state: &ApiState, name: String) -> Result<Option<Caller>, ApiError> {
    let found = state.accounts(move |accounts, _, _| Ok((Vec::new(), accounts.caller(&name))));
    found.await
}

fn tokens(state: &ApiState, caller: &Caller, compat: bool) -> Result<Tokens, ApiError> {
    let sessions = &state.0.sessions;
    Ok(Tokens {
        token: sessions.issue(caller, Kind::Access, true, compat)?,
        refresh_token: sessions.issue(caller, Kind::Refresh, false, compat)?,
    })
}

/// Gets a new token with the refresh token, which is shown in place of the access token.
#[utoipa::path(post, path = "/api/auth/refresh", tag = "accounts",
    responses((status = 200, body = Token)))]
pub(super) async fn refresh(
    State(state): State<ApiState>,
    refresher: Refresher,
) -> Result<Json<Token>, ApiError> {
    let sessions = &state.0.sessions;
    let token = sessions.issue(&refresher.caller, Kind::Access, false, refresher.compat)?;
    Ok(Json(Token { token }))
}

/// A user to be made.
#[derive(Deserialize, ToSchema)]
pub(super) struct Registration {
    name: String,
    #[serde(default)]
    email: String,
    password: String,
    /// Roles in Oakestra's words; with none it may deploy applications.
    #[serde(default)]
    roles: Vec<String>,
    /// The id or name of its organisation; that of whoever asks, if there is none.
    #[serde(alias = "organization_name")]
    organization: Option<String>,
}

/// Makes a user.
#[utoipa::path(post, path = "/api/auth/register", tag = "accounts",
    request_body = Registration, responses((status = 200, body = UserView)))]
pub(super) async fn register(
    State(state): State<ApiState>,
    user: User,
    Body(new): Body<Registration>,
) -> Result<Json<UserView>, ApiError> {
    user.must_manage()?;
    let mut roles = roles(&new.roles)?;
    if roles.is_empty() {
        roles.insert(Role::ApplicationProvider);
    }
    if !user.0.may_give(&roles) {
        return Err(ApiError::forbidden("Admin, to make another Admin"));
    }
    let own = user.0.tenant().id.clone();
    let new = NewUser {
        name: new.name,
        email: new.email,
        password: state.0.passwords.hash(new.password).await?,
        roles,
        organisation: new.organization.unwrap_or(own),
    };
    let view = state.accounts(move |accounts, _, now| {
        let (writes, made) = accounts.register(&user.0, new, now)?;
        Ok((writes, UserView::new(accounts, &made)))
    });
    view.await.map(Json)
}

/// What the one-time secret is exchanged for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct First {
    /// The secret that root printed at its first start.
    secret: String,
    username: String,
    password: String,
}

/// Exchanges the one-time secret for the first account, an Admin of organisation root, and logs it
/// in. Of several who show the secret, one gets it.
#[utoipa::path(post, path = "/api/v1/auth/first", tag = "accounts",
    request_body = First, responses((status = 200, body = Tokens)))]
pub(super) async fn first(
    State(state): State<ApiState>,
    Body(first): Body<First>,
) -> Result<Json<Tokens>, ApiError> {
    let hash = super::sha256(first.secret.trim().as_bytes());
    // Whoever has no secret costs no hashing.
    let waits = state.accounts(move |accounts, _, _| Ok((Vec::new(), accounts.is_first(&hash))));
    if !waits.await? {
        return Err(orchestrator_core::accounts::AccountError::WrongSecret.into());
    }
    let new = NewUser {
        name: first.username,
        email: String::new(),
        password: state.0.passwords.hash(first.password).await?,
        roles: Role::ALL.into_iter().collect(),
        organisation: String::new(),
    };
    let caller = state.accounts(move |accounts, _, now| {
        let (writes, made) = accounts.take_first(&hash, new, now)?;
        Ok((writes, accounts.caller(made.name.as_str())))
    });
    let caller = caller.await?;
    let caller = caller.ok_or_else(|| ApiError::internal(&"the first account is not there"))?;
    tokens(&state, &caller, false).map(Json)
}
