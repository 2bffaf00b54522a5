//! Where instances run: their network namespace and resolvers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use orchestrator::runtime::Runtime as _;
use orchestrator_core::worker::RuntimeEvent;

use super::lab::{Lab, instance, script};

/// A network namespace with a name, as `ip netns` makes them.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        ip(&["netns", "add", &name]);
        Self(name)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(words: &[&str]) {
    let status = Command::new("ip").args(words).status().unwrap();
    assert!(status.success(), "ip {words:?}");
}

#[tokio::test]
async fn an_instance_is_in_its_namespace_and_has_its_resolvers() {
    let namespace = Namespace::new("weald-run");
    let mut lab = Lab::new();
    let resolv_conf = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(resolv_conf.path(), "nameserver 10.30.0.53\n").unwrap();
    let hosts = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    let mut inside = script(
        0,
        1,
        "readlink /proc/self/ns/net; cat /etc/resolv.conf; exec sleep 1000",
    );
    inside.netns = Some(namespace.path());
    inside.resolv_conf = Some(resolv_conf.path().to_owned());
    lab.run(inside).await;
    lab.line(0, |line| line.starts_with("nameserver")).await;
    let inode = std::os::unix::fs::MetadataExt::ino(&namespace.path().metadata().unwrap());
    assert_eq!(
        lab.log(0),
        [format!("net:[{inode}]"), "nameserver 10.30.0.53".to_owned()]
    );
    // The host's own is what it was.
    assert_eq!(std::fs::read_to_string("/etc/resolv.conf").unwrap(), hosts);
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn an_instance_listens_once_it_does_so_in_its_namespace() {
    let namespace = Namespace::new("weald-listen");
    let mut lab = Lab::new();
    // On the host the same port is listened on all the time.
    let host = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = host.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let (go, mark) = (folder.path().join("go"), folder.path().join("mark"));
    let fifo = Command::new("mkfifo").arg(&go).status().unwrap();
    assert!(fifo.success());
    let mut inside = script(
        0,
        1,
        &format!(
            "read _ < {}; touch {}; exec python3 -c 'import socket, time; \
             server = socket.create_server((\"0.0.0.0\", {port})); time.sleep(1000)'",
            go.display(),
            mark.display()
        ),
    );
    inside.netns = Some(namespace.path());
    lab.run(inside).await;
    let ports = BTreeSet::from([port]);
    lab.runtime.await_listening(&instance(0), 2, ports.clone());
    lab.runtime.await_listening(&instance(0), 1, ports.clone());
    tokio::task::spawn_blocking(move || std::fs::write(go, "go\n").unwrap());
    lab.expect(0, 1, RuntimeEvent::Listens).await;
    assert!(mark.exists(), "it was said before it was so");
    // One that is asked again says it again, and one that ends while it is looked at says no more.
    lab.runtime.await_listening(&instance(0), 1, ports);
    lab.expect(0, 1, RuntimeEvent::Listens).await;
    lab.runtime
        .await_listening(&instance(0), 1, BTreeSet::from([1]));
    lab.stop(0, 1).await;
    lab.must_be_clean();
}

#[tokio::test]
async fn without_a_namespace_an_instance_is_in_the_workers() {
    let mut lab = Lab::new();
    lab.run(script(
        0,
        1,
        "readlink /proc/self/ns/net /proc/self/ns/mnt; ps -o sid= -p $$; echo $$",
    ))
    .await;
    assert_eq!(lab.exit().await, (0, None));
    let own = |kind: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        link.to_str().unwrap().to_owned()
    };
    let log = lab.log(0);
    assert_eq!(log[..2], [own("net"), own("mnt")]);
    // It leads a session of its own.
    assert_eq!(log[2].trim(), log[3]);
    lab.stop(0, 1).await;
    lab.must_be_clean();
}
