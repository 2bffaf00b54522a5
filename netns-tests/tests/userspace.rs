//! Userspace mode with real programs: a node without TUN and privileges behind one NAT, one with a
//! TUN behind another. Programs of the first reach instances on the second by SOCKS5, HTTP CONNECT and
//! a forwarded port; the second's instances reach servers that the first publishes.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::pair::{self, NODES};
use netns_tests::transfer::{
    hears_a_reset, is_refused, join, pattern, read_all, spawn_reader, write_pattern,
};
use netns_tests::{Description, Fleet, Lab, Machine, Process, Segment, command, require, wait};

const SOON: Duration = Duration::from_secs(30);
/// No timeout of ours or of the kernel is as short.
const AT_ONCE: Duration = Duration::from_millis(500);

/// `web` has two instances on beta, `six` is the same with IPv6 only, `files` has one on alpha,
/// which publishes it; a second port of it leads to a server that is not there.
const TABLE: &str = r#"
[[relay]]
id = "hub/r1"
addresses = ["203.0.113.10:10250"]

[[node]]
id = "home/alpha"
organisation = "acme"
ipv4 = "10.30.0.1"
ipv6 = "fdff::1"

[[node]]
id = "home/beta"
organisation = "acme"
ipv4 = "10.30.0.2"
ipv6 = "fdff::2"

[[service]]
application = "home.lab"
name = "web.lab"
organisation = "acme"
LANE
rr = { ipv4 = "10.30.100.1", ipv6 = "fdff:2000::1" }
closest = { ipv4 = "10.30.101.1", ipv6 = "fdff:1000::1" }

[[service.instance]]
number = 0
node = "home/beta"
ipv4 = "10.30.1.1"
ipv6 = "fdff::1:1"

[[service.instance]]
number = 1
node = "home/beta"
ipv4 = "10.30.1.2"
ipv6 = "fdff::1:2"

[[service]]
application = "home.lab"
name = "six.lab"
organisation = "acme"
LANE
rr = { ipv6 = "fdff:2000::2" }
closest = { ipv6 = "fdff:1000::2" }

[[service.instance]]
number = 0
node = "home/beta"
ipv6 = "fdff::1:6"

[[service]]
application = "home.lab"
name = "files.lab"
organisation = "acme"
LANE
rr = { ipv4 = "10.30.100.3", ipv6 = "fdff:2000::3" }
closest = { ipv4 = "10.30.101.3", ipv6 = "fdff:1000::3" }

[[service.instance]]
number = 0
node = "home/alpha"
ipv4 = "10.30.1.3"
ipv6 = "fdff::1:3"

[[service]]
application = "home.lab"
name = "empty.lab"
organisation = "acme"
LANE
rr = { ipv4 = "10.30.100.4", ipv6 = "fdff:2000::4" }
closest = { ipv4 = "10.30.101.4", ipv6 = "fdff:1000::4" }
"#;

const WEB: [&str; 2] = ["home.lab.web.lab.0", "home.lab.web.lab.1"];
const SIX: &str = "home.lab.six.lab.0";
const FILES: &str = "home.lab.files.lab.0";
const SOCKS: &str = "127.0.0.1:1080";
const HTTP: &str = "127.0.0.1:1081";
/// Forwarded on alpha to the raw server of `web` 0, and to nginx.
const RAW_FORWARD: &str = "127.0.0.1:7001";
const WEB_FORWARD: &str = "[::1]:8081";
/// Where alpha's own server listens, and where none does.
const SERVER: u16 = 8080;
const NO_SERVER: u16 = 8999;
/// What is fetched with its checksum, in each direction.
const BYTES: usize = 20_000_000;

