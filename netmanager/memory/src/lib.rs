//! How a process of Weald holds memory: what was large goes back to the system at once, and so does
//! the program text that only starting has needed.
//!
//! What is allocated, and for how long, is everybody's own; nothing is limited here.

use std::fs;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use nix::libc;

/// Blocks of at least so many bytes come from the system, one by one, and go back there.
#[cfg(target_env = "gnu")]
const OWN_PAGES: i32 = 256 << 10;
/// How long after it was ready a process has done what only starting needs: dialled, shaken hands,
/// and said who it is.
const STARTED: Duration = Duration::from_secs(3);

/// Sets the allocator up, for programs that seldom need large blocks. To be called before there are
/// threads.
///
/// Root hashes passwords in blocks of 19 MiB. glibc takes the first of them from the system, and
/// from then on believes that blocks of that size are usual and keeps them (mallopt(3),
/// `M_MMAP_THRESHOLD`), so that an idle root would hold twice that for ever.
pub fn set_up() {
    #[cfg(target_env = "gnu")]
    {
        use libc::{M_MMAP_THRESHOLD, mallopt};
        // SAFETY: it takes two numbers, and no other thread runs that allocates meanwhile.
        // JUSTIFICATION: nothing safe reaches glibc's settings, but for the environment of the
        // program, which is not ours to write.
        let done = unsafe { mallopt(M_MMAP_THRESHOLD, OWN_PAGES) };
        if done == 0 {
            tracing::debug!("the allocator does not take the size of large blocks");
        }
    }
}

/// Has program text and free memory given back a moment from now, once; to be called when the process
/// is ready.
///
/// Reading options, TLS, the first commits and handshakes touch most of the program, and the kernel
/// maps sixteen pages around each that is touched. None of it is unmapped by itself. What is needed
/// afterwards is mapped again when it runs, from the page cache.
pub fn settle() {
    let settle = || {
        thread::sleep(STARTED);
        let bytes = release();
        tracing::debug!(bytes, "program text was given back");
    };
    let started = thread::Builder::new()
        .name("settle".to_owned())
        .spawn(settle);
    if let Err(error) = started {
        tracing::debug!(%error, "program text is not given back");
    }
}

/// Gives back program text and what the allocator has free, and says of how many bytes of text.
fn release() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut bytes = 0;
    for range in maps.lines().filter_map(text) {
        let start = range.start as *mut libc::c_void;
        // SAFETY: the range is one mapping of a file that cannot be written through it, so that every
        // page is read again from the file, unchanged, by whoever runs it next; this program unmaps
        // no library.
        // JUSTIFICATION: nothing safe gives mapped text back.
        let done = unsafe { libc::madvise(start, range.len(), libc::MADV_DONTNEED) };
        if done == 0 {
            bytes += range.len();
        }
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and the allocator locks itself.
    // JUSTIFICATION: nothing safe reaches glibc's allocator.
    let _ = unsafe { libc::malloc_trim(0) };
    bytes
}

/// The range of a line of /proc/self/maps (proc_pid_maps(5)), if it is program text: private,
/// executable, not writable, and of a file.
fn text(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_text = words.next()? == "r-xp";
    let file = words.nth(3)?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let range = number(start)?..number(end)?;
    (is_text && file.starts_with('/') && !range.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_of_files_is_given_back() {
        let of = |rest: &str| text(&format!("55d0c0de0000-55d0c0df0000 {rest}"));
        assert_eq!(
            of("r-xp 00100000 fe:01 1234                       /usr/bin/weald"),
            Some(0x55d0_c0de_0000..0x55d0_c0df_0000)
        );
        for other in [
            // Relocated data is the process's own, though it cannot be written any more.
            "r--p 00100000 fe:01 1234                       /usr/bin/weald",
            "rw-p 00100000 fe:01 1234                       /usr/bin/weald",
            "rwxp 00100000 fe:01 1234                       /usr/bin/weald",
            "r-xs 00100000 fe:01 1234                       /usr/bin/weald",
            "r-xp 00000000 00:00 0                          [vdso]",
            "r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(text("no line"), None);
        assert_eq!(text("2000-1000 r-xp 0 fe:01 1 /usr/bin/weald"), None);
    }

    #[test]
    fn a_process_goes_on_without_its_text() {
        let resident = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|it| it.strip_prefix("RssFile:"));
            let kib = line.unwrap().split_whitespace().next().unwrap();
            kib.parse::<u64>().unwrap()
        };
        let busy = thread::spawn(|| (0..2_000_000_u64).fold(0, |sum, it| sum ^ (it * it)));
        let before = resident();
        assert!(release() > 1 << 20, "the text of this test is larger");
        let after = resident();
        assert!(after < before, "{before} KiB, then {after}");
        assert_eq!(
            busy.join().unwrap(),
            (0..2_000_000_u64).fold(0, |sum, it| sum ^ (it * it))
        );
    }
}
