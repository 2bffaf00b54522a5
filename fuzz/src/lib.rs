//! Fuzz targets as plain functions, and the reading of their corpus.
//!
//! A target takes any bytes and must not panic. Each has a folder of the same name in `corpus/`;
//! every file there is one input with a description of what it shows. `tests/replay.rs` replays
//! them all and mutates them for a while; a crash becomes another file. A fuzzer such as libFuzzer
//! needs no more than a wrapper around one of these functions.

mod certificate;
mod chunks;
mod control;
mod dataplane;
mod dns;
mod frames;
mod lane;
mod packet;
mod portmap;
mod proxy;
mod relay;
mod token;

pub use certificate::certificate;
pub use chunks::chunks;
pub use control::{control, join};
pub use dataplane::dataplane;
pub use dns::{dns_query, dns_reply};
pub use frames::frames;
pub use lane::lane_hello;
pub use packet::packet;
pub use portmap::portmap;
pub use proxy::{connect, socks5};
pub use relay::{relay, relay_datagrams, relay_messages};
pub use token::token;

/// A function that must take any bytes.
pub type Target = fn(&[u8]);

/// Every target, by the name of its folder in the corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("packet", packet),
    ("dataplane", dataplane),
    ("chunks", chunks),
    ("frames", frames),
    ("relay", relay),
    ("relay_messages", relay_messages),
    ("relay_datagrams", relay_datagrams),
    ("token", token),
    ("certificate", certificate),
    ("control", control),
    ("portmap", portmap),
    ("join", join),
    ("lane_hello", lane_hello),
    ("dns_query", dns_query),
    ("dns_reply", dns_reply),
    ("socks5", socks5),
    ("connect", connect),
];

/// One input of the corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// What it shows, in words.
    pub description: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Reads a file of the corpus. Lines that begin with `#` are the description; in all others every
/// word is bytes in hexadecimal, or `HEX*COUNT` for the same bytes COUNT times.
///
/// # Errors
/// What is wrong with the file.
pub fn read_input(text: &str) -> Result<Input, String> {
    let mut description = String::new();
    let mut bytes = Vec::new();
    for line in text.lines() {
        if let Some(words) = line.strip_prefix('#') {
            description.push_str(words);
            continue;
        }
        for word in line.split_whitespace() {
            let (digits, count) = word.split_once('*').unwrap_or((word, "1"));
            let count: usize = count.parse().map_err(|_| format!("no count: {word}"))?;
            bytes.extend(read_hex(digits)?.repeat(count));
        }
    }
    let description = description.trim().to_owned();
    if description.is_empty() {
        return Err("an input without a description".to_owned());
    }
    Ok(Input { description, bytes })
}

fn read_hex(digits: &str) -> Result<Vec<u8>, String> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return Err(format!("no pairs of digits: {digits}"));
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| {
            u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| format!("no digits: {digits}"))
        })
        .collect()
}
