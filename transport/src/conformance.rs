//! What every transport must pass: one suite, run by the tests of each implementation.
//!
//! Implement [`Fixture`] and call [`suite`]. Cases are in `links`, `traffic`, `sleep` and `garbage`; they see a
//! transport through `world`, which also checks on every event what must always hold. Nothing here measures time: a case
//! fails when something has not happened after very many passes.
//!
//! ```
//! use epicserver_transport::conformance::{Fixture, suite};
//! use epicserver_transport::{Addr, LoopbackNetwork, LoopbackOptions, Transport};
//!
//! struct Plain { network: LoopbackNetwork, made: u32 }
//!
//! impl Fixture for Plain {
//!     fn transport(&mut self) -> Box<dyn Transport> {
//!         self.made += 1;
//!         let bound = self.network.bind(&format!("node-{}", self.made), LoopbackOptions::plain());
//!         Box::new(bound.expect("the name is free"))
//!     }
//!     fn vacant_addr(&mut self) -> Addr { Addr::new("nobody") }
//! }
//!
//! suite(|| Plain { network: LoopbackNetwork::new(), made: 0 });
//! ```

mod bulk;
mod garbage;
mod links;
mod sleep;
mod traffic;
mod world;

use crate::link::Addr;
use crate::transport::Transport;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Makes transports of one kind that can reach each other.
pub trait Fixture {
    /// A new transport, reachable by the others at its `local_addr`.
    fn transport(&mut self) -> Box<dyn Transport>;

    /// A well-formed address that nobody serves.
    fn vacant_addr(&mut self) -> Addr;

    /// A connection to the transport at `addr` that sends whatever it is told. `None`: this network has no such thing, and
    /// the cases with foreign bytes are left out.
    fn raw_peer(&mut self, addr: &Addr) -> Option<Box<dyn RawPeer>> {
        let _ = addr;
        None
    }
}

/// A peer that speaks no protocol.
pub trait RawPeer {
    /// Sends bytes as they are; on a network of packets, as one packet. `false`: not now, try again.
    fn write(&mut self, bytes: &[u8]) -> bool;

    /// Whether the other side has ended the connection.
    fn is_down(&mut self) -> bool;
}

/// Runs every case, each with a new fixture.
///
/// # Panics
/// When a case fails; the name of the case is printed.
pub fn suite<F: Fixture>(mut make_fixture: impl FnMut() -> F) {
    for &(name, case) in CASES {
        let mut fixture = make_fixture();
        let run = catch_unwind(AssertUnwindSafe(|| case(&mut fixture)));
        if let Err(panic) = run {
            eprintln!("conformance case `{name}` failed");
            resume_unwind(panic);
        }
    }
}

type Case = fn(&mut dyn Fixture);

/// Every case with its name.
const CASES: &[(&str, Case)] = &[
    ("a link comes up on both sides", links::comes_up_on_both_sides),
    ("both sides may begin a link", links::both_sides_may_begin),
    ("a vacant address refuses", links::vacant_address_refuses),
    ("a close is seen by the peer", links::close_is_seen_by_the_peer),
    ("frames taken before a close arrive", links::frames_before_close_arrive),
    ("both may close at once", links::both_may_close_at_once),
    ("a close before the link is up is quiet", links::close_before_up),
    ("a dropped transport ends its links", links::dropped_transport_ends_links),
    ("ids are never used again", links::ids_are_never_used_again),
    ("the bound on links holds", links::bound_on_links_holds),
    ("links do not mix", links::links_do_not_mix),
    ("frames arrive in order", traffic::frames_arrive_in_order),
    ("frames of every length arrive", traffic::every_length_arrives),
    ("long frames arrive in their order", bulk::arrive_in_order),
    ("long frames taken before a close arrive", bulk::arrive_before_close),
    ("long frames that are held stop a link and not for ever", bulk::held_ones_stop_a_link),
    ("a long frame lies in the memory for such", bulk::lie_in_their_pool),
    ("both directions at once", traffic::both_directions_at_once),
    ("a poll hands out a bounded number of events", traffic::a_poll_is_bounded),
    ("a peer that does not poll holds the sender back", traffic::back_pressure),
    ("the send window holds", traffic::send_window_holds),
    ("a breach of the receive window ends that link only", traffic::receive_window_breach),
    ("what is no frame is not taken", traffic::malformed_frames_stay),
    ("frames outlive link and transport", traffic::frames_outlive_everything),
    ("held frames stop a link and not for ever", traffic::held_frames_stop_a_link),
    ("every buffer returns", traffic::every_buffer_returns),
    ("a wake ends a wait", sleep::wake_ends_wait),
    ("a wake before the wait counts", sleep::wake_before_wait_counts),
    ("a wait without a cause ends with its timeout", sleep::wait_times_out),
    ("an arriving frame ends a wait", sleep::frame_ends_wait),
    ("what came before the wait is not slept over", sleep::nothing_is_slept_over),
    ("two threads exchange frames", sleep::two_threads_exchange),
    ("others send while one sleeps", sleep::others_send_while_one_sleeps),
    ("garbage ends its own link only", garbage::ends_its_own_link_only),
    ("an announced length beyond the limit ends the link", garbage::announced_length_is_checked),
    ("a frame cut off is never given out", garbage::cut_off_frame),
    ("a stream may be split anywhere", garbage::split_stream),
];
