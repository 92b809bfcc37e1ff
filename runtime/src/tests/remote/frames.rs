//! Frames that no honest caller of the same program sends: each is refused by name, and nothing breaks.

use epicserver_transport::{Frame, FrameHeader, FrameKind, HEADER_LEN};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::world::{Add, Options, World, post};
use crate::codec::decode;
use crate::core::{Action, Core, CoreConfig, Event};
use crate::entity::{Entities, method_id};
use crate::error::{CallError, Rejection};
use crate::id::EntityId;
use crate::key::{KeyKind, KeyView};
use crate::remote::{MovedBytes, PeerFrame};
use crate::routes::Routes;
use crate::wire::assembly::assemble;
use crate::wire::extension::{Extension, Origin, TargetKey, ViewStamp};
use epicserver_storage::NodeId;
use std::sync::Arc;

const PEER: NodeId = NodeId { id: 77, incarnation: 3 };

/// One core that owns everything, and a peer that is this test.
struct Lone {
    core: Core,
    now: u64,
}

/// A request as it can be wrong.
struct Request<'a> {
    entity: &'a str,
    method: &'a str,
    layout: u32,
    key: KeyView<'a>,
    epoch: u64,
    budget_us: u32,
    origin: Option<Origin>,
    payload: &'a [u8],
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self {
            entity: "test.Post",
            method: "Add",
            layout: 1,
            key: KeyView { kind: KeyKind::U64, bytes: &[5, 0, 0, 0, 0, 0, 0, 0] },
            epoch: 1,
            budget_us: 1_000_000,
            origin: None,
            payload: &[2, 0, 0, 0, 0, 0, 0, 0],
        }
    }
}

impl Request<'_> {
    fn frame(&self, kind: FrameKind) -> Frame {
        let mut header = FrameHeader::new(kind);
        header.slot.set(4);
        header.generation.set(9);
        header.method.set(method_id(self.method));
        header.layout.set(self.layout);
        let extension = Extension {
            budget_us: Some(self.budget_us),
            origin: self.origin,
            view: Some(ViewStamp { version: 1, epoch: self.epoch }),
            key: Some(TargetKey { entity: EntityId::of(self.entity).0, key: self.key }),
            ..Extension::default()
        };
        assemble(None, header, &extension, self.payload).unwrap()
    }
}

impl Lone {
    fn new() -> Self {
        let mut entities = Vec::new();
        <(super::world::Post,)>::collect(&mut entities);
        let config = CoreConfig::default().for_node(1).remove(0);
        let routes = Arc::new(Routes::solo(NodeId { id: 1, incarnation: 1 }, 1));
        Self { core: Core::new(0, config, &entities, routes), now: 0 }
    }

    /// Hands a frame in and gives the frames that come out.
    fn take(&mut self, frame: Frame) -> Vec<PeerFrame> {
        let mut actions = Vec::new();
        self.core.step(self.now, Event::Frame(PeerFrame::new(PEER, frame)), &mut actions);
        self.core.step(self.now, Event::Turns(1_000), &mut actions);
        frames(actions)
    }

    fn error(&mut self, request: &Request<'_>) -> CallError {
        let answers = self.take(request.frame(FrameKind::Request));
        let [answer] = &answers[..] else { panic!("{} answers", answers.len()) };
        let header = FrameHeader::parse_frame(&answer.frame).unwrap();
        assert_eq!((answer.peer, header.kind()), (PEER, FrameKind::Error));
        assert_eq!((header.slot.get(), header.generation.get()), (4, 9));
        decode(FrameHeader::payload_bytes(&answer.frame).unwrap()).unwrap()
    }
}

fn frames(actions: Vec<Action>) -> Vec<PeerFrame> {
    let frame = |action| match action {
        Action::Frame(frame) => Some(frame),
        _ => None,
    };
    actions.into_iter().filter_map(frame).collect()
}

#[test]
fn a_request_runs_and_is_answered_to_who_asked() {
    let mut lone = Lone::new();
    let answers = lone.take(Request::default().frame(FrameKind::Request));
    assert_eq!(answers.len(), 1);
    let header = FrameHeader::parse_frame(&answers[0].frame).unwrap();
    assert_eq!((header.kind(), header.slot.get(), header.generation.get()), (FrameKind::Reply, 4, 9));
    assert_eq!(decode::<u64>(FrameHeader::payload_bytes(&answers[0].frame).unwrap()), Ok(2));
    assert!(lone.core.is_quiet());
    assert!(lone.take(Request::default().frame(FrameKind::OneWay)).is_empty());
    assert_eq!(lone.core.counters().calls, 2);
    assert!(lone.core.is_quiet());
}

