//! Who one is at which root: the file that `weald login` writes, and requests with it.
//!
//! An access token lives for minutes; when root says that it is over, another is got with the
//! refresh token and kept, and the request is made once more.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use hyper::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weald_trust::pki::files::{self, Existing, SECRET};

use super::failure::Failure;
use super::http::{self, Address, Call};
use super::tls::Trust;

/// What is kept of a login.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    /// Root's address, as `http://host:port` or `https://host:port`.
    pub(super) root: String,
    /// What root's certificate is judged by, where it has one.
    #[serde(default)]
    pub(super) trust: Trust,
    /// The user's name.
    pub(super) user: String,
    /// What one asks with.
    pub(super) token: String,
    /// What one gets new tokens with.
    pub(super) refresh_token: String,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({} at {})", self.user, self.root)
    }
}

impl Session {
    /// Reads it.
    ///
    /// # Errors
    /// Nobody has logged in, or the file cannot be read.
    pub(super) fn load(file: &Path) -> anyhow::Result<Self> {
        let shown = file.display();
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("nobody is logged in ({shown} is not there); log in with `weald login`")
            }
            text => text.with_context(|| format!("cannot read the session in {shown}"))?,
        };
        let session = serde_json::from_str(&text);
        session
            .with_context(|| format!("{shown} holds no session; log in again with `weald login`"))
    }

    /// Writes it, for its owner's eyes only. Whoever reads meanwhile gets the old or the new one.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(super) fn save(&self, file: &Path) -> anyhow::Result<()> {
        let save = || -> anyhow::Result<()> {
            let folder = file.parent().filter(|it| !it.as_os_str().is_empty());
            let folder = folder.unwrap_or_else(|| Path::new("."));
            fs::create_dir_all(folder)?;
            let name = file.file_name().context("it is no file's name")?;
            let text = serde_json::to_vec_pretty(self)?;
            files::write(&folder.join(name), &text, SECRET, Existing::Replace)
        };
        save().with_context(|| format!("cannot keep the session in {}", file.display()))
    }
}

/// Where a user shows a password.
pub(super) const LOGIN: &str = "/api/auth/login";

#[derive(Deserialize)]
struct Tokens {
    token: String,
    refresh_token: String,
}

/// Shows root what makes one `user`, a path and its body, and returns the session.
///
/// # Errors
/// Root cannot be asked, or does not believe it.
pub(super) async fn log_in(
    root: &Address,
    trust: Trust,
    user: String,
    (path, body): (&str, &Value),
) -> anyhow::Result<Session> {
    let call = Call {
        method: Method::POST,
        path,
        token: None,
        body: Some(body),
    };
    let Tokens {
        token,
        refresh_token,
    } = read(path, &http::ask(root, call).await?)?;
    Ok(Session {
        root: root.to_string(),
        trust,
        user,
        token,
        refresh_token,
    })
}

/// Where the session is, if nothing else is said.
///
/// # Errors
/// There is no home.
pub(super) fn file(named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    place(named, variable("XDG_CONFIG_HOME"), variable("HOME"))
}

fn place(
    named: Option<PathBuf>,
    config: Option<PathBuf>,
    home: Option<PathBuf>,
) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named);
    }
    // As the specification of XDG has it, what is not absolute is as if not set.
    let config = config.filter(|it| it.is_absolute());
    let home = home.filter(|it| it.is_absolute());
    let folder = config.or_else(|| home.map(|home| home.join(".config")));
    let folder = folder
        .context("HOME and XDG_CONFIG_HOME are not set; name the session's file with --session")?;
    Ok(folder.join("weald/session.json"))
}

/// Asks root as who has logged in.
#[derive(Debug)]
pub(super) struct Client {
    file: PathBuf,
    root: Address,
    session: Session,
}

#[derive(Deserialize)]
struct Refreshed {
    token: String,
}

