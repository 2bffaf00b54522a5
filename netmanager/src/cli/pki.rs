//! `netmanager pki`: makes roots, clusters and credentials without a control plane.
//!
//! Reads the command line and prints; the work is `weald_trust::pki::store`'s.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use weald_proto::id::{Identity, Label, NodeId, Organisation, RelayId};
use weald_trust::pki::store::{CA_KEY_FILE, CLUSTERS, Receipt, Renewal, Request, Store};
use weald_trust::tls::{CA_FILE, day};

/// Days that a relay token may live at most: as long as the certificate that it goes with.
const MAX_TOKEN_DAYS: u64 = 30;

/// Make certificates without a control plane.
#[derive(Debug, Clone, Args)]
pub struct PkiArgs {
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum PkiCommand {
    /// Make a new root CA, and intermediates of clusters.
    Init(InitArgs),
    /// Issue the credentials of one node or relay.
    Issue(IssueArgs),
}

#[derive(Debug, Clone, Args)]
struct InitArgs {
    /// Where the root's certificate and key are kept.
    directory: PathBuf,
    /// The name of the root, which stands in every certificate.
    #[arg(long, value_name = "NAME")]
    root: Label,
    /// A cluster to make the intermediate of; more can be made later.
    #[arg(long = "cluster", value_name = "CLUSTER")]
    clusters: Vec<Label>,
}

#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("who").required(true))]
struct IssueArgs {
    /// Where `pki init` keeps the root.
    directory: PathBuf,
    /// The node to issue for.
    #[arg(
        long,
        value_name = "CLUSTER/NAME",
        group = "who",
        requires = "organisation"
    )]
    node: Option<NodeId>,
    /// The relay to issue for.
    #[arg(
        long,
        value_name = "CLUSTER/NAME",
        group = "who",
        conflicts_with = "organisation"
    )]
    relay: Option<RelayId>,
    /// The organisation that the node's traffic through relays is accounted to.
    #[arg(long, value_name = "NAME")]
    organisation: Option<Label>,
    /// Where to write ca.pem, node.pem, node.key and relay.token.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Days that the relay token is valid.
    #[arg(long, value_name = "DAYS", default_value_t = 7,
        value_parser = clap::value_parser!(u64).range(1..=MAX_TOKEN_DAYS))]
    token_days: u64,
    /// Replace credentials that are there, the key too.
    #[arg(long, conflicts_with = "renew")]
    force: bool,
    /// Renew certificate and token of the key that is there.
    #[arg(long)]
    renew: bool,
}

/// Runs `netmanager pki`.
///
/// # Errors
/// Whatever keeps the certificates from being made or written.
pub fn run(args: PkiArgs, json: bool) -> anyhow::Result<()> {
    let now = SystemTime::now();
    match args.command {
        PkiCommand::Init(args) => init(&args, now).map(|report| report.print(json)),
        PkiCommand::Issue(args) => issue(args, now).map(|report| report.print(json)),
    }
}

