//! What kind of world a seed makes: how large, how busy, and what goes wrong in it.
//!
//! Each kind of fault is there in some worlds and absent in others, so that none hides what another would show.

use std::ops::Range;

use epicserver_runtime::core::CoreConfig;
use epicserver_storage::FaultRates;
use epicserver_transport::{FaultPlan, LoopbackOptions};

use super::WorldKind;
use crate::tape::Tape;

/// Drawn from the seed before anything else.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) nodes: u16,
    pub(crate) cores: u16,
    pub(crate) clients: u16,
    pub(crate) accounts: u64,
    pub(crate) boards: u64,
    /// Calls that clients make before the faults end.
    pub(crate) calls: u32,
    /// Calls that one client has open at most.
    pub(crate) open_max: usize,
    pub(crate) core: CoreConfig,
    pub(crate) store_faults: FaultRates,
    /// How long a commit or a load takes at least, in nanoseconds.
    pub(crate) store_ns_max: u64,
    pub(crate) loopback: LoopbackOptions,
    /// What the network does, links that break aside.
    pub(crate) network: FaultPlan,
    /// How often a link is cut, for each pass of a link thread.
    pub(crate) cuts_per_mille: u16,
    /// Nodes that crash. Fixed ones start again at once.
    pub(crate) crashes: u32,
    /// Nodes at a time, where they come and go, and how often they do, or stand still for a while.
    pub(crate) nodes_max: u16,
    pub(crate) joins: u32,
    pub(crate) leaves: u32,
    pub(crate) pauses: u32,
    /// How often the network is in trouble: nodes do not hear others, or late.
    pub(crate) silences: u32,
    pub(crate) slows: u32,
    /// How often a node comes and goes several times in a row.
    pub(crate) flaps: u32,
    /// How often the node that keeps the data ends, and is back after a while, or stands still.
    pub(crate) keeper_crashes: u32,
    pub(crate) keeper_pauses: u32,
    /// How often the coordinator fails, for each request.
    pub(crate) coordinator_per_mille: u16,
    /// Whether the store is with the keeper: who does not reach that one waits for it.
    pub(crate) keeps_store: bool,
    /// How fast or slow the clocks of nodes are at most, in parts of a million.
    pub(crate) drift_ppm_max: u64,
    /// How often the clock of a node jumps ahead.
    pub(crate) leaps: u32,
    /// Whether the clock of each life of a node begins anew, and what it takes for the time of day is another one.
    pub(crate) sets_clocks: bool,
    /// Whether batches are written some time before they are synced, so that a crash may lose them.
    pub(crate) loses_writes: bool,
    /// Whether the keeper learns at once that a node has crashed; else its lease has to run out.
    pub(crate) proves_deaths: bool,
    /// How much time passes at once at most while there is something to do, in nanoseconds.
    pub(crate) step_ns_max: u64,
    /// Whether some methods panic.
    pub(crate) panics: bool,
    /// Whether clients drop calls.
    pub(crate) cancels: bool,
    /// Whether some calls have little time.
    pub(crate) hurries: bool,
}

impl Profile {
    pub(crate) fn of_kind(kind: WorldKind, tape: &Tape) -> Self {
        match kind {
            WorldKind::Fixed => Self::draw(tape),
            WorldKind::Moving => Self::draw_moving(tape),
            WorldKind::Parted => Self::draw_parted(tape),
        }
    }

    /// A world for somebody's own test: so many nodes, and no clients but the test.
    pub(crate) fn draw_trial(kind: WorldKind, nodes: &Range<u16>, is_calm: bool, tape: &Tape) -> Self {
        let mut profile = Self::of_kind(kind, tape);
        let spare = profile.nodes_max.saturating_sub(profile.nodes);
        profile.nodes = tape.u16(nodes.clone());
        profile.nodes_max = profile.nodes.max(2) + spare;
        (profile.cores, profile.clients) = (tape.u16(1..=CORES_MAX), 0);
        // Its clients do these things by themselves.
        (profile.panics, profile.cancels, profile.hurries) = (false, false, false);
        if is_calm {
            let delays = FaultRates { fail_per_mille: 0, unknown_per_mille: 0, ..profile.store_faults };
            let whole = FaultRates { short_per_mille: 0, flip_per_mille: 0, ..delays };
            profile.store_faults = FaultRates { sync_failed_per_mille: 0, ..whole };
            (profile.cuts_per_mille, profile.crashes) = (0, 0);
            // Objects go after nodes that join. Who calls through a node that leaves has to look for another one.
            (profile.leaves, profile.pauses, profile.keeper_crashes) = (0, 0, 0);
            (profile.silences, profile.slows, profile.drift_ppm_max) = (0, 0, 0);
            (profile.flaps, profile.leaps, profile.keeper_pauses) = (0, 0, 0);
            (profile.sets_clocks, profile.coordinator_per_mille) = (false, 0);
            profile.step_ns_max = profile.step_ns_max.min(STEP_NS_CLEAN_MAX);
            (profile.core.calls_max, profile.core.waiting_max) = (CALLS_CALM, WAITING_CALM);
            profile.core.window_max = WINDOW_CALM;
        }
        profile
    }