#[test]
fn programs_without_privileges_fetch_by_name() -> Result<()> {
    let lab = lab()?;
    let fleet = start(&lab, "")?;
    let _servers = serve_on_beta(&fleet)?;
    let socks = ["--socks5-hostname", SOCKS];
    let http = ["--proxytunnel", "-x", HTTP];
    for proxy in [&socks[..], &http[..]] {
        let fetch = |host: &str| curl(&fleet, proxy, &format!("http://{host}/"));
        let mut pages = [
            fetch("home.lab.web.lab.rr.local")?,
            fetch("home.lab.web.lab.any.rr")?,
        ];
        pages.sort();
        ensure!(pages == ["web-0", "web-1"], "each in turn: {pages:?}");
        let page = fetch("home.lab.web.lab.closest.local")?;
        ensure!(page.starts_with("web-"), "{page}");
        for (number, name) in ["web-0", "web-1"].iter().enumerate() {
            let page = fetch(&format!("home.lab.web.lab.{number}.instance.local"))?;
            ensure!(page == *name, "{page}");
        }
        for host in [
            "home.lab.six.lab.rr.local",
            "home.lab.six.lab.0.instance.local",
            "[fdff:2000::2]",
            "[fdff::1:6]",
        ] {
            let page = fetch(host)?;
            ensure!(page == "six-0", "{host}: {page}");
        }
        let page = fetch("10.30.1.2")?;
        ensure!(page == "web-1", "{page}");
        // Short names mean the application that was named at the start.
        let page = fetch("web.lab.0.instance.local")?;
        ensure!(page == "web-0", "{page}");
    }
    let page = curl(&fleet, &[], &format!("http://{WEB_FORWARD}/"))?;
    ensure!(page.starts_with("web-"), "{page}");
    // The servers have seen the node's address, as they see programs of a node with a TUN.
    let seen = curl(&fleet, &socks, "http://10.30.1.1/client")?;
    ensure!(seen == "10.30.0.1", "{seen}");
    Ok(())
}

#[test]
fn what_is_not_there_is_refused_exactly() -> Result<()> {
    let lab = lab()?;
    let fleet = start(&lab, "")?;
    let _servers = serve_on_beta(&fleet)?;
    warm_up(&fleet)?;
    let wire = lab.node("alpha").interfaces().first().context("no link")?;
    let capture = lab.node("alpha").capture(&wire.name)?;
    for (target, socks, status, says) in [
        ("home.lab.web.lab.0.instance.local:9", 5, "502", "refuses"),
        ("[fdff::1:6]:9", 5, "502", "refuses"),
        ("home.lab.empty.lab.rr.local:80", 5, "502", "refuses"),
        ("home.lab.wbe.lab.rr.local:80", 4, "502", "did you mean"),
        (
            "home.lab.web.lab.7.instance.local:80",
            4,
            "502",
            "no instance 7",
        ),
        ("example.com:80", 4, "502", "nobody else is asked"),
        ("printer.local:80", 4, "502", "nobody else is asked"),
        ("localhost:8080", 4, "502", "nobody else is asked"),
        ("192.0.2.1:80", 2, "403", "leads nowhere else"),
        ("127.0.0.1:8080", 2, "403", "leads nowhere else"),
    ] {
        let began = Instant::now();
        let reply = socks_reply(&fleet, target)?;
        ensure!(reply == socks, "{target}: SOCKS reply {reply}, not {socks}");
        let answer = connect_answer(&fleet, target)?;
        ensure!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(says),
            "{target}: {answer}"
        );
        ensure!(
            began.elapsed() < AT_ONCE * 2,
            "{target}: {:?}",
            began.elapsed()
        );
    }
    // Real clients understand it.
    let output = run_curl(&fleet, &["--socks5-hostname", SOCKS], "http://example.com/")?;
    ensure!(output.status.code() == Some(97), "{output:?}");
    let output = run_curl(
        &fleet,
        &["--proxytunnel", "-x", HTTP],
        "http://example.com/",
    )?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains("502"),
        "{output:?}"
    );
    let captured = capture.stop()?;
    captured.ensure_complete()?;
    for name in ["example", "printer", "localhost"] {
        let seen = captured.count_containing(name.as_bytes());
        ensure!(seen == 0, "{name} was seen on the wire {seen} times");
    }
    Ok(())
}

