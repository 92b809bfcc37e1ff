//! Picks the transport that the settings name. The application does not change with it.

use epicserver_runtime::NodeBuilder;

use crate::settings::Settings;

/// Gives the node its links.
///
/// # Errors
/// If the secret cannot be read, or the build has no transport.
#[cfg(not(feature = "tcp"))]
pub(crate) fn add_links(_: NodeBuilder, _: &Settings) -> Result<NodeBuilder, Box<dyn std::error::Error>> {
    Err("this program was built without a transport: build it with the feature `tcp` of epicserver".into())
}

/// Gives the node its links.
///
/// # Errors
/// If the secret cannot be read or the address cannot be listened on.
#[cfg(feature = "tcp")]
pub(crate) fn add_links(
    builder: NodeBuilder,
    settings: &Settings,
) -> Result<NodeBuilder, Box<dyn std::error::Error>> {
    use epicserver_runtime::LinksConfig;
    use epicserver_transport::{Addr, Transport};
    use epicserver_transport_tcp::{TcpOptions, TcpTransport};

    let Some(listen) = &settings.listen else { return Ok(builder) };
    let Some(secret) = settings.secret()? else {
        // Without peers nobody can join either: there is nothing to link.
        return Ok(builder);
    };
    let options = TcpOptions { listen: listen.parse()?, ..TcpOptions::default() };
    let transport = TcpTransport::bind(options).map_err(|error| format!("listen = {listen:?}: {error}"))?;
    let own = transport.local_addr().clone();
    let peers = settings.peers.iter().map(|peer| Addr::new(peer));
    let nodes = peers.chain([own.clone()]).collect();
    // The secret tells clusters apart; the id is for those that share one.
    let cluster = 0;
    Ok(builder.links(LinksConfig { transport: Box::new(transport), nodes, own: Some(own), cluster, secret }))
}
