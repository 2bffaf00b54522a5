//! `ping`: real ICMP echos from this host through the overlay, and who answered over which path.
//!
//! The echos take the way of every packet of the host's programs: by the host's veth, or in userspace
//! mode by the daemon, into the overlay, through the flow table, to the instance. Which instance, node and path that was is
//! asked of the daemon after each reply.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::failure::{Failure, Kind};
use super::show::unexpected;
use super::table::{print, print_json, rtt};
use super::{Options, PingArgs};
use crate::api::client::Client;
use crate::api::inspect::FlowFilter;
use crate::api::message::{Answer, Request};
use crate::api::report::{FlowReport, PathReport};
use echo::{EchoSocket, Received};

mod echo;

/// One echo and what became of it.
#[derive(Debug, Serialize)]
struct Echo {
    sequence: u16,
    /// None without a reply.
    rtt_us: Option<u64>,
    instance: Option<String>,
    node: Option<String>,
    path: PathReport,
    /// Who says that the destination cannot be reached.
    unreachable_by: Option<IpAddr>,
}

impl Echo {
    /// One that nobody has answered.
    const fn new(sequence: u16) -> Self {
        Self {
            sequence,
            rtt_us: None,
            instance: None,
            node: None,
            path: PathReport::None,
            unreachable_by: None,
        }
    }
}

/// All echos together.
#[derive(Debug, Default, Serialize)]
struct Summary {
    name: String,
    destination: Option<IpAddr>,
    sent: u16,
    received: u16,
    min_rtt_us: Option<u64>,
    mean_rtt_us: Option<u64>,
    max_rtt_us: Option<u64>,
}

pub(super) fn ping(options: &Options, args: &PingArgs) -> Result<(), Failure> {
    let mut client = options.client()?;
    let (name, destination) = look_up(&mut client, args)?;
    let way = Way::open(&mut client, destination)?;
    let mut summary = Summary {
        name,
        destination: Some(destination),
        ..Summary::default()
    };
    if !options.json {
        print(&format!("{} is {destination}\n", summary.name))?;
    }
    let mut rtts = Vec::new();
    let mut is_direct = false;
    for sequence in 1..=args.count {
        let sent = Instant::now();
        let limit = Duration::from_secs_f64(args.timeout);
        let mut echo = way.exchange(&mut client, sequence, limit)?;
        if echo.rtt_us.is_some() {
            describe(&mut client, way.id(), destination, &mut echo)?;
        }
        rtts.extend(echo.rtt_us);
        show(options, &echo)?;
        summary.sent = sequence;
        is_direct |= matches!(echo.path, PathReport::Direct { .. } | PathReport::Local);
        if is_direct && args.until_direct {
            break;
        }
        if sequence < args.count {
            let interval = Duration::from_secs_f64(args.interval);
            std::thread::sleep(interval.saturating_sub(sent.elapsed()));
        }
    }
    summary.received = u16::try_from(rtts.len()).unwrap_or(u16::MAX);
    summary.min_rtt_us = rtts.iter().copied().min();
    summary.max_rtt_us = rtts.iter().copied().max();
    summary.mean_rtt_us = rtts.iter().sum::<u64>().checked_div(rtts.len() as u64);
    conclude(options, &summary)?;
    if args.until_direct && !is_direct {
        let message = format!(
            "no reply from {} came over a direct path; `netmanager why` says what is in the way",
            summary.name
        );
        return Err(Failure::new(Kind::Failed, message));
    }
    Ok(())
}

/// The name's address of the family asked for.
fn look_up(client: &mut Client, args: &PingArgs) -> Result<(String, IpAddr), Failure> {
    let request = Request::Explain {
        name: args.name.clone(),
        from: None,
    };
    let Answer::Explanation(found) = client.ask(&request)? else {
        return Err(unexpected());
    };
    let fitting = found.addresses.iter().find(|ip| ip.is_ipv6() == args.ipv6);
    match fitting {
        Some(ip) => Ok((found.name, *ip)),
        None => {
            let family = if args.ipv6 { "IPv6" } else { "IPv4" };
            Err(Failure::new(
                Kind::NotFound,
                format!("{} has no {family} address", found.name),
            ))
        }
    }
}

/// How echos get into the overlay.
enum Way {
    /// As packets of the host's programs do.
    Socket(EchoSocket),
    /// By the daemon, because in userspace mode no packet of the host's gets there.
    Daemon { destination: IpAddr, id: u16 },
}

