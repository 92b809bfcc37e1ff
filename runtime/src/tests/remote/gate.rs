//! What leaves a node waits until it is durable, and is never heard of when the save failed.

use std::sync::Arc;

use epicserver_storage::NodeId;
use epicserver_transport::{Addr, Frame, FrameHeader, FrameKind};

use super::world::{Add, Post, post};
use crate::codec::{CodecError, Wire, decode, layout};
use crate::core::{Action, Core, CoreConfig, Event};
use crate::entity::{Entities, Entity, EntityCell, Method, MethodTable, Methods, RawRef, method_id};
use crate::error::{CallError, Loss};
use crate::fabric::FixedMembers;
use crate::field::Field;
use crate::id::EntityId;
use crate::key::{KeyKind, KeyView, StoredKey};
use crate::remote::PeerFrame;
use crate::routes::{Place, Routes};
use crate::saving::{SaveNews, SavePolicy};
use crate::wire::assembly::assemble;
use crate::wire::extension::{Extension, TargetKey, ViewStamp};

/// A durable object.
#[derive(Default, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Ledger {
    sum: Field<u64>,
}

impl Wire for Ledger {
    const LAYOUT: u64 = layout::combine("Ledger", &[]);
}

impl Entity for Ledger {
    type Key = u64;
    type Ref = RawRef<Ledger>;
    const NAME: &'static str = "test.Ledger";
    const SAVE: SavePolicy = SavePolicy::Durable;
    const VERSION: u32 = 1;
    fn cell() -> &'static EntityCell {
        static CELL: EntityCell = EntityCell::new();
        &CELL
    }
}

impl Methods for Ledger {
    fn describe(table: &mut MethodTable<Self>) {
        table.method::<Put>();
        table.method::<Tell>();
    }
}

/// Changes the object.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Put {
    pub(crate) by: u64,
}

impl Method for Put {
    type Entity = Ledger;
    type Value = u64;
    type Output = Result<u64, CallError>;
    type Receiver<'a> = &'a mut Ledger;
    const NAME: &'static str = "Put";
    const LAYOUT: u64 = 1;
    async fn run<'a>(self, object: Self::Receiver<'a>) -> u64 {
        *object.sum.get_mut() += self.by;
        object.sum.get()
    }
    fn output(result: Result<u64, CallError>) -> Self::Output {
        result
    }
    fn decode(archived: &Self::Archived, _: &Frame) -> Result<Self, CodecError> {
        Ok(Self { by: archived.by.to_native() })
    }
}

/// Changes nothing, and calls an object of another node.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct Tell {
    to: u64,
}

impl Method for Tell {
    type Entity = Ledger;
    type Value = u64;
    type Output = Result<u64, CallError>;
    type Receiver<'a> = &'a Ledger;
    const NAME: &'static str = "Tell";
    const LAYOUT: u64 = 1;
    async fn run<'a>(self, _: Self::Receiver<'a>) -> u64 {
        post(self.to).call(Add { by: 1 }).await.unwrap_or(0)
    }
    fn output(result: Result<u64, CallError>) -> Self::Output {
        result
    }
    fn decode(archived: &Self::Archived, _: &Frame) -> Result<Self, CodecError> {
        Ok(Self { to: archived.to.to_native() })
    }
}

const PEER: NodeId = NodeId { id: 77, incarnation: 3 };

/// One core of two nodes, and keys that live on each of them.
struct Lone {
    core: Core,
    routes: Arc<Routes>,
    now: u64,
    mine: u64,
    theirs: u64,
}

impl Lone {
    fn new() -> Self {
        let mut entities = Vec::new();
        <(Ledger, Post)>::collect(&mut entities);
        let nodes = [Addr::new("a"), Addr::new("b")];
        let members = FixedMembers::new(&nodes, &nodes[0]).unwrap();
        let routes = members.routes(members.me(1), 1);
        let is_mine =
            |key: &u64| matches!(routes.place(key.canonical(|key| key.partition())), Place::Here(_));
        let mine = (1..).find(is_mine).unwrap();
        let theirs = (1..).find(|key| !is_mine(key)).unwrap();
        let config = CoreConfig::default().for_node(1).remove(0);
        Self { core: Core::new(0, config, &entities, Arc::clone(&routes)), routes, now: 0, mine, theirs }
    }

