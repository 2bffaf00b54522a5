//! Plain values: texts, numbers, addresses and what is written as text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::parts::{Fault, Wire, fields, put, take, words};
use super::{MAX_TEXT_LEN, wire};
use crate::addr::{Dual, Pools};
use crate::control::NodeReport;
use crate::id::{Label, NodeId, Organisation, RelayId};
use crate::name::{ApplicationName, InstanceId, ServiceName, Zone};
use crate::spec::{Place, Resources, Runtime};
use crate::statement::Signed;
use crate::table::{AcceptPolicy, LanePolicy, PortMapping, Transport};

macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            type Message = Self;

            fn put(&self) -> Self {
                *self
            }

            fn take(message: Self) -> Result<Self, Fault> {
                Ok(message)
            }
        }
    )*};
}

plain!(bool, i32, u32, u64);

macro_rules! finite {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            type Message = Self;

            fn put(&self) -> Self {
                *self
            }

            fn take(message: Self) -> Result<Self, Fault> {
                if message.is_finite() {
                    Ok(message)
                } else {
                    Err(Fault::new(format!("{message} is not a finite number")))
                }
            }
        }
    )*};
}

finite!(f32, f64);

impl Wire for u16 {
    type Message = u32;

    fn put(&self) -> u32 {
        u32::from(*self)
    }

    fn take(message: u32) -> Result<Self, Fault> {
        Self::try_from(message).map_err(|_| Fault::new(format!("{message} is above 65535")))
    }
}

impl Wire for String {
    type Message = Self;

    fn put(&self) -> Self {
        self.clone()
    }

    fn take(message: Self) -> Result<Self, Fault> {
        check_len(message.len())?;
        Ok(message)
    }
}

impl Wire for Vec<u8> {
    type Message = Self;

    fn put(&self) -> Self {
        self.clone()
    }

    fn take(message: Self) -> Result<Self, Fault> {
        check_len(message.len())?;
        Ok(message)
    }
}

fn check_len(len: usize) -> Result<(), Fault> {
    if len > MAX_TEXT_LEN {
        return Err(Fault::new(format!(
            "{len} bytes; at most {MAX_TEXT_LEN} are allowed"
        )));
    }
    Ok(())
}

macro_rules! texts {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            type Message = String;

            fn put(&self) -> String {
                self.to_string()
            }

            fn take(message: String) -> Result<Self, Fault> {
                Self::from_str(&message).map_err(Fault::new)
            }
        }
    )*};
}

texts!(
    Label,
    NodeId,
    RelayId,
    ApplicationName,
    ServiceName,
    InstanceId
);

impl Wire for Organisation {
    type Message = String;

    fn put(&self) -> String {
        self.to_string()
    }

    fn take(message: String) -> Result<Self, Fault> {
        Label::take(message).map(Self)
    }
}

impl Wire for Zone {
    type Message = String;

    fn put(&self) -> String {
        self.to_string()
    }

    fn take(message: String) -> Result<Self, Fault> {
        Self::new(&message).map_err(Fault::new)
    }
}

macro_rules! octets {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            type Message = Vec<u8>;

            fn put(&self) -> Vec<u8> {
                self.octets().to_vec()
            }

            fn take(message: Vec<u8>) -> Result<Self, Fault> {
                fixed(&message).map(Self::from)
            }
        }
    )*};
}

octets!(Ipv4Addr, Ipv6Addr);

impl Wire for [u8; 32] {
    type Message = Vec<u8>;

    fn put(&self) -> Vec<u8> {
        self.to_vec()
    }

    fn take(message: Vec<u8>) -> Result<Self, Fault> {
        fixed(&message)
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Fault> {
    let text = || Fault::new(format!("{} bytes instead of {N}", bytes.len()));
    bytes.try_into().map_err(|_| text())
}

fn ip(bytes: &[u8]) -> Result<IpAddr, Fault> {
    match bytes.len() {
        4 => fixed(bytes).map(|octets: [u8; 4]| octets.into()),
        16 => fixed(bytes).map(|octets: [u8; 16]| octets.into()),
        len => Err(Fault::new(format!("an address of {len} bytes"))),
    }
}

fn octets_of(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.put(),
        IpAddr::V6(ip) => ip.put(),
    }
}

/// The scope of a link-local address is dropped: it means nothing on another machine.
impl Wire for SocketAddr {
    type Message = Vec<u8>;

    fn put(&self) -> Vec<u8> {
        let mut bytes = octets_of(self.ip());
        bytes.extend(self.port().to_be_bytes());
        bytes
    }

    fn take(message: Vec<u8>) -> Result<Self, Fault> {
        let Some((address, port)) = message.split_last_chunk::<2>() else {
            return Err(Fault::new("a socket address without a port"));
        };
        Ok(Self::new(ip(address)?, u16::from_be_bytes(*port)))
    }
}

/// Prefixes are taken only without bits behind their length, so that equal ones are equal bytes.
impl Wire for IpNetwork {
    type Message = Vec<u8>;