#[test]
fn a_published_server_is_reached_over_both_lanes() -> Result<()> {
    for (lane, streams) in [("lane = \"l3\"", 0), ("lane = \"l4\"", 4)] {
        let lab = lab()?;
        let fleet = start(&lab, lane)?;
        let _servers = serve_on_beta(&fleet)?;
        let _published = serve_on_alpha(&lab)?;
        warm_up(&fleet)?;
        for url in [
            "http://home.lab.files.lab.rr.local:80/",
            "http://files.lab.closest.local:80/",
            "http://10.30.1.3:80/",
            "http://[fdff::1:3]:80/",
        ] {
            let fetch = ["curl", "-sSf", "--max-time", "20", url];
            let page = fleet.run_in("beta", WEB[0], &fetch, SOON)?;
            ensure!(page.trim() == "from alpha's host", "{lane} {url}: {page}");
        }
        // Where no server listens, and at a port that is not published.
        let inside = fleet.instance("beta", WEB[0])?;
        for port in [81, 9] {
            let address = SocketAddr::new("10.30.1.3".parse()?, port);
            is_refused(&inside, address, AT_ONCE).context(lane)?;
        }
        let status = fleet.tool_json("alpha", &["status"])?;
        let (packets, userspace) = (&status[0]["packets"], &status[0]["userspace"]);
        ensure!(
            packets["streams"]["accepted"] == streams,
            "{lane}: {status:?}"
        );
        ensure!(userspace["accepted"] == 4 - streams, "{lane}: {status:?}");
        // From here flows never take the L4 lane, and say why.
        let lanes = packets["lanes"].as_array().context("no lanes")?;
        let reasons: Vec<&str> = lanes
            .iter()
            .filter_map(|it| it["reason"].as_str())
            .collect();
        let why = reasons.contains(&"userspace mode has no l4 lane");
        ensure!(why == (streams > 0), "{lane}: {reasons:?}");
        ensure!(lanes.iter().all(|it| it["lane"] != "l4"), "{lanes:?}");
    }
    Ok(())
}

#[test]
fn large_files_arrive_whole_in_both_directions() -> Result<()> {
    let lab = lab()?;
    let fleet = start(&lab, "")?;
    let _servers = serve_on_beta(&fleet)?;
    let _published = serve_on_alpha(&lab)?;
    let fetched = lab.dir().join("fetched");
    let to = fetched.to_str().context("a path that is not UTF-8")?;
    let fetch = ["curl", "-sSfg", "--max-time", "60", "-o", to];
    for (name, target) in [
        ("from-beta", "home.lab.web.lab.0.instance.local"),
        ("from-beta", "[fdff::1:1]"),
        ("from-alpha", "10.30.1.3"),
        ("from-alpha", "[fdff::1:3]"),
    ] {
        let url = format!("http://{target}/large");
        if name == "from-beta" {
            let mut command = std::process::Command::new(fetch[0]);
            command.args(&fetch[1..]);
            command.args(["--socks5-hostname", SOCKS, &url]);
            lab.node("alpha").run_ok(command, SOON * 3)?;
        } else {
            let fetch = [&fetch[..], &[url.as_str()]].concat();
            fleet.run_in("beta", WEB[0], &fetch, SOON * 3)?;
        }
        let sum = |path: &std::path::Path| {
            let line = format!("sha256sum < {}", path.display());
            lab.node("alpha").run_ok(shell(&line), SOON)
        };
        let original = lab.dir().join(name).join("large");
        let lengths = [
            fs::metadata(&fetched)?.len(),
            fs::metadata(&original)?.len(),
        ];
        ensure!(
            sum(&fetched)? == sum(&original)?,
            "{name}: {lengths:?} bytes"
        );
    }
    Ok(())
}

