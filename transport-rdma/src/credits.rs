//! How many packets may be sent so that the peer always has a receive posted.
//!
//! A packet without a posted receive costs a link milliseconds at best (the device says *receiver not ready*, and sends
//! again after a pause), so it must never happen. Each side counts the receives it has posted since the link began and
//! tells the count in the 32 immediate bits of every packet; the other side sends while it has sent fewer packets than
//! that. A side with nothing to send announces new receives in an empty packet, once [`Credits::announce_after`] of
//! them are there.
//!
//! An announcement takes a receive itself. So data leaves the last [`RESERVE`] alone, and announcements may use them. A side
//! announces only receives that it got back from packets with data, and those of empty packets only along with them (else
//! two sides would announce each other's announcements for ever). Without a packet from the peer in between it makes at
//! most five: one as soon as the peer may be held back, and one for each quarter of all receives. Counts wrap.

/// Both directions of one link. The numbers of packets and receives are counts since the link began, modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credits {
    sent: u32,
    /// What the peer has posted, as far as it told.
    allowed: u32,
    /// What the peer can have posted beyond what it has received.
    peer_receives: u32,
    received: u32,
    posted: u32,
    announced: u32,
    /// Receives of packets with data that were posted again and not announced.
    owed: u32,
    announce_after: u32,
}

/// The peer announced receives that it cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImpossibleCount;

impl Credits {
    /// Counts at the start: both sides have posted what they said they would.
    pub(crate) fn new(receives: u32, peer_receives: u32) -> Self {
        Self {
            sent: 0,
            allowed: peer_receives,
            peer_receives,
            received: 0,
            posted: receives,
            announced: receives,
            owed: 0,
            announce_after: (receives / 4).max(1),
        }
    }

    /// Whether a packet with data may go.
    pub(crate) fn allows_data(&self) -> bool {
        self.window() > RESERVE
    }

    /// Whether an announcement is due, and may go.
    pub(crate) fn wants_announcement(&self) -> bool {
        let peer_window = self.announced.wrapping_sub(self.received);
        let is_due = self.owed >= self.announce_after || (self.owed > 0 && peer_window <= RESERVE);
        is_due && self.allows_any()
    }

    /// Whether any packet may go.
    pub(crate) fn allows_any(&self) -> bool {
        self.window() > 0
    }

    /// A packet goes; gives its immediate bits.
    pub(crate) fn send(&mut self) -> u32 {
        self.sent = self.sent.wrapping_add(1);
        self.announced = self.posted;
        self.owed = 0;
        self.posted
    }

    /// Receives were posted again: so many of packets with data, and so many of empty ones.
    pub(crate) fn post(&mut self, of_data: u32, of_empty: u32) {
        self.posted = self.posted.wrapping_add(of_data).wrapping_add(of_empty);
        self.owed = self.owed.saturating_add(of_data);
    }

    /// A packet came with these immediate bits.
    pub(crate) fn receive(&mut self, announced: u32) -> Result<(), ImpossibleCount> {
        self.received = self.received.wrapping_add(1);
        // Packets of one link come in order, so a count never falls.
        let grown = announced.wrapping_sub(self.allowed);
        let window = announced.wrapping_sub(self.sent);
        if grown > self.peer_receives || window > self.peer_receives {
            return Err(ImpossibleCount);
        }
        self.allowed = announced;
        Ok(())
    }

    fn window(&self) -> u32 {
        self.allowed.wrapping_sub(self.sent)
    }
}

