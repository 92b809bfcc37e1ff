//! Generated code does not break the rules of a strict crate: this file is one, and compiles.
#![forbid(unsafe_code)]
#![deny(missing_docs, warnings, unreachable_pub, nonstandard_style, unused)]

use epicserver::prelude::*;

/// A profile.
#[message]
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Its name.
    pub name: String,
}

/// A mistake.
#[message(error)]
#[derive(Debug)]
pub enum GameError {
    /// There is no such level.
    NoLevel,
    /// A call failed.
    Call(#[nested] CallError),
}

impl From<CallError> for GameError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// A player.
#[entity(name = "game.Player", key = String, partition_by = guild)]
#[derive(Default)]
pub struct Player {
    score: u64,
    friends: Vec<Ref<Player>>,
}

fn guild(key: &str) -> String {
    key.split('/').next().unwrap_or_default().into()
}

#[methods]
impl Player {
    /// Adds points.
    pub async fn add(&mut self, points: u64, friend: Ref<Self>) -> u64 {
        self.score += points;
        self.friends.push(friend);
        self.score
    }

    /// Shows a profile.
    pub async fn show(&self, profile: &Archived<Profile>) -> Result<u64, GameError> {
        if profile.name.is_empty() { Err(GameError::NoLevel) } else { Ok(self.score) }
    }

    /// Nobody calls it.
    #[deprecated]
    pub async fn old(&self) {}

    async fn hidden(&self) -> bool {
        self.friends.is_empty()
    }

    #[on_activate]
    async fn begin(&mut self) {}
}

#[test]
fn a_strict_crate_runs() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it starts");
    let score = runtime.block_on(async {
        let node = Node::builder().bind::<(Player,)>().cores(1).start()?;
        let player = node.pool().get::<Player>("red/Bob");
        player.add(3, player.clone()).await?;
        let profile = Profile { name: "Bob".into() };
        Ok::<_, Box<dyn std::error::Error>>(player.show(profile).await)
    });
    assert!(matches!(score, Ok(Ok(3))));
}
