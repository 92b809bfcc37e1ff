//! The path of a call: which objects its ancestors hold, so that a call that would wait for one of its own callers is
//! refused at once instead of waiting for ever.
//!
//! On one core the path is the chain of the callers' slots. A call that leaves its core takes the chain along as a
//! shared list of these nodes.

use std::fmt;
use std::sync::Arc;

use crate::id::{CallId, ObjectHash};
use crate::slot::Hold;

/// One ancestor.
#[derive(Debug)]
pub(crate) struct PathNode {
    pub(crate) object: ObjectHash,
    pub(crate) call: CallId,
    pub(crate) hold: Hold,
    pub(crate) method: u32,
    pub(crate) partition: u16,
    /// What to print; empty for an ancestor that came from another node.
    pub(crate) label: String,
    pub(crate) parent: Option<Arc<PathNode>>,
}

impl PathNode {
    /// This ancestor and those above it, innermost first.
    pub(crate) fn chain(&self) -> impl Iterator<Item = &PathNode> {
        std::iter::successors(Some(self), |node| node.parent.as_deref())
    }
}

impl fmt::Display for PathNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.label.is_empty() {
            write!(f, "object {:032x}", self.object.0)
        } else {
            f.write_str(&self.label)
        }
    }
}

/// Whether two calls on one object exclude each other.
pub(crate) fn conflict(a: (Hold, u32), b: (Hold, u32)) -> bool {
    match (a.0, b.0) {
        (Hold::Exclusive, _) | (_, Hold::Exclusive) => true,
        (Hold::Serial, Hold::Serial) => a.1 == b.1,
        _ => false,
    }
}
