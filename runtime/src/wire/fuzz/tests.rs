//! The targets over the corpus and over what a seeded generator makes.

use std::path::Path;

use fastrand::Rng;

use super::*;
use crate::id::CallId;
use crate::key::{KeyKind, KeyView};
use crate::wire::control::samples;
use crate::wire::extension::{Hold, PathEntry, TargetKey, ViewStamp};

#[test]
fn fuzz_extension_corpus() {
    run_corpus("extension", fuzz_extension);
}

#[test]
fn fuzz_probe_corpus() {
    run_corpus("probe", fuzz_probe);
}

#[test]
fn fuzz_hello_corpus() {
    run_corpus("hello", fuzz_hello);
}

#[test]
fn fuzz_session_corpus() {
    run_corpus("session", fuzz_session);
}

#[test]
fn fuzz_control_corpus() {
    run_corpus("control", fuzz_control);
}

#[test]
fn fuzz_control_generated() {
    run_seeds(4_000, control_message, fuzz_control);
}

#[test]
fn fuzz_extension_generated() {
    run_seeds(20_000, extension_block, fuzz_extension);
}

#[test]
fn fuzz_probe_generated() {
    run_seeds(20_000, probe_word, fuzz_probe);
}

#[test]
fn fuzz_hello_generated() {
    run_seeds(3_000, hello_program, fuzz_hello);
}

#[test]
fn fuzz_session_generated() {
    run_seeds(8_000, session_program, fuzz_session);
}

/// What the generators make gets past the first check often enough to mean something.
#[test]
fn the_generators_reach_deep() {
    let parsed = (0..1_000).filter(|seed| {
        let block = extension_block(&mut Rng::with_seed(*seed));
        Extension::parse(&block).is_ok_and(|extension| extension != Extension::default())
    });
    assert!(parsed.count() > 200);
    let probes =
        (0..1_000).filter(|seed| ProbeWord::parse(&probe_word(&mut Rng::with_seed(*seed))).is_ok()).count();
    assert!((200..900).contains(&probes), "{probes}");
    let read = (0..1_000)
        .filter(|seed| ControlMessage::decode(&control_message(&mut Rng::with_seed(*seed))).is_ok());
    assert!(read.count() > 300);
    let mut steps_up = 0;
    for seed in 0..500 {
        let input = session_program(&mut Rng::with_seed(seed));
        let mut program = Program { rest: &input };
        let mut run = SessionRun::new();
        while !program.rest.is_empty() {
            run.step(&mut program);
            steps_up += u32::from(run.session.is_up());
        }
    }
    assert!(steps_up > 3_000, "{steps_up}");
}

fn run_corpus(target: &str, fuzz: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the corpus").map(|file| file.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() >= 4, "the corpus is not here");
    for file in files {
        fuzz(&std::fs::read(file).expect("a readable file"));
    }
}

