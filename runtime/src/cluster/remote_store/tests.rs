//! The contract of stores over a line that loses and repeats, and what is said when no answer comes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use epicserver_storage::conformance::{store_sharing_suite, store_suite};
use epicserver_storage::{
    EnvelopeHeader, Fault, FaultControl, FaultPlan, FaultyStore, MemoryStore, Verb as StoreVerb,
};
use fastrand::Rng;

use super::*;
use crate::cluster::store_desk::StoreDesk;
use crate::wire::control::{ControlMessage, PART_LEN_MAX};

/// A keeper at the other end of lines, and how bad they are.
struct Keeper {
    desk: StoreDesk,
    rng: Rng,
    /// Of a hundred messages, so many are lost, and so many come again later.
    lost: u8,
    repeated: u8,
    /// Of a hundred waits, in so many the keeper is replaced by another one with the same store.
    replaced: u8,
    requests: usize,
}

/// One end of a line; the keeper answers while its owner waits.
struct TestLine {
    keeper: Arc<Mutex<Keeper>>,
    me: NodeId,
    now: u64,
    out: VecDeque<(u32, StoreRequest)>,
    back: VecDeque<(u32, StoreAnswer)>,
    /// Old requests that come once more.
    late: VecDeque<(u32, StoreRequest)>,
    is_nobody: bool,
    is_closed: bool,
}

impl KeeperLine for TestLine {
    fn now(&self) -> u64 {
        self.now
    }

    fn keeping(&mut self) -> Keeping {
        if self.is_nobody {
            return Keeping::Nobody;
        }
        let keeper = self.keeper.lock().expect("no test panics in it");
        let store = keeper.desk.store();
        Keeping::There { store: store.store_id(), limits: store.limits() }
    }

    fn send(&mut self, number: u32, request: StoreRequest) {
        self.out.push_back((number, request));
    }

    fn wait(&mut self, until: u64) -> LineEvent {
        if self.is_closed {
            return LineEvent::Closed;
        }
        loop {
            let mut keeper = self.keeper.lock().expect("no test panics in it");
            if keeper.rng.u8(..100) < keeper.replaced {
                keeper.desk = StoreDesk::new(keeper.desk.store().clone());
                (self.out, self.late, self.back) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
                return LineEvent::Changed;
            }
            if let Some((number, answer)) = self.back.pop_front() {
                return LineEvent::Answer(number, answer);
            }
            let request = match self.late.pop_front() {
                Some(late) if keeper.rng.bool() => Some(late),
                other => {
                    self.late.extend(other);
                    self.out.pop_front()
                }
            };
            let Some((number, request)) = request else {
                self.now = self.now.max(until);
                return LineEvent::Late;
            };
            keeper.serve(self.me, number, request, &mut self.late, &mut self.back);
        }
    }
}

impl Keeper {
    /// Takes a request as it comes over the wire, and answers it that way.
    fn serve(
        &mut self,
        from: NodeId,
        number: u32,
        request: StoreRequest,
        late: &mut VecDeque<(u32, StoreRequest)>,
        back: &mut VecDeque<(u32, StoreAnswer)>,
    ) {
        self.requests += 1;
        let (lost, repeated) = (self.lost, self.repeated);
        if self.rng.u8(..100) < repeated {
            late.push_back((number, request.clone()));
        }
        if self.rng.u8(..100) < lost {
            return;
        }
        let ControlMessage::Store(request) = over_the_wire(ControlMessage::Store(request)) else {
            panic!("a request came out as something else");
        };
        let Some(answer) = self.desk.handle(from, number, request) else { return };
        let ControlMessage::StoreAnswer(answer) = over_the_wire(ControlMessage::StoreAnswer(answer)) else {
            panic!("an answer came out as something else");
        };
        if self.rng.u8(..100) < repeated {
            back.push_back((number, answer.clone()));
        }
        if self.rng.u8(..100) >= lost {
            back.push_back((number, answer));
        }
    }
}

fn over_the_wire(message: ControlMessage) -> ControlMessage {
    let frame = message.frame(None, 1).expect("it fits a frame");
    ControlMessage::parse(&frame).expect("it is well formed").1
}

