//! Generated code on a real node: calls between objects, hooks, arguments read in place, nested errors.

use std::future::Future;

use epicserver::prelude::*;

#[message]
struct Level {
    name: String,
    barrels: Vec<Ref<Barrel>>,
}

#[message(error)]
#[derive(Debug, PartialEq)]
enum GameError {
    NoBarrels,
    Call(#[nested] CallError),
}

impl From<CallError> for GameError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

#[entity(name = "game.Barrel")]
#[derive(Default)]
struct Barrel {
    hits: u32,
}

#[methods]
impl Barrel {
    async fn on_hit(&mut self) -> bool {
        assert!(self.hits < 5, "this barrel is gone");
        self.hits += 1;
        self.hits >= 3
    }
}

#[entity(name = "game.Player", key = String, save = never)]
#[derive(Default)]
struct Player {
    score: Field<u64>,
    best_friend: Option<Ref<Player>>,
}

#[methods]
impl Player {
    #[on_activate]
    async fn begin(&mut self) {
        self.score.set(1000);
    }

    async fn enter_level(&self, level: Level) -> Result<(), GameError> {
        if level.barrels.is_empty() {
            return Err(GameError::NoBarrels);
        }
        for barrel in level.barrels {
            if barrel.on_hit().await? {
                self.score.update(|score| score + 1);
            }
        }
        Ok(())
    }

    async fn look_at(&self, level: &Archived<Level>, excitement: u64) -> String {
        self.score.update(|score| score + excitement);
        format!("{} with {} barrels", level.name, level.barrels.len())
    }

    async fn befriend(&mut self, friend: Ref<Self>) {
        self.best_friend = Some(friend);
    }

    async fn score(&self) -> u64 {
        self.score.get()
    }

    async fn score_of_friend(&self) -> Result<Option<u64>, CallError> {
        match &self.best_friend {
            Some(friend) => Ok(Some(friend.score().await?)),
            None => Ok(None),
        }
    }
}

fn play<T>(game: impl AsyncFnOnce(Pool) -> T) -> T {
    let node = Node::builder().bind::<(Player, Barrel)>().cores(2).start().expect("it starts");
    block_on(game(node.pool()))
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it starts").block_on(future)
}

fn level(pool: &Pool, barrels: u64) -> Level {
    Level { name: "Cellar".into(), barrels: (0..barrels).map(|number| pool.get::<Barrel>(number)).collect() }
}

#[test]
fn objects_call_each_other() {
    let scores = play(async |pool| {
        let (bob, alice) = (pool.get::<Player>("Bob"), pool.get::<Player>("Alice"));
        for _ in 0..3 {
            bob.enter_level(level(&pool, 30)).await.expect("the barrels hold");
        }
        alice.befriend(bob.clone()).await.expect("it runs");
        (bob.score_of_friend().await, alice.score_of_friend().await)
    });
    assert_eq!(scores, (Ok(None), Ok(Some(1030))));
}

#[test]
fn an_argument_is_read_in_place_without_a_frame() {
    let (seen, score) = play(async |pool| {
        let bob = pool.get::<Player>("Bob");
        (bob.look_at(level(&pool, 7), 5).await, bob.score().await)
    });
    assert_eq!((seen, score), (Ok("Cellar with 7 barrels".to_owned()), Ok(1005)));
}

#[test]
fn errors_say_whose_call_failed() {
    let (own, inner) = play(async |pool| {
        let bob = pool.get::<Player>("Bob");
        let own = bob.enter_level(level(&pool, 0)).await;
        let one = || vec![pool.get::<Barrel>(1); 6];
        (own, bob.enter_level(Level { name: String::new(), barrels: one() }).await)
    });
    assert_eq!(own, Err(GameError::NoBarrels));
    let Err(GameError::Call(CallError::Nested(inner))) = inner else { panic!("{inner:?}") };
    assert!(matches!(*inner, CallError::Panicked(ref text) if text.contains("gone")), "{inner}");
}

#[test]
fn a_call_that_does_not_wait_is_made_before_later_ones() {
    let friend = play(async |pool| {
        let alice = pool.get::<Player>("Alice");
        alice.befriend(pool.get::<Player>("Bob")).send().expect("there is room");
        alice.score_of_friend().await
    });
    assert_eq!(friend, Ok(Some(1000)));
}

#[test]
fn an_entity_that_is_not_bound_is_named() {
    #[entity(name = "game.Chest")]
    #[derive(Default)]
    struct Chest;

    #[methods]
    impl Chest {
        async fn open(&self) {}
    }

    let opened = play(async |pool| pool.get::<Chest>(1).open().await);
    assert!(
        matches!(&opened, Err(CallError::Rejected(_)) if format!("{opened:?}").contains("game.Chest")),
        "{opened:?}"
    );
}
