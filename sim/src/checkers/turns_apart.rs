//! Law 4: turns of an object never overlap, an exclusive method is alone on its object, and an object is in one place.

use std::collections::BTreeMap;

use super::{Checks, Findings, Violation};
use crate::witness::Manner;

/// Who runs where.
#[derive(Debug, Default)]
pub(crate) struct TurnsApart {
    /// The objects whose turns are under way, and where: a callee's lies in that of its caller.
    running: Vec<(u64, (u16, u16))>,
    holders: BTreeMap<u64, Vec<Holder>>,
    findings: Findings,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    serial: u64,
    manner: Manner,
    place: (u16, u16),
}

impl TurnsApart {
    /// A method has started.
    pub(crate) fn hold(&mut self, object: u64, serial: u64, manner: Manner, place: (u16, u16)) {
        let holders = self.holders.entry(object).or_default();
        let mine = Holder { serial, manner, place };
        let other = holders.iter().find(|other| excludes(manner, other.manner)).copied();
        self.findings.check(HOLD, other.is_none(), || {
            format!("object {object:x} is held by {other:?} when {mine:?} starts")
        });
        let elsewhere = holders.iter().find(|other| other.place != place).copied();
        self.findings.check(PLACE, elsewhere.is_none(), || {
            format!("object {object:x} runs at {elsewhere:?} and as {mine:?}")
        });
        holders.push(mine);
    }

    /// A method is gone.
    pub(crate) fn let_go(&mut self, object: u64, serial: u64) {
        if let Some(holders) = self.holders.get_mut(&object) {
            holders.retain(|holder| holder.serial != serial);
        }
    }

    /// A node is no member any more: what still runs there has no effect, and others own its objects.
    pub(crate) fn expel(&mut self, node: u16) {
        for holders in self.holders.values_mut() {
            holders.retain(|holder| holder.place.0 != node);
        }
    }

    /// A turn begins: of another object than all that it lies in, and on the same core.
    pub(crate) fn enter(&mut self, object: u64, place: (u16, u16)) {
        let running = &self.running;
        let apart = running.iter().all(|(other, there)| *other != object && *there == place);
        self.findings.check(TURN, apart, || {
            format!("a turn of object {object:x} at {place:?} begins inside those of {running:x?}")
        });
        self.running.push((object, place));
    }

    /// The turn that began last has ended.
    pub(crate) fn leave(&mut self, object: u64) {
        let last = self.running.pop();
        self.findings.check(TURN, last.is_some_and(|(other, _)| other == object), || {
            format!("a turn of object {object:x} ends, and the one inside is of {last:x?}")
        });
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.findings.violation(LAW)
    }

    pub(crate) fn count_into(&self, checks: &mut Checks) {
        self.findings.count_into(LAW, checks);
    }
}

fn excludes(mine: Manner, other: Manner) -> bool {
    mine == Manner::Exclusive
        || other == Manner::Exclusive
        || (mine, other) == (Manner::Serial, Manner::Serial)
}

const LAW: u8 = 4;
pub(super) const TURN: &str = "turns of an object never overlap";
pub(super) const HOLD: &str = "holds exclude each other";
pub(super) const PLACE: &str = "an object runs in one place";
