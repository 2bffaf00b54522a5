//! Starting what `weald dev up` starts, one part after the other, and knowing that all of it works.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use weald_proto::addr::Pools;
use weald_proto::id::Label;
use weald_proto::join::JoinRole;

use super::folder::{Book, Folder};
use super::part::{self, API, Part};
use crate::cli::answers::{Cluster, Node};
use crate::cli::http::Address;
use crate::cli::roles::USUAL_SOCKET;
use crate::cli::session::{self, Client, Session};
use crate::cli::tls::Trust;
use crate::desk::{Answer, Invite, Question, ask};
use crate::roles::{self, JoinOptions};
use crate::runtime::cgroup::worker_groups;

/// Who is logged in, and its password: `weald root --compat-login` lets it in.
pub(super) const USER: &str = "Admin";
/// The cluster and the node in it.
const CLUSTER_NAME: &str = "dev";
const NODE_NAME: &str = "local";
/// How long all of it may take; a few seconds are usual.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// Where overlays keep what they have made in the kernel.
const OVERLAYS: &str = "/run/weald";

/// Finds what would be disturbed: another netmanager, or another overlay's addresses.
///
/// # Errors
/// There is one, or netmanager is not beside this program.
pub(super) fn check_machine(folder: &Folder) -> anyhow::Result<()> {
    part::netmanager()?;
    if UnixStream::connect(USUAL_SOCKET).is_ok() {
        bail!(
            "a netmanager runs on this machine already (it answers at {USUAL_SOCKET}), and `weald dev` would get in its way; stop it with `netmanager down` first, or use another machine"
        );
    }
    let routes = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    if let Some((network, device)) = pool_route(&routes, Pools::default()) {
        bail!(
            "this machine has an overlay already: {network} leads to {device}, and `weald dev` would get in its way; remove it with `netmanager down` (or `weald dev down --dir DIR`, if another one is up) first, or use another machine than for {}",
            folder.path().display()
        );
    }
    Ok(())
}

/// The first route of /proc/net/route into the overlay's addresses: where to, over which device.
fn pool_route(routes: &str, pools: Pools) -> Option<(Ipv4Addr, &str)> {
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (device, to) = (fields.next()?, fields.next()?);
        // As the bytes lie in memory.
        let to = u32::from_str_radix(to, 16).ok()?;
        let to = Ipv4Addr::from(to.to_ne_bytes());
        pools.v4.contains(to).then_some((to, device))
    })
}

/// Starts what does not run, and waits until all of it works.
///
/// # Errors
/// A part ends, or something is not so in time.
pub(super) async fn start(
    folder: &Folder,
    book: &mut Book,
    session: &Path,
    quiet: bool,
) -> anyhow::Result<()> {
    let mut starter = Starter {
        folder,
        book,
        children: BTreeMap::new(),
        begun: Instant::now(),
        quiet,
    };
    starter.run(Part::Root).await?;
    starter.log_in(session).await?;
    if !roles::has_joined(&folder.join(Part::Cluster.name())) {
        let cluster = Some(Label::new(CLUSTER_NAME)?);
        starter
            .join(Part::Root, Part::Cluster, JoinRole::Cluster, cluster)
            .await?;
    }
    starter.run(Part::Cluster).await?;
    if !roles::has_joined(&folder.join(Part::Worker.name())) {
        starter
            .join(Part::Cluster, Part::Worker, JoinRole::Worker, None)
            .await?;
    }
    part::configure(folder, &starter.book.overlay)?;
    starter.book.will_make(&Path::new(OVERLAYS).join("any"));
    starter.run(Part::Netmanager).await?;
    // Noted before there is a worker, since one that is killed cannot be asked any more.
    let groups = worker_groups().context("cannot read which cgroups there are")?;
    starter.book.remove_at_last(groups);
    starter.run(Part::Worker).await?;
    starter.works().await
}

struct Starter<'a> {
    folder: &'a Folder,
    book: &'a mut Book,
    children: BTreeMap<Part, Child>,
    begun: Instant,
    quiet: bool,
}

