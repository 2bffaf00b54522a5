//! Sessions: signed tokens of two types, one to ask with and one to get new ones with.
//!
//! They are JWTs with HMAC-SHA-256 under root's own key, and no other algorithm is accepted. What a
//! token says of roles is for clients to show: what its user may do is looked up at each request,
//! and a changed password or a removed user ends its sessions.

use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use orchestrator_core::accounts::{Caller, Secret};
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use crate::machine::unix_now;

/// How long one can ask with a token.
pub(super) const ACCESS_LIFE: Duration = Duration::from_mins(10);
/// How long one can get new tokens.
pub(super) const REFRESH_LIFE: Duration = Duration::from_hours(7 * 24);

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// To ask with.
    Access,
    /// To get new tokens.
    Refresh,
}

/// What a token says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Claims {
    /// The user's name.
    pub(super) sub: String,
    user: String,
    roles: Vec<String>,
    /// The id of the user's organisation.
    organization: String,
    fresh: bool,
    iat: u64,
    jti: String,
    #[serde(rename = "type")]
    kind: Kind,
    nbf: u64,
    exp: u64,
    /// The user's epoch: an earlier one is over.
    pub(super) epoch: u64,
    /// Whether it was given out without a password, and is good on loopback only.
    #[serde(default)]
    pub(super) compat: bool,
}

/// Signs and checks tokens.
pub(super) struct Sessions {
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

impl Sessions {
    pub(super) fn new(key: &Secret) -> Self {
        Self {
            encoding: EncodingKey::from_secret(&key.0),
            decoding: DecodingKey::from_secret(&key.0),
        }
    }

    /// Makes a token.
    pub(super) fn issue(
        &self,
        caller: &Caller,
        kind: Kind,
        fresh: bool,
        compat: bool,
    ) -> Result<String, ApiError> {
        let now = unix_now();
        let life = match kind {
            Kind::Access => ACCESS_LIFE,
            Kind::Refresh => REFRESH_LIFE,
        };
        let user = caller.user();
        let id = super::random().map_err(|error| ApiError::internal(&error))?;
        let claims = Claims {
            sub: user.name.to_string(),
            user: user.name.to_string(),
            roles: user.roles.iter().map(|it| it.word().to_owned()).collect(),
            organization: caller.tenant().id.clone(),
            fresh,
            iat: now,
            jti: super::hexadecimal(id.get(..16).unwrap_or_default()),
            kind,
            nbf: now,
            exp: now + life.as_secs(),
            epoch: user.epoch,
            compat,
        };
        let header = Header::new(Algorithm::HS256);
        let token = jsonwebtoken::encode(&header, &claims, &self.encoding);
        token.map_err(|error| ApiError::internal(&error))
    }

    /// What a token says, if it is one of ours, of this type and still good.
    pub(super) fn check(&self, token: &str, kind: Kind) -> Result<Claims, ApiError> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "nbf", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation);
        let claims = claims.map_err(|error| {
            let expired = matches!(error.kind(), ErrorKind::ExpiredSignature);
            ApiError::unauthorized(if expired {
                "the token has expired; get a new one or log in again"
            } else {
                "the token is not one of this root; log in again"
            })
        })?;
        let claims = claims.claims;
        if claims.kind == kind {
            return Ok(claims);
        }
        Err(ApiError::unauthorized(match kind {
            Kind::Access => "this is a refresh token; ask with the access token",
            Kind::Refresh => "this is an access token; get new ones with the refresh token",
        }))
    }
}
