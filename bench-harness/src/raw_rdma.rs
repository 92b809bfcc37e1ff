//! Raw frames over InfiniBand verbs: one SEND each, into a receive that was posted before.

use std::io;
use std::net::TcpStream;

use crate::raw_line::{Carrier, Line};

#[cfg(feature = "rdma")]
pub(crate) use epicserver_transport_rdma::raw::Beginning;

/// What there is to begin in a build without verbs: nothing.
#[cfg(not(feature = "rdma"))]
pub(crate) enum Beginning {}

/// A queue pair.
pub(crate) struct RdmaLine {
    #[cfg(feature = "rdma")]
    raw: epicserver_transport_rdma::raw::Raw,
    #[cfg(feature = "rdma")]
    frame_len: usize,
}

/// Makes one end, and introduces it to the other.
#[cfg(feature = "rdma")]
pub(crate) fn begin(control: &TcpStream, carrier: &Carrier) -> io::Result<Beginning> {
    let (len, window) = (carrier.frame_len as usize, carrier.outstanding as usize);
    epicserver_transport_rdma::raw::Raw::begin(control, len, window)
}

#[cfg(not(feature = "rdma"))]
pub(crate) fn begin(_: &TcpStream, _: &Carrier) -> io::Result<Beginning> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "build bench-harness with the feature `rdma`"))
}

#[cfg(feature = "rdma")]
impl RdmaLine {
    pub(crate) fn finish(beginning: Beginning, control: &TcpStream, carrier: &Carrier) -> io::Result<Self> {
        Ok(Self { raw: beginning.finish(control)?, frame_len: carrier.frame_len as usize })
    }
}

#[cfg(not(feature = "rdma"))]
impl RdmaLine {
    pub(crate) fn finish(beginning: Beginning, _: &TcpStream, _: &Carrier) -> io::Result<Self> {
        match beginning {}
    }
}

#[cfg(feature = "rdma")]
impl Line for RdmaLine {
    fn write(&mut self, bytes: &[u8], _: bool) -> io::Result<usize> {
        let count = bytes.len() / self.frame_len;
        self.raw.send(count)?;
        Ok(count * self.frame_len)
    }

    fn read(&mut self, _: &mut [u8], park: bool) -> io::Result<usize> {
        Ok(self.raw.receive(park, crate::raw_line::PATIENCE)? * self.frame_len)
    }
}

#[cfg(not(feature = "rdma"))]
impl Line for RdmaLine {
    fn write(&mut self, _: &[u8], _: bool) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read(&mut self, _: &mut [u8], _: bool) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
