//! Root with its API on loopback, its keys in memory and its store in a folder that goes away.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::SystemTime;

use orchestrator::api::{self, ApiState, Listener, Settings};
use orchestrator::join::JoinDesk;
use orchestrator::keys::{Authority, Keys};
use orchestrator::machine::MachineError;
use orchestrator::root::{self, RootHandle, Told};
use orchestrator::store::{SqliteStore, StateStore as _};
use orchestrator_core::root::{Command, Input, Scope};
use serde_json::{Value, json};
use weald_proto::addr::{Dual, Pools};
use weald_proto::control::{
    Aggregate, ClusterToRoot, InstanceReport, NodeCapacity, NodeReport, Phase, Reason, Refusal,
    RootToCluster, Standing, VERSION,
};
use weald_proto::id::{Label, NodeId, Organisation};
use weald_proto::name::{InstanceId, Zone};
use weald_proto::spec::{Place, Resources, Runtime};
use weald_trust::pki::RootAuthority;

use crate::client::{self, Answer};

pub(crate) const PASSWORD: &str = "correct horse";

/// What is played of clusters: each takes what it is offered, or refuses everything.
#[derive(Default)]
struct Play {
    handle: Mutex<Option<RootHandle>>,
    sequence: AtomicU64,
    refuses: Mutex<bool>,
}

impl Play {
    fn hear(&self, told: Told) {
        match told {
            Told::Answer(answer) => answer(),
            Told::Close(..) => {}
            Told::Say(cluster, message) => {
                let answer = match message {
                    RootToCluster::Offer {
                        instance,
                        generation,
                        ..
                    } if *self.refuses.lock().unwrap() => ClusterToRoot::Refused {
                        instance,
                        generation,
                        refusals: vec![Refusal {
                            by: format!("{cluster}/a1"),
                            reason: Reason::NoAddress,
                        }],
                    },
                    RootToCluster::Offer {
                        instance,
                        generation,
                        ..
                    } => self.report(&cluster, instance, generation, Phase::Running),
                    RootToCluster::Withdraw {
                        instance,
                        generation,
                    } => self.report(&cluster, instance, generation, Phase::Terminated),
                    RootToCluster::ReadLogs {
                        request,
                        instance,
                        lines,
                    } => ClusterToRoot::Logs {
                        request,
                        lines: Ok(vec![format!("{lines} of {instance}")]),
                    },
                    RootToCluster::Welcome { .. }
                    | RootToCluster::Grant(_)
                    | RootToCluster::Revocations(_)
                    | RootToCluster::Rows { .. }
                    | RootToCluster::Unknown(_)
                    | RootToCluster::Acknowledged { .. }
                    | RootToCluster::Renewed(_) => return,
                };
                if let Some(handle) = self.handle.lock().unwrap().as_ref() {
                    handle.tell(Input::Cluster(cluster, answer)).unwrap();
                }
            }
        }
    }

    fn next(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn report(
        &self,
        cluster: &Label,
        instance: InstanceId,
        generation: u64,
        phase: Phase,
    ) -> ClusterToRoot {
        ClusterToRoot::Report {
            sequence: self.next(),
            complete: false,
            instances: vec![InstanceReport {
                instance,
                generation,
                phase,
                detail: "as played".to_owned(),
                node: Some(NodeId::new(cluster.clone(), label("a1"))),
                instance_ip: Dual {
                    v4: Some("10.18.0.9".parse().unwrap()),
                    v6: None,
                },
                exit_status: None,
                cpu_percent: 12.5,
                memory_mib: 16,
            }],
        }
    }
}

pub(crate) struct Lab {
    pub(crate) address: SocketAddr,
    pub(crate) handle: RootHandle,
    /// The token of `ada`, an Admin of root; empty if nobody has exchanged the secret.
    pub(crate) ada: String,
    pub(crate) state: ApiState,
    pub(crate) settings: Settings,
    authority: Arc<RootAuthority>,
    folder: tempfile::TempDir,
    play: Arc<Play>,
    server: tokio::task::JoinHandle<()>,
    thread: JoinHandle<Result<(), MachineError>>,
}

pub(crate) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

pub(crate) fn settings() -> Settings {
    Settings {
        names: vec!["weald.example".to_owned()],
        compat_login: false,
        pools: Pools::default(),
        zones: Zone::defaults(),
        fingerprint: [3; 32],
        join_addresses: vec!["192.0.2.1:10101".to_owned()],
    }
}

impl Lab {
    /// With an Admin `ada`.
    pub(crate) async fn start() -> Self {
        let mut lab = Self::bare(settings()).await;
        let secret = api::first_secret(&lab.handle, false).await.unwrap();
        let body = json!({"secret": secret.unwrap(), "username": "ada", "password": PASSWORD});
        let answer = lab.post("/api/v1/auth/first", "", &body).await.json(200);
        lab.ada = answer["token"].as_str().unwrap().to_owned();
        lab
    }

