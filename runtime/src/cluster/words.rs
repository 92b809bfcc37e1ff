//! The words between a member and the keeper, as messages of the wire and back.

use crate::membership::{KeeperAnswer, KeeperRequest};
use crate::wire::control::ControlMessage;

impl From<KeeperRequest> for ControlMessage {
    fn from(request: KeeperRequest) -> Self {
        match request {
            KeeperRequest::Join(member) => Self::Join(member),
            KeeperRequest::Renew => Self::Renew,
            KeeperRequest::ReadView => Self::ReadView,
            KeeperRequest::Leave => Self::Leave,
            KeeperRequest::Handed(handovers) => Self::Handed(handovers),
        }
    }
}

impl TryFrom<ControlMessage> for KeeperAnswer {
    /// A message that is for somebody else in the node.
    type Error = ControlMessage;

    fn try_from(message: ControlMessage) -> Result<Self, ControlMessage> {
        Ok(match message {
            ControlMessage::Joined(view) => Self::Joined(view),
            ControlMessage::Refused(reason) => Self::Refused(reason),
            ControlMessage::Renewed { view_version } => Self::Renewed { view_version },
            ControlMessage::Evicted => Self::Evicted,
            ControlMessage::View(view) => Self::View(view),
            ControlMessage::Left => Self::Left,
            other => return Err(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::wire::control::samples;

    #[test]
    fn exactly_the_keepers_answers_are_answers() {
        let mut answers = 0;
        for seed in 0..400 {
            let message = samples::message(&mut Rng::with_seed(seed));
            let is_answer = matches!(
                message,
                ControlMessage::Joined(_)
                    | ControlMessage::Refused(_)
                    | ControlMessage::Renewed { .. }
                    | ControlMessage::Evicted
                    | ControlMessage::View(_)
                    | ControlMessage::Left
            );
            answers += usize::from(is_answer);
            match KeeperAnswer::try_from(message.clone()) {
                Ok(_) => assert!(is_answer, "{message:?}"),
                Err(back) => assert!(!is_answer && back == message, "{message:?}"),
            }
        }
        assert!(answers > 50, "the samples have answers");
    }
}