#[test]
fn either_end_may_close_its_direction_first_and_resets_cross() -> Result<()> {
    let lab = lab()?;
    let fleet = start(&lab, "")?;
    let inside = fleet.instance("beta", WEB[0])?;
    let listener = inside.tcp_listen(pair::anywhere())?;
    let host = lab.node("alpha");
    let forward: SocketAddr = RAW_FORWARD.parse()?;
    // Both directions at once, and each end says when it has said all.
    let mut client = host.tcp_connect(forward, SOON)??;
    let (server, _) = listener.accept()?;
    let readers = [
        spawn_reader(server.try_clone()?, BYTES, 1),
        spawn_reader(client.try_clone()?, BYTES, 2),
    ];
    let writing = server.try_clone()?;
    let writer = thread::spawn(move || write_pattern(writing, BYTES, 2));
    write_pattern(client.try_clone()?, BYTES, 1)?;
    join(writer)?;
    for reader in readers {
        join(reader)?;
    }
    drop((client, server));
    // The client closes first, and then hears everything; and the other way round.
    client = host.tcp_connect(forward, SOON)??;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"question")?;
    client.shutdown(Shutdown::Write)?;
    ensure!(read_all(&mut server)? == b"question");
    server.write_all(b"an answer after the end")?;
    drop(server);
    ensure!(read_all(&mut client)? == b"an answer after the end");
    client = host.tcp_connect(forward, SOON)??;
    let (mut server, _) = listener.accept()?;
    server.write_all(b"banner")?;
    server.shutdown(Shutdown::Write)?;
    ensure!(read_all(&mut client)? == b"banner");
    client.write_all(b"more, after the end")?;
    drop(client);
    ensure!(read_all(&mut server)? == b"more, after the end");
    drop(server);
    for server_resets in [true, false] {
        let mut client = host.tcp_connect(forward, SOON)??;
        let (mut server, _) = listener.accept()?;
        client.write_all(b"x")?;
        server.read_exact(&mut [0])?;
        let (gone, mut stays) = if server_resets {
            (server, client)
        } else {
            (client, server)
        };
        socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO))?;
        drop(gone);
        hears_a_reset(&mut stays, SOON)?;
    }
    wait::until("no connection is left", SOON, || {
        let status = fleet.tool_json("alpha", &["status"])?;
        ensure!(status[0]["userspace"]["open"] == 0, "{status:?}");
        Ok(())
    })
}

#[test]
fn a_reader_that_stops_holds_its_sender_back() -> Result<()> {
    /// What the client's and the server's sockets grow to (4 MiB and 6 MiB), and our own buffers.
    const BOUND: usize = 16 << 20;
    let lab = lab()?;
    let fleet = start(&lab, "")?;
    let inside = fleet.instance("beta", WEB[0])?;
    let listener = inside.tcp_listen(pair::anywhere())?;
    let client = lab
        .node("alpha")
        .tcp_connect(RAW_FORWARD.parse()?, SOON)??;
    let (mut server, _) = listener.accept()?;
    // A second without progress is a sender that is held back.
    client.set_write_timeout(Some(Duration::from_secs(1)))?;
    let block = vec![7; 1 << 16];
    let mut accepted = 0;
    loop {
        match (&client).write(&block) {
            Ok(count) => accepted += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        }
        ensure!(accepted < BOUND, "{accepted} bytes and no end");
    }
    drop(client);
    let got = std::io::copy(&mut server, &mut std::io::sink())?;
    ensure!(got == accepted as u64, "{got} of {accepted}");
    Ok(())
}

