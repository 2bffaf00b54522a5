//! Organisations, which are the tenants.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use orchestrator_core::accounts::{Accounts, Member, Tenant};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::body::Body;
use super::caller::User;
use super::encoding::Encoding;
use super::error::ApiError;
use super::shapes::{Message, ObjectId};
use super::users::roles;

/// An organisation with its users.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct OrganisationView {
    #[serde(rename = "_id")]
    object: ObjectId,
    name: String,
    member: Vec<MemberView>,
}

/// A user as a member.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct MemberView {
    user_id: String,
    roles: Vec<&'static str>,
}

impl OrganisationView {
    fn new(accounts: &Accounts, tenant: &Tenant) -> Self {
        let members = accounts.users().filter(|it| it.organisation == tenant.name);
        Self {
            object: tenant.id.as_str().into(),
            name: tenant.name.to_string(),
            member: members
                .map(|it| MemberView {
                    user_id: it.id.clone(),
                    roles: it.roles.iter().map(|role| role.word()).collect(),
                })
                .collect(),
        }
    }
}

/// What an organisation shall be.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct OrganisationBody {
    /// 1 to 63 small letters, digits and `-`.
    name: Option<String>,
    /// Users that shall belong to it; others stay where they are.
    #[serde(default)]
    member: Vec<MemberBody>,
}

/// A user that shall belong to it.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct MemberBody {
    /// Its id or name.
    user_id: String,
    /// Its roles from then on; with none they stay.
    roles: Option<Vec<String>>,
}

fn members(bodies: Vec<MemberBody>) -> Result<Vec<Member>, ApiError> {
    let member = |body: MemberBody| {
        Ok(Member {
            user: body.user_id,
            roles: body.roles.as_deref().map(roles).transpose()?,
        })
    };
    bodies.into_iter().map(member).collect()
}

/// The organisations: all of them for an Admin, one's own for others.
#[utoipa::path(get, path = "/api/organization", tag = "accounts",
    responses((status = 200, body = Vec<OrganisationView>)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    user: User,
    encoding: Encoding,
) -> Result<Response, ApiError> {
    user.must_manage()?;
    let views = state.accounts(move |accounts, _, _| {
        let seen = accounts.organisations();
        let seen = seen.filter(|it| user.0.may_manage(&it.name));
        let views: Vec<_> = seen.map(|it| OrganisationView::new(accounts, it)).collect();
        Ok((Vec::new(), views))
    });
    Ok(encoding.answer(&views.await?))
}

/// Makes an organisation.
#[utoipa::path(post, path = "/api/organization", tag = "accounts",
    request_body = OrganisationBody, responses((status = 200, body = OrganisationView)))]
pub(super) async fn create(
    State(state): State<ApiState>,
    user: User,
    encoding: Encoding,
    Body(body): Body<OrganisationBody>,
) -> Result<Response, ApiError> {
    user.must_be_admin()?;
    let name = body.name.unwrap_or_default();
    let members = members(body.member)?;
    let view = state.accounts(move |accounts, _, now| {
        let (writes, tenant) = accounts.add_organisation(&user.0, &name, &members, now)?;
        Ok((writes, OrganisationView::new(accounts, &tenant)))
    });
    Ok(encoding.answer(&view.await?))
}

/// Moves users into an organisation.
#[utoipa::path(put, path = "/api/organization/{id}", tag = "accounts",
    request_body = OrganisationBody, responses((status = 200, body = Message)))]
pub(super) async fn change(
    State(state): State<ApiState>,
    user: User,
    Path(id): Path<String>,
    Body(body): Body<OrganisationBody>,
) -> Result<Json<Message>, ApiError> {
    user.must_be_admin()?;
    let members = members(body.member)?;
    let done = state.accounts(move |accounts, _, _| {
        let name = body.name.as_deref();
        let (writes, _) = accounts.change_organisation(&user.0, &id, name, &members)?;
        Ok((writes, ()))
    });
    done.await?;
    Ok(Message::new("Organization is updated"))
}

/// Removes an organisation that has neither users nor applications nor clusters.
#[utoipa::path(delete, path = "/api/organization/{id}", tag = "accounts",
    responses((status = 200, body = Message)))]
pub(super) async fn remove(
    State(state): State<ApiState>,
    user: User,
    Path(id): Path<String>,
) -> Result<Json<Message>, ApiError> {
    user.must_be_admin()?;
    let done = state.accounts(move |accounts, root, _| {
        let writes = accounts.remove_organisation(&user.0, &id, |tenant| {
            if root.applications().any(|it| it.organisation == tenant.name) {
                Some("applications")
            } else if root.clusters().any(|(it, ..)| it.owner == tenant.name) {
                Some("clusters")
            } else {
                None
            }
        })?;
        Ok((writes, ()))
    });
    done.await?;
    Ok(Message::new("Organization deleted"))
}
