//! The book against a model: whoever applies every update has exactly what it asked for.

use proptest::prelude::*;

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
