//! Which lane `auto` takes: packets as they are on a short path, streams over a long or relayed one and
//! once it loses some.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::emulator::{Impairment, Loss};
use netns_tests::pair::{self, ON_ALPHA, ON_BETA};
use netns_tests::{Fleet, wait};

const SOON: Duration = Duration::from_secs(15);
/// Loss has to be measured first.
const MEASURED: Duration = Duration::from_secs(60);
const TARGET: &str = "10.30.1.2";
/// Datagrams sent between two looks.
const BURST: usize = 50;

#[test]
fn a_path_that_loses_packets_takes_streams_and_says_why() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = pair::start_on_lan(&lab, pair::TABLE)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let _echo = beta.tcp_echo(pair::anywhere())?;
    let short = Impairment {
        delay: Duration::from_micros(750),
        ..Impairment::default()
    };
    pair::set_lan(&lab, short);
    ensure!(alpha.tcp_exchange(pair::at(TARGET), b"clean", SOON)? == b"clean");
    ensure!(opened(&fleet, "l4", "lossy path")? == 0, "nothing was lost");
    pair::set_lan(
        &lab,
        Impairment {
            loss: Loss::Random(0.03),
            ..short
        },
    );
    // What nobody reads is sent and lost as well.
    let sender = alpha.udp_bind("10.30.1.1:0".parse()?)?;
    wait::until("a flow takes streams because of loss", MEASURED, || {
        for _ in 0..BURST {
            sender.send_to(&[7; 600], (TARGET, 9))?;
        }
        let answer = alpha.tcp_exchange(pair::at(TARGET), b"lossy", SOON)?;
        ensure!(answer == b"lossy", "{answer:?}");
        let count = opened(&fleet, "l4", "lossy path")?;
        ensure!(count > 0, "{:?}", fleet.tool_json("alpha", &["status"])?);
        Ok(())
    })?;
    let _open = alpha.tcp_connect(pair::at(TARGET), SOON)??;
    shows(&fleet, "l4", "lossy path")
}

/// The first connection, too: it waits until the path is measured.
#[test]
fn a_long_path_takes_streams_from_the_first_connection_on() -> Result<()> {
    let lab = pair::lab()?;
    pair::set_lan(&lab, Impairment::delay(Duration::from_millis(5)));
    let fleet = pair::start_on_lan(&lab, pair::TABLE)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let _echo = beta.tcp_echo(pair::anywhere())?;
    let state = fleet.peer("alpha", "home/beta")?["state"].clone();
    ensure!(state != "up", "somebody has dialled already");
    let mut first = alpha.tcp_connect(pair::at(TARGET), SOON)??;
    shows(&fleet, "l4", "long path")?;
    ensure!(opened(&fleet, "l4", "long path")? == 1);
    // On a path that is short by now it goes on, and the next one takes packets.
    first.write_all(b"x")?;
    first.read_exact(&mut [0])?;
    pair::set_lan(&lab, Impairment::default());
    wait::until("the path is taken for short", MEASURED, || {
        ensure!(alpha.tcp_exchange(pair::at(TARGET), b"near", SOON)? == b"near");
        ensure!(opened(&fleet, "l3", "short direct path")? > 0);
        Ok(())
    })?;
    first.write_all(b"y")?;
    first.read_exact(&mut [0])?;
    shows(&fleet, "l4", "long path")
}

/// However near the relay is; and what has begun so goes on when the path is direct.
#[test]
fn a_relayed_path_takes_streams() -> Result<()> {
    let lab = pair::lab()?;
    let cut = Impairment::loss(Loss::Random(1.0));
    pair::set_lan(&lab, cut);
    let fleet = pair::start(&lab)?;
    let alpha = fleet.instance("alpha", ON_ALPHA)?;
    let beta = fleet.instance("beta", ON_BETA)?;
    let _echo = beta.tcp_echo(pair::anywhere())?;
    let mut first = alpha.tcp_connect(pair::at(TARGET), SOON)??;
    shows(&fleet, "l4", "relayed path")?;
    pair::set_lan(&lab, Impairment::default());
    pair::wait_path(&fleet, "direct", SOON)?;
    first.write_all(b"x")?;
    first.read_exact(&mut [0])?;
    shows(&fleet, "l4", "relayed path")
}

/// Fails unless an open or lately closed flow has that lane for that reason.
fn shows(fleet: &Fleet<'_>, lane: &str, reason: &str) -> Result<()> {
    let flows = fleet.tool_json("alpha", &["flows"])?;
    let flows = flows[0].as_array().context("no list of flows")?;
    let mut found = flows.iter();
    let found = found.any(|flow| flow["lane"] == lane && flow["lane_reason"] == reason);
    ensure!(found, "no flow on {lane} for {reason:?}: {flows:?}");
    Ok(())
}

/// How many flows alpha has opened on that lane for that reason.
fn opened(fleet: &Fleet<'_>, lane: &str, reason: &str) -> Result<u64> {
    let status = fleet.tool_json("alpha", &["status"])?;
    let lanes = status[0]["packets"]["lanes"].as_array().cloned();
    let of = lanes.unwrap_or_default().into_iter();
    let mut of = of.filter(|one| one["lane"] == lane && one["reason"] == reason);
    Ok(of.next().and_then(|one| one["flows"].as_u64()).unwrap_or(0))
}