    fn step(&mut self, event: Event) -> Vec<PeerFrame> {
        let mut frames = Vec::new();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut actions = Vec::new();
            self.core.step(self.now, event, &mut actions);
            self.core.step(self.now, Event::Turns(1_000), &mut actions);
            for action in actions {
                match action {
                    Action::Frame(frame) => frames.push(frame),
                    Action::Load(ticket) => events.push(Event::Loaded(ticket, Ok(None))),
                    _ => {}
                }
            }
        }
        frames
    }

    fn ask(&mut self, slot: u32, method: &str, argument: u64) -> Vec<PeerFrame> {
        self.ask_by(None, slot, method, argument)
    }

    /// Asks as a node does that knows this view.
    fn ask_by(&mut self, view: Option<ViewStamp>, slot: u32, method: &str, argument: u64) -> Vec<PeerFrame> {
        let mut header = FrameHeader::new(FrameKind::Request);
        header.slot.set(slot);
        header.method.set(method_id(method));
        header.layout.set(1);
        let key = self.mine.to_le_bytes();
        let key = KeyView { kind: KeyKind::U64, bytes: &key };
        let target = TargetKey { entity: EntityId::of(Ledger::NAME).0, key };
        let extension = Extension { key: Some(target), view, ..Extension::default() };
        let frame = assemble(None, header, &extension, &argument.to_le_bytes()).unwrap();
        self.step(Event::Frame(PeerFrame::new(PEER, frame)))
    }

    /// The view after this one, in which this key's partition has this owner.
    fn next_view(&self, key: u64, owner: NodeId) -> Event {
        let mut view = (**self.routes.view()).clone();
        view.version += 1;
        let place = &mut view.partitions[usize::from(key.canonical(|key| key.partition()))];
        (place.owner, place.epoch) = (Some(owner), place.epoch + 1);
        Event::View(Arc::new(Routes::new(self.routes.me(), 1, Arc::new(view))))
    }

    fn save(&mut self, open: u64, durable: u64, failed: &[std::ops::RangeInclusive<u64>]) -> Vec<PeerFrame> {
        self.step(Event::Save(SaveNews { open, durable, failed: failed.to_vec() }))
    }
}

fn kinds(frames: &[PeerFrame]) -> Vec<(FrameKind, u32)> {
    let kind = |frame: &PeerFrame| {
        let header = FrameHeader::parse_frame(&frame.frame).unwrap();
        (header.kind(), header.slot.get())
    };
    frames.iter().map(kind).collect()
}

#[test]
fn a_reply_leaves_when_what_it_saw_is_durable() {
    let mut lone = Lone::new();
    assert_eq!(kinds(&lone.ask(1, "Put", 5)), []);
    assert_eq!(kinds(&lone.save(2, 0, &[])), []);
    assert_eq!(kinds(&lone.ask(2, "Put", 5)), []);
    let first = lone.save(3, 1, &[]);
    assert_eq!(kinds(&first), [(FrameKind::Reply, 1)]);
    assert_eq!(decode::<u64>(FrameHeader::payload_bytes(&first[0].frame).unwrap()), Ok(5));
    assert_eq!(kinds(&lone.save(4, 2, &[])), [(FrameKind::Reply, 2)]);
    assert!(lone.core.is_quiet());
}

#[test]
fn a_reply_whose_batch_failed_leaves_as_an_error() {
    let mut lone = Lone::new();
    assert_eq!(kinds(&lone.ask(1, "Put", 5)), []);
    let failed = lone.save(2, 1, &[1..=1]);
    assert_eq!(kinds(&failed), [(FrameKind::Error, 1)]);
    let error = decode::<CallError>(FrameHeader::payload_bytes(&failed[0].frame).unwrap());
    assert_eq!(error, Ok(CallError::SaveFailed));
    // The object starts again without a trace of it.
    assert_eq!(kinds(&lone.ask(2, "Put", 1)), []);
    let again = lone.save(3, 2, &[]);
    assert_eq!(decode::<u64>(FrameHeader::payload_bytes(&again[0].frame).unwrap()), Ok(1));
}

#[test]
fn a_request_leaves_when_what_its_caller_saw_is_durable() {
    let mut lone = Lone::new();
    let theirs = lone.theirs;
    assert_eq!(kinds(&lone.ask(1, "Put", 5)), []);
    assert_eq!(kinds(&lone.ask(2, "Tell", theirs)), []);
    assert_eq!(kinds(&lone.save(2, 1, &[])), [(FrameKind::Reply, 1), (FrameKind::Request, 0)]);
    assert_eq!(kinds(&lone.ask(3, "Tell", theirs)), [(FrameKind::Request, 1)], "nothing to wait for");
}

/// The old owner may be gone by then, and nobody could say any more that the call did not run.
#[test]
fn a_request_that_waits_while_its_object_changes_its_owner_goes_to_the_new_one() {
    let mut lone = Lone::new();
    let theirs = lone.theirs;
    let new_owner = NodeId { id: 78, incarnation: 1 };
    assert_eq!(kinds(&lone.ask(1, "Put", 5)), []);
    assert_eq!(kinds(&lone.ask(2, "Tell", theirs)), []);
    let next = lone.next_view(theirs, new_owner);
    assert_eq!(kinds(&lone.step(next)), []);
    // Behind the gate again: what its caller saw is no more durable for that.
    let left = lone.save(2, 1, &[]);
    let requests: Vec<NodeId> =
        left.iter().filter(|frame| is_request(frame)).map(|frame| frame.peer).collect();
    assert_eq!(requests, [new_owner]);
}

fn is_request(frame: &PeerFrame) -> bool {
    FrameHeader::parse_frame(&frame.frame).unwrap().kind() == FrameKind::Request
}