    /// Without any account.
    pub(crate) async fn bare(settings: Settings) -> Self {
        Self::bare_at(settings, "127.0.0.1:0".parse().unwrap()).await
    }

    /// As [`Lab::bare`], at an address that somebody insists on.
    pub(crate) async fn bare_at(settings: Settings, address: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = RootAuthority::create(&label("main"), SystemTime::now()).unwrap();
        Self::at(folder, Arc::new(authority), settings, address).await
    }

    async fn at(
        folder: tempfile::TempDir,
        authority: Arc<RootAuthority>,
        settings: Settings,
        address: SocketAddr,
    ) -> Self {
        let store = SqliteStore::open(folder.path(), "root").unwrap();
        let records = store.load().unwrap();
        let keys = Keys::restore(Authority::Root(Arc::clone(&authority)), &records).unwrap();
        let play = Arc::new(Play::default());
        let player = Arc::clone(&play);
        let (handle, thread) = root::start(keys, Box::new(store), &records, move |told| {
            player.hear(told)
        })
        .unwrap();
        *play.handle.lock().unwrap() = Some(handle.clone());
        let desk = Arc::new(JoinDesk::open(folder.path()).unwrap());
        let state = ApiState::start(handle.clone(), desk, settings.clone());
        let state = state.await.unwrap();
        let listener = Listener::bind(address, None).await.unwrap();
        Self {
            address: listener.address(),
            handle,
            ada: String::new(),
            server: tokio::spawn(api::serve(listener, state.clone())),
            state,
            settings,
            authority,
            folder,
            play,
            thread,
        }
    }

    /// Stops root and starts it again on the same folder.
    pub(crate) async fn restart(self) -> Self {
        self.server.abort();
        let _ = self.server.await;
        drop((self.handle, self.state));
        let (play, thread) = (self.play, self.thread);
        tokio::task::spawn_blocking(move || {
            play.handle.lock().unwrap().take();
            // The player had the last handle.
            thread.join().unwrap().unwrap();
        })
        .await
        .unwrap();
        let anywhere = "127.0.0.1:0".parse().unwrap();
        let again = Self::at(self.folder, self.authority, self.settings, anywhere).await;
        Self {
            ada: self.ada,
            ..again
        }
    }

    /// A cluster that has joined and says that it has one node.
    pub(crate) async fn cluster(&self, name: &str, owner: &str, hosts: Option<&str>) {
        let organisation = |name: &str| Organisation(label(name));
        let cluster = label(name);
        let mut key = [0; 32];
        key[..name.len()].copy_from_slice(name.as_bytes());
        let command = Command::AddCluster {
            name: cluster.clone(),
            key,
            organisations: hosts.map(|it| [organisation(it)].into()),
            owner: organisation(owner),
        };
        self.handle.command(command, Scope::All).await.unwrap();
        let resources = Resources {
            millicpus: 4000,
            memory_mib: 1024,
            ..Resources::default()
        };
        let place = Place {
            latitude: 48.137,
            longitude: 11.576,
            radius_km: 10.0,
        };
        let tell = |message| {
            let input = Input::Cluster(cluster.clone(), message);
            self.handle.tell(input).unwrap();
        };
        let connected = Input::ClusterConnected(cluster.clone());
        self.handle.tell(connected).unwrap();
        tell(ClusterToRoot::Hello {
            version: VERSION,
            place: Some(place),
            grant: 0,
            revocations: 0,
        });
        let heartbeat = move |sequence| ClusterToRoot::Heartbeat {
            sequence,
            aggregate: Aggregate {
                nodes: 1,
                total: resources,
                free: resources,
                largest_free: resources,
                cpu_percent: 7.5,
                memory_percent: 25.0,
                runtimes: vec![Runtime::Process, Runtime::Container],
                ..Aggregate::default()
            },
        };
        tell(heartbeat(1));
        tell(ClusterToRoot::Report {
            sequence: self.play.next(),
            complete: true,
            instances: Vec::new(),
        });
        let (handle, alive) = (self.handle.clone(), cluster.clone());
        tokio::spawn(async move {
            let mut beats = tokio::time::interval(std::time::Duration::from_millis(500));
            for sequence in 2.. {
                beats.tick().await;
                let input = Input::Cluster(alive.clone(), heartbeat(sequence));
                if handle.tell(input).is_err() {
                    return;
                }
            }
        });
        tell(ClusterToRoot::Nodes(vec![NodeReport {
            node: NodeId::new(cluster.clone(), label("a1")),
            standing: Standing::Alive,
            capacity: NodeCapacity {
                total: resources,
                runtimes: vec![Runtime::Process],
                addons: Vec::new(),
                place: None,
            },
            reserved: Resources::default(),
            node_ip: Dual::default(),
            cpu_percent: 7.5,
            memory_mib: 256,
            key: [9; 32],
        }]));
    }

