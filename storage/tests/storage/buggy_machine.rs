//! A machine with bugs to switch on, as [`crate::buggy`] is a store.

use epicserver_storage::{
    KeeperRecord, Kept, Machine, MachineError, MemoryCoordinator, MemoryMachine, MemoryStore, NodeId, StoreId,
};

/// One mistake that an implementation could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MachineBug {
    TwoKeepers,
    HalvesHoldNothing,
    ReignStays,
    DataLost,
    RegisteringEndsKeeping,
    RecordMissing,
    RenewalsNotWritten,
    AddressCut,
    StrangersAreDead,
    NobodyIsDead,
    IncarnationIgnored,
    IncarnationBeforeLives,
    KeepingForgetsTheDead,
    KillsItself,
}

impl MachineBug {
    pub(crate) const ALL: [Self; 14] = [
        Self::TwoKeepers,
        Self::HalvesHoldNothing,
        Self::ReignStays,
        Self::DataLost,
        Self::RegisteringEndsKeeping,
        Self::RecordMissing,
        Self::RenewalsNotWritten,
        Self::AddressCut,
        Self::StrangersAreDead,
        Self::NobodyIsDead,
        Self::IncarnationIgnored,
        Self::IncarnationBeforeLives,
        Self::KeepingForgetsTheDead,
        Self::KillsItself,
    ];
}

pub(crate) struct BuggyMachine {
    bug: Option<MachineBug>,
    inner: MemoryMachine,
    /// Registered in its name, where it should not be any more.
    others: Vec<MemoryMachine>,
    registered: Option<NodeId>,
    keeps: bool,
}

impl BuggyMachine {
    pub(crate) fn new(bug: Option<MachineBug>, inner: MemoryMachine) -> Self {
        Self { bug, inner, others: Vec::new(), registered: None, keeps: false }
    }

    fn has(&self, bug: MachineBug) -> bool {
        self.bug == Some(bug)
    }

    /// Data that is nobody else's, and holds no lock.
    fn loose(&self) -> Kept {
        let id = StoreId(2);
        let (coordinator, store) = (MemoryCoordinator::new(id), MemoryStore::new(id));
        Kept { reign: 1, coordinator: Box::new(coordinator), store: Box::new(store) }
    }
}

impl Machine for BuggyMachine {
    fn register(&mut self, me: NodeId) -> Result<(), MachineError> {
        if self.has(MachineBug::RegisteringEndsKeeping) {
            self.inner = self.inner.another();
        }
        if self.has(MachineBug::IncarnationBeforeLives) {
            let next = self.inner.another();
            self.others.push(std::mem::replace(&mut self.inner, next));
        }
        self.inner.register(me)?;
        self.registered = Some(me);
        Ok(())
    }

    fn try_keep(&mut self, me: NodeId, address: &str) -> Result<Option<Kept>, MachineError> {
        let address =
            if self.has(MachineBug::AddressCut) { &address[..address.len().min(64)] } else { address };
        let Some(mut kept) = self.inner.try_keep(me, address)? else {
            return Ok(self.has(MachineBug::TwoKeepers).then(|| self.loose()));
        };
        self.keeps = true;
        match self.bug {
            Some(MachineBug::ReignStays) => kept.reign = 1,
            Some(MachineBug::HalvesHoldNothing) => kept = Kept { reign: kept.reign, ..self.loose() },
            Some(MachineBug::DataLost) => kept.coordinator = self.loose().coordinator,
            _ => {}
        }
        Ok(Some(kept))
    }

    fn renew_keeping(&mut self, renewals: u64) -> Result<(), MachineError> {
        if self.has(MachineBug::RenewalsNotWritten) { Ok(()) } else { self.inner.renew_keeping(renewals) }
    }

    fn keeper(&mut self) -> Result<Option<KeeperRecord>, MachineError> {
        if self.has(MachineBug::RecordMissing) { Ok(None) } else { self.inner.keeper() }
    }

    fn is_proven_dead(&mut self, node: NodeId) -> bool {
        let first = NodeId { incarnation: 1, ..node };
        match self.bug {
            Some(MachineBug::StrangersAreDead) => {
                self.registered != Some(node)
                    && (self.inner.is_proven_dead(node) || self.inner.register(node).is_ok())
            }
            Some(MachineBug::NobodyIsDead) => false,
            Some(MachineBug::KeepingForgetsTheDead) if self.keeps => false,
            Some(MachineBug::IncarnationIgnored) => self.inner.is_proven_dead(first),
            _ => self.inner.is_proven_dead(node),
        }
    }

    fn kill(&mut self, node: NodeId) -> bool {
        self.has(MachineBug::KillsItself) && self.registered == Some(node)
    }
}