fn keeper(store: impl Store + 'static, seed: u64) -> Arc<Mutex<Keeper>> {
    let desk = StoreDesk::new(SharedStore::new(Box::new(store)));
    let rng = Rng::with_seed(seed);
    Arc::new(Mutex::new(Keeper { desk, rng, lost: 0, repeated: 0, replaced: 0, requests: 0 }))
}

fn bad_keeper(store: impl Store + 'static, seed: u64) -> Arc<Mutex<Keeper>> {
    let keeper = keeper(store, seed);
    {
        let mut keeper = keeper.lock().expect("it is new");
        (keeper.lost, keeper.repeated, keeper.replaced) = (15, 15, 3);
    }
    keeper
}

fn line(keeper: &Arc<Mutex<Keeper>>, id: u64) -> TestLine {
    TestLine {
        keeper: keeper.clone(),
        me: NodeId { id, incarnation: 1 },
        now: 0,
        out: VecDeque::new(),
        back: VecDeque::new(),
        late: VecDeque::new(),
        is_nobody: false,
        is_closed: false,
    }
}

/// A client that asks at once what the keeper's store is like.
fn client(keeper: &Arc<Mutex<Keeper>>, id: u64) -> ClusterStore<TestLine> {
    let mut client = ClusterStore::new(line(keeper, id), STORE);
    client.begin();
    client
}

/// A client that waits as long as a bad line may take.
///
/// A commit whose answer got lost and that is asked for again is committed already, as seen from the second try; the suite wants to
/// hear whether it was before the first. That is known to whoever asked before.
struct Patient(ClusterStore<TestLine>);

fn patient(keeper: &Arc<Mutex<Keeper>>, id: u64) -> Patient {
    Patient(client(keeper, id).with_patience(u64::MAX))
}

impl Store for Patient {
    fn store_id(&self) -> StoreId {
        self.0.store_id()
    }

    fn limits(&self) -> StoreLimits {
        self.0.limits()
    }

