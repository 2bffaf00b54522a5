//! What root and the cluster `home` have signed in these tests: an application `shop.lab` that both
//! nodes host, and one, `bank.lab`, that only beta does.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use weald_proto::addr::Dual;
use weald_proto::id::{Identity, Label, NodeId, Organisation};
use weald_proto::name::{ApplicationName, InstanceId};
use weald_proto::statement::{
    Grant, InstanceStatement, Lease, LeasedInstance, NodeStatement, Revocations, ServiceStatement,
    Signed, Statement, row_generation,
};
use weald_proto::table::{AcceptPolicy, LanePolicy};
use weald_trust::pki::store::Store;
use weald_trust::pki::{ClusterAuthority, Lives, RootAuthority, unix_time};
use weald_trust::statement::{sign_cluster, sign_root};
use weald_trust::tls::{Clock, Credentials};

use super::fake::Book;

pub(super) const WEB: &str = "shop.lab.web.lab.0";
pub(super) const CLIENT: &str = "shop.lab.client.lab.0";
pub(super) const TELLER: &str = "bank.lab.teller.lab.0";

/// The authorities of a fleet.
pub(super) struct Authorities {
    root: Store,
    home: ClusterAuthority,
}

impl Authorities {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let root = Store::open(folder)?;
        let home = root.cluster(&Label::new("home")?, SystemTime::now())?.0;
        Ok(Self { root, home })
    }

    /// An authority of the cluster whose certificates live for so long.
    pub(super) fn issuer(&self, life: Duration) -> Result<ClusterAuthority> {
        let (home, _) = self.root.cluster(self.home.name(), SystemTime::now())?;
        Ok(home.with_lives(Lives {
            member: life,
            ..Lives::default()
        }))
    }

    /// What the orchestrator of the cluster shows.
    pub(super) fn control(&self) -> Result<Credentials> {
        let control = Identity::Control(self.home.name().clone());
        let issued = self.home.issue(&control, SystemTime::now())?;
        issued.credentials(None, Clock::system())
    }

    fn root(&self) -> &RootAuthority {
        self.root.root()
    }

    fn by_root(&self, statement: Statement) -> Result<Signed> {
        Ok(sign_root(self.root(), &statement)?)
    }

    pub(super) fn by_cluster(&self, statement: Statement) -> Result<Signed> {
        Ok(sign_cluster(&self.home, &statement)?)
    }

    /// Everything: both nodes, and `shop.lab` with `web` on beta and `client` on alpha; `bank.lab`
    /// with `teller` on beta, which has also `outside` in its lease.
    pub(super) fn book(&self, outside: Option<Dual>) -> Result<Book> {
        let mut book = Book {
            grants: vec![self.grant()?],
            ..Book::default()
        };
        let (alpha, beta) = (node("alpha")?, node("beta")?);
        let client = leased(CLIENT, 1, 1)?;
        let web = leased(WEB, 1, 2)?;
        let mut teller = leased(TELLER, 1, 3)?;
        if let Some(outside) = outside {
            teller.instance_ip = outside;
        }
        let leases = [
            (&alpha, dual(0, 1)?, vec![client.clone()]),
            (&beta, dual(0, 2)?, vec![web.clone(), teller.clone()]),
        ];
        for (node, node_ip, instances) in leases {
            let lease = self.lease(node, 1, node_ip, instances)?;
            book.nodes.insert(node.clone(), (node_ip, lease));
        }
        let shop = vec![
            self.service(WEB, 1)?,
            self.service(CLIENT, 2)?,
            self.instance(&alpha, &client)?,
            self.instance(&beta, &web)?,
            self.node(&alpha, dual(0, 1)?)?,
            self.node(&beta, dual(0, 2)?)?,
        ];
        book.applications.insert(app("shop.lab")?, shop);
        let bank = vec![self.service(TELLER, 3)?, self.node(&beta, dual(0, 2)?)?];
        book.applications.insert(app("bank.lab")?, bank);
        Ok(book)
    }

    fn grant(&self) -> Result<Signed> {
        let organisation = Organisation(Label::new("acme")?);
        self.by_root(Statement::Grant(Grant {
            cluster: self.home.name().clone(),
            key: self.home.trust_key()?,
            generation: 1,
            blocks: vec!["10.30.0.0/20".parse()?, "fdff:0:1::/48".parse()?],
            organisations: vec![organisation.clone()],
            owner: organisation,
            expires: in_an_hour(),
        }))
    }

    /// That this key is revoked.
    pub(super) fn revocation(&self, key: [u8; 32]) -> Result<Signed> {
        self.by_root(Statement::Revocations(Revocations {
            epoch: 1,
            keys: vec![key],
            organisations: Vec::new(),
        }))
    }

    pub(super) fn lease(
        &self,
        node: &NodeId,
        epoch: u64,
        node_ip: Dual,
        instances: Vec<LeasedInstance>,
    ) -> Result<Signed> {
        self.by_cluster(Statement::Lease(Lease {
            node: node.clone(),
            epoch,
            expires: in_an_hour(),
            node_ip,
            instances,
        }))
    }

    fn service(&self, instance: &str, number: u8) -> Result<Signed> {
        let instance: InstanceId = instance.parse()?;
        self.by_root(Statement::Service(ServiceStatement {
            name: instance.service,
            organisation: Organisation(Label::new("acme")?),
            generation: 1,
            removed: false,
            round_robin: dual(100, number)?,
            closest: dual(101, number)?,
            lane: LanePolicy::Auto,
            accept: AcceptPolicy::Late,
        }))
    }

    fn instance(&self, node: &NodeId, leased: &LeasedInstance) -> Result<Signed> {
        self.by_cluster(Statement::Instance(InstanceStatement {
            instance: leased.instance.clone(),
            organisation: leased.organisation.clone(),
            generation: row_generation(leased.generation, 1),
            removed: false,
            node: node.clone(),
            instance_ip: leased.instance_ip,
        }))
    }

    fn node(&self, node: &NodeId, node_ip: Dual) -> Result<Signed> {
        let number = if node.name.as_str() == "alpha" { 1 } else { 2 };
        let address = format!("192.168.7.{number}:10260").parse()?;
        self.node_at(node, node_ip, vec![address])
    }

    /// That a node is at these addresses, as it says.
    pub(super) fn node_at(
        &self,
        node: &NodeId,
        node_ip: Dual,
        addresses: Vec<SocketAddr>,
    ) -> Result<Signed> {
        self.by_cluster(Statement::Node(NodeStatement {
            node: node.clone(),
            generation: 1,
            removed: false,
            node_ip,
            addresses,
        }))
    }
}

