//! What the processes have decided is carried out: said on links, ordered from runtimes, answered.

use orchestrator_core::cluster;
use orchestrator_core::root;
use orchestrator_core::worker;

use super::links::{End, Link, Said};
use super::process::{Decided, Effect};
use super::runtime::Order;
use super::site::{Who, node_of, site_of};
use super::world::World;

impl World {
    pub(super) fn carry_out(&mut self, who: Who, effects: Vec<Decided>) {
        for (effect, decided) in effects {
            self.note(|| format!("{who:?} does {effect:?}"));
            match (effect, who) {
                (Effect::Answer(number, done), _) => self.answer(number, done),
                (Effect::Root(effect), _) => self.do_for_root(effect, decided),
                (Effect::Cluster(effect), Who::Cluster(site)) => {
                    self.do_for_cluster(site, effect, decided);
                }
                (Effect::Worker(effect), Who::Worker(site, at)) => {
                    self.do_for_worker((site, at), effect, decided);
                }
                (effect, who) => self.disbelieve(format!("{effect:?} of {who:?}")),
            }
        }
    }

    fn say(&mut self, line: (Link, End), decided: Option<u64>, said: Said) {
        let moment = self.moment();
        let random = &mut self.random;
        self.links.say(line, decided, said, moment, random);
    }

    /// An upper end closes a connection: on which Hello did not come first, since what was decided on
    /// an earlier one did, or of a cluster that was removed or revoked.
    fn close(&mut self, link: Link, why: &str) {
        let expected = [
            "must be Hello",
            "was removed",
            "is revoked",
            "root does not know",
        ];
        if !expected.iter().any(|it| why.contains(it)) {
            self.disbelieve(why.to_owned());
        }
        if let Some(connection) = self.links.present(link, End::Upper) {
            let random = &mut self.random;
            let line = (link, connection);
            self.links.cut(line, self.now, Some(100), random);
        }
    }

    /// Operators are told of what is wrong: only that somebody speaks on whose key is revoked is to be.
    fn hear_fault(&mut self, why: &str) {
        if !why.ends_with("is revoked") {
            self.disbelieve(why.to_owned());
        }
    }

    fn do_for_root(&mut self, effect: root::Effect, decided: Option<u64>) {
        match effect {
            root::Effect::ToCluster(cluster, message) => {
                let link = Link::Cluster(site_of(&cluster));
                self.say((link, End::Upper), decided, Said::RootToCluster(message));
            }
            root::Effect::CloseCluster(cluster, why) => {
                self.close(Link::Cluster(site_of(&cluster)), &why);
            }
            root::Effect::Fault(why) => self.hear_fault(&format!("root: {why}")),
            root::Effect::Logs { .. } => {}
        }
    }

    fn do_for_cluster(&mut self, site: usize, effect: cluster::Effect, decided: Option<u64>) {
        match effect {
            cluster::Effect::ToRoot(message) => {
                let line = (Link::Cluster(site), End::Lower);
                self.say(line, decided, Said::ClusterToRoot(message));
            }
            cluster::Effect::ToWorker(node, message) => {
                let line = (Link::Worker(site, node_of(&node)), End::Upper);
                self.say(line, decided, Said::ClusterToWorker(message));
            }
            cluster::Effect::CloseWorker(node, why) => {
                self.close(Link::Worker(site, node_of(&node)), &why);
            }
            cluster::Effect::CloseRoot(why) | cluster::Effect::CloseNet(_, why) => {
                self.disbelieve(format!("cluster {site}: {why}"));
            }
            cluster::Effect::Fault(why) => self.hear_fault(&format!("cluster {site}: {why}")),
            // What an honest worker says of a life that a crash has made the cluster forget.
            cluster::Effect::Lie(_) => {}
            cluster::Effect::ToNet(_, message) => self.tables[site].hear(message),
        }
    }

    fn do_for_worker(
        &mut self,
        which: (usize, usize),
        effect: worker::Effect,
        decided: Option<u64>,
    ) {
        let moment = self.moment();
        let (instance, order) = match effect {
            worker::Effect::Send(message) => {
                let line = (Link::Worker(which.0, which.1), End::Lower);
                return self.say(line, decided, Said::WorkerToCluster(message));
            }
            worker::Effect::Incompatible { version } => {
                self.disbelieve(format!("version {version}"));
                return;
            }
            worker::Effect::ReadLogs { .. } => return,
            worker::Effect::Start {
                instance,
                generation,
                work,
            } => {
                let order = Order::Start(generation, work.instance_ip, work.spec.command);
                (instance, order)
            }
            worker::Effect::Await {
                instance,
                generation,
                ports: _,
            } => (instance, Order::Await(generation)),
            worker::Effect::Stop {
                instance,
                generation,
            } => (instance, Order::Stop(generation)),
        };
        if let Some(runtime) = self.runtimes.get_mut(&which) {
            runtime.order(instance, order, moment, &mut self.random);
        }
    }
}