    fn put(&self) -> Vec<u8> {
        let mut bytes = octets_of(self.ip());
        bytes.push(self.prefix());
        bytes
    }

    fn take(message: Vec<u8>) -> Result<Self, Fault> {
        let Some((length, address)) = message.split_last() else {
            return Err(Fault::new("an empty prefix"));
        };
        let prefix = Self::new(ip(address)?, *length).map_err(Fault::new)?;
        if prefix.network() == prefix.ip() {
            Ok(prefix)
        } else {
            let text = format!("{prefix} has bits behind its length");
            Err(Fault::new(text))
        }
    }
}

impl Wire for Ipv4Network {
    type Message = Vec<u8>;

    fn put(&self) -> Vec<u8> {
        IpNetwork::V4(*self).put()
    }

    fn take(message: Vec<u8>) -> Result<Self, Fault> {
        match IpNetwork::take(message)? {
            IpNetwork::V4(prefix) => Ok(prefix),
            IpNetwork::V6(prefix) => Err(Fault::new(format!("{prefix} is not an IPv4 prefix"))),
        }
    }
}

impl Wire for Ipv6Network {
    type Message = Vec<u8>;

    fn put(&self) -> Vec<u8> {
        IpNetwork::V6(*self).put()
    }

    fn take(message: Vec<u8>) -> Result<Self, Fault> {
        match IpNetwork::take(message)? {
            IpNetwork::V6(prefix) => Ok(prefix),
            IpNetwork::V4(prefix) => Err(Fault::new(format!("{prefix} is not an IPv6 prefix"))),
        }
    }
}

impl Wire for Duration {
    type Message = u64;

    /// Whole milliseconds.
    fn put(&self) -> u64 {
        u64::try_from(self.as_millis()).unwrap_or(u64::MAX)
    }

    fn take(message: u64) -> Result<Self, Fault> {
        Ok(Self::from_millis(message))
    }
}

/// The mean, then the standard deviation.
impl Wire for (f64, f64) {
    type Message = wire::MeanDeviation;

    fn put(&self) -> Self::Message {
        wire::MeanDeviation {
            mean: self.0,
            deviation: self.1,
        }
    }

    fn take(message: Self::Message) -> Result<Self, Fault> {
        Ok((
            take!(value message.mean, mean)?,
            take!(value message.deviation, deviation)?,
        ))
    }
}

/// A variable's name, then its value.
impl Wire for (String, String) {
    type Message = wire::Variable;

    fn put(&self) -> Self::Message {
        wire::Variable {
            name: self.0.clone(),
            value: self.1.clone(),
        }
    }

    fn take(message: Self::Message) -> Result<Self, Fault> {
        Ok((
            take!(value message.name, name)?,
            take!(value message.value, value)?,
        ))
    }
}

macro_rules! lists {
    ($($type:ty as $message:ident),*) => {$(
        impl Wire for Vec<$type> {
            type Message = wire::$message;

            fn put(&self) -> Self::Message {
                wire::$message { list: put!(long self) }
            }

            fn take(message: Self::Message) -> Result<Self, Fault> {
                take!(long message.list, list)
            }
        }
    )*};
}

lists!(
    Signed as SignedList,
    ApplicationName as Applications,
    SocketAddr as Addresses,
    NodeReport as NodeReports
);

fields!(Dual as Dual { v4: option, v6: option });
fields!(Pools as Pools { v4: value, v6: value });
fields!(Place as Place { latitude: value, longitude: value, radius_km: value });
fields!(Resources as Resources {
    millicpus: value,
    memory_mib: value,
    gpus: value,
    tpus: value,
    storage_mib: value,
    bandwidth_in_kbit: value,
    bandwidth_out_kbit: value,
});
fields!(PortMapping as PortMapping { host: value, instance: value, transport: value });
fields!(Signed as Signed { statement: value, signature: value, cluster: option });
impl Wire for AcceptPolicy {
    type Message = i32;

    fn put(&self) -> i32 {
        match self {
            Self::Late => wire::Accept::Late.into(),
            Self::Early => wire::Accept::Early.into(),
        }
    }

    fn take(message: i32) -> Result<Self, Fault> {
        match wire::Accept::try_from(message) {
            Ok(wire::Accept::Late) => Ok(Self::Late),
            Ok(wire::Accept::Early) => Ok(Self::Early),
            Err(_) => Err(Fault::new(format!("{message} is none of the known values"))),
        }
    }
}

words!(LanePolicy as Lane { Auto, L3, L4 });
words!(Transport as Transport { Tcp, Udp });
words!(Runtime as Runtime { Process, Container, Unikernel, Microvm, Wasm });
