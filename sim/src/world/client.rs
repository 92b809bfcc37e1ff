//! A client: code outside of the nodes that makes calls, one serial each, and compares what it is told with what the store
//! has.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use epicserver_runtime::entity::RawRef;
use epicserver_runtime::{CallError, Rejection};

use super::node::SimNode;
use super::scene::Scene;
use crate::trace::Happened;
use crate::witness;
use crate::workload::{self, Account, Board, Cause, Middle, Receipt, Ticket, Way};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Client {
    number: u64,
    /// Through which node and core it calls.
    pub(crate) entry: (u16, u16),
    /// Counts the lives of its entry node: each has a handle of its own, and order is a handle's.
    life: u64,
    open: Vec<OpenCall>,
}

/// A call that is not answered yet.
struct OpenCall {
    serial: u64,
    kind: Kind,
    object: u64,
    /// How many changes of the object were acknowledged when the call was made.
    promised: usize,
    /// It has little time.
    in_hurry: bool,
    answer: Pin<Box<dyn Future<Output = Answer>>>,
    woken: Arc<Woken>,
}

type Answer = Result<Vec<Receipt>, CallError>;

/// What is special about a call's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One change, whole or gone.
    Change,
    /// One change that its own method takes back by a panic.
    Panicking,
    /// Several changes, which may be lost one by one, or one that a checkpoint may have saved.
    Changes,
    /// A read of the object itself.
    Read,
    /// What a board once saw.
    Recall,
}

impl Debug for OpenCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenCall({}, {:?} of {:x})", self.serial, self.kind, self.object)
    }
}

/// Whether somebody was woken who does not run on a core.
#[derive(Debug, Default)]
pub(super) struct Woken(pub(super) AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Client {
    pub(crate) fn new(number: u64, entry: (u16, u16)) -> Self {
        Self { number, entry, life: 0, open: Vec::new() }
    }

    /// Its node has started again.
    pub(crate) fn reborn(&mut self) {
        self.life += 1;
    }

    pub(crate) fn can_call(&self, scene: &Scene) -> bool {
        self.open.len() < scene.profile.open_max
    }

    pub(crate) fn open_len(&self) -> usize {
        self.open.len()
    }

    /// Calls that are not answered yet.
    pub(crate) fn open_calls(&self) -> impl Iterator<Item = u64> {
        self.open.iter().map(|call| call.serial)
    }

    /// Makes a call of its choice.
    pub(crate) fn call(&mut self, node: &SimNode, scene: &mut Scene) {
        let account = scene.tape.u64(1..=scene.profile.accounts);
        let target = Target { client: self, node, scene };
        let (kind, object, answer) = target.draw(account);
        self.begin(kind, object, answer, scene);
    }

    /// Reads an account.
    pub(crate) fn read(&mut self, account: u64, node: &SimNode, scene: &mut Scene) {
        let target = Target { client: self, node, scene };
        let (kind, object, answer) = target.read(account);
        self.begin(kind, object, answer, scene);
    }

    fn begin(&mut self, kind: Kind, object: u64, made: Made, scene: &mut Scene) {
        let Made { serial, in_hurry, answer } = made;
        let promised = scene.acknowledged.promised(object);
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        self.open.push(OpenCall { serial, kind, object, promised, in_hurry, answer, woken });
        // Order is that of the first polls.
        self.hear(scene);
    }

    /// Drops one of its calls.
    pub(crate) fn cancel(&mut self, scene: &mut Scene) {
        if self.open.is_empty() {
            return;
        }
        let call = self.open.swap_remove(scene.tape.usize(..self.open.len()));
        scene.fault("call dropped");
        scene.happened(Happened::Dropped { client: self.number, serial: call.serial });
    }

    /// Takes the answers that have come.
    pub(crate) fn hear(&mut self, scene: &mut Scene) {
        let mut place = 0;
        while place < self.open.len() {
            let call = &mut self.open[place];
            if !call.woken.0.swap(false, Ordering::Relaxed) {
                place += 1;
                continue;
            }
            let waker = Waker::from(call.woken.clone());
            match call.answer.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => place += 1,
                Poll::Ready(answer) => {
                    let call = self.open.remove(place);
                    self.answered(&call, &answer, scene);
                }
            }
        }
    }

    fn answered(&self, call: &OpenCall, answer: &Answer, scene: &mut Scene) {
        witness::answered(call.serial, answer);
        witness::ended(call.serial, answer, call.in_hurry);
        let text = match answer {
            Ok(receipts) => format!("{} receipts", receipts.len()),
            // Texts for people are not part of what must be the same: they name numbers of the process.
            Err(error) => format!("{error:?}"),
        };
        scene.happened(Happened::Answered { client: self.number, serial: call.serial, answer: text });
        if matches!(answer, Err(CallError::Rejected(Rejection::Overloaded))) {
            scene.fault("queue full");
        }
        match answer {
            Ok(receipts) => receipts.iter().for_each(|receipt| learn(call, receipt, scene)),
            Err(CallError::SaveFailed) if call.kind == Kind::Change => {
                scene.committed_only.lost(call.object, call.serial, &scene.ledger);
            }
            Err(_) if call.kind == Kind::Panicking => {
                scene.committed_only.lost(call.object, call.serial, &scene.ledger);
            }
            Err(_) => {}
        }
    }
}

