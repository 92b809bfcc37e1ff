//! What a game with faults is played on: processes in one folder, a client that plays, and a look at all of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use epicserver::Node;
use epicserver::cluster::{View, partition_of};

use super::Failure;
use super::game::Player;
use super::live::Live;
use super::play::{Game, Outcome, player_key};
use super::processes::{Folder, Home, Launch, Process};

/// A game under way, and what it runs on.
pub(crate) struct Stage {
    launch: Launch,
    players: usize,
    /// A member without objects, like one of another machine: it calls those of the others, and looks at the cluster.
    client: Arc<Node>,
    pub(crate) live: Live,
    pub(crate) game: Game,
    // The last, so that it goes when everything that uses it has gone.
    folder: Folder,
}

/// What processes have tried to save that were no members any more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ZombieSaves {
    pub(crate) tried: u64,
    /// Those that the store took. One is one too many.
    pub(crate) accepted: u64,
}

/// How long it took to get over the death of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Takeover {
    /// Until one of its durable objects answered again; `None`: it had none.
    pub(crate) answered: Option<Duration>,
    /// Until a change of some object was saved.
    pub(crate) saved: Duration,
}

impl Stage {
    /// Starts a game on these processes, once they have shared out its objects.
    pub(crate) async fn open(
        launch: Launch,
        folder: Folder,
        processes: &[Process],
        players: usize,
        barrels_each: usize,
    ) -> Result<Self, Failure> {
        let client = Arc::new(launch.client(&folder, processes).await?);
        let live = Live::start(client.clone());
        live.phase("they share out the objects");
        shared_out(&client, processes).await?;
        let game = Game::start(client.pool(), players, barrels_each);
        Ok(Self { launch, players, client, live, game, folder })
    }

    pub(crate) fn client(&self) -> &Node {
        &self.client
    }

    /// Plays so many levels.
    pub(crate) async fn play(&self, levels: u64, phase: &str) -> Result<(), Failure> {
        self.live.phase(phase);
        let played = tokio::time::timeout(PLAY_PATIENCE, self.game.play_on(levels)).await;
        Ok(played.map_err(|_| format!("the game does not go on, while {phase}"))?)
    }

    /// Waits until no call is under way any more that was made before now.
    pub(crate) async fn all_play_on(&self) -> Result<(), Failure> {
        let played = tokio::time::timeout(PLAY_PATIENCE, self.game.all_play_on()).await;
        Ok(played.map_err(|_| "a player does not go on")?)
    }

    /// Waits until no level ends any more.
    pub(crate) async fn stands_still(&self) -> Result<(), Failure> {
        let wait = async {
            let mut before = None;
            while before.replace(self.game.levels()) != Some(self.game.levels()) {
                tokio::time::sleep(STILL).await;
            }
        };
        Ok(tokio::time::timeout(SHARE_PATIENCE, wait).await.map_err(|_| "the game does not stand still")?)
    }

    /// Starts another process.
    pub(crate) async fn start(&self, home: Home<'_>) -> Result<Process, Failure> {
        self.launch.start(&self.folder, home).await
    }

    /// Waits until each of these processes owns its share of the objects, no other owns any, and none is under way.
    pub(crate) async fn shared_out(&self, processes: &[Process]) -> Result<(), Failure> {
        shared_out(&self.client, processes).await
    }

    /// Waits until this process owns nothing any more.
    pub(crate) async fn owns_nothing(&self, id: u64) -> Result<(), Failure> {
        self.sees("the objects of a process did not go to others", |view| owned_by(view, id) == 0).await
    }

    /// Which life of a process is a member; 0: none.
    pub(crate) fn incarnation(&self, id: u64) -> u32 {
        let view = self.client.view();
        let member = view.members.iter().find(|member| member.node.id == id);
        member.map_or(0, |member| member.node.incarnation)
    }

    /// Waits until a later life of a process than this one is a member.
    pub(crate) async fn joins_again(&self, id: u64, before: u32) -> Result<(), Failure> {
        let problem = "a process that was taken for dead did not join again";
        self.sees(problem, |_| self.incarnation(id) > before).await
    }

