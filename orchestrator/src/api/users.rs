//! Users and what they may do.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use orchestrator_core::accounts::{
    AccountError, Accounts, Caller, Role, User as Account, UserChange,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::ApiState;
use super::body::Body;
use super::caller::User;
use super::error::ApiError;
use super::shapes::ObjectId;

/// A user, without its password.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct UserView {
    #[serde(rename = "_id")]
    object: ObjectId,
    name: String,
    email: String,
    /// `dd/mm/yyyy HH:MM`, in UTC.
    created_at: String,
    roles: Vec<&'static str>,
    /// The id of its organisation.
    organization: String,
    organization_name: String,
}

impl UserView {
    pub(super) fn new(accounts: &Accounts, user: &Account) -> Self {
        let name = user.organisation.to_string();
        let tenant = accounts.organisation(&name);
        Self {
            object: user.id.as_str().into(),
            name: user.name.to_string(),
            email: user.email.clone(),
            created_at: minute(user.created),
            roles: user.roles.iter().map(|role| role.word()).collect(),
            organization: tenant.map(|it| it.id.clone()).unwrap_or_default(),
            organization_name: name,
        }
    }
}

/// Reads roles.
pub(super) fn roles(words: &[String]) -> Result<BTreeSet<Role>, ApiError> {
    let roles: Result<_, AccountError> = words.iter().map(|word| word.parse()).collect();
    Ok(roles?)
}

/// The name of a user that is named by its name or id.
pub(super) async fn name_of(state: &ApiState, wanted: &str) -> Result<String, ApiError> {
    let id = wanted.to_owned();
    let name = state.accounts(move |accounts, _, _| {
        let mut users = accounts.users();
        let user = users.find(|it| it.name.as_str() == id || it.id == id);
        Ok((Vec::new(), user.map(|it| it.name.to_string())))
    });
    let name = name.await?;
    name.ok_or_else(|| ApiError::unknown("user", wanted))
}

/// The users that somebody may see: all that it manages, and itself.
fn seen<'a>(accounts: &'a Accounts, by: &Caller) -> impl Iterator<Item = &'a Account> {
    accounts
        .users()
        .filter(move |it| by.may_manage(&it.organisation) || it.name == by.user().name)
}

/// Every user that one manages.
#[utoipa::path(get, path = "/api/users", tag = "accounts",
    responses((status = 200, body = Vec<UserView>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    user: User,
) -> Result<Json<Vec<UserView>>, ApiError> {
    user.must_manage()?;
    let views = state.accounts(move |accounts, _, _| Ok((Vec::new(), views(accounts, &user.0))));
    views.await.map(Json)
}

fn views(accounts: &Accounts, by: &Caller) -> Vec<UserView> {
    let users = seen(accounts, by);
    users.map(|it| UserView::new(accounts, it)).collect()
}

/// The users of an organisation, which is named by its id or name.
#[utoipa::path(get, path = "/api/users/{organization}", tag = "accounts",
    responses((status = 200, body = Vec<UserView>)))]
pub(super) async fn list_of(
    State(state): State<ApiState>,
    user: User,
    Path(id): Path<String>,
) -> Result<Json<Vec<UserView>>, ApiError> {
    user.must_manage()?;
    let views = state.accounts(move |accounts, _, _| {
        let tenant = accounts.organisation(&id);
        let tenant = tenant.filter(|it| user.0.may_manage(&it.name));
        let tenant = tenant.ok_or_else(|| AccountError::Unknown("organisation", id.clone()))?;
        let users = accounts.users().filter(|it| it.organisation == tenant.name);
        let views: Vec<_> = users.map(|it| UserView::new(accounts, it)).collect();
        Ok((Vec::new(), views))
    });
    views.await.map(Json)
}

/// A user: oneself, or one that one manages.
#[utoipa::path(get, path = "/api/user/{name}", tag = "accounts",
    responses((status = 200, body = UserView)))]
pub(super) async fn read(
    State(state): State<ApiState>,
    user: User,
    Path(name): Path<String>,
) -> Result<Json<UserView>, ApiError> {
    let view = state.accounts(move |accounts, _, _| {
        let found = seen(accounts, &user.0).find(|it| it.name.as_str() == name);
        let found = found.ok_or(AccountError::Unknown("user", name))?;
        Ok((Vec::new(), UserView::new(accounts, found)))
    });
    view.await.map(Json)
}

/// What a user may do.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Permissions {
    roles: Vec<&'static str>,
}

