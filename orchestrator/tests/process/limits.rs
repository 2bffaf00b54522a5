//! Limits are held, and what is used is measured.

use std::time::{Duration, Instant};

use orchestrator::runtime::Runtime;
use orchestrator::runtime::cgroup::Cgroups;
use orchestrator_core::worker::RuntimeEvent;

use super::lab::{Lab, cgroups_of_one_version, instance, launch, script};

/// How long a hog is watched: forty periods of the kernel's bandwidth control.
const WATCHED: Duration = Duration::from_secs(4);

/// How often a hog is watched until it has wanted more than its share all the time: while others keep
/// every processor busy, it gets less than it may use.
const WATCHES: usize = 6;

/// What an instance of the lab uses since it was last asked.
async fn usage(lab: &mut Lab) -> (f32, u32) {
    lab.runtime.measure();
    match lab.next().await {
        (
            _,
            _,
            RuntimeEvent::Usage {
                cpu_percent,
                memory_mib,
            },
        ) => (cpu_percent, memory_mib),
        other => panic!("{other:?}"),
    }
}

/// The hog that runs in the lab is held within a tenth of its share by nothing but its limit: what it
/// uses counts where the kernel has held it in nearly every period.
pub(crate) async fn must_be_held(lab: &mut Lab, percent: f32) {
    usage(lab).await;
    let mut had = Vec::new();
    while had.len() < WATCHES {
        let before = periods(lab);
        tokio::time::sleep(WATCHED).await;
        let (cpu_percent, _) = usage(lab).await;
        let after = periods(lab);
        assert!(cpu_percent <= percent * 1.1, "{cpu_percent} of {percent}");
        let (all, held) = (after.0 - before.0, after.1 - before.1);
        if held * 10 >= all * 9 {
            assert!(cpu_percent >= percent * 0.9, "{cpu_percent} of {percent}");
            return;
        }
        had.push((cpu_percent, held, all));
    }
    panic!("{had:?} of {percent}");
}

/// How many periods of bandwidth control the lab's only group has had, and in how many of them it was
/// held.
fn periods(lab: &Lab) -> (u64, u64) {
    let stats = lab.groups().into_iter().filter_map(|group| {
        let text = std::fs::read_to_string(group.join("cpu.stat")).ok()?;
        let count = |name: &str| {
            let counts = text.lines().filter_map(|line| line.split_once(' '));
            let mut counts = counts.filter(|(word, _)| *word == name);
            counts.next().map(|(_, count)| count.parse().unwrap())
        };
        Some((count("nr_periods")?, count("nr_throttled")?))
    });
    stats.max().unwrap()
}

#[tokio::test]
async fn a_memory_hog_is_killed_and_it_is_said_why() {
    holds_memory(&mut Lab::new()).await;
}