    /// Who keeps the data, of these processes.
    pub(crate) async fn keeper(&self, processes: &[Process]) -> Result<usize, Failure> {
        let wait = async {
            loop {
                let keeper = self.client.inspect(LOOK_PATIENCE).await.keeper;
                let place = keeper.and_then(|keeper| processes.iter().position(|it| it.id == keeper.id));
                if let Some(place) = place {
                    return place;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        Ok(tokio::time::timeout(SHARE_PATIENCE, wait).await.map_err(|_| "nobody keeps the data")?)
    }

    /// What processes have tried to save that were no members any more.
    pub(crate) async fn zombie_saves(&self) -> ZombieSaves {
        let report = self.client.inspect(LOOK_PATIENCE).await;
        let counters = report.nodes.iter().map(|node| node.counters);
        let mut saves = ZombieSaves::default();
        counters.for_each(|counters| {
            saves.accepted += counters.stray_saves;
            saves.tried += counters.refused_saves + counters.stray_saves;
        });
        saves
    }

    /// What these processes have in memory only may be forgotten from here.
    pub(crate) fn excuse(&self, processes: &[&Process]) {
        let ids: BTreeSet<u64> = processes.iter().map(|process| process.id).collect();
        self.game.excuse(&self.client.view(), &ids);
    }

    /// Kills a process under load, and waits until others have taken over what it did.
    #[expect(clippy::disallowed_methods, reason = "real time is what is measured")]
    pub(crate) async fn kill(&self, process: Process) -> Result<Takeover, Failure> {
        self.live.look().await;
        let player = self.player_of(&self.client.view(), process.id);
        self.excuse(&[&process]);
        let id = process.id;
        let start = Instant::now();
        process.kill().await?;
        self.live.gone(id);
        let answered = async {
            let Some(player) = player else { return Ok(None) };
            self.answers(player).await.map(|()| Some(start.elapsed()))
        };
        let saved = async { self.saves().await.map(|()| start.elapsed()) };
        let (answered, saved) = tokio::try_join!(answered, saved)?;
        Ok(Takeover { answered, saved })
    }

    /// Kills all processes under load, at once, and starts them again: those that share the folder where they listened. Gives them,
    /// and the time until a player answers again.
    #[expect(clippy::disallowed_methods, reason = "real time is what is measured")]
    pub(crate) async fn kill_all(
        &self,
        processes: Vec<Process>,
    ) -> Result<(Vec<Process>, Duration), Failure> {
        self.live.look().await;
        self.excuse(&processes.iter().collect::<Vec<_>>());
        let (elsewhere, shared): (Vec<_>, Vec<_>) =
            processes.iter().partition(|process| process.is_elsewhere);
        let addresses: Vec<String> = shared.iter().map(|process| process.address.clone()).collect();
        let elsewhere = elsewhere.len();
        let start = Instant::now();
        for process in processes {
            let id = process.id;
            process.kill().await?;
            self.live.gone(id);
        }
        let mut again = Vec::new();
        for address in &addresses {
            again.push(self.start(Home::At(address)).await?);
        }
        for _ in 0..elsewhere {
            again.push(self.start(Home::Elsewhere(&addresses.join(","))).await?);
        }
        self.answers(0).await?;
        Ok((again, start.elapsed()))
    }

    /// Asks a process to stop under load, and waits until it has ended well.
    pub(crate) async fn stop(&self, process: Process) -> Result<(), Failure> {
        self.live.look().await;
        let id = process.id;
        let status = process.stop().await?;
        self.live.gone(id);
        if !status.success() {
            return Err(format!("the process that was told to stop ended with {status}").into());
        }
        Ok(())
    }

    /// Ends the game, looks at every score, and stops all processes.
    pub(crate) async fn end(self, mut processes: Vec<Process>) -> Result<Outcome, Failure> {
        let outcome = self.game.end().await;
        drop(self.live);
        // Those first that never keep the data: they need somebody who does to leave in order.
        processes.sort_by_key(|process| !process.is_elsewhere);
        for process in processes {
            process.stop().await?;
        }
        Ok(outcome)
    }

    /// A player on this node.
    fn player_of(&self, view: &View, node: u64) -> Option<usize> {
        (0..self.players).find(|number| {
            let partition = partition_of::<Player>(player_key(*number).as_str());
            view.owner(partition).is_some_and(|owner| owner.id == node)
        })
    }

    /// Waits until a player answers.
    async fn answers(&self, player: usize) -> Result<(), Failure> {
        let player = self.client.pool().get::<Player>(&player_key(player));
        let wait = async {
            // To ask for a score changes nothing, so that it can be done again after every error.
            while player.score().within(LOOK_PATIENCE).await.is_err() {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        let answered = tokio::time::timeout(PLAY_PATIENCE, wait).await;
        Ok(answered.map_err(|_| "an object whose process was killed does not answer again")?)
    }

    /// Waits until a change is saved, of an object that plays no other part.
    async fn saves(&self) -> Result<(), Failure> {
        let witness = self.client.pool().get::<Player>("witness");
        let wait = async {
            while witness.witness().within(LOOK_PATIENCE).await.is_err() {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        let saved = tokio::time::timeout(PLAY_PATIENCE, wait).await;
        Ok(saved.map_err(|_| "nothing is saved again after a kill")?)
    }

    async fn sees(&self, problem: &str, is_so: impl Fn(&View) -> bool) -> Result<(), Failure> {
        sees(&self.client, problem, is_so).await
    }
}

async fn shared_out(client: &Node, processes: &[Process]) -> Result<(), Failure> {
    let problem = "the processes did not share out the objects in time";
    sees(client, problem, |view| is_shared_out(view, processes)).await
}

async fn sees(client: &Node, problem: &str, is_so: impl Fn(&View) -> bool) -> Result<(), Failure> {
    let wait = async {
        while !is_so(&client.view()) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    Ok(tokio::time::timeout(SHARE_PATIENCE, wait).await.map_err(|_| problem)?)
}

fn is_shared_out(view: &View, processes: &[Process]) -> bool {
    let is_at_rest = view.partitions.iter().all(|state| state.moving_to.is_none());
    let share = view.partitions.len() / processes.len();
    let counts = processes.iter().map(|process| owned_by(view, process.id));
    is_at_rest
        && counts.clone().all(|count| count * 10 >= share * 9)
        && counts.sum::<usize>() == view.partitions.len()
}

fn owned_by(view: &View, id: u64) -> usize {
    view.partitions.iter().filter(|state| state.owner.is_some_and(|owner| owner.id == id)).count()
}

const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How finely takeovers are measured.
const ASK_AGAIN: Duration = Duration::from_millis(2);
const STILL: Duration = Duration::from_millis(200);
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
const PLAY_PATIENCE: Duration = Duration::from_secs(120);
const SHARE_PATIENCE: Duration = Duration::from_secs(120);
