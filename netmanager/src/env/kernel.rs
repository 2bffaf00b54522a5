//! Takes steps: the only place where an overlay changes the machine.
//!
//! Called by [`super::Overlay`]. Namespaces are opened once and kept open for the duration of one
//! plan.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use nix::libc;

use super::config::INNER_MTU;
use super::item::{Item, Place};
use super::namespace;
use super::netlink::Netlink;
use super::plan::{Plan, Step};

/// The host's namespace and the named ones that were needed so far.
#[derive(Debug)]
pub(super) struct Kernel {
    host: Opened,
    named: BTreeMap<String, Opened>,
}

#[derive(Debug)]
struct Opened {
    file: File,
    netlink: Netlink,
}

impl Opened {
    fn new(file: File) -> io::Result<Self> {
        let netlink = namespace::inside(file.as_fd(), Netlink::open_here)?;
        Ok(Self { file, netlink })
    }
}

impl Kernel {
    /// Starts with a host namespace.
    pub(super) fn new(host: File) -> io::Result<Self> {
        Ok(Self {
            host: Opened::new(host)?,
            named: BTreeMap::new(),
        })
    }

    /// The host's namespace.
    pub(super) const fn host(&self) -> &File {
        &self.host.file
    }

    /// The netlink socket of a place; none if there is no such namespace.
    pub(super) fn netlink(&mut self, place: &Place) -> io::Result<Option<&mut Netlink>> {
        Ok(self.opened(place)?.map(|opened| &mut opened.netlink))
    }

    /// Runs `work` inside a place.
    pub(super) fn inside<T: Send>(
        &mut self,
        place: &Place,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        let opened = self.opened(place)?.ok_or_else(missing)?;
        namespace::inside(opened.file.as_fd(), work)
    }

    fn opened(&mut self, place: &Place) -> io::Result<Option<&mut Opened>> {
        let name = match place {
            Place::Host => return Ok(Some(&mut self.host)),
            Place::Namespace(name) => name,
        };
        if !self.named.contains_key(name) {
            let Some(file) = namespace::open(name)? else {
                return Ok(None);
            };
            self.named.insert(name.clone(), Opened::new(file)?);
        }
        Ok(self.named.get_mut(name))
    }

    /// Takes the steps of a plan; when one fails, takes back those before it.
    ///
    /// `before` is asked before each step and can refuse it.
    pub(super) fn apply(
        &mut self,
        plan: &Plan,
        before: &mut dyn FnMut(&Step) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        for (done, step) in plan.steps.iter().enumerate() {
            tracing::debug!(%step, "environment");
            let taken = before(step).and_then(|()| self.take(step));
            if let Err(error) = taken {
                self.take_back(&plan.steps[..done]);
                return Err(error).with_context(|| format!("could not {step}"));
            }
        }
        Ok(())
    }

    /// Takes every step of a plan that can be taken.
    ///
    /// # Errors
    /// The first failure, after the last step.
    pub(super) fn apply_all(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let mut result = Ok(());
        for step in &plan.steps {
            tracing::debug!(%step, "environment");
            let taken = self.take(step).with_context(|| format!("could not {step}"));
            result = result.and(taken);
        }
        result
    }

    fn take_back(&mut self, steps: &[Step]) {
        for undo in steps.iter().rev().filter_map(Step::undo) {
            if let Err(error) = self.take(&undo) {
                tracing::warn!(step = %undo, %error, "could not undo");
            }
        }
    }

