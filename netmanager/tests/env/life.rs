//! From nothing to an overlay, over a restart, and back to nothing.

use std::net::TcpListener;

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
        assert_eq!(snapshot(&[&name]), before);
        Overlay::down(&name).unwrap();
        assert_eq!(snapshot(&[&name]), before);
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
