//! What `weald dev` shows of what runs.

use serde::Serialize;
use serde_json::json;

use super::folder::{Book, Folder};
use super::part::Part;
use crate::cli::answers::{Instance, Node, Service};
use crate::cli::output::{self, Table};
use crate::cli::session::Client;

/// One process.
#[derive(Debug, Serialize)]
pub(super) struct PartStatus {
    name: &'static str,
    /// None if it was never started.
    pid: Option<i32>,
    alive: bool,
    address: Option<String>,
    log: std::path::PathBuf,
}

/// One service.
#[derive(Debug, Serialize)]
struct ServiceStatus {
    name: String,
    ipv4: Option<String>,
    ipv6: Option<String>,
    running: usize,
    instances: usize,
}

/// The processes as they are.
pub(super) fn parts(folder: &Folder, book: &Book) -> Vec<PartStatus> {
    let status = |part: Part| PartStatus {
        name: part.name(),
        pid: book.parts.get(&part).map(|identity| identity.pid),
        alive: book.is_alive(part),
        address: part.address(),
        log: part.log(folder),
    };
    Part::ALL.into_iter().map(status).collect()
}

pub(super) async fn status(folder: &Folder, json: bool) -> anyhow::Result<()> {
    let Some(book) = folder.read()? else {
        if json {
            return output::json(&json!({
                "up": false, "dir": folder.path(), "parts": [], "nodes": [], "services": [],
            }));
        }
        let shown = folder.path().display();
        return output::print(&format!(
            "nothing is up in {shown}; start it with `weald dev up`\n"
        ));
    };
    let parts = parts(folder, &book);
    let asked = ask(folder).await;
    let error = asked.as_ref().err().map(|error| format!("{error:#}"));
    let (nodes, services) = asked.unwrap_or_default();
    let up = parts.iter().all(|it| it.alive) && error.is_none();
    if json {
        return output::json(&json!({
            "up": up,
            "dir": folder.path(),
            "parts": parts,
            "error": error,
            "nodes": nodes,
            "services": services,
        }));
    }
    output::print(&text(&parts, error.as_deref(), &nodes, &services))
}

async fn ask(folder: &Folder) -> anyhow::Result<(Vec<Node>, Vec<ServiceStatus>)> {
    let mut client = Client::open(folder.session())?;
    let nodes = client.get("/api/v1/nodes").await?;
    let services: Vec<Service> = client.get("/api/services").await?;
    let instances: Vec<Instance> = client.get("/api/v1/instances").await?;
    let status = |service: Service| {
        let own = instances.iter();
        let own = own.filter(|it| !it.withdrawn && it.service() == service.name);
        ServiceStatus {
            running: own.clone().filter(|it| it.serves()).count(),
            instances: own.count(),
            name: service.name,
            ipv4: service.ipv4,
            ipv6: service.ipv6,
        }
    };
    Ok((nodes, services.into_iter().map(status).collect()))
}

fn text(
    parts: &[PartStatus],
    error: Option<&str>,
    nodes: &[Node],
    services: &[ServiceStatus],
) -> String {
    let mut table = Table::new(&["PART", "STATE", "PID", "ADDRESS", "LOG"]);
    for it in parts {
        table.row([
            it.name.to_owned(),
            if it.alive { "runs" } else { "has ended" }.to_owned(),
            it.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            it.address.clone().unwrap_or_default(),
            it.log.display().to_string(),
        ]);
    }
    let mut text = table.text();
    if parts.iter().any(|it| !it.alive) {
        text.push_str("\n`weald dev up` starts again what has ended\n");
    }
    if let Some(error) = error {
        text.push_str(&format!("\nroot cannot be asked: {error}\n"));
        return text;
    }
    let mut table = Table::new(&["NODE", "STANDING", "IPV4", "MILLICPUS", "MIB"]);
    for it in nodes {
        table.row([
            it.name.clone(),
            it.standing.clone(),
            it.ipv4.clone().unwrap_or_default(),
            format!("{}/{}", it.reserved_millicpus, it.millicpus),
            format!("{}/{}", it.reserved_memory_mib, it.memory_mib),
        ]);
    }
    text.push_str(&format!("\n{}", table.text()));
    let mut table = Table::new(&["SERVICE", "RUNNING", "IPV4", "IPV6"]);
    for it in services {
        table.row([
            it.name.clone(),
            format!("{}/{}", it.running, it.instances),
            it.ipv4.clone().unwrap_or_default(),
            it.ipv6.clone().unwrap_or_default(),
        ]);
    }
    text.push_str(&format!("\n{}", table.text()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_is_shown_with_what_to_do() {
        let part = |name, alive| PartStatus {
            name,
            pid: Some(7),
            alive,
            address: None,
            log: "/x/y.log".into(),
        };
        let shown = text(&[part("root", true)], None, &[], &[]);
        assert!(
            shown.contains("root  runs") && !shown.contains("starts again"),
            "{shown}"
        );
        let parts = [part("root", true), part("worker", false)];
        let shown = text(&parts, Some("no answer"), &[], &[]);
        assert!(shown.contains("worker  has ended"), "{shown}");
        assert!(shown.contains("starts again"), "{shown}");
        assert!(
            shown.ends_with("root cannot be asked: no answer\n"),
            "{shown}"
        );
    }
}
