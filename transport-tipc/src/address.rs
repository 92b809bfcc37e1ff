//! How peers are named on a TIPC network.

use epicserver_transport::Addr;
use std::fmt;
use std::str::FromStr;

/// A service address: what kind of service, and which one of that kind. Spelled `tipc:SERVICE:INSTANCE`, in decimal as the tools of
/// TIPC spell them.
///
/// ```
/// use epicserver_transport_tipc::ServiceAddress;
/// let address: ServiceAddress = "tipc:4711:7".parse()?;
/// assert_eq!((address.service, address.instance), (4711, 7));
/// assert_eq!(address.to_string(), "tipc:4711:7");
/// assert!("tipc:63:7".parse::<ServiceAddress>().is_err(), "the kernel keeps these for itself");
/// # Ok::<(), epicserver_transport_tipc::NotAnAddress>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAddress {
    /// The kind, the same for all nodes of a cluster; not below 64.
    pub service: u32,
    /// The node.
    pub instance: u32,
}

/// A text that names no service address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAnAddress {
    text: String,
}

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no TIPC address: use tipc:SERVICE:INSTANCE, two numbers of 32 bits, the first not below {SERVICE_MIN}, such as \
             tipc:4711:7",
            self.text
        )
    }
}

impl std::error::Error for NotAnAddress {}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}:{}", self.service, self.instance)
    }
}

impl FromStr for ServiceAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        let parse = || {
            let (service, instance) = text.strip_prefix(SCHEME)?.split_once(':')?;
            Some(Self { service: number(service)?, instance: number(instance)? })
        };
        parse()
            .filter(|address| address.service >= SERVICE_MIN)
            .ok_or_else(|| NotAnAddress { text: text.to_owned() })
    }
}

impl From<ServiceAddress> for Addr {
    fn from(address: ServiceAddress) -> Self {
        Self::new(&address.to_string())
    }
}

/// One spelling for each number: addresses are compared as texts.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

const SCHEME: &str = "tipc:";
/// Lower ones are the kernel's.
const SERVICE_MIN: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_one_spelling() {
        for text in ["tipc:64:0", "tipc:4294967295:4294967295"] {
            assert_eq!(text.parse::<ServiceAddress>().expect("an address").to_string(), text);
        }
        for text in
            ["", "tipc:", "tipc:64", "tipc:064:1", "tipc:64:+1", "tipc:64:1:2", "tipc:64:4294967296", "64:1"]
        {
            let error = text.parse::<ServiceAddress>().expect_err("no address");
            assert!(error.to_string().contains("tipc:SERVICE:INSTANCE"), "{error}");
        }
    }
}
