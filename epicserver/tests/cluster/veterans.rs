//! One entity in two versions of a program.

pub(crate) mod old {
    use epicserver::prelude::*;

    /// A score and nothing else.
    #[entity(name = "game.Veteran", version = 2, samples = "tests/saved")]
    #[derive(Default)]
    pub(crate) struct Veteran {
        score: u32,
    }

    #[methods]
    impl Veteran {
        pub(crate) async fn add(&mut self, points: u64) -> u64 {
            self.score += points as u32;
            self.score.into()
        }

        pub(crate) async fn score(&self) -> u64 {
            self.score.into()
        }
    }
}

pub(crate) mod new {
    use epicserver::prelude::*;

    /// What version 2 saved.
    #[message]
    pub(crate) struct Veteran2 {
        score: u32,
    }

    /// With a rank, and a wider score.
    #[entity(name = "game.Veteran", version = 3, migrations(2 <=> Veteran2), samples = "tests/saved")]
    #[derive(Default)]
    pub(crate) struct Veteran {
        rank: String,
        score: u64,
    }

    impl From<Veteran2> for Veteran {
        fn from(old: Veteran2) -> Self {
            Self { rank: "private".to_owned(), score: old.score.into() }
        }
    }

    impl From<&Veteran> for Veteran2 {
        fn from(new: &Veteran) -> Self {
            Self { score: new.score as u32 }
        }
    }

    #[methods]
    impl Veteran {
        pub(crate) async fn add(&mut self, points: u64) -> u64 {
            self.score += points;
            self.score
        }

        pub(crate) async fn score(&self) -> u64 {
            self.score
        }

        pub(crate) async fn promote(&mut self, rank: String) -> String {
            std::mem::replace(&mut self.rank, rank)
        }
    }
}
