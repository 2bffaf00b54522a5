//! SLAs as they arrive: checked, and of somebody's organisation.

use orchestrator_core::root::Root;
use orchestrator_core::sla::{self, ApplicationDraft, Context};
use serde_json::Value;
use weald_proto::id::Organisation;
use weald_proto::name::ApplicationName;

use super::ApiState;
use super::caller::User;
use super::error::ApiError;

/// Checks an SLA for an organisation; what it makes is `user`'s, whatever customer it names.
pub(super) fn drafts(
    state: &ApiState,
    user: &User,
    value: &Value,
    organisation: &Organisation,
    application: Option<&ApplicationName>,
) -> Result<Vec<ApplicationDraft>, ApiError> {
    let settings = state.settings();
    let context = Context {
        pools: &settings.pools,
        zones: &settings.zones,
        organisation,
        application,
    };
    let mut drafts = sla::check_value(value, context)?;
    if drafts.is_empty() {
        let message = "the SLA has no application, so there is nothing to do";
        return Err(ApiError::unprocessable(message));
    }
    for draft in &mut drafts {
        user.name().clone_into(&mut draft.customer);
    }
    Ok(drafts)
}

/// Refuses a draft that names an application which is not there, or is another one.
pub(super) fn check_id(root: &Root, user: &User, draft: &ApplicationDraft) -> Result<(), ApiError> {
    let Some(id) = &draft.id else {
        return Ok(());
    };
    let known = super::shapes::applications(root, &user.scope()).find(|it| it.id == *id);
    let known = known.ok_or_else(|| ApiError::unknown("application", id))?;
    if known.name == draft.name {
        return Ok(());
    }
    let message = format!(
        "$.applications: application {id} is {}, not {}; leave applicationID empty for a new one",
        known.name, draft.name
    );
    Err(ApiError::unprocessable(message))
}
