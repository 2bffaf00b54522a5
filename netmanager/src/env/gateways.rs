//! The default gateways of the namespace that the calling thread is in.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use super::item::{Place, Route, RouteTarget};
use super::netlink::Netlink;

/// The kernel's table of the routes that everybody uses.
const MAIN_TABLE: u32 = 254;

/// The IPv4 gateways that default routes lead to, the preferred one first.
///
/// # Errors
/// The kernel does not tell.
pub fn default_gateways() -> io::Result<Vec<Ipv4Addr>> {
    let mut netlink = Netlink::open_here()?;
    let links = netlink.links()?.into_iter();
    let names = links.map(|link| (link.index, link.name)).collect();
    Ok(of_routes(netlink.routes(&Place::Host, &names)?))
}

fn of_routes(mut routes: Vec<Route>) -> Vec<Ipv4Addr> {
    routes.retain(|route| route.table == MAIN_TABLE && route.destination.prefix() == 0);
    routes.sort_by_key(|route| route.metric);
    let mut gateways = Vec::new();
    for route in routes {
        if let RouteTarget::Device {
            gateway: Some(IpAddr::V4(gateway)),
            ..
        } = route.target
            && !gateways.contains(&gateway)
        {
            gateways.push(gateway);
        }
    }
    gateways
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(table: u32, destination: &str, metric: u32, gateway: Option<&str>) -> Route {
        Route {
            place: Place::Host,
            table,
            destination: destination.parse().unwrap(),
            metric,
            target: RouteTarget::Device {
                device: "eth0".to_owned(),
                gateway: gateway.map(|ip| ip.parse().unwrap()),
                source: None,
            },
        }
    }

    #[test]
    fn gateways_of_default_routes_are_found_by_preference() {
        let routes = vec![
            route(254, "0.0.0.0/0", 600, Some("192.168.2.1")),
            route(254, "0.0.0.0/0", 100, Some("192.168.1.1")),
            route(254, "0.0.0.0/0", 700, Some("192.168.1.1")),
            route(254, "10.0.0.0/8", 0, Some("192.168.1.9")),
            route(77, "0.0.0.0/0", 0, Some("192.168.1.8")),
            route(254, "0.0.0.0/0", 50, None),
            route(254, "::/0", 50, Some("fe80::1")),
        ];
        let expected = [Ipv4Addr::new(192, 168, 1, 1), Ipv4Addr::new(192, 168, 2, 1)];
        assert_eq!(of_routes(routes), expected);
        assert_eq!(of_routes(Vec::new()), Vec::<Ipv4Addr>::new());
    }
}
