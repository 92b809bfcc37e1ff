//! TIPC as a place for a cluster: its nodes bind one service, and find each other by it.

use epicserver_transport::{Discovery, Transport};

use super::Failure;
use crate::settings::TipcImportance;

/// A transport, and who is found on its network.
pub(super) struct Found {
    pub(super) transport: Box<dyn Transport>,
    pub(super) discovery: Box<dyn Discovery>,
}

/// Listens at that address, or at one of the cluster's service that nobody has.
#[cfg(feature = "tipc")]
pub(super) fn bind(
    listen: Option<&str>,
    importance: TipcImportance,
    cluster: u128,
) -> Result<Found, Failure> {
    use epicserver_transport_tipc::{TipcDiscovery, TipcTransport, why_only_here};
    let options = options(listen, importance, cluster)?;
    let service = options.service;
    let transport = TipcTransport::bind(options)?;
    if let Some(reason) = why_only_here()? {
        tracing::info!("{reason}");
    }
    let discovery = TipcDiscovery::new(service)?;
    Ok(Found { transport: Box::new(transport), discovery: Box::new(discovery) })
}

#[cfg(not(feature = "tipc"))]
pub(super) fn bind(_: Option<&str>, _: TipcImportance, _: u128) -> Result<Found, Failure> {
    Err("this program was built without TIPC: build it with the feature `tipc` of epicserver".into())
}

#[cfg(feature = "tipc")]
fn options(
    listen: Option<&str>,
    importance: TipcImportance,
    cluster: u128,
) -> Result<epicserver_transport_tipc::TipcOptions, Failure> {
    use epicserver_transport_tipc::{Importance, ServiceAddress, TipcOptions};
    let address = listen.map(str::parse::<ServiceAddress>).transpose()?;
    Ok(TipcOptions {
        service: address.map_or_else(|| service_of(cluster), |address| address.service),
        instance: address.map(|address| address.instance),
        importance: match importance {
            TipcImportance::Low => Importance::Low,
            TipcImportance::Medium => Importance::Medium,
            TipcImportance::High => Importance::High,
            TipcImportance::Critical => Importance::Critical,
        },
        ..TipcOptions::default()
    })
}

/// The number of a cluster's service. Clusters with the same number meet, and refuse each other by their ids. The highest bit keeps it
/// away from the numbers that people choose.
#[cfg(feature = "tipc")]
fn service_of(cluster: u128) -> u32 {
    let words = [0, 32, 64, 96].map(|shift| (cluster >> shift) as u32);
    words.into_iter().fold(0, |number, word| number ^ word) | 1 << 31
}

#[cfg(all(test, feature = "tipc"))]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_reaches_the_transport() {
        use epicserver_transport_tipc::Importance;
        let set = options(Some("tipc:4711:7"), TipcImportance::High, 1).expect("an address");
        assert_eq!((set.service, set.instance, set.importance), (4711, Some(7), Importance::High));
        let found = options(None, TipcImportance::Low, 1).expect("nothing to be wrong");
        assert_eq!((found.service, found.instance, found.importance), (service_of(1), None, Importance::Low));
        assert!(options(Some("tipc:4711"), TipcImportance::Low, 1).is_err());
    }

    #[test]
    fn every_bit_of_a_cluster_makes_another_service() {
        let numbers: std::collections::BTreeSet<_> =
            (0..32).map(|bit| service_of(7 << 64 | 1 << bit)).collect();
        // All but the one that is always set.
        assert_eq!(numbers.len(), 32);
        assert!(numbers.iter().all(|number| *number >= 1 << 31));
    }
}
