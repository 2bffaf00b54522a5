//! TCP in sealed frames beside QUIC, between real daemons: over path switches, a restart, and with
//! a peer that has no such lane.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::fleet::DATA_PORT;
use netns_tests::load::Load;
use netns_tests::pair::{self, NO_PUNCHING, NODES, ON_ALPHA, ON_BETA, TABLE};
use netns_tests::{Fleet, Impairment, Lab, Loss, wait};

const SOON: Duration = Duration::from_secs(15);
const ON: &str = "[data_plane]\nfast_lane = true\n";
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 30, 1, 2);

/// Starts the relay and both nodes, each with sections of its own; TCP stays packets.
fn start<'lab>(lab: &'lab Lab, config: [&str; 2]) -> Result<Fleet<'lab>> {
    let mut fleet = Fleet::new(lab)?;
    fleet.write_table(&TABLE.replace("\nrr = ", "\nlane = \"l3\"\nrr = "))?;
    fleet.start_relay("relay", "hub/r1", "")?;
    for ((machine, id), config) in NODES.into_iter().zip(config) {
        let config = format!("{config}{NO_PUNCHING}");
        fleet.add_node(machine, id, "acme", &config)?;
        fleet.start(machine)?;
    }
    Ok(fleet)
}

/// What a node says of the lane with the other one.
fn lane(fleet: &Fleet<'_>, machine: &str) -> Result<serde_json::Value> {
    let of = NODES.iter().find(|(other, _)| *other != machine);
    let (_, other) = of.context("there are two nodes")?;
    Ok(fleet.peer(machine, other)?["fast_lane"].clone())
}

fn wait_up(fleet: &Fleet<'_>) -> Result<()> {
    wait::until("both ends use the fast lane", SOON, || {
        for (machine, _) in NODES {
            let lane = lane(fleet, machine)?;
            ensure!(lane["up"] == true, "{machine}: {lane}");
        }
        Ok(())
    })
}

/// Waits until the server's node has sent a hundred frames more.
fn wait_frames(fleet: &Fleet<'_>) -> Result<()> {
    let sent = || {
        let lane = lane(fleet, "beta")?;
        lane["sent_frames"].as_u64().context(lane.to_string())
    };
    let before = sent()?;
    wait::until("frames are sent", SOON, || {
        let now = sent()?;
        ensure!(now > before + 100, "{before} frames, then {now}");
        Ok(())
    })
}

#[test]
fn it_carries_tcp_over_path_switches_and_after_a_restart() -> Result<()> {
    let lab = pair::lab()?;
    let mut fleet = start(&lab, [ON, ON])?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let load = Load::start(&alpha, &beta, SERVER)?;
    wait_up(&fleet)?;
    pair::wait_path(&fleet, "direct", SOON)?;
    wait_frames(&fleet)?;

    pair::set_lan(&lab, Impairment::loss(Loss::Random(1.0)));
    pair::wait_path(&fleet, "relay", SOON)?;
    wait_frames(&fleet)?;
    pair::set_lan(&lab, Impairment::default());
    pair::wait_path(&fleet, "direct", SOON)?;
    wait_frames(&fleet)?;
    // Every byte is checked; echos, which are UDP, go over QUIC beside it.
    let summary = load.finish()?;
    ensure!(summary.downloaded > 1 << 20, "{summary:?}");
    ensure!(summary.answered > 0, "{summary:?}");

    // The keys are gone with the session, others are agreed on.
    fleet.stop("beta")?;
    fleet.start("beta")?;
    let load = Load::start(&alpha, &beta, SERVER)?;
    wait_up(&fleet)?;
    wait_frames(&fleet)?;
    load.finish()?;
    let ours = lane(&fleet, "alpha")?["agreements"].as_u64();
    // Two sessions may have come up after the restart, one dialled by each end.
    ensure!(ours >= Some(2), "{ours:?} agreements");
    Ok(())
}

#[test]
fn a_peer_without_it_is_spoken_to_over_quic() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = start(&lab, [ON, ""])?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let load = Load::start(&alpha, &beta, SERVER)?;
    wait::until(
        "a session old enough for keys has carried data",
        SOON,
        || {
            let peer = fleet.peer("beta", "home/alpha")?;
            ensure!(peer["session_ms"].as_u64() > Some(2_500), "{peer}");
            ensure!(peer["sent_bytes"].as_u64() > Some(1 << 20), "{peer}");
            Ok(())
        },
    )?;
    load.finish()?;
    let ours = lane(&fleet, "alpha")?;
    ensure!(ours["up"] == false && ours["agreements"] == 0, "{ours}");
    ensure!(ours["sent_frames"] == 0, "{ours}");
    ensure!(lane(&fleet, "beta")?.is_null());
    Ok(())
}

#[test]
fn frames_of_strangers_are_counted_and_harm_nobody() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = start(&lab, [ON, ON])?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let load = Load::start(&alpha, &beta, SERVER)?;
    wait_up(&fleet)?;
    let before = fleet.all_drops("beta")?;
    let received = lane(&fleet, "beta")?["received_frames"].as_u64();
    let socket = lab.node("relay").udp_bind(SocketAddr::from(([0; 4], 0)))?;
    let target = SocketAddr::from(([203, 0, 113, 2], DATA_PORT));
    // No header and tag, a key of nobody.
    let (short, forged) = ([0x20; 31], [0x20; 1400]);
    for datagram in [&short[..], &forged] {
        socket.send_to(datagram, target)?;
    }
    let mut expected = before;
    for reason in ["unknown_frame", "frame_unauthenticated"] {
        *expected.entry(reason.to_owned()).or_default() += 1;
    }
    wait::until("both are counted, and nothing else", SOON, || {
        let drops = fleet.all_drops("beta")?;
        ensure!(drops == expected, "{drops:?}, not {expected:?}");
        Ok(())
    })?;
    wait_frames(&fleet)?;
    ensure!(lane(&fleet, "beta")?["received_frames"].as_u64() >= received);
    load.finish().map(drop)
}