#[test]
fn the_tools_work_as_the_same_user() -> Result<()> {
    let lab = lab()?;
    let mut fleet = start(&lab, "")?;
    let _servers = serve_on_beta(&fleet)?;
    curl(
        &fleet,
        &["--socks5-hostname", SOCKS],
        "http://web.lab.rr.local/",
    )?;
    let tool = |fleet: &Fleet<'_>, arguments: &[&str]| -> Result<Output> {
        let command = fleet.tool_of_nobody("alpha", arguments)?;
        lab.node("alpha").run(command, SOON)
    };
    for (arguments, says) in [
        (&["status"][..], "SOCKS5 127.0.0.1:1080"),
        (&["peers"], "home/beta"),
        (&["flows"], "10.30.0.1"),
        (&["dig", "home.lab.web.lab.rr.local"], "10.30.100.1"),
        (
            &["ping", "-c", "1", "home.lab.web.lab.0.instance.local"],
            "reply from home.lab.web.lab.0 on home/beta",
        ),
        (
            &["ping", "-6", "-c", "1", "home.lab.six.lab.rr.local"],
            "reply from home.lab.six.lab.0 on home/beta",
        ),
    ] {
        let output = tool(&fleet, arguments)?;
        let printed = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        ensure!(printed.contains(says), "{arguments:?}: {printed}");
    }
    for (arguments, says) in [
        (
            &["attach", "home.lab.web.lab.9", "--ipv4", "10.30.9.9"][..],
            "--publish",
        ),
        (&["bench", "home/beta"], "userspace mode"),
    ] {
        let output = tool(&fleet, arguments)?;
        let printed = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !output.status.success() && printed.contains(says),
            "{arguments:?}: {printed}"
        );
    }
    // The node's own address answers echos, and so does that of the published instance.
    for address in ["10.30.0.1", "fdff::1", "10.30.1.3", "fdff::1:3"] {
        let line = format!("ping -c 1 -W 5 {address}");
        lab.node("beta").run_ok(command(&line), SOON)?;
    }
    let status = fleet.tool_json("alpha", &["status"])?;
    let missing = &status[0]["userspace"]["not_published"];
    ensure!(missing.as_array().is_some_and(Vec::is_empty), "{missing}");
    fleet.write_table(&TABLE.replace("LANE", "").replace(
        "number = 0\nnode = \"home/alpha\"",
        "number = 0\nnode = \"home/beta\"",
    ))?;
    wait::until("the publication is off", SOON, || {
        let status = fleet.tool_json("alpha", &["status"])?;
        let missing = &status[0]["userspace"]["not_published"];
        ensure!(missing.to_string().contains("home/beta"), "{missing}");
        Ok(())
    })?;
    let output = tool(&fleet, &["down"])?;
    ensure!(output.status.success(), "{output:?}");
    let ended = fleet.daemon("alpha").wait(SOON)?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}

#[test]
fn one_flow_beside_the_same_through_a_tun() -> Result<()> {
    const ROUNDS: usize = 3;
    /// Far below what was measured, on a machine with other work.
    const LEAST: f64 = 0.05;
    require::programs(&["setpriv"])?;
    let node = |name: &str, number| Machine::host(name).at("lan", number);
    let lab = Lab::new(
        &Description::new()
            .segment(Segment::new("lan").v4("192.168.7.0/24"))
            .machine(node("relay", 10))
            .machine(node("alpha", 1))
            .machine(node("beta", 2))
            .machine(node("gamma", 3)),
    )?;
    let mut fleet = Fleet::new(&lab)?;
    let gamma = "[[node]]\nid = \"home/gamma\"\norganisation = \"acme\"\nipv4 = \"10.30.0.3\"\n";
    let table = TABLE
        .replace("LANE", "")
        .replace("203.0.113.10", "192.168.7.10");
    fleet.write_table(&format!("{table}\n{gamma}"))?;
    fleet.start_relay("relay", "hub/r1", "")?;
    for (machine, id) in [NODES[1], ("gamma", "home/gamma"), NODES[0]] {
        fleet.add_node(machine, id, "acme", "")?;
        if machine == "alpha" {
            let forward = format!("{RAW_FORWARD}=10.30.1.1:{}", pair::PORT);
            fleet.start_userspace(machine, &["--forward", &forward])?;
        } else {
            fleet.start(machine)?;
        }
    }
    let inside = fleet.instance("beta", WEB[0])?;
    let listener = inside.tcp_listen(pair::anywhere())?;
    let ways = [
        ("alpha", RAW_FORWARD.parse()?),
        ("gamma", pair::at("10.30.1.1")),
    ];
    let connect = |machine, to| {
        let client = lab.node(machine).tcp_connect(to, SOON)??;
        anyhow::Ok((client, listener.accept()?.0))
    };
    for (machine, to) in ways {
        connect(machine, to)?;
        let peer = || {
            let peer = fleet.peer(machine, "home/beta")?;
            ensure!(peer["path"]["kind"] == "direct", "{peer}");
            Ok(())
        };
        wait::until("the path is direct", SOON, peer)?;
    }
    // To beta and from beta, in userspace mode and with a TUN.
    let mut rates: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (way, (machine, to)) in ways.into_iter().enumerate() {
            let (client, server) = connect(machine, to)?;
            rates[0][way].push(rate(client, server)?);
            let (client, server) = connect(machine, to)?;
            rates[1][way].push(rate(server, client)?);
        }
    }
    for (direction, [userspace, tun]) in ["to the instance", "from it"].iter().zip(&mut rates) {
        let [own, other] = [median(userspace), median(tun)];
        let shown = format!(
            "{direction}: userspace {own:.2} of {userspace:.2?}, TUN {other:.2} of {tun:.2?} Gbit/s"
        );
        println!("{shown}");
        ensure!(own >= LEAST * other, "{shown}");
    }
    Ok(())
}

