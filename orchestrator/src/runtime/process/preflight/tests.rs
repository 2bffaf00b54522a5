//! What is refused before anything starts, and which program is found.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use std::time::Duration;

use weald_proto::addr::Dual;
use weald_proto::id::Organisation;
use weald_proto::spec::{Resources, Runtime};
use weald_proto::table::{AcceptPolicy, LanePolicy};

use super::*;

fn command(words: &[&str]) -> Launch {
    let instance: InstanceId = "a.b.c.d.0".parse().unwrap();
    let spec = ServiceSpec {
        name: instance.service.clone(),
        organisation: Organisation("acme".parse().unwrap()),
        round_robin: Dual::default(),
        closest: Dual::default(),
        lane: LanePolicy::Auto,
        accept: AcceptPolicy::Late,
        runtime: Runtime::Process,
        code: "/none".to_owned(),
        command: words.iter().map(ToString::to_string).collect(),
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
        generation: 1,
        spec,
        netns: None,
        resolv_conf: None,
    }
}

fn file(folder: &Path, name: &str, mode: u32) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_command_is_found_as_a_shell_finds_it() {
    let program = check(&command(&["sh", "-c", "true"])).unwrap();
    assert!(program.file.ends_with("sh") && program.file.is_absolute());
    assert_eq!(program.words, ["sh", "-c", "true"]);

    let folder = tempfile::tempdir().unwrap();
    let tool = file(folder.path(), "tool", 0o755);
    let mut launch = command(&["tool", "x"]);
    let error = check(&launch).unwrap_err();
    assert!(matches!(error, LaunchError::NotInPath { .. }), "{error}");
    let path = format!("relative:{}:/bin", folder.path().display());
    launch.spec.environment = vec![("PATH".into(), path)];
    assert_eq!(check(&launch).unwrap().file, tool);
    let tool = tool.to_str().unwrap();
    assert_eq!(check(&command(&[tool])).unwrap().file, Path::new(tool));
}

#[test]
fn without_a_command_the_code_is_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let tool = file(folder.path(), "my tool", 0o700);
    let mut launch = command(&[]);
    launch.spec.code = tool.to_str().unwrap().to_owned();
    let program = check(&launch).unwrap();
    assert_eq!(program.file, tool);
    assert_eq!(program.words, [launch.spec.code]);
}

#[test]
fn the_environment_of_the_service_comes_over_the_usual_one() {
    let mut launch = command(&["sh"]);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    launch.spec.environment = vec![pair("HOME", "/a"), pair("X", ""), pair("HOME", "/b")];
    let environment = check(&launch).unwrap().environment;
    assert_eq!(
        environment,
        [
            pair("PATH", PATH),
            pair("WEALD_INSTANCE", "a.b.c.d.0"),
            pair("X", ""),
            pair("HOME", "/b"),
        ]
    );
}

#[test]
fn what_cannot_be_run_is_said_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let plain = file(folder.path(), "plain", 0o644);
    let none = folder.path().join("none");
    let below = plain.join("x");
    let code = |path: &Path| {
        let mut launch = command(&[]);
        launch.spec.code = path.to_str().unwrap().to_owned();
        check(&launch).unwrap_err()
    };
    assert_eq!(code(&none), LaunchError::NoFile(none.clone()));
    assert_eq!(code(&below), LaunchError::NoFile(below.clone()));
    assert_eq!(
        code(folder.path()),
        LaunchError::NotAFile(folder.path().to_owned())
    );
    assert_eq!(code(&plain), LaunchError::NotExecutable(plain.clone()));
    let relative = Path::new("bin/x");
    assert_eq!(code(relative), LaunchError::Relative(relative.to_owned()));
    let error = check(&command(&["./x"])).unwrap_err();
    assert_eq!(error, LaunchError::Relative("./x".into()));
    let error = check(&command(&[""])).unwrap_err();
    assert!(matches!(error, LaunchError::NotInPath { .. }), "{error}");

    // A name that is found, but cannot be run, is not said to be absent.
    let mut launch = command(&["plain"]);
    let path = folder.path().to_str().unwrap().to_owned();
    launch.spec.environment = vec![("PATH".into(), path)];
    assert_eq!(check(&launch), Err(LaunchError::NotExecutable(plain)));
}

#[test]
fn texts_that_no_program_can_be_given_are_refused() {
    let error = check(&command(&["sh", "a\0b"])).unwrap_err();
    assert!(error.to_string().contains("NUL"), "{error}");
    for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")] {
        let mut launch = command(&["sh"]);
        launch.spec.environment = vec![(name.into(), value.into())];
        let error = check(&launch).unwrap_err();
        assert!(
            matches!(error, LaunchError::Text { .. }),
            "{name:?} {error}"
        );
    }
}

#[test]
fn a_namespace_and_resolvers_that_are_not_there_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut launch = command(&["sh"]);
    // A file that no namespace is mounted on is none.
    for path in [
        folder.path().join("none"),
        file(folder.path(), "file", 0o644),
    ] {
        launch.netns = Some(path.clone());
        assert_eq!(check(&launch), Err(LaunchError::NoNamespace(path)));
    }
    launch.netns = Some("/proc/self/ns/net".into());
    assert!(check(&launch).is_ok());
    let none = folder.path().join("none");
    launch.resolv_conf = Some(none.clone());
    assert_eq!(check(&launch), Err(LaunchError::NoResolvConf(none)));
}
