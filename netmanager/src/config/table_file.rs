//! The static table: the TOML file that says what a cluster would say.
//!
//! Turns the file's rows into a [`Table`] and gives every fault that [`Table::check`] finds the
//! place of its row.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use ipnetwork::{Ipv4Network, Ipv6Network};
use weald_proto::addr::{Dual, Pools};
use weald_proto::id::{Label, NodeId, Organisation, RelayId};
use weald_proto::name::{ApplicationName, InstanceId, ServiceName, Zone};
use weald_proto::table::{
    AcceptPolicy, InstanceRow, LanePolicy, NodeRow, PortMapping, RelayRow, ServiceRow, Table,
    TableError,
};

use super::ConfigErrors;
use super::document::{Placed, Reader, Section, hint, read_file, shorten};

/// The words of `lane`, as they stand in the file.
const LANES: [(&str, LanePolicy); 3] = [
    ("auto", LanePolicy::Auto),
    ("l3", LanePolicy::L3),
    ("l4", LanePolicy::L4),
];

/// The words of `accept`, as they stand in the file.
const ACCEPTS: [(&str, AcceptPolicy); 2] =
    [("late", AcceptPolicy::Late), ("early", AcceptPolicy::Early)];

/// Reads the table at `path`.
///
/// # Errors
/// Every fault of the file.
pub fn load_table(path: &Path) -> Result<Table, ConfigErrors> {
    parse_table(path, &read_file(path)?)
}

/// Reads `text`, which stands in the file `path`.
///
/// # Errors
/// Every fault of the text.
pub fn parse_table(path: &Path, text: &str) -> Result<Table, ConfigErrors> {
    let mut reader = Reader::new(path, text);
    let document = reader.parse();
    let top = reader.section(
        document.get_ref(),
        0,
        "the top level",
        &["zones", "pools", "node", "relay", "service"],
    );
    let mut rows = Rows::default();
    rows.table.zones = zones(&mut reader, &top);
    rows.table.pools = pools(&mut reader, &top);
    rows.read_nodes(&mut reader, &top);
    rows.read_relays(&mut reader, &top);
    rows.read_services(&mut reader, &top);
    rows.check(&mut reader);
    reader.finish(rows.table)
}

/// The table as far as it could be read, and where its rows stand.
#[derive(Debug, Default)]
struct Rows {
    table: Table,
    /// Where each row begins, by kind and id, in the order of the file.
    rows: BTreeMap<(&'static str, String), Vec<usize>>,
    /// Where each address stands, in the order of the file.
    addresses: BTreeMap<IpAddr, Vec<usize>>,
}

impl Rows {
    fn read_nodes(&mut self, reader: &mut Reader<'_>, top: &Section<'_>) {
        let allowed = ["id", "organisation", "addresses", "ipv4", "ipv6"];
        for section in reader.sections(top, "node", "[[node]]", &allowed) {
            let id = reader.required::<NodeId>(&section, "id");
            let organisation = reader.required::<Label>(&section, "organisation");
            let addresses = reader.list_with(&section, "addresses", underlay_address);
            let node_ip = self.dual(reader, &section);
            if let (Some(id), Some(organisation)) = (id, organisation) {
                self.place("node", &id);
                self.table.nodes.push(NodeRow {
                    id: id.value,
                    organisation: Organisation(organisation.value),
                    addresses: values(addresses),
                    node_ip,
                });
            }
        }
    }

    fn read_relays(&mut self, reader: &mut Reader<'_>, top: &Section<'_>) {
        let allowed = ["id", "addresses", "tcp_addresses"];
        for section in reader.sections(top, "relay", "[[relay]]", &allowed) {
            let id = reader.required::<RelayId>(&section, "id");
            let addresses = reader.list_with(&section, "addresses", underlay_address);
            reader.require(&section, "addresses");
            let tcp_addresses = reader.list_with(&section, "tcp_addresses", underlay_address);
            if let Some(id) = id {
                if addresses.is_empty() && reader.is_faultless() {
                    reader.fault(
                        section.at,
                        format!("relay {} has no address; give it at least one", id.value),
                    );
                }
                self.place("relay", &id);
                self.table.relays.push(RelayRow {
                    id: id.value,
                    addresses: values(addresses),
                    tcp_addresses: values(tcp_addresses),
                });
            }
        }
    }

