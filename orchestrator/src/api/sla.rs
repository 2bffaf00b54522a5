//! SLAs as they arrive: checked, and of somebody's organisation.

use orchestrator_core::root::Root;
use orchestrator_core::sla::{self, ApplicationDraft, Context, Fault, SlaError};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use weald_proto::id::Organisation;
use weald_proto::name::ApplicationName;

use super::ApiState;
use super::caller::User;
use super::error::ApiError;

/// For whom something is made.
#[derive(Debug, Clone)]
pub(super) struct Customer {
    /// The user's name.
    pub(super) user: String,
    /// The tenant.
    pub(super) organisation: Organisation,
}

/// Checks an SLA. What it makes is its customer's: the user who sends it, or, if that is an Admin,
/// whomever it names.
pub(super) async fn drafts(
    state: &ApiState,
    user: &User,
    value: &Value,
) -> Result<(Vec<ApplicationDraft>, Customer), ApiError> {
    let named = value.get("customerID").and_then(Value::as_str);
    let customer = customer(state, user, named.unwrap_or_default()).await;
    // Where the SLA is wrong as well, that is told first, with all of its faults.
    let fallback = user.0.tenant().name.clone();
    let organisation = customer.as_ref().map_or(&fallback, |it| &it.organisation);
    let drafts = checked(state, value, organisation, None)?;
    let customer = customer?;
    Ok((of_customer(drafts, &customer.user), customer))
}

/// Checks an SLA of services for an application that is there.
pub(super) async fn drafts_for(
    state: &ApiState,
    user: &User,
    value: &Value,
    (organisation, application): (&Organisation, &ApplicationName),
) -> Result<Vec<ApplicationDraft>, ApiError> {
    let drafts = checked(state, value, organisation, Some(application))?;
    let named = value.get("customerID").and_then(Value::as_str);
    let customer = customer(state, user, named.unwrap_or_default()).await?;
    Ok(of_customer(drafts, &customer.user))
}

fn checked(
    state: &ApiState,
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
    let drafts = sla::check_value(value, context)?;
    if drafts.is_empty() {
        let message = "the SLA has no application, so there is nothing to do";
        return Err(ApiError::unprocessable(message));
    }
    Ok(drafts)
}

fn of_customer(mut drafts: Vec<ApplicationDraft>, name: &str) -> Vec<ApplicationDraft> {
    for draft in &mut drafts {
        name.clone_into(&mut draft.customer);
    }
    drafts
}

/// Who the `customerID` of an SLA is. Clients of Oakestra write the id of a user or an organisation, or
/// `Admin`; nothing means whoever sends it.
async fn customer(state: &ApiState, user: &User, named: &str) -> Result<Customer, ApiError> {
    const ADMIN: &str = "Admin";
    let own = Customer {
        user: user.name().to_owned(),
        organisation: user.0.tenant().name.clone(),
    };
    let tenant = user.0.tenant();
    let (name, organisation) = (user.name(), tenant.name.0.as_str());
    let own_names = ["", name, &user.0.user().id, organisation, &tenant.id];
    let is_own = own_names.iter().any(|it| it.eq_ignore_ascii_case(named));
    if is_own || (user.0.is_admin() && named == ADMIN) {
        return Ok(own);
    }
    if !user.0.is_admin() {
        let rule = format!(
            "{name:?}, which is you, {organisation:?}, which is your organisation, or \"\"; an Admin \
             of organisation root may name others"
        );
        return Err(foreign(named, rule));
    }
    let wanted = named.to_owned();
    let found = state.accounts(move |accounts, _, _| {
        let mut users = accounts.users();
        let other = users.find(|it| it.id == wanted || it.name.as_str() == wanted);
        let of_user = other.map(|it| (Some(it.name.as_str().to_owned()), it.organisation.clone()));
        let mut tenants = accounts.organisations();
        let tenant = tenants.find(|it| it.id == wanted || it.name.0.as_str() == wanted);
        let of_tenant = || tenant.map(|it| (None, it.name.clone()));
        Ok((Vec::new(), of_user.or_else(of_tenant)))
    });
    let rule =
        "the name or the id of a user or an organisation that there is, or \"\" for yourself";
    let (name, organisation) = found
        .await?
        .ok_or_else(|| foreign(named, rule.to_owned()))?;
    Ok(Customer {
        user: name.unwrap_or(own.user),
        organisation,
    })
}

fn foreign(named: &str, rule: String) -> ApiError {
    let value = named.chars().take(64).collect();
    ApiError::from(vec![SlaError {
        path: "$.customerID".to_owned(),
        fault: Fault::Value { value, rule },
    }])
}

/// What of an SLA is kept and not acted on, or in part only.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Warning {
    /// Where, as a JSON path.
    path: String,
    /// What is done, and what not.
    message: String,
}

/// What is to be said of an SLA that was accepted.
pub(super) fn warnings(value: &Value, drafts: &[ApplicationDraft]) -> Vec<Warning> {
    let place = |application: usize, service: usize| {
        if value.is_array() {
            format!("$[{service}]")
        } else if value.get("applications").is_none() {
            "$".to_owned()
        } else {
            format!("$.applications[{application}].microservices[{service}]")
        }
    };
    let mut warnings = Vec::new();
    for (i, draft) in drafts.iter().enumerate() {
        for (j, service) in draft.services.iter().enumerate() {
            let fields = sla::unheeded(&service.written);
            warnings.extend(fields.into_iter().map(|(field, message)| Warning {
                path: format!("{}.{field}", place(i, j)),
                message: message.to_owned(),
            }));
        }
    }
    warnings
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
