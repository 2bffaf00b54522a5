//! What is counted, and how it is written for Prometheus.
//!
//! Routes are counted by their pattern and not by what was asked for, so that nobody can make the
//! table grow.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use orchestrator_core::root::Command;
use weald_metrics::Text;

/// A group of figures: what is counted, the label, and the number for each of its values.
type Group<'a> = (&'a str, &'a str, &'a BTreeMap<&'static str, usize>);

/// Method, route and status of an answered request.
type RequestKey = (&'static str, String, u16);

/// Counters since the start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    counters: Mutex<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    /// By method, route and status: how many, and how long they took together.
    requests: BTreeMap<RequestKey, (u64, Duration)>,
    /// By name and whether it was done.
    commands: BTreeMap<(&'static str, bool), u64>,
}

impl Metrics {
    /// Counts a request that was answered.
    pub(super) fn count_request(
        &self,
        method: &Method,
        route: &str,
        status: StatusCode,
        took: Duration,
    ) {
        let key = (method_name(method), route.to_owned(), status.as_u16());
        let mut counters = self.lock();
        let (count, sum) = counters.requests.entry(key).or_default();
        *count += 1;
        *sum += took;
    }

    /// Counts a command to root.
    pub(super) fn count_command(&self, name: &'static str, done: bool) {
        *self.lock().commands.entry((name, done)).or_default() += 1;
    }

    /// Everything as text, with these sums and groups of what there is now.
    pub(super) fn text(&self, sums: &[(&str, usize)], groups: &[Group<'_>]) -> String {
        let mut text = Text::of("root");
        for (what, count) in sums {
            let name = format!("weald_{what}");
            text.single(&name, "gauge", &format!("Known {what}."), count);
        }
        for (what, label, counts) in groups {
            let name = format!("weald_{what}");
            text.head(&name, "gauge", &format!("Known {what} by {label}."));
            for (value, count) in *counts {
                text.sample(&name, &[(label, value)], count);
            }
        }
        let counters = self.lock();
        let name = "weald_commands_total";
        text.head(name, "counter", "Commands to root.");
        for ((command, done), count) in &counters.commands {
            let outcome = if *done { "done" } else { "refused" };
            let labels = [("command", *command), ("outcome", outcome)];
            text.sample(name, &labels, count);
        }
        let name = "weald_api_requests_total";
        text.head(name, "counter", "Requests by route and status.");
        for (request, (count, _)) in &counters.requests {
            sample_request(&mut text, name, request, count);
        }
        let name = "weald_api_requests_seconds_total";
        text.head(name, "counter", "How long the answers took together.");
        for (request, (_, sum)) in &counters.requests {
            sample_request(&mut text, name, request, sum.as_secs_f64());
        }
        text.finish()
    }

    /// A counter is never half changed; a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sample_request(
    text: &mut Text,
    name: &str,
    (method, route, status): &RequestKey,
    value: impl Display,
) {
    let status = status.to_string();
    let labels = [("method", *method), ("route", route), ("status", &status)];
    text.sample(name, &labels, value);
}

/// A method's name; those that nobody has heard of count together.
fn method_name(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];
    let known = KNOWN.iter().find(|it| **it == method.as_str());
    known.copied().unwrap_or("other")
}

/// What a command is called in figures.
pub(super) const fn command_name(command: &Command) -> &'static str {
    match command {
        Command::Apply(..) | Command::ApplyAll { .. } => "apply",
        Command::Describe(..) => "describe",
        Command::DeleteApplication(_) => "delete_application",
        Command::DeleteService(_) => "delete_service",
        Command::Deploy(_) => "deploy",
        Command::Scale(..) => "scale",
        Command::Undeploy(..) => "undeploy",
        Command::AddCluster { .. } => "add_cluster",
        Command::RemoveCluster(_) => "remove_cluster",
        Command::Revoke(..) => "revoke",
    }
}
