//! The entities of the world. Every method reports to the witness. They are written without the macros of the front door,
//! which a simulator may not import; `glue` stands in for them.
//!
//! An [`Account`] is durable and remembers every change by its serial, with the change that caused it: what a store
//! holds of it can be checked against what clients were told. A [`Board`] is never saved and passes on what it saw, which
//! is how a batch's failure could leak.

use std::time::Duration;

use epicserver_runtime::entity::RawRef;
use epicserver_runtime::{CallError, Field, context};

use self::glue::{entity, message, method};
use crate::witness::{self, Manner, watched};

mod glue;

/// One call's papers.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug)]
pub struct Ticket {
    /// Which call of the world it is; higher ones were made later.
    pub serial: u64,
    /// Who calls: an object's name, or a client's.
    pub caller: u64,
    /// Whom it is for.
    pub object: u64,
    /// Its ancestors' objects.
    pub path: Vec<u64>,
    /// Nobody waits for it.
    pub one_way: bool,
    /// What the call is made because of.
    pub cause: Cause,
}

/// A change that another one follows from; zeros if there is none.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Whose change.
    pub object: u64,
    /// Which.
    pub serial: u64,
}

/// A change of an account.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its number in the world.
    pub serial: u64,
    /// What it follows from.
    pub cause: Cause,
}

/// What a method tells its caller.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Debug)]
pub struct Receipt {
    /// Whose.
    pub object: u64,
    /// The change that was made; 0 if none was.
    pub serial: u64,
    /// The account as the method saw it.
    pub changes: Vec<Change>,
}

/// How a method that is called along the way behaves.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `Account::add`.
    Shared,
    /// `Account::deposit`.
    Exclusive,
    /// `Account::post`.
    Serial,
    /// `Account::add`, one way.
    OneWay,
}

/// What happens in the middle of a change.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Middle {
    /// Nothing.
    Straight,
    /// A wait of so many microseconds.
    Wait(u64),
    /// A checkpoint.
    Save,
    /// A panic, after the change.
    Panic,
}

/// Names an account in tickets.
pub fn account(key: u64) -> u64 {
    key
}

/// Names a board in tickets.
pub fn board(key: u64) -> u64 {
    BOARD | key
}

/// The key of an object by its name in tickets.
pub fn key_of(object: u64) -> u64 {
    object & (BOARD - 1)
}

/// Names a client in tickets.
pub fn client(number: u64) -> u64 {
    CLIENT | number
}

const BOARD: u64 = 1 << 32;
const CLIENT: u64 = 1 << 33;

impl Ticket {
    /// The papers of a call that this call makes.
    fn next(&self, object: u64, cause: Cause) -> Self {
        let mut path = self.path.clone();
        path.push(self.object);
        Self { serial: witness::next_serial(), caller: self.object, object, path, one_way: false, cause }
    }

    fn as_cause(&self) -> Cause {
        Cause { object: self.object, serial: self.serial }
    }
}

/// A durable object.
#[derive(Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Account {
    changes: Field<Vec<Change>>,
}

impl Account {
    fn apply(&self, ticket: &Ticket) {
        let change = Change { serial: ticket.serial, cause: ticket.cause };
        self.changes.modify(|changes| changes.push(change));
    }

    async fn pause(&self, ticket: &Ticket, middle: Middle) {
        match middle {
            Middle::Straight => {}
            Middle::Wait(us) => wait(us).await,
            Middle::Save => self.checkpoint(ticket).await,
            // Past the panic hook, which would write to the terminal.
            Middle::Panic => std::panic::resume_unwind(Box::new("a planned panic")),
        }
    }

    async fn checkpoint(&self, ticket: &Ticket) {
        // What is not known to be saved is nobody's loss: the method goes on, and is saved at its end.
        if context::save(self).await.is_ok() {
            witness::saved(self.receipt(ticket, ticket.serial));
        }
    }

    fn receipt(&self, ticket: &Ticket, serial: u64) -> Receipt {
        Receipt { object: ticket.object, serial, changes: self.changes.get() }
    }

    /// What is saved of an account.
    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes.into_inner()
    }
}

impl Account {
    /// A change that excludes everything else.
    async fn deposit(&mut self, ticket: Ticket, middle: Middle) -> Receipt {
        watched(&ticket, Manner::Exclusive, async {
            self.apply(&ticket);
            self.pause(&ticket, middle).await;
            self.receipt(&ticket, ticket.serial)
        })
        .await
    }

    /// A change in one turn.
    async fn add(&self, ticket: Ticket) -> Receipt {
        watched(&ticket, Manner::Shared, async {
            self.apply(&ticket);
            self.receipt(&ticket, ticket.serial)
        })
        .await
    }

    /// A change in the second of two turns, and not beside itself.
    async fn post(&self, ticket: Ticket, wait_us: u64) -> Receipt {
        watched(&ticket, Manner::Serial, async {
            wait(wait_us).await;
            self.apply(&ticket);
            self.receipt(&ticket, ticket.serial)
        })
        .await
    }

    /// A change here, and one that follows from it along the way.
    async fn transfer(
        &self,
        ticket: Ticket,
        to: Vec<RawRef<Account>>,
        way: Way,
    ) -> Result<Vec<Receipt>, CallError> {
        watched(&ticket, Manner::Shared, async {
            self.apply(&ticket);
            let mut receipts = vec![self.receipt(&ticket, ticket.serial)];
            receipts.extend(pass_on(&ticket, ticket.as_cause(), to, way).await?);
            Ok(receipts)
        })
        .await
    }

