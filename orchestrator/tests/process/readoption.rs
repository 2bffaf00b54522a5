//! Instances outlive their worker, and the next one takes them up.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orchestrator::runtime::process::ProcessRuntime;
use orchestrator::runtime::{Launch, Runtime};
use orchestrator_core::worker::RuntimeEvent;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::sync::mpsc;

use super::lab::{Lab, config, lives, script};

/// Set in the worker that is killed: its folder.
const WORKER: &str = "WEALD_TEST_WORKER";

/// What that worker writes when it is ready to start its instance; it does when told so.
const READY: &str = "the worker is ready";
/// What that worker writes when its instance runs.
const RUNS: &str = "the instance runs";

/// How many moments of a start a worker is killed at.
const KILLS: u32 = 40;
/// How far those moments are apart; together they are longer than a start takes.
const BETWEEN_KILLS: Duration = Duration::from_micros(500);

/// How the end of a life whose supervisor was killed is put.
const WITHOUT_A_WORD: &str = "killed: the process that watched over it ended without a word";

/// A life that says who it is, and ends with status 5 when a file is there.
fn waiting(folder: &Path) -> (Launch, PathBuf) {
    let go = folder.with_extension("go");
    let waits = "echo up $$; while [ ! -e \"$GO\" ]; do sleep 0.01; done; exit 5";
    let mut launch = script(0, 1, waits);
    launch.spec.environment = vec![("GO".into(), go.to_str().unwrap().into())];
    (launch, go)
}

/// The first process of that life.
async fn main_process(lab: &Lab) -> i32 {
    let line = lab.line(0, |line| line.starts_with("up ")).await;
    line["up ".len()..].parse().unwrap()
}

/// Waits until a process has ended, whosever child it is.
async fn ended(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let waited = tokio::task::spawn_blocking(move || {
        poll(&mut [PollFd::new(&handle, PollFlags::IN)], None).unwrap()
    });
    assert_eq!(waited.await.unwrap(), 1);
}

