//! Probes that were authentic once, or for another session: whoever has overheard them gains nothing.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::fleet::DATA_PORT;
use netns_tests::pair::{self, ON_ALPHA, ON_BETA};
use netns_tests::wait;

const SOON: Duration = Duration::from_secs(15);
/// How many probes are overheard.
const COUNT: usize = 6;
/// First bytes of probes and their replies.
const PROBES: [u8; 2] = [0x01, 0x02];
/// Bytes of a probe.
const PROBE_LEN: usize = 31;

#[test]
fn overheard_probes_are_dropped_and_lead_nowhere() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = pair::start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let _echo = beta.udp_echo(pair::anywhere())?;
    let capture = lab.node("alpha").capture("eth1")?;
    ensure!(alpha.udp_exchange(pair::at("10.30.1.2"), b"warm", SOON)? == b"warm");

    let of_beta = SocketAddr::from(([192, 168, 7, 2], DATA_PORT));
    let overheard = wait::until("probes are overheard", SOON, || {
        capture.look(|captured| {
            let all = captured
                .datagrams()
                .filter(|one| one.flow.source == of_beta);
            let probes = all
                .filter(|one| one.payload.len() == PROBE_LEN && PROBES.contains(&one.payload[0]));
            let probes: Vec<Vec<u8>> = probes.map(|one| one.payload.to_vec()).collect();
            ensure!(probes.len() >= COUNT, "{} so far", probes.len());
            Ok(probes)
        })
    })?;
    let before = fleet.all_drops("alpha")?;
    let count = |reason: &str| before.get(reason).copied().unwrap_or(0);
    let (replayed, forged) = (count("frame_replayed"), count("frame_unauthenticated"));

    let stranger = lab.node("relay").udp_bind(SocketAddr::from(([0; 4], 0)))?;
    let target = SocketAddr::from(([203, 0, 113, 1], DATA_PORT));
    let overheard = overheard.get(..COUNT).context("too few")?;
    for probe in overheard {
        stranger.send_to(probe, target)?;
        // Another session's id, or a counter that is still to come: the tag is of neither. Another
        // nonce behind a counter that has been: that is not even looked at.
        for place in [1, 9, 20] {
            let mut changed = probe.clone();
            changed[place] ^= 1;
            stranger.send_to(&changed, target)?;
        }
    }
    wait::until("all of it is counted", SOON, || {
        let drops = fleet.all_drops("alpha")?;
        let found = |reason: &str| drops.get(reason).copied().unwrap_or(0);
        let expected = (replayed + 2 * COUNT as u64, forged + 2 * COUNT as u64);
        let found = (found("frame_replayed"), found("frame_unauthenticated"));
        ensure!(found == expected, "{found:?}, not {expected:?}");
        Ok(())
    })?;
    // Nobody was answered, and where they came from is no way to beta.
    stranger.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut buffer = [0; 2048];
    ensure!(
        stranger.recv(&mut buffer).is_err(),
        "a stranger was answered"
    );
    let peer = fleet.peer("alpha", "home/beta")?.to_string();
    ensure!(
        !peer.contains(&stranger.local_addr()?.port().to_string()),
        "{peer}"
    );
    ensure!(peer.contains("\"kind\":\"direct\""), "{peer}");
    ensure!(alpha.udp_exchange(pair::at("10.30.1.2"), b"well", SOON)? == b"well");
    Ok(())
}
