//! The machine: what the processes that share one data directory know of each other without a link between them.
//!
//! A contract, no implementation. It answers three questions that no message can: who keeps the data, is that process
//! really gone, and what ends one that is stopped for ever. Everything else between processes goes over links.
//!
//! ```text
//!   every process                      the keeper                         who takes over
//!   register(me) ... lives             try_keep(me, address) -> Kept      keeper() shows the same renewals for takeover_ns
//!   keeper() -> whom to dial           renew_keeping(n), every 2 s        kill(keeper), try_keep(..) -> Kept, reign + 1
//!                                      is_proven_dead(member) -> at once
//! ```
//! Not here: when any of this is called (the runtime's fabric), what a data directory looks like (`data-dir`), and leases
//! of members, which run over links ([`crate::Coordinator::renew_lease`]). Start at [`Machine`].

use crate::id::NodeId;
use crate::view::MEMBER_NAME_LENGTH_MAX;

mod kept;

pub use kept::Kept;

/// What the processes of one machine know of each other. A process has one, used by one thread.
///
/// # What every implementation MUST keep
/// 1. *One keeper.* At no time do two processes hold a [`Kept`] of the same data. Keeping ends with the process, however it
///    ends, or when the machine and both halves of its [`Kept`] are dropped; nothing else ends it.
/// 2. *No false proof.* [`Machine::is_proven_dead`] is true only if that incarnation runs nowhere any more: its process is
///    gone, or has registered anew or dropped its machine. A stopped process is not gone.
/// 3. *No stranger is harmed.* [`Machine::kill`] ends the process that registered this very incarnation, or nothing, also when
///    its number was given to another process since.
/// 4. *Prompt.* No verb waits for another process, stopped ones included.
/// 5. *No panic* on what it finds written by others: it is an error, or as if it were not there.
pub trait Machine: Send {
    /// Says that this incarnation lives in this process, until the machine is dropped or registers anew. From then on the one
    /// registered before counts as dead, so everything of it MUST be dropped first.
    ///
    /// # Errors
    /// [`MachineError`]; nothing is registered then, the one before included.
    fn register(&mut self, me: NodeId) -> Result<(), MachineError>;

    /// Becomes the keeper, if nobody else on this machine is: opens coordinator and store, counts the next reign, and writes
    /// a [`KeeperRecord`] with `address` (at most [`MEMBER_NAME_LENGTH_MAX`] bytes) and 0 renewals. `None`: another keeps.
    ///
    /// # Errors
    /// [`MachineError`] if the data cannot be opened; this process does not keep then, and another may try.
    ///
    /// # Panics
    /// If this process keeps already, or the address is too long.
    fn try_keep(&mut self, me: NodeId, address: &str) -> Result<Option<Kept>, MachineError>;

    /// Writes into the [`KeeperRecord`] how often this keeper has renewed, for the other processes of the machine to see.
    ///
    /// # Errors
    /// [`MachineError`]. This process still keeps, but others may take it for stopped.
    ///
    /// # Panics
    /// If this process does not keep.
    fn renew_keeping(&mut self, renewals: u64) -> Result<(), MachineError>;

    /// What the keeper last wrote, or the one before it if there is none now; `None` if nobody ever kept. A reader never
    /// sees half of it. That a keeper is there says only a record that changes.
    ///
    /// # Errors
    /// [`MachineError`].
    fn keeper(&mut self) -> Result<Option<KeeperRecord>, MachineError>;

    /// Whether it is proven that this incarnation is gone for good: a takeover needs no lease then. `false` says nothing: it
    /// may live, be stopped, be of another machine, or be gone so long that the proof was cleaned away.
    ///
    /// The keeper keeps a proof that it cleaned away itself; a process that does not keep may miss one.
    fn is_proven_dead(&mut self, node: NodeId) -> bool;

    /// Ends the process of this incarnation at once, if it is one of this machine, alive, not this one, and this process may.
    /// `true`: the signal was sent, and the proof will be there soon. `false`: nothing happened.
    fn kill(&mut self, node: NodeId) -> bool;
}

/// So that a machine chosen at run time can be wrapped.
impl<M: Machine + ?Sized> Machine for Box<M> {
    fn register(&mut self, me: NodeId) -> Result<(), MachineError> {
        (**self).register(me)
    }

    fn try_keep(&mut self, me: NodeId, address: &str) -> Result<Option<Kept>, MachineError> {
        (**self).try_keep(me, address)
    }

    fn renew_keeping(&mut self, renewals: u64) -> Result<(), MachineError> {
        (**self).renew_keeping(renewals)
    }

    fn keeper(&mut self) -> Result<Option<KeeperRecord>, MachineError> {
        (**self).keeper()
    }

    fn is_proven_dead(&mut self, node: NodeId) -> bool {
        (**self).is_proven_dead(node)
    }

    fn kill(&mut self, node: NodeId) -> bool {
        (**self).kill(node)
    }
}

/// How the processes of a machine find the keeper, and see that it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeeperRecord {
    /// Who keeps.
    pub node: NodeId,
    /// Where its transport listens, in the transport's own spelling.
    pub address: String,
    /// How often it renewed in this reign. One that stays the same for [`crate::takeover_ns`] belongs to a keeper that is
    /// stopped, whatever else it looks like.
    pub renewals: u64,
}

impl KeeperRecord {
    /// Refuses what no record holds, for implementations of [`Machine::try_keep`].
    ///
    /// # Panics
    /// If the address is longer than [`MEMBER_NAME_LENGTH_MAX`] bytes.
    pub fn assert_address(address: &str) {
        let length = address.len();
        assert!(length <= MEMBER_NAME_LENGTH_MAX, "an address of {length} bytes is too long");
    }
}

/// Why a verb did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// The directory or the kernel refused: disk full, too many open files, a permission. The same call may succeed later.
    #[error("the data directory failed: {reason}")]
    Failed {
        /// For the log.
        reason: String,
    },
    /// What is there cannot be used by this program: damaged, or of another cluster or version. Trying again is in vain until
    /// somebody has done what the reason says.
    #[error("the data cannot be used: {reason}")]
    Unusable {
        /// For the user: a sentence that says what to do.
        reason: String,
    },
}

impl MachineError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}
