//! `weald-limit` as a system: what a tunnel without a protocol reaches.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use netns_tests::{Lab, Process};

use super::{Found, System, Tunnel, programs};
use crate::ground;

/// The TUN at either end.
const DEVICE: &str = "limit0";
/// The outer UDP port.
const PORT: u16 = 9_000;

struct Limit<'lab> {
    lab: &'lab Lab,
    program: PathBuf,
    running: Option<[Process; 2]>,
}

pub(super) fn find(lab: &Lab) -> Result<Found<'_>> {
    let own = std::env::current_exe()?;
    // Tests lie one folder below the programs.
    let program = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("weald-limit"))
        .find(|path| path.is_file())
        .context("weald-limit is not built: cargo build --release -p bench --bins")?;
    let system = Limit {
        lab,
        program,
        running: None,
    };
    Ok(Found::System(Box::new(system), String::new()))
}

impl System for Limit<'_> {
    fn name(&self) -> &'static str {
        "limit"
    }

    fn start(&mut self) -> Result<Tunnel> {
        let spawn = |end: usize| {
            let mut command = Command::new(&self.program);
            command.arg(DEVICE).arg(end.to_string());
            for address in [ground::OUTER[end], ground::OUTER[1 - end]] {
                command.arg(format!("{address}:{PORT}"));
            }
            ground::nodes(self.lab)[end].spawn(command)
        };
        let processes = [spawn(0)?, spawn(1)?];
        let processes = self.running.insert(processes);
        programs::finish(self.lab, [DEVICE; 2], processes, true)
    }

    fn stop(&mut self) -> Result<()> {
        programs::end(self.running.take())
    }
}
