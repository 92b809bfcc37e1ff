//! A tape that is edited is a simpler world, and the runtime keeps its laws there too.

use epicserver_sim::Edits;
use epicserver_sim::world::{self, Report, WorldConfig, WorldKind};

fn run(seed: u64, kind: WorldKind, edits: Edits) -> Report {
    world::run(&WorldConfig { seed, kind, edits, ..WorldConfig::default() })
}

/// Nobody may wait for ever for his turn where nothing is drawn, or what is shrunk would fail for that.
#[test]
fn a_world_whose_tape_ends_early_comes_to_its_end() {
    for (kind, seeds) in [(WorldKind::Fixed, 20), (WorldKind::Moving, 2), (WorldKind::Parted, 2)] {
        for seed in 1..=seeds {
            let whole = run(seed, kind, Edits::default());
            for end in [whole.tape_len / 2, whole.tape_len / 16, 256, 0] {
                let report = run(seed, kind, Edits::new(Some(end), []));
                assert_eq!(report.violation, None, "seed {seed} of a {} world cut at {end}", kind.name());
                assert!(report.calls > 0);
            }
        }
    }
}

#[test]
fn zeroed_stretches_make_another_world_and_the_same_one_each_time() {
    for kind in WorldKind::ALL {
        let edits = || Edits::default().zeroed(300..600).zeroed(0..64);
        let (first, second) = (run(2, kind, edits()), run(2, kind, edits()));
        assert_eq!((first.trace_hash, first.events), (second.trace_hash, second.events));
        assert_ne!(first.trace_hash, run(2, kind, Edits::default()).trace_hash);
        assert_eq!(first.violation, None);
    }
}
