//! The script on the example of a player who enters a level, and on every kind of syscall.

use std::future::Future;
use std::time::Duration;

use super::{Script, Syscall};
use crate::call::Call;
use crate::context;
use crate::entity::RawRef;
use crate::error::{CallError, Loss};
use crate::field::Field;
use crate::saving::SavePolicy;
use crate::tests::by_hand::{entity, method};

#[derive(Default, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Barrel {
    hits: u32,
}

#[derive(Default, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(crate) struct Player {
    score: Field<u64>,
    levels: u32,
}

entity!(Barrel, u64, "game.Barrel", SavePolicy::Never, [OnHit]);
entity!(
    Player,
    String,
    "game.Player",
    SavePolicy::Durable,
    [EnterLevel, Busy, AskOutside, Finish, Fall, Climb]
);

method!(OnHit { strength: u32 } on Barrel as &'a mut Barrel, bool, |this, barrel| {
    barrel.hits += this.strength;
    barrel.hits >= 3
});
method!(EnterLevel { barrels: Vec<RawRef<Barrel>> } on Player as &'a Player, Result<(), CallError>, |this, player| {
    enter_level(player, this.barrels).await
});
method!(Busy {} on Player as &'a Player, u64, |_this, player| {
    busy().await;
    player.score.get()
});
method!(AskOutside { city: String } on Player as &'a Player, String, |this, _player| {
    ask_outside(this.city).await
});
method!(Finish {} on Player as &'a mut Player, u32, |_this, player| {
    player.levels += 1;
    context::sleep(Duration::from_secs(1)).await;
    player.levels
});
method!(Fall {} on Player as &'a Player, (), |_this, player| {
    player.score.set(99);
    panic!("on purpose")
});

method!(Climb {} on Player as &'a mut Player, Result<(), CallError>, |_this, player| {
    climb(player).await
});

async fn climb(player: &mut Player) -> Result<(), CallError> {
    player.levels += 1;
    context::save(&*player).await?;
    player.levels += 1;
    let _broken = hit(&RawRef::new(0)).await?;
    panic!("on purpose")
}

async fn enter_level(player: &Player, barrels: Vec<RawRef<Barrel>>) -> Result<(), CallError> {
    for barrel in barrels {
        if hit(&barrel).await? {
            player.score.update(|score| score + 1);
        }
    }
    Ok(())
}

async fn busy() {
    let _ = (context::now(), context::random());
    hit(&RawRef::new(9)).send().expect("room");
    let this = context::this::<Player>();
    context::spawn(async move {
        context::sleep(Duration::from_millis(5)).await;
        let _ = this.call(EnterLevel { barrels: vec![] }).await;
    })
    .expect("room");
    let seven = context::blocking(|| 7u64).await.unwrap_or(0);
    let eight = context::edge(async { 8u64 }).await.unwrap_or(0);
    assert_eq!((seven, eight), (7, 8));
    context::forget();
}

/// A test that runs any of it fails.
async fn ask_outside(city: String) -> String {
    let weather = async { panic!("a socket was opened") };
    let degrees: Option<u32> =
        context::edge(weather).described(format!("weather of {city}")).await.unwrap_or(None);
    let word = context::blocking(|| -> String { panic!("a file was read") }).await.unwrap_or_default();
    format!("{word}, {}", degrees.unwrap_or(0))
}

fn hit(barrel: &RawRef<Barrel>) -> Call<OnHit> {
    barrel.call(OnHit { strength: 1 })
}

fn barrels(count: u64) -> Vec<RawRef<Barrel>> {
    (0..count).map(RawRef::new).collect()
}

#[test]
fn a_player_scores_for_each_barrel_that_breaks() {
    let barrels = barrels(2);
    let mut script = Script::<Player>::new("Bob").with_state(Player { score: Field::new(10), levels: 0 });
    let call = script.send(|player| player.call(EnterLevel { barrels: barrels.clone() }));
    assert_eq!(script.syscalls(), [Syscall::call(&hit(&barrels[0]))]);
    assert!(call.result().is_none() && script.is_waiting());

    script.answer(hit(&barrels[0]), true);
    assert_eq!(script.syscalls(), [Syscall::call(&hit(&barrels[1]))], "one after the other");
    assert_eq!(
        script.state(|player| player.score.get()),
        11,
        "what was scored before the second barrel is there"
    );
    script.answer(hit(&barrels[1]), false);
    assert_eq!(call.result(), Some(Ok(Ok(()))));
    assert_eq!(script.state(|player| player.score.get()), 11);
    assert_eq!(script.saves(), 1);
}

#[test]
fn an_error_of_a_call_ends_the_method() {
    let mut script = Script::<Player>::new("Bob");
    let call = script.send(|player| player.call(EnterLevel { barrels: barrels(3) }));
    let lost = CallError::OutcomeUnknown(Loss::LinkLost);
    script.fail(hit(&barrels(1)[0]), lost.clone());
    assert_eq!((call.result(), script.is_waiting()), (Some(Ok(Err(lost))), false));
}

#[test]
fn calls_differ_by_object_method_and_arguments() {
    let barrel = RawRef::<Barrel>::new(1);
    let soft = Syscall::call(&hit(&barrel));
    assert_eq!(soft, Syscall::call(&hit(&RawRef::new(1))));
    assert_ne!(soft, Syscall::call(&barrel.call(OnHit { strength: 2 })));
    assert_ne!(soft, Syscall::call(&hit(&RawRef::new(2))));
    assert_ne!(soft, Syscall::one_way(&hit(&barrel)));
}

