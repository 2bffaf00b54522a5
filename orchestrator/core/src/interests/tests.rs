//! The book against a model: whoever applies every update has exactly what it asked for.

use proptest::prelude::*;
use weald_proto::codec::{MAX_TEXT_LEN, Message as _};
use weald_proto::control::RootToCluster;

use super::*;
use crate::samples::label;

fn application(number: u8) -> ApplicationName {
    ApplicationName {
        name: label(&format!("app{number}")),
        namespace: label("prod"),
    }
}

fn service(number: u8) -> ServiceName {
    ServiceName {
        application: application(number),
        name: label("web"),
        namespace: label("prod"),
    }
}

fn instance(of: u8, number: u32) -> Subject {
    let service = service(of);
    Subject::Instance(InstanceId { service, number })
}

fn node(number: u8) -> NodeId {
    NodeId::new(label("munich"), label(&format!("n{number}")))
}

fn relay(number: u8) -> Subject {
    Subject::Relay(RelayId::new(label("munich"), label(&format!("r{number}"))))
}

/// A row whose signed bytes say what it is, so that a listener's view can be compared.
fn row(subject: Subject, generation: Generation, host: Option<u8>, removed: bool) -> Row {
    let text = format!("{subject:?} {generation} {host:?} {removed}");
    Row {
        subject,
        generation,
        removed,
        host: host.filter(|_| !removed).map(node),
        signed: Signed {
            statement: text.into_bytes(),
            signature: Vec::new(),
            cluster: None,
        },
    }
}

fn told(update: &Update) -> Vec<String> {
    let text = |signed: &Signed| String::from_utf8(signed.statement.clone()).unwrap();
    update.rows.iter().map(text).collect()
}

#[test]
fn an_application_comes_whole_with_its_nodes_then_as_it_changes() {
    let mut book = RowBook::default();
    assert!(book.put(row(Subject::Service(service(1)), 1, None, false)));
    book.put(row(instance(1, 0), 1, Some(1), false));
    book.put(row(Subject::Node(node(1)), 1, None, false));
    book.put(row(Subject::Node(node(2)), 1, None, false));
    book.put(row(relay(1), 1, None, false));
    book.listen("a", [application(1), application(2)]);
    assert!(book.is_due(&"a"));
    let update = book.poll(&"a");
    assert_eq!(update.complete, [application(1)]);
    assert_eq!(update.unknown, [application(2)]);
    let rows = told(&update);
    assert_eq!(rows.len(), 4, "{rows:?}");
    for (row, start) in rows.iter().zip(["Relay", "Node", "Service", "Instance"]) {
        assert!(row.starts_with(start), "{rows:?}");
    }
    assert!(!book.is_due(&"a"));
    assert!(book.poll(&"a").is_empty());

    book.put(row(instance(1, 1), 1, Some(2), false));
    let update = book.poll(&"a");
    assert_eq!(update.complete, []);
    assert_eq!(
        told(&update).len(),
        2,
        "the new instance and its node: {update:?}"
    );
    book.put(row(Subject::Service(service(2)), 1, None, false));
    assert_eq!(book.poll(&"a").complete, [application(2)], "it exists now");
}

#[test]
fn an_older_row_never_comes_back() {
    let mut book: RowBook<u8> = RowBook::default();
    assert!(book.put(row(instance(1, 0), 5, None, true)));
    assert!(!book.put(row(instance(1, 0), 4, Some(1), false)));
    assert!(!book.put(row(instance(1, 0), 5, Some(1), false)));
    assert!(book.put(row(instance(1, 0), 6, Some(1), false)));
    assert!(!book.forget(&instance(1, 0)), "it is not gone");
    assert!(book.put(row(instance(1, 0), 7, None, true)));
    assert!(book.forget(&instance(1, 0)));
    book.listen(1, [application(1)]);
    assert_eq!(book.poll(&1).unknown, [application(1)]);
}

#[derive(Debug, Clone)]
enum Step {
    Instance {
        of: u8,
        number: u32,
        host: u8,
        removed: bool,
    },
    Node(u8),
    Relay(u8),
    Interests(BTreeSet<u8>),
    Reconnect,
    Poll,
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8, 0..3_u32, 0..3_u8, any::<bool>())
            .prop_map(|(of, number, host, removed)| Step::Instance { of, number, host, removed }),
        2 => (0..3_u8).prop_map(Step::Node),
        1 => (0..2_u8).prop_map(Step::Relay),
        2 => proptest::collection::btree_set(0..3_u8, 0..3).prop_map(Step::Interests),
        1 => Just(Step::Reconnect),
        3 => Just(Step::Poll),
    ]
}

