//! Fabrics whose peers come and go, over a loopback, stepped by hand.

use std::collections::{BTreeSet, VecDeque};

use epicserver_storage::Member;
use epicserver_transport::{LoopbackNetwork, LoopbackOptions, LoopbackTransport, Transport};

use super::*;
use crate::wire::assembly::assemble_bare;
use crate::wire::hello::Terms;

struct World {
    network: LoopbackNetwork,
    nodes: Vec<TestNode>,
    now: u64,
}

struct TestNode {
    fabric: Fabric,
    transport: LoopbackTransport,
    me: NodeId,
    address: Addr,
    links: BTreeSet<LinkId>,
    takes_calls: bool,
    controls: Vec<(NodeId, u32)>,
    news: Vec<PeerNews>,
    calls: Vec<(NodeId, u32)>,
    link_news: Vec<LinkNews>,
}

impl World {
    fn new(count: usize) -> Self {
        let mut world = Self { network: LoopbackNetwork::new(), nodes: Vec::new(), now: 1 };
        (0..count).for_each(|_| world.add(LoopbackOptions::plain()));
        world
    }

    /// Ids fall while addresses rise, so that the two orders are told apart.
    fn add(&mut self, options: LoopbackOptions) {
        self.add_as(1000 - self.nodes.len() as u64, options);
    }

    /// The process of the last node ends, and another one begins at its address.
    fn replace_last(&mut self, id: u64) {
        drop(self.nodes.pop());
        self.add_as(id, LoopbackOptions::plain());
    }

    fn add_as(&mut self, id: u64, options: LoopbackOptions) {
        let number = self.nodes.len() as u64;
        let me = NodeId { id, incarnation: 1 };
        let address = Addr::new(&format!("n{number:03}"));
        let transport = self.network.bind(address.as_str(), options).expect("the name is free");
        let mut config = FabricConfig::open(me, 1, address.clone(), 5, &[9; 32], transport.caps());
        config.seed = number;
        let fabric = Fabric::new(self.now, config, Some(transport.pool()));
        self.nodes.push(TestNode {
            fabric,
            transport,
            me,
            address,
            links: BTreeSet::new(),
            takes_calls: true,
            controls: Vec::new(),
            news: Vec::new(),
            calls: Vec::new(),
            link_news: Vec::new(),
        });
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            for node in &mut self.nodes {
                moved |= node.pass(self.now);
            }
            if !moved {
                return;
            }
        }
        panic!("it never settles");
    }

    fn advance(&mut self, ns: u64) {
        let end = self.now + ns;
        while self.now < end {
            self.now = (self.now + 50_000_000).min(end);
            self.settle();
        }
    }

    fn seek(&mut self, from: usize, to: usize) {
        let (addr, now) = (self.nodes[to].address.clone(), self.now);
        assert!(self.nodes[from].fabric.seek(now, addr));
    }

    /// Tells these nodes that those are the members.
    fn view(&mut self, told: &[usize], members: &[usize]) {
        let members: Vec<Member> = members.iter().map(|index| self.nodes[*index].member()).collect();
        for index in told {
            self.nodes[*index].fabric.handle_members(self.now, &members);
        }
    }

    fn call(&mut self, from: usize, to: usize, slot: u32) {
        let to = self.nodes[to].me;
        self.nodes[from].fabric.handle_frame(
            self.now,
            0,
            PeerFrame::new(to, frame(FrameKind::Request, slot)),
        );
    }

    fn control(&mut self, from: usize, to: usize, slot: u32) -> bool {
        let to = self.nodes[to].me;
        self.nodes[from].fabric.handle_control(self.now, to, frame(FrameKind::Control, slot))
    }

    fn links(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.links.len()).collect()
    }
}

impl TestNode {
    fn member(&self) -> Member {
        let address = self.address.to_string();
        Member { node: self.me, address, cores: 1, entities: Vec::new() }
    }

