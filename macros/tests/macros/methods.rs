//! `#[methods]`: the messages of methods, run and decoded as the runtime does it, without a runtime.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use epicserver::__private::{Frame, Method, RawRef, Wire};
use epicserver::prelude::*;
use epicserver_runtime::codec::{access, encode_to_vec};
use epicserver_runtime::entity::Receiver;

#[message]
#[derive(Debug, PartialEq)]
struct Move {
    steps: Vec<u32>,
    name: String,
}

#[message(error)]
#[derive(Clone, Debug, PartialEq)]
enum GameError {
    NoLevel(u32),
    Call(#[nested] CallError),
}

impl From<CallError> for GameError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// A `Result` by another name is still flattened.
mod game {
    pub(super) type Result<T> = std::result::Result<T, super::GameError>;
}

#[entity(name = "game.Player", key = String)]
#[derive(Default)]
struct Player {
    score: u64,
    moved: Vec<u32>,
}

#[methods]
impl Player {
    const STEP: u64 = 1;

    /// A method with documentation.
    async fn add(&mut self, points: u64, mut times: u8, (low, high): (u16, u16)) -> u64 {
        while times > 0 {
            self.score += points * Self::STEP;
            times -= 1;
        }
        self.score + u64::from(low) + u64::from(high)
    }

    async fn score(&self) -> u64 {
        self.doubled() / 2
    }

    #[method(serial, shield)]
    async fn level(&self, level: u32) -> Result<u32, GameError> {
        if level > 9 { Err(GameError::NoLevel(level)) } else { Ok(level) }
    }

    #[method(ungated)]
    async fn roughly(&self) -> u64 {
        self.score / 10 * 10
    }

    async fn alias(&self) -> game::Result<Option<Ref<Self>>> {
        Ok(None)
    }

    async fn walk(&mut self, by: &Archived<Move>, again: bool) -> u64 {
        let steps = by.steps.iter().map(|step| step.to_native());
        self.moved.extend(steps.clone());
        if again {
            self.moved.extend(steps);
        }
        by.name.len() as u64
    }

    async fn r#type(&self, r#in: u8) -> u8 {
        r#in
    }

    #[cfg(any())]
    async fn absent(&self, what: Missing) {}

    fn doubled(&self) -> u64 {
        self.score * 2
    }

    #[method(local)]
    async fn helper<T: Copy>(&self, values: &[T]) -> Option<T> {
        values.first().copied()
    }

    async fn associated(points: u64) -> Self {
        Self { score: points, moved: Vec::new() }
    }

    #[on_activate]
    async fn started(&mut self) {
        self.score += self.helper(&[1]).await.unwrap_or_default();
    }

    #[on_drop]
    async fn stopped(&mut self) {
        self.score = 0;
    }
}

fn player() -> Ref<Player> {
    RawRef::new("Bob").into()
}

/// The future of a method in this file never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing here waits"),
    }
}

/// The message of `call` as it arrives on another node whose caller sent `arguments`, which must be its fields.
fn received<M: Method>(_: &Call<M>, arguments: &impl Wire) -> M {
    let frame = Frame::copy_from(&encode_to_vec(arguments, 4096).expect("it fits"));
    let archived = access::<M>(&frame).expect("the fields are the arguments");
    M::decode(archived, &frame).expect("the archive is valid")
}

