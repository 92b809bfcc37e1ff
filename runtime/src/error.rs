//! What can go wrong with a call, and whether the method ran.

use rkyv::{Archive, Deserialize, Serialize};

use crate::codec::{Wire, layout};

/// The outcome of a call that gave no value.
///
/// Two questions matter to a caller, and every variant answers both: [`executed`](Self::executed) says whether a line
/// of the method ran, [`retry_safe`](Self::retry_safe) whether calling again can do no harm and may help.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[rkyv(crate = rkyv)]
#[rkyv(serialize_bounds(__S: rkyv::ser::Writer + rkyv::ser::Allocator, __S::Error: rkyv::rancor::Source))]
#[rkyv(deserialize_bounds(__D::Error: rkyv::rancor::Source))]
#[rkyv(bytecheck(bounds(__C: rkyv::validation::ArchiveContext, __C::Error: rkyv::rancor::Source)))]
#[non_exhaustive]
pub enum CallError {
    /// The request never left this node.
    #[error("the call was not sent: the link to its owner is down")]
    NotSent,
    /// The callee's side refused the call before it ran.
    #[error("the call was rejected: {0}")]
    Rejected(Rejection),
    /// The call would have waited for one of its own callers. The text is the path, outermost caller first.
    #[error("deadlock: {0}")]
    Deadlock(String),
    /// The method panicked; the text is the panic's message. Its object starts again from its last saved state.
    #[error("the method panicked: {0}")]
    Panicked(String),
    /// The method ran, but what it changed, or what it read, could not be saved and is gone from memory too; what a checkpoint of
    /// it had saved before stays.
    #[error("the state this call depends on could not be saved")]
    SaveFailed,
    /// Whether the method ran, and how it ended, cannot be known.
    #[error("the outcome of the call is unknown: {0}")]
    OutcomeUnknown(Loss),
    /// No node could serve the object in time, or this process runs no node.
    #[error("the object is unavailable: {0}")]
    Unavailable(String),
    /// The method ran, whatever the inner error says of a call, and gave no value: it returned this error of a call of its own, or what
    /// came of it is too large to be saved or sent.
    #[error("{}", nested_text(.0))]
    Nested(#[rkyv(omit_bounds)] Box<CallError>),
}

fn nested_text(inner: &CallError) -> String {
    match inner {
        CallError::Rejected(Rejection::TooLarge(what)) => {
            format!("the method ran, and something is too large: {what}")
        }
        inner => format!("the method returned an error of its own call: {inner}"),
    }
}

/// Why a call was refused before it ran.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[rkyv(crate = rkyv)]
#[non_exhaustive]
pub enum Rejection {
    /// A queue on the way is full.
    #[error("overloaded, try again later")]
    Overloaded,
    /// The object is on its way to another node.
    #[error("its object is moving")]
    Moving,
    /// The arguments, the result or the state are too large.
    #[error("too large: {0}")]
    TooLarge(String),
    /// The caller may not do this.
    #[error("denied")]
    Denied,
    /// The node is stopping.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The deadline passed before the method started.
    #[error("the deadline passed before it started")]
    Expired,
    /// More than 32 calls are nested.
    #[error("more than {} calls are nested", crate::call::DEPTH_MAX)]
    TooDeep,
    /// The entity is not bound on the node that owns the object.
    #[error(
        "entity {0:?} is not bound on this node: name it in `entities(..)` or `Node::builder().bind::<(..)>()`"
    )]
    NotBound(String),
    /// The owner's program has no such method.
    #[error("entity {entity:?} has no method {method}")]
    UnknownMethod {
        /// The entity's name.
        entity: String,
        /// The method's name, or its number if the name is not known here.
        method: String,
    },
    /// The owner's program has another idea of the arguments or the result.
    #[error(
        "method {method} of entity {entity:?} has other arguments or another result there: run the same version on both sides"
    )]
    Layout {
        /// The entity's name.
        entity: String,
        /// The method's name.
        method: String,
    },
    /// The object's saved state is none that the owner's program knows: of a newer version, or of one that it has no migration from.
    #[error("{0}")]
    Unreadable(String),
}

/// Why an outcome is unknown.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[rkyv(crate = rkyv)]
pub enum Loss {
    /// The deadline passed while the call was under way.
    #[error("its deadline passed while it was under way")]
    Timeout,
    /// The link broke while the call was under way.
    #[error("the link broke while it was under way")]
    LinkLost,
    /// The object was dropped from its node while the method was suspended, or its node died.
    #[error("its object was lost while it was under way")]
    OwnerLost,
}