#[derive(Debug, Serialize)]
struct InitReport {
    root: String,
    certificate: PathBuf,
    key: PathBuf,
    clusters: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct IssueReport {
    uri: String,
    organisation: Option<String>,
    new_cluster: bool,
    /// Seconds since 1970.
    certificate_expires: u64,
    /// Seconds since 1970.
    relay_token_expires: Option<u64>,
    files: Vec<PathBuf>,
    #[serde(skip)]
    receipt: Receipt,
}

fn init(args: &InitArgs, now: SystemTime) -> anyhow::Result<InitReport> {
    let store = Store::init(&args.directory, &args.root, now)?;
    let mut clusters = Vec::new();
    for name in &args.clusters {
        store.cluster(name, now)?;
        clusters.push(args.directory.join(CLUSTERS).join(format!("{name}.pem")));
    }
    Ok(InitReport {
        root: args.root.to_string(),
        certificate: args.directory.join(CA_FILE),
        key: args.directory.join(CA_KEY_FILE),
        clusters,
    })
}

fn issue(args: IssueArgs, now: SystemTime) -> anyhow::Result<IssueReport> {
    let identity = match (args.node, args.relay) {
        (Some(node), _) => Identity::Node(node),
        (None, Some(relay)) => Identity::Relay(relay),
        (None, None) => anyhow::bail!("either --node or --relay is needed"),
    };
    let renewal = match (args.force, args.renew) {
        (true, _) => Renewal::Replace,
        (false, true) => Renewal::KeepKey,
        (false, false) => Renewal::Refuse,
    };
    let organisation = args.organisation.map(Organisation);
    let request = Request {
        identity,
        organisation: organisation.clone(),
        out: args.out,
        renewal,
        token_life: Duration::from_hours(24 * args.token_days),
    };
    let receipt = Store::open(&args.directory)?.issue(&request, now)?;
    Ok(IssueReport {
        uri: receipt.uri.clone(),
        organisation: organisation.map(|organisation| organisation.to_string()),
        new_cluster: receipt.new_cluster,
        certificate_expires: receipt.certificate_end.as_secs(),
        relay_token_expires: receipt.token_end.map(|end| end.as_secs()),
        files: receipt.files.clone(),
        receipt,
    })
}

impl InitReport {
    fn print(&self, json: bool) {
        if json {
            print_json(self);
            return;
        }
        println!("root {}: {}", self.root, self.certificate.display());
        for cluster in &self.clusters {
            println!("cluster: {}", cluster.display());
        }
        println!(
            "keep {} away from nodes; whoever has it can be anybody",
            self.key.display()
        );
    }
}

impl IssueReport {
    fn print(&self, json: bool) {
        if json {
            print_json(self);
            return;
        }
        println!("{}", self.uri);
        println!(
            "certificate valid until {}",
            day(self.receipt.certificate_end)
        );
        if let Some(end) = self.receipt.token_end {
            println!("relay token valid until {}", day(end));
        }
        for file in &self.files {
            println!("wrote {}", file.display());
        }
    }
}

fn print_json(report: &impl Serialize) {
    // Reports have string keys and no maps, so they always serialise.
    if let Ok(text) = serde_json::to_string(report) {
        println!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        pki: PkiArgs,
    }

    fn parse(args: &[&str]) -> Result<Cli, String> {
        Cli::try_parse_from([&["pki"], args].concat()).map_err(|error| error.to_string())
    }

    #[test]
    fn names_that_are_no_labels_are_refused() {
        for (name, text) in [
            ("a.b", "name \"a.b\" has '.'"),
            ("a\"b", "name \"a\\\"b\" has '\"'"),
            (
                "a\nb",
                "has '\\n'; only letters a-z, digits and '-' are allowed",
            ),
            ("*", "name \"*\" has '*'"),
            ("-a", "must not start or end with '-'"),
            ("", "a name must not be empty"),
            (&"a".repeat(64), "has 64 characters; at most 63 are allowed"),
        ] {
            let error = parse(&["init", "d", &format!("--root={name}")]).unwrap_err();
            assert!(error.contains(text), "{name:?}: {error}");
            let node = format!("--node=munich/{name}");
            let error = parse(&["issue", "d", &node, "--organisation=o", "--out=x"]).unwrap_err();
            assert!(error.contains(text), "{name:?}: {error}");
        }
        let error = parse(&["issue", "d", "--node=a1", "--organisation=o", "--out=x"]).unwrap_err();
        assert!(
            error.contains("\"a1\" is not of the form cluster/name"),
            "{error}"
        );
    }

    #[test]
    fn what_belongs_together_is_asked_for() {
        let refused: [&[&str]; 5] = [
            &["issue", "d", "--out=x"],
            &["issue", "d", "--node=m/a", "--out=x"],
            &["issue", "d", "--relay=m/a", "--organisation=o", "--out=x"],
            &[
                "issue",
                "d",
                "--node=m/a",
                "--relay=m/b",
                "--organisation=o",
                "--out=x",
            ],
            &["issue", "d", "--relay=m/a", "--out=x", "--force", "--renew"],
        ];
        for args in refused {
            parse(args).unwrap_err();
        }
        parse(&["issue", "d", "--relay=m/a", "--out=x"]).unwrap();
        parse(&["issue", "d", "--node=m/a", "--organisation=o", "--out=x"]).unwrap();
    }

    #[test]
    fn a_run_writes_what_it_says() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let ca = path("ca");
        let run = |args: &[&str]| run(parse(args).unwrap().pki, true);
        run(&["init", &ca, "--root=main", "--cluster=munich"]).unwrap();
        let out = format!("--out={}", path("a1"));
        run(&[
            "issue",
            &ca,
            "--node=munich/a1",
            "--organisation=shop",
            &out,
        ])
        .unwrap();
        weald_trust::tls::Credentials::load(&directory.path().join("a1")).unwrap();
    }
}
