//! The macros of Epic Server: `#[entity]`, `#[methods]` and `#[message]`.
//!
//! They turn plain structs and plain async methods into what the runtime's traits ask for, and do nothing else: no
//! logic of a call lives here. Users get them from the `epicserver` crate, whose `__private` module every generated
//! path goes through, so that one line in a `Cargo.toml` is enough.
//!
//! Start at [`methods`]: what becomes of one method is in `methods/expand.rs`, what is refused in `methods/method.rs`.

mod arguments;
mod entity;
mod main_attribute;
mod message;
mod methods;
mod shape;
mod sim_attribute;

use proc_macro::TokenStream;

/// Makes a struct an entity: a type whose objects are virtual.
///
/// ```
/// # use epicserver::prelude::*;
/// #[entity(name = "game.Player", key = String)]
/// #[derive(Default)]
/// struct Player {
///     score: Field<u64>,
/// }
/// ```
///
/// | argument | meaning | default |
/// |---|---|---|
/// | `name = "game.Player"` | its name in the cluster and in saved records; unique, and never to be changed | must be given |
/// | `key = String` | what names an object: `u64`, `u128`, `String` or `Vec<u8>` | `u64` |
/// | `save = durable` | what a crash may lose: `durable`, `behind("50ms")`, `on_idle` or `never` | `durable` |
/// | `version = 3` | the version of the state's layout, up to 65535 | `1` |
/// | `migrations(1 => PlayerV1, 2 <=> PlayerV2)` | what reads states that earlier versions saved; see below | none |
/// | `samples = "tests/saved"` | a folder of the package with samples of what each version saved, and a test that they are still read; see below | none |
/// | `partition_by = function` | a pure `fn(&Key) -> Key`, or of `&str` for `String`: objects for which it gives equal keys live together | the key itself |
/// | `idle = "5m"` | how long an object may lie unused before it leaves memory: whole `s`, `m` or `h`, a year at most | as the node says, 15 minutes |
///
/// A new object starts as `Default::default()`, so the struct must implement `Default`. All fields must be able to be
/// saved: numbers, strings, collections, [`Field`]s, references to objects, and your own `#[message]` types. A saved state may have
/// 16 MiB: a method that makes it longer gives `Rejected(TooLarge)` in `Nested`, and its object starts again from what was saved last.
///
/// # A state that changes
///
/// Saved states are archives of the fields: with another field, type or order they are others. Give the struct a new `version`
/// then, keep the old fields in a `#[message]` struct, and say by `From` how one becomes the next:
///
/// ```
/// # use epicserver::prelude::*;
/// /// What version 1 saved.
/// #[message]
/// struct PlayerV1 {
///     score: u32,
/// }
///
/// #[entity(name = "game.Player", version = 2, migrations(1 <=> PlayerV1))]
/// #[derive(Default)]
/// struct Player {
///     score: u64,
///     rank: String,
/// }
///
/// impl From<PlayerV1> for Player {
///     fn from(old: PlayerV1) -> Self {
///         Self { score: old.score.into(), rank: "private".into() }
///     }
/// }
///
/// /// For `<=>`: while processes of version 1 are in the cluster.
/// impl From<&Player> for PlayerV1 {
///     fn from(new: &Player) -> Self {
///         Self { score: new.score.try_into().unwrap_or(u32::MAX) }
///     }
/// }
/// ```
///
/// A state of version 1 becomes one of version 2 when it is loaded, and is saved as that with its next change. From several versions
/// back it goes over all between. A state that is newer than the program is refused, as is one without a migration: calls get
/// `Rejected(Unreadable)`, which is not to be tried again, and the record stays as it is.
///
/// *A rolling upgrade* runs both programs side by side. With `<=>` the new one saves in the old version until the last process of the old
/// program leaves, and so shares the objects with it; what only the new version knows is kept in memory until then, no longer. With `=>`
/// it waits until the last one leaves, and takes all objects over from that. Once states are saved in the new version a process of the
/// old program owns no objects any more.
///
/// *A layout that changed by mistake* is found by a test. With `samples = "tests/saved"` the entity has one of its own, for `cargo test`:
/// `saved_states_of_Player_are_read`. It keeps a sample of each version in that folder of the package, and fails when the fields changed
/// and the version did not, and when a sample cannot be read any more. Its first run for a version writes the sample, and fails too, so
/// that the file comes into the repository. It is `epicserver::test::check_saved_states`, which can be called for entities of another
/// crate.
///
/// Beside the implementations it makes `PlayerRef`, the reference to one object, which `Ref<Player>` stands for.
///
/// [`Field`]: https://docs.rs/epicserver/latest/epicserver/struct.Field.html
#[proc_macro_attribute]
pub fn entity(arguments: TokenStream, item: TokenStream) -> TokenStream {
    entity::expand(arguments.into(), item.into()).into()
}

