//! Seeds that once found something, and what it was. What a seed means changes with the world: these found it when choices were drawn in
//! another way than from a tape, and are today seeds like others, kept beside those of every run. The stories are what lasts.

use epicserver_sim::world::{self, WorldConfig, WorldKind};

/// * 43: a commit whose answer was lost was committed again, which failed: callers were told `SaveFailed`, and the store had
///   all of it.
/// * 86, 1343, 2671: the search for cycles of waiting calls set out anew from a call for every way that led to it; two
///   cores sent each other thousands of probes.
/// * 5674: a failed batch: the end of one object granted another one, which had been looked at already, to a one-way call of
///   the batch; 4969, 6740, 8774: a call that was granted an object of the batch and had not begun started again after it.
/// * 112379: a method ended with its activation; a call further down its chain took it for an ancestor that holds the object,
///   and was granted the next activation while that was loading.
/// * 41, 50, 52: a node crashed, and calls from outside that ran in it were told that they had not run.
/// * 464: a call that waited for room in the window of its node when calls that are away got their timers had none afterwards,
///   and waited for ever when its answer was lost.
const SEEDS: [u64; 13] = [41, 43, 50, 52, 86, 464, 1343, 2671, 4969, 5674, 6740, 8774, 112_379];

#[test]
fn what_was_found_once_stays_mended() {
    stay_mended(WorldKind::Fixed, &SEEDS);
}

/// Of worlds whose nodes come and go:
/// * 35: a node had partitions before it had a lease, and refused what was called there.
/// * 86: the links got a call for a node of a new view before they were told of that view, and said that it was not sent.
/// * 91: a method waited for a call that was parked for the move of its own partition, which waited for the method, and was ended.
/// * 209: a node that left came back in another life; calls to it named their objects by numbers that only the first one knew.
/// * 250: calls that waited for an object which ended came back behind those that were parked for a move later.
/// * 723: a call below a method on the move ran before a one-way call of the same object that was parked.
/// * 1511: a call that was sent back lay in the outbox while later ones were held, and those went before it.
/// * 1949: a call was held when the batch that it depended on failed, and ran nevertheless when its object came back.
/// * 2148: a sender that did not know how many cores a node has sent to the wrong one first: calls were parked on both.
/// * 117, 233, 696: the links of the keeper's node were told of the members of a view that was published after a newer one was
///   pushed, took those that had come since for gone, and closed the links that worked.
/// * 3683: a request waited at its sender until what its caller had seen was durable, and left for a node that had given the object
///   away and was gone when it came.
/// * 9884: a core took a request from its links before the first lease, which the cluster had sent it earlier, and refused it.
/// * 95869: an object of a partition that was empty, and waited for its batches, came back, changed and was closed again before anybody
///   looked; it was given away with a state whose batch failed then.
const MOVING_SEEDS: [u64; 15] =
    [35, 86, 91, 117, 209, 233, 250, 696, 723, 1511, 1949, 2148, 3683, 9884, 95_869];

#[test]
fn what_was_found_once_where_nodes_come_and_go_stays_mended() {
    stay_mended(WorldKind::Moving, &MOVING_SEEDS);
}

/// Of worlds over a network that parts them:
/// * 3938, 12859, 13602: the proof of a link that was given up long ago came after a newer link, over a slow network, and took its place;
///   what had been received since was forgotten, so that calls were sent and run again, or no link came up any more.
/// * 2263: a fault of the simulator: a node that was evicted, went on in its next life and crashed then came back in that same life.
/// * 28817: the keeper stood still, and learned of a death that it told the others of when it went on. A fault of the simulator.
/// * 31011: the keeper crashed when its coordinator had changed the view and said that it had not; the next one began with a view that the
///   checkers did not know. A fault of the simulator.
const PARTED_SEEDS: [u64; 6] = [2263, 3938, 12859, 13602, 28817, 31011];

#[test]
fn what_was_found_once_where_the_network_parts_stays_mended() {
    stay_mended(WorldKind::Parted, &PARTED_SEEDS);
}

fn stay_mended(kind: WorldKind, seeds: &[u64]) {
    for &seed in seeds {
        let report = world::run(&WorldConfig { seed, kind, ..WorldConfig::default() });
        assert_eq!(report.violation, None, "seed {seed}");
    }
}