/// Gbit/s of one transfer, from its first byte until its end has come.
fn rate(mut from: TcpStream, mut to: TcpStream) -> Result<f64> {
    const BLOCKS: usize = 3200;
    let began = Instant::now();
    let writer = thread::spawn(move || -> Result<()> {
        from.set_write_timeout(Some(SOON))?;
        let block = vec![7; 1 << 16];
        for _ in 0..BLOCKS {
            from.write_all(&block)?;
        }
        from.shutdown(Shutdown::Write)?;
        // Until the other end has closed as well.
        from.set_read_timeout(Some(SOON))?;
        from.read_to_end(&mut Vec::new())?;
        Ok(())
    });
    to.set_read_timeout(Some(SOON))?;
    let got = std::io::copy(&mut to, &mut std::io::sink())?;
    let seconds = began.elapsed().as_secs_f64();
    drop(to);
    join(writer)?;
    ensure!(got == (BLOCKS as u64) << 16, "{got} bytes came");
    Ok(got as f64 * 8.0 / seconds / 1e9)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn lab() -> Result<Lab> {
    require::programs(&["setpriv", "curl", "nginx", "ping"])?;
    Lab::new(
        &pair::behind_nats("192.168.8.0/24")
            .machine(Machine::host("alpha").at("site-a", 1))
            .machine(Machine::host("beta").at("site-b", 1)),
    )
}

/// Starts the relay, beta with a TUN, and alpha in userspace mode; services have that lane.
fn start<'lab>(lab: &'lab Lab, lane: &str) -> Result<Fleet<'lab>> {
    let mut fleet = Fleet::new(lab)?;
    fleet.write_table(&TABLE.replace("LANE", lane))?;
    fleet.start_relay("relay", "hub/r1", "")?;
    for (machine, id) in NODES {
        fleet.add_node(machine, id, "acme", "")?;
    }
    fleet.start("beta")?;
    let raw = format!("{RAW_FORWARD}=web.lab.0.instance.local:{}", pair::PORT);
    let web = format!("{WEB_FORWARD}=home.lab.web.lab.rr.local:80");
    let published = format!("{FILES}:80=127.0.0.1:{SERVER}");
    let nothing = format!("{FILES}:81=127.0.0.1:{NO_SERVER}");
    fleet.start_userspace(
        "alpha",
        &[
            "--application",
            "home.lab",
            "--forward",
            &raw,
            "--forward",
            &web,
            "--publish",
            &published,
            "--publish",
            &nothing,
        ],
    )?;
    Ok(fleet)
}

/// Makes the session of the two nodes, so that what follows is not about that.
fn warm_up(fleet: &Fleet<'_>) -> Result<()> {
    curl(
        fleet,
        &["--socks5-hostname", SOCKS],
        "http://web.lab.rr.local/",
    )
    .map(drop)
}

/// nginx in each of beta's instances; the first has a large file.
fn serve_on_beta(fleet: &Fleet<'_>) -> Result<Vec<Process>> {
    let names = [(WEB[0], "web-0"), (WEB[1], "web-1"), (SIX, "six-0")];
    names
        .into_iter()
        .map(|(instance, page)| {
            let folder = fleet.host("beta").dir()?.join(page);
            let config = nginx(&folder, "listen 80; listen [::]:80;", page)?;
            if page == "web-0" {
                write_large(fleet, "from-beta", &folder)?;
            }
            let server = fleet.spawn_in("beta", instance, &["nginx", "-c", &config])?;
            fleet
                .instance("beta", instance)?
                .wait_tcp_listening(80, SOON)?;
            Ok(server)
        })
        .collect()
}

