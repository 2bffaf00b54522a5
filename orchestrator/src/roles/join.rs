//! Joining: a token against what a role needs in its folder.

use std::fs;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use anyhow::bail;
use quinn::Endpoint;
use weald_proto::id::Label;
use weald_proto::join::{JoinRequest, JoinResponse, JoinRole};
use weald_trust::join::{JoinToken, client_config, cluster, member};
use weald_trust::pki::folder::{CLUSTER_KEY_FILE, UPPER_FILE, key_in, save_cluster};
use weald_trust::pki::request;
use weald_trust::tls::{Clock, KEY_FILE};

use crate::{join, link};

/// Who joins, and where what it gets is kept.
#[derive(Debug, Clone)]
pub struct JoinOptions {
    /// The token.
    pub token: JoinToken,
    /// The node's or relay's name; a cluster has the token's.
    pub name: Option<Label>,
    /// Where keys and certificates go.
    pub folder: PathBuf,
    /// Where the role will dial; empty for the hosts of the token with the usual port.
    pub upper: Vec<String>,
}

/// The port at which clusters dial root, unless told otherwise.
pub const ROOT_PORT: u16 = 10100;
/// The port at which nodes dial their cluster, unless told otherwise.
pub const CLUSTER_PORT: u16 = 10110;

/// Joins, and keeps what is needed from then on.
///
/// # Errors
/// Nobody answers, one is not let in, or the folder cannot be written.
pub async fn join(options: &JoinOptions) -> anyhow::Result<()> {
    let token = &options.token;
    let (role, clock) = (token.role, Clock::system());
    let name = match (&options.name, role) {
        (Some(name), _) => name.clone(),
        (None, JoinRole::Cluster) => token.cluster.clone(),
        (None, JoinRole::Worker | JoinRole::Relay) => bail!("a {role} needs a name"),
    };
    let (file, port) = match role {
        JoinRole::Cluster => (CLUSTER_KEY_FILE, ROOT_PORT),
        JoinRole::Worker | JoinRole::Relay => (KEY_FILE, CLUSTER_PORT),
    };
    let key = key_in(&options.folder.join(file))?;
    let wanted = JoinRequest {
        secret: token.secret,
        role,
        name: name.clone(),
        csr: request(&key)?,
    };
    let endpoint = Endpoint::client((Ipv6Addr::UNSPECIFIED, 0).into())?;
    let config = link::client_config(client_config(token, clock.clone())?);
    let names: Vec<_> = token.addresses.iter().map(ToString::to_string).collect();
    let dialled = link::dial_once(&endpoint, &names, &config).await?;
    let (chain, ca) = match join::ask(dialled, &wanted).await? {
        JoinResponse::Admitted { chain, ca } => (chain, ca),
        JoinResponse::Refused { text } => bail!("not let in: {text}"),
    };
    match role {
        JoinRole::Cluster => {
            let authority = cluster(token, key, chain, ca, &clock)?;
            save_cluster(&authority, &options.folder)?;
        }
        JoinRole::Worker | JoinRole::Relay => {
            member(token, &name, &key, chain, ca, clock)?.save(&options.folder)?;
        }
    }
    let upper = match options.upper.as_slice() {
        [] => names
            .iter()
            .filter_map(|name| name.rsplit_once(':'))
            .map(|(host, _)| format!("{host}:{port}"))
            .collect(),
        some => some.to_vec(),
    };
    fs::write(options.folder.join(UPPER_FILE), upper.join("\n"))?;
    endpoint.wait_idle().await;
    Ok(())
}