    pub(crate) fn draw(tape: &Tape) -> Self {
        let store_faults = FaultRates {
            fail_per_mille: tape.one_of(&[0, 0, 30, 150]),
            unknown_per_mille: tape.one_of(&[0, 0, 100, 500]),
            sync_failed_per_mille: tape.one_of(&[0, 0, 0, 3]),
            short_per_mille: tape.one_of(&[0, 0, 0, 50]),
            flip_per_mille: tape.one_of(&[0, 0, 0, 50]),
            delay_per_mille: tape.one_of(&[0, 200, 1000]),
            delay_ns_max: tape.one_of(&[20_000, 500_000, 20_000_000]),
            ..FaultRates::default()
        };
        Self {
            nodes: tape.one_of(&[1, 2, 2]),
            cores: 2,
            clients: tape.u16(2..=5),
            accounts: tape.u64(2..=10),
            boards: tape.u64(1..=3),
            calls: tape.u32(40..=160),
            open_max: tape.usize(1..=6),
            core: draw_core(tape),
            store_faults,
            store_ns_max: tape.one_of(&[1_000, 50_000, 2_000_000]),
            loopback: if tape.bool() { LoopbackOptions::strict() } else { LoopbackOptions::plain() },
            network: draw_network(tape),
            cuts_per_mille: tape.one_of(&[0, 0, 5, 30]),
            crashes: tape.one_of(&[0, 0, 1, 2]),
            nodes_max: 0,
            joins: 0,
            leaves: 0,
            pauses: 0,
            silences: 0,
            slows: 0,
            flaps: 0,
            keeper_crashes: 0,
            keeper_pauses: 0,
            coordinator_per_mille: 0,
            keeps_store: false,
            drift_ppm_max: 0,
            leaps: 0,
            sets_clocks: false,
            loses_writes: tape.bool(),
            proves_deaths: false,
            step_ns_max: 50_000,
            panics: tape.one_in(3),
            cancels: tape.one_in(3),
            hurries: tape.one_in(3),
        }
    }

    /// A world whose nodes come and go.
    pub(crate) fn draw_moving(tape: &Tape) -> Self {
        let mut profile = Self::draw(tape);
        let is_clean = !tape.one_in(3);
        profile.nodes = tape.u16(1..=3);
        profile.nodes_max = profile.nodes.max(2) + tape.u16(0..=1);
        (profile.joins, profile.leaves) = (tape.u32(1..=3), tape.u32(0..=2));
        (profile.crashes, profile.pauses) = (0, 0);
        profile.calls = tape.u32(100..=400);
        profile.step_ns_max = tape.one_of(&[50_000, 500_000, 5_000_000]);
        // Chains of calls that wait for room in both directions would wait for each other, moves or none.
        (profile.core.calls_max, profile.core.window_max) = (1 << 10, 64);
        profile.store_faults.sync_failed_per_mille = 0;
        if is_clean {
            profile.store_faults.fail_per_mille = 0;
            profile.store_faults.unknown_per_mille = 0;
            (profile.store_faults.short_per_mille, profile.store_faults.flip_per_mille) = (0, 0);
            (profile.cuts_per_mille, profile.panics) = (0, false);
            profile.core.idle_ns = IDLE_NS;
        } else {
            (profile.crashes, profile.pauses) = (tape.u32(0..=2), tape.one_of(&[0, 0, 1, 2]));
            profile.proves_deaths = tape.bool();
            profile.flaps = tape.one_of(&[0, 0, 0, 1]);
            profile.coordinator_per_mille = tape.one_of(&COORDINATOR_PER_MILLE);
        }
        profile
    }

