//! Tests of the query view.

use proptest::prelude::*;

use super::*;

fn header(counts: [u8; 4]) -> Vec<u8> {
    let [questions, answers, authorities, additionals] = counts;
    vec![
        0x12,
        0x34,
        0x01,
        0x10,
        0,
        questions,
        0,
        answers,
        0,
        authorities,
        0,
        additionals,
    ]
}

fn with_question(counts: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let mut query = header(counts);
    query.extend_from_slice(b"\x03Web\x02rr\x00\x00\x1c\x00\x01");
    query.extend_from_slice(rest);
    query
}

fn malformed(query: &[u8]) -> Malformation {
    match Query::parse(query) {
        Err(QueryError::Malformed(_, why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_question_is_read() {
    let bytes = with_question(
        [1, 0, 0, 1],
        b"\x00\x00\x29\x00\x10\x00\x00\x80\x00\x00\x02ab",
    );
    let query = Query::parse(&bytes).unwrap();
    assert_eq!(
        query.header,
        QueryHeader {
            id: 0x1234,
            opcode: 0,
            recursion_desired: true,
            checking_disabled: true,
        }
    );
    assert_eq!(query.labels, [b"Web".as_slice(), b"rr"]);
    assert_eq!((query.record_type, query.class), (28, 1));
    let edns = QueryEdns {
        udp_payload: 512,
        version: 0,
        dnssec_ok: true,
    };
    assert_eq!(query.edns, Some(edns));
}

#[test]
fn names_end_in_time() {
    let long = |labels: usize, last: usize| {
        let mut query = header([1, 0, 0, 0]);
        for _ in 0..labels {
            query.push(63);
            query.extend_from_slice(&[b'a'; 63]);
        }
        query.push(u8::try_from(last).unwrap());
        query.extend(std::iter::repeat_n(b'b', last));
        query.extend_from_slice(b"\x00\x00\x01\x00\x01");
        query
    };
    // Three labels of 64 bytes, one of 62, and the root: 255.
    assert!(Query::parse(&long(3, 61)).is_ok());
    assert_eq!(malformed(&long(3, 62)), Malformation::Name);
    assert_eq!(malformed(&long(5, 1)), Malformation::Name);
}

#[test]
fn record_names_are_skipped_without_being_followed() {
    // A pointer to itself, as the name of a record that nobody reads.
    let looping = b"\xc0\x18\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00";
    assert!(Query::parse(&with_question([1, 0, 0, 1], looping)).is_ok());
    assert!(Query::parse(&with_question([1, 0, 1, 0], looping)).is_ok());
    let mut long = Vec::new();
    for _ in 0..5 {
        long.push(63);
        long.extend_from_slice(&[b'a'; 63]);
    }
    assert_eq!(
        malformed(&with_question([1, 0, 0, 1], &long)),
        Malformation::Name
    );
    assert_eq!(
        malformed(&with_question([1, 0, 0, 1], b"\x80\x00")),
        Malformation::Name
    );
}

#[test]
fn what_is_malformed_says_how() {
    let opt_at_a_name = b"\x01a\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
    let opt = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
    let cases = [
        (header([1, 0, 0, 0]), Malformation::Truncated),
        (
            with_question([0, 0, 0, 0], b""),
            Malformation::QuestionCount,
        ),
        (
            with_question([2, 0, 0, 0], b""),
            Malformation::QuestionCount,
        ),
        (with_question([1, 1, 0, 0], b""), Malformation::AnswerCount),
        (with_question([1, 0, 0, 255], b""), Malformation::Truncated),
        (
            with_question([1, 0, 0, 1], &opt[..10]),
            Malformation::Truncated,
        ),
        (
            with_question([1, 0, 0, 1], opt_at_a_name),
            Malformation::Edns,
        ),
        (with_question([1, 0, 1, 0], opt), Malformation::Edns),
        (
            with_question([1, 0, 0, 2], &opt.repeat(2)),
            Malformation::Edns,
        ),
        (
            with_question([1, 0, 0, 0], b"x"),
            Malformation::TrailingBytes,
        ),
        (
            with_question([1, 0, 0, 0], &[0; MAX_QUERY_LEN]),
            Malformation::TooLong,
        ),
    ];
    for (query, expected) in cases {
        assert_eq!(malformed(&query), expected, "{query:x?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Query::parse(&bytes);
    }

    #[test]
    fn no_records_panic(
        counts in any::<[u8; 4]>(),
        rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = Query::parse(&with_question(counts, &rest));
    }
}
