//! The lower side's voice: what is, repeated until the upper side has persisted it.

use std::collections::BTreeMap;
use std::time::Duration;

use weald_proto::control::{Generation, InstanceReport, Phase};
use weald_proto::name::InstanceId;

use super::REPEAT;
use crate::words::{MAX_DETAIL, cut, detail_in};

/// A report that is to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// Repeated in the acknowledgement.
    pub sequence: u64,
    /// Whether these are all instances.
    pub complete: bool,
    /// The instances.
    pub instances: Vec<InstanceReport>,
}

#[derive(Debug, Clone)]
struct Item {
    report: InstanceReport,
    /// Counts all changes of the reporter; that of this item's last one.
    version: u64,
    acknowledged: bool,
}

/// What one upper side is to know.
#[derive(Debug, Clone, Default)]
pub struct Reporter {
    items: BTreeMap<InstanceId, Item>,
    version: u64,
    connected: bool,
    /// Whether the upper side has acknowledged a complete report on this connection.
    complete: bool,
    sequence: u64,
    /// What was sent and is not acknowledged: sequence to version and whether it was complete.
    sent: BTreeMap<u64, (u64, bool)>,
    last: Option<Duration>,
    /// Whether something has changed since the last report.
    changed: bool,
}

impl Reporter {
    /// Says from now on that an instance is so; of a long detail only what a report has room for.
    pub fn set(&mut self, mut report: InstanceReport) {
        report.detail = cut(report.detail, MAX_DETAIL);
        self.version += 1;
        self.changed = true;
        let item = Item {
            version: self.version,
            acknowledged: false,
            report,
        };
        self.items.insert(item.report.instance.clone(), item);
    }

    /// Says what it says of an instance once more, because the upper side seems not to know.
    pub fn repeat(&mut self, instance: &InstanceId) {
        if let Some(item) = self.items.get(instance) {
            let report = item.report.clone();
            self.set(report);
        }
    }

    /// What is said of an instance.
    #[must_use]
    pub fn get(&self, instance: &InstanceId) -> Option<&InstanceReport> {
        self.items.get(instance).map(|item| &item.report)
    }

    /// A new connection: the first report is complete. Said once more of the same connection it
    /// changes nothing: its numbers would be given twice, and what acknowledges a report of the first
    /// time would be taken for another of the second.
    pub fn connected(&mut self) {
        if self.connected {
            return;
        }
        self.connected = true;
        self.complete = false;
        self.sequence = 0;
        self.sent.clear();
        self.last = None;
    }

    /// The connection is gone.
    pub fn disconnected(&mut self) {
        self.connected = false;
    }

    /// The report that is to be sent now: what is not acknowledged, at once when something has
    /// changed, else after [`REPEAT`].
    pub fn poll(&mut self, now: Duration) -> Option<Sent> {
        if self.next_due().is_none_or(|due| due > now) {
            return None;
        }
        let complete = !self.complete;
        let said = self
            .items
            .values()
            .filter(|item| complete || !item.acknowledged);
        let said: Vec<_> = said.map(|item| &item.report).collect();
        let most = detail_in(said.len());
        let instances = said.into_iter().map(|report| InstanceReport {
            detail: cut(report.detail.clone(), most),
            ..report.clone()
        });
        let instances = instances.collect();
        self.sequence += 1;
        self.last = Some(now);
        self.changed = false;
        self.sent.insert(self.sequence, (self.version, complete));
        Some(Sent {
            sequence: self.sequence,
            complete,
            instances,
        })
    }

    /// When [`Reporter::poll`] has something to say next; none if all is said.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let open = !self.complete || self.items.values().any(|item| !item.acknowledged);
        if !self.connected || !open {
            return None;
        }
        match self.last {
            Some(last) if !self.changed => Some(last + REPEAT),
            Some(_) | None => Some(Duration::ZERO),
        }
    }

    /// The upper side has persisted a report. Returns the instances whose end it knows now, each
    /// with the last life that has ended: they are forgotten here.
    pub fn handle_acknowledged(&mut self, sequence: u64) -> Vec<(InstanceId, Generation)> {
        let Some((version, complete)) = self.sent.remove(&sequence) else {
            return Vec::new();
        };
        self.sent.retain(|earlier, _| *earlier > sequence);
        self.complete |= complete;
        let mut ended = Vec::new();
        for (instance, item) in &mut self.items {
            if item.version <= version {
                item.acknowledged = true;
                if item.report.phase == Phase::Terminated {
                    ended.push((instance.clone(), item.report.generation));
                }
            }
        }
        for (instance, _) in &ended {
            self.items.remove(instance);
        }
        ended
    }
}
