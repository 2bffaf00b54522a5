//! What a test needs of the machine: a lack fails the test with a clear message, never skips it.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use nix::unistd::geteuid;

/// Where Debian keeps administrators' programs, which a bare `PATH` may lack.
const EXTRA_DIRS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Checks that namespaces can be made.
///
/// # Errors
/// Fails without root.
pub fn privileges() -> Result<()> {
    ensure!(
        geteuid().is_root(),
        "the lab makes network namespaces and needs root: run the tests as root"
    );
    ensure!(
        Path::new("/dev/net/tun").exists(),
        "the lab needs /dev/net/tun (modprobe tun)"
    );
    Ok(())
}

/// Checks that programs are installed.
///
/// # Errors
/// Names all programs that are missing.
pub fn programs(names: &[&str]) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    let is_there = |name: &str| {
        let dirs = path.split(':').chain(EXTRA_DIRS);
        dirs.map(Path::new).any(|dir| dir.join(name).is_file())
    };
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !is_there(name))
        .collect();
    if !missing.is_empty() {
        bail!(
            "these programs are missing: {}; `make test` installs them",
            missing.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let error = programs(&["sh", "no-such-program"]).unwrap_err();
        assert!(
            error.to_string().contains("missing: no-such-program;"),
            "{error}"
        );
    }
}
