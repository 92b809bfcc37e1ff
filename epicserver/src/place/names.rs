//! Names of hosts in settings become addresses, once, when a node starts: transports know addresses only, and a cluster's view does too.

use std::net::{SocketAddr, ToSocketAddrs};

use super::Failure;
use crate::settings::{Settings, TransportKind};

/// These settings, with an address in the place of each name. A seed's name may stand for several.
///
/// # Errors
/// The name that stands for no address, or for several where one is meant.
///
/// # Panics
/// Outside of a tokio runtime, if there is a name: the system's resolver is asked on a thread for what blocks.
pub(super) async fn resolved(settings: &Settings) -> Result<Settings, Failure> {
    let mut settings = settings.clone();
    let mut given = settings.listen.iter().chain(&settings.peers).chain(&settings.seed);
    let is_over_ip = settings.transport != TransportKind::Tipc;
    if is_over_ip && given.any(|text| text.parse::<SocketAddr>().is_err()) {
        settings = tokio::task::spawn_blocking(move || resolve(settings)).await??;
    }
    Ok(settings)
}

fn resolve(mut settings: Settings) -> Result<Settings, String> {
    settings.listen = settings.listen.map(|name| one("listen", &name)).transpose()?;
    settings.peers = settings.peers.iter().map(|name| one("peers", name)).collect::<Result<_, _>>()?;
    let seeds = settings.seed.iter().map(|name| all("seed", name)).collect::<Result<Vec<_>, _>>()?;
    settings.seed = seeds.concat();
    Ok(settings)
}

/// The address that a name stands for. Where members are listed, all must mean the same one.
fn one(key: &str, name: &str) -> Result<String, String> {
    match <[String; 1]>::try_from(all(key, name)?) {
        Ok([address]) => Ok(address),
        Err(several) => {
            let several = several.join(", ");
            Err(format!("{key}: the name {name:?} stands for several addresses: give one of {several}"))
        }
    }
}

/// The addresses that a name stands for; at least one.
fn all(key: &str, name: &str) -> Result<Vec<String>, String> {
    if name.parse::<SocketAddr>().is_ok() {
        return Ok(vec![name.to_owned()]);
    }
    let found = name.to_socket_addrs().map_err(|error| {
        format!("{key}: the name {name:?} cannot be resolved: {error}; give an address, or a name that this machine knows")
    })?;
    match preferred(found) {
        addresses if addresses.is_empty() => Err(format!("{key}: the name {name:?} has no address")),
        addresses => Ok(addresses),
    }
}

/// Those of IPv4, each once, or those of IPv6 where there are no others: nodes listen on IPv4 unless they are told otherwise.
fn preferred(found: impl Iterator<Item = SocketAddr>) -> Vec<String> {
    let (mut addresses, others): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv4);
    if addresses.is_empty() {
        addresses = others;
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl Fn(&mut Settings)) -> Settings {
        let mut settings = Settings::default();
        change(&mut settings);
        settings
    }

    #[tokio::test]
    async fn names_become_addresses_and_addresses_stay() {
        let named = settings(|named| {
            named.listen = Some("localhost:7000".into());
            named.peers = vec!["127.0.0.1:7001".into(), "localhost:7002".into()];
            named.seed = vec!["[::1]:7003".into(), "localhost:7004".into()];
        });
        let found = resolved(&named).await.expect("every machine knows this name");
        assert_eq!(found.listen.as_deref(), Some("127.0.0.1:7000"));
        assert_eq!(found.peers, ["127.0.0.1:7001", "127.0.0.1:7002"]);
        assert_eq!(found.seed, ["[::1]:7003", "127.0.0.1:7004"]);
    }

    #[tokio::test]
    async fn what_the_transport_spells_in_its_own_way_is_left_to_it() {
        let over_tipc = settings(|over_tipc| {
            over_tipc.transport = TransportKind::Tipc;
            over_tipc.seed = vec!["tipc:4711:7".into()];
        });
        assert_eq!(resolved(&over_tipc).await.expect("nothing to look up"), over_tipc);
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_told() {
        // A label of more than 63 letters: no resolver asks the network for it.
        let name = format!("{}:7000", "a".repeat(64));
        let unknown = settings(|unknown| unknown.seed = vec![name.clone()]);
        let refused = resolved(&unknown).await.expect_err("no such name").to_string();
        assert!(
            refused.starts_with("seed: the name \"aaa") && refused.contains("cannot be resolved"),
            "{refused}"
        );
    }

    #[test]
    fn addresses_of_ipv4_come_first_and_all_of_them_count() {
        let check = |found: &[&str], expected: &[&str]| {
            let found = found.iter().map(|address| address.parse().expect("an address"));
            assert_eq!(preferred(found), expected);
        };
        check(&["[::1]:7", "127.0.0.1:7", "127.0.0.1:7"], &["127.0.0.1:7"]);
        check(&["10.0.0.2:7", "10.0.0.1:7"], &["10.0.0.1:7", "10.0.0.2:7"]);
        check(&["[::1]:7"], &["[::1]:7"]);
        check(&[], &[]);
    }
}
