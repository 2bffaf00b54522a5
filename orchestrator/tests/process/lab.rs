//! A runtime in a folder of its own, and what the tests ask of it. What it leaves behind fails the
//! test that made it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orchestrator::runtime::cgroup::{Cgroups, Layout};
use orchestrator::runtime::process::{Config, ProcessRuntime};
use orchestrator::runtime::{Launch, Runtime};
use orchestrator_core::worker::RuntimeEvent;
use tempfile::TempDir;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use weald_proto::addr::Dual;
use weald_proto::control::Generation;
use weald_proto::id::Organisation;
use weald_proto::name::InstanceId;
use weald_proto::spec::{Resources, Runtime as Kind, ServiceSpec};
use weald_proto::table::{AcceptPolicy, LanePolicy};

/// How long anything may take that is to happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// How long an instance of these tests has from SIGTERM to SIGKILL.
pub(crate) const GRACE: Duration = Duration::from_millis(300);

/// Bytes of log of each instance of these tests.
pub(crate) const LOG_BYTES: u64 = 64 << 10;

/// An instance's name.
pub(crate) fn instance(number: u32) -> InstanceId {
    format!("shop.prod.web.front.{number}").parse().unwrap()
}

/// A life that runs a command.
pub(crate) fn launch(number: u32, generation: Generation, command: &[&str]) -> Launch {
    let instance = instance(number);
    let spec = ServiceSpec {
        name: instance.service.clone(),
        organisation: Organisation("acme".parse().unwrap()),
        round_robin: Dual::default(),
        closest: Dual::default(),
        lane: LanePolicy::Auto,
        accept: AcceptPolicy::Late,
        runtime: Kind::Process,
        code: "/nowhere".to_owned(),
        command: command.iter().map(ToString::to_string).collect(),
        environment: Vec::new(),
        resources: Resources::default(),
        ports: Vec::new(),
        listens: Vec::new(),
        one_shot: false,
        constraints: Vec::new(),
        scheduler: None,
        convergence: Duration::from_secs(1),
    };
    Launch {
        instance,
        generation,
        spec,
        netns: None,
        resolv_conf: None,
    }
}

/// A life that runs a shell script.
pub(crate) fn script(number: u32, generation: Generation, script: &str) -> Launch {
    launch(number, generation, &["sh", "-c", script])
}

/// How the tests run instances.
pub(crate) fn config(folder: &Path) -> Config {
    let cgroups = Cgroups::find(None).unwrap();
    assert_eq!(cgroups.shortcomings(), [""; 0]);
    config_of(folder, cgroups)
}

fn config_of(folder: &Path, cgroups: Cgroups) -> Config {
    let mut config = Config::new(folder.to_owned(), cgroups);
    config.supervisor = env!("CARGO_BIN_EXE_weald").into();
    config.grace = GRACE;
    config.log_bytes = LOG_BYTES;
    config
}

/// The machine's cgroups as if only one version of them were mounted, for each version that is.
pub(crate) fn cgroups_of_one_version() -> Vec<Cgroups> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let layout = Layout::parse(&mounts, &own);
    let one = Layout {
        v2: None,
        ..layout.clone()
    };
    let two = Layout {
        v1: BTreeMap::new(),
        ..layout
    };
    let mounted = [one, two]
        .into_iter()
        .filter(|layout| *layout != Layout::default());
    mounted
        .map(|layout| Cgroups::of_layout(&layout, None).unwrap())
        .collect()
}

