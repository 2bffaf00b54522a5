//! The relay protocol's messages: golden bytes, round trips, and bytes that are no messages.

use proptest::prelude::*;

use super::list::SIGNATURE_LEN;
use super::*;
use crate::stream::LENGTH_LEN;

fn body(framed: &[u8]) -> &[u8] {
    &framed[LENGTH_LEN..]
}

#[test]
fn golden_messages_of_a_node() {
    let hello = NodeMessage::Hello(Hello {
        version: 1,
        token: vec![0xaa, 0xbb],
        revocations: None,
    });
    assert_eq!(
        hello.encode(),
        [0, 0, 0, 8, 0x0a, 6, 0x08, 1, 0x12, 2, 0xaa, 0xbb]
    );
    let hello = NodeMessage::Hello(Hello {
        version: 1,
        token: vec![0xaa, 0xbb],
        revocations: Some(300),
    });
    assert_eq!(
        hello.encode(),
        [
            0, 0, 0, 11, 0x0a, 9, 0x08, 1, 0x12, 2, 0xaa, 0xbb, 0x18, 0xac, 0x02
        ]
    );
    let open = NodeMessage::Open(Open {
        request: 7,
        node: "c/n".parse().unwrap(),
    });
    assert_eq!(
        open.encode(),
        [0, 0, 0, 9, 0x12, 7, 0x08, 7, 0x12, 3, b'c', b'/', b'n']
    );
}

fn list() -> Signed {
    Signed {
        statement: vec![7, 8],
        signature: vec![9; SIGNATURE_LEN],
        cluster: None,
    }
}

#[test]
fn golden_lists_of_the_revoked() {
    let of_node = NodeMessage::Revocations(list()).encode();
    let head = [0, 0, 0, 72, 0x1a, 70, 0x0a, 2, 7, 8, 0x12, 64];
    assert_eq!(of_node, [&head[..], &[9; SIGNATURE_LEN]].concat());
    let of_relay = RelayMessage::Revocations(list()).encode();
    let head = [0, 0, 0, 72, 0x3a, 70, 0x0a, 2, 7, 8, 0x12, 64];
    assert_eq!(of_relay, [&head[..], &[9; SIGNATURE_LEN]].concat());
}

fn observed(seen: &str) -> RelayMessage {
    RelayMessage::Observed {
        asked_port: 10_251,
        seen: seen.parse().unwrap(),
    }
}

#[test]
fn golden_messages_of_a_relay() {
    let welcome = RelayMessage::Welcome(Welcome {
        link: 0x0102_0304,
        observed: "203.0.113.7:4660".parse().unwrap(),
        limits: Limits {
            max_packet: 1472,
            idle_timeout: Duration::from_secs(30),
        },
        observe_port: None,
        revocations: None,
    });
    assert_eq!(
        welcome.encode(),
        [
            0, 0, 0, 23, 0x0a, 21, 0x0d, 4, 3, 2, 1, 0x12, 4, 203, 0, 113, 7, 0x18, 0xb4, 0x24,
            0x20, 0xc0, 0x0b, 0x28, 0xb0, 0xea, 0x01
        ]
    );
    assert_eq!(
        RelayMessage::Gone { peer: 5 }.encode(),
        [0, 0, 0, 7, 0x1a, 5, 0x0d, 5, 0, 0, 0]
    );
    assert_eq!(
        observed("203.0.113.7:4660").encode(),
        [
            0, 0, 0, 14, 0x32, 12, 0x0a, 4, 203, 0, 113, 7, 0x10, 0xb4, 0x24, 0x18, 0x8b, 0x50
        ]
    );
    assert_eq!(RelayMessage::Superseded.encode(), [0, 0, 0, 2, 0x22, 0]);
}

#[test]
fn every_message_of_a_relay_round_trips() {
    let opened = |result| RelayMessage::Opened(Opened { request: 3, result });
    let refused = |reason| {
        RelayMessage::Refused(Refused {
            reason,
            text: "no".to_owned(),
        })
    };
    let welcome = RelayMessage::Welcome(Welcome {
        link: u32::MAX,
        observed: "[2001:db8::1]:443".parse().unwrap(),
        limits: Limits {
            max_packet: 1,
            idle_timeout: Duration::from_millis(1),
        },
        observe_port: Some(10_251),
        revocations: Some(0),
    });
    for message in [
        welcome,
        opened(Ok(1)),
        opened(Err(OpenRefusal::UnknownNode)),
        opened(Err(OpenRefusal::TooManyPeers)),
        RelayMessage::Gone { peer: 9 },
        observed("203.0.113.7:4660"),
        observed("[2001:db8::1]:443"),
        RelayMessage::Superseded,
        refused(HelloRefusal::Version),
        refused(HelloRefusal::Token),
        refused(HelloRefusal::Full),
        refused(HelloRefusal::Protocol),
        refused(HelloRefusal::Revoked),
        RelayMessage::Revocations(list()),
    ] {
        assert_eq!(RelayMessage::decode(body(&message.encode())), Ok(message));
    }
}