    fn pass(&mut self, now: u64) -> bool {
        let mut moved = false;
        if self.fabric.poll_timeout().is_some_and(|at| at <= now) {
            self.fabric.handle_timeout(now);
        }
        let transport = &mut self.transport;
        self.fabric.poll_transmit(now, |link, frames: &mut VecDeque<Frame>| {
            let before = frames.len();
            // A link that is gone says so by its last event.
            let _ = transport.send(link, frames);
            moved |= frames.len() < before;
        });
        self.transport.flush();
        while let Some(command) = self.fabric.poll_command() {
            moved = true;
            match command {
                Command::Connect { peer, addr } => {
                    let link = self.transport.connect(&addr, now);
                    self.fabric.handle_connect(now, peer, &addr, link);
                }
                Command::Close(link) => self.transport.close(link),
            }
        }
        let mut events = Vec::new();
        self.transport.poll(now, &mut events);
        moved |= !events.is_empty();
        for event in events {
            match &event {
                Event::LinkUp { link, .. } => drop(self.links.insert(*link)),
                Event::LinkDown { link, .. } => drop(self.links.remove(link)),
                Event::Receive { .. } | Event::Writable { .. } => {}
            }
            self.fabric.handle_event(now, event);
        }
        moved | self.take()
    }

    fn take(&mut self) -> bool {
        let mut moved = false;
        while let Some(input) = self.fabric.poll_control() {
            moved = true;
            match input {
                ControlInput::News(news) => self.news.push(news),
                ControlInput::Frame(from, frame) => self.controls.push((from, slot(&frame))),
            }
        }
        while self.takes_calls
            && let Some(input) = self.fabric.poll_output(0)
        {
            moved = true;
            match input {
                LinkInput::Frame(frame) => self.calls.push((frame.peer, slot(&frame.frame))),
                LinkInput::News(news) => self.link_news.push(*news),
            }
        }
        moved
    }
}

fn frame(kind: FrameKind, slot: u32) -> Frame {
    let mut header = FrameHeader::new(kind);
    header.slot = slot.into();
    assemble_bare(None, header, &[])
}

fn slot(frame: &Frame) -> u32 {
    FrameHeader::parse(frame).expect("a fabric gives whole frames").slot.get()
}

fn call_of(slot: u32) -> Vec<CallRef> {
    vec![CallRef { slot, generation: 0 }]
}

#[test]
fn who_is_at_an_address_becomes_a_guest_and_says_control_frames_only() {
    let mut world = World::new(2);
    world.seek(0, 1);
    world.settle();
    let [a, b] = [world.nodes[0].me, world.nodes[1].me];
    assert_eq!(
        (&world.nodes[0].news, &world.nodes[1].news),
        (&vec![PeerNews::Up(b)], &vec![PeerNews::Up(a)])
    );
    assert!(world.control(0, 1, 1) && world.control(1, 0, 2));
    world.call(0, 1, 3);
    world.settle();
    assert_eq!(world.nodes[1].controls, [(a, 1)]);
    assert_eq!(world.nodes[0].controls, [(b, 2)]);
    assert_eq!(world.nodes[0].link_news, [LinkNews::NotSent(b, call_of(3))]);
    assert!(world.nodes[1].calls.is_empty());
}

#[test]
fn members_call_each_other_and_one_that_hears_of_it_later_holds_their_calls() {
    let mut world = World::new(2);
    world.seek(1, 0);
    world.settle();
    world.view(&[0], &[0, 1]);
    (10..13).for_each(|slot| world.call(0, 1, slot));
    world.settle();
    assert!(world.nodes[1].calls.is_empty(), "it knows of no member");
    world.view(&[1], &[0, 1]);
    world.settle();
    let a = world.nodes[0].me;
    assert_eq!(world.nodes[1].calls, [(a, 10), (a, 11), (a, 12)]);
    assert_eq!(world.links(), [1, 1]);
}

#[test]
fn members_find_each_other_without_being_sought_and_calls_wait_for_that() {
    let mut world = World::new(3);
    world.view(&[0, 1, 2], &[0, 1, 2]);
    world.call(2, 0, 7);
    world.settle();
    assert_eq!(world.nodes[0].calls, [(world.nodes[2].me, 7)]);
    world.advance(3_000_000_000);
    assert_eq!(world.links(), [2, 2, 2]);
}

