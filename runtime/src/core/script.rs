//! A core's part in tests of one object: what entity code asks for is written down, calls of other objects are held back.

use rkyv::util::AlignedVec;

use super::{CoreMessage, CoreState};
use crate::codec::{CodecError, Encoder};
use crate::entity::{Entity, Methods, Stored};
use crate::error::{CallError, Rejection};
use crate::script::{Arguments, ENCODED_LEN_MAX, Syscall, Tape};
use crate::slot::{Away, ReplyTo, SlotPtr};

impl CoreState {
    pub(crate) fn tape(&self) -> Option<&Tape> {
        self.script.as_ref()
    }

    pub(super) fn note(&self, syscall: Syscall) {
        if let Some(tape) = self.tape() {
            tape.note(self.next_counter(), syscall);
        }
    }

    /// In a test of one object, calls of other objects wait for the test. Gives whether this one does.
    pub(super) fn intercept(&self, slot: SlotPtr) -> bool {
        let Some(tape) = self.tape().filter(|tape| !tape.is_own(slot)) else { return false };
        let vtable = slot.vtable.get();
        let one_way = slot.reply_to.get() == ReplyTo::Nobody;
        let object = slot.key(|key| format!("{}/{key}", vtable.entity)).unwrap_or_default();
        let arguments = match self.encode_arguments(slot) {
            Ok(bytes) => Arguments(bytes),
            Err(error) => {
                self.refuse(
                    slot,
                    CallError::Rejected(Rejection::TooLarge(format!("its arguments: {error}"))),
                );
                return true;
            }
        };
        let syscall = Syscall::Call { object, method: vtable.name, arguments, one_way };
        tape.note(slot.counter.get(), syscall.clone());
        if one_way {
            self.refuse(slot, CallError::NotSent);
        } else {
            // From here it looks like a call that another core has: deadlines and cancelling go with that.
            slot.caller.away.set(Away::Core(ELSEWHERE));
            self.arm_deadline(slot);
            tape.keep(syscall, slot);
        }
        true
    }

    fn encode_arguments(&self, slot: SlotPtr) -> Result<Vec<u8>, CodecError> {
        let mut scratch = self.scratch.borrow_mut();
        let mut len = 256;
        loop {
            let mut bytes = AlignedVec::<16>::with_capacity(len);
            bytes.resize(len, 0);
            match slot.encode_request(&mut Encoder { buffer: &mut bytes, scratch: &mut scratch }) {
                Ok(written) => return Ok(bytes[..written].to_vec()),
                Err(CodecError::Full { len: needed }) if needed <= ENCODED_LEN_MAX => len = needed,
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends a call that waited for the test.
    pub(crate) fn end_scripted(&self, slot: SlotPtr, reply: Result<&[u8], CallError>) {
        slot.decode_reply(reply);
        slot.depends_on.set(0);
        self.reply(slot);
    }

    /// The object dropped a call that waited for the test.
    pub(crate) fn forget_scripted(&self, message: &CoreMessage) {
        let (Some(tape), Some(task)) = (self.tape(), message.cancelled()) else { return };
        if let Some(slot) = tape.take_task(task) {
            self.end_scripted(slot, Err(CallError::NotSent));
        }
    }

    /// The script ends: nothing waits for the test any more.
    pub(crate) fn end_script(&self) {
        for slot in self.tape().map(Tape::take_all).unwrap_or_default() {
            self.end_scripted(slot, Err(CallError::Rejected(Rejection::ShuttingDown)));
        }
    }

    /// Puts the script's object into memory, in this state.
    pub(crate) fn place<E: Methods>(&self, key: &Stored<E>, state: E) {
        let entry = self.entry::<E>().expect("the script's entity is bound");
        let catalog = entry.typed::<E>().expect("of this type");
        assert!(catalog.find(u32::MAX, key).is_none(), "the state is given before the first call");
        let object = catalog.insert_with(entry.vtable, key.clone(), Self::partition_of::<E>(key), state);
        object.last_used.set(self.now.get());
        self.begin_idling(object);
        self.activated(object);
    }

    /// Looks at the state of an object in memory that nobody holds exclusively.
    pub(crate) fn read_state<E: Entity, R>(&self, key: &Stored<E>, read: impl FnOnce(&E) -> R) -> Option<R> {
        let catalog = self.entry::<E>()?.typed::<E>()?;
        catalog.read(catalog.find(u32::MAX, key)?, read)
    }
}

/// The core of a call that the test has: one that no node has.
const ELSEWHERE: u16 = u16::MAX;
