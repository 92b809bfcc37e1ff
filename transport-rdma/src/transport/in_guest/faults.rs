//! What befalls a device, its links and their peers under load: links end with the right word and come back, no buffer is lost.

use super::*;
use epicserver_transport::HEADER_LEN;
use std::process::{Child, Stdio};

/// The only device of the guest is not there, until this is dropped.
pub(super) struct Removed(Child);

impl Removed {
    /// Has it removed: the system waits for everybody who has it open.
    pub(super) fn begin() -> Self {
        let removal = Command::new("rdma").args(["link", "del", "rxe0"]).spawn();
        Self(removal.expect("rdma runs"))
    }

    /// Waits until it is gone.
    pub(super) fn end(&mut self) {
        assert!(self.0.wait().expect("it was started here").success());
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        // After a failure the device is still open, and is gone with this process.
        if !std::thread::panicking() {
            shell("rdma link add rxe0 type rxe netdev veth0");
        }
    }
}

#[test]
fn a_device_that_is_taken_away_under_load_is_used_again_when_it_is_back() {
    let mut ends = Ends::new();
    ends.link();
    ends.carry(FRAMES);
    let mut device = Removed::begin();
    let reasons = ends.down();
    device.end();
    let is_fit = |reason: &DownReason| matches!(reason, DownReason::Failed(_) | DownReason::ClosedByPeer);
    assert!(reasons.iter().all(is_fit), "{reasons:?}");
    ends.have_all_buffers();
    // Nothing can be linked meanwhile, and it is said at once.
    let to = ends.0[1].transport.local_addr().clone();
    let link = ends.0[0].transport.connect(&to, ends.1).expect("room for a link");
    let reason = until(&mut ends.0[0].transport, |event| match event {
        Event::LinkDown { link: down, reason } if *down == link => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, DownReason::Failed(io::ErrorKind::NotConnected));
    drop(device);
    ends.link();
    ends.carry(FRAMES);
}

#[test]
fn a_queue_pair_that_fails_under_load_ends_its_link_and_the_next_one_works() {
    let mut ends = Ends::new();
    for side in [0, 1] {
        ends.link();
        ends.carry(FRAMES);
        let End { transport, link, .. } = &mut ends.0[side];
        let link = transport.links.get_mut(link.expect("it is up")).expect("it is there");
        link.channel.as_mut().expect("it is up").fail();
        let reasons = ends.down();
        assert_eq!(reasons[side], DownReason::Failed(io::ErrorKind::ConnectionAborted));
        assert_eq!(reasons[1 - side], DownReason::ClosedByPeer);
        ends.have_all_buffers();
    }
    ends.link();
    ends.carry(FRAMES);
}

#[test]
fn a_network_that_goes_down_under_load_carries_again_when_it_is_up() {
    let mut ends = Ends::new();
    ends.link();
    ends.carry(FRAMES);
    shell("ip link set veth0 down");
    // Between two ends of one device nothing goes through the network, so that the link may live on: the device tells the port's state.
    for _ in 0..50 {
        ends.pass();
    }
    shell("ip link set veth0 up");
    ends.link();
    ends.carry(FRAMES);
    ends.have_all_buffers();
}

#[test]
fn links_that_begin_after_the_address_has_changed_use_the_new_one() {
    let mut ends = Ends::new();
    ends.link();
    ends.carry(FRAMES);
    shell("ip address flush dev veth0 && ip address add 10.77.0.5/24 dev veth0");
    ends.have_all_buffers();
    ends.link();
    ends.carry(FRAMES);
    shell("ip address flush dev veth0 && ip address add 10.77.0.1/24 dev veth0");
    ends.have_all_buffers();
}

#[test]
fn a_peer_that_is_killed_under_load_is_told_gone_and_another_takes_its_place() {
    let mut end = End::new(None);
    for _ in 0..2 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["transport::in_guest::faults::peer_process", "--exact"])
            .env(PEER, end.transport.local_addr().as_str())
            .stdout(Stdio::null())
            .spawn()
            .expect("a process");
        let enough = end.received + FRAMES;
        end.passes_until(|end| end.received >= enough);
        child.kill().expect("it runs");
        child.wait().expect("it was started here");
        end.passes_until(|end| end.link.is_none());
        assert_eq!(end.down, Some(DownReason::ClosedByPeer));
        end.passes_until(End::has_all_buffers);
    }
}

/// Sends and receives until it is killed, where the environment says to whom; else it is no test of anything.
#[test]
fn peer_process() {
    let Ok(to) = std::env::var(PEER) else { return };
    let mut end = End::new(Some(Addr::new(&to)));
    end.passes_until(|end| end.down.is_some());
}

/// That the counters count, which must not move elsewhere.
#[test]
fn a_peer_that_sends_without_credit_is_seen_by_the_counter_of_the_device() {
    let mut transport = bind(options());
    let (mut raw, _link) = link_with_raw(&mut transport);
    let before = receivers_not_ready();
    // Nobody polls the transport, which posts nothing meanwhile.
    let bytes = FrameHeader::new(FrameKind::Ping).to_bytes();
    for _ in 0..options().receives + 8 {
        raw.send(&bytes, raw.own.receives.into());
    }
    for _ in 0..10_000 {
        if receivers_not_ready() > before {
            return;
        }
    }
    panic!("packets without a receive are not counted");
}

/// A transport with one link, over which it sends as much as it can, and what came over it.
struct End {
    transport: RdmaTransport,
    /// Whom to link to whenever there is no link.
    connect_to: Option<Addr>,
    is_connecting: bool,
    link: Option<LinkId>,
    /// Frames made for this link.
    sent: u32,
    /// Frames that came over this link.
    heard: u32,
    /// All frames that came.
    received: u64,
    down: Option<DownReason>,
    waiting: VecDeque<Frame>,
}