proptest! {
    #[test]
    fn a_listener_knows_exactly_what_it_asked_for(
        steps in proptest::collection::vec(a_step(), 0..60)
    ) {
        let mut book = RowBook::default();
        let mut all: BTreeMap<String, (Row, String)> = BTreeMap::new();
        let mut view: BTreeSet<String> = BTreeSet::new();
        let mut interests = BTreeSet::new();
        let mut generation = 0;
        book.listen(0, []);
        for step in steps.into_iter().chain([Step::Poll]) {
            generation += 1;
            let new = match step {
                Step::Instance { of, number, host, removed } => {
                    Some(row(instance(of, number), generation, Some(host), removed))
                }
                Step::Node(number) => Some(row(Subject::Node(node(number)), generation, None, false)),
                Step::Relay(number) => Some(row(relay(number), generation, None, false)),
                Step::Interests(wanted) => {
                    interests = wanted;
                    book.set_interests(&0, interests.iter().map(|it| application(*it)));
                    None
                }
                Step::Reconnect => {
                    view.clear();
                    book.listen(0, interests.iter().map(|it| application(*it)));
                    None
                }
                Step::Poll => {
                    view.extend(told(&book.poll(&0)));
                    None
                }
            };
            if let Some(new) = new {
                let text = String::from_utf8(new.signed.statement.clone()).unwrap();
                all.insert(format!("{:?}", new.subject), (new.clone(), text));
                prop_assert!(book.put(new));
            }
        }
        let wanted = |row: &Row| row.subject.application()
            .is_some_and(|it| interests.iter().any(|of| application(*of) == *it));
        let hosts: BTreeSet<_> = all.values().filter(|(row, _)| wanted(row))
            .filter_map(|(row, _)| row.host.clone()).collect();
        for (row, text) in all.values() {
            let due = match &row.subject {
                Subject::Relay(_) => true,
                Subject::Node(node) => hosts.contains(node),
                Subject::Service(_) | Subject::Instance(_) => wanted(row),
            };
            prop_assert!(!due || view.contains(text), "{} is not told", text);
        }
        prop_assert!(book.poll(&0).is_empty());
    }
}

#[test]
fn rows_are_said_in_as_many_messages_as_it_takes() {
    let update = |count: u32, bytes: usize| Update {
        complete: vec![application(1), application(2)],
        rows: (0..count)
            .map(|number| Signed {
                statement: [&number.to_be_bytes()[..], &vec![7; bytes]].concat(),
                signature: vec![0; 64],
                cluster: Some(label("munich")),
            })
            .collect(),
        unknown: Vec::new(),
    };
    for (count, bytes, parts) in [
        (0, 0, 1),
        (1, MAX_TEXT_LEN - 8, 1),
        (PART_ROWS as u32, 1, 2),
        (2 * MAX_LIST_LEN as u32, 0, 5),
        // 31 of those are a quarter of the longest message.
        (200, 32 << 10, 7),
    ] {
        let all = update(count, bytes);
        let said = all.clone().into_parts();
        assert_eq!(said.len(), parts, "{count} rows of {bytes} bytes");
        let rows: Vec<_> = said.iter().flat_map(|part| part.rows.clone()).collect();
        assert_eq!(rows, all.rows);
        let (last, others) = said.split_last().unwrap();
        assert!(!last.more && last.complete == all.complete);
        let goes_on = |part: &Part| part.more && part.complete.is_empty();
        assert!(others.iter().all(goes_on));
        for Part {
            complete,
            rows,
            more,
        } in said
        {
            let message = RootToCluster::Rows {
                complete,
                rows,
                more,
            };
            assert!(message.encode().is_ok());
        }
    }
    assert_eq!(Update::default().into_parts(), []);
}

#[test]
fn what_is_gone_is_forgotten_after_a_life_and_before_two() {
    const LIFE: Duration = Duration::from_secs(100);
    let at = Duration::from_secs;
    let mut book = RowBook::default();
    book.forget_old(at(5), LIFE);
    book.put(row(instance(1, 0), 1, Some(1), false));
    book.put(row(instance(1, 0), 2, None, true));
    book.put(row(instance(1, 1), 1, Some(1), false));
    book.put(row(instance(1, 2), 2, None, true));
    for seconds in [6, 104, 105, 204] {
        book.forget_old(at(seconds), LIFE);
        assert_eq!(book.rows().count(), 3, "{seconds}");
    }
    // One that has come back meanwhile is there.
    book.put(row(instance(1, 2), 3, Some(1), false));
    book.listen("a", [application(1)]);
    assert_eq!(told(&book.poll(&"a")).len(), 3);
    book.forget_old(at(205), LIFE);
    let left: Vec<_> = book.rows().map(|row| row.subject.clone()).collect();
    assert_eq!(left, [instance(1, 1), instance(1, 2)]);
    assert!(book.poll(&"a").is_empty());
    assert!(book.put(row(instance(1, 0), 1, Some(1), false)));
}

#[test]
fn what_a_cluster_has_signed_is_forgotten_and_its_application_told_whole() {
    let mut book = RowBook::default();
    let by = |mut row: Row, cluster: &str| {
        row.signed.cluster = Some(label(cluster));
        row
    };
    let of_root = row(Subject::Service(service(1)), 1, None, false);
    book.put(of_root.clone());
    book.put(by(row(instance(1, 0), 1, Some(1), false), "munich"));
    book.put(by(row(Subject::Node(node(1)), 1, None, false), "munich"));
    book.put(by(row(instance(2, 0), 1, Some(1), false), "munich"));
    let of_paris = by(row(instance(1, 1), 1, None, false), "paris");
    book.put(of_paris.clone());
    for (listener, number) in [("one", 1), ("two", 2)] {
        book.listen(listener, [application(number)]);
        assert_eq!(book.poll(&listener).complete, [application(number)]);
    }
    book.forget_signed_by(&label("munich"));
    assert_eq!(book.rows().collect::<Vec<_>>(), [&of_root, &of_paris]);
    let first = book.poll(&"one");
    assert_eq!(first.complete, [application(1)]);
    assert_eq!(first.rows, [of_root.signed, of_paris.signed]);
    // Nothing else was known of it.
    assert_eq!(book.poll(&"two").unknown, [application(2)]);
}
