//! Which device, port and address of it a transport uses.

use crate::error::StartError;
use crate::options::RdmaOptions;
use crate::sys::{DeviceInfo, GidEntry, PortInfo, RoceVersion};

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) device: String,
    pub(crate) port: PortInfo,
    /// The entry of the address table that packets are sent from; `None` within a subnet of InfiniBand.
    pub(crate) gid: Option<GidEntry>,
}

/// The port that serves the listening address, else the first active one; what the settings name goes before both.
pub(crate) fn choose(options: &RdmaOptions, devices: &[DeviceInfo]) -> Result<Choice, StartError> {
    if devices.is_empty() {
        return Err(StartError::NoDevice);
    }
    let names = |devices: &[DeviceInfo]| {
        devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let wanted: Vec<_> = devices
        .iter()
        .filter(|device| options.device.as_ref().is_none_or(|name| *name == device.name))
        .collect();
    if wanted.is_empty() {
        let wanted = options.device.clone().unwrap_or_default();
        return Err(StartError::NoSuchDevice { wanted, present: names(devices) });
    }
    let ports = wanted.iter().flat_map(|device| device.ports.iter().map(move |port| (device, port)));
    let mut ports: Vec<_> =
        ports.filter(|(_, port)| options.port.is_none_or(|number| number == port.number)).collect();
    if let Some(port) = options.port.filter(|_| ports.is_empty()) {
        let device = options.device.clone().unwrap_or_else(|| names(devices));
        return Err(StartError::NoSuchPort { device, port });
    }
    ports.retain(|(_, port)| port.is_active);
    let serves = |port: &PortInfo| port.gids.iter().any(|gid| gid.ip() == options.listen.ip());
    // The sort is stable: without a port that serves the address, the first one stays first.
    ports.sort_by_key(|(_, port)| !serves(port));
    let Some((device, port)) = ports.first() else {
        let device = options.device.clone().unwrap_or_else(|| names(devices));
        return Err(StartError::NoActivePort { device });
    };
    let gid = choose_gid(options, &device.name, port)?;
    Ok(Choice { device: device.name.clone(), port: (*port).clone(), gid })
}

fn choose_gid(options: &RdmaOptions, device: &str, port: &PortInfo) -> Result<Option<GidEntry>, StartError> {
    if let Some(index) = options.gid_index {
        let found = port.gids.iter().find(|gid| gid.index == index).copied();
        let (device, port) = (device.to_owned(), port.number);
        return found.map(Some).ok_or(StartError::NoSuchGid { device, port, index });
    }
    if !port.is_ethernet {
        return Ok(None);
    }
    // Packets that routers pass on first, then the listening address, then IPv4, as networks are mostly set up for that.
    let rank = |gid: &&GidEntry| {
        (gid.version != RoceVersion::Two, gid.ip() != options.listen.ip(), !gid.ip().is_ipv4(), gid.index)
    };
    let found = port.gids.iter().min_by_key(rank).copied();
    found.map(Some).ok_or_else(|| StartError::NoAddress { device: device.to_owned(), port: port.number })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

    fn gid(index: u8, ip: &str, version: RoceVersion) -> GidEntry {
        let gid = ip.parse::<Ipv4Addr>().map(|ip| ip.to_ipv6_mapped()).or_else(|_| ip.parse::<Ipv6Addr>());
        GidEntry { index, gid: gid.expect("an address").octets(), version }
    }

    fn device(name: &str, is_active: bool, gids: Vec<GidEntry>) -> DeviceInfo {
        let port = PortInfo { number: 1, is_active, is_ethernet: true, lid: 0, mtu: 5, gids };
        DeviceInfo { name: name.into(), ports: vec![port] }
    }

    fn options(listen: &str) -> RdmaOptions {
        let listen: SocketAddr = listen.parse().expect("an address");
        RdmaOptions { listen, ..RdmaOptions::default() }
    }

    fn two() -> Vec<DeviceInfo> {
        use RoceVersion::{One, Two};
        vec![
            device(
                "rxe0",
                true,
                vec![
                    gid(0, "fe80::1", One),
                    gid(1, "fe80::1", Two),
                    gid(2, "10.0.0.1", One),
                    gid(3, "10.0.0.1", Two),
                ],
            ),
            device("rxe1", true, vec![gid(0, "fe80::2", Two), gid(1, "10.0.1.1", Two)]),
        ]
    }

    fn chosen(options: &RdmaOptions, devices: &[DeviceInfo]) -> (String, u8) {
        let choice = choose(options, devices).expect("there is one");
        (choice.device, choice.gid.expect("on Ethernet").index)
    }

    #[test]
    fn the_device_that_serves_the_address_is_taken() {
        assert_eq!(chosen(&options("10.0.1.1:7000"), &two()), ("rxe1".into(), 1));
        assert_eq!(chosen(&options("10.0.0.1:7000"), &two()), ("rxe0".into(), 3));
    }

    #[test]
    fn without_one_the_first_active_device_is_taken_with_a_routable_address() {
        assert_eq!(chosen(&options("127.0.0.1:7000"), &two()), ("rxe0".into(), 3));
        let mut devices = two();
        devices[0].ports[0].is_active = false;
        assert_eq!(chosen(&options("127.0.0.1:7000"), &devices), ("rxe1".into(), 1));
    }

    #[test]
    fn the_settings_go_before_the_address() {
        let options =
            RdmaOptions { device: Some("rxe1".into()), gid_index: Some(0), ..options("10.0.0.1:7000") };
        assert_eq!(chosen(&options, &two()), ("rxe1".into(), 0));
    }

    #[test]
    fn within_a_subnet_of_infiniband_no_address_is_needed() {
        let port = PortInfo { number: 2, is_active: true, is_ethernet: false, lid: 7, mtu: 5, gids: vec![] };
        let devices = [DeviceInfo { name: "mlx5_0".into(), ports: vec![port] }];
        let choice = choose(&options("10.0.0.1:7000"), &devices).expect("there is one");
        assert_eq!((choice.gid, choice.port.lid, choice.port.number), (None, 7, 2));
    }

    #[test]
    fn what_is_missing_is_named() {
        let say = |options: &RdmaOptions, devices: &[DeviceInfo]| {
            choose(options, devices).expect_err("nothing fits").to_string()
        };
        let plain = options("10.0.0.1:7000");
        assert!(say(&plain, &[]).contains("no RDMA device"));
        let named = RdmaOptions { device: Some("mlx5_0".into()), ..plain.clone() };
        assert!(say(&named, &two()).contains("`mlx5_0`; there are: rxe0, rxe1"));
        let port = RdmaOptions { port: Some(2), ..plain.clone() };
        assert!(say(&port, &two()).contains("RDMA device rxe0, rxe1 has no port 2"));
        let inactive = [device("rxe0", false, vec![]), device("rxe1", false, vec![])];
        assert!(say(&plain, &inactive).contains("no port of RDMA device rxe0, rxe1 is active"));
        let gid_index = RdmaOptions { gid_index: Some(9), ..plain.clone() };
        assert!(say(&gid_index, &two()).contains("no address (GID) with index 9"));
        assert!(say(&plain, &[device("rxe0", true, vec![])]).contains("has no address"));
    }
}
