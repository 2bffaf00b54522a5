//! Waiting until what was deployed runs.
//!
//! Root is asked again and again, for it pushes nothing to clients. What is to be said of the
//! answers is decided by [`Wanted::look`] alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;

use super::answers::Instance;
use super::failure::Failure;
use super::http::segment;
use super::session::Client;

/// How often root is asked: an instance starts within some tenths of a second.
const INTERVAL: Duration = Duration::from_millis(100);
/// After how long progress is shown.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct WaitArguments {
    /// Do not wait until the instances run.
    #[arg(long)]
    no_wait: bool,
    /// Wait also for instances that fit nowhere now: something may end, or a node come.
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// For how many seconds to wait until the instances run.
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

/// How many instances of which services are to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted(pub(super) BTreeMap<String, usize>);

/// How far they are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    Done,
    /// In words.
    Waiting(String),
    /// These have failed.
    Failed(Vec<String>),
    /// These fit nowhere, and the others may well run; in words as well.
    Unplaced(Vec<String>, String),
}

impl Wanted {
    /// The instances of these services, without those that are being removed.
    pub(super) fn of(&self, mut all: Vec<Instance>) -> Vec<Instance> {
        all.retain(|it| !it.withdrawn && self.0.contains_key(it.service()));
        all
    }

    fn look(&self, instances: &[Instance]) -> Progress {
        let failed = instances.iter().filter(|it| it.has_failed());
        let failed: Vec<_> = failed.map(|it| it.name.clone()).collect();
        if !failed.is_empty() {
            return Progress::Failed(failed);
        }
        let serving = |name: &str| {
            let own = instances.iter().filter(|it| it.service() == name);
            own.filter(|it| it.serves()).count()
        };
        let counts = self.0.iter().map(|(name, wanted)| (serving(name), *wanted));
        let (mut serve, mut all) = (0, 0);
        for (count, wanted) in counts {
            serve += count.min(wanted);
            all += wanted;
        }
        if serve == all {
            return Progress::Done;
        }
        let behind = instances.iter().find(|it| !it.serves());
        let behind = behind.map(|it| format!("; {} is {}: {}", it.name, it.status, it.detail));
        let behind = behind.unwrap_or_default();
        let text = format!("{serve} of {all} instances run{behind}");
        let unplaced = instances.iter().filter(|it| it.fits_nowhere);
        let unplaced: Vec<_> = unplaced.map(|it| it.name.clone()).collect();
        if unplaced.is_empty() {
            Progress::Waiting(text)
        } else {
            Progress::Unplaced(unplaced, text)
        }
    }
}

/// Waits, if that is wanted, and returns the instances.
///
/// # Errors
/// One has failed or fits nowhere, or the time is over; the reasons are in the text.
pub(super) async fn until_running(
    client: &mut Client,
    wanted: &Wanted,
    arguments: &WaitArguments,
) -> anyhow::Result<Vec<Instance>> {
    let (since, patience) = (Instant::now(), Duration::from_secs(arguments.timeout));
    let mut shown = String::new();
    loop {
        let instances = wanted.of(client.get("/api/v1/instances").await?);
        if arguments.no_wait {
            return Ok(instances);
        }
        let progress = wanted.look(&instances);
        let progress = match progress {
            Progress::Unplaced(_, text) if arguments.wait => Progress::Waiting(text),
            Progress::Done
            | Progress::Waiting(_)
            | Progress::Failed(_)
            | Progress::Unplaced(..) => progress,
        };
        match progress {
            Progress::Done => return Ok(instances),
            Progress::Failed(names) => {
                let why = explain(client, &names).await;
                bail!(
                    "{} of {} instances failed\n{why}",
                    names.len(),
                    instances.len()
                );
            }
            Progress::Unplaced(names, _) => {
                let why = explain(client, &names).await;
                let (fewer, all) = (names.len(), instances.len());
                return Err(Failure::Unplaced { fewer, all, why }.into());
            }
            Progress::Waiting(text) if since.elapsed() >= patience => {
                let late = instances.iter().filter(|it| !it.serves());
                let late: Vec<_> = late.map(|it| it.name.clone()).collect();
                let why = explain(client, &late).await;
                bail!("after {} s, {text}\n{why}", arguments.timeout);
            }
            Progress::Waiting(text) => {
                if since.elapsed() >= PATIENCE && text != shown {
                    eprintln!("{text}");
                    shown = text;
                }
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Why instances are as they are; a few stand for many.
async fn explain(client: &mut Client, names: &[String]) -> String {
    const FEW: usize = 5;
    let mut text = String::new();
    for name in names.iter().take(FEW) {
        let path = format!("/api/v1/instances/{}/explain", segment(name));
        match client.text(&path).await {
            Ok(why) => text.push_str(&why),
            Err(error) => text.push_str(&format!("{name}: {error:#}\n")),
        }
    }
    if names.len() > FEW {
        text.push_str(&format!("and {} more\n", names.len() - FEW));
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(name: &str, status: &str) -> Instance {
        let value = serde_json::json!({
            "name": name, "status": status, "detail": "why", "withdrawn": false,
            "fits_nowhere": status == "REQUESTED",
            "generation": 1, "cluster": null, "node": null, "ipv4": null, "ipv6": null,
            "exit_status": null, "cpu_percent": 0.0, "memory_mib": 0,
        });
        serde_json::from_value(value).unwrap()
    }

    fn wanted(all: &[(&str, usize)]) -> Wanted {
        Wanted(
            all.iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
        )
    }

    #[test]
    fn it_is_done_when_each_service_has_its_instances() {
        let wanted = wanted(&[("a.b.c.d", 1), ("a.b.e.f", 1)]);
        let mut instances = vec![
            instance("a.b.c.d.0", "RUNNING"),
            instance("a.b.c.d.1", "RUNNING"),
        ];
        // Two of one service are not one of each.
        let text = "1 of 2 instances run".to_owned();
        assert_eq!(wanted.look(&instances), Progress::Waiting(text));
        instances.push(instance("a.b.e.f.0", "CREATING"));
        let text = "1 of 2 instances run; a.b.e.f.0 is CREATING: why".to_owned();
        assert_eq!(wanted.look(&instances), Progress::Waiting(text));
        instances[2] = instance("a.b.e.f.0", "COMPLETED");
        assert_eq!(wanted.look(&instances), Progress::Done);
        instances[2] = instance("a.b.e.f.0", "REQUESTED");
        let text = "1 of 2 instances run; a.b.e.f.0 is REQUESTED: why".to_owned();
        let unplaced = Progress::Unplaced(vec!["a.b.e.f.0".to_owned()], text);
        assert_eq!(wanted.look(&instances), unplaced);
        instances[2] = instance("a.b.e.f.0", "FAILED");
        let failed = Progress::Failed(vec!["a.b.e.f.0".to_owned()]);
        assert_eq!(wanted.look(&instances), failed);
    }

    #[test]
    fn what_goes_and_what_is_others_does_not_count() {
        let wanted = wanted(&[("a.b.c.d", 0)]);
        let mut going = instance("a.b.c.d.0", "FAILED");
        going.withdrawn = true;
        let instances = wanted.of(vec![going, instance("a.b.c.dd.0", "FAILED")]);
        assert!(instances.is_empty(), "{instances:?}");
        assert_eq!(wanted.look(&instances), Progress::Done);
    }
}
