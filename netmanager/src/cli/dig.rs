//! `dig`: what a name means, and what each policy would pick now.

use std::fmt::Write as _;

use super::failure::Failure;
use super::show::unexpected;
use super::table::{Table, print, print_json, rtt};
use super::{DigArgs, Options};
use crate::api::message::{Answer, Request};
use crate::api::report::Explanation;

pub(super) fn dig(options: &Options, args: &DigArgs) -> Result<(), Failure> {
    let request = Request::Explain {
        name: args.name.clone(),
        from: args.from.clone(),
    };
    let Answer::Explanation(explanation) = options.ask(&request)? else {
        return Err(unexpected());
    };
    if options.json {
        return Ok(print_json(&explanation)?);
    }
    Ok(print(&text(&explanation))?)
}

pub(super) fn text(explanation: &Explanation) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(text, "{}", explanation.name);
    for ip in &explanation.addresses {
        let record = if ip.is_ipv4() { "A" } else { "AAAA" };
        let _ = writeln!(text, "  {record:4} {ip}");
    }
    if let Some(instance) = &explanation.instance {
        let _ = writeln!(text, "  always instance {instance}");
    }
    for policy in &explanation.policies {
        let chosen = if policy.policy == explanation.policy {
            ", this name's policy"
        } else {
            ""
        };
        let _ = writeln!(text, "\n{} {}{chosen}", policy.policy, policy.family);
        let mut table = Table::new(&["  PICK", "INSTANCE", "NODE", "STATE", "MIN RTT", "REASON"]);
        for candidate in &policy.candidates {
            table.row([
                if candidate.picked { "  ->" } else { "" }.to_owned(),
                candidate.instance.clone(),
                candidate.node.clone(),
                candidate.reachability.clone(),
                rtt(candidate.min_rtt_us),
                candidate.reason.clone(),
            ]);
        }
        text.push_str(&table.text());
    }
    text
}
