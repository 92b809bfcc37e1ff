//! `migrations(..)`: what one version of a program saved is read by a later one. Each module is a program.

use std::path::Path;
use std::time::Duration;

use epicserver::launch;
use epicserver::prelude::*;
use epicserver::settings::Settings;
use epicserver::test::check_saved_states;
use epicserver_runtime::entity::Entities;

use super::game::block_on;

mod first {
    use super::*;

    #[entity(name = "game.Veteran")]
    #[derive(Default)]
    pub(super) struct Veteran {
        score: u32,
        friends: Vec<Ref<Veteran>>,
    }

    #[methods]
    impl Veteran {
        pub(super) async fn begin(&mut self, score: u32, friend: Ref<Self>) {
            (self.score, self.friends) = (score, vec![friend]);
        }
    }
}

/// The score became wider.
mod second {
    use super::*;

    #[message]
    pub(super) struct Veteran1 {
        score: u32,
        friends: Vec<Ref<Veteran>>,
    }

    #[entity(name = "game.Veteran", version = 2, migrations(1 => Veteran1))]
    #[derive(Default)]
    pub(super) struct Veteran {
        score: u64,
        friends: Vec<Ref<Veteran>>,
    }

    impl From<Veteran1> for Veteran {
        fn from(old: Veteran1) -> Self {
            assert!(old.score != 13, "an unlucky number");
            Self { score: old.score.into(), friends: old.friends }
        }
    }

    #[methods]
    impl Veteran {
        pub(super) async fn add(&mut self, points: u64) -> u64 {
            self.score += points;
            self.score
        }

        pub(super) async fn look(&self) -> (u64, u64) {
            (self.score, self.friends.len() as u64)
        }
    }
}

/// A rank came; the first version is still read, over the second.
mod third {
    use super::*;

    #[message]
    pub(super) struct Veteran1 {
        score: u32,
        friends: Vec<Ref<Veteran>>,
    }

    #[message]
    pub(super) struct Veteran2 {
        score: u64,
        friends: Vec<Ref<Veteran>>,
    }

    #[entity(name = "game.Veteran", version = 3, migrations(1 => Veteran1, 2 <=> Veteran2))]
    #[derive(Default)]
    pub(super) struct Veteran {
        score: u64,
        friends: Vec<Ref<Veteran>>,
        rank: String,
    }

    impl From<Veteran1> for Veteran2 {
        fn from(old: Veteran1) -> Self {
            Self { score: old.score.into(), friends: old.friends }
        }
    }

    impl From<Veteran2> for Veteran {
        fn from(old: Veteran2) -> Self {
            let rank = if old.score > 1000 { "general" } else { "private" };
            Self { score: old.score, friends: old.friends, rank: rank.to_owned() }
        }
    }

    impl From<&Veteran> for Veteran2 {
        fn from(new: &Veteran) -> Self {
            Self { score: new.score, friends: new.friends.clone() }
        }
    }

    #[methods]
    impl Veteran {
        pub(super) async fn look(&self) -> (u64, u64, String) {
            (self.score, self.friends.len() as u64, self.rank.clone())
        }

        pub(super) async fn promote(&mut self) {
            self.rank = "marshal".to_owned();
        }
    }
}

/// Runs a program with these entities in the folder, until it has stopped in order.
fn run<B: Entities, T>(folder: &Path, program: impl AsyncFnOnce(Pool) -> T) -> T {
    block_on(async {
        let settings = Settings { cores: Some(1), ..Settings::in_folder(folder) };
        let node = launch::start::<B>(&settings).await.expect("it starts");
        let result = program(node.pool()).await;
        assert!(node.shutdown(Duration::from_secs(10)).await, "it stops in order");
        result
    })
}