/// One worker's runtime, and the next one's when it is restarted.
#[derive(Debug)]
pub(crate) struct Lab {
    /// None once it is another's.
    folder: Option<TempDir>,
    pub(crate) runtime: ProcessRuntime,
    events: UnboundedReceiver<(InstanceId, Generation, RuntimeEvent)>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        Self::open(folder, config)
    }

    /// With cgroups that may lack something.
    pub(crate) fn of(cgroups: Cgroups) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config_of(folder.path(), cgroups);
        Self::open(folder, config)
    }

    fn open(folder: TempDir, config: Config) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        Self {
            runtime: ProcessRuntime::open(config, sender).unwrap(),
            folder: Some(folder),
            events,
        }
    }

    /// The worker's side goes, and another comes that wants these instances.
    pub(crate) fn restart(self, wanted: &[u32]) -> Self {
        Self::over(self.leave(), wanted)
    }

    /// The worker's side goes; its folder stays.
    pub(crate) fn leave(mut self) -> TempDir {
        self.folder.take().unwrap()
    }

    /// A worker that wants these instances comes to a folder that another has left.
    pub(crate) fn over(folder: TempDir, wanted: &[u32]) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let runtime = ProcessRuntime::open(config(folder.path()), sender).unwrap();
        let wanted: BTreeSet<_> = wanted.iter().copied().map(instance).collect();
        runtime.readopt(&wanted).unwrap();
        Self {
            folder: Some(folder),
            runtime,
            events,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    /// The process that watches over the lab's only instance.
    pub(crate) fn supervisor(&self) -> i32 {
        let marker = self.folder().to_str().unwrap().to_owned();
        let found = processes()
            .into_iter()
            .find(|(_, words)| words.contains(&marker));
        found.unwrap().0
    }

    /// The next event.
    pub(crate) async fn next(&mut self) -> (InstanceId, Generation, RuntimeEvent) {
        let next = tokio::time::timeout(SOON, self.events.recv()).await;
        next.expect("an event").expect("an open channel")
    }

    /// The next event must be this one.
    pub(crate) async fn expect(&mut self, number: u32, generation: u64, event: RuntimeEvent) {
        assert_eq!(self.next().await, (instance(number), generation, event));
    }

    /// Starts a life and waits until it runs.
    pub(crate) async fn run(&mut self, launch: Launch) {
        let (instance, generation) = (launch.instance.clone(), launch.generation);
        self.runtime.start(launch);
        let event = self.next().await;
        assert_eq!(event, (instance, generation, RuntimeEvent::Running));
    }

    /// Starts a life that must not start, and says why it did not.
    pub(crate) async fn refusal(&mut self, launch: Launch) -> String {
        self.runtime.start(launch);
        match self.next().await {
            (_, _, RuntimeEvent::NotStarted(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the end of a life that is running.
    pub(crate) async fn exit(&mut self) -> (i32, Option<String>) {
        match self.next().await {
            (_, _, RuntimeEvent::Exited { status, detail }) => (status, detail),
            other => panic!("{other:?}"),
        }
    }

    /// Ends an instance and waits until nothing is left.
    pub(crate) async fn stop(&mut self, number: u32, generation: u64) {
        self.runtime.stop(&instance(number), generation);
        self.expect(number, generation, RuntimeEvent::Stopped).await;
    }

    /// What an instance has written.
    pub(crate) fn log(&self, number: u32) -> Vec<String> {
        self.runtime.logs(&instance(number), 1_000).unwrap()
    }

    /// Waits until an instance has written a line, and returns it.
    pub(crate) async fn line(&self, number: u32, wanted: impl Fn(&str) -> bool) -> String {
        let look = async {
            loop {
                let found = self.log(number).into_iter().find(|line| wanted(line));
                if let Some(line) = found {
                    return line;
                }
                // A log has no event for its readers.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, look).await.expect("such a line")
    }

    /// The folders of a life's cgroup.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        groups(self.runtime.group_prefix())
    }

    pub(crate) fn must_have_no_groups(&self) {
        let left = self.groups();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Nothing of any instance is left: no folder, no cgroup, no process.
    pub(crate) fn must_be_clean(&self) {
        let left: Vec<_> = fs::read_dir(self.folder()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        self.must_have_no_groups();
        let marker = self.folder().to_str().unwrap();
        let processes: Vec<String> = processes()
            .into_iter()
            .filter(|(_, words)| words.contains(marker))
            .map(|(pid, words)| format!("{pid}: {words}"))
            .collect();
        assert!(processes.is_empty(), "{processes:?}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let Some(folder) = &self.folder else {
            return;
        };
        // A test that failed ends what it started: with its supervisor, an instance is killed.
        let marker = folder.path().to_str().unwrap().to_owned();
        for (pid, words) in processes() {
            if words.contains(&marker) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let cgroups = Cgroups::find(None).unwrap_or_default();
        let groups = cgroups.list(self.runtime.group_prefix());
        for (_, group) in groups.unwrap_or_default() {
            let _ = group.kill().and_then(|()| group.remove());
        }
    }
}

/// Every cgroup whose name begins so, in every hierarchy.
fn groups(prefix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        // Groups come and go meanwhile.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                found.push(entry.path());
            }
            folders.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Every process with its command line.
pub(crate) fn processes() -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if !words.is_empty() {
            found.push((pid, words));
        }
    }
    found
}

/// Whether a process is there and has not ended.
pub(crate) fn lives(pid: i32) -> bool {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = text.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    !matches!(state, Some(b'Z' | b'X') | None)
}