/// Reads the key that a grant names.
trait TrustKey {
    fn trust_key(&self) -> Result<[u8; 32]>;
}

impl TrustKey for ClusterAuthority {
    fn trust_key(&self) -> Result<[u8; 32]> {
        self.certificate().public_key()
    }
}

pub(super) fn leased(instance: &str, generation: u64, number: u8) -> Result<LeasedInstance> {
    Ok(LeasedInstance {
        instance: instance.parse()?,
        organisation: Organisation(Label::new("acme")?),
        generation,
        instance_ip: dual(1, number)?,
    })
}

pub(super) fn node(name: &str) -> Result<NodeId> {
    Ok(NodeId::new(Label::new("home")?, Label::new(name)?))
}

pub(super) fn app(name: &str) -> Result<ApplicationName> {
    Ok(name.parse()?)
}

/// Nodes have 10.30.0.x, instances 10.30.1.x; services 10.30.100.x, which are root's to give.
pub(super) fn dual(third: u8, last: u8) -> Result<Dual> {
    let v4: IpAddr = format!("10.30.{third}.{last}").parse()?;
    let v6: IpAddr = format!("fdff:0:1::{third:x}:{last:x}").parse()?;
    match (v4, v6) {
        (IpAddr::V4(v4), IpAddr::V6(v6)) => Ok(Dual {
            v4: Some(v4),
            v6: Some(v6),
        }),
        _ => None.context("addresses of both families"),
    }
}

fn in_an_hour() -> u64 {
    unix_time(SystemTime::now()).as_secs() + 3600
}
