//! Where a node belongs: alone in memory, in a cluster of listed members, or in the cluster of a data directory.
//!
//! Picks what the settings name: transport, data directory, store. The application does not change with them.

mod names;
mod tipc;

use std::fmt;
use std::path::Path;

use epicserver_data_dir::{ClusterIdentity, DataDirectory, DirectoryMachine, Opening};
use epicserver_runtime::membership::DampingLimits;
use epicserver_runtime::{ClusterConfig, LinksConfig, NodeBuilder};
use epicserver_storage::{Kept, Machine, MachineError};
use epicserver_transport::{Addr, Discovery, Transport};

use crate::settings::{DataDir, RdmaDevice, Settings, TransportKind, USUAL_FOLDER};

type Failure = Box<dyn std::error::Error>;

/// Where a node belongs, as its settings say.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    settings: Settings,
}

impl Place {
    /// Looks up the names of hosts in the settings.
    ///
    /// # Errors
    /// A name that stands for no address, or for several where one is meant.
    pub(crate) async fn of(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self { settings: names::resolved(settings).await? })
    }

    /// Gives the node what its place needs.
    ///
    /// # Errors
    /// What is missing or cannot be used, in words for the user.
    pub(crate) fn equip(&self, builder: NodeBuilder) -> Result<NodeBuilder, Failure> {
        if self.is_listed() {
            self.among_listed(builder)
        } else if self.is_alone() {
            Ok(builder)
        } else {
            Ok(builder.cluster(self.cluster(false)?))
        }
    }

    /// As [`equip`](Self::equip), for a node that only looks at its cluster.
    pub(crate) fn equip_to_look(&self, builder: NodeBuilder) -> Result<NodeBuilder, Failure> {
        if self.is_listed() || self.is_alone() {
            return Err("there is no cluster to look at: give --data-dir or --seed".into());
        }
        if let Some(path) = self.settings.data_folder()
            && !path.exists()
        {
            return Err(
                format!("there is no data directory {}: name one with --data-dir", path.display()).into()
            );
        }
        Ok(builder.cluster(self.cluster(true)?))
    }

    fn is_listed(&self) -> bool {
        !self.settings.peers.is_empty()
    }

    fn is_alone(&self) -> bool {
        let settings = &self.settings;
        settings.data_folder().is_none() && settings.seed.is_empty() && !settings.finds_its_cluster()
    }

    /// The transport, and what finds others where nobody needs to be told of them.
    fn transport(&self, cluster: u128) -> Result<(Box<dyn Transport>, Option<Box<dyn Discovery>>), Failure> {
        let listen = self.settings.listen.as_deref();
        match self.settings.transport {
            TransportKind::Tcp => Ok((tcp(listen.unwrap_or(ANY_PORT))?, None)),
            TransportKind::Tipc => {
                let importance = self.settings.tipc_importance;
                let tipc::Found { transport, discovery } = tipc::bind(listen, importance, cluster)?;
                Ok((transport, Some(discovery)))
            }
            TransportKind::Rdma => {
                Ok((rdma(listen.unwrap_or(ANY_PORT), self.settings.rdma_device.as_ref())?, None))
            }
        }
    }

    fn among_listed(&self, builder: NodeBuilder) -> Result<NodeBuilder, Failure> {
        let Some(secret) = self.settings.secret()? else {
            return Err("peers are given, but no secret: name its file with secret_file".into());
        };
        let (transport, _) = self.transport(0)?;
        let own = transport.local_addr().clone();
        let nodes = self.settings.peers.iter().map(|peer| Addr::new(peer)).chain([own.clone()]).collect();
        // The secret tells clusters apart; the id is for those that share one.
        Ok(builder.links(LinksConfig { transport, nodes, own: Some(own), cluster: 0, secret }))
    }

    fn given_identity(&self) -> Result<Option<ClusterIdentity>, Failure> {
        let Some(path) = &self.settings.secret_file else { return Ok(None) };
        let read = ClusterIdentity::read(path);
        Ok(Some(read.map_err(|error| format!("secret_file {}: {error}", path.display()))?))
    }

    fn cluster(&self, looks_on: bool) -> Result<ClusterConfig, Failure> {
        let given = self.given_identity()?;
        let directory = self
            .settings
            .data_folder()
            .map(|path| DataDirectory::open_or_found(&path, given.as_ref()))
            .transpose()?;
        if self.settings.data_dir == DataDir::Usual && directory.is_some() {
            keep_out_of_git();
        }
        let identity = match (&directory, &given) {
            (Some(directory), _) => directory.identity(),
            (None, Some(given)) => given,
            (None, None) => return Err(NO_SECRET.into()),
        };
        let (transport, discovery) = self.transport(identity.cluster)?;
        Ok(ClusterConfig {
            transport,
            discovery,
            machine: directory.as_ref().map(machine),
            seeds: self.settings.seed.iter().map(|seed| Addr::new(seed)).collect(),
            cluster: identity.cluster,
            secret: identity.secret,
            damping: DampingLimits::of_lives_under(self.settings.short_life.as_nanos() as u64),
            looks_on,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = self.settings.transport;
        match self.settings.data_folder() {
            _ if self.is_listed() => write!(f, "among listed peers over {transport}, state in memory"),
            _ if self.is_alone() => f.write_str("alone, state in memory"),
            Some(path) => write!(f, "data directory {}, over {transport}", path.display()),
            None => write!(f, "no data directory, over {transport}"),
        }
    }
}

/// A folder that appears by itself, with a secret in it, is not to be committed by accident.
fn keep_out_of_git() {
    let file = Path::new(USUAL_FOLDER).join(".gitignore");
    if !file.exists()
        && let Err(error) = std::fs::write(&file, "*\n")
    {
        tracing::debug!(file = %file.display(), %error, "cannot be written");
    }
}

/// The processes that share a directory, and the store of the one that keeps it.
fn machine(directory: &DataDirectory) -> Box<dyn Machine> {
    Box::new(DirectoryMachine::new(directory, open_store))
}

#[cfg(feature = "sqlite")]
fn open_store(opening: &Opening<'_>) -> Result<Kept, MachineError> {
    let path = opening.directory.join(crate::settings::STORE_FILE);
    let opened = epicserver_storage_sqlite::open(&path, opening.fresh_store)?;
    if opened.is_new_generation {
        let path = opening.directory.display();
        tracing::warn!(%path, "this data was copied here: a new generation of the cluster begins");
    }
    Ok(Kept::from(opened))
}

#[cfg(not(feature = "sqlite"))]
fn open_store(_: &Opening<'_>) -> Result<Kept, MachineError> {
    let reason = "this program was built without a store: build it with the feature `sqlite` of epicserver";
    Err(MachineError::Unusable { reason: reason.to_owned() })
}

#[cfg(feature = "tcp")]
fn tcp(listen: &str) -> Result<Box<dyn Transport>, Failure> {
    use epicserver_transport_tcp::{TcpOptions, TcpTransport};
    let options = TcpOptions { listen: listen.parse()?, ..TcpOptions::default() };
    let transport = TcpTransport::bind(options).map_err(|error| {
        format!("listen = {listen:?}: {error}; give another address, or port 0 for any that is free")
    })?;
    Ok(Box::new(transport))
}

#[cfg(not(feature = "tcp"))]
fn tcp(_: &str) -> Result<Box<dyn Transport>, Failure> {
    Err("this program was built without TCP: build it with the feature `tcp` of epicserver".into())
}

#[cfg(feature = "rdma")]
fn rdma(listen: &str, device: Option<&RdmaDevice>) -> Result<Box<dyn Transport>, Failure> {
    use epicserver_transport_rdma::{RdmaOptions, RdmaTransport};
    let options = RdmaOptions {
        listen: listen.parse()?,
        device: device.map(|device| device.name.clone()),
        port: device.and_then(|device| device.port),
        gid_index: device.and_then(|device| device.gid_index),
        ..RdmaOptions::default()
    };
    Ok(Box::new(RdmaTransport::bind(options)?))
}

#[cfg(not(feature = "rdma"))]
fn rdma(_: &str, _: Option<&RdmaDevice>) -> Result<Box<dyn Transport>, Failure> {
    Err("this program was built without InfiniBand verbs: build it with the feature `rdma` of epicserver"
        .into())
}

const ANY_PORT: &str = "127.0.0.1:0";
const NO_SECRET: &str = "seeds are given, but neither a data directory nor a secret: copy the file `cluster.secret` of the cluster's \
    data directory to this machine, and name it with secret_file";
