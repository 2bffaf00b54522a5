//! Passwords: hashed with Argon2id on blocking threads, few at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use axum::http::StatusCode;
use tokio::sync::Semaphore;

use super::error::ApiError;

/// Hashes that are computed at once: each takes 19 MiB and some 20 ms of a processor.
const AT_ONCE: usize = 2;
/// How long one waits for its turn before it is sent away.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many bytes a password has.
const LENGTHS: std::ops::RangeInclusive<usize> = 8..=256;

/// Computes hashes.
#[derive(Debug)]
pub(super) struct Passwords {
    turns: Arc<Semaphore>,
    /// A hash of nothing that anybody knows, which unknown users are compared with, so that the
    /// time tells nobody whether a name is known.
    decoy: String,
}

impl Passwords {
    pub(super) fn new() -> anyhow::Result<Self> {
        let unknown = super::hexadecimal(&super::random()?);
        Ok(Self {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            decoy: hash(&unknown).map_err(|error| anyhow!("cannot hash a password: {error}"))?,
        })
    }

    /// The hash of a new password.
    pub(super) async fn hash(&self, password: String) -> Result<String, ApiError> {
        if !LENGTHS.contains(&password.len()) {
            let (least, most) = (LENGTHS.start(), LENGTHS.end());
            let message = format!("a password has {least} to {most} bytes; choose another");
            return Err(ApiError::unprocessable(message));
        }
        let hashed = self.in_turn(move || hash(&password)).await?;
        hashed.map_err(|error| ApiError::internal(&error))
    }

    /// Whether a password is the one of this hash; of none, it is not.
    pub(super) async fn matches(
        &self,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, ApiError> {
        if password.len() > *LENGTHS.end() {
            return Ok(false);
        }
        let known = hash.filter(|hash| !hash.is_empty());
        let there = known.is_some();
        let hash = known.unwrap_or_else(|| self.decoy.clone());
        let matches = move || {
            let parsed = PasswordHash::new(&hash);
            parsed.is_ok_and(|parsed| {
                let verified = Argon2::default().verify_password(password.as_bytes(), &parsed);
                verified.is_ok()
            })
        };
        Ok(self.in_turn(matches).await? && there)
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(PATIENCE, turn).await else {
            let message = "too many want to log in; try again in a moment";
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message));
        };
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.map_err(|error| ApiError::internal(&error))
    }
}

fn hash(password: &str) -> Result<String, argon2::password_hash::Error> {
    let hashed = Argon2::default().hash_password(password.as_bytes())?;
    Ok(hashed.to_string())
}
