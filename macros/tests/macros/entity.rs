//! `#[entity]`: what the struct says about itself, its state and its references.

use std::collections::BTreeSet;

use epicserver::__private::{Entity, EntityCell, RawRef, SavePolicy, Wire};
use epicserver::prelude::*;
use epicserver_runtime::codec::{decode, encode_to_vec};
use epicserver_runtime::key::EntityKey;

#[entity(name = "game.Barrel")]
#[derive(Default)]
struct Barrel {
    hits: u32,
    owner: Option<Ref<Player>>,
}

#[entity(name = "game.Player", key = String, save = behind("50ms"), version = 3, partition_by = guild_of)]
#[derive(Default)]
struct Player {
    score: Field<u64>,
    barrels: Vec<Ref<Barrel>>,
    friends: Vec<Ref<Self>>,
}

/// Players live with their guild: `guild/player`.
fn guild_of(key: &str) -> String {
    key.split('/').next().unwrap_or_default().to_owned()
}

#[entity(name = "game.Log", key = Vec<u8>, save = never, idle = "2h")]
#[derive(Default)]
struct Log(Vec<String>, u8);

#[entity(name = "game.Beacon", key = u128, save = on_idle, partition_by = Beacon::region)]
#[derive(Default)]
struct Beacon;

impl Beacon {
    fn region(key: &u128) -> u128 {
        key >> 64
    }
}

fn player(key: &str) -> Ref<Player> {
    RawRef::new(key).into()
}

#[test]
fn arguments_become_constants() {
    assert_eq!((Barrel::NAME, Barrel::SAVE, Barrel::VERSION), ("game.Barrel", SavePolicy::Durable, 1));
    assert_eq!((Player::NAME, Player::SAVE, Player::VERSION), ("game.Player", SavePolicy::Behind(50), 3));
    assert_eq!((Log::SAVE, Beacon::SAVE), (SavePolicy::Never, SavePolicy::OnIdle));
    assert_eq!((Log::IDLE_MS, Beacon::IDLE_MS), (Some(7_200_000), None));
}

#[test]
fn each_entity_has_a_cell_of_its_own() {
    let cells: [*const EntityCell; 3] = [Player::cell(), Barrel::cell(), Player::cell()];
    assert_eq!(cells[0], cells[2]);
    assert_ne!(cells[0], cells[1]);
}

#[test]
fn the_placement_is_the_key_unless_a_function_says_otherwise() {
    const { assert!(Player::PLACED && !Barrel::PLACED) };
    assert_eq!(Player::placement(&String::store("red/Bob")), String::store("red"));
    assert_eq!(Beacon::placement(&(3 << 64 | 7)), 3);
    assert_eq!(Barrel::placement(&7), 7);
}

#[test]
fn references_know_their_key_and_say_who_they_are() {
    assert_eq!(player("Bob").key(), "Bob");
    assert_eq!(format!("{:?}", player("Bob")), "game.Player/\"Bob\"");
    assert_eq!(LogRef::from(RawRef::new(b"ab".as_slice())).key(), b"ab");
    assert_eq!(BeaconRef::from(RawRef::new(7)).key(), 7);
}

#[test]
#[expect(clippy::mutable_key_type, reason = "what is mutable is a hint that comparing ignores")]
fn references_are_equal_if_their_keys_are() {
    let set: BTreeSet<_> = [player("Bob"), player("Alice"), player("Bob").clone()].into();
    assert_eq!(set.len(), 2);
}

#[test]
fn state_with_references_survives() {
    let state = Player {
        score: Field::new(12),
        barrels: vec![BarrelRef::from(RawRef::new(3))],
        friends: vec![player("Alice")],
    };
    let bytes = encode_to_vec(&state, 4096).expect("it fits");
    let restored: Player = decode(&bytes).expect("it was just written");
    assert_eq!((restored.score.get(), restored.barrels[0].key(), restored.friends), (12, 3, state.friends));
    let barrel = Barrel { hits: 2, owner: Some(player("Bob")) };
    let restored: Barrel =
        decode(&encode_to_vec(&barrel, 4096).expect("it fits")).expect("it was just written");
    assert_eq!((restored.hits, restored.owner), (2, Some(player("Bob"))));
}

#[test]
fn tuple_and_unit_structs_are_state_too() {
    let bytes = encode_to_vec(&Log(vec!["in".into()], 1), 4096).expect("it fits");
    let Log(lines, level) = decode(&bytes).expect("it was just written");
    assert_eq!((lines, level), (vec!["in".to_owned()], 1));
    let bytes = encode_to_vec(&Beacon, 4096).expect("it fits");
    assert!(decode::<Beacon>(&bytes).is_ok());
}

/// The same entity in two versions of a program.
mod later {
    use epicserver::prelude::*;

    #[entity(name = "game.Barrel")]
    #[derive(Default)]
    pub(super) struct Barrel {
        pub(super) hits: u64,
        pub(super) owner: Option<Ref<super::Player>>,
    }
}

#[test]
fn a_changed_field_is_another_layout_and_the_reference_stays_the_same() {
    let _ = later::Barrel { hits: 0, owner: None };
    assert_ne!(<Barrel as Wire>::LAYOUT, <later::Barrel as Wire>::LAYOUT);
    assert_eq!(<Ref<Barrel> as Wire>::LAYOUT, <Ref<later::Barrel> as Wire>::LAYOUT);
    assert_ne!(<Ref<Barrel> as Wire>::LAYOUT, <Ref<Player> as Wire>::LAYOUT);
}
