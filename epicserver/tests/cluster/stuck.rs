//! A process that is told to stop while a method runs that does not end.

use std::time::Duration;

use epicserver::context;
use epicserver::prelude::*;

use crate::world::{TCP, World};

#[entity(name = "test.Stuck")]
#[derive(Default)]
pub(crate) struct Stuck;

#[methods]
impl Stuck {
    async fn wait(&self) {
        context::sleep(Duration::from_secs(3_600)).await;
    }

    async fn is_there(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_cuts_a_method_off_says_so_by_its_exit_code() {
    let (world, process) = World::found_as(TCP, "stuck", "inline", "stuck").await;
    world.owned_by(process.id).await;
    let stuck = world.client.pool().get::<Stuck>(1);
    let waiting = tokio::spawn(async move { stuck.wait().within(Duration::from_secs(3_600)).await });
    let stuck = world.client.pool().get::<Stuck>(1);
    assert_eq!(stuck.is_there().await, Ok(true), "it waits by now, as calls keep their order");
    assert!(!process.stop().await, "it ends in time, and not well");
    assert!(waiting.await.expect("no panic").is_err(), "the caller is told");
    world.end().await;
}