impl Client {
    /// Takes up the session in a file.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn open(file: PathBuf) -> anyhow::Result<Self> {
        let session = Session::load(&file)?;
        Ok(Self {
            root: Address::parse(&session.root, session.trust.clone())?,
            file,
            session,
        })
    }

    /// Reads something.
    pub(super) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> anyhow::Result<T> {
        read(path, &self.ask(Method::GET, path, None).await?)
    }

    /// Reads a text.
    pub(super) async fn text(&mut self, path: &str) -> anyhow::Result<String> {
        let bytes = self.ask(Method::GET, path, None).await?;
        String::from_utf8(bytes).context("root's answer is no text")
    }

    /// Has something done.
    pub(super) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<T> {
        read(path, &self.ask(Method::POST, path, Some(body)).await?)
    }

    /// Removes something.
    pub(super) async fn delete(&mut self, path: &str) -> anyhow::Result<()> {
        self.ask(Method::DELETE, path, None).await.map(drop)
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Vec<u8>> {
        match self.ask_once(method.clone(), path, body).await {
            Err(error) if unauthorized(&error) => {
                self.refresh().await?;
                self.ask_once(method, path, body).await
            }
            answer => answer,
        }
    }

    async fn ask_once(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Vec<u8>> {
        let call = Call {
            method,
            path,
            token: Some(&self.session.token),
            body,
        };
        http::ask(&self.root, call).await
    }

    /// Gets a new access token, and keeps it.
    async fn refresh(&mut self) -> anyhow::Result<()> {
        let path = "/api/auth/refresh";
        let call = Call {
            method: Method::POST,
            path,
            token: Some(&self.session.refresh_token),
            body: None,
        };
        let answer = http::ask(&self.root, call).await.map_err(|error| {
            if !unauthorized(&error) {
                return error;
            }
            let root = &self.session.root;
            error.context(format!(
                "the session at {root} is over; log in again with `weald login --root {root}`"
            ))
        })?;
        self.session.token = read::<Refreshed>(path, &answer)?.token;
        self.session.save(&self.file)
    }
}

fn unauthorized(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<Failure>();
    matches!(status, Some(Failure::Refused { status: 401, .. }))
}

/// Reads an answer.
pub(super) fn read<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> anyhow::Result<T> {
    let read = serde_json::from_slice(bytes);
    read.with_context(|| {
        format!("root's answer to {path} is not as expected; is it of another version?")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn sessions_lie_where_they_are_looked_for() {
        let at = |named: Option<&str>, config: Option<&str>, home: Option<&str>| {
            let path = |it: Option<&str>| it.map(PathBuf::from);
            place(path(named), path(config), path(home)).map(|it| it.display().to_string())
        };
        assert_eq!(at(Some("s"), Some("/c"), Some("/h")).unwrap(), "s");
        assert_eq!(
            at(None, Some("/c"), Some("/h")).unwrap(),
            "/c/weald/session.json"
        );
        let home = "/h/.config/weald/session.json";
        assert_eq!(at(None, Some("c"), Some("/h")).unwrap(), home);
        assert_eq!(at(None, Some(""), Some("/h")).unwrap(), home);
        let error = at(None, None, None).unwrap_err().to_string();
        assert!(error.contains("--session"), "{error}");
    }

    #[test]
    fn a_session_is_kept_for_its_owner_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/session.json");
        let mut session = Session {
            root: "http://127.0.0.1:10000".to_owned(),
            trust: Trust::Fingerprint("0a".repeat(32)),
            user: "admin".to_owned(),
            token: "a".to_owned(),
            refresh_token: "r".to_owned(),
        };
        for token in ["a", "b"] {
            token.clone_into(&mut session.token);
            session.save(&file).unwrap();
            assert_eq!(Session::load(&file).unwrap(), session);
        }
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
        assert!(!format!("{session:?}").contains('"'), "no token is shown");
    }

    #[test]
    fn what_is_no_session_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("session.json");
        let error = format!("{:#}", Session::load(&file).unwrap_err());
        assert!(error.contains("weald login"), "{error}");
        for text in ["", "{}", "[1]", "{\"root\": 1}"] {
            fs::write(&file, text).unwrap();
            let error = format!("{:#}", Session::load(&file).unwrap_err());
            assert!(error.contains("weald login"), "{text}: {error}");
        }
    }
}