fn learn(call: &OpenCall, receipt: &Receipt, scene: &mut Scene) {
    scene.committed_only.seen(receipt, &scene.ledger);
    if receipt.serial > 0 {
        scene.acknowledged.acknowledged(receipt, &scene.ledger);
    }
    if call.kind == Kind::Read {
        scene.acknowledged.read(receipt, call.promised);
    }
}

/// A call that was made.
struct Made {
    serial: u64,
    in_hurry: bool,
    answer: Pin<Box<dyn Future<Output = Answer>>>,
}

/// Makes calls of one client.
struct Target<'a> {
    client: &'a Client,
    node: &'a SimNode,
    scene: &'a mut Scene,
}

impl Target<'_> {
    /// One of the many ways to call something.
    fn draw(self, account: u64) -> (Kind, u64, Made) {
        match self.scene.tape.u8(..20) {
            0..3 => self.deposit(account),
            3..7 => self.add(account),
            7..9 => self.post(account),
            9..13 => self.transfer(account),
            13..15 => self.swap(account),
            15..17 => self.read(account),
            17 => self.gather(account),
            18 => self.push(account),
            _ => self.recall(),
        }
    }

    fn deposit(mut self, account: u64) -> (Kind, u64, Made) {
        let (middle, kind) = match self.scene.tape.u8(..4) {
            3 if self.scene.profile.panics => (Middle::Panic, Kind::Panicking),
            1 => (Middle::Wait(self.scene.tape.u64(1..3000)), Kind::Change),
            2 => (Middle::Save, Kind::Changes),
            _ => (Middle::Straight, Kind::Change),
        };
        if kind == Kind::Panicking {
            self.scene.fault("method panicked");
        }
        let ticket = self.ticket(account, "deposit");
        let made = self.made(
            &ticket,
            self.account(account).call(workload::Deposit { ticket: ticket.clone(), middle }),
            one,
        );
        (kind, account, made)
    }

    fn add(mut self, account: u64) -> (Kind, u64, Made) {
        let ticket = self.ticket(account, "add");
        let call = self.account(account).call(workload::Add { ticket: ticket.clone() });
        (Kind::Change, account, self.made(&ticket, call, one))
    }

    fn post(mut self, account: u64) -> (Kind, u64, Made) {
        let ticket = self.ticket(account, "post");
        let wait_us = self.scene.tape.u64(1..500);
        let call = self.account(account).call(workload::Post { ticket: ticket.clone(), wait_us });
        (Kind::Changes, account, self.made(&ticket, call, one))
    }

    fn transfer(mut self, account: u64) -> (Kind, u64, Made) {
        let ticket = self.ticket(account, "transfer");
        let (to, way) = self.chain();
        let call = self.account(account).call(workload::Transfer { ticket: ticket.clone(), to, way });
        (Kind::Changes, account, self.made(&ticket, call, |answer| answer))
    }

    fn swap(mut self, account: u64) -> (Kind, u64, Made) {
        let ticket = self.ticket(account, "swap");
        let (to, way) = self.chain();
        let call = self.account(account).call(workload::Swap { ticket: ticket.clone(), to, way });
        (Kind::Changes, account, self.made(&ticket, call, |answer| answer))
    }

    fn read(mut self, account: u64) -> (Kind, u64, Made) {
        let ticket = self.ticket(account, "read");
        let call = self.account(account).call(workload::Read { ticket: ticket.clone() });
        (Kind::Read, account, self.made(&ticket, call, one))
    }

    fn gather(mut self, account: u64) -> (Kind, u64, Made) {
        let board = self.scene.tape.u64(1..=self.scene.profile.boards);
        let ticket = self.ticket(workload::board(board), "gather");
        let call =
            self.board(board).call(workload::Gather { ticket: ticket.clone(), from: self.account(account) });
        (Kind::Recall, workload::board(board), self.made(&ticket, call, one))
    }

    fn push(mut self, account: u64) -> (Kind, u64, Made) {
        let board = self.scene.tape.u64(1..=self.scene.profile.boards);
        let ticket = self.ticket(workload::board(board), "push");
        let call =
            self.board(board).call(workload::Push { ticket: ticket.clone(), to: self.account(account) });
        (Kind::Changes, workload::board(board), self.made(&ticket, call, |answer| answer))
    }

    fn recall(mut self) -> (Kind, u64, Made) {
        let board = self.scene.tape.u64(1..=self.scene.profile.boards);
        let ticket = self.ticket(workload::board(board), "recall");
        let call = self.board(board).call(workload::Recall { ticket: ticket.clone() });
        (Kind::Recall, workload::board(board), self.made(&ticket, call, |answer| answer))
    }

    fn ticket(&mut self, object: u64, what: &str) -> Ticket {
        let serial = witness::next_serial();
        let Client { number, life, .. } = *self.client;
        let happened = Happened::Called { client: number, serial, what: format!("{what} {object:x}") };
        self.scene.happened(happened);
        let caller = workload::client(number << 16 | life);
        Ticket { serial, caller, object, path: Vec::new(), one_way: false, cause: Cause::default() }
    }

    fn made<M, T>(
        &mut self,
        ticket: &Ticket,
        call: epicserver_runtime::Call<M>,
        read: fn(Result<T, CallError>) -> Answer,
    ) -> Made
    where
        M: epicserver_runtime::entity::Method<Output = Result<T, CallError>>,
        T: 'static,
    {
        let hurry = self.scene.profile.hurries && self.scene.tape.one_in(4);
        let call = match hurry {
            true => call.within(Duration::from_micros(self.scene.tape.u64(1..5000))),
            false => call,
        };
        if hurry {
            self.scene.fault("call in a hurry");
        }
        Made { serial: ticket.serial, in_hurry: hurry, answer: Box::pin(async move { read(call.await) }) }
    }

    /// Other accounts, and how they are called: some chains come back to where they were.
    fn chain(&mut self) -> (Vec<RawRef<Account>>, Way) {
        let len = self.scene.tape.one_of(&[1, 1, 1, 2, 3]);
        let mut to = Vec::new();
        for _ in 0..len {
            let key = self.scene.tape.u64(1..=self.scene.profile.accounts);
            to.push(self.account(key));
        }
        let ways = [Way::Shared, Way::Shared, Way::Exclusive, Way::Serial, Way::OneWay];
        let way = self.scene.tape.one_of(&ways);
        (to, way)
    }

    fn account(&self, key: u64) -> RawRef<Account> {
        self.node.stepped.reference::<Account>(self.client.entry.1, key)
    }

    fn board(&self, key: u64) -> RawRef<Board> {
        self.node.stepped.reference::<Board>(self.client.entry.1, key)
    }
}

fn one(answer: Result<Receipt, CallError>) -> Answer {
    answer.map(|receipt| vec![receipt])
}