#[test]
fn what_cannot_run_is_refused_by_name() {
    let mut lone = Lone::new();
    let unbound = lone.error(&Request { entity: "test.Nobody", ..Request::default() });
    assert!(matches!(&unbound, CallError::Rejected(Rejection::NotBound(_))), "{unbound}");
    let unknown = lone.error(&Request { method: "Fly", ..Request::default() });
    assert!(
        matches!(&unknown, CallError::Rejected(Rejection::UnknownMethod { entity, .. }) if entity == "test.Post"),
        "{unknown}"
    );
    let layout = CallError::Rejected(Rejection::Layout { entity: "test.Post".into(), method: "Add".into() });
    assert_eq!(lone.error(&Request { layout: 2, ..Request::default() }), layout);
    assert_eq!(lone.error(&Request { payload: &[1, 2], ..Request::default() }), layout);
    let text_key = KeyView { kind: KeyKind::Utf8, bytes: b"five" };
    assert_eq!(lone.error(&Request { key: text_key, ..Request::default() }), layout);
    let expired = lone.error(&Request { budget_us: 0, ..Request::default() });
    assert_eq!(expired, CallError::Rejected(Rejection::Expired));
    // A peer speaks for itself: who else would be answered, and remembered?
    let other = Some(Origin { node: 7, incarnation: 1, core: 0, slot: 4, generation: 9 });
    let denied = lone.error(&Request { origin: other, ..Request::default() });
    assert_eq!(denied, CallError::Rejected(Rejection::Denied));
    assert_eq!(lone.core.counters().calls, 0);
    assert!(lone.core.is_quiet());
}

#[test]
fn an_older_epoch_is_told_the_truth_and_a_newer_one_waits_for_the_view() {
    let mut lone = Lone::new();
    let answers = lone.take(Request { epoch: 0, ..Request::default() }.frame(FrameKind::Request));
    let header = FrameHeader::parse_frame(&answers[0].frame).unwrap();
    assert_eq!(header.kind(), FrameKind::Moved);
    let payload = FrameHeader::payload_bytes(&answers[0].frame).unwrap();
    assert_eq!(payload, MovedBytes::new(Some(NodeId { id: 1, incarnation: 1 }), 1, 1).as_bytes());

    assert!(lone.take(Request { epoch: 2, ..Request::default() }.frame(FrameKind::Request)).is_empty());
    assert_eq!(lone.core.counters().calls, 0);
    let mut view = (**Routes::solo(NodeId { id: 1, incarnation: 1 }, 1).view()).clone();
    for partition in epicserver_storage::Partition::all() {
        view.assign(partition, Some(NodeId { id: 1, incarnation: 1 }));
    }
    let mut actions = Vec::new();
    let routes = Routes::new(NodeId { id: 1, incarnation: 1 }, 1, Arc::new(view));
    lone.core.step(0, Event::View(Arc::new(routes)), &mut actions);
    lone.core.step(0, Event::Turns(1_000), &mut actions);
    assert_eq!(frames(actions).len(), 1);
    assert_eq!(lone.core.counters().calls, 1);

    // One whose view never comes is ended by its deadline.
    assert!(lone.take(Request { epoch: 3, ..Request::default() }.frame(FrameKind::Request)).is_empty());
    lone.now = 1_100_000_000;
    let mut actions = Vec::new();
    lone.core.step(lone.now, Event::Tick, &mut actions);
    assert_eq!(frames(actions).len(), 1);
    assert_eq!(lone.core.counters().calls, 1);
}

#[test]
fn answers_to_nobody_are_ignored_in_a_running_world() {
    let mut world = World::with(2, Options::default());
    let key = world.key_on(1, 0);
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 1 }).await }), Ok(1));
    let kinds = [FrameKind::Reply, FrameKind::Error, FrameKind::Moved, FrameKind::Cancel];
    for kind in kinds.into_iter().chain([FrameKind::Control, FrameKind::Probe]) {
        for slot in [0, 1, u32::MAX] {
            let mut header = FrameHeader::new(kind);
            header.slot.set(slot);
            header.target_core = slot as u8;
            let frame = assemble(None, header, &Extension::default(), b"rubbish").unwrap();
            world.send_raw(1, 0, frame);
        }
    }
    world.settle();
    assert_eq!(world.call(0, async move { post(key).call(Add { by: 1 }).await }), Ok(2));
    world.end();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever follows the header, and whatever the header says of it: no panic, and nothing is left behind.
    #[test]
    fn no_bytes_break_a_core(
        mut bytes in prop::collection::vec(any::<u8>(), HEADER_LEN..400),
        kind in 1u8..=FrameKind::ALL.len() as u8,
        honest in any::<bool>(),
    ) {
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        bytes[6] = kind;
        bytes[11] = 0;
        if honest {
            let genuine = Request::default().frame(FrameKind::Request);
            bytes[..HEADER_LEN].copy_from_slice(&genuine[..HEADER_LEN]);
            bytes[6] = kind;
        }
        let rest = bytes.len() - HEADER_LEN;
        let ext_units = u16::from_le_bytes([bytes[4], bytes[5]]) as usize % (rest / 16 + 1);
        bytes[4..6].copy_from_slice(&(ext_units as u16).to_le_bytes());
        let payload_len = (rest - ext_units * 16) as u32;
        bytes[..4].copy_from_slice(&payload_len.to_le_bytes());
        let mut lone = Lone::new();
        lone.take(Frame::copy_from(&bytes));
        prop_assert!(lone.core.is_quiet());
    }

    /// A genuine request with a few bytes changed.
    #[test]
    fn no_changed_request_breaks_a_core(changes in prop::collection::vec((0usize..96, any::<u8>()), 1..4)) {
        let mut bytes = Request::default().frame(FrameKind::Request).to_vec();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let mut lone = Lone::new();
        lone.take(Frame::copy_from(&bytes));
        lone.now = 5_000_000_000_000;
        let mut actions = Vec::new();
        lone.core.step(lone.now, Event::Tick, &mut actions);
        lone.core.step(lone.now, Event::Turns(100), &mut actions);
        prop_assert!(lone.core.is_quiet());
    }
}