fn constants<M: Method>(_: &Call<M>) -> (&'static str, bool, bool, bool) {
    (M::NAME, M::Receiver::<'static>::EXCLUSIVE, M::SERIAL, M::SHIELD)
}

fn is_ungated<M: Method>(_: &Call<M>) -> bool {
    M::UNGATED
}

fn layout<M: Method>(_: &Call<M>) -> u64 {
    M::LAYOUT
}

fn output<M: Method>(_: &Call<M>, result: Result<M::Value, CallError>) -> M::Output {
    M::output(result)
}

#[test]
fn a_message_tells_how_its_method_is_run() {
    let bob = player();
    assert_eq!(constants(&bob.add(1, 2, (3, 4))), ("add", true, false, false));
    assert_eq!(constants(&bob.score()), ("score", false, false, false));
    assert_eq!(constants(&bob.level(1)), ("level", false, true, true));
    assert_eq!(constants(&bob.r#type(1)), ("type", false, false, false));
    assert!(is_ungated(&bob.roughly()) && !is_ungated(&bob.score()));
    assert_eq!(format!("{:?}", bob.score()), "Call(game.Player.score)");
}

#[test]
fn a_received_message_runs_the_method() {
    let mut state = Player::default();
    let message = received(&player().add(0, 0, (0, 0)), &(5u64, 3u8, (1u16, 2u16)));
    assert_eq!(now(message.run(&mut state)), 18);
    assert_eq!(now(received(&player().score(), &()).run(&state)), 15);
    assert_eq!(now(received(&player().r#type(0), &7u8).run(&state)), 7);
}

#[test]
fn an_argument_read_in_place_is_passed_by_value() {
    let by = || Move { steps: vec![1, 2, 3], name: "Bob, who walks a long way".into() };
    let mut state = Player::default();
    let message = received(&player().walk(by(), true), &(by(), true));
    assert_eq!(now(message.run(&mut state)), 25);
    assert_eq!(state.moved, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn results_are_flattened() {
    let bob = player();
    let level = bob.level(1);
    assert_eq!(output(&level, Ok(Ok(3))), Ok(3));
    assert_eq!(output(&level, Ok(Err(GameError::NoLevel(11)))), Err(GameError::NoLevel(11)));
    assert_eq!(output(&level, Err(CallError::NotSent)), Err(GameError::Call(CallError::NotSent)));
    let inner = GameError::Call(CallError::NotSent);
    let nested = CallError::Nested(Box::new(CallError::NotSent));
    assert_eq!(output(&level, Ok(Err(inner))), Err(GameError::Call(nested)));
    assert_eq!(output(&bob.score(), Ok(3)), Ok(3));
    assert_eq!(output(&bob.score(), Err(CallError::NotSent)), Err(CallError::NotSent));
    assert_eq!(output(&bob.alias(), Err(CallError::NotSent)), Err(GameError::Call(CallError::NotSent)));
}

#[test]
fn functions_that_cannot_be_called_from_outside_stay() {
    let made = now(Player::associated(4));
    assert_eq!((made.score, made.doubled(), now(made.helper(&[1, 2]))), (4, 8, Some(1)));
}

/// The same methods in two versions of a program.
mod later {
    use epicserver::prelude::*;

    #[entity(name = "game.Player", key = String)]
    #[derive(Default)]
    pub(super) struct Player {
        pub(super) score: u64,
    }

    #[methods]
    impl Player {
        pub(super) async fn score(&self) -> u32 {
            self.score as u32
        }

        pub(super) async fn level(&self, level: u64) -> Result<u32, super::GameError> {
            Ok(level as u32)
        }

        pub(super) async fn r#type(&self, other_name: u8) -> u8 {
            other_name
        }
    }
}

#[test]
fn changed_arguments_or_results_are_another_layout() {
    let (now, later) = (player(), later::PlayerRef::from(RawRef::new("Bob")));
    assert_ne!(layout(&now.score()), layout(&later.score()));
    assert_ne!(layout(&now.level(1)), layout(&later.level(1)));
    assert_eq!(layout(&now.r#type(1)), layout(&later.r#type(1)));
}

/// Private entities may have public methods, and public ones private types in private methods.
mod visibility {
    use epicserver::prelude::*;

    #[message]
    struct Secret(u8);

    #[entity(name = "game.Vault")]
    #[derive(Default)]
    pub(super) struct Vault {
        secret: Field<u8>,
    }

    #[methods]
    impl Vault {
        async fn put(&self, secret: Secret) -> Secret {
            Secret(self.secret.replace(secret.0))
        }

        #[expect(unreachable_pub, reason = "that is the case to show")]
        pub async fn guess(&self, guess: u8) -> bool {
            self.secret.get() == guess
        }
    }

    pub(super) fn put(vault: &Ref<Vault>) -> String {
        format!("{:?}", vault.put(Secret(1)))
    }
}

#[test]
fn visibility_follows_the_method() {
    let vault = visibility::VaultRef::from(RawRef::new(1));
    assert_eq!(visibility::put(&vault), "Call(game.Vault.put)");
    assert_eq!(format!("{:?}", vault.guess(1)), "Call(game.Vault.guess)");
}
