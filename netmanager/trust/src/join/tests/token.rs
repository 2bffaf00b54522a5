//! The text of a token: its layout, and what is said of texts that are none.

use proptest::prelude::*;

use super::*;

#[test]
fn the_layout_is_kept() {
    let token = example();
    let text = token.to_text().unwrap();
    let bytes = [
        &[1, 2, 6][..],
        b"munich",
        &[5; 32],
        &[6; 32],
        &[2, 14],
        b"192.0.2.1:7000",
        &[16],
        b"root.example:443",
    ]
    .concat();
    let sum = sha256(&bytes);
    let whole = [&bytes[..], &sum[..4]].concat();
    assert_eq!(text, format!("weald-join-{}", base32::encode(&whole)));
    assert_eq!(text.parse(), Ok(token));
    assert!(text.len() < 250, "{}", text.len());
}

#[test]
fn case_and_space_around_do_not_matter() {
    let token = example();
    let text = token.to_text().unwrap();
    assert_eq!(text.to_uppercase().parse(), Ok(token.clone()));
    assert_eq!(format!("  {text}\n").parse(), Ok(token));
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?}", example());
    assert!(shown.contains("JoinSecret(..)"), "{shown}");
}

#[test]
fn texts_that_are_no_tokens_are_told_why() {
    let text = example().to_text().unwrap();
    let none = "this is no join token: one starts with weald-join-";
    for other in ["", "weald", "eyJhbGciOi", &text[1..], "wéald-join-aa"] {
        assert_eq!(fault(other), none);
    }
    assert_eq!(fault("weald-join-"), CHECKSUM);
    assert_eq!(fault(&text[..text.len() - 4]), CHECKSUM);
    assert_eq!(
        fault(&text.replacen("weald-join-a", "weald-join-1", 1)),
        "the join token has '1'; only letters a-z and digits 2-7 follow weald-join-"
    );
    assert_eq!(
        fault(&format!("weald-join-{}", "a".repeat(5000))),
        "the join token has 5011 characters, at most 4096 are read"
    );
    let malformed = "the join token cannot be read; let a new one be made";
    assert_eq!(fault(&made_of(&[1])), malformed);
    assert_eq!(fault(&made_of(&[1, 9])), malformed);
    assert_eq!(
        fault(&made_of(&[7, 1])),
        "the join token has version 7, this program reads version 1; update it"
    );
    let with = |rest: &[u8]| made_of(&[&[1, 2, 1, b'a'][..], &[5; 64], rest].concat());
    assert_eq!(
        fault(&with(&[0])),
        "the join token has 0 addresses to dial; 1 to 8 are allowed"
    );
    assert_eq!(
        fault(&with(&[1, 2, b'a', b'b'])),
        "\"ab\" is not of the form address:port or name:port"
    );
    assert_eq!(fault(&with(&[1, 3, b'a', b':', b'1', 0])), malformed);
    assert_eq!(fault(&with(&[1, 9, b'a'])), malformed);
    let mut many = example();
    many.addresses = vec![many.addresses[0].clone(); 9];
    assert_eq!(many.to_text(), Err(JoinTokenFault::Addresses(9)));
}

#[test]
fn addresses_have_a_port() {
    for good in [
        "192.0.2.1:1",
        "[2001:db8::1]:443",
        "root.example:65535",
        "a:1",
    ] {
        assert_eq!(good.parse::<DialAddress>().unwrap().as_str(), good);
    }
    let long = format!("{}a:1", "a.".repeat(127));
    for bad in [
        "",
        "a",
        "a:",
        ":1",
        "a:0",
        "192.0.2.1:0",
        "a:65536",
        "a b:1",
        "a..b:1",
        &long,
    ] {
        assert!(bad.parse::<DialAddress>().is_err(), "{bad:?}");
    }
}

/// A token that says to dial everywhere or nowhere could be redeemed by nobody.
#[test]
fn what_cannot_be_dialled_is_refused() {
    for bad in [
        "0.0.0.0:7000",
        "[::]:7000",
        "[::ffff:0.0.0.0]:7000",
        "192.0.2.1:0",
    ] {
        let told = bad.parse::<DialAddress>().unwrap_err().to_string();
        let wanted = format!("{bad} says where to listen, but cannot be dialled; ");
        assert!(told.starts_with(&wanted), "{told}");
        assert!(told.contains("--advertise"), "{told}");
        // As well in a token that an earlier release has issued.
        let length = u8::try_from(bad.len()).unwrap();
        let rest = [&[1, length][..], bad.as_bytes()].concat();
        let old = made_of(&[&[1, 2, 1, b'a'][..], &[5; 64], &rest].concat());
        assert_eq!(fault(&old), told);
    }
    assert!("a:0".parse::<DialAddress>().is_err());
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        role in prop::sample::select(vec![JoinRole::Cluster, JoinRole::Worker, JoinRole::Relay]),
        name in "[a-z][a-z0-9]{0,62}",
        secret in any::<[u8; 32]>(),
        root in any::<[u8; 32]>(),
        addresses in prop::collection::vec(1_u128.., 1..9),
    ) {
        let token = JoinToken {
            role,
            cluster: label(&name),
            secret: JoinSecret(secret),
            root,
            addresses: addresses
                .into_iter()
                .map(|ip| format!("[{}]:7000", std::net::Ipv6Addr::from(ip)).parse().unwrap())
                .collect(),
        };
        prop_assert_eq!(token.to_text().unwrap().parse(), Ok(token));
    }

    /// The last character may hold bits that mean nothing.
    #[test]
    fn a_typo_is_told_as_one(at in any::<prop::sample::Index>(), typo in "[a-z2-7]") {
        let good = example();
        let text = good.to_text().unwrap();
        let at = PREFIX.len() + at.index(text.len() - PREFIX.len());
        let mut wrong = text;
        wrong.replace_range(at..=at, &typo);
        match wrong.parse::<JoinToken>() {
            Ok(read) => prop_assert_eq!(read, good),
            Err(fault) => prop_assert_eq!(fault, JoinTokenFault::Checksum),
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = text.parse::<JoinToken>();
        let _ = format!("{PREFIX}{text}").parse::<JoinToken>();
        let _ = made_of(&bytes).parse::<JoinToken>();
    }
}

const CHECKSUM: &str = "the join token has a typo or is not complete; copy it again, as one line";

fn example() -> JoinToken {
    JoinToken {
        role: JoinRole::Worker,
        cluster: label("munich"),
        secret: JoinSecret([5; 32]),
        root: [6; 32],
        addresses: vec![
            "192.0.2.1:7000".parse().unwrap(),
            "root.example:443".parse().unwrap(),
        ],
    }
}

/// These bytes with a checksum that matches.
fn made_of(bytes: &[u8]) -> String {
    let sum = sha256(bytes);
    let whole = [bytes, &sum[..4]].concat();
    format!("{PREFIX}{}", base32::encode(&whole))
}

fn fault(text: &str) -> String {
    text.parse::<JoinToken>().unwrap_err().to_string()
}
