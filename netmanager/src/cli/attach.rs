//! `attach`, `detach` and `attached`: which instances this node hosts beside those of its table.
//!
//! A worker asks the same over the socket; here it is for people and for tests.

use super::failure::Failure;
use super::show::unexpected;
use super::table::{Table, print, print_json};
use super::{AttachArgs, DetachArgs, Options};
use crate::api::hosting::Attachment;
use crate::api::message::{Answer, Request};

pub(super) fn attach(options: &Options, args: &AttachArgs) -> Result<(), Failure> {
    let request = Request::Attach(Attachment {
        instance: args.instance.clone(),
        generation: args.generation,
        ipv4: args.ipv4,
        ipv6: args.ipv6,
        organisation: args.organisation.clone(),
        ports: args.ports.clone(),
    });
    let Answer::Attached(report) = options.ask(&request)? else {
        return Err(unexpected());
    };
    if options.json {
        print_json(&report)?;
    } else {
        let (netns, resolv_conf) = (report.netns.display(), report.resolv_conf.display());
        print(&format!("namespace {netns}\nresolv.conf {resolv_conf}\n"))?;
    }
    Ok(())
}

pub(super) fn detach(options: &Options, args: &DetachArgs) -> Result<(), Failure> {
    let request = Request::Detach {
        instance: args.instance.clone(),
        generation: args.generation,
    };
    let Answer::Detached(detached) = options.ask(&request)? else {
        return Err(unexpected());
    };
    if options.json {
        print_json(&serde_json::json!({ "detached": detached }))?;
    } else if detached {
        print("detached\n")?;
    } else {
        print("it was not attached\n")?;
    }
    Ok(())
}

pub(super) fn list(options: &Options) -> Result<(), Failure> {
    let Answer::Attachments(reports) = options.ask(&Request::Attached {})? else {
        return Err(unexpected());
    };
    if options.json {
        print_json(&reports)?;
        return Ok(());
    }
    let mut table = Table::new(&["INSTANCE", "GENERATION", "NAMESPACE"]);
    for report in &reports {
        table.row([
            report.attachment.instance.clone(),
            report.attachment.generation.to_string(),
            report.netns.display().to_string(),
        ]);
    }
    print(&table.text())?;
    Ok(())
}
