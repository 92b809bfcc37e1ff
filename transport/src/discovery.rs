//! Finding peers that nobody was told of.

use crate::link::Addr;

/// Says where others may be reached. What it says is a hint: a link's hello proves who is there, and nobody is taken for gone
/// because it is not named any more.
pub trait Discovery: Send {
    /// Addresses where others listen now, as far as is known; the own one may be among them. MUST NOT block; it is asked again
    /// and again while a node looks for its cluster.
    fn look(&mut self) -> Vec<Addr>;
}