/// nginx on alpha's host, at loopback only.
fn serve_on_alpha(lab: &Lab) -> Result<Process> {
    let folder = lab.dir().join("from-alpha");
    let listen = format!("listen 127.0.0.1:{SERVER};");
    let config = nginx(&folder, &listen, "from alpha's host")?;
    write_pseudo_random(&folder.join("large"), 7)?;
    let server = lab
        .node("alpha")
        .spawn(command(&format!("nginx -c {config}")))?;
    lab.node("alpha").wait_tcp_listening(SERVER, SOON)?;
    Ok(server)
}

/// Writes a configuration of nginx; its path.
fn nginx(folder: &std::path::Path, listen: &str, page: &str) -> Result<String> {
    fs::create_dir_all(folder)?;
    let shown = folder.display();
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String = kinds
        .iter()
        .map(|kind| format!("{kind}_temp_path {shown}/{kind};\n"))
        .collect();
    let text = format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {shown}/pid;\nerror_log {shown}/error;\n\
         events {{ worker_connections 256; }}\n\
         http {{\naccess_log off;\n{temporary}\
         server {{\n{listen}\nroot {shown};\n\
         location = / {{ return 200 \"{page}\"; }}\n\
         location = /client {{ return 200 $remote_addr; }}\n}}\n}}\n"
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, text)?;
    Ok(path
        .to_str()
        .context("a path that is not UTF-8")?
        .to_owned())
}

/// The same large file for nginx and for whoever compares.
fn write_large(fleet: &Fleet<'_>, name: &str, served: &std::path::Path) -> Result<()> {
    let kept = fleet.host("beta").dir()?;
    let kept = kept.parent().context("no parent")?.join(name);
    fs::create_dir_all(&kept)?;
    write_pseudo_random(&kept.join("large"), 5)?;
    fs::copy(kept.join("large"), served.join("large"))?;
    Ok(())
}

fn write_pseudo_random(path: &std::path::Path, seed: u64) -> Result<()> {
    let bytes: Vec<u8> = (0..BYTES).map(|at| pattern(seed, at)).collect();
    Ok(fs::write(path, bytes)?)
}

/// Fetches a page on alpha's host; what it says.
fn curl(fleet: &Fleet<'_>, options: &[&str], url: &str) -> Result<String> {
    let output = run_curl(fleet, options, url)?;
    ensure!(output.status.success(), "{options:?} {url}: {output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn run_curl(fleet: &Fleet<'_>, options: &[&str], url: &str) -> Result<Output> {
    let mut command = std::process::Command::new("curl");
    command.args(["-sSfg", "--noproxy", "", "--max-time", "20"]);
    command.args(options).arg(url);
    fleet.host("alpha").run(command, SOON)
}

fn shell(line: &str) -> std::process::Command {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", line]);
    command
}

/// What SOCKS5 replies to a request for a target.
fn socks_reply(fleet: &Fleet<'_>, target: &str) -> Result<u8> {
    let (host, port) = target.rsplit_once(':').context("no port")?;
    let port: u16 = port.parse()?;
    let mut client = fleet.host("alpha").tcp_connect(SOCKS.parse()?, SOON)??;
    client.set_read_timeout(Some(SOON))?;
    client.write_all(&[5, 1, 0])?;
    let mut method = [0; 2];
    client.read_exact(&mut method)?;
    ensure!(method == [5, 0], "{method:?}");
    let host = host.trim_matches(['[', ']']);
    let mut request = vec![5, 1, 0, 3, u8::try_from(host.len())?];
    request.extend(host.bytes());
    request.extend(port.to_be_bytes());
    client.write_all(&request)?;
    let mut reply = [0; 2];
    client.read_exact(&mut reply)?;
    Ok(reply[1])
}

/// What HTTP CONNECT answers to a request for a target: all of it, because it closes then.
fn connect_answer(fleet: &Fleet<'_>, target: &str) -> Result<String> {
    let mut client = fleet.host("alpha").tcp_connect(HTTP.parse()?, SOON)??;
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    client.write_all(request.as_bytes())?;
    Ok(String::from_utf8(read_all(&mut client)?)?)
}
