//! Pages that are fetched on new connections: how long from the first packet to the last byte.
//!
//! nginx serves; the client is ours, because what is timed is one connection and not a program's
//! start.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::{Namespace, Process, command};

/// The pages: name and bytes.
pub(super) const PAGES: [(&str, usize); 3] =
    [("1k", 1 << 10), ("100k", 100 << 10), ("1m", 1 << 20)];
/// What is fetched before anything is timed, so that sessions are up and know the path.
const WARM_UP: (&str, usize) = PAGES[2];
const PORT: u16 = 8088;
/// Requests at once: few, so that they do not wait for each other on the link.
const CLIENTS: usize = 4;
/// How long one page may take; the kernel's own patience is longer.
const PATIENCE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// Requests for each page: every hundredth of them is the 99th percentile.
    pub requests: usize,
    /// The time in which they are begun.
    pub time: Duration,
}

/// What was found, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fetched {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) count: usize,
}

/// Chooses the congestion control of what answers in a namespace. nginx takes its routes', which need
/// no permission of the host's; the default differs between machines.
///
/// # Errors
/// `ip` refuses a route.
pub(super) fn set_control(server: &Namespace, control: &str) -> Result<()> {
    let routes = server.run_ok(command("ip -4 route show"), SOON)?;
    server.ip_batch(&with_control(&routes, control))
}

/// The orders that give routes a congestion control, in place of any that they have.
fn with_control(routes: &str, control: &str) -> String {
    let routes = routes
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    routes
        .map(|line| {
            let route = line.split(" congctl ").next().unwrap_or(line);
            format!("route replace {route} congctl {control}\n")
        })
        .collect()
}

/// Starts the server, whose files are put into `folder`; it runs until it is dropped.
///
/// # Errors
/// A file cannot be written, or nginx does not start.
pub(super) fn serve(namespace: &Namespace, folder: &Path) -> Result<Process> {
    fs::create_dir_all(folder)?;
    for (name, size) in PAGES {
        fs::write(folder.join(name), vec![b'x'; size])?;
    }
    let folder = folder.to_str().context("a path that is not UTF-8")?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .collect();
    let config = format!("{folder}/nginx.conf");
    fs::write(
        &config,
        format!(
            "daemon off;\nmaster_process off;\nuser root;\npid {folder}/pid;\n\
             error_log {folder}/error;\nevents {{ worker_connections 512; }}\n\
             http {{\naccess_log off;\nsendfile on;\ntcp_nodelay on;\nkeepalive_timeout 0;\n\
             {temporary}server {{ listen {PORT} backlog=512; root {folder}; }}\n}}\n"
        ),
    )?;
    let server = namespace.spawn(command(&format!("nginx -c {config}")))?;
    namespace
        .wait_tcp_listening(PORT, SOON)
        .with_context(|| server.shown())?;
    Ok(server)
}

/// Fetches something, so that what is fetched then does not pay for the first contact.
///
/// # Errors
/// It does not come.
pub(super) fn warm_up(client: &Namespace, server: IpAddr) -> Result<()> {
    client.in_ns(|| fetch(server, WARM_UP).map(drop))
}

/// Fetches one page again and again, each time on a new connection.
///
/// # Errors
/// A page does not come, or is not what was asked for.
pub(super) fn measure(
    client: &Namespace,
    server: IpAddr,
    page: (&'static str, usize),
    amount: Amount,
) -> Result<Fetched> {
    let (begun, until) = (AtomicUsize::new(0), Instant::now() + amount.time);
    let one_client = || -> Result<Vec<f64>> {
        let mut took = Vec::new();
        while Instant::now() < until && begun.fetch_add(1, Ordering::Relaxed) < amount.requests {
            took.push(fetch(server, page)?.as_secs_f64() * 1e3);
        }
        Ok(took)
    };
    let took = thread::scope(|scope| -> Result<Vec<f64>> {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| client.in_ns(one_client)))
            .collect();
        let mut all = Vec::new();
        for client in clients {
            match client.join() {
                Ok(took) => all.extend(took?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(all)
    })?;
    percentiles(took)
}

/// One page on a new connection; called inside the client's namespace.
fn fetch(server: IpAddr, (name, size): (&str, usize)) -> Result<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(server, PORT), PATIENCE)
        .with_context(|| format!("connect for {name}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /{name} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = Vec::with_capacity(size + 1024);
    let mut block = vec![0; 64 << 10];
    let mut head = None;
    while head.is_none_or(|head| answer.len() < head + size) {
        let count = stream
            .read(&mut block)
            .with_context(|| format!("{} bytes of {name} came", answer.len()))?;
        ensure!(count > 0, "{name} ended after {} bytes", answer.len());
        answer.extend_from_slice(block.get(..count).unwrap_or_default());
        head = head.or_else(|| head_len(&answer));
    }
    let took = began.elapsed();
    ensure!(
        answer.starts_with(b"HTTP/1.1 200 ")
            && head.is_some_and(|head| answer.len() == head + size),
        "{name}: {} bytes that begin with {:?}",
        answer.len(),
        String::from_utf8_lossy(answer.get(..16).unwrap_or(&answer))
    );
    Ok(took)
}

/// Bytes of an answer's head, once all of it is there.
fn head_len(answer: &[u8]) -> Option<usize> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}

fn percentiles(mut took: Vec<f64>) -> Result<Fetched> {
    took.sort_by(f64::total_cmp);
    let count = took.len();
    let at = |percent: usize| took.get((count * percent).div_ceil(100).saturating_sub(1));
    let (p50, p99) = at(50).zip(at(99)).context("no page was fetched in time")?;
    Ok(Fetched {
        p50: *p50,
        p99: *p99,
        count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_came() {
        let took = (1..=100).rev().map(f64::from).collect();
        let fetched = percentiles(took).unwrap();
        assert_eq!((fetched.p50, fetched.p99, fetched.count), (50.0, 99.0, 100));
        let few = percentiles(vec![3.0, 1.0]).unwrap();
        assert_eq!((few.p50, few.p99, few.count), (1.0, 3.0, 2));
        assert!(percentiles(Vec::new()).is_err());
    }

    #[test]
    fn routes_get_another_control() {
        let routes =
            "default via 10.0.0.1 dev eth0 congctl bbr \n10.0.0.0/24 dev eth0 scope link\n";
        assert_eq!(
            with_control(routes, "cubic"),
            "route replace default via 10.0.0.1 dev eth0 congctl cubic\n\
             route replace 10.0.0.0/24 dev eth0 scope link congctl cubic\n"
        );
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        assert_eq!(head_len(b"HTTP/1.1 200 OK\r\n\r\nbody"), Some(19));
        assert_eq!(head_len(b"HTTP/1.1 200 OK\r\n"), None);
    }
}
