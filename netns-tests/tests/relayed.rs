//! A large file between two nodes that no direct path connects: all of it goes to the relay as UDP,
//! and nobody on the way can read it.

use anyhow::{Result, ensure};
use netns_tests::stage::{self, FILE_BYTES, STEP_TIME};
use netns_tests::{Fleet, Lab, Machine, require};

const CLIENT: &str = "shop.prod.client.prod.0";
const SERVER: &str = "shop.prod.web.prod.1";

#[test]
fn a_file_by_name_crosses_the_relay_unread() -> Result<()> {
    require::programs(&["curl", "python3", "sha256sum"])?;
    let lab = Lab::new(
        &stage::two_sites()
            .machine(Machine::host("a1").at("site-a", 11))
            .machine(Machine::host("b1").at("site-b", 11)),
    )?;
    let mut fleet = Fleet::new(&lab)?;
    fleet.write_table(include_str!("../../examples/shop.toml"))?;
    fleet.start_relay("relay", "hub/r1", "")?;
    for (machine, id) in [("a1", "site-a/a1"), ("b1", "site-b/b1")] {
        fleet.add_node(machine, id, "acme", "[paths]\npunch = false\n")?;
        fleet.start(machine)?;
    }
    let folder = lab.node("b1").dir()?.join("files");
    std::fs::create_dir_all(&folder)?;
    let source = folder.join("big");
    stage::write_file(&source)?;
    let folder = folder.display().to_string();
    let serve = ["python3", "-m", "http.server", "80", "-d", &folder];
    let serve = [&serve[..], &["-b", "::"]].concat();
    let _server = fleet.spawn_in("b1", SERVER, &serve)?;
    fleet
        .instance("b1", SERVER)?
        .wait_tcp_listening(80, STEP_TIME)?;

    let relay = lab.node("relay");
    let before = fleet.relayed_bytes("relay")?;
    let capture = lab.node("router-b").capture("wan")?;
    let target = lab.dir().join("fetched").display().to_string();
    let url = "http://web.prod.1.instance.local/big";
    let fetch = ["curl", "-sS", "-4", "-o", &target, url];
    fleet.run_in("a1", CLIENT, &fetch, stage::TRANSFER_TIME)?;
    let captured = capture.stop()?;
    stage::same_sha256(relay, &source.display().to_string(), &target)?;
    let path = fleet.path_to("a1", SERVER)?;
    ensure!(path == "relay hub/r1", "it went by {path}");

    let relayed = fleet.relayed_bytes("relay")? - before;
    let seen = stage::judge(&captured, &lab)?;
    println!("{seen:?}, {relayed} bytes by the relay's counters");
    ensure!(relayed >= FILE_BYTES as u64, "{relayed} bytes, {seen:?}");
    ensure!(
        seen.relayed >= FILE_BYTES as u64 && seen.direct == 0,
        "{seen:?}"
    );
    let plain = stage::plain_is_found(relay, lab.node("a1"))?;
    println!("{plain} packets hold the text where it is plain");
    Ok(())
}