/// Makes the async methods of one `impl` block callable from everywhere in the cluster.
///
/// ```
/// # use epicserver::prelude::*;
/// # #[entity(name = "game.Player")]
/// # #[derive(Default)]
/// # struct Player {
/// #     score: Field<u64>,
/// # }
/// #[methods]
/// impl Player {
///     /// Shared: interleaves with other calls on this player at every await.
///     async fn score(&self) -> u64 {
///         self.score.get()
///     }
///     /// Exclusive: no other call runs on this player until it returns.
///     async fn reset(&mut self, by: Ref<Player>) -> Result<u64, CallError> {
///         self.score.set(0);
///         by.score().await
///     }
/// }
/// ```
///
/// Every `async fn` with `&self` or `&mut self` becomes a method of the reference too: `player.score().await`. What
/// that gives is the method's own `Result` if it returns one, whose error must be `From<CallError>`, and otherwise
/// `Result<T, CallError>`. Functions that are not async, or have no `self`, stay as they are.
///
/// Arguments and results are moved. An argument `&Archived<T>` is passed as a `T` and read in place by the method. Between processes
/// the arguments of a call, and its result, may have 16 MiB each; longer arguments give `Rejected(TooLarge)`, and a longer result gives
/// that in `Nested`, as the method ran.
///
/// A call has 10 seconds, for all that it calls too, unless [`Call::within`] says otherwise. When its caller has given up, by that or by
/// dropping the call, a `&self` method is dropped at the await where it is; a `&mut self` method may run on for 5 seconds, after which its
/// object starts again from its last saved state.
///
/// | attribute of a method | meaning |
/// |---|---|
/// | `#[method(serial)]` | a shared method that does not interleave with itself |
/// | `#[method(shield)]` | runs to its end although nobody waits for it any more |
/// | `#[method(ungated)]` | its results leave the node at once, not when what they tell is durable: a crash may undo what was told |
/// | `#[method(local)]` | not callable from outside: a helper |
/// | `#[on_activate]` | `async fn (&mut self)` that runs before the first call of every activation |
/// | `#[on_drop]` | `async fn (&mut self)` that runs before an activation is dropped, unless it is lost |
///
/// [`Call::within`]: https://docs.rs/epicserver/latest/epicserver/struct.Call.html#method.within
#[proc_macro_attribute]
pub fn methods(arguments: TokenStream, item: TokenStream) -> TokenStream {
    methods::expand(arguments.into(), item.into()).into()
}

/// Makes a struct or enum a value that may be an argument, a result, or part of an entity's state.
///
/// ```
/// # use epicserver::prelude::*;
/// # #[entity(name = "game.Player")]
/// # #[derive(Default)]
/// # struct Player;
/// #[message]
/// #[derive(Clone, Debug)]
/// struct Profile {
///     name: String,
///     friends: Vec<Ref<Player>>,
/// }
/// ```
///
/// `#[message(error)]` makes it an error that methods can return. It must implement `From<CallError>`; the fields that
/// hold an error of a call which the method itself made carry `#[nested]`, so that its caller does not take that error
/// for one of its own call:
///
/// ```
/// # use epicserver::prelude::*;
/// #[message(error)]
/// #[derive(Debug)]
/// enum GameError {
///     NoLevel,
///     Call(#[nested] CallError),
/// }
///
/// impl From<CallError> for GameError {
///     fn from(error: CallError) -> Self {
///         Self::Call(error)
///     }
/// }
/// ```
#[proc_macro_attribute]
pub fn message(arguments: TokenStream, item: TokenStream) -> TokenStream {
    message::expand(arguments.into(), item.into()).into()
}

/// Makes an async `main` the code that runs on a node of the cluster.
///
/// ```no_run
/// # use epicserver::prelude::*;
/// # #[entity(name = "game.Player", key = String)]
/// # #[derive(Default)]
/// # struct Player;
/// # #[methods]
/// # impl Player {
/// #     async fn enter_level(&self) {}
/// # }
/// #[epicserver::main(entities(Player))]
/// async fn main(pool: Pool) -> Result<(), CallError> {
///     pool.get::<Player>("Bob").enter_level().await
/// }
/// ```
///
/// It reads the settings (`epicserver.toml`, environment, flags: see `--help` of the program), starts a node that has code
/// for these entities, and runs the body. When the body returns, or on SIGINT or SIGTERM, the node stops in order. A program with flags of
/// its own has a plain `main` that calls [`launch::main_with`].
///
/// [`launch::main_with`]: https://docs.rs/epicserver/latest/epicserver/launch/fn.main_with.html
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    main_attribute::expand(arguments.into(), item.into()).into()
}

/// Makes an async function a test that runs in simulated worlds, one from each seed: see `docs/testing.md`.
///
/// ```text
/// #[epicserver_sim::sim(entities(Account), nodes = 3..7, seeds = 200)]
/// async fn money_is_conserved(world: World) -> Result<(), CallError> { .. }
/// ```
///
/// | argument | meaning | default |
/// |---|---|---|
/// | `entities(A, B)` | what the nodes bind | must be given |
/// | `nodes = 3..7` | how many nodes there are at first | `1..2` |
/// | `seeds = 200` | in how many worlds the test runs | `100` |
/// | `calm` | nothing goes wrong but order and delays | things go wrong |
///
/// It is `epicserver_sim::check::<(A, B)>()` in a `#[test]`, and fails as that does.
#[proc_macro_attribute]
pub fn sim(arguments: TokenStream, item: TokenStream) -> TokenStream {
    sim_attribute::expand(arguments.into(), item.into()).into()
}