    fn read_services(&mut self, reader: &mut Reader<'_>, top: &Section<'_>) {
        let allowed = [
            "application",
            "name",
            "organisation",
            "rr",
            "closest",
            "lane",
            "accept",
            "instance",
        ];
        for section in reader.sections(top, "service", "[[service]]", &allowed) {
            reader.require(&section, "application");
            let application = reader.value_with(&section, "application", name_and_namespace);
            reader.require(&section, "name");
            let name = reader.value_with(&section, "name", name_and_namespace);
            let organisation = reader.required::<Label>(&section, "organisation");
            let lane = reader.value_with(&section, "lane", lane);
            let accept = reader.value_with(&section, "accept", accept);
            let round_robin = self.service_ip(reader, &section, "rr");
            let closest = self.service_ip(reader, &section, "closest");
            let service = application.zip(name).map(|(application, name)| Placed {
                value: service_name(application.value, name.value),
                at: section.at,
            });
            self.read_instances(reader, &section, service.as_ref().map(|name| &name.value));
            if let (Some(service), Some(organisation)) = (service, organisation) {
                self.place("service", &service);
                self.table.services.push(ServiceRow {
                    name: service.value,
                    organisation: Organisation(organisation.value),
                    round_robin,
                    closest,
                    lane: lane.map(|lane| lane.value).unwrap_or_default(),
                    accept: accept.map(|accept| accept.value).unwrap_or_default(),
                });
            }
        }
    }

    fn service_ip(&mut self, reader: &mut Reader<'_>, section: &Section<'_>, key: &str) -> Dual {
        reader.require(section, key);
        let name = if key == "rr" { "rr" } else { "closest" };
        reader
            .subsection(section, key, name, &["ipv4", "ipv6"])
            .map_or_else(Dual::default, |addresses| self.dual(reader, &addresses))
    }

    fn read_instances(
        &mut self,
        reader: &mut Reader<'_>,
        service: &Section<'_>,
        name: Option<&ServiceName>,
    ) {
        let allowed = ["number", "node", "ipv4", "ipv6", "ports"];
        for section in reader.sections(service, "instance", "[[service.instance]]", &allowed) {
            reader.require(&section, "number");
            let number = reader.number(&section, "number");
            let node = reader.required::<NodeId>(&section, "node");
            let ports = reader.list_with(&section, "ports", |text| {
                PortMapping::from_str(text).map_err(|error| error.to_string())
            });
            let instance_ip = self.dual(reader, &section);
            if let (Some(service), Some(number), Some(node)) = (name, number, node) {
                let id = Placed {
                    value: InstanceId {
                        service: service.clone(),
                        number: number.value,
                    },
                    at: section.at,
                };
                self.place("instance", &id);
                self.table.instances.push(InstanceRow {
                    id: id.value,
                    node: node.value,
                    instance_ip,
                    ports: values(ports),
                });
            }
        }
    }

    fn dual(&mut self, reader: &mut Reader<'_>, section: &Section<'_>) -> Dual {
        let v4 = reader.value_with(section, "ipv4", |text| family(text, "IPv4", "10.30.1.1"));
        let v6 = reader.value_with(section, "ipv6", |text| family(text, "IPv6", "fdff::1:1"));
        if let Some(v4) = &v4 {
            let places = self.addresses.entry(IpAddr::V4(v4.value)).or_default();
            places.push(v4.at);
        }
        if let Some(v6) = &v6 {
            let places = self.addresses.entry(IpAddr::V6(v6.value)).or_default();
            places.push(v6.at);
        }
        Dual {
            v4: v4.map(|v4| v4.value),
            v6: v6.map(|v6| v6.value),
        }
    }

    fn place<T: ToString>(&mut self, kind: &'static str, id: &Placed<T>) {
        let places = self.rows.entry((kind, id.value.to_string())).or_default();
        places.push(id.at);
    }

    /// Checks the table as a whole. References are left alone if a row could not be read, because
    /// that row may be what is missing.
    fn check(&self, reader: &mut Reader<'_>) {
        let complete = reader.is_faultless();
        for error in self.table.check().err().unwrap_or_default() {
            let dangling = matches!(
                error,
                TableError::UnknownNode { .. } | TableError::UnknownService { .. }
            );
            if complete || !dangling {
                reader.fault(self.place_of(&error), error.to_string());
            }
        }
    }