    /// A cluster's link breaks: what it says from now on is not heard.
    pub(crate) fn tell_gone(&self, cluster: &str) {
        let gone = Input::ClusterDisconnected(label(cluster));
        self.handle.tell(gone).unwrap();
    }

    /// From now on clusters refuse, or take, what they are offered.
    pub(crate) fn refuse(&self, refuses: bool) {
        *self.play.refuses.lock().unwrap() = refuses;
    }

    pub(crate) async fn ask(
        &self,
        (method, path): (&str, &str),
        token: &str,
        body: Option<&Value>,
    ) -> Answer {
        let bearer = format!("Bearer {token}");
        let mut headers = Vec::new();
        if !token.is_empty() {
            headers.push(("Authorization", bearer.as_str()));
        }
        let body = body.map(ToString::to_string);
        let bytes = client::request((method, path), &headers, body.as_deref());
        client::send(self.address, &bytes).await
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.ask(("GET", path), token, None).await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: &Value) -> Answer {
        self.ask(("POST", path), token, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, token: &str, body: &Value) -> Answer {
        self.ask(("PUT", path), token, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str, token: &str) -> Answer {
        self.ask(("DELETE", path), token, None).await
    }

    pub(crate) async fn login(&self, name: &str) -> String {
        let body = json!({"username": name, "password": PASSWORD});
        let answer = self.post("/api/auth/login", "", &body).await.json(200);
        answer["token"].as_str().unwrap().to_owned()
    }

    /// A user of an organisation, which is made if need be; returns its token.
    pub(crate) async fn user(&self, name: &str, organisation: &str, role: &str) -> String {
        let body = json!({"name": organisation});
        let made = self.post("/api/organization", &self.ada, &body).await;
        assert!([200, 409].contains(&made.status), "{}", made.body);
        let body = json!({"name": name, "password": PASSWORD, "email": "", "roles": [role],
            "created_at": "24/11/2026 10:00", "organization": organisation});
        let made = self.post("/api/auth/register", &self.ada, &body).await;
        made.json(200);
        self.login(name).await
    }

    /// Waits until what is seen at a path is as wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..500 {
            last = self.get(path, &self.ada).await.json(200);
            if wanted(&last) {
                return last;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{path} has stayed {last}");
    }

    /// The applications, services and instances that REST lists, to compare.
    pub(crate) async fn listed(&self) -> Vec<Value> {
        let mut lists = Vec::new();
        for path in ["/api/applications", "/api/services", "/api/v1/instances"] {
            lists.push(self.get(path, &self.ada).await.json(200));
        }
        lists
    }

    /// Everything that is kept, to compare.
    pub(crate) async fn everything(&self) -> String {
        let look = self.handle.look(|root, _| {
            let applications: Vec<_> = root.applications().cloned().collect();
            let services: Vec<_> = root.services().cloned().collect();
            let instances: Vec<_> = root.instances().cloned().collect();
            let addresses: Vec<_> = root.service_addresses().map(|(ip, _)| ip).collect();
            format!("{applications:?} {services:?} {instances:?} {addresses:?}")
        });
        look.await.unwrap()
    }
}

/// `hello.dev` with the services `names`.
pub(crate) fn sla(application: &str, names: &[&str]) -> Value {
    let services: Vec<_> = names
        .iter()
        .map(|name| {
            json!({"microserviceID": "", "microservice_name": name, "microservice_namespace": "dev",
                "virtualization": "container", "code": "docker.io/library/nginx:alpine",
                "memory": 64, "vcpus": 1, "port": "8080:80"})
        })
        .collect();
    json!({"sla_version": "v2.0", "customerID": "", "applications": [{
        "applicationID": "", "application_name": application, "application_namespace": "dev",
        "application_desc": "smallest example", "microservices": services}]})
}