/// Behind an address translator only one of two nodes can dial the other.
#[test]
fn the_second_to_dial_does_it_when_the_first_does_not() {
    let mut world = World::new(2);
    world.view(&[1], &[0, 1]);
    world.settle();
    assert_eq!(world.links(), [0, 0], "it is for the other to dial");
    world.advance(1_000_000_000);
    assert_eq!(world.links(), [1, 1]);
}

#[test]
fn what_was_under_way_to_a_removed_member_ends_and_what_it_says_is_not_heard() {
    let mut world = World::new(2);
    world.view(&[0, 1], &[0, 1]);
    world.settle();
    world.call(0, 1, 1);
    world.settle();
    let [a, b] = [world.nodes[0].me, world.nodes[1].me];
    world.view(&[0], &[0]);
    // One that is in the fabric of the removed node already, and one that comes later.
    world.call(1, 0, 2);
    world.settle();
    assert!(world.nodes[0].link_news.contains(&LinkNews::Gone(b)));
    let whole_node = NodeId { incarnation: 0, ..b };
    assert!(world.nodes[0].link_news.contains(&LinkNews::Unknown(whole_node, Loss::OwnerLost, call_of(1))));
    world.advance(3_000_000_000);
    world.call(1, 0, 3);
    world.settle();
    assert!(world.nodes[0].calls.is_empty(), "{:?}", world.nodes[0].calls);
    // It dials again, as it does not know; it may ask, and be told.
    assert_eq!(world.nodes[0].news.last(), Some(&PeerNews::Up(b)));
    assert!(world.control(1, 0, 4) && world.control(0, 1, 5));
    world.settle();
    assert_eq!((&world.nodes[0].controls, &world.nodes[1].controls), (&vec![(b, 4)], &vec![(a, 5)]));
    world.call(0, 1, 6);
    world.settle();
    assert_eq!(world.nodes[0].link_news.last(), Some(&LinkNews::NotSent(b, call_of(6))));
}

/// A node that left was to be told so, and the link was closed before.
#[test]
fn what_is_said_before_a_removal_arrives() {
    let mut world = World::new(2);
    world.view(&[0, 1], &[0, 1]);
    world.settle();
    assert!((0..5).all(|slot| world.control(0, 1, slot)));
    world.view(&[0], &[0]);
    world.settle();
    let a = world.nodes[0].me;
    assert_eq!(world.nodes[1].controls, (0..5).map(|slot| (a, slot)).collect::<Vec<_>>());
    assert_eq!(world.nodes[1].news, [PeerNews::Up(a), PeerNews::Down(a)]);
}

#[test]
fn an_evicted_node_comes_back_in_a_new_life() {
    let mut world = World::new(2);
    world.seek(1, 0);
    world.view(&[0, 1], &[0, 1]);
    world.settle();
    let old = world.nodes[1].me;
    world.view(&[0], &[0]);
    world.settle();
    let new = NodeId { incarnation: 2, ..old };
    world.nodes[1].me = new;
    world.nodes[1].fabric.handle_rebirth(world.now, new);
    world.advance(2_000_000_000);
    assert!(world.control(1, 0, 1));
    world.settle();
    assert_eq!(world.nodes[0].controls, [(new, 1)]);
    world.view(&[0, 1], &[0, 1]);
    world.call(1, 0, 2);
    world.call(0, 1, 3);
    world.settle();
    assert_eq!(world.nodes[0].calls, [(new, 2)]);
    assert_eq!(world.nodes[1].calls, [(world.nodes[0].me, 3)]);
    // What a core still has for the old life goes nowhere.
    let late = PeerFrame::new(old, frame(FrameKind::Request, 4));
    world.nodes[0].fabric.handle_frame(world.now, 0, late);
    world.settle();
    assert_eq!(world.nodes[0].link_news.last(), Some(&LinkNews::NotSent(old, call_of(4))));
}