    fn place_of(&self, error: &TableError) -> usize {
        let last = |places: Option<&Vec<usize>>| places.and_then(|all| all.iter().max()).copied();
        let row = |kind, id: &str| last(self.rows.get(&(kind, id.to_owned())));
        // An owner reads `node a/b`, `instance a.b.c.d.0` or `service a.b.c.d (rr)`.
        let owner = |owner: &str| {
            let mut words = owner.split(' ');
            let kind = words.next().unwrap_or_default();
            let kind = ["node", "service", "instance"]
                .into_iter()
                .find(|known| *known == kind)?;
            row(kind, words.next().unwrap_or_default())
        };
        let place = match error {
            TableError::Duplicate { kind, id } => row(kind, id),
            TableError::Reserved { service, .. } => row("service", service),
            TableError::OutsidePools { ip, .. } | TableError::AddressTaken { ip, .. } => {
                last(self.addresses.get(ip))
            }
            TableError::NoAddress { owner: of } => owner(of),
            TableError::UnknownService { instance }
            | TableError::UnknownNode { instance, .. }
            | TableError::PortTaken {
                second: instance, ..
            } => row("instance", instance),
        };
        place.unwrap_or(0)
    }
}

fn zones(reader: &mut Reader<'_>, top: &Section<'_>) -> Vec<Zone> {
    let zones = reader.list_with(top, "zones", |text| {
        Zone::new(text).map_err(|error| error.to_string())
    });
    if zones.is_empty() {
        Zone::defaults()
    } else {
        values(zones)
    }
}

fn pools(reader: &mut Reader<'_>, top: &Section<'_>) -> Pools {
    let mut pools = Pools::default();
    let Some(section) = reader.subsection(top, "pools", "[pools]", &["ipv4", "ipv6"]) else {
        return pools;
    };
    if let Some(v4) = reader.value_with(&section, "ipv4", |text| {
        let network: Ipv4Network = prefix(text, "10.30.0.0/16")?;
        host_bits_clear(network, network.network() == network.ip())
    }) {
        pools.v4 = v4.value;
    }
    if let Some(v6) = reader.value_with(&section, "ipv6", |text| {
        let network: Ipv6Network = prefix(text, "fdff::/16")?;
        host_bits_clear(network, network.network() == network.ip())
    }) {
        pools.v6 = v6.value;
    }
    pools
}

fn prefix<T: FromStr>(text: &str, example: &str) -> Result<T, String> {
    let wrong = || {
        let shown = shorten(text);
        format!("{shown:?} is not a prefix of this family, as in {example:?}")
    };
    if !text.contains('/') {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

fn host_bits_clear<T: fmt::Display>(network: T, clear: bool) -> Result<T, String> {
    if clear {
        Ok(network)
    } else {
        Err(format!("{network} has bits set beyond its prefix length"))
    }
}

fn family<T: FromStr>(text: &str, family: &str, example: &str) -> Result<T, String> {
    text.parse().map_err(|_| {
        let shown = shorten(text);
        format!("{shown:?} is not an {family} address, as in {example:?}")
    })
}

fn underlay_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        let shown = shorten(text);
        format!("{shown:?} is not an address with a port, as in \"192.0.2.1:10260\"")
    })?;
    let ip = address.ip();
    if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
        return Err(format!(
            "{address} cannot be dialled; write the address at which others reach it"
        ));
    }
    Ok(address)
}

fn name_and_namespace(text: &str) -> Result<(Label, Label), String> {
    let parts: Vec<&str> = text.split('.').collect();
    let [name, namespace] = parts.as_slice() else {
        let shown = shorten(text);
        return Err(format!(
            "{shown:?} is not of the form name.namespace, as in \"web.prod\""
        ));
    };
    let label = |text: &str| Label::new(text).map_err(|error| error.to_string());
    Ok((label(name)?, label(namespace)?))
}

fn service_name(application: (Label, Label), service: (Label, Label)) -> ServiceName {
    ServiceName {
        application: ApplicationName {
            name: application.0,
            namespace: application.1,
        },
        name: service.0,
        namespace: service.1,
    }
}

fn lane(text: &str) -> Result<LanePolicy, String> {
    word("lane", &LANES, text)
}

fn accept(text: &str) -> Result<AcceptPolicy, String> {
    word("time of acceptance", &ACCEPTS, text)
}

fn word<T: Copy>(what: &str, words: &[(&str, T)], text: &str) -> Result<T, String> {
    let known = words.iter().find(|(word, _)| *word == text);
    known.map(|(_, value)| *value).ok_or_else(|| {
        let shown = shorten(text);
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("unknown {what} {shown:?}; {}", hint(text, &words))
    })
}

fn values<T>(placed: Vec<Placed<T>>) -> Vec<T> {
    placed.into_iter().map(|placed| placed.value).collect()
}
