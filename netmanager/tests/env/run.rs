//! `run_in_instance` replaces a process, so a second one plays that part: this very test binary.

use std::ffi::OsString;
use std::process::Command;

use netmanager::env::{Overlay, run_in_instance};

use crate::host::*;

/// Names the overlay to the process that is to be replaced.
const OVERLAY: &str = "ENVTEST_RUN_OVERLAY";

/// What the process runs: shows its address, its resolver and its devices.
const SCRIPT: &str = "ip -o -4 addr show dev eth0; cat /etc/resolv.conf; ls /sys/class/net";

#[test]
fn a_program_sees_the_network_of_its_instance() {
    if let Some(overlay) = std::env::var_os(OVERLAY) {
        let overlay = label(overlay.to_str().unwrap());
        let argv = ["sh", "-c", SCRIPT].map(OsString::from);
        panic!("{}", run_in_instance(&overlay, &instance_id(1), &argv));
    }
    let config = config();
    let name = config.name.clone();
    on_host(&[&name], || {
        let _overlay = Overlay::up(config.clone()).unwrap();
        let before = std::fs::read_to_string("/etc/resolv.conf").unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "run::a_program_sees_the_network_of_its_instance"])
            .args(["--nocapture", "--test-threads", "1"])
            .env(OVERLAY, name.as_str())
            .output()
            .unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{shown}");
        assert!(shown.contains("inet 10.30.0.11/32"), "{shown}");
        assert!(
            shown.contains("nameserver 169.254.1.1\nnameserver fdfe:ffff::53\n"),
            "{shown}"
        );
        assert!(shown.ends_with("eth0\nlo\n"), "{shown}");
        assert_eq!(std::fs::read_to_string("/etc/resolv.conf").unwrap(), before);
    });
}

#[test]
fn an_unknown_instance_is_named() {
    let name = unique_name();
    let error = run_in_instance(&name, &instance_id(7), &["true".into()]).to_string();
    let expected =
        format!("instance shop.prod.web.prod.7 has no namespace in overlay {name} on this node");
    assert_eq!(error, expected);
    let error = run_in_instance(&name, &instance_id(7), &[]).to_string();
    assert_eq!(error, "no program to run");
}