/// A hog is killed, and it is said why.
pub(crate) async fn holds_memory(lab: &mut Lab) {
    let mut hog = script(0, 2, "exec dd if=/dev/zero of=/dev/null bs=500M");
    hog.spec.resources.memory_mib = 32;
    lab.run(hog).await;
    let words = "killed: it used more than its 32 MiB of memory";
    assert_eq!(lab.exit().await, (137, Some(words.into())));
    lab.stop(0, 2).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn a_hog_below_a_shell_is_said_as_well() {
    let mut lab = Lab::new();
    let mut hog = script(0, 1, "dd if=/dev/zero of=/dev/null bs=500M; exit $?");
    hog.spec.resources.memory_mib = 32;
    lab.run(hog).await;
    let (status, detail) = lab.exit().await;
    assert_eq!(status, 137);
    assert!(detail.unwrap().contains("32 MiB of memory"));
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn a_processor_hog_is_held_within_a_tenth_of_its_share() {
    let mut lab = Lab::new();
    let mut hog = script(0, 1, "while :; do :; done");
    hog.spec.resources.millicpus = 200;
    lab.run(hog).await;
    must_be_held(&mut lab, 20.0).await;
    // The next worker does not take what was used before for what is used now.
    let mut lab = lab.restart(&[0]);
    lab.expect(0, 1, RuntimeEvent::Running).await;
    tokio::time::sleep(WATCHED / 4).await;
    let (cpu_percent, _) = usage(&mut lab).await;
    assert!(cpu_percent < 30.0, "{cpu_percent}");
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

/// All of its processes share what it may use, with either version of cgroups.
#[tokio::test]
async fn many_hogs_of_one_instance_are_held_together() {
    for cgroups in cgroups_with("cpu") {
        let mut lab = Lab::with(|config| config.cgroups = cgroups);
        let busy = "while :; do :; done";
        let mut hogs = script(0, 1, &format!("for i in 1 2 3; do ({busy}) & done; {busy}"));
        hogs.spec.resources.millicpus = 500;
        lab.run(hogs).await;
        must_be_held(&mut lab, 50.0).await;
        lab.stop(0, 1).await;
        lab.must_be_clean();
    }
}

/// Of the cgroups of one version alone those that have a controller; there are some. Of a hybrid
/// layout that is one of both: the other version would not bound anything.
fn cgroups_with(controller: &str) -> Vec<Cgroups> {
    let lacking = format!("`{controller}`");
    let mut found = cgroups_of_one_version();
    found.retain(|cgroups| !cgroups.shortcomings().join("\n").contains(&lacking));
    assert!(!found.is_empty(), "none has {lacking}");
    found
}

/// Four threads of one process, on as many processors as there are. Beside what the runtime
/// measures, the kernel is asked for the time of the process itself.
#[tokio::test]
async fn a_hog_of_many_threads_is_held() {
    let mut lab = Lab::new();
    // Python lets go of its lock while it hashes.
    let hash = "import hashlib, os, threading\n\
        block = bytes(1 << 20)\n\
        def work():\n    while True: hashlib.sha256(block)\n\
        for _ in range(4): threading.Thread(target=work).start()\n\
        print('hog', os.getpid(), flush=True)";
    let mut hog = launch(0, 1, &["python3", "-c", hash]);
    hog.spec.resources.millicpus = 500;
    lab.run(hog).await;
    let line = lab.line(0, |line| line.starts_with("hog ")).await;
    let pid: i32 = line["hog ".len()..].parse().unwrap();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    assert_eq!(threads.count(), 5);
    let (since, before) = (Instant::now(), processor_time(pid));
    must_be_held(&mut lab, 50.0).await;
    let used = processor_time(pid) - before;
    assert!(used <= since.elapsed().mul_f64(0.55), "{used:?}");
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

/// What all threads of a process have used, as the kernel counts it for the process.
fn processor_time(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(") ").unwrap();
    let fields = after_name.split(' ').skip(11).take(2);
    let ticks: u64 = fields.map(|it| it.parse::<u64>().unwrap()).sum();
    // USER_HZ is 100 wherever Linux runs.
    Duration::from_millis(ticks * 10)
}

/// None of them is too large alone.
#[tokio::test]
async fn many_that_use_too_much_memory_together_are_killed() {
    let mut lab = Lab::new();
    // tail keeps all that it was given in memory until its input ends.
    let user = "{ head -c 20M /dev/zero; sleep 2; } | tail -c 30M > /dev/null";
    let all = "wait $a || s=$?; wait $b || s=$?; wait $c || s=$?; exit $s";
    let all = format!("{user} & a=$!; {user} & b=$!; {user} & c=$!; {all}");
    let mut users = script(0, 1, &all);
    users.spec.resources.memory_mib = 40;
    lab.run(users).await;
    let words = "killed: it used more than its 40 MiB of memory";
    assert_eq!(lab.exit().await, (137, Some(words.into())));
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn memory_in_use_is_measured() {
    let mut lab = Lab::new();
    // tail keeps all that it was given in memory until its input ends.
    let mut user = script(
        0,
        1,
        "{ head -c 20M /dev/zero; echo full >&2; sleep 1000; } | tail -c 30M",
    );
    user.spec.resources.memory_mib = 100;
    lab.run(user).await;
    lab.line(0, |line| line == "full").await;
    let (_, memory_mib) = usage(&mut lab).await;
    assert!((19..=40).contains(&memory_mib), "{memory_mib}");
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_processes_and_ends() {
    bomb(Lab::with(|config| config.pids = 40)).await;
}

#[tokio::test]
async fn a_fork_bomb_ends_with_either_version_of_cgroups_alone() {
    for cgroups in cgroups_with("pids") {
        bomb(Lab::with(|config| {
            config.pids = 40;
            config.cgroups = cgroups;
        }))
        .await;
    }
}

async fn bomb(mut lab: Lab) {
    let bomb = "f() { f | f & }; echo go; f; while :; do sleep 1000; done";
    lab.run(script(0, 1, bomb)).await;
    lab.line(0, |line| line.contains("ork")).await;
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn without_cgroups_instances_run_are_measured_and_end_whole() {
    let mut lab = Lab::with(|config| config.cgroups = Cgroups::default());
    let leaves = "setsid sh -c 'echo daemon $$; while :; do :; done' & sleep 1000";
    lab.run(script(0, 1, leaves)).await;
    let line = lab.line(0, |line| line.starts_with("daemon ")).await;
    let daemon: i32 = line["daemon ".len()..].parse().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (cpu_percent, memory_mib) = usage(&mut lab).await;
    assert!(
        cpu_percent > 5.0 && memory_mib > 0,
        "{cpu_percent} {memory_mib}"
    );
    lab.must_have_no_groups();
    lab.stop(0, 1).await;
    assert!(!super::lab::lives(daemon));
    // What needs a group is refused there.
    let mut limited = script(1, 1, "true");
    limited.spec.resources.memory_mib = 10;
    let why = lab.refusal(limited).await;
    assert!(why.contains("cannot limit memory"), "{why}");
    assert!(lab.runtime.logs(&instance(1), 1).is_err());
    lab.must_be_clean();
}

#[tokio::test]
async fn a_supervisor_is_small() {
    let mut lab = Lab::new();
    lab.run(script(0, 1, "exec sleep 1000")).await;
    let pid = lab.supervisor();
    let status = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let own: u64 = status
        .lines()
        .filter(|line| line.starts_with("Anonymous:"))
        .map(|line| {
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum();
    // The pages of the program and of the C library are everyone's; what is its own is mostly what the
    // loader relocates in a program that also is everything else: 0.9 MiB in a development build.
    assert!(own < 1500, "{own} KiB\n{status}");
    lab.stop(0, 1).await;
    lab.must_be_clean();
}
