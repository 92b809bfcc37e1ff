//! Questions to the keeper that are not answered.

use std::collections::VecDeque;

/// The last questions of this incarnation; an answer to another one says nothing about it.
#[derive(Debug, Default)]
pub(super) struct Requests {
    last: u32,
    asked: VecDeque<Asked>,
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    number: u32,
    /// When it was sent, if it was a renewal.
    pub(super) renewal_sent_ns: Option<u64>,
}

impl Requests {
    /// Notes a question, and gives it a number. The oldest is forgotten where there are too many.
    pub(super) fn put(&mut self, renewal_sent_ns: Option<u64>) -> u32 {
        // 0 is for what nobody asked for.
        self.last = self.last.checked_add(1).unwrap_or(1);
        if self.asked.len() == REQUESTS_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked { number: self.last, renewal_sent_ns });
        self.last
    }

    /// The question with this number, once.
    pub(super) fn take(&mut self, number: u32) -> Option<Asked> {
        let place = self.asked.iter().position(|asked| asked.number == number)?;
        self.asked.remove(place)
    }

    pub(super) fn clear(&mut self) {
        self.asked.clear();
    }
}

/// How many unanswered questions are remembered.
const REQUESTS_MAX: usize = 64;
