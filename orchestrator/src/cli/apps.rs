//! `weald app` and `weald service`: what is deployed, and how much of it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::answers::{Application, Applied, Instance, Log, Scaled, Service};
use super::failure::Failure;
use super::http::segment;
use super::output::{self, Table};
use super::session::Client;
use super::wait::{WaitArguments, Wanted, until_running};

#[derive(Debug, Args)]
pub(super) struct AppArguments {
    #[command(subcommand)]
    command: AppCommand,
}

#[derive(Debug, Subcommand)]
enum AppCommand {
    /// Make what of an SLA is not there yet, and have instances of it run.
    ///
    /// Fields with --json: applications, services (ids in the order of the SLA), made (names of new
    /// instances), instances (those of its services, as `app get` has them), warnings (path, message:
    /// what was accepted, and is not acted on or in part only).
    Apply(ApplyArguments),
    /// Show the applications, or one with its services and instances.
    ///
    /// Fields with --json, per application: id, name, description, user, services (id, name,
    /// runtime, ipv4, ipv6, instances as in GET /api/v1/instances).
    Get {
        /// The application, as `app.appns` or by its id.
        name: Option<String>,
    },
    /// Show the last lines that an instance wrote.
    ///
    /// Fields with --json: lines, the oldest first.
    Logs {
        /// The instance, as `app.appns.svc.svcns.number`.
        instance: String,
        /// How many lines.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        lines: u32,
    },
    /// Remove an application with its services and instances.
    ///
    /// Fields with --json: deleted (the id), name.
    Delete {
        /// The application, as `app.appns` or by its id.
        name: String,
    },
}