/// A node was started again, and its link was there before its new life was a member: when the view came without the former life the
/// link was closed, and what was asked and answered on it was lost.
#[test]
fn a_link_to_the_next_life_of_a_member_outlasts_the_former_one() {
    let mut world = World::new(2);
    world.view(&[0], &[0, 1]);
    world.nodes[1].me.incarnation = 2;
    let new = world.nodes[1].me;
    world.nodes[1].fabric.handle_rebirth(world.now, new);
    world.seek(1, 0);
    world.settle();
    // It knows of the view with both of them already.
    world.view(&[1], &[0, 1]);
    world.call(1, 0, 1);
    world.settle();
    world.view(&[0], &[0]);
    world.settle();
    assert!(world.nodes[0].calls.is_empty(), "it is no member yet");
    world.view(&[0], &[0, 1]);
    world.settle();
    assert_eq!(world.nodes[0].calls, [(new, 1)]);
    assert_eq!(world.nodes[0].news, [PeerNews::Up(new)]);
    assert_eq!(world.nodes[1].news, [PeerNews::Up(world.nodes[0].me)]);
    world.advance(3_000_000_000);
    assert_eq!(world.links(), [1, 1]);
    let lost = |news: &LinkNews| matches!(news, LinkNews::NotSent(..) | LinkNews::Unknown(..));
    assert!(!world.nodes.iter().any(|node| node.link_news.iter().any(lost)));
}

/// A node sought the address of another one, which became a member meanwhile: the second link took the place of the first one, which
/// worked.
#[test]
fn one_that_dials_twice_keeps_the_first_link() {
    for (from, to) in [(0, 1), (1, 0)] {
        for delay in 0..12 {
            let mut world = World::new(2);
            world.seek(from, to);
            for _ in 0..delay {
                world.nodes[0].pass(world.now);
                world.nodes[1].pass(world.now);
            }
            world.view(&[from], &[0, 1]);
            // The one whose address comes later is patient.
            world.now += 600_000_000;
            world.advance(3_000_000_000);
            world.view(&[to], &[0, 1]);
            world.advance(3_000_000_000);
            assert_eq!(world.links(), [1, 1], "{from} {delay}");
            for node in &world.nodes {
                assert_eq!(node.news.len(), 1, "{from} {delay}: {:?}", node.news);
            }
        }
    }
}

/// Both ends dialled, and each closed the link that the other kept.
#[test]
fn two_that_seek_each_other_end_with_one_link() {
    for delay in 0..8 {
        for as_members in [false, true] {
            let mut world = World::new(2);
            world.seek(0, 1);
            for _ in 0..delay {
                world.nodes[0].pass(world.now);
                world.nodes[1].pass(world.now);
            }
            world.seek(1, 0);
            if as_members {
                world.view(&[0, 1], &[0, 1]);
            }
            world.advance(3_000_000_000);
            assert_eq!(world.links(), [1, 1], "{delay} {as_members}");
            assert!(world.control(0, 1, 1) && world.control(1, 0, 2));
            let ups =
                |node: &TestNode| node.news.iter().filter(|news| matches!(news, PeerNews::Up(_))).count();
            assert!(ups(&world.nodes[0]) <= 2, "{delay}: {:?}", world.nodes[0].news);
        }
    }
}

#[test]
fn to_seek_oneself_is_harmless() {
    let mut world = World::new(2);
    world.seek(0, 0);
    world.advance(1_000_000_000);
    assert_eq!(world.nodes[0].fabric.sought().count(), 0, "it is not dialled again");
    assert_eq!((world.links(), world.nodes[0].news.len()), (vec![0, 0], 0));
    world.seek(0, 1);
    world.settle();
    assert_eq!(world.nodes[0].news, [PeerNews::Up(world.nodes[1].me)]);
}

#[test]
fn an_address_is_dialled_until_somebody_is_there_and_again_when_it_is_lost() {
    let mut world = World::new(1);
    let addr = Addr::new("n001");
    assert!(world.nodes[0].fabric.seek(world.now, addr));
    world.advance(5_000_000_000);
    for _ in 0..2 {
        world.add(LoopbackOptions::plain());
        world.advance(3_000_000_000);
        assert_eq!(world.nodes[0].news.pop(), Some(PeerNews::Up(world.nodes[1].me)));
        world.nodes.pop();
        world.advance(500_000_000);
        assert!(matches!(world.nodes[0].news.pop(), Some(PeerNews::Down(_))));
        assert!(world.nodes[0].fabric.peers.len() == 0, "a guest without a link is nobody");
    }
}

