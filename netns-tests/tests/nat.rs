//! Every kind of router in the matrix maps and filters as its name says (RFC 4787), in both
//! flavours, seen with plain UDP sockets; and what becomes of two sites that punch too early.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::nat_matrix::case::{Case, Families, Flavour, Kind, Pair};
use netns_tests::nat_matrix::{description, prove};
use netns_tests::nat_probe::Behaviour;
use netns_tests::{Description, Lab, Machine, Nat, Segment};

const SECOND: Duration = Duration::from_secs(1);
/// The port that both sites punch with.
const PORT: u16 = 5000;

/// Translation of both families, as no matrix case has it.
fn translated_twice(nat: Nat, flavour: Flavour) -> Result<()> {
    let router = Machine::router("gateway", "internet", "site")
        .nat(nat)
        .nat66(nat);
    let lab = Lab::new(
        &Description::new()
            .segment(
                Segment::new("internet")
                    .v4("203.0.113.0/24")
                    .v6("2001:db8::/64"),
            )
            .segment(Segment::new("site").v4("192.168.1.0/24").v6("fd00:1::/64"))
            .machine(Machine::host("s1").on("internet"))
            .machine(Machine::host("s2").on("internet"))
            .machine(match flavour {
                Flavour::Drops => router.drop_unsolicited(),
                Flavour::Answers => router,
            })
            .machine(Machine::host("inside").on("site")),
    )?;
    let outside = [lab.node("s1"), lab.node("s2")];
    for v6 in [false, true] {
        let seen = Behaviour::observe(lab.node("inside"), outside, v6)?;
        ensure!(
            seen == Behaviour::of(nat, flavour == Flavour::Drops),
            "{nat:?} that {}, v6: {v6}: {seen:?}",
            flavour.word()
        );
    }
    Ok(())
}

#[test]
fn translations_do_what_their_names_say_to_both_families() -> Result<()> {
    for flavour in Flavour::ALL {
        for nat in [
            Nat::PortRestricted,
            Nat::Symmetric,
            Nat::FullCone,
            Nat::AddressRestricted,
            Nat::SequentialSymmetric,
        ] {
            translated_twice(nat, flavour)?;
        }
    }
    Ok(())
}

#[test]
fn every_router_of_the_matrix_is_what_it_is_called() -> Result<()> {
    let kinds = Kind::ALL;
    for router in Flavour::ALL {
        for pair in kinds.chunks(2) {
            let case = Case {
                pair: Pair::Apart(pair[0], pair[1]),
                router,
                ip: Families::V6OnBoth,
            };
            prove(&Lab::new(&description(case))?, case)?;
        }
        for kind in [Kind::FullCone, Kind::Double] {
            let (pair, ip) = (Pair::Same(kind), Families::V4);
            let case = Case { pair, router, ip };
            prove(&Lab::new(&description(case))?, case)?;
        }
    }
    Ok(())
}

/// Two sites behind port-restricted cones, as the matrix has them.
struct Sites {
    lab: Lab,
    alpha: UdpSocket,
    beta: UdpSocket,
    /// What the internet sees of either.
    outside: [SocketAddr; 2],
}

impl Sites {
    fn new(router: Flavour) -> Result<Self> {
        let case = Case {
            pair: Pair::Apart(Kind::PortRestricted, Kind::PortRestricted),
            router,
            ip: Families::V4,
        };
        let lab = Lab::new(&description(case))?;
        let hub = lab.node("hub");
        let observer = hub.udp_bind((hub.v4(), 7).into())?;
        observer.set_read_timeout(Some(5 * SECOND))?;
        let socket = |name: &str| -> Result<(UdpSocket, SocketAddr)> {
            let node = lab.node(name);
            let socket = node.udp_bind((node.v4(), PORT).into())?;
            socket.set_read_timeout(Some(SECOND / 4))?;
            socket.send_to(b"who am I?", observer.local_addr()?)?;
            Ok((socket, observer.recv_from(&mut [0; 16])?.1))
        };
        let ((alpha, alpha_outside), (beta, beta_outside)) = (socket("alpha")?, socket("beta")?);
        Ok(Self {
            alpha,
            beta,
            outside: [alpha_outside, beta_outside],
            lab,
        })
    }

    /// Alpha opens its own mapping with packets of so many hops, then both send with full TTL.
    fn punch(&self, hops: u32) -> Result<bool> {
        let [alpha_outside, beta_outside] = self.outside;
        let full = self.alpha.ttl()?;
        self.alpha.set_ttl(hops)?;
        self.alpha.send_to(b"open", beta_outside)?;
        self.alpha.set_ttl(full)?;
        self.wait_tracked()?;
        for _ in 0..3 {
            // An error from a router that answers is told at the next call.
            let _ = self.beta.send_to(b"punch", alpha_outside);
            let _ = self.alpha.send_to(b"punch", beta_outside);
        }
        let punched = |socket: &UdpSocket| {
            let mut buffer = [0; 16];
            let come = (0..4).find_map(|_| socket.recv(&mut buffer).ok());
            come.is_some_and(|length| &buffer[..length] == b"punch")
        };
        Ok(punched(&self.alpha) && punched(&self.beta))
    }

    /// Waits until alpha's router has an entry for what was sent to beta.
    fn wait_tracked(&self) -> Result<()> {
        let to = self.outside[1].ip();
        netns_tests::wait::until("alpha's router has a mapping", 5 * SECOND, || {
            let entries = self.entries("gateway-a")?;
            ensure!(entries.contains(&format!("dst={to}")), "{entries}");
            Ok(())
        })
    }

    fn entries(&self, router: &str) -> Result<String> {
        let list = netns_tests::command("conntrack -L -p udp");
        let entries = self.lab.node(router).run_ok(list, 5 * SECOND);
        entries.context("conntrack is needed")
    }
}

#[test]
fn a_punch_that_comes_too_early_spoils_routers_that_answer() -> Result<()> {
    netns_tests::require::programs(&["conntrack"])?;
    // All the way to beta's router, which has not sent yet: nothing is spoilt if it drops.
    ensure!(Sites::new(Flavour::Drops)?.punch(64)?, "dropped, but lost");
    let spoilt = Sites::new(Flavour::Answers)?;
    ensure!(
        !spoilt.punch(64)?,
        "the entry of the early packet did no harm"
    );
    // Beta's own packets get another port now, which alpha's router lets nobody use.
    let entries = spoilt.entries("gateway-b")?;
    let asked = format!(
        "src={} dst={}",
        spoilt.outside[0].ip(),
        spoilt.outside[1].ip()
    );
    ensure!(entries.contains(&asked), "{entries}");
    Ok(())
}

#[test]
fn opening_packets_that_die_in_transit_spoil_nothing() -> Result<()> {
    netns_tests::require::programs(&["conntrack"])?;
    for router in Flavour::ALL {
        // The own router takes the first hop; the second and the third are transit routers.
        for hops in [2, 3] {
            let sites = Sites::new(router)?;
            ensure!(
                sites.punch(hops)?,
                "{} hops, router that {}",
                hops,
                router.word()
            );
        }
    }
    Ok(())
}