    fn load(&mut self, keys: &[RecordKeyRef<'_>]) -> Result<Vec<Option<Record>>, StoreError> {
        self.0.load(keys)
    }

    fn commit(&mut self, batch: &Batch) -> Result<Committed, StoreError> {
        let before = self.0.last_committed(batch.name().node)?;
        let committed = self.0.commit(batch)?;
        Ok(if before == Some(batch.name()) { committed } else { Committed::Now })
    }

    fn open_fences(&mut self, fences: &[Fence]) -> Result<(), StoreError> {
        self.0.open_fences(fences)
    }

    fn fences(&mut self) -> Result<Vec<Fence>, StoreError> {
        self.0.fences()
    }

    fn last_committed(&mut self, node: NodeId) -> Result<Option<BatchName>, StoreError> {
        self.0.last_committed(node)
    }
}

fn memory() -> MemoryStore {
    MemoryStore::with_limits(STORE, LIMITS)
}

#[test]
fn it_is_a_store_like_any_other() {
    store_suite(|| client(&keeper(memory(), 1), 1));
    store_sharing_suite(|| {
        let keeper = keeper(memory(), 2);
        (client(&keeper, 1), client(&keeper, 2))
    });
}

/// Lost, repeated and late messages, and keepers that take over, with the same contract.
#[test]
fn it_is_one_also_over_a_bad_line() {
    let mut seed = 0;
    store_suite(|| {
        seed += 1;
        patient(&bad_keeper(memory(), seed), 1)
    });
    store_sharing_suite(|| {
        seed += 1;
        let keeper = bad_keeper(memory(), seed);
        (patient(&keeper, 1), patient(&keeper, 2))
    });
}

fn batch(number: u64, sizes: &[usize]) -> Batch {
    let mut batch = Batch::new(BatchName { node: NODE, number });
    for (place, size) in sizes.iter().enumerate() {
        let key = RecordKey::u64(1, place as u64);
        let header = EnvelopeHeader { epoch: 1, version: number, ..EnvelopeHeader::state(key.as_ref()) };
        batch.push(key.as_ref(), &header, &vec![number as u8; *size]).expect("it is well formed");
    }
    batch
}

fn fences(count: u64) -> Vec<Fence> {
    let fence = |place| {
        let partition = RecordKey::u64(1, place).as_ref().partition();
        Fence { partition, epoch: 1, holder: NODE }
    };
    (0..count).map(fence).collect()
}

/// A client whose fences are open, of a store that fails when it is told to.
fn faulty() -> (ClusterStore<TestLine>, FaultControl) {
    let store = FaultyStore::new(MemoryStore::new(STORE), FaultPlan::none(), |_| {});
    let control = store.control();
    let mut client = client(&keeper(store, 3), 1);
    client.open_fences(&fences(8)).expect("it is fresh");
    (client, control)
}

fn requests(client: &ClusterStore<TestLine>) -> usize {
    client.line.keeper.lock().expect("no test panics in it").requests
}

#[test]
fn long_batches_and_records_go_in_parts_and_come_back_whole() {
    let (mut client, _) = faulty();
    let sizes = [3 << 20, 3 << 20, 10, 3 << 20, 16 << 20];
    let before = requests(&client);
    assert_eq!(client.commit(&batch(1, &sizes)), Ok(Committed::Now));
    assert_eq!(requests(&client) - before, 7, "25 MiB in parts of 4");
    assert_eq!(client.commit(&batch(1, &sizes)), Ok(Committed::Already));
    let keys: Vec<RecordKey> = (0..6).map(|place| RecordKey::u64(1, place)).collect();
    let refs: Vec<_> = keys.iter().map(RecordKey::as_ref).collect();
    let found = client.load(&refs).expect("no fault is planned");
    for ((key, record), size) in refs.iter().zip(&found).zip(sizes) {
        let record = record.as_ref().expect("it was saved");
        assert_eq!(record.open(*key).map(|(_, payload)| payload.len()), Ok(size));
    }
    assert_eq!((found.len(), &found[5]), (6, &None));
}

#[test]
fn errors_of_the_store_come_as_they_are() {
    for fault in [Fault::Fail, Fault::RefuseFence, Fault::Unknown { written: true }] {
        let (mut client, control) = faulty();
        control.fault_next(StoreVerb::Commit, fault);
        let error = client.commit(&batch(1, &[1])).expect_err("a fault is planned");
        let is_that = match fault {
            Fault::Fail => matches!(error, StoreError::Failed { .. }),
            Fault::RefuseFence => matches!(error, StoreError::Refused { stored: Some(_), .. }),
            _ => matches!(error, StoreError::Unknown { .. }),
        };
        assert!(is_that, "{fault:?} gives {error:?}");
    }
    let (mut client, control) = faulty();
    control.fault_next(StoreVerb::Load, Fault::SyncFailed { written: false });
    let key = RecordKey::u64(1, 1);
    assert!(matches!(client.load(&[key.as_ref()]), Err(StoreError::SyncFailed { .. })));
}

#[test]
fn without_a_keeper_nothing_is_written_and_without_an_answer_nobody_knows() {
    let (mut client, _) = faulty();
    client.line.is_nobody = true;
    let before = client.line.now;
    assert!(matches!(client.commit(&batch(1, &[1])), Err(StoreError::Failed { .. })));
    assert_eq!(client.line.now - before, PATIENCE_NS, "it waits for one, and not for ever");

    client.line.is_nobody = false;
    client.line.keeper.lock().expect("no test panics in it").lost = 100;
    assert!(matches!(client.commit(&batch(1, &[1])), Err(StoreError::Unknown { .. })));
    assert!(matches!(client.open_fences(&fences(1)), Err(StoreError::Unknown { .. })));
    assert!(matches!(client.fences(), Err(StoreError::Failed { .. })));
    // Of a long batch not even the first part is there, so the last one was never sent.
    assert!(matches!(client.commit(&batch(2, &[5 << 20])), Err(StoreError::Failed { .. })));
    client.line.keeper.lock().expect("no test panics in it").lost = 0;
    assert_eq!(client.last_committed(NODE), Ok(None));
}

/// The first try was written and its answer lost; the second failed before it did anything. To say that nothing is written
/// would be a lie.
#[test]
fn a_try_that_fails_says_nothing_of_one_without_an_answer() {
    let (mut client, control) = faulty();
    let number = client.number;
    client.line.keeper.lock().expect("no test panics in it").desk.handle(
        client.line.me,
        number.wrapping_add(1),
        commit_request(&batch(1, &[1])),
    );
    control.fault_next(StoreVerb::Commit, Fault::Fail);
    // The keeper has answered the first number already, so it drops it and only the second gets through.
    let error = client.commit(&batch(1, &[1])).expect_err("a fault is planned");
    assert!(matches!(error, StoreError::Unknown { .. }), "{error:?}");
    assert_eq!(client.commit(&batch(1, &[1])), Ok(Committed::Already));
}

fn commit_request(batch: &Batch) -> StoreRequest {
    let mut stream = SaveStream::default();
    batch.saves().for_each(|save| stream.push(save.key, save.envelope));
    StoreRequest::Commit { name: batch.name(), part: stream.part(0) }
}

#[test]
fn a_node_that_stops_waits_for_nobody() {
    let (mut client, _) = faulty();
    client.line.is_closed = true;
    let before = client.line.now;
    assert!(matches!(client.commit(&batch(1, &[1])), Err(StoreError::Unknown { .. })), "it was sent");
    assert!(matches!(client.fences(), Err(StoreError::Failed { .. })));
    assert_eq!(client.line.now, before);
}

/// A node gave a batch up, was told that it is not committed, and told its callers so. Then the batch came once more.
#[test]
fn a_request_that_is_late_does_nothing() {
    let (mut client, _) = faulty();
    let late = commit_request(&batch(1, &[1]));
    let number = client.number.wrapping_add(1);
    client.number = number;
    assert_eq!(client.last_committed(NODE), Ok(None));
    let me = client.line.me;
    let handled = client.line.keeper.lock().expect("no test panics in it").desk.handle(me, number, late);
    assert_eq!(handled, None);
    assert_eq!(client.last_committed(NODE), Ok(None));
}

#[test]
fn a_keeper_with_another_store_takes_nothing_that_was_meant_for_the_one_before() {
    let (mut client, _) = faulty();
    let verb = &mut client.begin();
    let other = keeper(MemoryStore::new(StoreId(77)), 5);
    client.line.keeper = other;
    let answer = client.ask(verb, &StoreRequest::OpenFences(fences(1)));
    assert!(matches!(answer, Err(StoreError::Failed { .. })));
    // The next verb is for the new one.
    assert_eq!(client.fences(), Ok(Vec::new()));
    assert_eq!(client.store_id(), StoreId(77));
}

#[test]
fn a_keeper_without_room_for_parts_makes_the_sender_wait() {
    let store = SharedStore::new(Box::new(MemoryStore::new(STORE)));
    let mut desk = StoreDesk::new(store).with_room(2 * PART_LEN_MAX);
    let part =
        |number| crate::wire::control::parts::Part { number, is_last: false, bytes: vec![0; PART_LEN_MAX] };
    let request =
        |number| StoreRequest::Commit { name: BatchName { node: NODE, number: 1 }, part: part(number) };
    let other = NodeId { id: 2, incarnation: 1 };
    // One may always be there, however long; another has room only next to it.
    for number in 0..3 {
        assert_eq!(desk.handle(NODE, number + 1, request(number)), Some(StoreAnswer::PartTaken(number)));
    }
    assert_eq!(desk.handle(other, 1, request(0)), Some(StoreAnswer::PartsMissing));
    desk.handle_down(NODE);
    assert_eq!(desk.handle(other, 2, request(0)), Some(StoreAnswer::PartTaken(0)));
}

const STORE: StoreId = StoreId(9);
const NODE: NodeId = NodeId { id: 1, incarnation: 1 };
const LIMITS: StoreLimits =
    StoreLimits { envelope_length_max: 5 << 20, batch_saves_max: 128, batch_length_max: 12 << 20 };