/// A data node was started again, with another id and at its old address, the one that others are told as a seed. A member that still
/// took it for the node before dialled that one for ever, found another, and never met it.
#[test]
fn another_node_at_the_address_of_a_member_is_met() {
    let mut world = World::new(2);
    world.seek(0, 1);
    world.settle();
    world.view(&[0, 1], &[0, 1]);
    world.settle();
    world.replace_last(7);
    world.advance(5_000_000_000);
    let there = world.nodes[1].me;
    assert!(world.nodes[0].news.contains(&PeerNews::Up(there)), "{:?}", world.nodes[0].news);
    assert!(world.control(0, 1, 3));
    world.settle();
    assert_eq!(world.nodes[1].controls, [(world.nodes[0].me, 3)]);
}

#[test]
fn control_frames_pass_while_a_core_takes_nothing() {
    let mut world = World::new(2);
    world.view(&[0, 1], &[0, 1]);
    world.settle();
    world.nodes[1].takes_calls = false;
    (0..2000).for_each(|slot| world.call(0, 1, slot));
    world.settle();
    for slot in 0..100 {
        assert!(world.control(0, 1, slot) && world.control(1, 0, slot));
        world.settle();
    }
    assert_eq!((world.nodes[0].controls.len(), world.nodes[1].controls.len()), (100, 100));
    assert!(world.nodes[1].calls.is_empty());
}

#[test]
fn guests_and_addresses_are_bounded() {
    let mut world = World::new(1);
    world.nodes[0].fabric.config.guests_max = 3;
    for _ in 0..6 {
        world.add(LoopbackOptions::plain());
    }
    (1..7).for_each(|from| world.seek(from, 0));
    world.advance(4_000_000_000);
    assert_eq!(world.nodes[0].fabric.present().count(), 3);
    // A member is always let in.
    world.view(&[0], &[0, 1, 2, 3, 4, 5, 6]);
    world.advance(4_000_000_000);
    assert_eq!(world.nodes[0].fabric.present().count(), 6);
    for number in 0..1000 {
        assert!(world.nodes[1].fabric.seek(world.now, Addr::new(&format!("nobody{number}"))));
    }
    let sought: Vec<_> = world.nodes[1].fabric.sought().collect();
    assert_eq!(sought.len(), 64);
    assert!(sought.iter().any(|(_, found)| found.is_some()), "who is there is not given up");
}

#[test]
fn ten_thousand_connections_leave_nothing() {
    let mut world = World::new(1);
    let mut dialler = world.network.bind("flood", LoopbackOptions::plain()).expect("the name is free");
    let target = world.nodes[0].address.clone();
    let mut made = 0;
    let mut events = Vec::new();
    while made < 10_000 {
        // As many as the transport has room for; some send bytes that are no hello.
        for number in 0..200 {
            let Ok(link) = dialler.connect(&target, world.now) else { break };
            made += 1;
            if number % 3 == 0 {
                let mut frames = VecDeque::from([frame(FrameKind::Request, 1)]);
                let _ = dialler.send(link, &mut frames);
            }
        }
        dialler.flush();
        world.settle();
        let node = &world.nodes[0];
        assert!(node.links.len() <= 64, "{} links", node.links.len());
        assert!(node.fabric.strangers.len() <= 64 && node.fabric.commands.is_empty());
        world.advance(3_000_000_000);
        events.clear();
        dialler.poll(world.now, &mut events);
    }
    let node = &world.nodes[0];
    assert_eq!((node.links.len(), node.fabric.strangers.len(), node.fabric.links.len()), (0, 0, 0));
    assert!(node.fabric.peers.len() == 0 && !node.fabric.has_control());
}

/// One that dials by hand, up to where its proof is to leave.
struct Dialler {
    link: LinkId,
    handshake: Handshake,
}

impl Dialler {
    fn dial(fabric: &mut Fabric, number: u32, life: u32) -> Self {
        let link = LinkId::new(number, 0);
        fabric
            .handle_event(1, Event::LinkUp { link, direction: Direction::Incoming, peer: Addr::new("n999") });
        let mut config = fabric.handshake_config();
        (config.identity.node, config.identity.incarnation) = (7, life);
        let mut handshake = Handshake::client(1, &config, [number as u8; 32], None);
        let hello = handshake.poll_transmit().expect("who dials speaks first");
        fabric.handle_event(1, Event::Receive { link, frame: hello });
        let mut replies = Vec::new();
        fabric.poll_transmit(1, |to, frames| replies.extend(frames.drain(..).filter(|_| to == link)));
        handshake.handle_frame(1, &replies[0]);
        Self { link, handshake }
    }