/// Receives of the peer that only announcements use.
pub(crate) const RESERVE: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const RECEIVES: u32 = 64;

    /// One side, with the packets on their way to it: each with its bits, and whether it has data.
    struct Side {
        credits: Credits,
        arriving: VecDeque<(u32, bool)>,
        held: u32,
        sent_data: u32,
    }

    impl Side {
        fn new() -> Self {
            Self {
                credits: Credits::new(RECEIVES, RECEIVES),
                arriving: VecDeque::new(),
                held: 0,
                sent_data: 0,
            }
        }

        /// Takes what arrived: data is held, an empty packet's receive is posted again at once.
        fn take_in(&mut self) {
            while let Some((bits, is_data)) = self.arriving.pop_front() {
                self.credits.receive(bits).expect("an honest peer");
                if is_data {
                    self.held += 1;
                } else {
                    self.credits.post(0, 1);
                }
            }
        }

        fn release(&mut self, count: u32) {
            let count = count.min(self.held);
            self.held -= count;
            self.credits.post(count, 0);
        }

        /// Receives that are posted, given what is on its way and held.
        fn posted_now(&self) -> u32 {
            RECEIVES - self.held - self.arriving.len() as u32
        }
    }

    fn send(from: &mut Side, to: &mut Side, is_data: bool) {
        assert!(to.posted_now() > 0, "a packet without a receive");
        let bits = from.credits.send();
        to.arriving.push_back((bits, is_data));
        from.sent_data += u32::from(is_data);
    }

    #[test]
    fn every_packet_finds_a_receive_and_data_flows_whatever_the_sides_do() {
        for seed in 0..200u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut draw = |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let mut sides = [Side::new(), Side::new()];
            let one_way = seed.is_multiple_of(3);
            let release_max = if seed.is_multiple_of(2) { 2 } else { 40 };
            for _ in 0..4_000 {
                let actor = draw(2) as usize;
                let [first, second] = &mut sides;
                let (own, peer) = if actor == 0 { (first, second) } else { (second, first) };
                match draw(4) {
                    0 if !(one_way && actor == 1) => {
                        while own.credits.allows_data() && draw(20) != 0 {
                            send(own, peer, true);
                        }
                    }
                    1 => own.take_in(),
                    2 => own.release(draw(release_max) as u32),
                    _ => {
                        if own.credits.wants_announcement() {
                            send(own, peer, false);
                        }
                    }
                }
            }
            // Whoever was held back goes on once everything is read and released.
            for _ in 0..4 {
                for actor in 0..2 {
                    let [first, second] = &mut sides;
                    let (own, peer) = if actor == 0 { (first, second) } else { (second, first) };
                    own.take_in();
                    own.release(RECEIVES);
                    if own.credits.wants_announcement() {
                        send(own, peer, false);
                    }
                }
            }
            for side in &sides {
                assert!(side.credits.allows_data(), "seed {seed}: stuck after {} packets", side.sent_data);
            }
            assert!(sides[0].sent_data > 100);
        }
    }

    #[test]
    fn sides_that_hold_nearly_everything_do_not_announce_for_ever() {
        let [mut a, mut b] = [Side::new(), Side::new()];
        while a.credits.allows_data() {
            send(&mut a, &mut b, true);
        }
        while b.credits.allows_data() {
            send(&mut b, &mut a, true);
        }
        let mut announcements = 0;
        for _ in 0..100 {
            for turn in 0..2 {
                let (own, peer) = if turn == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
                own.take_in();
                if own.credits.wants_announcement() {
                    announcements += 1;
                    send(own, peer, false);
                }
            }
            if announcements == 0 {
                // One is let go of: the peer may send one more.
                a.release(1);
            }
        }
        assert_eq!(announcements, 1);
        assert!(b.credits.allows_data() && !a.credits.allows_data());
    }

    #[test]
    fn counts_wrap() {
        let mut credits = Credits::new(RECEIVES, RECEIVES);
        credits.sent = u32::MAX - 3;
        credits.allowed = credits.sent.wrapping_add(RECEIVES);
        for _ in 0..RECEIVES - RESERVE {
            assert!(credits.allows_data());
            credits.send();
        }
        assert!(!credits.allows_data() && credits.allows_any());
        assert_eq!(credits.receive(credits.allowed.wrapping_add(10)), Ok(()));
        assert!(credits.allows_data());
    }

    #[test]
    fn an_impossible_count_is_refused() {
        for impossible in [RECEIVES - 1, RECEIVES + 1, u32::MAX, 1 << 31] {
            let mut credits = Credits::new(RECEIVES, RECEIVES);
            assert_eq!(credits.receive(impossible), Err(ImpossibleCount), "{impossible}");
        }
    }
}
