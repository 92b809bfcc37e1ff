//! A program that sets up its own node, outside of `#[epicserver::main]`: hooks, `forget()`, an orderly end.

use std::time::Duration;

use epicserver::prelude::*;

#[entity(name = "own.Counter", key = String)]
#[derive(Default)]
struct Counter {
    count: u64,
}

#[methods]
impl Counter {
    #[on_activate]
    async fn hello(&mut self) {
        println!("a counter wakes up at {}", self.count);
    }

    async fn add(&mut self, by: u64) -> u64 {
        self.count += by;
        self.count
    }

    /// Forgets the counter: it starts from its default again, and its record is removed.
    async fn reset(&mut self) {
        epicserver::context::forget();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node =
        epicserver::Node::builder().bind::<(Counter,)>().cores(1).wait(epicserver::Wait::Park).start()?;
    let counter = node.pool().get::<Counter>("visits");
    assert_eq!(counter.add(2).await?, 2);
    assert_eq!(counter.add(3).await?, 5);
    counter.reset().await?;
    assert_eq!(counter.add(1).await?, 1);
    let in_order = node.shutdown(Duration::from_secs(5)).await;
    println!("stopped in order: {in_order}");
    Ok(())
}