#[test]
fn every_message_of_a_node_round_trips() {
    let hello = |revocations| {
        NodeMessage::Hello(Hello {
            version: 1,
            token: vec![1],
            revocations,
        })
    };
    let open = NodeMessage::Open(Open {
        request: 7,
        node: "c/n".parse().unwrap(),
    });
    let longest = Signed {
        statement: vec![0; MAX_REVOCATIONS_LEN],
        ..list()
    };
    for message in [
        hello(None),
        hello(Some(0)),
        hello(Some(u64::MAX)),
        open,
        NodeMessage::Revocations(list()),
        NodeMessage::Revocations(longest),
    ] {
        let encoded = message.encode();
        assert!(encoded.len() <= LENGTH_LEN + MAX_LONG_MESSAGE_LEN);
        assert_eq!(NodeMessage::decode(body(&encoded)), Ok(message));
    }
}

#[test]
fn only_lists_may_be_long_and_not_beyond_their_limit() {
    let long = [
        &[0x2a, 0x84, 0x20, 0x08, 2, 0x12, 0xff, 0x1f][..],
        &[b'x'; 4095],
    ]
    .concat();
    let fault = RelayMessage::decode(&long).unwrap_err();
    let (len, max) = (4103, MAX_MESSAGE_LEN);
    assert_eq!(fault, MessageError::TooLong(TooLong { len, max }));
    let changed = |statement, signature| {
        NodeMessage::Revocations(Signed {
            statement: vec![0; statement],
            signature: vec![0; signature],
            cluster: None,
        })
    };
    for (message, field) in [
        (changed(MAX_REVOCATIONS_LEN + 1, SIGNATURE_LEN), "statement"),
        (changed(2, SIGNATURE_LEN - 1), "signature"),
        (changed(2, SIGNATURE_LEN + 1), "signature"),
    ] {
        let decoded = NodeMessage::decode(body(&message.encode()));
        assert_eq!(decoded, Err(MessageError::Field(field)));
    }
}

#[test]
fn long_texts_are_cut_at_a_character() {
    let text = "ä".repeat(MAX_TEXT_LEN);
    let message = RelayMessage::Refused(Refused {
        reason: HelloRefusal::Token,
        text,
    });
    let Ok(RelayMessage::Refused(refused)) = RelayMessage::decode(body(&message.encode())) else {
        panic!("no refusal");
    };
    assert_eq!(refused.text, "ä".repeat(MAX_TEXT_LEN / 2));
}

#[test]
fn faults_are_named() {
    assert_eq!(NodeMessage::decode(&[]), Err(MessageError::Kind));
    assert_eq!(NodeMessage::decode(&[0xff]), Err(MessageError::Encoding));
    // A kind of a later version.
    assert_eq!(
        NodeMessage::decode(&[0x7a, 0]).unwrap_err(),
        MessageError::Kind
    );
    let node = NodeMessage::decode(&[0x12, 3, 0x12, 1, b'n']);
    assert_eq!(node, Err(MessageError::Node(IdError::Form("n".into()))));
    let long = NodeMessage::Hello(Hello {
        version: 1,
        token: vec![0; MAX_TOKEN_LEN + 1],
        revocations: None,
    });
    assert_eq!(
        NodeMessage::decode(body(&long.encode())),
        Err(MessageError::Field("token"))
    );
    assert_eq!(
        RelayMessage::decode(&[0x1a, 0]),
        Err(MessageError::Field("peer"))
    );
    assert_eq!(
        RelayMessage::decode(&[0x12, 2, 0x18, 9]),
        Err(MessageError::Field("refusal"))
    );
    assert_eq!(
        RelayMessage::decode(&[0x12, 0]),
        Err(MessageError::Field("result"))
    );
    assert_eq!(
        RelayMessage::decode(&[0x0a, 5, 0x0d, 1, 0, 0, 0]),
        Err(MessageError::Field("observed_ip"))
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = NodeMessage::decode(&bytes);
        let _ = RelayMessage::decode(&bytes);
    }
}
