//! `weald login`.
//!
//! The password is never an argument, where others on the machine could read it: it comes from the
//! environment or from standard input.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use tokio::sync::oneshot;

use super::failure::Failure;
use super::http::Address;
use super::output;
use super::session;
use super::tls::Trust;

/// The environment variable of the password.
const PASSWORD: &str = "WEALD_PASSWORD";

/// Fields with --json: root, user, session (the file).
#[derive(Debug, Args)]
#[command(
    after_help = "The password is that of WEALD_PASSWORD, or the first line of standard input."
)]
pub(super) struct LoginArguments {
    /// Where root's REST API is.
    #[arg(long, env = "WEALD_ROOT", default_value = "http://127.0.0.1:10000")]
    root: String,
    /// The certificate of whoever has issued that of an https root, PEM; it is kept with the session.
    /// Without this and --fingerprint the authorities of this machine count.
    #[arg(long, env = "WEALD_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The SHA-256 of an https root's certificate, or of one that has issued it and is shown with it.
    #[arg(long, value_name = "SHA256", conflicts_with = "ca")]
    fingerprint: Option<String>,
    /// The secret that root printed at its first start: makes the first account.
    #[arg(long, env = "WEALD_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// The user's name.
    #[arg(long, default_value = "admin")]
    user: String,
}

pub(super) async fn login(
    arguments: LoginArguments,
    file: PathBuf,
    json: bool,
) -> anyhow::Result<()> {
    let LoginArguments {
        root,
        ca,
        fingerprint,
        secret,
        user,
    } = arguments;
    let usage = |error: anyhow::Error| Failure::Usage(format!("{error:#}"));
    let trust = Trust::named(ca.as_deref(), fingerprint.as_deref()).map_err(usage)?;
    let root = Address::parse(&root, trust.clone()).map_err(usage)?;
    if fingerprint.is_some() && !root.is_secure() {
        let text = format!("{root} shows no certificate; --fingerprint is for https");
        return Err(Failure::Usage(text).into());
    }
    let password = password(&user).await?;
    let (path, body) = match secret {
        Some(secret) => (
            "/api/v1/auth/first",
            json!({ "secret": secret, "username": user, "password": password }),
        ),
        None => (
            session::LOGIN,
            json!({ "username": user, "password": password }),
        ),
    };
    let session = session::log_in(&root, trust, user, (path, &body)).await?;
    session.save(&file)?;
    let file = file.display().to_string();
    let (root, user) = (&session.root, &session.user);
    if json {
        output::json(&json!({ "root": root, "user": user, "session": file }))
    } else {
        output::print(&format!(
            "logged in at {root} as {user}; the session is kept in {file}\n"
        ))
    }
}

async fn password(user: &str) -> anyhow::Result<String> {
    if let Ok(password) = std::env::var(PASSWORD) {
        return Ok(password);
    }
    let terminal = io::stdin().is_terminal();
    let quiet = terminal.then(|| {
        eprint!("Password of {user}: ");
        Quiet::new()
    });
    // A thread of its own: the end of the program does not wait for what is being typed.
    let (told, line) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        // Nobody listens if it was given up.
        let _ = told.send(io::stdin().read_line(&mut line).map(|_| line));
    });
    let line = tokio::select! {
        line = line => line?.context("cannot read the password")?,
        _ = tokio::signal::ctrl_c() => bail!("given up"),
    };
    if quiet.is_some() {
        eprintln!();
    }
    let line = line.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        let text = format!("no password: set {PASSWORD}, or write it to standard input");
        return Err(Failure::Usage(text).into());
    }
    Ok(line.to_owned())
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet;

impl Quiet {
    fn new() -> Self {
        echo("-echo");
        Self
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        echo("echo");
    }
}

/// Without `stty` what is typed is shown, and that is all.
fn echo(how: &str) {
    let _ = Command::new("stty").arg(how).status();
}
