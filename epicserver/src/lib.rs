//! Virtual objects that call each other with plain `async` methods, over as many cores, processes and machines as there
//! are.
//!
//! Every object has a type and a key and always exists. Nobody starts it or stops it: the runtime activates it when it is
//! called, keeps it in exactly one place, saves it by itself and forgets it when it is idle.
//!
//! ```no_run
//! use epicserver::prelude::*;
//!
//! #[entity(name = "game.Barrel")]
//! #[derive(Default)]
//! struct Barrel {
//!     hits: u32,
//! }
//!
//! #[methods]
//! impl Barrel {
//!     /// `&mut self`: exclusive. No other call runs on this barrel until it returns, even across awaits.
//!     async fn on_hit(&mut self) -> bool {
//!         self.hits += 1;
//!         self.hits >= 3
//!     }
//! }
//!
//! #[entity(name = "game.Player", key = String)]
//! #[derive(Default)]
//! struct Player {
//!     score: Field<u64>,
//! }
//!
//! #[methods]
//! impl Player {
//!     /// `&self`: interleaves with other calls on this player at every await. `Field` is the cell that it may change.
//!     async fn enter_level(&self, barrels: Vec<Ref<Barrel>>) -> Result<(), CallError> {
//!         for barrel in barrels {
//!             if barrel.on_hit().await? {
//!                 self.score.update(|score| score + 1);
//!             }
//!         }
//!         Ok(())
//!     }
//!
//!     async fn score(&self) -> u64 {
//!         self.score.get()
//!     }
//! }
//!
//! #[epicserver::main(entities(Player, Barrel))]
//! async fn main(pool: Pool) -> Result<(), CallError> {
//!     let barrels = (0..30).map(|key| pool.get::<Barrel>(key)).collect();
//!     let bob = pool.get::<Player>("Bob: Slayer of armoured cylinders");
//!     bob.enter_level(barrels).await?;
//!     println!("New high score: {}", bob.score().await?);
//!     Ok(())
//! }
//! ```
//!
//! Start with [`entity`], [`methods`] and [`Pool`]; [`context`] is what entity code may ask of its core; [`CallError`] says
//! what can go wrong and whether a method ran. [`Node`] is for programs that set up their own node instead of
//! `#[epicserver::main]`.

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
pub mod launch;
mod place;
pub mod prelude;
pub mod settings;