/// The roles of a user: oneself, or one that one manages.
#[utoipa::path(get, path = "/api/permission/{name}", tag = "accounts",
    responses((status = 200, body = Permissions)))]
pub(super) async fn permissions(
    state: State<ApiState>,
    user: User,
    name: Path<String>,
) -> Result<Json<Permissions>, ApiError> {
    let Json(view) = read(state, user, name).await?;
    Ok(Json(Permissions { roles: view.roles }))
}

/// What shall become different of a user; other fields are not looked at.
#[derive(Deserialize, ToSchema)]
pub(super) struct Change {
    email: Option<String>,
    roles: Option<Vec<String>>,
    /// The id or name of its organisation.
    organization: Option<String>,
    /// A new password, for one who has lost it.
    password: Option<String>,
}

/// Changes a user that one manages.
#[utoipa::path(put, path = "/api/user/{name}", tag = "accounts",
    request_body = Change, responses((status = 200, body = UserView)))]
pub(super) async fn change(
    State(state): State<ApiState>,
    user: User,
    Path(name): Path<String>,
    Body(change): Body<Change>,
) -> Result<Json<UserView>, ApiError> {
    user.must_manage()?;
    let hash = match change.password.filter(|it| !it.is_empty()) {
        Some(password) => Some(state.0.passwords.hash(password).await?),
        None => None,
    };
    let change = UserChange {
        email: change.email,
        roles: change.roles.as_deref().map(roles).transpose()?,
        organisation: change.organization,
    };
    let view = state.accounts(move |accounts, _, _| {
        let (mut writes, mut changed) = accounts.change(&user.0, &name, change)?;
        if let Some(hash) = hash {
            writes.extend(accounts.set_password(&name, hash)?);
        }
        if let Some(now) = accounts.user(&name) {
            changed = now.clone();
        }
        Ok((writes, UserView::new(accounts, &changed)))
    });
    view.await.map(Json)
}

/// A change of one's own password.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PasswordChange {
    old_password: String,
    new_password: String,
}

/// Nothing.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Empty {}

/// Changes one's own password; all of one's sessions are over then.
#[utoipa::path(post, path = "/api/user/{name}", tag = "accounts",
    request_body = PasswordChange, responses((status = 200, body = Empty)))]
pub(super) async fn change_password(
    State(state): State<ApiState>,
    user: User,
    Path(name): Path<String>,
    Body(change): Body<PasswordChange>,
) -> Result<Json<Empty>, ApiError> {
    if name != user.name() {
        return Err(ApiError::unknown("user that is you, named", &name));
    }
    let passwords = &state.0.passwords;
    let known = user.0.user().password.clone();
    if !passwords.matches(change.old_password, Some(known)).await? {
        let message = "the old password is not this one";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
    }
    let hash = passwords.hash(change.new_password).await?;
    let done = state.accounts(move |accounts, _, _| Ok((accounts.set_password(&name, hash)?, ())));
    done.await?;
    Ok(Json(Empty {}))
}

/// Removes a user that one manages; answers with those that remain.
#[utoipa::path(delete, path = "/api/user/{name}", tag = "accounts",
    responses((status = 200, body = Vec<UserView>)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    user: User,
    Path(name): Path<String>,
) -> Result<Json<Vec<UserView>>, ApiError> {
    user.must_manage()?;
    let views = state.accounts(move |accounts, _, _| {
        let writes = accounts.remove(&user.0, &name)?;
        Ok((writes, views(accounts, &user.0)))
    });
    views.await.map(Json)
}

/// A time in UTC as `dd/mm/yyyy HH:MM`.
fn minute(unix: u64) -> String {
    let at = i64::try_from(unix).ok();
    let at = at.and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok());
    // Only a time after the year 9999 is none, and nobody was made then.
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, _) = at.to_hms();
    format!(
        "{day:02}/{:02}/{year:04} {hour:02}:{minute:02}",
        u8::from(month)
    )
}

#[cfg(test)]
mod tests {
    use super::minute;

    #[test]
    fn times_are_written_as_oakestra_does() {
        for (unix, text) in [
            (0, "01/01/1970 00:00"),
            (951_782_399, "28/02/2000 23:59"),
            (951_782_400, "29/02/2000 00:00"),
            (1_767_225_599, "31/12/2025 23:59"),
            (1_767_225_600, "01/01/2026 00:00"),
            (4_107_542_400, "01/03/2100 00:00"),
        ] {
            assert_eq!(minute(unix), text);
        }
    }
}