impl End {
    fn new(connect_to: Option<Addr>) -> Self {
        Self {
            transport: bind(options()),
            connect_to,
            is_connecting: false,
            link: None,
            sent: 0,
            heard: 0,
            received: 0,
            down: None,
            waiting: VecDeque::new(),
        }
    }

    /// One turn; whether anything happened.
    fn pass(&mut self, now: u64) -> bool {
        if let Some(to) = &self.connect_to
            && self.link.is_none()
            && !self.is_connecting
        {
            self.transport.connect(to, now).expect("room for a link");
            self.is_connecting = true;
        }
        if let Some(link) = self.link {
            self.make_frames();
            // A link that is down says so by its event.
            let _ = self.transport.send(link, &mut self.waiting);
        }
        self.transport.flush();
        let mut events = Vec::new();
        self.transport.poll(now, &mut events);
        let is_busy = !events.is_empty();
        events.into_iter().for_each(|event| self.handle(event));
        is_busy
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::LinkUp { link, .. } => {
                (self.link, self.is_connecting, self.down) = (Some(link), false, None);
                (self.sent, self.heard) = (0, 0);
                self.waiting.clear();
            }
            Event::Receive { frame, .. } => {
                assert!(*frame == bytes(self.heard), "frame {} is not what was sent", self.heard);
                (self.heard, self.received) = (self.heard + 1, self.received + 1);
            }
            Event::LinkDown { reason, .. } => {
                (self.link, self.is_connecting, self.down) = (None, false, Some(reason));
                self.waiting.clear();
            }
            Event::Writable { .. } => {}
        }
    }

    fn make_frames(&mut self) {
        while self.waiting.len() < WAITING_MAX
            && let Some(mut buffer) = self.pool_of(frame_len(self.sent)).alloc(frame_len(self.sent))
        {
            buffer.copy_from_slice(&bytes(self.sent));
            self.waiting.push_back(buffer.freeze());
            self.sent += 1;
        }
    }

    fn pool_of(&self, len: usize) -> &BufferPool {
        let pool = self.transport.pool();
        if len > RECEIVE_LEN { self.transport.bulk_pool().expect("windows") } else { pool }
    }

    fn passes_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        for pass in 0..PASSES_MAX {
            if is_so(self) {
                return;
            }
            if !self.pass(pass * NS_PER_PASS) {
                self.rest();
            }
        }
        panic!("in vain; the link ended with {:?}", self.down);
    }

    fn rest(&mut self) {
        if self.transport.arm() {
            self.transport.wait(Duration::from_nanos(NS_PER_PASS));
        }
    }

    /// Whether all that was on its way is back, as at the beginning.
    fn has_all_buffers(&self) -> bool {
        let Pools { pool, bulk, joining } = &self.transport.pools;
        let bulk = bulk.as_ref().map_or(0, BufferPool::outstanding);
        pool.outstanding() + bulk + joining.outstanding() == 0
    }
}

/// Two of them, of which the first links to the second, and their time.
struct Ends([End; 2], u64);

impl Ends {
    fn new() -> Self {
        Self([End::new(None), End::new(None)], 0)
    }

    fn pass(&mut self) {
        self.1 += NS_PER_PASS;
        assert!(self.1 < PASSES_MAX * NS_PER_PASS, "in vain");
        let now = self.1;
        let [one, other] = &mut self.0;
        if !(one.pass(now) | other.pass(now)) {
            one.rest();
        }
    }

    /// Waits until both have a link, which is begun as often as it takes.
    fn link(&mut self) {
        self.0[0].connect_to = Some(self.0[1].transport.local_addr().clone());
        while self.0.iter().any(|end| end.link.is_none()) {
            self.pass();
        }
    }

    /// Waits until both have received so many more.
    fn carry(&mut self, frames: u64) {
        let enough = self.0.each_ref().map(|end| end.received + frames);
        while self.0.iter().zip(enough).any(|(end, enough)| end.received < enough) {
            self.pass();
        }
    }

    /// Waits until both links are down.
    fn down(&mut self) -> [DownReason; 2] {
        self.0[0].connect_to = None;
        while self.0.iter().any(|end| end.link.is_some()) {
            self.pass();
        }
        self.0.each_ref().map(|end| end.down.expect("it was up"))
    }

    fn have_all_buffers(&mut self) {
        self.down_by_closing();
        while !self.0.iter().all(End::has_all_buffers) {
            self.pass();
        }
    }

    fn down_by_closing(&mut self) {
        self.0[0].connect_to = None;
        if let Some(link) = self.0[0].link {
            self.0[0].transport.close(link);
            self.down();
        }
    }
}

/// Short frames that share packets, longer ones that go from where they lie, and some that the peer reads.
fn frame_len(number: u32) -> usize {
    match number % 32 {
        7 | 8 => 96 << 10,
        other if other.is_multiple_of(4) => 4096,
        _ => 256,
    }
}

/// A frame with that number.
fn bytes(number: u32) -> Vec<u8> {
    let mut frame = vec![number as u8; frame_len(number)];
    let mut header = FrameHeader::new(FrameKind::Request);
    header.payload_len.set((frame.len() - HEADER_LEN) as u32);
    header.slot.set(number);
    assert!(header.write_to(&mut frame));
    frame
}

const PEER: &str = "EPICSERVER_TEST_VERBS_PEER";
const FRAMES: u64 = 300;
const WAITING_MAX: usize = 64;
const NS_PER_PASS: u64 = 1_000_000;
/// A minute of resting.
const PASSES_MAX: u64 = 60_000;
