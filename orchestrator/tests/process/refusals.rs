//! What cannot be started is said in words, and leaves nothing behind.

use std::os::unix::fs::PermissionsExt as _;

use super::lab::{Lab, launch, script};

#[tokio::test]
async fn what_is_wrong_is_said_before_anything_starts() {
    let mut lab = Lab::new();
    let why = lab.refusal(launch(0, 1, &[])).await;
    assert!(why.starts_with("there is no file \"/nowhere\""), "{why}");
    lab.must_be_clean();
    let plain = tempfile::NamedTempFile::new().unwrap();
    let plain = plain.path().to_str().unwrap();
    let why = lab.refusal(launch(0, 2, &[plain])).await;
    assert!(why.contains("is not executable"), "{why}");
    let mut elsewhere = script(0, 3, "true");
    elsewhere.netns = Some("/run/netns/weald-none".into());
    let why = lab.refusal(elsewhere).await;
    assert!(why.contains("no network namespace at"), "{why}");
    lab.must_be_clean();
}

#[tokio::test]
async fn what_the_kernel_refuses_to_run_is_said() {
    let mut lab = Lab::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    for (text, expected) in [
        ("neither a program nor a script", "Exec format error"),
        ("#!/no/such/interpreter\n", "No such file"),
    ] {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let why = lab.refusal(launch(0, 1, &[path.to_str().unwrap()])).await;
        assert!(why.contains("program") && why.contains(expected), "{why}");
        lab.must_be_clean();
    }
    // Corrected, the same life starts.
    std::fs::write(&path, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    lab.run(launch(0, 1, &[path.to_str().unwrap()])).await;
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn a_supervisor_that_cannot_be_started_is_said() {
    let mut lab = Lab::with(|config| config.supervisor = "/nowhere/supervisor".into());
    let why = lab.refusal(script(0, 1, "true")).await;
    assert!(why.starts_with("cannot start its supervisor: "), "{why}");
    lab.must_be_clean();
    let mut lab = Lab::with(|config| config.supervisor = "/bin/false".into());
    let why = lab.refusal(script(0, 1, "true")).await;
    assert!(
        why.starts_with("its supervisor gave up (exit status: 1)"),
        "{why}"
    );
    lab.must_be_clean();
}
