//! The lab itself: what it builds works as described, and nothing of it stays.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use anyhow::Result;
use netns_tests::{Direction, Impairment, Lab, command, leftovers, two_sites};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn sites_reach_the_internet_and_nobody_reaches_into_them() -> Result<()> {
    let lab = Lab::new(&two_sites::description())?;
    let relay = lab.node("relay");
    for name in ["a1", "a2", "b1", "b2"] {
        for address in relay.addresses() {
            let ping = command(&format!("ping -c1 -W2 {address}"));
            lab.node(name).run_ok(ping, 5 * SECOND)?;
        }
    }
    // IPv6 of site a is routed, but unsolicited packets are dropped all the same.
    for address in [
        lab.node("gw-a").v4().to_string(),
        lab.node("a1").v6().to_string(),
    ] {
        let ping = command(&format!("ping -c1 -W1 {address}"));
        let output = relay.run(ping, 5 * SECOND)?;
        assert!(!output.status.success(), "{address} answered");
    }
    Ok(())
}

#[test]
fn a_change_of_delay_counts_at_once() -> Result<()> {
    let lab = Lab::new(&two_sites::description())?;
    let (a1, relay) = (lab.node("a1"), lab.node("relay"));
    let link = lab.link("gw-a", "internet");
    for delay in [20, 50, 5] {
        link.set_both(Impairment::delay(delay * SECOND / 1000));
        let ping = command(&format!("ping -c3 -i0.1 {}", relay.v4()));
        let output = a1.run_ok(ping, 5 * SECOND)?;
        let best: f64 = output
            .split("rtt min/avg/max/mdev = ")
            .nth(1)
            .unwrap()
            .split('/')
            .next()
            .unwrap()
            .parse()?;
        let expected = f64::from(2 * delay);
        assert!(
            (expected..expected + 3.0).contains(&best),
            "{best} ms, not {expected}"
        );
    }
    assert_eq!(link.impairment(Direction::Up).delay, 5 * SECOND / 1000);
    Ok(())
}

#[test]
fn nothing_stays_after_a_drop_nor_after_a_panic() -> Result<()> {
    let lab = Lab::new(&two_sites::description())?;
    let name = lab.name().to_owned();
    assert_eq!(leftovers(&name).len(), 11);
    drop(lab);
    assert_eq!(leftovers(&name), Vec::<String>::new());

    let mut name = String::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::new(&two_sites::description()).unwrap();
        name = lab.name().to_owned();
        let _sleeper = lab.node("a1").spawn(command("sleep 1000")).unwrap();
        panic!("a test fails");
    }));
    assert!(panicked.is_err());
    assert_eq!(leftovers(&name), Vec::<String>::new());
    Ok(())
}

#[test]
fn labs_run_side_by_side_with_the_same_addresses() -> Result<()> {
    let first = Lab::new(&two_sites::description())?;
    let second = Lab::new(&two_sites::description())?;
    for lab in [&first, &second] {
        let ping = command(&format!("ping -c1 -W2 {}", lab.node("relay").v4()));
        lab.node("b1").run_ok(ping, 5 * SECOND)?;
    }
    Ok(())
}

#[test]
fn programs_are_awaited_shown_and_killed() -> Result<()> {
    let lab = Lab::new(&two_sites::description())?;
    let a1 = lab.node("a1");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "echo ready; echo trouble >&2; sleep 1000"]);
    let mut process = a1.spawn(shell)?;
    assert_eq!(process.wait_for_line("read", 5 * SECOND)?, "ready");
    assert_eq!(process.wait_for_line("trouble", 5 * SECOND)?, "trouble");
    let error = process
        .wait_for_line("never", SECOND / 10)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("still runs") && error.contains("trouble"),
        "{error}"
    );
    let pid = process.pid();
    drop(process);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());

    let start = Instant::now();
    let error = a1
        .run(command("sleep 1000"), SECOND / 10)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("sleep 1000 still runs after 100ms"),
        "{error}"
    );
    assert!(start.elapsed() < 5 * SECOND);
    let error = a1
        .run_ok(command("ip link show nothing"), SECOND)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("Device \"nothing\" does not exist"),
        "{error}"
    );
    Ok(())
}

#[test]
fn listening_ports_are_awaited() -> Result<()> {
    let lab = Lab::new(&two_sites::description())?;
    let (a1, a2) = (lab.node("a1"), lab.node("a2"));
    assert!(a1.wait_tcp_listening(8080, SECOND / 10).is_err());
    let _listener = a1.tcp_listen((a1.v4(), 8080).into())?;
    a1.wait_tcp_listening(8080, SECOND)?;
    a2.wait_tcp_connect((a1.v4(), 8080).into(), SECOND)?;
    let _socket = a1.udp_bind((a1.v6(), 53).into())?;
    a1.wait_udp_bound(53, SECOND)?;
    Ok(())
}
