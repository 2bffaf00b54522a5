//! What happens on the links, told to the processes at their ends; and who is refused there.

use orchestrator_core::{cluster, root, worker};

use super::links::{End, Flying, Link, Said, links_of};
use super::process::{Input, News};
use super::site::{CLUSTERS, NODES, Who, everybody, label, millis};
use super::world::World;

impl World {
    /// Every second the shells have a look at who is revoked: those are cut, and refused from then on.
    pub(super) fn cut_revoked(&mut self) {
        if self.now.subsec_millis() != 0 {
            return;
        }
        for who in everybody() {
            if let Some(process) = self.processes.get_mut(&who) {
                process.refused = process.beliefs.revoked();
            }
            for (link, end) in links_of(who) {
                if end == End::Upper
                    && self.is_refused(link)
                    && let Some(connection) = self.links.present(link, end)
                {
                    let random = &mut self.random;
                    let line = (link, connection);
                    self.links.cut(line, self.now, Some(100), random);
                }
            }
        }
    }

    fn is_refused(&self, link: Link) -> bool {
        let key = self.processes[&link.who(End::Lower)].key;
        let upper = &self.processes[&link.who(End::Upper)];
        upper.refused.contains(&key)
    }

    pub(super) fn notice(&mut self) {
        for (link, connection) in self.links.take_doomed(self.now) {
            let random = &mut self.random;
            self.links.cut((link, connection), self.now, None, random);
        }
        for (link, end) in self.links.take_noticed(self.now) {
            let input = match (link, end) {
                (Link::Cluster(site), End::Upper) => {
                    Input::Root(root::Input::ClusterDisconnected(label(CLUSTERS[site])))
                }
                (Link::Cluster(_), End::Lower) => Input::Cluster(cluster::Input::RootDisconnected),
                (Link::Worker(_, at), End::Upper) => {
                    Input::Cluster(cluster::Input::WorkerDisconnected(label(NODES[at])))
                }
                (Link::Worker(..), End::Lower) => Input::Worker(worker::Input::Disconnected),
            };
            let news = News {
                link,
                end,
                connection: None,
            };
            self.tell(link.who(end), input, Some(news));
        }
    }

    pub(super) fn dial(&mut self) {
        for who in everybody() {
            for (link, end) in links_of(who) {
                let there = self.links.present(link, end).is_some();
                let up = self.is_up(who) && self.is_up(link.who(End::Upper));
                let refused = end == End::Lower && self.is_refused(link);
                if end == End::Upper
                    || there
                    || !up
                    || refused
                    || (self.chaos && !self.random.one_in(5))
                {
                    continue;
                }
                let connection = self.links.dial(link);
                if self.chaos && self.random.one_in(3) {
                    let at = self.now + millis(&mut self.random, 1_200);
                    self.links.doom(at, link, connection);
                }
                self.connected((link, end), connection);
            }
        }
    }

    /// An end has a new connection.
    fn connected(&mut self, (link, end): (Link, End), connection: u64) {
        let input = match (link, end) {
            (Link::Cluster(site), End::Upper) => {
                Input::Root(root::Input::ClusterConnected(label(CLUSTERS[site])))
            }
            (Link::Cluster(_), End::Lower) => Input::Cluster(cluster::Input::RootConnected),
            (Link::Worker(site, at), End::Upper) => {
                let key = self.processes[&Who::Worker(site, at)].key;
                Input::Cluster(cluster::Input::WorkerConnected(label(NODES[at]), key))
            }
            (Link::Worker(..), End::Lower) => Input::Worker(worker::Input::Connected),
        };
        let news = News {
            link,
            end,
            connection: Some(connection),
        };
        self.tell(link.who(end), input, Some(news));
    }

    pub(super) fn arrive(&mut self, it: Flying) {
        self.note(|| format!("{it:?}"));
        let (hears, new) = self.links.hears(&it);
        if new {
            self.connected((it.link, it.to), it.connection);
        }
        if !hears {
            return;
        }
        let input = match (it.link, it.said) {
            (Link::Cluster(site), Said::ClusterToRoot(message)) => {
                Input::Root(root::Input::Cluster(label(CLUSTERS[site]), message))
            }
            (Link::Cluster(_), Said::RootToCluster(message)) => {
                Input::Cluster(cluster::Input::Root(message))
            }
            (Link::Worker(_, at), Said::WorkerToCluster(message)) => {
                Input::Cluster(cluster::Input::Worker(label(NODES[at]), message))
            }
            (Link::Worker(..), Said::ClusterToWorker(message)) => {
                Input::Worker(worker::Input::Message(message))
            }
            (link, said) => {
                return self.disbelieve(format!("{said:?} on the link of {link:?}"));
            }
        };
        self.tell(it.link.who(it.to), input, None);
    }
}
