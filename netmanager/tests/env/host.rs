//! A host to test on, and what a test needs to look at it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use netmanager::env::{EnvConfig, InstanceEnv, Overlay, instance_netns_path};
use netmanager::tun::{Tun, VNET_HEADER_LEN};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, setns, unshare};
use weald_proto::addr::{Dual, Pools};
use weald_proto::id::Label;
use weald_proto::name::{ApplicationName, InstanceId, ServiceName};

/// How long a connection may take on one machine before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

pub(crate) fn instance_id(number: u32) -> InstanceId {
    InstanceId {
        service: ServiceName {
            application: ApplicationName {
                name: label("shop"),
                namespace: label("prod"),
            },
            name: label("web"),
            namespace: label("prod"),
        },
        number,
    }
}

pub(crate) fn instance_ip(number: u32) -> Dual {
    Dual {
        v4: Some([10, 30, 0, 10 + number as u8].into()),
        v6: Some(format!("fdff::1{number}").parse().unwrap()),
    }
}

pub(crate) fn node_ip() -> Dual {
    Dual {
        v4: Some("10.30.0.1".parse().unwrap()),
        v6: Some("fdff::1".parse().unwrap()),
    }
}

/// A name that no other test and no other run uses.
pub(crate) fn unique_name() -> Label {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    label(&format!("envtest-{}-{number}", std::process::id()))
}

/// An overlay with two instances and without egress.
pub(crate) fn config() -> EnvConfig {
    EnvConfig {
        name: unique_name(),
        pools: Pools::default(),
        node_ip: node_ip(),
        instances: [0, 1].map(|number| instance(number, &[])).to_vec(),
        egress: false,
    }
}

pub(crate) fn instance(number: u32, ports: &[&str]) -> InstanceEnv {
    InstanceEnv {
        id: instance_id(number),
        instance_ip: instance_ip(number),
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
    }
}

/// Runs a test on a host of its own, and takes its overlays down whatever happens.
pub(crate) fn on_host(overlays: &[&Label], test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let outcome = scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("these tests need CAP_NET_ADMIN");
                run("ip", &["link", "set", "lo", "up"]);
                let down = Down(overlays);
                test();
                drop(down);
            })
            .join();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

struct Down<'a>(&'a [&'a Label]);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        for name in self.0 {
            if let Err(error) = Overlay::down(name) {
                eprintln!("cannot take {name} down: {error:#}");
                assert!(std::thread::panicking(), "down must not fail");
            }
        }
    }
}

/// Runs a command that must succeed and gives back what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = attempt(program, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn attempt(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

/// Runs `work` in the namespace of an instance.
pub(crate) fn in_instance<T: Send>(
    overlay: &Label,
    number: u32,
    work: impl FnOnce() -> T + Send,
) -> T {
    in_namespace(&instance_netns_path(overlay, &instance_id(number)), work)
}

pub(crate) fn in_namespace<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> T {
    let file = std::fs::File::open(path).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// Everything of a machine that an overlay may change, as text.
pub(crate) fn snapshot(names: &[&Label]) -> Vec<String> {
    let is_ours = |name: &str| names.iter().any(|ours| name.starts_with(ours.as_str()));
    let list = |dir: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| is_ours(name)).collect()
    };
    let mut parts = vec![
        format!("{:?}", list("/run/netns")),
        format!("{:?}", list("/run/weald")),
        settings(),
    ];
    for arguments in [
        ["-o", "link", "show"].as_slice(),
        &["-o", "addr", "show"],
        &["-4", "route", "show", "table", "all"],
        &["-6", "route", "show", "table", "all"],
        &["-4", "rule", "show"],
        &["-6", "rule", "show"],
    ] {
        parts.push(run("ip", arguments));
    }
    parts.push(run("nft", &["-s", "list", "ruleset"]));
    parts
}

/// Says which lines differ between two snapshots.
pub(crate) fn difference(before: &[String], after: &[String]) -> String {
    let lines = |parts: &[String]| -> BTreeSet<String> {
        let lines = parts.iter().flat_map(|part| part.lines());
        lines.map(str::to_owned).collect()
    };
    let (before, after) = (lines(before), lines(after));
    let lost = before.difference(&after).map(|line| format!("- {line}\n"));
    let new = after.difference(&before).map(|line| format!("+ {line}\n"));
    lost.chain(new).collect()
}

