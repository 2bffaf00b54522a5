//! From the request that submits an SLA to the first byte that comes by name: over and over, each
//! time a new application, whose only instance is a web server on the other node.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{ASKING, CLUSTER, CONTROL, SERVING, SOON};
use crate::lab::Lab;
use crate::tiers::Tiers;

/// The shop's web server is what is deployed, under other names.
const SHOP: &str = include_str!("../../../examples/shop.json");
/// Where every node answers names.
const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)), 53);
/// Where root's API is.
const API: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10_000);
/// How long a query or a connection may take before it is made again, at first: what comes too early
/// is perhaps not answered at all. Where everything is slow it grows, by a part of the time so far.
const ATTEMPT: Duration = Duration::from_millis(20);
const ATTEMPT_PART: u32 = 8;
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) fn measure(lab: &Lab, tiers: &Tiers<'_>, count: u32) -> Result<Vec<Duration>> {
    let times = (0..count).map(|number| {
        let name = format!("bench{number}");
        let time = once(lab, tiers, &name);
        time.with_context(|| format!("deployment {number} of {count}"))
    });
    times.collect()
}

fn once(lab: &Lab, tiers: &Tiers<'_>, name: &str) -> Result<Duration> {
    let body = sla(name)?.to_string();
    let token = tiers.token().context("nobody has logged in")?;
    let began = Instant::now();
    let applied = lab.node(CONTROL).in_ns(|| submit(&body, token))?;
    let host = format!("{name}.prod.web.prod.any.rr.local");
    lab.node(ASKING).in_ns(|| first_byte(&host))?;
    let took = began.elapsed();
    let application = applied["applications"][0].as_str().context("no id")?;
    tiers.api("DELETE", &format!("/api/application/{application}"), None)?;
    let gone = |all: &Value| all.as_array().is_some_and(Vec::is_empty);
    tiers.wait_api("it is gone", "/api/v1/instances", gone)?;
    Ok(took)
}

/// The shop with its web server alone, on the serving node.
fn sla(name: &str) -> Result<Value> {
    let mut sla: Value = serde_json::from_str(SHOP)?;
    let application = &mut sla["applications"][0];
    application["application_name"] = name.into();
    let mut web = application["microservices"][0].clone();
    web["constraints"] = json!([{ "type": "direct", "cluster": CLUSTER, "node": SERVING }]);
    application["microservices"] = json!([web]);
    Ok(sla)
}

/// What `curl` would send, without the time that a program takes to start.
fn submit(body: &str, token: &str) -> Result<Value> {
    let mut stream = TcpStream::connect_timeout(&API, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let request = format!(
        "POST /api/v1/apply?deploy=1 HTTP/1.1\r\nHost: {API}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "root says {answer}");
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    serde_json::from_str(body).with_context(|| format!("no JSON: {body}"))
}

/// Asks for a name and then for the page until a byte of it comes.
fn first_byte(host: &str) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let start = Instant::now();
    let mut number = 0;
    loop {
        number += 1;
        let patience = ATTEMPT.max(start.elapsed() / ATTEMPT_PART);
        socket.set_read_timeout(Some(patience))?;
        let fetched = resolve(&socket, host, number).and_then(|at| fetch(at, host, patience));
        let error = match fetched {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if start.elapsed() >= SOON {
            return Err(error.context(format!("no byte of {host} within {SOON:?}")));
        }
        std::thread::sleep(PAUSE);
    }
}

fn resolve(socket: &UdpSocket, host: &str, number: u16) -> Result<Ipv4Addr> {
    // Recursion desired, one question: type A, class IN (RFC 1035, section 4.1).
    let mut query = number.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in host.split('.') {
        query.push(u8::try_from(label.len())?);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    socket.send_to(&query, RESOLVER)?;
    let mut answer = [0; 512];
    loop {
        let (len, _) = socket.recv_from(&mut answer)?;
        let answer = answer.get(..len).unwrap_or_default();
        if answer.get(..2) != Some(&number.to_be_bytes()) {
            // The answer to an earlier query that took too long.
            continue;
        }
        // With one answer, its address is what it ends with, unless options follow.
        let record = answer.get(query.len()..).unwrap_or_default();
        return match record {
            [_, _, 0, 1, 0, 1, _, _, _, _, 0, 4, a, b, c, d, ..] => {
                Ok(Ipv4Addr::new(*a, *b, *c, *d))
            }
            _ => bail!("{host} does not resolve: {answer:02x?}"),
        };
    }
}

fn fetch(at: Ipv4Addr, host: &str, patience: Duration) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((at, 80)), patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut byte = [0; 1];
    stream.read_exact(&mut byte).context("no byte")
}
