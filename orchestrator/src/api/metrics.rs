//! What is counted, and how it is written for Prometheus.
//!
//! Routes are counted by their pattern and not by what was asked for, so that nobody can make the
//! table grow.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use orchestrator_core::root::Command;

/// A group of figures: what is counted, the label, and the number for each of its values.
type Group<'a> = (&'a str, &'a str, &'a BTreeMap<&'static str, usize>);

/// Counters since the start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    counters: Mutex<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    /// By method, route and status: how many, and how long they took together.
    requests: BTreeMap<(&'static str, String, u16), (u64, Duration)>,
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
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text, sums, groups);
        text
    }

    fn write(
        &self,
        text: &mut String,
        sums: &[(&str, usize)],
        groups: &[Group<'_>],
    ) -> std::fmt::Result {
        for (what, count) in sums {
            head(
                text,
                &format!("weald_{what}"),
                "gauge",
                &format!("Known {what}."),
            )?;
            writeln!(text, "weald_{what} {count}")?;
        }
        for (what, label, counts) in groups {
            let help = format!("Known {what} by {label}.");
            head(text, &format!("weald_{what}"), "gauge", &help)?;
            for (value, count) in *counts {
                writeln!(text, "weald_{what}{{{label}=\"{value}\"}} {count}")?;
            }
        }
        let counters = self.lock();
        head(text, "weald_commands_total", "counter", "Commands to root.")?;
        for ((name, done), count) in &counters.commands {
            let outcome = if *done { "done" } else { "refused" };
            writeln!(
                text,
                "weald_commands_total{{command=\"{name}\",outcome=\"{outcome}\"}} {count}"
            )?;
        }
        let (name, help) = ("weald_api_requests", "Requests by route and status.");
        head(text, &format!("{name}_total"), "counter", help)?;
        for ((method, route, status), (count, _)) in &counters.requests {
            writeln!(
                text,
                "{name}_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} {count}"
            )?;
        }
        let help = "How long the answers took together.";
        head(text, &format!("{name}_seconds_total"), "counter", help)?;
        for ((method, route, status), (_, sum)) in &counters.requests {
            let sum = sum.as_secs_f64();
            writeln!(
                text,
                "{name}_seconds_total{{method=\"{method}\",route=\"{route}\",status=\"{status}\"}} {sum}"
            )?;
        }
        Ok(())
    }

    /// A counter is never half changed; a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
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
