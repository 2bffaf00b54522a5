//! `docs/standalone.md` and `docs/cluster.md`, run as they are written: their shell blocks on two hosts,
//! their files in place.
//!
//! Each host has a shell with a mount namespace of its own, in which the paths that the page names
//! are private. Only `scp` is ours, because the hosts of a lab have no sshd.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use netns_tests::{Description, Lab, Machine, MachineState, Scope, Segment, require, wait};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

const STANDALONE: &str = include_str!("../../docs/standalone.md");
const CLUSTER: &str = include_str!("../../docs/cluster.md");
/// Directories that each host has for itself.
const PRIVATE: [&str; 5] = [
    "/etc/weald",
    "/var/lib/weald",
    "/run/weald",
    "/srv",
    "/var/log",
];
/// How long one block may take.
const BLOCK_TIME: Duration = Duration::from_secs(30);

/// A fenced block of the page.
#[derive(Debug)]
struct Block {
    kind: String,
    place: String,
    text: String,
}

#[test]
fn two_hosts_with_two_files_have_a_tunnel() -> Result<()> {
    works_as_written(STANDALONE, 10)
}

#[test]
fn two_nodes_join_a_cluster_by_hand() -> Result<()> {
    works_as_written(CLUSTER, 15)
}

/// Runs every block of a page, of which there are so many at least.
fn works_as_written(page: &str, least: u32) -> Result<()> {
    require::programs(&["nsenter", "unshare", "ip", "curl", "python3"])?;
    let lab = Lab::new(
        &Description::new()
            .segment(Segment::new("net").v4("192.0.2.0/24"))
            .machine(Machine::host("alpha").at("net", 1))
            .machine(Machine::host("beta").at("net", 2)),
    )?;
    fs::create_dir_all(lab.dir())?;
    let _mount_points = MountPoints::make()?;
    let mut alpha = Host::start(&lab, "alpha")?;
    let mut beta = Host::start(&lab, "beta")?;
    let scope = Scope {
        namespaces: lab.nodes().map(|node| node.name().to_owned()).collect(),
        ..Scope::default()
    };
    let before = network_of(&scope)?;
    ensure!(before.len() > 10, "little to compare: {before:?}");
    let mut printed = String::new();
    let mut ran = 0;
    for block in blocks(page) {
        match (block.kind.as_str(), block.place.as_str()) {
            ("sh", "alpha") => printed = alpha.run(&block.text)?,
            ("sh", "beta") => printed = beta.run(&block.text)?,
            ("toml" | "json", path) => {
                for host in [&mut alpha, &mut beta] {
                    host.run(&format!("cat > {path} <<'END'\n{}END", block.text))?;
                }
            }
            ("text", _) => {
                ensure!(
                    printed == block.text,
                    "printed {printed:?}, not {:?}",
                    block.text
                );
            }
            (kind, place) => bail!("the page has a block {kind:?} {place:?} that is not run"),
        }
        if block.text.contains("scp") {
            let path = fs::read_to_string(lab.dir().join("path"))?;
            beta.run(&format!("cp -r {}/for-beta {path}", lab.dir().display()))?;
        }
        if let Some(log) = started(&block.text) {
            let host = if block.place == "alpha" {
                &mut alpha
            } else {
                &mut beta
            };
            host.run(&format!(
                "until grep -q ready {log}; do kill -0 $! || {{ cat {log}; break; }}; sleep 0.02; done"
            ))?;
        }
        ran += 1;
    }
    ensure!(ran >= least, "only {ran} blocks were found");
    for host in [&mut alpha, &mut beta] {
        let left = host.run("ls /run/netns | grep -c weald || true; ls -A /run/weald")?;
        ensure!(left.trim() == "0", "left behind: {left}");
    }
    // The kernel removes some things after the call that asked for it.
    wait::until("both hosts' networks are as before", BLOCK_TIME, || {
        let after = network_of(&scope)?;
        let (added, removed) = (after.difference(&before), before.difference(&after));
        let (added, removed): (Vec<_>, Vec<_>) = (added.collect(), removed.collect());
        ensure!(
            added.is_empty() && removed.is_empty(),
            "added {added:#?}, removed {removed:#?}"
        );
        Ok(())
    })
}