/// Whether a method ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executed {
    /// No line of the method ran.
    No,
    /// The method ran, at least in part.
    Yes,
    /// It cannot be known.
    Unknown,
}

impl Rejection {
    /// Of something that takes `len` bytes where `len_max` are allowed.
    pub(crate) fn too_large(what: impl std::fmt::Display, len: usize, len_max: usize) -> Self {
        Self::TooLarge(format!("{what}: {len} bytes, at most {len_max}"))
    }
}

impl CallError {
    /// Whether the method ran.
    pub fn executed(&self) -> Executed {
        match self {
            Self::NotSent | Self::Rejected(_) | Self::Deadlock(_) | Self::Unavailable(_) => Executed::No,
            Self::Panicked(_) | Self::Nested(_) => Executed::Yes,
            Self::OutcomeUnknown(_) | Self::SaveFailed => Executed::Unknown,
        }
    }

    /// Whether the same call may be made again: it certainly did not run, and another try may succeed.
    pub fn retry_safe(&self) -> bool {
        use Rejection::{Denied, Layout, NotBound, TooLarge, UnknownMethod, Unreadable};
        let futile = matches!(
            self,
            Self::Deadlock(_)
                | Self::Rejected(TooLarge(_) | Denied | NotBound(_) | Unreadable(_))
                | Self::Rejected(UnknownMethod { .. } | Layout { .. })
        );
        self.executed() == Executed::No && !futile
    }

    fn depth(&self) -> usize {
        match self {
            Self::Nested(inner) => 1 + inner.depth(),
            _ => 0,
        }
    }
}

/// An error type that a method returns: says how errors of the method's *own* calls are marked when they reach its caller.
///
/// `#[message(error)]` implements it for your error types, marking the fields named by `#[nested]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a method",
    note = "put `#[message(error)]` on your error type and implement `From<CallError>` for it, or use `CallError`"
)]
pub trait MethodError: From<CallError> {
    /// Wraps what is an error of an inner call in [`CallError::Nested`]; everything else stays.
    #[must_use]
    fn nested(self) -> Self;
}

impl MethodError for CallError {
    fn nested(self) -> Self {
        if self.depth() >= NESTING_MAX { self } else { Self::Nested(Box::new(self)) }
    }
}

impl Wire for CallError {
    const LAYOUT: u64 = layout::combine("epicserver.CallError.1", &[]);
}

/// How deep [`CallError::Nested`] goes; deeper errors keep their outermost eight layers' meaning.
pub const NESTING_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode_to_vec};

    #[test]
    fn every_error_says_whether_it_ran() {
        assert_eq!(CallError::NotSent.executed(), Executed::No);
        assert!(CallError::Rejected(Rejection::Overloaded).retry_safe());
        assert!(!CallError::Rejected(Rejection::NotBound("x".into())).retry_safe());
        assert!(!CallError::Deadlock("a -> a".into()).retry_safe());
        let nested = CallError::Rejected(Rejection::Overloaded).nested();
        assert_eq!((nested.executed(), nested.retry_safe()), (Executed::Yes, false));
        assert_eq!(CallError::SaveFailed.executed(), Executed::Unknown);
    }

    /// A method that called nobody was said to have returned an error of its own call.
    #[test]
    fn what_a_method_leaves_too_large_is_no_error_of_a_call() {
        let too_large = CallError::Rejected(Rejection::too_large("the state of a/1", 12, 8));
        assert_eq!(
            too_large.to_string(),
            "the call was rejected: too large: the state of a/1: 12 bytes, at most 8"
        );
        let text = "the method ran, and something is too large: the state of a/1: 12 bytes, at most 8";
        assert_eq!(too_large.nested().to_string(), text);
        let denied = CallError::Rejected(Rejection::Denied).nested().to_string();
        assert_eq!(denied, "the method returned an error of its own call: the call was rejected: denied");
    }

    #[test]
    fn nesting_is_bounded_and_survives_the_wire() {
        let mut error = CallError::NotSent;
        for _ in 0..20 {
            error = error.nested();
        }
        assert_eq!(error.depth(), NESTING_MAX);
        let bytes = encode_to_vec(&error, 4096).expect("fits");
        assert_eq!(decode::<CallError>(&bytes), Ok(error));
    }
}