impl Way {
    fn open(client: &mut Client, destination: IpAddr) -> Result<Self, Failure> {
        let Answer::Status(status) = client.ask(&Request::Status {})? else {
            return Err(unexpected());
        };
        Ok(match status.userspace {
            None => Self::Socket(EchoSocket::open(destination)?),
            Some(_) => {
                let [.., high, low] = std::process::id().to_be_bytes();
                let id = u16::from_be_bytes([high, low]);
                Self::Daemon { destination, id }
            }
        })
    }

    fn id(&self) -> u16 {
        match self {
            Self::Socket(socket) => socket.id(),
            Self::Daemon { id, .. } => *id,
        }
    }

    fn exchange(
        &self,
        client: &mut Client,
        sequence: u16,
        limit: Duration,
    ) -> Result<Echo, Failure> {
        let (destination, id) = match self {
            Self::Socket(socket) => return exchange(socket, sequence, limit),
            Self::Daemon { destination, id } => (*destination, *id),
        };
        let request = Request::Echo {
            destination,
            id,
            sequence,
            timeout_ms: u32::try_from(limit.as_millis()).unwrap_or(u32::MAX),
        };
        let Answer::Echo(report) = client.ask(&request)? else {
            return Err(unexpected());
        };
        Ok(Echo {
            rtt_us: report.rtt_us,
            unreachable_by: report.unreachable_by,
            ..Echo::new(sequence)
        })
    }
}

/// Sends one echo and waits for what becomes of it.
fn exchange(socket: &EchoSocket, sequence: u16, limit: Duration) -> Result<Echo, Failure> {
    let mut echo = Echo::new(sequence);
    let sent = Instant::now();
    socket.send(sequence)?;
    loop {
        let left = limit.saturating_sub(sent.elapsed());
        match socket.receive(left)? {
            None => return Ok(echo),
            Some(Received::Reply(replied)) if replied == sequence => {
                let micros = sent.elapsed().as_micros();
                echo.rtt_us = Some(u64::try_from(micros).unwrap_or(u64::MAX));
                return Ok(echo);
            }
            Some(Received::Unreachable { by, sequence: lost }) if lost == sequence => {
                echo.unreachable_by = Some(by);
                return Ok(echo);
            }
            // About an earlier echo.
            Some(Received::Reply(_) | Received::Unreachable { .. }) => {}
        }
    }
}

/// Asks the daemon where the echo went.
fn describe(
    client: &mut Client,
    id: u16,
    destination: IpAddr,
    echo: &mut Echo,
) -> Result<(), Failure> {
    let filter = FlowFilter {
        protocol: Some("icmp".to_owned()),
        source: None,
        source_port: Some(id),
        destination: Some(destination),
    };
    let Answer::Flows(flows) = client.ask(&Request::Flows { filter })? else {
        return Err(unexpected());
    };
    let flow: Option<FlowReport> = flows.into_iter().find(|flow| flow.opened_here);
    if let Some(flow) = flow {
        echo.instance = flow.instance;
        echo.node = Some(flow.node);
        echo.path = flow.path;
    }
    Ok(())
}

fn show(options: &Options, echo: &Echo) -> Result<(), Failure> {
    if options.json {
        return Ok(print_json(echo)?);
    }
    let sequence = echo.sequence;
    let line = match (echo.rtt_us, echo.unreachable_by) {
        (Some(_), _) => format!(
            "{sequence}: reply from {} on {}, path {}, {}\n",
            echo.instance.as_deref().unwrap_or("an unknown instance"),
            echo.node.as_deref().unwrap_or("an unknown node"),
            echo.path,
            rtt(echo.rtt_us)
        ),
        (None, Some(by)) => format!("{sequence}: unreachable, says {by}\n"),
        (None, None) => format!("{sequence}: no reply\n"),
    };
    Ok(print(&line)?)
}

fn conclude(options: &Options, summary: &Summary) -> Result<(), Failure> {
    if options.json {
        print_json(summary)?;
    } else {
        print(&format!(
            "{} sent, {} received, rtt min {} mean {} max {}\n",
            summary.sent,
            summary.received,
            rtt(summary.min_rtt_us),
            rtt(summary.mean_rtt_us),
            rtt(summary.max_rtt_us)
        ))?;
    }
    if summary.received == 0 {
        let message = format!("no reply from {}; `netmanager dig` shows why", summary.name);
        return Err(Failure::new(Kind::NoReply, message));
    }
    Ok(())
}