/// Links, addresses, routes, rules and nft tables of both hosts, one a line. Programs are left out: the
/// page leaves it to its reader how some of them end.
fn network_of(scope: &Scope) -> Result<BTreeSet<String>> {
    let state = MachineState::take(scope)?;
    let network = state.lines().filter(|line| !line.contains(": program "));
    Ok(network.map(str::to_owned).collect())
}

/// Where a program that a block leaves running writes what it says.
fn started(block: &str) -> Option<&str> {
    let (_, log) = block
        .trim_end()
        .strip_suffix(" 2>&1 &")?
        .rsplit_once("> ")?;
    log.starts_with("/var/log/").then_some(log)
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(header) = line.strip_prefix("```") else {
            continue;
        };
        let (kind, place) = header.split_once(' ').unwrap_or((header, ""));
        let body = lines.by_ref().take_while(|line| *line != "```");
        let text = body.map(|line| format!("{line}\n")).collect();
        blocks.push(Block {
            kind: kind.to_owned(),
            place: place.to_owned(),
            text,
        });
    }
    blocks
}

/// Directories that have to exist to be mounted over; those that this test made are removed.
struct MountPoints(Vec<PathBuf>);

impl MountPoints {
    fn make() -> Result<Self> {
        let mut made = Self(Vec::new());
        for path in PRIVATE.iter().map(Path::new).filter(|path| !path.exists()) {
            fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
            made.0.push(path.to_owned());
        }
        Ok(made)
    }
}

impl Drop for MountPoints {
    fn drop(&mut self) {
        for path in &self.0 {
            // Somebody else may use it by now; then it stays.
            let _ = fs::remove_dir(path);
        }
    }
}

/// A shell on a host.
struct Host {
    shell: Child,
    input: ChildStdin,
    output: Receiver<String>,
    blocks: u32,
}

impl Host {
    fn start(lab: &Lab, name: &str) -> Result<Self> {
        let mut command = Command::new("nsenter");
        let namespace = format!("--net=/run/netns/{}", lab.node(name).name());
        // Not by `ip netns exec`, which hides the cgroups with another /sys.
        command.arg(namespace);
        command.args(["unshare", "--mount", "--propagation", "private", "sh"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut shell = command.spawn().context("start a shell")?;
        let input = shell.stdin.take().context("no standard input")?;
        let stdout = shell.stdout.take().context("no standard output")?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut host = Self {
            shell,
            input,
            output,
            blocks: 0,
        };
        let mounts: String = PRIVATE
            .iter()
            .map(|path| format!("mount -t tmpfs private {path}\n"))
            .collect();
        let folder = netmanager()?;
        let exchange = lab.dir();
        host.run(&format!(
            "{mounts}PATH={1}:$PATH\nexport HOME=/srv\nscp() {{ cp -r \"$2\" {0}/for-${{3%%:*}}; printf %s \"${{3#*:}}\" > {0}/path; }}\n",
            exchange.display(),
            folder.display()
        ))?;
        Ok(host)
    }

    /// Runs a block and returns what it prints; every command of it has to succeed.
    fn run(&mut self, block: &str) -> Result<String> {
        self.blocks += 1;
        let end = format!("end of block {}", self.blocks);
        writeln!(self.input, "set -e\n{block}\nset +e\necho '{end}'")?;
        self.input.flush()?;
        let deadline = Instant::now() + BLOCK_TIME;
        let mut printed = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.output.recv_timeout(left);
            let line = line.with_context(|| format!("printed {printed:?} and failed:\n{block}"))?;
            if line == end {
                return Ok(printed);
            }
            printed.push_str(&line);
            printed.push('\n');
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = killpg(
            Pid::from_raw(self.shell.id().cast_signed()),
            Signal::SIGKILL,
        );
        let _ = self.shell.wait();
    }
}

/// The folder of the program under test.
fn netmanager() -> Result<PathBuf> {
    let binary = netns_tests::fleet::netmanager_binary()?;
    Ok(binary
        .parent()
        .context("the program is in no folder")?
        .to_owned())
}