    fn take(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Make(item) => self.make(item),
            // What is gone already is removed.
            Step::Remove(item) => unless_gone(self.remove(item)),
            // A device may have gone since, with its settings.
            Step::Change {
                to: to @ Item::Sysctl { .. },
                ..
            } => unless_gone(self.make(to)),
            Step::Change { to, .. } => self.change(to),
        }
    }

    fn make(&mut self, item: &Item) -> io::Result<()> {
        match item {
            Item::File { path, contents } => write_file(path, contents),
            Item::Namespace(name) => namespace::create(name),
            Item::Veth {
                place,
                device,
                peer_place,
                peer,
            } => {
                let far = self.opened(peer_place)?.ok_or_else(missing)?;
                let far = far.file.try_clone()?;
                let near = self.required(place)?;
                near.add_veth(device, peer, far.as_fd(), INNER_MTU)
            }
            Item::Up { place, device, mtu } => self.required(place)?.set_up(device, *mtu),
            Item::Address {
                place,
                device,
                address,
            } => self.required(place)?.add_address(device, *address),
            Item::Route(route) => self.required(&route.place)?.add_route(route),
            Item::Rule(rule) => self.required(&rule.place)?.add_rule(rule),
            Item::Sysctl { place, key, value } => {
                self.inside(place, || fs::write(Path::new("/proc/sys").join(key), value))
            }
            Item::Nft { place, text, .. } => self.inside(place, || nft(text)),
        }
    }

    fn remove(&mut self, item: &Item) -> io::Result<()> {
        match item {
            Item::File { path, .. } => fs::remove_file(path),
            Item::Namespace(name) => {
                self.named.remove(name);
                namespace::delete(name)
            }
            Item::Veth { place, device, .. } => self.required(place)?.delete_link(device),
            Item::Up { place, device, .. } => self.required(place)?.set_down(device),
            Item::Address {
                place,
                device,
                address,
            } => self.required(place)?.delete_address(device, *address),
            Item::Route(route) => self.required(&route.place)?.delete_route(route),
            Item::Rule(rule) => self.required(&rule.place)?.delete_rule(rule),
            Item::Sysctl { .. } => Ok(()),
            Item::Nft { place, table, .. } => {
                self.inside(place, || nft(&format!("delete table inet {table}\n")))
            }
        }
    }

    fn change(&mut self, to: &Item) -> io::Result<()> {
        match to {
            Item::Nft { place, table, text } => {
                // One transaction: packets meet either the old table or the new one.
                let text = format!("table inet {table} {{ }}\ndelete table inet {table}\n{text}");
                self.inside(place, || nft(&text))
            }
            Item::File { .. }
            | Item::Namespace(_)
            | Item::Veth { .. }
            | Item::Up { .. }
            | Item::Address { .. }
            | Item::Route(_)
            | Item::Rule(_)
            | Item::Sysctl { .. } => self.make(to),
        }
    }

    fn required(&mut self, place: &Place) -> io::Result<&mut Netlink> {
        self.netlink(place)?.ok_or_else(missing)
    }
}

/// The text of an nft table in the namespace of the calling thread; none if there is no such
/// table.
pub(super) fn list_table(table: &str) -> io::Result<Option<String>> {
    let output = Command::new("nft")
        .args(["-s", "list", "table", "inet", table])
        .stdin(Stdio::null())
        .output()
        .map_err(nft_missing)?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let message = String::from_utf8_lossy(&output.stderr);
    if message.contains("No such file or directory") {
        Ok(None)
    } else {
        Err(io::Error::other(message.trim().to_owned()))
    }
}

/// The counters of an nft table in the namespace of the calling thread.
pub(super) fn list_counters(table: &str) -> io::Result<BTreeMap<String, u64>> {
    let output = Command::new("nft")
        .args(["-j", "list", "counters", "table", "inet", table])
        .stdin(Stdio::null())
        .output()
        .map_err(nft_missing)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(message.trim().to_owned()));
    }
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let objects = listed["nftables"].as_array().into_iter().flatten();
    let counters = objects.filter_map(|object| {
        let counter = object.get("counter")?;
        let name = counter["name"].as_str()?.to_owned();
        Some((name, counter["packets"].as_u64()?))
    });
    Ok(counters.collect())
}

/// Hands a transaction to nft in the namespace of the calling thread.
fn nft(text: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(nft_missing)?;
    if let Some(mut input) = child.stdin.take() {
        // nft says why it did not read on.
        let _ = input.write_all(text.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let kind = if message.contains("No such file or directory") {
        return Err(missing());
    } else {
        io::ErrorKind::Other
    };
    Err(io::Error::new(kind, format!("nft: {}", message.trim())))
}

fn nft_missing(error: io::Error) -> io::Error {
    let kind = error.kind();
    io::Error::new(kind, format!("cannot run nft (package nftables): {error}"))
}

fn write_file(path: &Path, contents: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, contents)
}

/// Forgives that something was not there.
fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    let gone = [libc::ENOENT, libc::ENODEV, libc::ESRCH, libc::EADDRNOTAVAIL];
    match result.as_ref().map_err(io::Error::raw_os_error) {
        Err(Some(code)) if gone.contains(&code) => Ok(()),
        _ => result,
    }
}

fn missing() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}