#[test]
fn states_are_read_over_all_versions_and_saved_in_the_last() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    run::<(first::Veteran,), _>(folder.path(), async |pool| {
        for (key, score) in [(1, 5), (2, 2000), (3, 13)] {
            let veteran = pool.get::<first::Veteran>(key);
            veteran.begin(score, veteran.clone()).await.expect("it is saved");
        }
    });
    run::<(second::Veteran,), _>(folder.path(), async |pool| {
        assert_eq!(pool.get::<second::Veteran>(1).add(2).await, Ok(7));
        // A migration that panics loses nothing.
        let unlucky = pool.get::<second::Veteran>(3).look().await;
        assert!(matches!(unlucky, Err(CallError::Unavailable(_))), "{unlucky:?}");
    });
    run::<(third::Veteran,), _>(folder.path(), async |pool| {
        let [one, two, three] = [1, 2, 3].map(|key| pool.get::<third::Veteran>(key));
        assert_eq!(one.look().await, Ok((7, 1, "private".to_owned())));
        assert_eq!(two.look().await, Ok((2000, 1, "general".to_owned())));
        assert_eq!(three.look().await, Ok((13, 1, "private".to_owned())));
        two.promote().await.expect("it is saved");
    });
    run::<(third::Veteran,), _>(folder.path(), async |pool| {
        assert_eq!(pool.get::<third::Veteran>(2).look().await, Ok((2000, 1, "marshal".to_owned())));
    });
    // An older program does not guess.
    let settings = Settings { cores: Some(1), ..Settings::in_folder(folder.path()) };
    let error =
        block_on(launch::start::<(second::Veteran,)>(&settings)).expect_err("it is too old").to_string();
    assert!(
        error.contains("game.Veteran are saved in version 3") && error.contains("knows version 2"),
        "{error}"
    );
    run::<(third::Veteran,), _>(folder.path(), async |pool| {
        assert_eq!(pool.get::<third::Veteran>(2).look().await, Ok((2000, 1, "marshal".to_owned())));
    });
}

/// As the second version, with a field that nobody gave a version for.
mod careless {
    use super::*;

    #[entity(name = "game.Veteran", version = 2)]
    #[derive(Default)]
    pub(super) struct Veteran {
        score: u64,
        friends: Vec<Ref<Veteran>>,
        medals: u8,
    }

    #[methods]
    impl Veteran {
        pub(super) async fn look(&self) -> (u64, u64, u8) {
            (self.score, self.friends.len() as u64, self.medals)
        }
    }
}

#[test]
fn a_test_notices_what_would_not_be_read_any_more() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let problem = |check: fn(&Path)| {
        let caught = std::panic::catch_unwind(|| check(folder.path())).err()?;
        Some(*caught.downcast::<String>().expect("a text"))
    };
    let [first, second, third, careless]: [fn(&Path); 4] = [
        |folder| check_saved_states::<(first::Veteran,)>(folder),
        |folder| check_saved_states::<(second::Veteran,)>(folder),
        |folder| check_saved_states::<(third::Veteran,)>(folder),
        |folder| check_saved_states::<(careless::Veteran,)>(folder),
    ];
    for version in [first, second, third] {
        let new = problem(version).expect("a new sample is to be looked at");
        assert!(new.contains("is new"), "{new}");
        assert_eq!(problem(version), None);
    }
    let problems = problem(careless).expect("a layout changed");
    assert!(problems.contains("version = 3, migrations(2 => ..)"), "{problems}");
    assert!(problems.contains("of version 1, and nothing reads them"), "{problems}");
    let sample = folder.path().join("game.Veteran.v3");
    let text = std::fs::read_to_string(&sample).expect("it was written");
    std::fs::write(&sample, text.replace("layout ", "layout x")).expect("it is written");
    assert!(problem(third).is_some_and(|problem| problem.contains("is damaged")));
    std::fs::write(&sample, text.split_once('\n').expect("two lines").0).expect("it is written");
    assert!(problem(third).is_some_and(|problem| problem.contains("cannot be read any more")));
}
