//! The nft tables, as text that `nft -f` reads: one in the overlay, one on the host.
//!
//! Pure. Every name in the text is derived from checked labels, every number and address is
//! printed from a typed value, so nothing can break out of its place.

use std::fmt::Write as _;
use std::net::IpAddr;

use netmanager_core::lane::{DIAL_PORTS, LISTEN_PORT, STACK_V4, STACK_V6};

use super::config::{
    EnvConfig, RESOLVER_PORT, RESOLVER_V4, RESOLVER_V6, host_device, instance_device,
};
use super::desired::{TUN_DEVICE, UPLINK_DEVICE};

/// The table in the overlay namespace: who may send from where, and what reaches the namespace
/// itself.
///
/// The namespace does no NAT and tracks no connection: the flow table does.
pub(super) fn overlay_table(config: &EnvConfig, table: &str) -> String {
    let (pool4, pool6) = (&config.pools.v4, &config.pools.v6);
    let mut host_sources = String::new();
    // What the host sends from inside the pools must be the node's own.
    for (family, pool, own) in [
        ("ip", pool4.to_string(), config.node_ip.v4.map(IpAddr::V4)),
        ("ip6", pool6.to_string(), config.node_ip.v6.map(IpAddr::V6)),
    ] {
        let but = own.map_or_else(String::new, |own| format!(" {family} saddr != {own}"));
        let _ = writeln!(
            host_sources,
            "  iifname \"{UPLINK_DEVICE}\" {family} saddr {pool}{but} counter name {SPOOFED} drop"
        );
    }
    format!(
        "table inet {table} {{
 counter {SPOOFED} {{ }}
 counter {REFUSED} {{ }}
 counter {LINK_LOCAL} {{ }}
 counter {MULTICAST} {{ }}
 set source4 {{ type ifname . ipv4_addr; {source4} }}
 set source6 {{ type ifname . ipv6_addr; {source6} }}
 chain source {{
  type filter hook prerouting priority -310; policy drop;
  iifname {{ \"lo\", \"{TUN_DEVICE}\" }} accept
{host_sources}  iifname \"{UPLINK_DEVICE}\" accept
  ip6 saddr {{ ::, fe80::/10 }} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
  ip6 saddr {{ ::, fe80::/10 }} counter name {LINK_LOCAL} drop
  iifname . ip saddr @source4 accept
  iifname . ip6 saddr @source6 accept
  counter name {SPOOFED} drop
 }}
 chain untracked_in {{
  type filter hook prerouting priority -300; policy accept;
  notrack
 }}
 chain untracked_out {{
  type filter hook output priority -300; policy accept;
  oifname \"{TUN_DEVICE}\" ip6 daddr ff00::/8 counter name {MULTICAST} drop
  notrack
 }}
 chain input {{
  type filter hook input priority 0; policy drop;
  iifname \"lo\" accept
  iifname \"{TUN_DEVICE}\" ip daddr {STACK_V4} tcp dport {{ {LISTEN_PORT}, {first}-{last} }} accept
  iifname \"{TUN_DEVICE}\" ip6 daddr {STACK_V6} tcp dport {{ {LISTEN_PORT}, {first}-{last} }} accept
  iifname \"{TUN_DEVICE}\" counter name {REFUSED} drop
  ip daddr {RESOLVER_V4} meta l4proto {{ tcp, udp }} th dport {RESOLVER_PORT} accept
  ip6 daddr {RESOLVER_V6} meta l4proto {{ tcp, udp }} th dport {RESOLVER_PORT} accept
  meta l4proto {{ icmp, ipv6-icmp }} accept
  counter name {REFUSED} drop
 }}
}}
",
        first = DIAL_PORTS.start(),
        last = DIAL_PORTS.end(),
        source4 = source_elements(config, false),
        source6 = source_elements(config, true),
    )
}

/// The name of the counter of packets from an address that is not their sender's.
const SPOOFED: &str = "spoofed";