pub use epicserver_macros::{entity, main, message, methods};
/// A method that saves its object before it ends, because what follows is not to be done twice:
///
/// ```
/// use epicserver::context;
/// use epicserver::prelude::*;
/// # use epicserver::test::{Script, Syscall};
///
/// #[entity(name = "game.Lottery")]
/// #[derive(Default)]
/// struct Lottery {
///     tickets: Vec<String>,
///     winner: Option<u64>,
/// }
///
/// #[methods]
/// impl Lottery {
///     async fn draw(&mut self, tickets: Vec<String>) -> Result<String, CallError> {
///         self.tickets = tickets;
///         self.winner = Some(context::random() % self.tickets.len() as u64);
///         // Whatever happens from here on, it is drawn once.
///         context::save(&*self).await?;
///         context::sleep(std::time::Duration::from_secs(3)).await;
///         let winner = self.winner.take().unwrap_or(0);
///         Ok(self.tickets.swap_remove(winner as usize))
///     }
/// }
/// #
/// # let mut script = Script::<Lottery>::new(1);
/// # let drawn = script.send(|lottery| lottery.draw(vec!["Bob".into()]));
/// # assert_eq!(script.syscalls()[1], Syscall::Save);
/// # assert_eq!(script.saves(), 1);
/// # script.advance(std::time::Duration::from_secs(4));
/// # assert_eq!(drawn.result(), Some(Ok("Bob".into())));
/// ```
///
/// Where nothing is ever saved it does not compile:
///
/// ```compile_fail,E0080
/// # use epicserver::context;
/// # use epicserver::prelude::*;
/// #[entity(name = "game.Weather", save = never)]
/// #[derive(Default)]
/// struct Weather {
///     wind: u32,
/// }
///
/// #[methods]
/// impl Weather {
///     async fn blow(&mut self) -> Result<(), CallError> {
///         self.wind += 1;
///         context::save(&*self).await
///     }
/// }
/// #
/// # let _ = epicserver::test::Script::<Weather>::new(1);
/// ```
///
/// An object that does something again and again. Its loop lives as long as the object is in memory, see [`context::spawn`]; whoever is
/// outside and calls `wake` brings it back after that:
///
/// ```
/// use std::time::Duration;
///
/// use epicserver::context::{sleep, spawn, this};
/// use epicserver::prelude::*;
/// # use epicserver::test::Script;
///
/// #[entity(name = "game.Market")]
/// #[derive(Default)]
/// struct Market {
///     days: u64,
/// }
///
/// #[methods]
/// impl Market {
///     /// Runs each time when the market comes into memory, before the call that brought it there.
///     #[on_activate]
///     async fn open(&mut self) {
///         let me = this::<Market>();
///         let days = async move {
///             loop {
///                 sleep(Duration::from_secs(60)).await;
///                 // One that fails is left out. The next one comes in a minute.
///                 let _ = me.end_day().await;
///             }
///         };
///         spawn(days).expect("a core has room for its tasks");
///     }
///
///     async fn end_day(&mut self) {
///         self.days += 1;
///     }
///
///     /// Does nothing: the call is enough.
///     async fn wake(&self) {}
/// }
///
/// /// In the `main` of a program of the cluster, for as long as that runs.
/// async fn keep_awake(pool: Pool) {
///     loop {
///         let _ = pool.get::<Market>(0).wake().await;
///         tokio::time::sleep(Duration::from_secs(60)).await;
///     }
/// }
/// #
/// # let mut script = Script::<Market>::new(0);
/// # let woken = script.send(|market| market.wake());
/// # assert_eq!(woken.result(), Some(Ok(())));
/// # script.advance(Duration::from_secs(150));
/// # assert_eq!(script.state(|market| market.days), 2);
/// # let _ = keep_awake;
/// ```
pub use epicserver_runtime::context;
pub use epicserver_runtime::entity::Entities;
/// Tests of one object, without a runtime:
///
/// ```
/// use epicserver::context::object;
/// use epicserver::prelude::*;
/// use epicserver::test::{Script, Syscall};
///
/// #[entity(name = "game.Barrel")]
/// #[derive(Default)]
/// struct Barrel {
///     hits: u32,
/// }
///
/// #[methods]
/// impl Barrel {
///     async fn on_hit(&mut self) -> bool {
///         self.hits += 1;
///         self.hits >= 3
///     }
/// }
///
/// #[entity(name = "game.Player", key = String)]
/// #[derive(Default)]
/// struct Player {
///     score: Field<u64>,
/// }
///
/// #[methods]
/// impl Player {
///     async fn enter_level(&self, barrels: Vec<Ref<Barrel>>) -> Result<(), CallError> {
///         for barrel in barrels {
///             if barrel.on_hit().await? {
///                 self.score.update(|score| score + 1);
///             }
///         }
///         Ok(())
///     }
/// }
///
/// let barrels: Vec<Ref<Barrel>> = (0..2).map(object::<Barrel>).collect();
/// let mut script = Script::<Player>::new("Bob").with_state(Player { score: Field::new(10) });
///
/// let level = script.send(|player| player.enter_level(barrels.clone()));
/// assert_eq!(script.syscalls(), [Syscall::call(&barrels[0].on_hit())]);
///
/// script.answer(barrels[0].on_hit(), true);
/// assert_eq!(script.state(|player| player.score.get()), 11);
/// assert_eq!(script.syscalls(), [Syscall::call(&barrels[1].on_hit())]);
///
/// script.fail(barrels[1].on_hit(), CallError::NotSent);
/// assert_eq!(level.result(), Some(Err(CallError::Nested(Box::new(CallError::NotSent)))));
/// ```
pub use epicserver_runtime::script as test;
/// The cluster as its nodes see it: who is a member, who owns what.
pub mod cluster {
    pub use epicserver_runtime::cluster::report::{
        ClusterReport, NodeCounters, NodeReport, ObjectPlace, ObjectReport, SavedState,
    };
    pub use epicserver_runtime::entity::partition_of;
    pub use epicserver_runtime::saving::SavePolicy;
    pub use epicserver_runtime::{ClusterConfig, FindError, JoinError};
    pub use epicserver_storage::{Member, NodeId, Partition, PartitionState, View};
}
/// For stores of your own: their contract, and what they are made of. `NodeBuilder::store` takes one.
pub use epicserver_storage as storage;

pub use epicserver_runtime::entity::Method;
pub use epicserver_runtime::{
    Bytes, Call, CallError, Entity, Executed, Field, Loss, Node, NodeBuilder, Pool, Ref, Rejection,
    StartError, Stats, Transient, TransportThreads, Wait,
};