    fn prove(&mut self, said_at: u64) -> Event {
        let terms = Terms {
            stream: said_at,
            said_at,
            base: 0,
            known: None,
            window_calls: 4,
            granted_calls: 4,
            window_answers: 4,
            granted_answers: 4,
            window_controls: 4,
            granted_controls: 4,
            frame_len_max: 512,
            fragment_len_max: 512,
        };
        self.handshake.offer(terms);
        Event::Receive { link: self.link, frame: self.handshake.poll_transmit().expect("a proof") }
    }
}

/// What a process said on a link that it gave up since may come when a newer one works: then it knew less than it does now.
#[test]
fn the_proof_of_an_older_link_does_not_take_the_place_of_a_newer_one() {
    let mut world = World::new(1);
    let fabric = &mut world.nodes[0].fabric;
    let mut older = Dialler::dial(fabric, 1, 9);
    let late = older.prove(10);
    let mut newer = Dialler::dial(fabric, 2, 9);
    let in_time = newer.prove(20);
    fabric.handle_event(1, in_time);
    assert_eq!(fabric.present().map(|node| node.id).collect::<Vec<_>>(), [7]);
    fabric.handle_event(1, late);
    let commands: Vec<Command> = std::iter::from_fn(|| fabric.poll_command()).collect();
    assert!(matches!(commands[..], [Command::Close(link)] if link == older.link), "{commands:?}");
    assert_eq!(fabric.present().count(), 1, "the link that works stays");
    // One that is said later takes its place: that end has given up the link that was there. So does one of another life, whose clock
    // and number say nothing beside those of this one.
    for (number, life, said_at, before) in [(3, 9, 30, 2), (4, 5, 1, 3)] {
        let mut next = Dialler::dial(fabric, number, life);
        let event = next.prove(said_at);
        fabric.handle_event(1, event);
        let commands: Vec<Command> = std::iter::from_fn(|| fabric.poll_command()).collect();
        let replaced = LinkId::new(before, 0);
        assert!(matches!(commands[..], [Command::Close(link)] if link == replaced), "{commands:?}");
        let present: Vec<NodeId> = fabric.present().collect();
        assert_eq!(present, [NodeId { id: 7, incarnation: life }]);
    }
}

#[test]
fn addresses_of_processes_that_ended_make_room_for_others() {
    let mut world = World::new(1);
    let dead = |number| Addr::new(&format!("dead{number}"));
    for number in 0..100 {
        assert!(world.nodes[0].fabric.seek(world.now, dead(number)));
        world.advance(50_000_000);
    }
    let sought = |world: &World| world.nodes[0].fabric.sought().count();
    assert_eq!(sought(&world), 64);
    world.add(LoopbackOptions::plain());
    world.seek(0, 1);
    world.advance(5_000_000_000);
    assert_eq!((world.links(), sought(&world)), (vec![1, 1], 64));
    // Those that nobody wants any more are given up, and the one that is there is not.
    world.advance(60_000_000_000);
    assert_eq!((world.links(), sought(&world)), (vec![1, 1], 1));
}

#[test]
fn a_node_born_again_holds_the_calls_of_members_that_it_has_not_heard_of() {
    let mut world = World::new(2);
    world.seek(1, 0);
    world.view(&[0, 1], &[0, 1]);
    world.settle();
    world.view(&[0], &[0]);
    world.settle();
    let new = NodeId { incarnation: 2, ..world.nodes[1].me };
    world.nodes[1].me = new;
    world.nodes[1].fabric.handle_rebirth(world.now, new);
    world.advance(2_000_000_000);
    // The other hears of the new view first.
    world.view(&[0], &[0, 1]);
    world.call(0, 1, 3);
    world.settle();
    assert_eq!(world.nodes[1].calls, []);
    world.view(&[1], &[0, 1]);
    world.advance(3_000_000_000);
    assert_eq!(world.nodes[1].calls, [(world.nodes[0].me, 3)]);
}
