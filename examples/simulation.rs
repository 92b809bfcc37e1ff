//! A simulation: agents that act by themselves and meet on places.

use std::time::Duration;

use epicserver::context::{object, random, sleep, spawn, this};
use epicserver::prelude::*;

/// Many changes a second, none of them precious: saved at most every 50 ms.
#[entity(name = "simulation.Place", save = behind("50ms"))]
#[derive(Default)]
struct Place {
    visits: u64,
}

#[methods]
impl Place {
    async fn visit(&mut self) -> u64 {
        self.visits += 1;
        self.visits
    }
}

#[entity(name = "simulation.Agent")]
#[derive(Default)]
struct Agent {
    steps: Field<u64>,
    done: Field<bool>,
}

#[methods]
impl Agent {
    /// Starts walking and returns at once. The walk calls back through the agent's own reference; it does not borrow it.
    async fn start(&self, steps: u64) -> Result<(), CallError> {
        let me = this::<Agent>();
        // Of an earlier run of the program: the state is still there.
        self.steps.set(0);
        self.done.set(false);
        spawn(async move {
            for _ in 0..steps {
                sleep(Duration::from_millis(1)).await;
                if me.step().await.is_err() {
                    return;
                }
            }
            // If this fails the walk was in vain, and nobody is left to tell.
            let _ = me.arrive().await;
        })
    }

    async fn step(&self) -> Result<(), CallError> {
        object::<Place>(random() % 10).visit().await?;
        self.steps.update(|steps| steps + 1);
        Ok(())
    }

    async fn arrive(&self) {
        self.done.set(true);
    }

    async fn progress(&self) -> (u64, bool) {
        (self.steps.get(), self.done.get())
    }
}

#[epicserver::main(entities(Agent, Place))]
async fn main(pool: Pool) -> Result<(), CallError> {
    const AGENTS: u64 = 100;
    const STEPS: u64 = 20;
    for key in 0..AGENTS {
        pool.get::<Agent>(key).start(STEPS).await?;
    }
    let mut walked = 0;
    for key in 0..AGENTS {
        let agent = pool.get::<Agent>(key);
        walked += loop {
            let (steps, done) = agent.progress().await?;
            if done {
                break steps;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
    }
    assert_eq!(walked, AGENTS * STEPS);
    println!("{AGENTS} agents walked {walked} steps");
    Ok(())
}
