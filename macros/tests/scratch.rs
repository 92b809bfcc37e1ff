#![allow(missing_docs)]
use epicserver::prelude::*;

#[entity(name = "game.Barrel")]
#[derive(Default)]
struct Barrel {
    hits: u32,
    owner: Option<Ref<Player>>,
}

#[methods]
impl Barrel {
    async fn on_hit(&mut self) -> bool {
        self.hits += 1;
        self.hits >= 3
    }
}

fn place(key: &String) -> String {
    key.clone()
}

#[entity(name = "game.Player", key = String, save = behind("50ms"), version = 2, partition_by = place)]
#[derive(Default)]
struct Player {
    score: Field<u64>,
    friends: Vec<Ref<Self>>,
}

#[message]
#[derive(Debug, PartialEq)]
enum Tree {
    Leaf(u32),
    Two(Box<Tree>, Box<Tree>),
}

#[message]
struct Two<A, B> {
    a: A,
    b: Vec<B>,
}

#[message(error)]
enum GameError {
    NoLevel {
        at: u32,
    },
    Call(#[nested] CallError),
    Both {
        #[nested]
        call: CallError,
        x: u32,
    },
}
impl From<CallError> for GameError {
    fn from(c: CallError) -> Self {
        Self::Call(c)
    }
}

#[methods]
impl Player {
    async fn enter_level(&self, barrels: Vec<Ref<Barrel>>) -> Result<(), CallError> {
        for barrel in barrels {
            if barrel.on_hit().await? {
                self.score.update(|s| s + 1);
            }
        }
        Ok(())
    }
    pub async fn score(&self) -> u64 {
        self.score.get()
    }
    #[method(serial, shield)]
    async fn tree(
        &self,
        tree: &Archived<Tree>,
        mut x: u32,
        (a, b): (u8, u8),
    ) -> Result<Two<u32, String>, GameError> {
        x += u32::from(a + b);
        match tree {
            ArchivedTree::Leaf(_) => Err(GameError::NoLevel { at: x }),
            _ => Ok(Two { a: 1, b: vec![] }),
        }
    }
    async fn befriend(&mut self, friend: Ref<Self>) {
        self.friends.push(friend);
    }
    fn plain(&self) {}
    #[on_activate]
    async fn woken(&mut self) {
        self.plain()
    }
    #[on_drop]
    async fn sleepy(&mut self) {
        self.helper(&2).await;
    }
    #[method(local)]
    async fn helper(&self, _x: &u8) {}
}

#[test]
fn it() {}