fn run_seeds(seeds: u64, generate: fn(&mut Rng) -> Vec<u8>, fuzz: fn(&[u8])) {
    for seed in 0..seeds {
        let input = generate(&mut Rng::with_seed(seed));
        if let Err(panic) = std::panic::catch_unwind(|| fuzz(&input)) {
            eprintln!("seed {seed} breaks an invariant: {input:?}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// A valid block, then often a flipped bit, a cut end or noise.
fn extension_block(random: &mut Rng) -> Vec<u8> {
    let key: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(b'a'..=b'z')).collect();
    let entry = PathEntry {
        object: 1.into(),
        call: 2.into(),
        hold: Hold::Serial,
        method: 3.into(),
        partition: 4.into(),
    };
    let path = vec![entry; random.usize(..33)];
    let extension = Extension {
        budget_us: random.bool().then(|| random.u32(..)),
        view: random.bool().then(|| ViewStamp {
            version: random.u64(..) >> random.u8(..64),
            epoch: random.u64(..) >> random.u8(..64),
        }),
        path: if random.bool() { &path } else { &[] },
        trace: random.bool().then(|| random.u128(..)),
        key: random
            .bool()
            .then_some(TargetKey { entity: 9, key: KeyView { kind: KeyKind::Utf8, bytes: &key } }),
        hops: random.u8(..4),
        ..Extension::default()
    };
    let mut block = Vec::new();
    extension.append(&mut block).expect("within all limits");
    match random.u8(..6) {
        0 => block.truncate(random.usize(..=block.len())),
        1 => block.extend((0..random.usize(..40)).map(|_| random.u8(..))),
        2 | 3 if !block.is_empty() => {
            let at = random.usize(..block.len());
            block[at] ^= 1 << random.u8(..8);
        }
        _ => {}
    }
    block
}

/// A valid probe, then often a flipped bit, a cut end or noise.
fn probe_word(random: &mut Rng) -> Vec<u8> {
    let way: String = (0..random.usize(..60)).map(|_| random.char('a'..='ä')).collect();
    let word = ProbeWord {
        initiator: CallId(random.u128(..)),
        round: random.u64(..),
        hops: random.u8(..34),
        way: &way,
    };
    let mut bytes = word.to_bytes();
    match random.u8(..6) {
        0 => bytes.truncate(random.usize(..=bytes.len())),
        1 => bytes.extend((0..random.usize(..1_100)).map(|_| random.u8(..))),
        2 => {
            let at = random.usize(..bytes.len());
            bytes[at] ^= 1 << random.u8(..8);
        }
        _ => {}
    }
    bytes
}

/// A message, then often a flipped bit, a cut end or noise.
fn control_message(random: &mut Rng) -> Vec<u8> {
    let mut bytes = samples::message(random).encode().expect("samples are short");
    match random.u8(..6) {
        0 => bytes.truncate(random.usize(..=bytes.len())),
        1 => bytes.extend((0..random.usize(..40)).map(|_| random.u8(..))),
        2 | 3 => {
            // The front is where lengths and choices are.
            let at = random.usize(..bytes.len().min(64));
            bytes[at] ^= 1 << random.u8(..8);
        }
        _ => {}
    }
    bytes
}

/// Mostly the genuine end, sometimes somebody else.
fn hello_program(random: &mut Rng) -> Vec<u8> {
    let mut program = vec![random.u8(..)];
    for _ in 0..random.usize(1..8) {
        match random.u8(..6) {
            0 => program.extend([1, random.u8(..), random.u8(..)]),
            1 => append_with_bytes(&mut program, &[2, random.u8(6..11)], random, 200),
            2 => append_with_bytes(&mut program, &[3], random, 200),
            _ => program.push(0),
        }
    }
    program
}

/// Frames and counts that are mostly plausible.
fn session_program(random: &mut Rng) -> Vec<u8> {
    let mut program = Vec::new();
    let mut granted = [4u8; 3];
    let mut counted = 0;
    let is_counting = random.u8(..4) != 0;
    for _ in 0..random.usize(1..60) {
        match random.u8(..40) {
            0..8 => {
                append_with_bytes(&mut program, &[0, random.u8(..6)], random, 60);
                program.extend([6, 8]);
            }
            8..14 => {
                // A request, a reply or a control frame, by their places among the kinds.
                let lane = random.usize(..3);
                let kind = [FrameKind::Request, FrameKind::Reply, FrameKind::Control][lane];
                let place = FrameKind::ALL.iter().position(|other| *other == kind).expect("it is a kind");
                program.extend([4, place as u8, random.u8(..20), 8]);
                granted[lane] = granted[lane].saturating_add(1);
                counted += u8::from(is_counting && lane == 0 && random.u8(..8) != 0);
                program.extend([1, random.u8(..2), counted, granted[0], granted[1], granted[2], 0]);
            }
            14..18 => {
                let (lane, flags) = (random.u8(..3), 0x83);
                let len = random.u8(3..14) * 16;
                program.extend([2, lane, flags, 0, 0, len, lane]);
                program.extend((1..len).map(|_| random.u8(..)));
                program.extend([6, 8]);
            }
            18 => append_with_bytes(
                &mut program,
                &[2, random.u8(..4), random.u8(..4), 0, random.u8(..)],
                random,
                90,
            ),
            19 => append_with_bytes(&mut program, &[3], random, 100),
            20..28 => program.extend([4, random.u8(..5), random.u8(..)]),
            28..30 => program.extend([5, random.u8(..12)]),
            30..34 => program.push(6),
            34 if random.u8(..8) == 0 => program.push(7),
            35 => program.extend((0..6).map(|_| random.u8(..))),
            _ => program.push(8),
        }
    }
    program
}

fn append_with_bytes(program: &mut Vec<u8>, instruction: &[u8], random: &mut Rng, len_max: usize) {
    program.extend(instruction);
    let len = random.usize(..len_max);
    program.push(len as u8);
    program.extend((0..len).map(|_| random.u8(..)));
}
