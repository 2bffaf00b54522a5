//! Who is not to be trusted any more. What that means is decided on root's thread, by every cluster and
//! by every node; there is no way back.

use axum::Json;
use axum::extract::State;
use orchestrator_core::accounts::ROOT;
use orchestrator_core::root::{Command, Distrusted};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weald_proto::id::{Label, NodeId, Organisation};

use super::body::Body;
use super::caller::User;
use super::error::ApiError;
use super::{ApiState, hexadecimal};

/// Who is to be revoked: exactly one of them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Revocation {
    /// A node, as `cluster/node`: it is cut by its cluster and by every other node.
    node: Option<String>,
    /// A cluster: it is cut, and with it all of its nodes; what it has signed holds no more.
    cluster: Option<String>,
    /// An organisation: its instances end, and nothing of it runs any more. This is for an Admin.
    organisation: Option<String>,
    /// A key: SHA-256 of its SubjectPublicKeyInfo, 64 hexadecimal digits.
    key: Option<String>,
}

/// The list of the revoked.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RevocationList {
    /// Counts the changes of the list.
    epoch: u64,
    /// SHA-256 of the SubjectPublicKeyInfo of each revoked key, of nodes and of clusters.
    keys: Vec<String>,
    /// The revoked organisations.
    organisations: Vec<String>,
}

impl Revocation {
    fn read(self) -> Result<Distrusted, ApiError> {
        let named = [self.node, self.cluster, self.organisation, self.key];
        match named {
            [Some(node), None, None, None] => node
                .parse::<NodeId>()
                .map(Distrusted::Node)
                .map_err(|_| ApiError::unknown("node", &node)),
            [None, Some(name), None, None] => Label::new(&name)
                .map(Distrusted::Cluster)
                .map_err(|_| ApiError::unknown("cluster", &name)),
            [None, None, Some(name), None] => Label::new(&name)
                .map(|name| Distrusted::Organisation(Organisation(name)))
                .map_err(|_| ApiError::unknown("organisation", &name)),
            [None, None, None, Some(key)] => key_hash(&key).map(Distrusted::Key),
            _ => Err(ApiError::unprocessable(
                "name who is to be revoked: one node, cluster, organisation or key",
            )),
        }
    }
}

fn key_hash(text: &str) -> Result<[u8; 32], ApiError> {
    let digits = text.len() == 64 && text.bytes().all(|it| it.is_ascii_hexdigit());
    let mut key = [0; 32];
    for (at, byte) in key.iter_mut().enumerate() {
        let pair = text.get(2 * at..2 * at + 2).filter(|_| digits);
        let pair = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        *byte = pair.ok_or_else(|| {
            let rule = "64 hexadecimal digits, the SHA-256 of a SubjectPublicKeyInfo";
            ApiError::unprocessable(format!("key {text:?} is not allowed; write {rule}"))
        })?;
    }
    Ok(key)
}

/// Revokes a node, a cluster, an organisation or a key, for ever.
#[utoipa::path(post, path = "/api/v1/revocations", tag = "clusters",
    request_body = Revocation, responses((status = 200, body = RevocationList)))]
pub(super) async fn revoke(
    State(state): State<ApiState>,
    user: User,
    Body(wanted): Body<Revocation>,
) -> Result<Json<RevocationList>, ApiError> {
    user.must_operate()?;
    let who = wanted.read()?;
    if let Distrusted::Organisation(organisation) = &who {
        user.must_be_admin()?;
        must_be(&state, organisation).await?;
    }
    state.command(Command::Revoke(who), user.scope()).await?;
    now(&state).await
}

/// Refuses an organisation that is not there, or that everything hangs on.
async fn must_be(state: &ApiState, organisation: &Organisation) -> Result<(), ApiError> {
    let name = organisation.to_string();
    if name == ROOT {
        let message = "organisation root cannot be revoked: everything hangs on it; revoke its \
                       nodes or clusters, or remove its users";
        return Err(ApiError::unprocessable(message));
    }
    let wanted = organisation.clone();
    let known = state.accounts(move |accounts, root, _| {
        let clusters = root.clusters().any(|(it, ..)| it.owner == wanted);
        let mut tenants = accounts.organisations();
        Ok((Vec::new(), clusters || tenants.any(|it| it.name == wanted)))
    });
    if known.await? {
        return Ok(());
    }
    Err(ApiError::unknown("organisation", &name))
}

/// The keys and organisations that are revoked.
#[utoipa::path(get, path = "/api/v1/revocations", tag = "clusters",
    responses((status = 200, body = RevocationList)))]
pub(super) async fn list(
    State(state): State<ApiState>,
    user: User,
) -> Result<Json<RevocationList>, ApiError> {
    user.must_operate()?;
    now(&state).await
}

async fn now(state: &ApiState) -> Result<Json<RevocationList>, ApiError> {
    let list = state.look(|root, _| root.revocations()).await?;
    let names = list.organisations.iter().map(ToString::to_string);
    Ok(Json(RevocationList {
        epoch: list.epoch,
        keys: list.keys.iter().map(|key| hexadecimal(key)).collect(),
        organisations: names.collect(),
    }))
}
