//! `weald dev`, as a user types it: up, an SLA that is fetched by its name, down, and nothing left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::fleet::netmanager_binary;
use netns_tests::{
    Attachment, Description, Lab, Machine, MachineState, Scope, Segment, require, wait,
};
use serde_json::{Value, json};

/// How long one command may take, also on a machine that others keep busy.
const SOON: Duration = Duration::from_secs(60);
/// How soon a user has everything up, by the user's own clock; a tenth of it is usual.
const READY: Duration = Duration::from_secs(10);
const HOST: &str = "host";

fn lab() -> Result<Lab> {
    Lab::new(
        &Description::new()
            .segment(Segment::new("net").v4("192.0.2.0/24"))
            .machine(Machine::host(HOST).attach(Attachment::to("net").number(1))),
    )
}

/// A user at the machine.
struct User<'lab> {
    lab: &'lab Lab,
    weald: PathBuf,
    /// Where `weald dev` is; nothing else is in the folder above.
    dir: PathBuf,
    home: PathBuf,
}

impl<'lab> User<'lab> {
    fn new(lab: &'lab Lab) -> Result<Self> {
        let place = lab.node(HOST).dir()?;
        fs::create_dir_all(place.join("home"))?;
        Ok(Self {
            lab,
            weald: netmanager_binary()?.with_file_name("weald"),
            dir: place.join("dev"),
            home: place.join("home"),
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.weald);
        command.args(words);
        command
            .env_remove("XDG_CONFIG_HOME")
            .env("HOME", &self.home);
        command
    }

    fn types(&self, words: &[&str]) -> Result<String> {
        self.lab.node(HOST).run_ok(self.command(words), SOON)
    }

    fn json(&self, words: &[&str]) -> Result<Value> {
        let said = self.types(&[words, &["--json"]].concat())?;
        serde_json::from_str(&said).with_context(|| format!("no JSON: {said}"))
    }

    fn dev(&self, command: &str) -> Result<Value> {
        self.json(&["dev", command, "--dir", text(&self.dir)?])
    }

    /// What a command that fails says on standard error.
    fn refused(&self, words: &[&str]) -> Result<String> {
        let output = self.lab.node(HOST).run(self.command(words), SOON)?;
        ensure!(!output.status.success(), "{words:?}: {output:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for User<'_> {
    /// Also after a failure nothing stays in the kernel.
    fn drop(&mut self) {
        if self.dir.exists()
            && let Err(error) = self.dev("down")
        {
            eprintln!("weald dev down: {error:#}");
        }
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// Everything in the machine, and everywhere else what has one of the names, which a setup gives to
/// what is its own: its overlay's, and what its cgroups begin with.
fn scope(user: &User<'_>, names: &[String]) -> Result<Scope> {
    let node = user.lab.node(HOST);
    let mut paths = vec![node.dir()?.to_owned()];
    paths.extend(names.iter().map(|name| Path::new("/run/weald").join(name)));
    Ok(Scope {
        namespaces: vec![node.name().to_owned()],
        names: names.to_vec(),
        paths,
    })
}

/// What the cgroups of a setup's instances begin with, as the kernel has it of one.
fn group_prefix(namespace: &str) -> Result<String> {
    let pids = Command::new("ip")
        .args(["netns", "pids", namespace])
        .output()?;
    let pids = String::from_utf8(pids.stdout)?;
    let groups = pids.lines().filter_map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let name = text
            .split('/')
            .find_map(|part| part.strip_prefix("weald."))?;
        let (prefix, _) = name.split_once('.')?;
        Some(format!("weald.{prefix}."))
    });
    let mut groups = groups.collect::<Vec<_>>();
    groups
        .pop()
        .with_context(|| format!("no cgroup of {namespace}: {pids:?}"))
}

/// The cgroup of version 2 that a worker moves into where it must leave its own, as the kernel has
/// this process; none where version 2 is not mounted.
fn worker_group() -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let Some(mount) = mounts.lines().find(|line| line.contains(" - cgroup2 ")) else {
        return Ok(None);
    };
    let mount = mount.split(' ').nth(4).context("no mount point")?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = Path::new(mount).join(own.unwrap_or_default());
    Ok(group.is_dir().then(|| group.join("weald.worker")))
}

fn page(name: &str) -> Value {
    let server =
        "mkdir -p $DIR && cd $DIR && echo hello > index.html && exec python3 -m http.server 80";
    json!({
        "sla_version": "v2.0", "customerID": "Admin",
        "applications": [{
            "applicationID": "", "application_name": "shop", "application_namespace": "prod",
            "application_desc": "", "microservices": [{
                "microserviceID": "", "microservice_name": name,
                "microservice_namespace": "prod", "virtualization": "process",
                "code": "/bin/sh", "cmd": ["/bin/sh", "-c", server],
                "memory": 100, "vcpus": 0, "storage": 0,
            }],
        }],
    })
}

#[test]
fn up_is_all_that_one_needs_and_down_leaves_nothing() -> Result<()> {
    require::programs(&["curl", "dig", "python3"])?;
    let lab = lab()?;
    let user = User::new(&lab)?;
    // Nothing has been up yet, and that is no failure.
    ensure!(user.dev("status")?["up"] == false);
    ensure!(user.dev("down")?["was_up"] == false);
    let before = MachineState::take(&scope(&user, &[])?)?;

    let began = Instant::now();
    let up = user.dev("up")?;
    let took = began.elapsed();
    ensure!(up["up"] == true && up["already"] == false, "{up}");
    println!("up after {took:?}, at most {READY:?}");
    ensure!(took <= READY, "up after {took:?}: {up}");
    // It says no more of itself than the user has waited.
    let seconds = up["seconds"].as_f64().context("no seconds")?;
    ensure!(
        seconds > 0.0 && seconds <= took.as_secs_f64(),
        "{took:?}: {up}"
    );
    let overlay = up["overlay"].as_str().context("no overlay")?.to_owned();
    let again = user.dev("up")?;
    ensure!(again["already"] == true, "{again}");
    ensure!(pids(&again)? == pids(&up)?, "{up} {again}");

    let sla = user.home.join("sla.json");
    let mut page = page("web");
    let folder = format!("DIR={}", text(&user.home.join("page"))?);
    page["applications"][0]["microservices"][0]["environment"] = json!([folder]);
    fs::write(&sla, page.to_string())?;
    user.types(&["app", "apply", text(&sla)?, "--deploy", "2"])?;
    let name = "http://shop.prod.web.prod.any.rr.local/";
    wait::until("the page comes by name", SOON, || {
        let dig = "dig +short +tries=1 +time=2 @169.254.1.1 shop.prod.web.prod.any.rr.local";
        let address = lab.node(HOST).run_ok(netns_tests::command(dig), SOON)?;
        let to = format!("shop.prod.web.prod.any.rr.local:80:{}", address.trim());
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-m", "5", "--resolve", &to, name]);
        let said = lab.node(HOST).run_ok(curl, SOON)?;
        ensure!(said == "hello\n", "{said:?}");
        Ok(())
    })?;
    let status = user.dev("status")?;
    ensure!(status["up"] == true, "{status}");
    ensure!(status["nodes"][0]["name"] == "dev/local", "{status}");
    let service = &status["services"][0];
    ensure!(service["name"] == "shop.prod.web.prod", "{status}");
    ensure!(service["running"] == 2, "{status}");
    let shown = user.types(&["dev", "status", "--dir", text(&user.dir)?])?;
    ensure!(shown.contains("shop.prod.web.prod"), "{shown}");

    // What has died is shown, and started again by `up`; the instances go on.
    let root = pids(&up)?.first().copied().context("no parts")?;
    lab.node(HOST)
        .run_ok(netns_tests::command(&format!("kill -9 {root}")), SOON)?;
    wait::until("root is gone", SOON, || {
        let status = user.dev("status")?;
        ensure!(status["parts"][0]["alive"] == false, "{status}");
        ensure!(
            status["up"] == false && status["error"].is_string(),
            "{status}"
        );
        Ok(())
    })?;
    let mended = user.dev("up")?;
    ensure!(mended["already"] == false, "{mended}");
    ensure!(
        pids(&mended)?[0] != root && pids(&mended)?[1..] == pids(&up)?[1..],
        "{mended}"
    );
    wait::until("its instances are known again", SOON, || {
        let status = user.dev("status")?;
        ensure!(status["services"][0]["running"] == 2, "{status}");
        Ok(())
    })?;

    // The worker dies as well, and with it nobody knows its cgroup any more; `down` does.
    let worker = pids(&mended)?.last().copied().context("no parts")?;
    lab.node(HOST)
        .run_ok(netns_tests::command(&format!("kill -9 {worker}")), SOON)?;
    let left = worker_group()?;
    if let Some(group) = &left
        && !group.exists()
    {
        // This machine's workers need none; then one stands for it.
        fs::create_dir(group)?;
    }
    let prefix = group_prefix(&format!("{overlay}.shop.prod.web.prod.0"))?;
    ensure!(user.dev("down")?["was_up"] == true);
    ensure!(!left.is_some_and(|group| group.exists()), "a cgroup stays");
    fs::remove_file(&sla)?;
    fs::remove_dir_all(user.home.join("page"))?;
    before.wait_restored(&scope(&user, &[overlay, prefix])?, SOON)?;
    ensure!(user.dev("down")?["was_up"] == false);
    Ok(())
}

#[test]
fn up_disturbs_nobody_and_takes_down_what_it_has_started() -> Result<()> {
    let lab = lab()?;
    let user = User::new(&lab)?;
    let dir = text(&user.dir)?.to_owned();
    let up = ["dev", "up", "--dir", &dir];
    let before = MachineState::take(&scope(&user, &[])?)?;

    // Somebody has the cluster's port: the part is named, with the end of what it wrote.
    let taken = lab.node(HOST).udp_bind("127.0.0.1:10110".parse()?)?;
    let said = user.refused(&up)?;
    ensure!(said.contains("cluster ended while starting"), "{said}");
    ensure!(said.contains("10110"), "{said}");
    ensure!(said.contains("started is stopped again"), "{said}");
    drop(taken);
    before.wait_restored(&scope(&user, &[])?, SOON)?;

    // An overlay is there.
    let host = lab.node(HOST);
    let add = "ip link add other type veth peer name another";
    host.run_ok(netns_tests::command(add), SOON)?;
    host.run_ok(netns_tests::command("ip link set other up"), SOON)?;
    host.run_ok(
        netns_tests::command("ip route add 10.30.0.0/16 dev other"),
        SOON,
    )?;
    let said = user.refused(&up)?;
    ensure!(said.contains("has an overlay already"), "{said}");
    ensure!(said.contains("other"), "{said}");
    ensure!(!user.dir.exists(), "a folder was left");
    host.run_ok(netns_tests::command("ip link del other"), SOON)?;

    // The folder is somebody's.
    fs::create_dir_all(&user.dir)?;
    fs::write(user.dir.join("mine"), "x")?;
    let said = user.refused(&up)?;
    ensure!(said.contains("another --dir"), "{said}");
    ensure!(user.dev("down")?["was_up"] == false);
    ensure!(fs::read(user.dir.join("mine"))? == b"x");
    Ok(())
}

/// The pids of the parts, in their order.
fn pids(up: &Value) -> Result<Vec<u64>> {
    let parts = up["parts"].as_array().context("no parts")?;
    let pid = |part: &Value| part["pid"].as_u64().context("no pid");
    parts.iter().map(pid).collect()
}
