//! From nothing to an overlay, over a restart, and back to nothing.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;

use netmanager::env::config::{host_device, instance_device, state_dir};
use netmanager::env::{Overlay, instance_netns_path};
use netmanager::tun::Offloads;

use crate::host::*;

#[test]
fn up_and_down_leave_nothing() {
    let config = config();
    let name = config.name.clone();
    on_host(&[&name], || {
        let before = snapshot(&[&name]);
        let overlay = Overlay::up(config.clone()).unwrap();
        assert!(instance_netns_path(&name, &instance_id(1)).exists());
        let plan = Overlay::plan(&config).unwrap().to_string();
        let only_tables = plan
            .lines()
            .all(|line| line.starts_with("change nft table"));
        assert!(only_tables, "a second look found work:\n{plan}");
        drop(overlay);
        Overlay::down(&name).unwrap();
        assert_eq!(difference(&before, &snapshot(&[&name])), "");
        Overlay::down(&name).unwrap();
        assert_eq!(difference(&before, &snapshot(&[&name])), "");
    });
}

/// As after `ip netns exec`, whose mounts go with it while the files stay.
#[test]
fn down_removes_the_file_of_a_namespace_that_is_gone() {
    let config = config();
    let name = config.name.clone();
    on_host(&[&name], || {
        let file = Path::new("/run/netns").join(name.as_str());
        std::fs::create_dir_all("/run/netns").unwrap();
        std::fs::write(&file, "").unwrap();
        Overlay::down(&name).unwrap();
        assert!(!file.exists());
        // What is not empty was never a namespace's.
        std::fs::write(&file, "precious").unwrap();
        Overlay::down(&name).unwrap();
        assert!(file.exists());
        std::fs::remove_file(&file).unwrap();
    });
}

#[test]
fn instances_outlive_the_daemon() {
    let config = config();
    let name = config.name.clone();
    on_host(&[&name], || {
        let overlay = Overlay::up(config.clone()).unwrap();
        let reflector = Reflector::start(overlay.open_tun(Offloads::On).unwrap());
        let listener = in_instance(&name, 1, || TcpListener::bind("0.0.0.0:80").unwrap());
        let again = listener.try_clone().unwrap();
        let server = accept_one(listener);
        let target = "10.30.0.11:80".parse().unwrap();
        let source = in_instance(&name, 0, || connect(target)).unwrap();
        assert_eq!(source, server.join().unwrap());
        drop(reflector);
        drop(overlay);

        // No daemon: nothing gets through, and nothing gets out.
        let error = in_instance(&name, 0, || connect(target)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EHOSTUNREACH));

        let overlay = Overlay::up(config.clone()).unwrap();
        let _reflector = Reflector::start(overlay.open_tun(Offloads::On).unwrap());
        let server = accept_one(again);
        let source = in_instance(&name, 0, || connect(target)).unwrap();
        assert_eq!(source, server.join().unwrap());
    });
}

#[test]
fn what_drifted_is_corrected() {
    let mut config = config();
    config.egress = true;
    let name = config.name.clone();
    on_host(&[&name], || {
        drop(Overlay::up(config.clone()).unwrap());
        let look = || {
            let instance = in_instance(&name, 0, || snapshot(&[]));
            [snapshot(&[&name]), snapshot_inside(&name), instance].concat()
        };
        let before = look();
        let device = instance_device(&instance_id(0));
        let host = host_device(&name);
        in_overlay(&name, || {
            let route = ["route", "delete", "10.30.0.10", "table", "20"];
            run("ip", &route);
            let device = device.as_str();
            let stray = ["route", "add", "10.30.0.10", "dev", "up0", "table", "20"];
            run("ip", &stray);
            run("ip", &["rule", "delete", "pref", "100"]);
            run(
                "ip",
                &["rule", "add", "pref", "50", "iif", device, "lookup", "20"],
            );
            run("ip", &["-6", "route", "flush", "table", "20"]);
            run("ip", &["link", "set", device, "down"]);
            run("ip", &["link", "set", "up0", "mtu", "1500"]);
            run(
                "ip",
                &["link", "add", "stray0", "type", "veth", "peer", "stray1"],
            );
            run("nft", &["flush", "ruleset"]);
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        });
        in_instance(&name, 0, || run("ip", &["route", "flush", "table", "main"]));
        run("ip", &["addr", "delete", "10.30.0.1/32", "dev", &host]);
        run("nft", &["delete", "table", "inet", name.as_str()]);

        drop(Overlay::up(config.clone()).unwrap());
        assert_eq!(difference(&before, &look()), "");
    });
}

fn in_overlay<T: Send>(name: &weald_proto::id::Label, work: impl FnOnce() -> T + Send) -> T {
    in_namespace(&Path::new("/run/netns").join(name.as_str()), work)
}

#[test]
fn instances_come_and_go_with_the_table() {
    let mut config = config();
    let name = config.name.clone();
    on_host(&[&name], || {
        let mut overlay = Overlay::up(config.clone()).unwrap();
        let _reflector = Reflector::start(overlay.open_tun(Offloads::On).unwrap());
        // A program goes on in the namespace of an instance that is taken away.
        let orphan = in_instance(&name, 1, || UdpSocket::bind("0.0.0.0:0").unwrap());
        config.instances.remove(1);
        config.instances.push(instance(2, &[]));
        overlay.update(config.clone()).unwrap();
        assert!(!instance_netns_path(&name, &instance_id(1)).exists());
        let error = orphan.send_to(b"x", "10.30.0.10:9").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ENETUNREACH));

        let target = "10.30.0.12:80".parse().unwrap();
        let server = accept_one(in_instance(&name, 2, || TcpListener::bind(target).unwrap()));
        let source = in_instance(&name, 0, || connect(target)).unwrap();
        assert_eq!(source, server.join().unwrap());
    });
}

#[test]
fn down_needs_neither_daemon_nor_state_nor_host() {
    let config = config();
    let name = config.name.clone();
    on_host(&[&name], || {
        let before = snapshot(&[&name]);
        // As after a crash of the machine's storage.
        drop(Overlay::up(config.clone()).unwrap());
        std::fs::remove_dir_all(state_dir(&name)).unwrap();
        Overlay::down(&name).unwrap();
        assert_eq!(difference(&before, &snapshot(&[&name])), "");
    });
    // Its host is gone.
    on_host(&[], || drop(Overlay::up(config.clone()).unwrap()));
    on_host(&[&name], || {
        Overlay::down(&name).unwrap();
        assert!(!Path::new("/run/netns").join(name.as_str()).exists());
        assert!(!state_dir(&name).exists());
    });
}

#[test]
fn an_overlay_has_one_daemon_and_one_host() {
    let config = config();
    let name = config.name.clone();
    on_host(&[&name], || {
        let overlay = Overlay::up(config.clone()).unwrap();
        let error = Overlay::up(config.clone()).unwrap_err().to_string();
        assert_eq!(error, format!("another netmanager runs overlay {name}"));
        drop(overlay);
        // The host is found by a process in it: this one is a thread, so a child stands in.
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let refused = std::thread::scope(|scope| {
            let elsewhere = || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let error = Overlay::up(config.clone()).unwrap_err().to_string();
                Overlay::down(&name).unwrap();
                error
            };
            scope.spawn(elsewhere).join()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let expected =
            format!("overlay {name} is up in another network namespace; take it down first");
        assert_eq!(refused.unwrap(), expected);
        let routes = run("ip", &["route", "show"]);
        assert_eq!(routes, "", "down did not find the host");
    });
}