    /// A world whose nodes come and go over a network that does not always carry, so that leases run out and nodes are taken over that
    /// live.
    pub(crate) fn draw_parted(tape: &Tape) -> Self {
        let mut profile = Self::draw_moving(tape);
        profile.nodes = tape.u16(2..=4);
        profile.nodes_max = profile.nodes + tape.u16(0..=1);
        (profile.joins, profile.leaves) = (tape.u32(0..=1), tape.u32(0..=1));
        (profile.crashes, profile.pauses) = (tape.one_of(&[0, 0, 1]), tape.one_of(&[0, 0, 1]));
        profile.proves_deaths = tape.bool();
        profile.silences = tape.one_of(&[0, 1, 2, 4]);
        profile.slows = tape.one_of(&[0, 0, 1, 2]);
        profile.keeper_crashes = tape.one_of(&[0, 0, 0, 1]);
        profile.keeps_store = tape.bool();
        profile.drift_ppm_max = tape.one_of(&[0, 0, 1_000, DRIFT_PPM_MAX]);
        profile.flaps = tape.one_of(&[0, 0, 0, 1]);
        profile.keeper_pauses = tape.one_of(&[0, 0, 0, 1]);
        profile.coordinator_per_mille = tape.one_of(&COORDINATOR_PER_MILLE);
        profile.leaps = tape.one_of(&[0, 0, 1, 2]);
        profile.sets_clocks = tape.bool();
        // So that a lease runs out while calls are made.
        profile.step_ns_max = tape.one_of(&[2_000_000, 20_000_000, 50_000_000]);
        profile
    }

    /// What happens to nodes, to their network and to their clocks.
    fn troubles(&self) -> u32 {
        let of_nodes = self.crashes + self.pauses + self.flaps + self.keeper_crashes + self.keeper_pauses;
        let of_coordinator = u32::from(self.coordinator_per_mille);
        of_nodes + self.silences + self.slows + self.leaps + of_coordinator
    }

    /// Whether nothing goes wrong but that nodes come and go, and nothing is forgotten for being idle.
    pub(crate) fn is_clean(&self) -> bool {
        let faults = self.store_faults;
        self.troubles() == 0
            && faults.fail_per_mille + faults.unknown_per_mille == 0
            && faults.short_per_mille + faults.flip_per_mille == 0
            && self.cuts_per_mille == 0
            && self.step_ns_max <= STEP_NS_CLEAN_MAX
            && !self.panics
            && self.core.idle_ns == IDLE_NS
    }

    /// Whether the store may refuse a node that does not know yet that others own what it had.
    pub(crate) fn takes_over(&self) -> bool {
        self.troubles() > 0 || self.store_faults.unknown_per_mille > 0
    }
}

fn draw_network(tape: &Tape) -> FaultPlan {
    let calm = FaultPlan::calm(0);
    match tape.u8(..3) {
        0 => FaultPlan { delay_ns: 0..2_000, ..calm },
        1 => FaultPlan::legal(0),
        _ => FaultPlan { delay_ns: 0..1_000_000, ..FaultPlan::legal(0) },
    }
}

fn draw_core(tape: &Tape) -> CoreConfig {
    CoreConfig {
        epoch_ms: 1_750_000_000_000,
        seed: tape.u64(..),
        calls_max: tape.one_of(&[1 << 10, 1 << 10, 24]),
        waiting_max: tape.one_of(&[64, 64, 3]),
        direct_max: tape.one_of(&[128, 2, 0]),
        state_len_max: 1 << 20,
        message_len_max: 1 << 20,
        dirty_len_max: tape.one_of(&[64 << 20, 1 << 10]),
        window_max: tape.one_of(&[64, 4]),
        // Which seed is drawn at each start.
        chaos: (tape.u8(..8) > 0).then_some(0),
        idle_ns: tape.one_of(&[IDLE_NS, 300_000]),
        ..CoreConfig::default()
    }
}

/// How often the coordinator fails where it does.
const COORDINATOR_PER_MILLE: [u16; 4] = [0, 0, 50, 300];
/// Cores of a node at most, in somebody's own test.
const CORES_MAX: u16 = 4;
/// So much that no call is refused, as it may be where things go wrong.
const CALLS_CALM: usize = 1 << 14;
const WAITING_CALM: u32 = 1 << 12;
const WINDOW_CALM: usize = 64;
/// What leases allow for.
const DRIFT_PPM_MAX: u64 = 10_000;
/// With longer steps a node may be too slow to keep its lease.
const STEP_NS_CLEAN_MAX: u64 = 5_000_000;
/// Longer than any world lives.
const IDLE_NS: u64 = 15 * 60 * 1_000_000_000;
