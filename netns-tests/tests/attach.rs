//! Instances that are attached over the local API instead of standing in the node's own table.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::pair::{self, TABLE};
use netns_tests::{Fleet, require, wait};

const SOON: Duration = Duration::from_secs(10);
const ON_ALPHA: &str = "home.lab.empty.lab.0";
const ON_BETA: &str = "home.lab.empty.lab.1";

/// A row of `empty` for the table of the node that does not host the instance.
fn table_with(number: u32, node: &str) -> String {
    let closest = "closest = { ipv4 = \"10.30.101.2\", ipv6 = \"fdff:1000::2\" }\n";
    let row = format!(
        "{closest}\n[[service.instance]]\nnumber = {number}\nnode = {node:?}\n\
         ipv4 = \"10.30.1.5{number}\"\nipv6 = \"fdff::1:5{number}\"\n"
    );
    TABLE.replace(closest, &row)
}

fn attach(fleet: &Fleet<'_>, machine: &str, number: u32, more: &[&str]) -> Result<String> {
    let instance = format!("home.lab.empty.lab.{number}");
    let (v4, v6) = (format!("10.30.1.5{number}"), format!("fdff::1:5{number}"));
    let fixed = ["attach", &instance, "--ipv4", &v4, "--ipv6", &v6];
    let report = fleet.tool_json(machine, &[&fixed[..], more].concat())?;
    let report = report.first().context("no report")?;
    for key in ["netns", "resolv_conf"] {
        let path = report[key].as_str().context("no path")?;
        ensure!(Path::new(path).exists(), "{path}");
    }
    Ok(report.to_string())
}

fn fetch(fleet: &Fleet<'_>, machine: &str, from: &str, number: u32) -> Result<String> {
    let url = format!("http://empty.lab.{number}.instance.local/");
    let curl = ["curl", "-s", "-m", "2", &url];
    wait::until("the page comes", SOON, || {
        fleet.run_in(machine, from, &curl, SOON)
    })
}

#[test]
fn attached_instances_talk_and_outlive_the_daemon() -> Result<()> {
    require::programs(&["curl", "python3"])?;
    let lab = pair::lab()?;
    let mut fleet = pair::start(&lab)?;
    fleet.write_table_of("alpha", &table_with(1, "home/beta"))?;
    fleet.write_table_of("beta", &table_with(0, "home/alpha"))?;

    let first = attach(&fleet, "alpha", 0, &["--port", "8080:80"])?;
    let again = attach(&fleet, "alpha", 0, &["--port", "8080:80"])?;
    ensure!(first == again, "{first} {again}");
    attach(&fleet, "beta", 1, &[])?;
    let _pages = [
        fleet.serve_page("alpha", ON_ALPHA)?,
        fleet.serve_page("beta", ON_BETA)?,
    ];
    ensure!(fetch(&fleet, "alpha", ON_ALPHA, 1)? == "from beta");
    ensure!(fetch(&fleet, "beta", ON_BETA, 0)? == "from alpha");

    fleet.crash("alpha")?;
    fleet.start("alpha")?;
    let listed = fleet.tool_json("alpha", &["attached"])?;
    ensure!(listed[0][0]["instance"] == ON_ALPHA, "{listed:?}");
    ensure!(fetch(&fleet, "beta", ON_BETA, 0)? == "from alpha");

    fleet.tool("alpha", &["detach", ON_ALPHA])?;
    let gone = fleet.tool_json("alpha", &["detach", ON_ALPHA])?;
    ensure!(gone[0]["detached"] == false, "{gone:?}");
    let namespace = fleet.instance("alpha", ON_ALPHA);
    ensure!(namespace.is_err(), "the namespace is there still");
    Ok(())
}

#[test]
fn what_contradicts_the_table_is_not_attached() -> Result<()> {
    let lab = pair::lab()?;
    let fleet = pair::start(&lab)?;
    let try_on = |instance: &str, ip: &str, more: &[&str]| {
        let arguments = [&["attach", instance, "--ipv4", ip][..], more].concat();
        let refused = fleet.tool("alpha", &arguments);
        refused.err().map(|error| format!("{error:#}"))
    };
    for (instance, ip, said) in [
        ("home.lab.nothing.lab.0", "10.30.1.9", "has no service"),
        (
            "home.lab.echo.lab.1",
            "10.30.1.2",
            "on node home/beta, not here",
        ),
        ("home.lab.echo.lab.0", "10.30.1.9", "other addresses"),
        ("home.lab.empty.lab.0", "192.0.2.1", "outside the pools"),
        ("home.lab.empty.lab.0", "10.30.100.1", "belongs to both"),
        ("home.lab.empty.lab", "10.30.1.9", "instance:"),
    ] {
        let error = try_on(instance, ip, &[]).context("attached")?;
        ensure!(error.contains(said), "{error}");
    }
    ensure!(try_on(ON_ALPHA, "10.30.1.50", &["--generation", "5"]).is_none());
    let older = try_on(ON_ALPHA, "10.30.1.50", &["--generation", "4"]).context("attached")?;
    ensure!(older.contains("generation 5 of instance"), "{older}");
    Ok(())
}