#[test]
fn a_request_whose_batch_failed_never_leaves_and_holds_no_place() {
    let mut lone = Lone::new();
    let theirs = lone.theirs;
    for round in 0..3_000u64 {
        let number = round + 1;
        assert_eq!(kinds(&lone.ask(1, "Put", 5)), []);
        assert_eq!(kinds(&lone.ask(2, "Tell", theirs)), []);
        let after = lone.save(number + 1, number, &[number..=number]);
        assert_eq!(kinds(&after), [(FrameKind::Error, 2), (FrameKind::Error, 1)], "round {round}");
    }
    assert!(lone.core.is_quiet());
}

fn error(frame: &PeerFrame) -> CallError {
    decode::<CallError>(FrameHeader::payload_bytes(&frame.frame).unwrap()).unwrap()
}

#[test]
fn past_the_lease_no_reply_and_no_request_leaves_and_no_call_is_taken() {
    let mut lone = Lone::new();
    let theirs = lone.theirs;
    assert_eq!(kinds(&lone.step(Event::Lease(10))), []);
    assert_eq!(kinds(&lone.ask(1, "Put", 5)), []);
    assert_eq!(kinds(&lone.ask(2, "Tell", theirs)), []);
    lone.now = 10;
    let over = lone.step(Event::Tick);
    // What ran is unknown to its caller; the method whose own call did not leave ends, and its end is told no better.
    assert_eq!(kinds(&over), [(FrameKind::Error, 1), (FrameKind::Error, 2)]);
    for frame in &over {
        assert_eq!(error(frame), CallError::OutcomeUnknown(Loss::OwnerLost));
    }
    let late = lone.ask(3, "Put", 5);
    assert_eq!(kinds(&late), [(FrameKind::Error, 3)]);
    assert!(matches!(error(&late[0]), CallError::Unavailable(_)), "it did not run");
    assert_eq!(kinds(&lone.save(2, 1, &[])), [], "also when it is durable");
    assert!(lone.core.is_quiet());
    assert_eq!(kinds(&lone.step(Event::Lease(20))), []);
    assert_eq!(kinds(&lone.ask(4, "Put", 0)), []);
    let again = lone.save(3, 2, &[]);
    assert_eq!(
        decode::<u64>(FrameHeader::payload_bytes(&again[0].frame).unwrap()),
        Ok(5),
        "only the first ran"
    );
}

#[test]
fn what_waits_for_a_batch_beyond_its_deadline_ends_and_holds_no_place() {
    let mut lone = Lone::new();
    let theirs = lone.theirs;
    for round in 1..1_200u64 {
        assert_eq!(kinds(&lone.ask(1, "Put", 5)), []);
        assert_eq!(kinds(&lone.ask(2, "Tell", theirs)), []);
        lone.now += 10_100_000_000;
        // More than once: what is late first lets others go on that are late as well.
        let late: Vec<PeerFrame> = (0..3).flat_map(|_| lone.step(Event::Tick)).collect();
        assert!(!kinds(&late).is_empty() && late.iter().all(is_timeout), "round {round}: {:?}", kinds(&late));
        assert_eq!(lone.core.state().slots.live(), 0);
    }
    // The batch is durable after all: nothing leaves twice, and there is room for more.
    assert_eq!(kinds(&lone.save(2, 1, &[])), []);
    assert_eq!(kinds(&lone.ask(3, "Tell", theirs)), [(FrameKind::Request, 0)]);
}

fn is_timeout(frame: &PeerFrame) -> bool {
    let header = FrameHeader::parse_frame(&frame.frame).unwrap();
    let error = decode::<CallError>(FrameHeader::payload_bytes(&frame.frame).unwrap());
    header.kind() == FrameKind::Error && error == Ok(CallError::OutcomeUnknown(crate::error::Loss::Timeout))
}

/// What comes from the cluster may be looked at after what comes from links, even where it came first.
#[test]
fn a_call_that_is_here_before_the_first_lease_waits_for_it() {
    let mut lone = Lone::new();
    let (me, mine) = (lone.routes.me(), lone.mine);
    let ahead = ViewStamp {
        version: lone.routes.view().version + 1,
        epoch: lone.routes.epoch(mine.canonical(|key| key.partition())) + 1,
    };
    assert_eq!(kinds(&lone.step(Event::Lease(0))), []);
    assert_eq!(kinds(&lone.ask_by(Some(ahead), 1, "Put", 5)), []);
    assert_eq!(kinds(&lone.ask(2, "Put", 5)), [(FrameKind::Error, 2)], "by this very view nothing is served");
    assert_eq!(kinds(&lone.step(Event::Lease(10))), []);
    let next = lone.next_view(mine, me);
    assert_eq!(kinds(&lone.step(next)), []);
    assert_eq!(kinds(&lone.save(2, 1, &[])), [(FrameKind::Reply, 1)]);
    // One that had a lease says at once that it has none any more.
    assert_eq!(kinds(&lone.step(Event::Lease(0))), []);
    let ahead = ViewStamp { version: ahead.version + 1, epoch: ahead.epoch + 1 };
    assert_eq!(kinds(&lone.ask_by(Some(ahead), 3, "Put", 5)), [(FrameKind::Error, 3)]);
}
