//! A job's own network: a bridge whose addresses are cut from the node's pool, so that the lower half is Docker's to
//! give and the upper half is free for engines, which join the bridge without Docker.

use super::{Error, Labels};
use bollard::Docker;
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use std::collections::HashMap;
use std::net::Ipv4Addr;

/// Where job networks are cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    base: u32,
    prefix: u8,
}

impl Pool {
    /// Of `address/prefix`, prefix 8 to 24.
    ///
    /// # Errors
    /// A reason for people.
    pub(crate) fn parse(text: &str) -> Result<Pool, String> {
        let (address, prefix) = text.split_once('/').ok_or("an address and a prefix are needed: 10.213.0.0/16")?;
        let address: Ipv4Addr = address.parse().map_err(|_| format!("{address} is no IPv4 address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| format!("{prefix} is no prefix"))?;
        if !(8..=24).contains(&prefix) {
            return Err("a prefix from 8 to 24 is needed".into());
        }
        let mask = u32::MAX << (32 - u32::from(prefix));
        Ok(Pool { base: u32::from(address) & mask, prefix })
    }

    /// How many networks it has.
    fn networks(self) -> u32 {
        1 << (24 - self.prefix)
    }

    /// The network of that number, modulo their count.
    fn network(self, number: u64) -> Subnet {
        let number = u32::try_from(number % u64::from(self.networks())).unwrap_or(0);
        Subnet { base: self.base + (number << 8) }
    }
}

/// A /24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    base: u32,
}

impl Subnet {
    fn text(self, offset: u32, prefix: u8) -> String {
        format!("{}/{prefix}", Ipv4Addr::from(self.base + offset))
    }

    /// The bridge's address.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// An address that Docker will not give, for the engine of that index.
    pub(crate) fn engine(self, index: u8) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 200 + u32::from(index % 50))
    }

    /// `a.b.c.0/24`.
    pub(crate) fn cidr(self) -> String {
        self.text(0, 24)
    }
}

/// A network that was made.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// Docker's id.
    pub(crate) id: String,
    /// Its name: `slipway-<node>-<job>`.
    pub(crate) name: String,
    /// Name of the bridge's interface.
    pub(crate) bridge: String,
    /// Its addresses.
    pub(crate) subnet: Subnet,
    /// Bytes of a packet.
    pub(crate) mtu: u32,
}

/// Makes the network of a job. Networks of the pool that others use are passed over.
///
/// # Errors
/// When Docker refuses, or the whole pool is taken.
pub(crate) async fn create(
    docker: &Docker,
    labels: &Labels,
    pool: Pool,
    seed: u64,
    mtu: Option<u32>,
) -> Result<Network, Error> {
    let name = labels.name("net");
    let bridge = format!("sw{:x}", crc32fast::hash(name.as_bytes()));
    let mut options = HashMap::from([("com.docker.network.bridge.name".to_owned(), bridge.clone())]);
    if let Some(mtu) = mtu {
        options.insert("com.docker.network.driver.mtu".into(), mtu.to_string());
    }
    let tries = pool.networks().min(256);
    for number in 0..tries {
        let subnet = pool.network(seed.wrapping_add(u64::from(number)));
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".into()),
            ipam: Some(Ipam {
                config: Some(vec![IpamConfig {
                    subnet: Some(subnet.cidr()),
                    ip_range: Some(subnet.text(0, 25)),
                    gateway: Some(subnet.gateway().to_string()),
                    auxiliary_addresses: None,
                }]),
                ..Ipam::default()
            }),
            options: Some(options.clone()),
            labels: Some(labels.map()),
            ..NetworkCreateRequest::default()
        };
        let docker = docker.clone();
        match labels.make(async move { docker.create_network(request).await }).await {
            Ok(made) => return Ok(Network { id: made.id, name, bridge, subnet, mtu: mtu.unwrap_or(1500) }),
            Err(e) if is_taken(&e) => {}
            Err(source) => return Err(Error::docker("make the network", &name, source)),
        }
    }
    Err(Error::NoNetwork { tries })
}

/// Docker's answer for addresses that another network, or a route of the host, has.
fn is_taken(e: &bollard::errors::Error) -> bool {
    let text = e.to_string();
    text.contains("overlaps") || text.contains("conflicts with network")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_cuts_networks_and_leaves_room_for_engines() {
        let pool = Pool::parse("10.213.7.0/16").unwrap();
        assert_eq!(pool.networks(), 256);
        let subnet = pool.network(256 + 3);
        assert_eq!(subnet.cidr(), "10.213.3.0/24");
        assert_eq!(subnet.gateway().to_string(), "10.213.3.1");
        assert_eq!(subnet.engine(1).to_string(), "10.213.3.201");
        assert_eq!(subnet.text(0, 25), "10.213.3.0/25");
    }

    #[test]
    fn pool_of_nonsense_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/30", "x/16"] {
            assert!(Pool::parse(text).is_err(), "{text}");
        }
    }
}