#[derive(Debug, Args)]
struct ApplyArguments {
    /// The SLA, in JSON; `-` for standard input.
    file: PathBuf,
    /// How many instances of each service shall run; if it is not said, that stays as it is, and
    /// nothing new runs.
    #[arg(long)]
    deploy: Option<u32>,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
pub(super) struct ServiceArguments {
    #[command(subcommand)]
    command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    /// Have so many instances of a service run; those that are too many go, the newest first.
    ///
    /// Fields with --json: service (its name), made (names of new instances), instances (all of
    /// the service, as `app get` has them).
    Scale {
        /// The service, as `app.appns.svc.svcns` or by its id.
        name: String,
        /// How many instances.
        instances: u32,
        #[command(flatten)]
        wait: WaitArguments,
    },
}

pub(super) async fn app(
    arguments: AppArguments,
    client: &mut Client,
    json: bool,
) -> anyhow::Result<()> {
    match arguments.command {
        AppCommand::Apply(arguments) => apply(arguments, client, json).await,
        AppCommand::Get { name } => get(name.as_deref(), client, json).await,
        AppCommand::Logs { instance, lines } => logs(&instance, lines, client, json).await,
        AppCommand::Delete { name } => delete(&name, client, json).await,
    }
}

async fn apply(arguments: ApplyArguments, client: &mut Client, json: bool) -> anyhow::Result<()> {
    let sla = sla(&arguments.file)?;
    let path = arguments.deploy.map_or_else(
        || "/api/v1/apply".to_owned(),
        |number| format!("/api/v1/apply?deploy={number}"),
    );
    let applied: Applied = client.post(&path, &sla).await?;
    for it in applied.warnings.iter().filter(|_| !json) {
        eprintln!("warning: {}: {}", it.path, it.message);
    }
    let services: Vec<Service> = client.get("/api/services").await?;
    let mut services: Vec<_> = services
        .into_iter()
        .filter(|it| applied.services.contains(&it.id))
        .collect();
    services.sort_by_key(|it| applied.services.iter().position(|id| *id == it.id));
    // Where no number is said, none is waited for.
    let number = usize::try_from(arguments.deploy.unwrap_or(0))?;
    let wanted = services.iter().map(|it| (it.name.clone(), number));
    let wanted = Wanted(wanted.collect());
    let instances = match arguments.deploy {
        Some(_) => until_running(client, &wanted, &arguments.wait).await?,
        None => wanted.of(client.get("/api/v1/instances").await?),
    };
    if json {
        return output::json(&json!({
            "applications": applied.applications,
            "services": applied.services,
            "made": applied.instances,
            "instances": instances,
            "warnings": applied.warnings,
        }));
    }
    output::print(&instances_table(&services, &instances))?;
    if arguments.deploy.is_none() {
        eprintln!("nothing new runs; have instances run with --deploy N, or `weald service scale`");
    }
    Ok(())
}

/// Reads an SLA; whether it makes sense is for root to say.
fn sla(file: &Path) -> anyhow::Result<Value> {
    let mut text = String::new();
    if file == Path::new("-") {
        let read = std::io::stdin().read_to_string(&mut text);
        read.context("cannot read the SLA from standard input")?;
    } else {
        let read = std::fs::read_to_string(file);
        text = read.with_context(|| format!("cannot read the SLA {}", file.display()))?;
    }
    let shown = file.display();
    serde_json::from_str(&text).with_context(|| format!("the SLA {shown} is not JSON"))
}

/// A line per instance, and one per service that has none.
fn instances_table(services: &[Service], instances: &[Instance]) -> String {
    let mut table = Table::new(&["INSTANCE", "STATUS", "NODE", "IPV4", "DETAIL"]);
    for service in services {
        let mut none = true;
        for it in instances.iter().filter(|it| it.service() == service.name) {
            none = false;
            table.row([
                it.name.clone(),
                it.status.clone(),
                it.node.clone().unwrap_or_default(),
                it.ipv4.clone().unwrap_or_default(),
                it.detail.clone(),
            ]);
        }
        if none {
            let detail = "no instance is deployed".to_owned();
            let empty = String::new;
            table.row([service.name.clone(), empty(), empty(), empty(), detail]);
        }
    }
    table.text()
}

async fn get(name: Option<&str>, client: &mut Client, json: bool) -> anyhow::Result<()> {
    let applications = match name {
        Some(name) => vec![find(client, name).await?],
        None => client.get("/api/applications").await?,
    };
    let services: Vec<Service> = client.get("/api/services").await?;
    let mut instances: Vec<Instance> = client.get("/api/v1/instances").await?;
    instances.retain(|it| !it.withdrawn);
    let of = |application: &Application| -> Vec<Service> {
        let own = services
            .iter()
            .filter(|it| it.application == application.id);
        own.cloned().collect()
    };
    if json {
        let all: Vec<_> = applications
            .iter()
            .map(|it| application_json(it, &of(it), &instances))
            .collect();
        return output::json(&all);
    }
    if let (Some(_), [application]) = (name, applications.as_slice()) {
        return output::print(&instances_table(&of(application), &instances));
    }
    let mut table = Table::new(&["APPLICATION", "ID", "USER", "SERVICES", "RUNNING", "DETAIL"]);
    for it in &applications {
        let services = of(it);
        let own = |instance: &&Instance| services.iter().any(|s| s.name == instance.service());
        let all = instances.iter().filter(own).count();
        let running = instances
            .iter()
            .filter(own)
            .filter(|it| it.serves())
            .count();
        table.row([
            it.name(),
            it.id.clone(),
            it.user.clone(),
            services.len().to_string(),
            format!("{running}/{all}"),
            it.description.clone(),
        ]);
    }
    output::print(&table.text())
}

fn application_json(it: &Application, services: &[Service], instances: &[Instance]) -> Value {
    let services = services.iter().map(|service| {
        let own = instances.iter().filter(|it| it.service() == service.name);
        json!({
            "id": service.id,
            "name": service.name,
            "runtime": service.virtualization,
            "ipv4": service.ipv4,
            "ipv6": service.ipv6,
            "instances": own.collect::<Vec<_>>(),
        })
    });
    json!({
        "id": it.id,
        "name": it.name(),
        "description": it.description,
        "user": it.user,
        "services": services.collect::<Vec<_>>(),
    })
}

async fn find(client: &mut Client, name: &str) -> anyhow::Result<Application> {
    let all: Vec<Application> = client.get("/api/applications").await?;
    let unknown = || Failure::Unknown {
        kind: "application",
        name: name.to_owned(),
        list: "weald app get",
    };
    Ok(all.into_iter().find(|it| it.is(name)).ok_or_else(unknown)?)
}

async fn logs(name: &str, lines: u32, client: &mut Client, json: bool) -> anyhow::Result<()> {
    let path = format!("/api/v1/instances/{}/logs?lines={lines}", segment(name));
    let log: Log = client.get(&path).await?;
    if json {
        return output::json(&log);
    }
    let mut text = log.lines.join("\n");
    if !log.lines.is_empty() {
        text.push('\n');
    }
    output::print(&text)
}

async fn delete(name: &str, client: &mut Client, json: bool) -> anyhow::Result<()> {
    let it = find(client, name).await?;
    client
        .delete(&format!("/api/application/{}", segment(&it.id)))
        .await?;
    if json {
        return output::json(&json!({ "deleted": it.id, "name": it.name() }));
    }
    output::print(&format!(
        "{} is deleted; its instances are being stopped\n",
        it.name()
    ))
}

pub(super) async fn service(
    arguments: ServiceArguments,
    client: &mut Client,
    json: bool,
) -> anyhow::Result<()> {
    let ServiceCommand::Scale {
        name,
        instances: number,
        wait,
    } = arguments.command;
    let all: Vec<Service> = client.get("/api/services").await?;
    let found = all
        .into_iter()
        .find(|it| it.id == name || it.name.eq_ignore_ascii_case(&name));
    let service = found.ok_or(Failure::Unknown {
        kind: "service",
        name,
        list: "weald app get --json",
    })?;
    let path = format!("/api/v1/services/{}/scale", segment(&service.id));
    let scaled: Scaled = client.post(&path, &json!({ "instances": number })).await?;
    let wanted = BTreeMap::from([(service.name.clone(), usize::try_from(number)?)]);
    let instances = until_running(client, &Wanted(wanted), &wait).await?;
    if json {
        return output::json(&json!({
            "service": service.name,
            "made": scaled.instances,
            "instances": instances,
        }));
    }
    output::print(&instances_table(&[service], &instances))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slas_that_cannot_be_read_name_file_and_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sla.json");
        let error = format!("{:#}", sla(&file).unwrap_err());
        assert!(error.contains("sla.json"), "{error}");
        std::fs::write(&file, "{\n  \"a\": }").unwrap();
        let error = format!("{:#}", sla(&file).unwrap_err());
        assert!(error.contains("sla.json is not JSON"), "{error}");
        assert!(error.contains("line 2 column"), "{error}");
    }

    #[test]
    fn applications_go_by_name_or_id() {
        let application: Application = serde_json::from_value(json!({
            "applicationID": "0123", "application_name": "shop", "application_namespace": "prod",
            "application_desc": "", "userId": "admin",
        }))
        .unwrap();
        for (text, is) in [("shop.prod", true), ("Shop.Prod", true), ("0123", true)] {
            assert_eq!(application.is(text), is, "{text}");
        }
        assert!(!application.is("shop") && !application.is(""));
    }
}
