//! A router that maps ports when hosts behind it ask: miniupnpd, as home routers run it, which speaks
//! PCP, NAT-PMP and UPnP and writes nft rules.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::node::Node;
use crate::process::Process;
use crate::{command, require};

/// How long it may take until it listens.
const READY_TIME: Duration = Duration::from_secs(10);
/// How long a program may take.
const COMMAND_TIME: Duration = Duration::from_secs(10);
/// The table that it writes into, under its own name for it.
const TABLE: &str = "inet filter";
/// Its chains, before it has written anything.
const CHAINS: &str = "table inet filter {
    chain forward { type filter hook forward priority 0; policy accept; jump miniupnpd; }
    chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
    chain postrouting { type nat hook postrouting priority 100; jump postrouting_miniupnpd; }
    chain miniupnpd { }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
";

/// What a router speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speaks {
    /// NAT-PMP, and PCP with it.
    pub pcp: bool,
    /// UPnP.
    pub upnp: bool,
}

impl Speaks {
    /// All that it can.
    pub const ALL: Self = Self {
        pcp: true,
        upnp: true,
    };
}

/// The daemon on a router; it ends when this is dropped, and its rules stay.
#[derive(Debug)]
pub struct PortMapping<'lab> {
    router: &'lab Node,
    process: Process,
}

impl<'lab> PortMapping<'lab> {
    /// Starts it on a router with an outside and an inside, without any mapping.
    ///
    /// # Errors
    /// It is not installed, or does not listen in time.
    pub fn start(router: &'lab Node, speaks: Speaks) -> Result<Self> {
        require::programs(&["miniupnpd"])?;
        let is_outside = |name: &str| name == "wan";
        let interfaces = router.interfaces();
        let outside = interfaces.iter().find(|one| is_outside(&one.name));
        let inside = interfaces.iter().find(|one| !is_outside(&one.name));
        let (outside, inside) = (outside.context("no outside")?, inside.context("no inside")?);
        let yes = |is: bool| if is { "yes" } else { "no" };
        let config = format!(
            "ext_ifname={}\nlistening_ip={}\nipv6_disable=yes\nenable_natpmp={}\nenable_upnp={}\n\
             secure_mode=yes\nhttp_port=0\nuuid=00000000-0000-0000-0000-000000000000\n\
             allow 1024-65535 0.0.0.0/0 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n",
            outside.name,
            inside.name,
            yes(speaks.pcp),
            yes(speaks.upnp)
        );
        let config = router.write_file("miniupnpd.conf", config)?;
        let pid = router.dir()?.join("miniupnpd.pid");
        // A restart forgets what was mapped.
        router.nft(&format!("table {TABLE}\ndelete table {TABLE}\n{CHAINS}"))?;
        let mut daemon = command("miniupnpd -d -f");
        daemon.arg(config).arg("-P").arg(pid);
        let mut process = router.spawn(daemon)?;
        let ready = if speaks.pcp {
            "NAT-PMP/PCP traffic"
        } else {
            "HTTP listening"
        };
        process.wait_for_line(ready, READY_TIME)?;
        Ok(Self { router, process })
    }

    /// Kills it and starts it again, without what was mapped.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(mut self, speaks: Speaks) -> Result<Self> {
        self.process.kill()?;
        Self::start(self.router, speaks)
    }

    /// The rules that lead ports inside, as nft shows them.
    ///
    /// # Errors
    /// There is no such chain.
    pub fn rules(&self) -> Result<String> {
        let list = command(&format!("nft list chain {TABLE} prerouting_miniupnpd"));
        self.router.run_ok(list, COMMAND_TIME)
    }

    /// What it has written, for errors.
    #[must_use]
    pub fn shown(&self) -> String {
        self.process.shown()
    }
}