#[test]
#[should_panic(expected = "the object waits for no Call { object: \"game.Barrel/1\"")]
fn an_answer_to_a_call_that_was_not_made_fails_the_test() {
    let mut script = Script::<Player>::new("Bob");
    let _call = script.send(|player| player.call(EnterLevel { barrels: barrels(1) }));
    script.answer(hit(&RawRef::new(1)), true);
}

#[test]
fn work_and_futures_are_answered_and_not_done() {
    let mut script = Script::<Player>::new("Bob");
    let call = script.send(|player| player.call(AskOutside { city: "Berlin".into() }));
    assert_eq!(script.syscalls(), [Syscall::Described("weather of Berlin".into())]);
    script.answer_edge(Some(21u32));
    assert_eq!(script.syscalls(), [Syscall::Blocking]);
    script.answer_blocking(String::from("warm"));
    assert_eq!(call.result(), Some(Ok("warm, 21".into())));
}

#[test]
#[should_panic(expected = "the object waits for a core::option::Option<u32>, not for a u32")]
fn an_answer_of_another_type_fails_the_test() {
    let mut script = Script::<Player>::new("Bob");
    let _call = script.send(|player| player.call(AskOutside { city: "Berlin".into() }));
    script.answer_edge(21u32);
}

#[test]
fn every_syscall_comes_out_as_a_value() {
    let mut script = Script::<Player>::new("Bob").with_state(Player { score: Field::new(5), levels: 1 });
    let call = script.send(|player| player.call(Busy {}));
    let sent = Syscall::one_way(&hit(&RawRef::new(9)));
    use Syscall::{Blocking, Edge, Forget, Now, Random, Sleep, Spawn};
    assert_eq!(script.syscalls(), [Now, Random, sent, Spawn, Blocking, Sleep(Duration::from_millis(5))]);
    script.run_blocking();
    assert_eq!(script.syscalls(), [Edge]);
    let mut edge = Box::pin(script.run_edge());
    let waker = std::task::Waker::noop();
    assert!(edge.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_ready());
    drop(edge);
    assert_eq!(script.syscalls(), [Forget]);
    assert_eq!(call.result(), Some(Ok(5)));
    assert_eq!(script.state(|player| player.levels), 0, "forgotten when the method let go");
    script.advance(Duration::from_millis(4));
    assert_eq!(script.syscalls(), []);
    script.advance(Duration::from_millis(2));
    assert_eq!(script.syscalls(), [], "its calls on itself run, and are nothing to answer");
}

#[test]
fn rules_of_calls_hold_and_time_is_the_tests() {
    let mut script = Script::<Player>::new("Bob");
    let exclusive = script.send(|player| player.call(Finish {}));
    let shared = script.send(|player| player.call(EnterLevel { barrels: barrels(1) }));
    assert_eq!(
        script.syscalls(),
        [Syscall::Sleep(Duration::from_secs(1))],
        "the second call waits for the first"
    );
    script.advance(Duration::from_millis(999));
    assert_eq!(exclusive.result(), None);
    script.advance(Duration::from_millis(10));
    assert_eq!(exclusive.result(), Some(Ok(1)));
    assert_eq!(script.syscalls(), [Syscall::call(&hit(&RawRef::new(0)))]);
    script.advance(Duration::from_secs(10));
    assert_eq!(shared.result(), Some(Err(CallError::OutcomeUnknown(Loss::Timeout))));
    assert!(!script.is_waiting(), "its call went with it");
}

#[test]
fn a_caller_that_goes_cancels_what_its_call_waits_for() {
    let mut script = Script::<Player>::new("Bob");
    let call = script.send(|player| player.call(EnterLevel { barrels: barrels(1) }));
    assert!(script.is_waiting());
    script.cancel(call);
    assert!(!script.is_waiting());
}

#[test]
fn a_panic_starts_the_object_again_from_what_was_saved() {
    let mut script = Script::<Player>::new("Bob");
    let _ = script.send(|player| player.call(Finish {}));
    script.advance(Duration::from_secs(2));
    let fall = script.send(|player| player.call(Fall {}));
    assert_eq!(fall.result(), Some(Err(CallError::Panicked("on purpose".into()))));
    let _ = script.send(|player| player.call(EnterLevel { barrels: vec![] }));
    assert_eq!(script.state(|player| (player.levels, player.score.get())), (1, 0));
}

#[test]
fn a_checkpoint_comes_out_and_outlives_a_panic() {
    let mut script = Script::<Player>::new("Bob");
    let climb = script.send(|player| player.call(Climb {}));
    assert_eq!(script.syscalls(), [Syscall::Save, Syscall::call(&hit(&RawRef::new(0)))]);
    assert_eq!(script.saves(), 1);
    script.answer(hit(&RawRef::new(0)), true);
    assert_eq!(climb.result(), Some(Err(CallError::Panicked("on purpose".into()))));
    let _ = script.send(|player| player.call(EnterLevel { barrels: vec![] }));
    assert_eq!(script.state(|player| player.levels), 1);
}

#[test]
fn a_script_leaves_nothing_behind() {
    let mut script = Script::<Player>::new("Bob");
    let _call = script.send(|player| player.call(EnterLevel { barrels: barrels(1) }));
    script.answer(hit(&RawRef::new(0)), true);
    assert!(script.core.is_quiet());
}