fn settings() -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut dirs = vec![
        Path::new("/proc/sys/net/ipv4").to_owned(),
        Path::new("/proc/sys/net/ipv6/conf").to_owned(),
    ];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(value) = std::fs::read_to_string(&path) {
                lines.push(format!("{} {}", path.display(), value.trim()));
            }
        }
    }
    lines.sort();
    lines.join("\n")
}

/// Writes back every packet that the TUN gives, until dropped.
pub(crate) struct Reflector {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Vec<u8>>>>,
}

impl Reflector {
    pub(crate) fn start(tun: Tun) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            let mut buffer = vec![0; 70_000];
            while !stopped.load(Ordering::Relaxed) {
                let mut fds = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, 20_u16).unwrap();
                while let Ok(length) = tun.recv(&mut buffer) {
                    seen.push(buffer[VNET_HEADER_LEN..length].to_vec());
                    tun.send(&buffer[..length]).unwrap();
                }
            }
            seen
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Stops and gives back the packets that passed.
    pub(crate) fn stop(mut self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Listens in the calling thread's namespace and says from where the first connection came.
pub(crate) fn accept_one(listener: TcpListener) -> JoinHandle<IpAddr> {
    std::thread::spawn(move || listener.accept().unwrap().1.ip().to_canonical())
}

/// The address that a connection is made from.
pub(crate) fn connect(to: SocketAddr) -> io::Result<IpAddr> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    Ok(stream.local_addr()?.ip())
}

/// Sends a datagram and gives back the answer, or the error.
pub(crate) fn ask(to: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if to.is_ipv6() {
        IpAddr::from([0_u16; 8])
    } else {
        IpAddr::from([0_u8; 4])
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"ask")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}

/// Waits until a counter of the overlay has at least this value, and gives it back.
pub(crate) fn counted(overlay: &Overlay, counter: &str, least: u64) -> u64 {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let count = overlay.nft_counters().unwrap().read().unwrap()[counter];
        if count >= least || std::time::Instant::now() > until {
            return count;
        }
        std::thread::yield_now();
    }
}

/// A network outside of the host: a namespace with one link to it.
pub(crate) struct Outside {
    namespace: std::fs::File,
}

impl Outside {
    /// Makes the namespace and the link: 203.0.113.1 and 2001:db8::1 outside, .2 and ::2 on the
    /// host, whose default routes it is.
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            std::fs::File::open("/proc/thread-self/ns/net").unwrap()
        };
        let namespace = std::thread::spawn(make).join().unwrap();
        let outside = Self { namespace };
        let path = outside.path();
        run(
            "ip",
            &[
                "link", "add", "lan0", "type", "veth", "peer", "name", "x0", "netns", &path,
            ],
        );
        // No address of the kernel's own, which would come up at a time of its own.
        run("ip", &["link", "set", "lan0", "addrgenmode", "none"]);
        for (address, gateway) in [
            ("203.0.113.2/24", "203.0.113.1"),
            ("2001:db8::2/64", "2001:db8::1"),
        ] {
            run("ip", &["addr", "add", address, "dev", "lan0", "nodad"]);
            run("ip", &["link", "set", "lan0", "up"]);
            run("ip", &["route", "add", "default", "via", gateway]);
        }
        outside.inside(|| {
            for address in ["203.0.113.1/24", "2001:db8::1/64"] {
                run("ip", &["addr", "add", address, "dev", "x0", "nodad"]);
            }
            run("ip", &["link", "set", "x0", "up"]);
        });
        outside
    }

    fn path(&self) -> String {
        use std::os::fd::AsRawFd as _;
        let descriptor = self.namespace.as_raw_fd();
        format!("/proc/{}/fd/{descriptor}", std::process::id())
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_namespace(Path::new(&self.path()), work)
    }
}

/// What an overlay may change inside its own namespace, as text.
pub(crate) fn snapshot_inside(name: &Label) -> Vec<String> {
    let path = Path::new("/run/netns").join(name.as_str());
    in_namespace(&path, || snapshot(&[]))
}
