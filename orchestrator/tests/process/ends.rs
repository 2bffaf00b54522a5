//! How instances run and end: output, status, signals, what they leave, being stopped.

use std::time::Instant;

use orchestrator::runtime::Runtime;
use orchestrator_core::worker::RuntimeEvent;

use super::lab::{GRACE, LOG_BYTES, Lab, cgroups_of_one_version, instance, launch, lives, script};

#[tokio::test]
async fn a_command_gets_its_words_and_environment_and_its_output_is_kept() {
    let mut lab = Lab::new();
    let mut echo = launch(
        0,
        1,
        &[
            "sh",
            "-c",
            "echo $0 $1; echo $WHO from $PWD >&2; env",
            "a b",
            "c",
        ],
    );
    echo.spec.environment = vec![("WHO".into(), "it is me".into())];
    lab.run(echo).await;
    assert_eq!(lab.exit().await, (0, None));
    let log = lab.log(0);
    assert_eq!(log[..2], ["a b c", "it is me from /"]);
    let mut names: Vec<&str> = log[2..]
        .iter()
        .filter_map(|line| line.split('=').next())
        .collect();
    names.sort_unstable();
    // PWD is the shell's own. Nothing of the worker's environment is there.
    assert_eq!(names, ["HOME", "PATH", "PWD", "WEALD_INSTANCE", "WHO"]);
    assert_eq!(lab.runtime.logs(&instance(0), 1).unwrap().len(), 1);
    lab.stop(0, 1).await;
    assert!(lab.runtime.logs(&instance(0), 1).is_err());
    lab.must_be_clean();
}

#[tokio::test]
async fn without_a_command_the_code_is_run() {
    let mut lab = Lab::new();
    let mut code = launch(0, 1, &[]);
    code.spec.code = "/bin/true".into();
    lab.run(code).await;
    assert_eq!(lab.exit().await, (0, None));
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn an_exit_status_is_kept() {
    let mut lab = Lab::new();
    lab.run(script(0, 1, "exit 3")).await;
    assert_eq!(lab.exit().await, (3, None));
    // What has ended is not run a second time.
    lab.runtime.start(script(0, 1, "exit 4"));
    assert_eq!(lab.exit().await, (3, None));
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn death_by_a_signal_is_told_from_an_exit() {
    let mut lab = Lab::new();
    lab.run(script(0, 1, "kill -SEGV $$")).await;
    assert_eq!(lab.exit().await, (139, Some("ended by SIGSEGV".into())));
    lab.run(script(1, 1, "exit 139")).await;
    assert_eq!(lab.exit().await, (139, None));
    lab.stop(0, 1).await;
    lab.stop(1, 1).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn what_an_instance_leaves_behind_is_killed_with_it() {
    leave_a_daemon(Lab::new()).await;
}

#[tokio::test]
async fn what_is_left_is_killed_with_either_version_of_cgroups_alone() {
    for cgroups in cgroups_of_one_version() {
        leave_a_daemon(Lab::with(|config| config.cgroups = cgroups)).await;
    }
}

async fn leave_a_daemon(mut lab: Lab) {
    // A daemon as they are made: a session of its own, its parent gone, deaf to most signals.
    let daemon = "setsid sh -c 'trap \"\" TERM HUP INT; echo daemon $$; \
        while :; do sleep 1000; done' & \
        while [ ! -e \"$GO\" ]; do sleep 0.01; done; exit 0";
    let mut leaves = script(0, 1, daemon);
    let go = lab.folder().with_extension("go");
    leaves.spec.environment = vec![("GO".into(), go.to_str().unwrap().into())];
    lab.run(leaves).await;
    assert!(!lab.groups().is_empty());
    let line = lab.line(0, |line| line.starts_with("daemon ")).await;
    let daemon: i32 = line["daemon ".len()..].parse().unwrap();
    assert!(lives(daemon));
    std::fs::write(&go, "").unwrap();
    assert_eq!(lab.exit().await, (0, None));
    assert!(!lives(daemon));
    lab.must_have_no_groups();
    std::fs::remove_file(&go).unwrap();
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn what_is_stopped_is_asked_first_and_may_end_in_order() {
    let mut lab = Lab::new();
    let waits = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
    lab.run(script(0, 1, waits)).await;
    lab.line(0, |line| line == "ready").await;
    let begun = Instant::now();
    lab.stop(0, 1).await;
    assert!(begun.elapsed() < GRACE, "{:?}", begun.elapsed());
    lab.must_be_clean();
}

#[tokio::test]
async fn what_ignores_the_request_is_killed_after_its_grace() {
    let mut lab = Lab::new();
    lab.run(script(
        0,
        1,
        "trap '' TERM; echo ready; while :; do sleep 1000; done",
    ))
    .await;
    lab.line(0, |line| line == "ready").await;
    let begun = Instant::now();
    lab.stop(0, 1).await;
    assert!(begun.elapsed() >= GRACE, "{:?}", begun.elapsed());
    lab.must_be_clean();
}

#[tokio::test]
async fn stopping_what_is_not_there_says_stopped() {
    let mut lab = Lab::new();
    lab.stop(7, 3).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn a_later_life_replaces_the_earlier_one_and_an_earlier_one_does_nothing() {
    let mut lab = Lab::new();
    lab.run(script(0, 2, "echo second; exec sleep 1000")).await;
    lab.line(0, |line| line == "second").await;
    // The same life again is taken up.
    lab.run(script(0, 2, "echo other")).await;
    // Not this one, nor its end.
    lab.runtime.start(script(0, 1, "echo first"));
    lab.stop(0, 1).await;
    lab.run(script(0, 3, "echo third; exec sleep 1000")).await;
    lab.line(0, |line| line == "third").await;
    assert_eq!(lab.log(0), ["third"]);
    assert_eq!(std::fs::read_dir(lab.folder()).unwrap().count(), 1);
    lab.stop(0, 3).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn a_flood_of_output_is_bounded_and_its_end_is_kept() {
    let mut lab = Lab::new();
    lab.run(script(0, 1, "seq 1 200000; echo done")).await;
    assert_eq!(lab.exit().await, (0, None));
    let life = std::fs::read_dir(lab.folder())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let sizes: Vec<u64> = std::fs::read_dir(life.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert!(sizes.iter().sum::<u64>() < LOG_BYTES + 4_096, "{sizes:?}");
    let last = lab.runtime.logs(&instance(0), 2).unwrap();
    assert_eq!(last, ["200000", "done"]);
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn many_instances_at_once_each_have_their_own_end() {
    let mut lab = Lab::new();
    const COUNT: u32 = 12;
    for number in 0..COUNT {
        lab.runtime
            .start(script(number, 1, &format!("exit {number}")));
    }
    let mut ends = std::collections::BTreeMap::new();
    while ends.len() < COUNT as usize {
        if let (instance, 1, RuntimeEvent::Exited { status, .. }) = lab.next().await {
            ends.insert(instance.number, status);
        }
    }
    assert!(
        ends.iter()
            .all(|(number, status)| *number == status.unsigned_abs()),
        "{ends:?}"
    );
    for number in 0..COUNT {
        lab.stop(number, 1).await;
    }
    lab.must_be_clean();
}