/// The name of the counter of packets that may not go where they want to.
const REFUSED: &str = "refused";

/// The name of the counter of IPv6 packets of an instance's link that are for its neighbours, such as
/// those that look for routers.
const LINK_LOCAL: &str = "link_local";

/// The name of the counter of the kernel's own multicast that would go to the TUN.
const MULTICAST: &str = "multicast";

fn source_elements(config: &EnvConfig, v6: bool) -> String {
    let elements: Vec<String> = config
        .instances
        .iter()
        .flat_map(|instance| {
            let device = instance_device(&instance.id);
            let addresses = instance.instance_ip.iter().filter(|ip| ip.is_ipv6() == v6);
            addresses
                .map(|ip| format!("\"{device}\" . {ip}"))
                .collect::<Vec<_>>()
        })
        .collect();
    if elements.is_empty() {
        String::new()
    } else {
        format!("elements = {{ {} }};", elements.join(", "))
    }
}

/// The table on the host: egress by masquerade, port mappings, and a guard that lets only
/// answers and mapped ports be forwarded towards the overlay.
pub(super) fn host_table(config: &EnvConfig, table: &str) -> String {
    let device = host_device(&config.name);
    let (pool4, pool6) = (&config.pools.v4, &config.pools.v6);
    let (mut from_outside, mut from_host) = (String::new(), String::new());
    for instance in &config.instances {
        for port in &instance.ports {
            let transport = port.transport.word();
            for ip in instance.instance_ip.iter() {
                // A packet from ::1 cannot leave by another device; it is refused at once, and
                // programs that try `localhost` go on to 127.0.0.1.
                let (family, target, but) = match ip {
                    IpAddr::V4(ip) => ("ip", ip.to_string(), ""),
                    IpAddr::V6(ip) => ("ip6", format!("[{ip}]"), "ip6 daddr != ::1 "),
                };
                let rule = format!(
                    "meta nfproto {nfproto} {but}fib daddr type local {transport} dport {} dnat {family} to {target}:{}",
                    port.host,
                    port.instance,
                    nfproto = if ip.is_ipv6() { "ipv6" } else { "ipv4" },
                );
                let _ = writeln!(from_outside, "  iifname != \"{device}\" {rule}");
                let _ = writeln!(from_host, "  {rule}");
            }
        }
    }
    let (egress_nat, egress_forward) = if config.egress {
        (
            format!(
                "  iifname \"{device}\" ip saddr {pool4} oifname != \"{device}\" masquerade
  iifname \"{device}\" ip6 saddr {pool6} oifname != \"{device}\" masquerade
"
            ),
            format!(
                "  iifname \"{device}\" ip daddr {pool4} counter name {REFUSED} drop
  iifname \"{device}\" ip6 daddr {pool6} counter name {REFUSED} drop
  iifname \"{device}\" accept
"
            ),
        )
    } else {
        (
            String::new(),
            format!("  iifname \"{device}\" counter name {REFUSED} drop\n"),
        )
    };
    format!(
        "table inet {table} {{
 counter {REFUSED} {{ }}
 chain martian {{
  type filter hook prerouting priority -300; policy accept;
  iifname \"{device}\" ip daddr 127.0.0.0/8 counter name {REFUSED} drop
 }}
 chain ports_in {{
  type nat hook prerouting priority -100; policy accept;
{from_outside} }}
 chain ports_out {{
  type nat hook output priority -100; policy accept;
{from_host} }}
 chain source {{
  type nat hook postrouting priority 100; policy accept;
  oifname \"{device}\" masquerade
{egress_nat} }}
 chain forward {{
  type filter hook forward priority 0; policy accept;
  oifname \"{device}\" ct state established,related accept
  oifname \"{device}\" ct status dnat accept
  oifname \"{device}\" counter name {REFUSED} drop
  iifname \"{device}\" ct state established,related accept
{egress_forward} }}
}}
"
    )
}