async fn stop_and_check(mut lab: Lab) {
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn what_runs_is_taken_up_and_its_end_is_told() {
    let mut lab = Lab::new();
    let (launch, go) = waiting(lab.folder());
    lab.run(launch.clone()).await;
    let main = main_process(&lab).await;
    let mut lab = lab.restart(&[0]);
    lab.expect(0, 1, RuntimeEvent::Running).await;
    // A worker starts again what it has taken on; it is the same process.
    lab.run(launch).await;
    assert!(lives(main));
    assert_eq!(lab.log(0), [format!("up {main}")]);
    fs::write(&go, "").unwrap();
    assert_eq!(lab.exit().await, (5, None));
    fs::remove_file(go).unwrap();
    stop_and_check(lab).await;
}

#[tokio::test]
async fn what_ended_while_nobody_watched_is_not_lost() {
    let mut lab = Lab::new();
    let (launch, go) = waiting(lab.folder());
    lab.run(launch.clone()).await;
    main_process(&lab).await;
    let supervisor = lab.supervisor();
    let folder = lab.leave();
    fs::write(&go, "").unwrap();
    ended(supervisor).await;
    fs::remove_file(go).unwrap();
    let mut lab = Lab::over(folder, &[0]);
    assert_eq!(lab.exit().await, (5, None));
    lab.runtime.start(launch);
    assert_eq!(lab.exit().await, (5, None));
    stop_and_check(lab).await;
}

#[tokio::test]
async fn an_instance_survives_the_killing_of_its_worker() {
    if let Some(folder) = std::env::var_os(WORKER) {
        return be_the_worker(Path::new(&folder)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let (_, go) = waiting(folder.path());
    let mut worker = Worker::new(folder.path());
    worker.start();
    worker.wait_for(RUNS);
    worker.kill();
    let mut lab = Lab::over(folder, &[0]);
    lab.expect(0, 1, RuntimeEvent::Running).await;
    let main = main_process(&lab).await;
    assert!(lives(main));
    fs::write(&go, "").unwrap();
    assert_eq!(lab.exit().await, (5, None));
    fs::remove_file(go).unwrap();
    stop_and_check(lab).await;
}

#[tokio::test]
async fn a_worker_may_be_killed_at_any_moment_of_a_start() {
    if let Some(folder) = std::env::var_os(WORKER) {
        return be_the_worker(Path::new(&folder)).await;
    }
    let mut taken_up = 0_u32;
    for kill in 0..KILLS {
        let folder = tempfile::tempdir().unwrap();
        let (launch, go) = waiting(folder.path());
        let mut worker = Worker::new(folder.path());
        // The first is killed before the start, the last one after it.
        if kill > 0 {
            worker.start();
            tokio::time::sleep(BETWEEN_KILLS * kill).await;
        }
        if kill + 1 == KILLS {
            worker.wait_for(RUNS);
        }
        worker.kill();
        let mut lab = Lab::over(folder, &[0]);
        lab.runtime.start(launch);
        // Answered when all of that is done.
        lab.runtime.measure();
        let mut running = 0;
        while lab.next().await.2 == RuntimeEvent::Running {
            running += 1;
        }
        // Once when it was started; before that if there was something to take up.
        assert!((1..=2).contains(&running), "kill {kill}: {running}");
        taken_up += running - 1;
        let main = main_process(&lab).await;
        assert!(lives(main));
        assert_eq!(lab.log(0), [format!("up {main}")], "kill {kill}");
        fs::write(&go, "").unwrap();
        assert_eq!(lab.exit().await, (5, None), "kill {kill}");
        fs::remove_file(go).unwrap();
        stop_and_check(lab).await;
    }
    assert!((1..KILLS).contains(&taken_up), "{taken_up}");
}

/// A worker of its own process.
struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Runs the calling test once more, as the worker of a folder.
    fn new(folder: &Path) -> Self {
        let name = std::thread::current().name().unwrap().to_owned();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(WORKER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut worker = Self { child, lines };
        worker.wait_for(READY);
        worker
    }

    /// Tells it to start its instance.
    fn start(&mut self) {
        self.child.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
    }

    fn wait_for(&mut self, text: &str) {
        assert!(self.lines.any(|line| line.unwrap().contains(text)));
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Starts an instance, says so, and does nothing more until it is killed.
async fn be_the_worker(folder: &Path) {
    let (sender, mut events) = mpsc::unbounded_channel();
    let runtime = ProcessRuntime::open(config(folder), sender).unwrap();
    println!("{READY}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    runtime.start(waiting(folder).0);
    let (_, _, event) = events.recv().await.unwrap();
    assert_eq!(event, RuntimeEvent::Running);
    println!("{RUNS}");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn what_the_next_worker_does_not_want_is_ended() {
    let mut lab = Lab::new();
    let (launch, _) = waiting(lab.folder());
    lab.run(launch).await;
    let main = main_process(&lab).await;
    let mut lab = lab.restart(&[1]);
    lab.expect(0, 1, RuntimeEvent::Stopped).await;
    assert!(!lives(main));
    lab.must_be_clean();
}

#[tokio::test]
async fn an_instance_ends_with_its_supervisor_and_that_is_not_lost() {
    let mut lab = Lab::new();
    let orphan = "setsid sh -c 'echo up $$; while :; do sleep 1000; done' & sleep 1000";
    lab.run(script(0, 1, orphan)).await;
    let orphan = main_process(&lab).await;
    let supervisor = lab.supervisor();
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    let expected = (137, Some(WITHOUT_A_WORD.to_owned()));
    assert_eq!(lab.exit().await, expected);
    assert!(!lives(orphan));
    lab.must_have_no_groups();
    let mut lab = lab.restart(&[0]);
    assert_eq!(lab.exit().await, expected);
    stop_and_check(lab).await;
}

#[tokio::test]
async fn a_supervisor_that_was_killed_while_nobody_watched_is_noticed() {
    let mut lab = Lab::new();
    let (launch, _) = waiting(lab.folder());
    lab.run(launch).await;
    main_process(&lab).await;
    let supervisor = lab.supervisor();
    let folder = lab.leave();
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    ended(supervisor).await;
    let mut lab = Lab::over(folder, &[0]);
    assert_eq!(lab.exit().await, (137, Some(WITHOUT_A_WORD.to_owned())));
    stop_and_check(lab).await;
}

#[tokio::test]
async fn what_ran_before_the_machine_was_started_again_is_run_anew() {
    let mut lab = Lab::new();
    let (launch, _) = waiting(lab.folder());
    lab.run(launch.clone()).await;
    let before = main_process(&lab).await;
    let supervisor = lab.supervisor();
    let life = fs::read_dir(lab.folder()).unwrap().next().unwrap().unwrap();
    let folder = lab.leave();
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    ended(supervisor).await;
    let file = life.path().join("supervisor.json");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(boot.trim()));
    fs::write(&file, text.replace(boot.trim(), "an earlier one")).unwrap();
    let mut lab = Lab::over(folder, &[0]);
    lab.run(launch).await;
    assert_ne!(main_process(&lab).await, before);
    assert_eq!(lab.log(0).len(), 1);
    stop_and_check(lab).await;
}

#[tokio::test]
async fn folders_and_groups_that_belong_to_nobody_are_removed() {
    let lab = Lab::new();
    // As a worker leaves them that dies between two steps of a start.
    fs::create_dir(lab.folder().join("shop.prod.web.front.0@1")).unwrap();
    let damaged = lab.folder().join("shop.prod.web.front.1@1");
    fs::create_dir(&damaged).unwrap();
    fs::write(damaged.join("order.json"), "{\"instance\":").unwrap();
    let cgroups = config(lab.folder()).cgroups;
    let name = format!("{}shop.prod.web.front.2@1", lab.runtime.group_prefix());
    cgroups.create(&name, &Default::default()).unwrap();
    assert!(!lab.groups().is_empty());
    let lab = lab.restart(&[]);
    // Groups are removed beside the start, and say nothing.
    while !lab.groups().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    lab.must_be_clean();
}
