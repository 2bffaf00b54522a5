//! Replays the corpus, and mutates it for a while with fixed seeds.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use netmanager_core::chunk::{Chunker, Reassembler, ReassemblyLimits};
use netmanager_core::packet::PacketInfo;
use netmanager_core::vnet::VnetHeader;
use weald_fuzz::{Input, TARGETS, Target, read_input};
use weald_proto::token::{CheckedClaims, RelayToken};
use weald_trust::pki::{Certificate, key_hash};

/// Mutations of each input: a second or two in all.
const MUTATIONS: u64 = 3000;
/// Set to a number, it asks for more of them.
const MUTATIONS_VARIABLE: &str = "WEALD_FUZZ_MUTATIONS";

fn corpus(target: &str) -> Vec<(PathBuf, Input)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.map_or_else(|error| panic!("{error}"), |entry| entry.path()))
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let input =
                read_input(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, input)
        })
        .collect()
}

#[test]
fn every_input_of_the_corpus_is_survived() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        assert!(!inputs.is_empty(), "target {name} has no corpus");
        for (path, input) in inputs {
            survive(name, *target, &input.bytes, &|| {
                format!("{}: {}", path.display(), input.description)
            });
        }
    }
}

#[test]
fn packets_as_linux_makes_them_are_accepted() {
    let mut count = 0;
    for (path, input) in corpus("packet") {
        let of_linux = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("linux-"));
        if !of_linux {
            continue;
        }
        count += 1;
        let (head, packet) = input.bytes.split_first_chunk().unwrap();
        let vnet = VnetHeader::parse(head);
        let info = PacketInfo::parse(packet).unwrap();
        assert_eq!(vnet.check(&info), Ok(()), "{}", path.display());
        assert_eq!(usize::from(info.total_len), packet.len());
        assert_eq!(round_trip(&vnet, packet), [(vnet, packet.to_vec())]);
    }
    assert!(count >= 13, "{count} packets of Linux");
}

#[test]
fn tokens_as_clusters_make_them_are_read() {
    let readable: Vec<String> = corpus("token")
        .into_iter()
        .filter(|(_, input)| {
            let token = RelayToken::read(&input.bytes);
            token.is_ok_and(|token| CheckedClaims::read(&token.claims).is_ok())
        })
        .filter_map(|(path, _)| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    let expected = [
        "a-token",
        "claims-twice",
        "latest",
        "longest",
        "unknown-field",
    ];
    assert_eq!(readable, expected);
}

#[test]
fn certificates_are_read_as_far_as_they_are_some() {
    let readable: Vec<String> = corpus("certificate")
        .into_iter()
        .filter(|(_, input)| {
            let certificate = Certificate::from_der(input.bytes.clone().into());
            certificate.public_key().is_ok()
        })
        .filter_map(|(path, _)| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    let expected = ["a-node", "an-authority", "no-extensions", "other-names"];
    assert_eq!(readable, expected);
    let request = corpus("certificate").into_iter();
    let mut keys = request.filter(|(_, input)| key_hash(&input.bytes).is_ok());
    let (path, _) = keys.next().unwrap();
    assert!(path.ends_with("a-request.hex"), "{}", path.display());
    assert!(keys.next().is_none());
}

/// Cuts a packet and puts it together again.
fn round_trip(vnet: &VnetHeader, packet: &[u8]) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut reassembler = Reassembler::new(ReassemblyLimits::default());
    let mut packets = Vec::new();
    let now = Instant::now();
    let cut = Chunker::new().split(vnet, packet, 1414, &mut |parts| {
        let result = reassembler.handle(&parts.concat(), now, &mut |vnet, packet| {
            packets.push((vnet, packet.to_vec()));
        });
        assert_eq!(result, Ok(()));
    });
    assert_eq!(cut, Ok(()));
    packets
}

#[test]
fn every_folder_of_the_corpus_has_a_target() {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap() {
        let name = entry.unwrap().file_name();
        let known = TARGETS.iter().any(|(target, _)| name == *target);
        assert!(known, "no target for {}", name.display());
    }
}

#[test]
fn mutated_inputs_are_survived() {
    let mutations = std::env::var(MUTATIONS_VARIABLE).map_or(MUTATIONS, |count| {
        count.parse().expect("a number of mutations")
    });
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        for (number, (path, input)) in inputs.iter().enumerate() {
            for mutation in 0..mutations {
                let seed = (number as u64) << 32 | mutation;
                let bytes = mutate(&input.bytes, &inputs, seed);
                survive(name, *target, &bytes, &|| {
                    format!(
                        "{}, mutated with seed {seed}: {}",
                        path.display(),
                        hex(&bytes)
                    )
                });
            }
        }
    }
}

#[test]
fn an_input_is_read_as_it_is_written() {
    let input = read_input("# what it\n#  shows\n01ff 0a*3\n 00*2\n").unwrap();
    assert_eq!(input.description, "what it  shows");
    assert_eq!(input.bytes, [1, 0xff, 10, 10, 10, 0, 0]);
    assert!(read_input("00").is_err(), "no description");
    assert!(read_input("# x\n0").is_err(), "half a byte");
    assert!(read_input("# x\n0g").is_err(), "no digit");
    assert!(read_input("# x\n00*x").is_err(), "no count");
}

fn survive(name: &str, target: Target, bytes: &[u8], what: &dyn Fn() -> String) {
    let result = catch_unwind(AssertUnwindSafe(|| target(bytes)));
    assert!(result.is_ok(), "target {name} panicked on {}", what());
}

/// Changes an input in one to four places.
fn mutate(bytes: &[u8], others: &[(PathBuf, Input)], seed: u64) -> Vec<u8> {
    let mut random = Random(seed ^ 0x5eed_5eed_5eed_5eed);
    let mut out = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(out.len() + 1);
        let interesting = [0, 1, 0x7f, 0x80, 0xff, 0x45, 0x60, 3, 4];
        match random.below(8) {
            0 => out.truncate(at),
            1 => out.insert(at, random.next() as u8),
            2 => {
                let other = &others[random.below(others.len())].1.bytes;
                let from = random.below(other.len() + 1);
                let end = (from + random.below(64)).min(other.len());
                out.splice(at..at, other[from..end].iter().copied());
            }
            3 => {
                let end = (at + random.below(8)).min(out.len());
                out.drain(at..end);
            }
            4 | 5 if at < out.len() => out[at] = interesting[random.below(interesting.len())],
            6 if at < out.len() => out[at] ^= 1 << random.below(8),
            _ if at < out.len() => out[at] = random.next() as u8,
            _ => {}
        }
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A small generator (xorshift64*): the same seeds give the same inputs on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}