    /// As `transfer`, while nothing else runs here: two of them towards each other wait for each other.
    async fn swap(
        &mut self,
        ticket: Ticket,
        to: Vec<RawRef<Account>>,
        way: Way,
    ) -> Result<Vec<Receipt>, CallError> {
        watched(&ticket, Manner::Exclusive, async {
            self.apply(&ticket);
            let mut receipts = vec![self.receipt(&ticket, ticket.serial)];
            // The change here is complete at the end of this method only, so nothing may depend on it before.
            receipts.extend(pass_on(&ticket, Cause::default(), to, way).await?);
            Ok(receipts)
        })
        .await
    }

    /// The account as it is.
    async fn read(&self, ticket: Ticket) -> Receipt {
        watched(&ticket, Manner::Shared, async { self.receipt(&ticket, 0) }).await
    }
}

/// An object that is never saved.
#[derive(Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Board {
    seen: Field<Vec<Receipt>>,
    changes: Field<u64>,
}

impl Board {
    /// Reads an account and keeps what it saw.
    async fn gather(&self, ticket: Ticket, from: RawRef<Account>) -> Result<Receipt, CallError> {
        watched(&ticket, Manner::Shared, async {
            let papers = ticket.next(account(from.key()), Cause::default());
            let serial = papers.serial;
            let result = from.call(Read { ticket: papers }).await;
            witness::answered(serial, &result);
            let receipt = result?;
            self.seen.modify(|seen| {
                seen.push(receipt.clone());
                if seen.len() > SEEN_MAX {
                    seen.remove(0);
                }
            });
            self.changes.modify(|changes| *changes += 1);
            witness::changed(ticket.object, self.changes.get());
            Ok(receipt)
        })
        .await
    }

    /// Changes an account because of the last change it saw.
    async fn push(&self, ticket: Ticket, to: RawRef<Account>) -> Result<Vec<Receipt>, CallError> {
        watched(&ticket, Manner::Shared, async {
            let last = self.seen.with(|seen| {
                let seen = seen.last()?;
                Some(Cause { object: seen.object, serial: seen.changes.last()?.serial })
            });
            pass_on(&ticket, last.unwrap_or_default(), vec![to], Way::Shared).await
        })
        .await
    }

    /// What it saw.
    async fn recall(&self, ticket: Ticket) -> Vec<Receipt> {
        watched(&ticket, Manner::Shared, async { self.seen.get() }).await
    }
}

/// Calls the first of the accounts, and has it call the others.
async fn pass_on(
    ticket: &Ticket,
    cause: Cause,
    mut to: Vec<RawRef<Account>>,
    way: Way,
) -> Result<Vec<Receipt>, CallError> {
    if to.is_empty() {
        return Ok(Vec::new());
    }
    let first = to.remove(0);
    let mut papers = ticket.next(account(first.key()), cause);
    papers.one_way = way == Way::OneWay;
    let serial = papers.serial;
    if papers.one_way {
        let result = first.call(Add { ticket: papers }).send();
        witness::sent(serial, &result);
        return result.map(|()| Vec::new());
    }
    let result = match way {
        _ if !to.is_empty() && way == Way::Exclusive => first.call(Swap { ticket: papers, to, way }).await,
        _ if !to.is_empty() => first.call(Transfer { ticket: papers, to, way }).await,
        Way::Exclusive => first
            .call(Deposit { ticket: papers, middle: Middle::Straight })
            .await
            .map(|receipt| vec![receipt]),
        Way::Serial => first.call(Post { ticket: papers, wait_us: 50 }).await.map(|receipt| vec![receipt]),
        Way::Shared | Way::OneWay => first.call(Add { ticket: papers }).await.map(|receipt| vec![receipt]),
    };
    witness::answered(serial, &result);
    result
}

message!(Ticket, Cause, Change, Receipt, Way, Middle, Account, Board);

entity!(Account, "sim.Account", Durable, [Deposit, Add, Post, Transfer, Swap, Read]);
method!(Account, deposit, exclusive, Deposit { ticket: Ticket, middle: Middle } -> Receipt);
method!(Account, add, shared, Add { ticket: Ticket } -> Receipt);
method!(Account, post, serial, Post { ticket: Ticket, wait_us: u64 } -> Receipt);
method!(Account, transfer, shared, Transfer { ticket: Ticket, to: Vec<RawRef<Account>>, way: Way } -> result Vec<Receipt>);
method!(Account, swap, exclusive, Swap { ticket: Ticket, to: Vec<RawRef<Account>>, way: Way } -> result Vec<Receipt>);
method!(Account, read, shared, Read { ticket: Ticket } -> Receipt);

entity!(Board, "sim.Board", Never, [Gather, Push, Recall]);
method!(Board, gather, shared, Gather { ticket: Ticket, from: RawRef<Account> } -> result Receipt);
method!(Board, push, shared, Push { ticket: Ticket, to: RawRef<Account> } -> result Vec<Receipt>);
method!(Board, recall, shared, Recall { ticket: Ticket } -> Vec<Receipt>);

async fn wait(us: u64) {
    context::sleep(Duration::from_micros(us)).await;
}

/// Receipts that a board keeps.
const SEEN_MAX: usize = 4;