impl Starter<'_> {
    fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Starts a part, unless it runs, and waits until it says that it is ready.
    async fn run(&mut self, part: Part) -> anyhow::Result<()> {
        if self.book.is_alive(part) {
            return Ok(());
        }
        self.say(&format!("starting {}", part.name()));
        let child = part.spawn(self.folder, self.book)?;
        self.children.insert(part, child);
        let folder = self.folder.clone();
        self.until(&format!("{} is ready", part.name()), async || {
            ensure!(part.is_ready(&folder), "it has not said so");
            Ok(())
        })
        .await
        .map_err(|error| {
            // It may have said so and ended within one look.
            self.ended().err().unwrap_or(error)
        })
    }

    /// Looks until something is so.
    async fn until<T>(
        &mut self,
        what: &str,
        mut look: impl AsyncFnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        loop {
            let error = match look().await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            self.ended()?;
            if self.begun.elapsed() >= PATIENCE {
                let seconds = PATIENCE.as_secs();
                return Err(error.context(format!("{what}: not so within {seconds} s")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Fails if a part has ended.
    fn ended(&mut self) -> anyhow::Result<()> {
        for (part, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "{} ended while starting ({status}); mend what its log says and try again:{}",
                    part.name(),
                    part.tail(self.folder)
                );
            }
        }
        Ok(())
    }

    /// Logs in twice: for these commands, and for the user, whose former session is kept.
    async fn log_in(&mut self, file: &Path) -> anyhow::Result<()> {
        let address = Address::parse(&format!("http://{API}"), Trust::default())?;
        let own = self
            .until("root lets one log in", async || log_in(&address).await)
            .await?;
        own.save(&self.folder.session())?;
        let present = session::Session::load(file).ok();
        let ours = |it: &Session| it.root == own.root && it.user == own.user;
        if self.book.session.as_deref() == Some(file) && present.as_ref().is_some_and(ours) {
            return Ok(());
        }
        if present.is_some() && !self.folder.former_session().exists() {
            fs::copy(file, self.folder.former_session())?;
        }
        self.book.will_make(file);
        self.book.session = Some(file.to_owned());
        self.folder.write(self.book)?;
        log_in(&address).await?.save(file)
    }

    /// Has a part join at the one above.
    async fn join(
        &self,
        at: Part,
        who: Part,
        role: JoinRole,
        cluster: Option<Label>,
    ) -> anyhow::Result<()> {
        let invite = Invite {
            role,
            cluster,
            uses: 1,
            life_s: 600,
        };
        let place = self.folder.join(at.name());
        let token = match ask(&place, &Question::Invite(invite)).await? {
            Answer::Token(token) => token,
            Answer::Error(text) => bail!("{} gives no token: {text}", at.name()),
            Answer::Tokens(_) | Answer::Done => bail!("{} gives no token", at.name()),
        };
        let options = JoinOptions {
            token: token.parse()?,
            name: match role {
                JoinRole::Cluster => None,
                JoinRole::Worker | JoinRole::Relay => Some(Label::new(NODE_NAME)?),
            },
            folder: self.folder.join(who.name()),
            upper: Vec::new(),
        };
        let joined = roles::join(&options).await;
        joined.with_context(|| format!("the {} cannot join", who.name()))
    }

    /// Waits until root shows the cluster and the node alive, and the netmanager has reached the
    /// cluster, so that what is deployed now is placed and its name resolves.
    async fn works(&mut self) -> anyhow::Result<()> {
        let mut client = Client::open(self.folder.session())?;
        self.until("root shows the cluster and the node alive", async || {
            let clusters: Vec<Cluster> = client.get("/api/v1/clusters").await?;
            ensure!(
                clusters.iter().any(|it| it.standing == "alive"),
                "the cluster is not"
            );
            let nodes: Vec<Node> = client.get("/api/v1/nodes").await?;
            let there = |it: &Node| it.standing == "alive" && it.ipv4.is_some();
            ensure!(nodes.iter().any(there), "the node is not");
            Ok(())
        })
        .await?;
        let folder = self.folder.clone();
        self.until("the netmanager has reached the cluster", async || {
            let status = netmanager_status(&folder)?;
            ensure!(
                !status["cluster"]["observed"].is_null(),
                "it says {}",
                status["cluster"]
            );
            Ok(())
        })
        .await
    }
}

async fn log_in(address: &Address) -> anyhow::Result<Session> {
    let body = json!({ "username": USER, "password": USER });
    let asked = (session::LOGIN, &body);
    session::log_in(address, Trust::default(), USER.to_owned(), asked).await
}

/// What `netmanager status` says.
fn netmanager_status(folder: &Folder) -> anyhow::Result<Value> {
    let printed = part::ask_netmanager(folder, &["--json", "status"])?;
    Ok(serde_json::from_slice(&printed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_into_the_pools_are_found() {
        let head = "Iface\tDestination\tGateway\tFlags\n";
        let hex = |it: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(it));
        let other = format!("eth0\t{}\t00000000\n", hex([10, 31, 0, 0]));
        let none = format!("{head}eth0\t00000000\tFE00000A\n{other}x\nnothing\tzz\n");
        assert_eq!(pool_route(&none, Pools::default()), None);
        let there = format!("{none}weald-h\t{}\t00000000\n", hex([10, 30, 0, 0]));
        let found = pool_route(&there, Pools::default());
        assert_eq!(found, Some((Ipv4Addr::new(10, 30, 0, 0), "weald-h")));
    }
}
